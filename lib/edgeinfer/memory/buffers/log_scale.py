"""Weights of 4 bits of which 8, 4, 2 or 1 in every eight neighbours stay: packed, unpacked, multiplied, chosen.

With counts in powers of two, a unit that takes eight weights at a time is always full: it takes one, two, four or eight
groups at once. Knows the packed format and its product; the choice of weights inside a group is that of N:M sparsity.
N rows by K columns of a weight. Source: edgellm (the idea and the counts; the order of the bits is this book's).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeinfer.kernels import validate
from edgeinfer.kernels.bits import pack_bits, unpack_bits
from edgeinfer.kernels.n_m import prune_n_m
from edgeinfer.kernels.simd import compiled

RUN = 8  # neighbouring weights of a row
LEVELS = (8, 4, 2, 1)
CENTER = 8  # code of the weight 0


def check_keep(keep: int) -> int:
    """Raise unless keep is a power of two up to eight.

    Raises:
        ValueError: "keep must be 8, 4, 2 or 1 of every 8 weights, got 3."
    """
    if keep not in LEVELS:
        raise ValueError(f"keep must be 8, 4, 2 or 1 of every {RUN} weights, got {keep}.")
    return keep


def position_bits(keep: int) -> int:
    """Bits that say where the kept weights of a run stand: none, a bitmap of 8, or a place of 3 bits for each."""
    return {8: 0, 4: 8, 2: 6, 1: 3}[check_keep(keep)]


def bits_per_weight(keep: int, group_size: int) -> float:
    """Bits of the format for each weight of the dense matrix: codes, positions, and the scales (16 bits a group)."""
    return (4 * keep + position_bits(keep)) / RUN + 16 / group_size


@dataclass(frozen=True)
class LogScaleWeight:
    """A packed weight.

    Attributes:
        codes: (N, K * keep / 16) uint8: two 4-bit codes a byte, the first in the low half; run by run, by column.
        positions: (N, ...) uint8: a bitmap byte for each run (keep 4, lowest bit first), places of 3 bits, densely
            packed (keep 2 and 1), or nothing (keep 8).
        scale: (N, K / group_size) float16.
        keep: of every 8 neighbours so many are stored.
        group_size: columns of the dense matrix that share a scale.
        shape: (N, K).
    """

    codes: NDArray[np.uint8]
    positions: NDArray[np.uint8]
    scale: NDArray[np.float16]
    keep: int
    group_size: int
    shape: tuple[int, int]

    @property
    def nbytes(self) -> int:
        """Bytes that one product reads."""
        return self.codes.nbytes + self.positions.nbytes + self.scale.nbytes

    def places(self) -> NDArray[np.uint8]:
        """(N, K / 8, keep) uint8: where in its run each stored weight stands, ascending."""
        rows, runs = self.shape[0], self.shape[1] // RUN
        if self.keep == RUN:
            return np.broadcast_to(np.arange(RUN, dtype=np.uint8), (rows, runs, RUN)).copy()
        if self.keep == 4:
            bitmap = np.unpackbits(self.positions, axis=1, bitorder="little").reshape(rows, runs, RUN)
            return np.nonzero(bitmap)[2].astype(np.uint8).reshape(rows, runs, 4)
        return unpack_bits(self.positions, 3, runs * self.keep).reshape(rows, runs, self.keep)

    def dequantize(self) -> NDArray[np.float32]:
        """The weight as a dense matrix, (N, K) float32."""
        rows, columns = self.shape
        stored = unpack_bits(self.codes, 4, columns * self.keep // RUN).reshape(rows, columns // RUN, self.keep)
        full = np.zeros((rows, columns // RUN, RUN), np.float32)
        np.put_along_axis(full, self.places().astype(np.int64), stored.astype(np.float32) - CENTER, axis=2)
        scale = np.repeat(self.scale.astype(np.float32), self.group_size, axis=1)
        return full.reshape(rows, columns) * scale


def pack_log_scale(
    weight: NDArray[np.float32],
    keep: int,
    group_size: int = 64,
    importance: NDArray[np.float32] | None = None,
) -> LogScaleWeight:
    """Prune to `keep` of every 8 neighbours, round what stays to 4 bits, and pack.

    Args:
        weight: (N, K) float32.
        keep: 8, 4, 2 or 1.
        group_size: columns that share a scale; a multiple of 16 that divides K.
        importance: (N, K), what decides who stays; None: the magnitude.

    Raises:
        ValueError: "keep must be ...", or "group_size 24 must be a multiple of 16 that divides the 256 columns; ..."
    """
    weight, keep = validate.finite_matrix(weight, "weight"), check_keep(keep)
    rows, columns = weight.shape
    if group_size < 16 or group_size % 16 or columns % group_size:
        raise ValueError(
            f"group_size {group_size} must be a multiple of 16 that divides the {columns} columns; choose another or "
            "pad the weight with columns of zeros."
        )
    pruned = prune_n_m(weight, keep, RUN, importance)
    runs = pruned.reshape(rows, -1, RUN)
    # non-zeros first, in the order of their columns; free places fill up where fewer are left
    place = np.sort(np.argsort(runs == 0, axis=2, kind="stable")[..., :keep], axis=2)
    groups = np.abs(pruned.reshape(rows, -1, group_size)).max(2)
    with np.errstate(over="ignore"):
        scale = (groups / 7).astype(np.float16)
    if not np.isfinite(scale).all():
        raise ValueError(f"a weight of {groups.max():g} has a scale beyond float16; divide the weight first.")
    scale[scale == 0] = 1
    each = np.repeat(scale.astype(np.float32), group_size // RUN, axis=1)[..., None]
    codes = np.clip(np.rint(np.take_along_axis(runs, place, axis=2) / each), -7, 7) + CENTER
    packed = pack_bits(codes.reshape(rows, -1).astype(np.uint8), 4)
    if keep == RUN:
        positions = np.zeros((rows, 0), np.uint8)
    elif keep == 4:
        bitmap = np.zeros(runs.shape, np.uint8)
        np.put_along_axis(bitmap, place, 1, axis=2)
        positions = np.packbits(bitmap.reshape(rows, -1), axis=1, bitorder="little")
    else:
        positions = pack_bits(place.reshape(rows, -1).astype(np.uint8), 3)
    return LogScaleWeight(packed, positions, scale, keep, group_size, (rows, columns))


@compiled()
def _product(codes, places, scale, keep, group_size, x, y):
    """codes (N, K keep / 16), places (N, K / 8, keep), x (B, K), y (B, N): only kept weights meet an activation."""
    rows, runs, _ = places.shape
    per_group = group_size // 8
    for n in range(rows):
        for b in range(x.shape[0]):
            total, part = np.float32(0), np.float32(0)
            for r in range(runs):
                for j in range(keep):
                    i = r * keep + j
                    code = (codes[n, i // 2] >> np.uint8(4 * (i % 2))) & np.uint8(15)
                    part += np.float32(np.int32(code) - 8) * x[b, r * 8 + np.int64(places[n, r, j])]
                if (r + 1) % per_group == 0:
                    total += part * scale[n, r // per_group]
                    part = np.float32(0)
            y[b, n] = total


def log_scale_matmul(weight: LogScaleWeight, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """y = x W^T from the packed codes.

    Args:
        weight: packed (N, K).
        x: (K,) or (B, K) float32.

    Returns:
        (N,) or (B, N) float32.

    Raises:
        ValueError: "x must have shape (256,) or (batch, 256) for this weight, ..." or "x contains NaN ..."
    """
    inputs = validate.finite_activations(x, weight.shape[1])
    y = np.empty((len(inputs), weight.shape[0]), np.float32)
    scale = weight.scale.astype(np.float32)
    _product(weight.codes, weight.places(), scale, weight.keep, weight.group_size, inputs, y)
    return y[0] if np.ndim(x) == 1 else y


def choose_levels(
    losses: Mapping[str, Sequence[float]], sizes: Mapping[str, Sequence[int]], budget: int
) -> dict[str, int]:
    """Which weight keeps how much, so that the losses add up to the least within a budget of bytes (exact).

    Args:
        losses: for each weight its loss at each of `LEVELS`.
        sizes: likewise its bytes.
        budget: bytes of all together.

    Returns:
        {name: keep}.

    Raises:
        ValueError: "the budget of 100 bytes is below the smallest size of all weights, 240 bytes."
    """
    least = sum(min(size) for size in sizes.values())
    if budget < least:
        raise ValueError(
            f"the budget of {budget} bytes is below the smallest size of all weights, {least} bytes; give more."
        )
    from scipy.optimize import Bounds, LinearConstraint, milp

    names, count = list(losses), len(LEVELS)
    one = np.zeros((len(names), len(names) * count))
    for i in range(len(names)):
        one[i, i * count : (i + 1) * count] = 1
    goal = np.array([loss for name in names for loss in losses[name]], float)
    cost = np.array([size for name in names for size in sizes[name]], float)
    found = milp(
        goal / max(goal.max(), 1e-30),
        constraints=[LinearConstraint(one, 1, 1), LinearConstraint(cost[None] / budget, -np.inf, 1)],
        bounds=Bounds(0, 1),
        integrality=np.ones(goal.size),
    )
    picked = np.rint(found.x).astype(int).reshape(len(names), count).argmax(1)
    return {name: LEVELS[k] for name, k in zip(names, picked, strict=True)}
