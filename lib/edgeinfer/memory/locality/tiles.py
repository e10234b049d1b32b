"""What a tile moves and holds, as formulas, and the tile that moves least within a fast memory of some size.

The fast memory here is one that the program fills itself; the real cache is in `lru`. It knows no clock.
Source: loop-tiling for the technique; the bound follows from the inequality of the means.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import NamedTuple


class Tile(NamedTuple):
    """Rows of C, columns of C and the depth of one step."""

    m: int
    n: int
    k: int


class TileTraffic(NamedTuple):
    """Elements that cross between slow and fast memory, and the most that fast memory holds at once."""

    moved: int
    held: int


def _sizes(**sizes: int) -> None:
    for name, size in sizes.items():
        if isinstance(size, bool) or int(size) != size or size < 1:
            raise ValueError(f"{name} must be a positive integer, got {size!r}.")


def tiled_traffic(M: int, N: int, K: int, tile: tuple[int, int, int]) -> TileTraffic:
    """Traffic of C (M, N) = A (M, K) B (K, N) when a tile of C stays until it is finished.

    Args:
        M, N, K: the product.
        tile: (m, n, k); tiles at the edges are as small as the matrix leaves them.

    Returns:
        moved: elements of A and B read and of C written. held: one tile of each at once.

    Raises:
        ValueError: "tile_m must be a positive integer, got 0."
    """
    m, n, k = tile
    _sizes(M=M, N=N, K=K, tile_m=m, tile_n=n, tile_k=k)
    moved = M * K * math.ceil(N / n) + K * N * math.ceil(M / m) + M * N
    m, n, k = min(m, M), min(n, N), min(k, K)
    return TileTraffic(moved, m * k + k * n + m * n)


def least_traffic(M: int, N: int, K: int, capacity: int) -> float:
    """No tile that holds at most `capacity` elements moves fewer than this.

    1/m + 1/n is at least 2 / sqrt(m n), and m n at most the capacity; and every element crosses once.
    """
    _sizes(M=M, N=N, K=K, capacity=capacity)
    return max(2 * M * N * K / math.sqrt(capacity), M * K + K * N) + M * N


def choose_tile(
    M: int, N: int, K: int, capacity: int, sizes: Sequence[int] | None = None, line: int = 1, fill: float | None = None
) -> Tile:
    """The tile that moves least among those that fit; at equal traffic the one that holds less.

    Args:
        M, N, K: the product.
        capacity: elements of fast memory.
        sizes: allowed edges; default 1, 2, 4, 8 and so on up to the matrix.
        line: elements of a cache line. Rows shorter than a line still bring whole lines, so m, n and k are counted in
            whole lines where a line runs along them.
        fill: share of the capacity to plan with; default all of it for a memory that the program fills itself (line 1),
            0.95 for a cache: filled to the last line, one that drops the least recently used drops what is needed next.

    Raises:
        ValueError: "no tile of these sizes fits into 2 elements; allow smaller ones."
    """
    _sizes(M=M, N=N, K=K, capacity=capacity)
    fill = fill if fill is not None else 1.0 if line == 1 else 0.95
    edges = list(sizes) if sizes is not None else [2**i for i in range(max(M, N, K).bit_length() + 1)]
    best: tuple[float, int, Tile] | None = None
    for m, n, k in product(edges, repeat=3):
        tile = Tile(min(m, M), min(n, N), min(k, K))
        if tile_held(tile, line) > capacity * fill:
            continue
        moved = _moved_lines(M, N, K, tile, line)
        if best is None or (moved, tile_held(tile, line)) < best[:2]:
            best = (moved, tile_held(tile, line), tile)
    if best is None:
        raise ValueError(f"no tile of these sizes fits into {capacity} elements; allow smaller ones.")
    return best[2]


def _whole(length: int, line: int) -> int:
    return -(-length // line) * line


def tile_held(tile: tuple[int, int, int], line: int = 1) -> int:
    """Elements that a tile of A, B and C take together in whole lines, row by row."""
    m, n, k = tile
    return m * _whole(k, line) + k * _whole(n, line) + m * _whole(n, line)


def _moved_lines(M: int, N: int, K: int, tile: Tile, line: int) -> float:
    """Traffic in elements when lines are whole: columns narrower than a line bring a line's worth all the same.

    Not so along k: the next step of k follows at once and finds the rest of the line.
    """
    wide = _whole(tile.n, line) / tile.n
    return M * K * math.ceil(N / tile.n) + K * N * math.ceil(M / tile.m) * wide + M * N * wide
