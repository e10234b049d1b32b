"""Sparse matrices of known shape: power-law rows, bands, blocks, and graphs grown by published models; seeded.

Knows how the zeros lie, not what is done with them. Values are drawn from a normal distribution.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from edgeinfer.kernels.spmm import CSR, from_coordinates


def _filled(rows: NDArray, columns: NDArray, shape: tuple[int, int], rng: np.random.Generator) -> CSR:
    values = rng.standard_normal(len(rows)).astype(np.float32)
    values[values == 0] = 1
    return from_coordinates(rows, columns, values, shape)


def uniform(rows: int, columns: int, density: float, seed: int = 0) -> CSR:
    """Every place is an entry with the same probability."""
    rng = np.random.default_rng(seed)
    places = rng.choice(rows * columns, round(density * rows * columns), replace=False)
    return _filled(*np.divmod(places, columns), (rows, columns), rng)


def power_law(rows: int, columns: int, mean_entries: float, exponent: float = 2.0, seed: int = 0) -> CSR:
    """Row lengths follow a power law (few long rows, many short ones); popular columns do as well.

    Args:
        rows, columns: shape.
        mean_entries: entries of a row, on average, before equal places are merged.
        exponent: of the law; smaller means longer tails.
        seed: of lengths, columns and values.
    """
    rng = np.random.default_rng(seed)
    length = (1 - rng.random(rows)) ** (-1 / (exponent - 1))
    length = np.minimum(np.maximum(1, np.rint(length * mean_entries / length.mean())), columns).astype(np.int64)
    popular = rng.permutation(columns)
    place = np.minimum((rng.random(int(length.sum())) ** 3 * columns).astype(np.int64), columns - 1)
    return _filled(np.repeat(np.arange(rows), length), popular[place], (rows, columns), rng)


def banded(rows: int, columns: int, band: int, fill: float = 1.0, seed: int = 0) -> CSR:
    """Entries only within `band` columns of the diagonal, each present with probability `fill`."""
    rng = np.random.default_rng(seed)
    offset = np.arange(-band, band + 1)
    row = np.repeat(np.arange(rows), len(offset))
    column = (row * columns // rows) + np.tile(offset, rows)
    there = (column >= 0) & (column < columns) & (rng.random(len(row)) < fill)
    return _filled(row[there], column[there], (rows, columns), rng)


def blocks(rows: int, columns: int, block: int, dense: float, background: float = 0.0, seed: int = 0) -> CSR:
    """Some square blocks are nearly full, the rest is nearly empty: the heterogeneity that hybrids live on.

    Args:
        rows, columns: shape.
        block: side of a block.
        dense: share of the blocks that are full at 60 to 100 %.
        background: density elsewhere.
        seed: of everything.
    """
    rng = np.random.default_rng(seed)
    high, wide = -(-rows // block), -(-columns // block)
    chosen = rng.choice(high * wide, max(1, round(dense * high * wide)), replace=False)
    density = np.full((high, wide), background)
    density.reshape(-1)[chosen] = rng.uniform(0.6, 1.0, len(chosen))
    there = rng.random((rows, columns)) < np.kron(density, np.ones((block, block)))[:rows, :columns]
    row, column = np.nonzero(there)
    return _filled(row, column, (rows, columns), rng)


def communities(nodes: int, groups: int, degree: float, inside: float = 0.9, seed: int = 0) -> CSR:
    """Stochastic block model, nodes in random order: neighbours mostly of the own group, but rows do not show it.

    Args:
        nodes: rows and columns.
        groups: communities of equal size.
        degree: entries of a row, on average, before equal places are merged.
        inside: share of the neighbours in the own community.
        seed: of everything.
    """
    rng = np.random.default_rng(seed)
    name = rng.permutation(nodes)  # the hidden order: node name[i] belongs to group i * groups // nodes
    size = nodes // groups
    source = np.repeat(np.arange(nodes), rng.poisson(degree, nodes))
    home = np.minimum(source // size, groups - 1) * size
    near = home + rng.integers(0, size, len(source))
    target = np.where(rng.random(len(source)) < inside, near, rng.integers(0, nodes, len(source)))
    return _filled(name[source], name[target], (nodes, nodes), rng)


def preferential(nodes: int, links: int, seed: int = 0) -> CSR:
    """Preferential attachment (Barabási and Albert): a new node links to old ones in proportion to their degree."""
    rng = np.random.default_rng(seed)
    ends = [0]
    pairs = []
    for node in range(1, nodes):
        chosen = {ends[i] for i in rng.integers(0, len(ends), links)}
        for other in sorted(chosen):
            pairs += [(node, other), (other, node)]
            ends += [node, other]
    place = np.asarray(pairs, np.int64).reshape(-1, 2)
    return _filled(place[:, 0], place[:, 1], (nodes, nodes), rng)


def recursive(scale: int, degree: int, seed: int = 0) -> CSR:
    """R-MAT (Chakrabarti, Zhan and Faloutsos): each entry descends `scale` times into one of four uneven quadrants."""
    rng = np.random.default_rng(seed)
    count = degree << scale
    row, column = np.zeros(count, np.int64), np.zeros(count, np.int64)
    for _ in range(scale):
        quadrant = rng.choice(4, count, p=(0.57, 0.19, 0.19, 0.05))
        row, column = 2 * row + quadrant // 2, 2 * column + quadrant % 2
    return _filled(row, column, (1 << scale, 1 << scale), rng)


def shuffle_rows(matrix: CSR, seed: int = 0) -> CSR:
    """The same rows in random order: what a permutation has to find again."""
    return matrix.permute_rows(np.random.default_rng(seed).permutation(matrix.shape[0]))


def gallery(nodes: int = 1024, seed: int = 0) -> dict[str, CSR]:
    """One matrix (nodes, nodes) of each kind; `nodes` is a power of two."""
    makers: dict[str, Callable[[], CSR]] = {
        "uniform": lambda: uniform(nodes, nodes, 16 / nodes, seed),
        "power law": lambda: power_law(nodes, nodes, 16, seed=seed),
        "banded": lambda: banded(nodes, nodes, 8, seed=seed),
        "banded, shuffled": lambda: shuffle_rows(banded(nodes, nodes, 8, seed=seed), seed),
        "blocks": lambda: blocks(nodes, nodes, max(1, nodes // 16), 0.06, 0.002, seed),
        "communities": lambda: communities(nodes, 16, 16, seed=seed),
        "preferential attachment": lambda: preferential(nodes, 8, seed),
        "R-MAT": lambda: recursive(int(nodes).bit_length() - 1, 16, seed),
    }
    return {name: make() for name, make in makers.items()}
