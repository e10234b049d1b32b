"""A compiled product in tiles, for three layouts of its right-hand side; the loops are those that `lru` imitates.

It shows what an order of loops is worth on a real machine; it is no competitor of a tuned library, which holds a small
block of C in registers as well. Source: loop-tiling.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeinfer.kernels import validate
from edgeinfer.kernels.simd import compiled
from edgeinfer.memory.locality.lru import LAYOUTS


@compiled()
def _rows(a, b, c, m, n, k, first, last):
    """Rows first..last of C; the innermost loop runs along a row of B and of C."""
    for i0 in range(first, last, m):
        for j0 in range(0, c.shape[1], n):
            j1 = min(j0 + n, c.shape[1])
            for p0 in range(0, a.shape[1], k):
                p1 = min(p0 + k, a.shape[1])
                for i in range(i0, min(i0 + m, last)):
                    target = c[i]
                    p = p0
                    while p + 4 <= p1:  # four steps of depth for one pass over the row of C, in their order
                        u, v, w, x = a[i, p], a[i, p + 1], a[i, p + 2], a[i, p + 3]
                        b0, b1, b2, b3 = b[p], b[p + 1], b[p + 2], b[p + 3]
                        for j in range(j0, j1):
                            target[j] = (((target[j] + u * b0[j]) + v * b1[j]) + w * b2[j]) + x * b3[j]
                        p += 4
                    while p < p1:
                        value, source = a[i, p], b[p]
                        for j in range(j0, j1):
                            target[j] += value * source[j]
                        p += 1


@compiled()
def _columns(a, b, c, m, n, k, first, last):
    """The same with B column by column: the innermost loop is strided."""
    for i0 in range(first, last, m):
        for j0 in range(0, c.shape[1], n):
            j1 = min(j0 + n, c.shape[1])
            for p0 in range(0, a.shape[1], k):
                for i in range(i0, min(i0 + m, last)):
                    for p in range(p0, min(p0 + k, a.shape[1])):
                        value = a[i, p]
                        for j in range(j0, j1):
                            c[i, j] += value * b[j, p]


@compiled()
def _blocks(a, b, c, m, n, k, first, last):
    """The same with B block after block, as `store_blocked` leaves it."""
    depth, width = a.shape[1], c.shape[1]
    for i0 in range(first, last, m):
        for j0 in range(0, width, n):
            j1 = min(j0 + n, width)
            for p0 in range(0, depth, k):
                p1 = min(p0 + k, depth)
                start = p0 * width + (p1 - p0) * j0
                tile = b[start : start + (p1 - p0) * (j1 - j0)].reshape(p1 - p0, j1 - j0)
                _rows(a[:, p0:p1], tile, c[:, j0:j1], m, n, k, i0, min(i0 + m, last))


def store_blocked(b: NDArray[np.float32], tile: tuple[int, int, int]) -> NDArray[np.float32]:
    """B (K, N) as one list (K * N,), tile (k, n) after tile, each row by row."""
    _, n, k = tile
    K, N = b.shape
    pieces = [b[p : p + k, j : j + n].reshape(-1) for p in range(0, K, k) for j in range(0, N, n)]
    return np.concatenate(pieces)


def prepare(b: Any, layout: str, tile: tuple[int, int, int]) -> NDArray[np.float32]:
    """B (K, N) in the form that `tiled_matmul` reads with this layout; done once for a weight."""
    if layout not in LAYOUTS:
        raise ValueError(f"layout {layout!r} is unknown; choose 'row', 'column' or 'blocked'.")
    matrix = validate.finite_matrix(b, "b", "a product with them means nothing")
    if layout == "row":
        return matrix
    return np.ascontiguousarray(matrix.T) if layout == "column" else store_blocked(matrix, tile)


def tiled_matmul(
    a: Any, b: Any, tile: tuple[int, int, int] = (32, 256, 64), layout: str = "row", prepared: bool = False
) -> NDArray[np.float32]:
    """C = A B in tiles, float32.

    Args:
        a: (M, K).
        b: (K, N), or what `prepare` made of it.
        tile: (m, n, k), rows and columns of C and depth; larger than the matrix means not tiled.
        layout: how B lies in memory: "row", "column" or "blocked".
        prepared: whether b comes from `prepare`.

    Returns:
        (M, N) float32. For every tile and layout the products of one element are added in the same order.

    Raises:
        ValueError: "a is (4, 8) and b (9, 4): the inner sizes differ." and the like.
    """
    left = validate.finite_matrix(a, "a", "a product with them means nothing")
    if min(tile) < 1:
        raise ValueError(f"a tile has positive sizes, got {tuple(tile)}.")
    right = b if prepared else prepare(b, layout, tile)
    depth = {"row": 0, "column": 1}.get(layout)
    K = right.size // max(1, right.size // left.shape[1]) if depth is None else right.shape[depth]
    if left.shape[1] != K:
        raise ValueError(f"a is {left.shape} and b has {K} rows: the inner sizes differ.")
    c = np.zeros((left.shape[0], right.size // K), np.float32)
    kernel = {"row": _rows, "column": _columns, "blocked": _blocks}[layout]
    kernel(left, right, c, *tile, 0, left.shape[0])
    return c
