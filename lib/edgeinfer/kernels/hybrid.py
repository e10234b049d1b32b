"""The real pair behind HotTiles on a processor: BLAS for the dense-looking tiles, CSR vector code for what is left.

Knows a split of tiles (from `hot_tiles`) and two products; its costs are measured on this machine, not assumed. On one
core the two run one after the other, on two cores at the same time. Source: hottiles.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeinfer.kernels.hot_tiles import Tiles, cut
from edgeinfer.kernels.sparse_patterns import uniform
from edgeinfer.kernels.spmm import CSR, dense_operand, multiply


@dataclass(frozen=True)
class HybridMatrix:
    """A sparse matrix of which some tiles are stored densely.

    Attributes:
        blocks: (first row, first column, dense tile) of each hot tile.
        rest: all other entries.
        shape: (N, K).
    """

    blocks: list[tuple[int, int, NDArray[np.float32]]]
    rest: CSR
    shape: tuple[int, int]

    @property
    def nbytes(self) -> int:
        """Bytes that one product reads of this matrix."""
        return self.rest.nbytes + sum(block.nbytes for _, _, block in self.blocks)


def store(matrix: CSR, tiles: Tiles, hot: NDArray[np.bool_]) -> HybridMatrix:
    """Store hot tiles densely and the others as CSR.

    Args:
        matrix: that the tiles were cut from.
        tiles: of `cut`.
        hot: (tiles,) bool.
    """
    rows = matrix.row_numbers
    is_hot = hot[tiles.of_entry] if len(tiles) else np.zeros(0, bool)
    place = np.full(len(tiles), -1)
    place[hot] = np.arange(int(hot.sum()))
    chosen = np.flatnonzero(hot)
    dense = [np.zeros((tiles.rows[t], tiles.columns[t]), np.float32) for t in chosen]
    order = np.argsort(tiles.of_entry[is_hot], kind="stable")
    entries = np.flatnonzero(is_hot)[order]
    edges = np.searchsorted(place[tiles.of_entry[entries]], np.arange(len(dense) + 1))
    for i, t in enumerate(chosen):
        here = entries[edges[i] : edges[i + 1]]
        dense[i][rows[here] - tiles.row[t], matrix.indices[here] - tiles.column[t]] = matrix.data[here]
    blocks = [(int(tiles.row[t]), int(tiles.column[t]), block) for t, block in zip(chosen, dense, strict=True)]
    return HybridMatrix(blocks, matrix.select(~is_hot), matrix.shape)


def _add_blocks(matrix: HybridMatrix, x: NDArray[np.float32], y: NDArray[np.float32]) -> None:
    for row, column, block in matrix.blocks:
        y[row : row + len(block)] += block @ x[column : column + block.shape[1]]


def hybrid_matmul(matrix: HybridMatrix, x: NDArray[np.float32], parallel: bool = False) -> NDArray[np.float32]:
    """Y = A X with both workers.

    Args:
        matrix: of `store`.
        x: (K,) or (K, width) float32.
        parallel: let the workers run at the same time, each on a core of its own; else one after the other.

    Returns:
        (N,) or (N, width) float32.
    """
    x2 = dense_operand(x, matrix.shape[1])
    if parallel and matrix.blocks and matrix.rest.entries:
        hot = np.zeros((matrix.shape[0], x2.shape[1]), np.float32)
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(_add_blocks, matrix, x2, hot)
            y = multiply(matrix.rest, x2)
            waiting.result()
        y += hot
    else:
        y = multiply(matrix.rest, x2)
        _add_blocks(matrix, x2, y)
    return y[:, 0] if np.ndim(x) == 1 else y


@dataclass(frozen=True)
class MeasuredPair:
    """What the two real workers cost on this machine for one tile size and one width.

    Attributes:
        tile_seconds: BLAS on a whole tile, whatever its zeros.
        entry_seconds: vector code, for each entry.
        row_seconds: vector code, for each row of a tile that has an entry.
    """

    tile_seconds: float
    entry_seconds: float
    row_seconds: float

    @property
    def even(self) -> float:
        """Entries at which both workers take the same time for a tile, its rows left out."""
        return self.tile_seconds / self.entry_seconds

    def costs(self, tiles: Tiles) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Predicted seconds of each tile on BLAS and on vector code; tiles at the edge count by their places."""
        share = tiles.rows * tiles.columns / (tiles.height * tiles.width)
        return share * self.tile_seconds, self.entry_seconds * tiles.entries + self.row_seconds * tiles.used_rows


def best_seconds(function: Callable[[], object], repeats: int = 7) -> float:
    """The shortest of some runs: what the call costs when nothing else disturbs it."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def measure_pair(tile: int, width: int, seed: int = 0) -> MeasuredPair:
    """Time both workers on generated tiles; takes a fraction of a second.

    Args:
        tile: rows and columns of a tile.
        width: columns of the dense operand.
        seed: of the tiles.
    """
    rng = np.random.default_rng(seed)
    many = max(4, 512 // tile)
    x = rng.standard_normal((tile * many, width)).astype(np.float32)
    block = rng.standard_normal((tile, tile)).astype(np.float32)
    empty = CSR(np.zeros(tile + 1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32), (tile, tile * many))
    whole = HybridMatrix([(0, tile * i, block) for i in range(many)], empty, empty.shape)
    y = np.zeros((tile, width), np.float32)
    _add_blocks(whole, x, y)
    hot = best_seconds(lambda: _add_blocks(whole, x, y)) / many
    counts, times = [], []
    for density in (0.02, 0.1, 0.3, 0.6):
        sparse = uniform(tile, tile * many, density, seed)  # tiles side by side: x passes by as in a real product
        multiply(sparse, x)
        counts.append((sparse.entries, cut(sparse, tile, tile).used_rows.sum()))
        times.append(best_seconds(lambda a=sparse: multiply(a, x)))  # type: ignore[misc]
    # relative errors count, so that the sparse tiles are not drowned by the dense ones
    scale = 1 / np.asarray(times)
    fit = np.linalg.lstsq(np.asarray(counts) * scale[:, None], np.ones(len(times)), rcond=None)[0]
    return MeasuredPair(hot, float(max(fit[0], 1e-12)), float(max(fit[1], 0.0)))
