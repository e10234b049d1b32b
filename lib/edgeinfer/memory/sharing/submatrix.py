"""A matrix of small tiles, a few of them stored and all others derived: a source times one number.

Scalings are fitted by least squares. The product computes each source once per column of tiles and uses it again, as
the accelerator does; operations and bytes are counted. Source: mecla.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeinfer.kernels.validate import finite_matrix


@dataclass(frozen=True)
class SubMatrixWeight:
    """Tile (i, j) is approximated by scale[i, j] * source[index[i, j]].

    Attributes:
        sources: (S, h, w) float32.
        index: (N / h, K / w) int64, 0..S - 1.
        scale: (N / h, K / w) float32.
    """

    sources: NDArray[np.float32]
    index: NDArray[np.int64]
    scale: NDArray[np.float32]

    @property
    def shape(self) -> tuple[int, int]:
        return self.index.shape[0] * self.sources.shape[1], self.index.shape[1] * self.sources.shape[2]

    @property
    def nbytes(self) -> int:
        """What is read from off chip: sources and scalings at 16 bits, indices at as many bits as they need."""
        bits = max(int(len(self.sources) - 1).bit_length(), 0)
        return 2 * self.sources.size + 2 * self.scale.size + -(-bits * self.index.size // 8)

    @property
    def multiplications(self) -> int:
        """Of the product with one vector: sources times pieces of x once per column of tiles, then the scalings."""
        return self.sources.size * self.index.shape[1] + self.index.size * self.sources.shape[1]

    def dense(self) -> NDArray[np.float32]:
        """(N, K) float32."""
        tiles = self.scale[..., None, None] * self.sources[self.index]
        return np.ascontiguousarray(tiles.transpose(0, 2, 1, 3).reshape(self.shape))

    def matmul(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """x W^T without building W; x (K,) or (B, K)."""
        rows = np.asarray(x, np.float32).reshape(-1, self.shape[1])
        h, w = self.sources.shape[1:]
        out = np.zeros((len(rows), self.index.shape[0], h), np.float32)
        for j in range(self.index.shape[1]):
            products = np.einsum("shw,bw->bsh", self.sources, rows[:, j * w : (j + 1) * w], optimize=True)
            out += products[:, self.index[:, j]] * self.scale[:, j, None]
        flat = out.reshape(len(rows), -1)
        return flat[0] if np.ndim(x) == 1 else flat


def tiles_of(weight: NDArray[np.float32], tile: tuple[int, int]) -> NDArray[np.float32]:
    """(N, K) as (N / h, K / w, h, w).

    Raises:
        ValueError: "tiles of 3 x 4 do not divide a weight of 256 x 256."
    """
    (N, K), (h, w) = weight.shape, tile
    if h < 1 or w < 1 or N % h or K % w:
        raise ValueError(f"tiles of {h} x {w} do not divide a weight of {N} x {K}.")
    return weight.reshape(N // h, h, K // w, w).transpose(0, 2, 1, 3)


def fit_scale(tiles: NDArray[np.floating], sources: NDArray[np.floating]) -> NDArray[np.float64]:
    """Least squares: the number a for which |tile - a source| is smallest, row by row.

    Args:
        tiles, sources: (n, d); a source of zeros gets 0.
    """
    power = (sources.astype(np.float64) ** 2).sum(1)
    return np.divide((tiles * sources).sum(1), power, out=np.zeros(len(tiles)), where=power > 0)


def partition(
    weight: NDArray[np.float32], tile: tuple[int, int] = (4, 4), sources: int = 64, rounds: int = 6, seed: int = 0
) -> SubMatrixWeight:
    """Choose sources and scalings: k-means of directions, where a tile and its negative are the same direction.

    Args:
        weight: (N, K) float32.
        tile: (h, w), dividing the weight.
        sources: how many tiles are stored; never more than there are.
        rounds: each assigns tiles to the best source, then renews each source by least squares.
        seed: draws the first sources among the tiles.

    Raises:
        ValueError: "sources must be at least 1, got 0." and that of `tiles_of`.
    """
    if sources < 1:
        raise ValueError(f"sources must be at least 1, got {sources}.")
    grid = tiles_of(finite_matrix(weight, "weight"), tile)
    rows = grid.reshape(-1, tile[0] * tile[1]).astype(np.float32)
    draw = np.random.default_rng(seed)
    count = min(sources, len(rows))
    chosen = _unit(rows[draw.choice(len(rows), count, replace=False)])
    index = _nearest(rows, chosen)
    for _ in range(rounds):
        scale = np.einsum("nd,nd->n", rows, chosen[index])
        total = np.zeros_like(chosen)
        np.add.at(total, index, scale[:, None] * rows)
        empty = ~total.any(1)
        total[empty] = rows[draw.integers(len(rows), size=int(empty.sum()))]
        chosen = _unit(total)
        index = _nearest(rows, chosen)
    scale = fit_scale(rows, chosen[index]).astype(np.float32)
    shape = grid.shape[:2]
    return SubMatrixWeight(chosen.reshape(count, *tile), index.reshape(shape), scale.reshape(shape))


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, length, out=np.zeros_like(rows), where=length > 0)


def _nearest(rows: NDArray[np.float32], chosen: NDArray[np.float32]) -> NDArray[np.int64]:
    # The larger the projection, of either sign, the smaller the error of the best scaling.
    return np.asarray(np.abs(rows @ chosen.T).argmax(1), np.int64)
