"""Hierarchical N:M weights: per tile of rows the kept columns, and inside them n of m weights, packed and multiplied.

Knows the format and its size; which columns and which order is the business of `n_m_permutation`. A tile stores the
numbers of its kept columns anyway, so any order of them costs nothing more; the order of the rows is undone when y is
written. Source: hierarchical-nm.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeinfer.kernels import simd, validate
from edgeinfer.kernels.n_m import WHY, pack_rows, position_bits, unpack_positions
from edgeinfer.kernels.n_m_permutation import Permutation, check_tiles, permutation_mask, search_permutation
from edgeinfer.kernels.n_m_product import LANES, VECTOR_GROUP, portable_tiles, vector_tiles
from edgeinfer.kernels.threads import over_blocks


@dataclass(frozen=True)
class HierarchicalNM:
    """A weight (N, K) pruned by vectors and then by n of m.

    Attributes:
        values, positions: as in `NMWeight`, tile after tile; a tile fills whole blocks of sixteen rows.
        columns: (tiles, kept) uint16 (int32 beyond 65,536 columns), what a tile reads, in the order of its groups.
        rows: (N,) int64, rows[i] is the output that place i computes.
        bits: bits of a position.
        n, m: of every m weights n are stored.
        shape: (N, K).
        retained: share of the importance that stayed.
    """

    values: NDArray[np.float32]
    positions: NDArray[np.uint32]
    columns: NDArray[np.integer]
    rows: NDArray[np.int64]
    bits: int
    n: int
    m: int
    shape: tuple[int, int]
    retained: float

    @property
    def nbytes(self) -> int:
        """Bytes that one product reads from memory."""
        return self.values.nbytes + self.positions.nbytes + self.columns.nbytes

    @property
    def density(self) -> float:
        """Stored weights over all weights."""
        return self.columns.shape[1] * self.n / self.m / self.shape[1]

    def dequantize(self) -> NDArray[np.float32]:
        """The weight as a dense matrix in the original order, (N, K) float32."""
        tiles, kept = self.columns.shape
        per_tile = self.shape[0] // tiles
        slots = self.values.shape[1]
        place = unpack_positions(self.positions, self.bits, slots) + (np.arange(slots) // self.n * self.m)[:, None]
        full = np.zeros((len(self.values), LANES, kept), np.float32)
        block, _, lane = np.indices(self.values.shape)
        np.add.at(full, (block, lane, place), self.values)
        dense = np.zeros(self.shape, np.float32)
        tiled = full.reshape(tiles, -1, kept)[:, :per_tile]
        for tile in range(tiles):
            dense[np.ix_(self.rows[tile * per_tile : (tile + 1) * per_tile], self.columns[tile])] = tiled[tile]
        return dense


def hierarchical_n_m(
    weight: NDArray[np.float32],
    n: int,
    m: int,
    vector_rows: int,
    keep: float,
    importance: NDArray[np.float32] | None = None,
    permutation: Permutation | None = None,
) -> HierarchicalNM:
    """Prune on two levels and pack.

    Args:
        weight: (N, K) float32.
        n, m: of every m weights in kept columns n stay.
        vector_rows: rows of a tile; divides N; a multiple of 16 wastes no room.
        keep: share of a tile's columns that stay, 0 < keep <= 1.
        importance: (N, K) float32, not negative; None: the magnitude.
        permutation: from `search_permutation` with the same n, m, vector_rows and keep; None: the order of the matrix.

    Raises:
        ValueError: "the permutation has 4 tiles of 8 columns, the request 8 tiles of 16; search it with the same
            arguments." and as `search_permutation`.
    """
    weight = validate.finite_matrix(weight, "weight", WHY)
    importance = np.abs(weight) if importance is None else validate.finite_matrix(importance, "importance", WHY)
    if importance.shape != weight.shape:
        raise ValueError(f"importance must have the shape {weight.shape} of the weight, got {importance.shape}.")
    vector_rows, kept = check_tiles(weight.shape, n, m, vector_rows, keep)
    tiles = len(weight) // vector_rows
    if permutation is None:
        permutation = search_permutation(importance, n, m, vector_rows, keep, method="none")
    if permutation.columns.shape != (tiles, kept) or permutation.rows.shape != (len(weight),):
        had, wide = permutation.columns.shape
        raise ValueError(
            f"the permutation has {had} tiles of {wide} columns, the request {tiles} tiles of {kept}; search it with "
            "the same arguments."
        )
    mask = permutation_mask(importance, n, m, permutation)
    pruned = np.where(mask, weight, np.float32(0))
    packed = [
        pack_rows(pruned[np.ix_(rows, columns)], n, m)
        for rows, columns in zip(permutation.rows.reshape(tiles, -1), permutation.columns, strict=True)
    ]
    total = float(importance.sum(dtype=np.float64))
    return HierarchicalNM(
        np.concatenate([values for values, _ in packed]),
        np.concatenate([positions for _, positions in packed]),
        permutation.columns.astype(np.uint16 if weight.shape[1] <= 1 << 16 else np.int32),
        permutation.rows.astype(np.int64),
        position_bits(m),
        int(n),
        int(m),
        (weight.shape[0], weight.shape[1]),
        float(importance[mask].sum(dtype=np.float64)) / total if total else 1.0,
    )


def hierarchical_matmul(
    weight: HierarchicalNM, x: NDArray[np.float32], threads: int = 1, path: str = "auto"
) -> NDArray[np.float32]:
    """y = x W^T; each tile gathers the activations of its kept columns once.

    Args, Returns, Raises: as `n_m_matmul`.
    """
    rows, columns = weight.shape
    inputs = validate.finite_activations(x, columns)
    y = np.empty((len(inputs), len(weight.values) * LANES), np.float32)
    kernel = vector_tiles if simd.choose(path) and weight.m <= VECTOR_GROUP else portable_tiles
    arguments = (weight.values, weight.positions, weight.columns, inputs, y, weight.n, weight.m, weight.bits)
    tiles = len(weight.columns)
    over_blocks(kernel, arguments, tiles, threads)
    in_order = np.empty((len(inputs), rows), np.float32)
    in_order[:, weight.rows] = y.reshape(len(inputs), tiles, -1)[:, :, : rows // tiles].reshape(len(inputs), rows)
    return in_order[0] if np.ndim(x) == 1 else in_order
