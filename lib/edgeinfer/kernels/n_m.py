"""N:M sparsity: of every M neighbouring weights of a row at most N stay, so a position costs two bits (M = 4).

Knows the choice of weights, the packed format and its size; the loops are in `n_m_product`. N rows by K columns of a
weight; n of m. Source: hierarchical-nm (for the format inside its tiles); the importance |w| times the norm of the
column's inputs is that of wanda.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeinfer.kernels import simd, validate
from edgeinfer.kernels.memory import in_huge_pages
from edgeinfer.kernels.n_m_product import LANES, VECTOR_GROUP, portable_product, vector_product
from edgeinfer.kernels.pruning import input_norm
from edgeinfer.kernels.threads import over_blocks

LARGEST_GROUP = 256
WHY = "which of them are small cannot be said"  # ends the sentence about NaN


@dataclass(frozen=True)
class NMWeight:
    """A weight (N, K) with at most n non-zeros in every group of m columns.

    Attributes:
        values: (blocks, K / m * n, 16) float32: slot by slot the kept weights of sixteen rows; missing ones are 0.
        positions: (blocks, words, 16) uint32: the places inside the groups, lowest bits first, 32 // bits to a word.
        bits: bits of a position.
        n, m: of every m weights n are stored.
        shape: (N, K).
    """

    values: NDArray[np.float32]
    positions: NDArray[np.uint32]
    bits: int
    n: int
    m: int
    shape: tuple[int, int]

    @property
    def nbytes(self) -> int:
        """Bytes that one product reads from memory: values and positions, with the rows that fill the last block."""
        return self.values.nbytes + self.positions.nbytes

    def dequantize(self) -> NDArray[np.float32]:
        """The weight as a dense matrix, (N, K) float32 (the name that all formats of this room share)."""
        rows, columns = self.shape
        place = unpack_positions(self.positions, self.bits, self.values.shape[1])
        column = place + (np.arange(self.values.shape[1]) // self.n * self.m)[None, :, None]
        full = np.zeros((len(self.values), LANES, columns), np.float32)
        block, _, lane = np.indices(self.values.shape)
        np.add.at(full, (block, lane, column), self.values)  # an empty slot adds 0 somewhere
        return full.reshape(-1, columns)[:rows].copy()


def check_n_m(n: int, m: int, columns: int | None = None) -> tuple[int, int]:
    """n and m as integers.

    Raises:
        ValueError: "n:m must satisfy 1 <= n <= m <= 256, got 5:4." or "4 does not divide the 10 columns of the weight;
            choose an m that does, or pad the weight with columns of zeros."
    """
    if int(n) != n or int(m) != m or not 1 <= n <= m <= LARGEST_GROUP:
        raise ValueError(f"n:m must satisfy 1 <= n <= m <= {LARGEST_GROUP}, got {n}:{m}.")
    if columns is not None and columns % m:
        raise ValueError(
            f"{m} does not divide the {columns} columns of the weight; choose an m that does, or pad the weight with "
            "columns of zeros."
        )
    return int(n), int(m)


def position_bits(m: int) -> int:
    """Bits that tell m places apart: 2 for m = 4."""
    return max(1, (m - 1).bit_length())


def n_m_bytes(rows: int, columns: int, n: int, m: int, value_bytes: float = 4) -> float:
    """Bytes of the information in an N:M weight, nothing padded: values, and positions of `position_bits(m)` bits.

    Args:
        rows, columns: shape of the weight; m divides columns.
        n, m: of every m weights n are stored.
        value_bytes: bytes of a stored value (4 float32, 2 bfloat16, 0.5 int4).
    """
    n, m = check_n_m(n, m, columns)
    return rows * columns // m * n * (value_bytes + position_bits(m) / 8)


def activation_importance(weight: NDArray[np.float32], inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    """|w| times the Euclidean norm of the inputs that meet it: what a weight contributes, not how large it is.

    Args:
        weight: (N, K) float32.
        inputs: (tokens, K) float32, calibration inputs of the layer.

    Returns:
        (N, K) float32.

    Raises:
        ValueError: "inputs must have 256 columns for this weight, got 128."

    Source: wanda.
    """
    weight, norm = validate.finite_matrix(weight, "weight", WHY), input_norm(inputs)
    if len(norm) != weight.shape[1]:
        raise ValueError(f"inputs must have {weight.shape[1]} columns for this weight, got {len(norm)}.")
    return np.abs(weight) * norm


def n_m_mask(importance: NDArray[np.float32], n: int, m: int) -> NDArray[np.bool_]:
    """Which weights stay: the n most important of every m neighbours in a row; of equal ones the first.

    Args:
        importance: (N, K) float32, any sign (only the order counts).
        n, m: of every m weights n stay; m divides K.

    Returns:
        (N, K) bool, exactly n true in each group.
    """
    importance = validate.finite_matrix(importance, "importance", WHY)
    n, m = check_n_m(n, m, importance.shape[1])
    grouped = importance.reshape(len(importance), -1, m)
    best = np.argsort(-grouped, axis=-1, kind="stable")[..., :n]
    mask = np.zeros(grouped.shape, bool)
    np.put_along_axis(mask, best, True, axis=-1)
    return mask.reshape(importance.shape)


def prune_n_m(
    weight: NDArray[np.float32], n: int, m: int, importance: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """Set all but the n most important of every m neighbouring weights of a row to zero.

    Args:
        weight: (N, K) float32.
        n, m: of every m weights n stay; m divides K.
        importance: (N, K) float32; None: the magnitude of the weight.

    Returns:
        (N, K) float32.

    Raises:
        ValueError: "4 does not divide the 10 columns of the weight; ..." or "importance must have the shape (8, 16) of
            the weight, got (8, 8)."
    """
    weight = validate.finite_matrix(weight, "weight", WHY)
    n, m = check_n_m(n, m, weight.shape[1])
    if importance is None:
        importance = np.abs(weight)
    elif np.shape(importance) != weight.shape:
        raise ValueError(f"importance must have the shape {weight.shape} of the weight, got {np.shape(importance)}.")
    return np.where(n_m_mask(importance, n, m), weight, np.float32(0))


def pack_positions(place: NDArray, bits: int) -> NDArray[np.uint32]:
    """(blocks, slots, 16) places -> (blocks, words, 16) uint32, 32 // bits of them in a word."""
    blocks, slots, lanes = place.shape
    per_word = 32 // bits
    full = np.zeros((blocks, -(-slots // per_word) * per_word, lanes), np.uint32)
    full[:, :slots] = place
    shifts = (np.arange(per_word, dtype=np.uint32) * np.uint32(bits))[None, None, :, None]
    shifted = full.reshape(blocks, -1, per_word, lanes) << shifts
    return np.bitwise_or.reduce(shifted, axis=2)


def unpack_positions(positions: NDArray[np.uint32], bits: int, slots: int) -> NDArray[np.int64]:
    """The inverse of `pack_positions`."""
    per_word = 32 // bits
    shifts = (np.arange(per_word, dtype=np.uint32) * np.uint32(bits))[None, None, :, None]
    single = (positions[:, :, None, :] >> shifts) & np.uint32((1 << bits) - 1)
    return single.reshape(len(positions), -1, LANES)[:, :slots].astype(np.int64)


def pack_rows(weight: NDArray[np.float32], n: int, m: int) -> tuple[NDArray[np.float32], NDArray[np.uint32]]:
    """Values and positions of a weight that keeps n of m, in blocks of sixteen rows (zero rows fill the last)."""
    rows, columns = weight.shape
    grouped = np.zeros((-(-rows // LANES) * LANES, columns // m, m), np.float32)
    grouped[:rows] = weight.reshape(rows, -1, m)
    # non-zeros first, in the order of their columns; zeros fill the slots that are left
    place = np.sort(np.argsort(grouped == 0, axis=-1, kind="stable")[..., :n], axis=-1)
    values = np.take_along_axis(grouped, place, axis=-1)

    def blocked(array: NDArray) -> NDArray:
        return array.reshape(-1, LANES, columns // m * n).transpose(0, 2, 1)

    return in_huge_pages(blocked(values)), in_huge_pages(pack_positions(blocked(place), position_bits(m)))


def pack_n_m(weight: NDArray[np.float32], n: int, m: int) -> NMWeight:
    """Store a pruned weight as values and positions.

    Args:
        weight: (N, K) float32 with at most n non-zeros in every m columns, as `prune_n_m` returns it.
        n, m: of every m weights n are stored.

    Raises:
        ValueError: "a group of 4 weights has 3 non-zeros, more than n = 2; prune the weight first (prune_n_m)."
    """
    weight = validate.finite_matrix(weight, "weight", WHY)
    n, m = check_n_m(n, m, weight.shape[1])
    most = int(np.count_nonzero(weight.reshape(len(weight), -1, m), axis=-1).max())
    if most > n:
        raise ValueError(
            f"a group of {m} weights has {most} non-zeros, more than n = {n}; prune the weight first (prune_n_m)."
        )
    values, positions = pack_rows(weight, n, m)
    return NMWeight(values, positions, position_bits(m), n, m, (weight.shape[0], weight.shape[1]))


def padded(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """x (B, K) with sixteen zeros behind every row, so that the last group can be loaded as a whole register."""
    full = np.zeros((x.shape[0], x.shape[1] + LANES), np.float32)
    full[:, : x.shape[1]] = x
    return full


def n_m_matmul(weight: NMWeight, x: NDArray[np.float32], threads: int = 1, path: str = "auto") -> NDArray[np.float32]:
    """y = x W^T with the packed weight; only kept weights are read and multiplied.

    Args:
        weight: packed (N, K) weight.
        x: (K,) or (B, K) float32.
        threads: row blocks are divided among so many threads.
        path: "auto", "simd" or "portable"; both return the same bits. Groups over 16 always take the portable one.

    Returns:
        (N,) or (B, N) float32.

    Raises:
        ValueError: "x must have shape (256,) or (batch, 256) for this weight, ..." or "x contains NaN ..."
    """
    rows, columns = weight.shape
    inputs = padded(validate.finite_activations(x, columns))
    y = np.empty((len(inputs), len(weight.values) * LANES), np.float32)
    kernel = vector_product if simd.choose(path) and weight.m <= VECTOR_GROUP else portable_product
    arguments = (weight.values, weight.positions, inputs, y, weight.n, weight.m, weight.bits)
    over_blocks(kernel, arguments, len(weight.values), threads)
    y = y[:, :rows]
    return y[0] if np.ndim(x) == 1 else np.ascontiguousarray(y)
