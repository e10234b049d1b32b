"""Products of few rows: padded to 8 instead of 64, loaded while the last block is multiplied, chosen by a table.

Knows arrays, counts and a measuring function that is given to it. M rows (tokens), N x K weight. Rows of zeros that
fill a tile are really multiplied here, as a matrix unit does; so the counts are those of the code.
Source: flashdecoding-pp.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from edgeinfer.kernels import validate
from edgeinfer.kernels.simd import compiled


@dataclass(frozen=True)
class Work:
    """What a product does.

    Attributes:
        multiplications: with those by padding.
        useful: M N K.
        weight_bytes: bytes of the weight that are read, float32, all passes together.
    """

    multiplications: int
    useful: int
    weight_bytes: int

    @property
    def utilisation(self) -> float:
        """Useful multiplications over all."""
        return self.useful / self.multiplications


def work(M: int, N: int, K: int, tile: int) -> Work:
    """Count a product whose rows are padded to whole tiles, and which reads the weight once for each tile.

    Raises:
        ValueError: "M, N, K and tile must be 1 or more, got 0, 8, 8 and 8."
    """
    if min(M, N, K, tile) < 1:
        raise ValueError(f"M, N, K and tile must be 1 or more, got {M}, {N}, {K} and {tile}.")
    tiles = -(-M // tile)
    return Work(tiles * tile * N * K, M * N * K, tiles * N * K * 4)


@compiled(fastmath={"reassoc", "contract", "nsz"})
def _tile(x, weight, out):
    """x (tile, K), weight (N, K), out (tile, N): a row of the weight comes from memory once for the whole tile."""
    for n in range(weight.shape[0]):
        row = weight[n]
        for m in range(x.shape[0]):
            column, total = x[m], np.float32(0)
            for k in range(row.size):
                total += row[k] * column[k]
            out[m, n] = total


def flat_gemm(x: NDArray[np.float32], weight: NDArray[np.float32], tile: int = 8) -> NDArray[np.float32]:
    """x W^T, with the rows of x padded to a multiple of `tile` by zeros that are multiplied, too.

    Args:
        x: (M, K) float32.
        weight: (N, K) float32.
        tile: rows of one pass over the weight.

    Returns:
        (M, N) float32.

    Raises:
        ValueError: "x must have shape (256,) or (batch, 256) for this weight, ..."
    """
    weight = np.ascontiguousarray(weight, dtype=np.float32)
    if weight.ndim != 2:
        raise ValueError(f"weight must be a matrix (out_features, in_features), got shape {weight.shape}.")
    rows = validate.activations(x, weight.shape[1])
    work(len(rows), weight.shape[0], weight.shape[1], tile)
    out = np.empty((len(rows), len(weight)), np.float32)
    padded, done = np.zeros((tile, weight.shape[1]), np.float32), np.empty((tile, len(weight)), np.float32)
    for start in range(0, len(rows), tile):
        part = rows[start : start + tile]
        padded[: len(part)], padded[len(part) :] = part, 0
        _tile(padded, weight, done)
        out[start : start + len(part)] = done[: len(part)]
    return out


def blocks_in_turn(load: Sequence[float], compute: Sequence[float], buffers: int) -> float:
    """Simulated end of a product that loads blocks into `buffers` places and multiplies them in order.

    Args:
        load, compute: time of each block, in any one unit.
        buffers: 1: load, multiply, load, ...; 2: the next block is loaded meanwhile (double buffering); more likewise.

    Returns:
        When the last block is multiplied.

    Raises:
        ValueError: "load and compute have 3 and 2 blocks; both need one time for each." or "buffers must be 1 or more".
    """
    if len(load) != len(compute):
        raise ValueError(f"load and compute have {len(load)} and {len(compute)} blocks; both need one time for each.")
    if buffers < 1:
        raise ValueError(f"buffers must be 1 or more, got {buffers}.")
    loaded, ends = 0.0, [0.0] * buffers
    for i, (fetch, multiply) in enumerate(zip(load, compute, strict=True)):
        # a block may be fetched when the block before it is there and its place is free
        loaded = max(loaded, ends[i % buffers]) + fetch
        ends[i % buffers] = max(loaded, max(ends)) + multiply
    return max(ends)


@dataclass(frozen=True)
class Dataflow:
    """A table that picks the kernel of a layer by the number of rows.

    Attributes:
        kernels: names, in the order of growing M.
        thresholds: {(N, K): the smallest M of the second kernel, of the third, ...}, ascending.
    """

    kernels: tuple[str, ...]
    thresholds: dict[tuple[int, int], tuple[int, ...]]

    def choose(self, M: int, N: int, K: int) -> str:
        """The kernel for M rows; a look-up, no measurement.

        Raises:
            KeyError: "no entry for a weight of 7 x 9; the table knows 256 x 256."
        """
        if (N, K) not in self.thresholds:
            known = ", ".join(f"{n} x {k}" for n, k in sorted(self.thresholds)) or "none"
            raise KeyError(f"no entry for a weight of {N} x {K}; the table knows {known}.")
        return self.kernels[bisect_right(self.thresholds[N, K], M)]


def build_dataflow(
    kernels: Sequence[str],
    shapes: Sequence[tuple[int, int]],
    rows: Sequence[int],
    cost: Callable[[str, int, int, int], float],
) -> Dataflow:
    """Find for each shape from which number of rows on which kernel is best, once and offline.

    Each kernel gets one stretch of M, in the given order. Among all ways to cut, the one with the smallest sum of
    costs relative to the best kernel is taken, so that a single odd measurement moves a cut by a step at most.

    Args:
        kernels: names, the one for the fewest rows first.
        shapes: (N, K) of the model's layers: a handful.
        rows: M to try, ascending.
        cost: (kernel, M, N, K) -> any cost, such as measured seconds.

    Raises:
        ValueError: "rows must ascend and hold at least one M."
    """
    if not rows or any(a >= b for a, b in pairwise(rows)):
        raise ValueError("rows must ascend and hold at least one M.")
    table = {}
    for N, K in shapes:
        costs = np.array([[cost(kernel, M, N, K) for M in rows] for kernel in kernels])
        loss = costs / costs.min(0)
        ahead = np.concatenate([np.zeros((len(kernels), 1)), np.cumsum(loss, 1)], 1)  # [kernel, up to M]
        best = ahead[0]
        cuts: list[list[tuple[int, ...]]] = [[()] * (len(rows) + 1)]
        for k in range(1, len(kernels)):
            new, ways = np.empty(len(rows) + 1), []
            for end in range(len(rows) + 1):
                totals = [best[cut] + ahead[k][end] - ahead[k][cut] for cut in range(end + 1)]
                cut = int(np.argmin(totals))
                new[end] = totals[cut]
                ways.append((*cuts[-1][cut], cut))
            best, cuts = new, [*cuts, ways]
        table[N, K] = tuple(rows[cut] if cut < len(rows) else rows[-1] + 1 for cut in cuts[-1][-1])
    return Dataflow(tuple(kernels), table)
