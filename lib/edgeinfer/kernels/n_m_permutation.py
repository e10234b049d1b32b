"""Which channels should be neighbours? A search that puts weak weights where N:M and vector pruning will remove them.

Knows importances, tiles of rows, groups of columns; knows nothing of models. Two levels: inside a tile of V rows whole
columns go first (vectors of V weights), then n of m weights stay in the columns that are left. Rows are dealt to tiles,
and the kept columns of each tile to groups, by rounds of sampling, clustering and assignment. An assignment is improved
by exchanging pairs until no exchange helps; the tests hold it against an exact solver. Source: hierarchical-nm.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache

import numpy as np
from numpy.typing import NDArray

from edgeinfer.kernels import validate
from edgeinfer.kernels.n_m import WHY, check_n_m, n_m_mask
from edgeinfer.kernels.simd import compiled

METHODS = ("gyro", "random", "none")


@dataclass(frozen=True)
class Permutation:
    """An order of rows and, for each tile of rows, the kept columns in the order of their groups.

    Attributes:
        rows: (N,) int64, rows[i] is the channel that stands at place i.
        columns: (tiles, kept) int64, m after m form a group; sorted only by chance.
        retained: share of the importance that stays after both levels.
        history: `retained` after each round of the search, rows first, then columns.
    """

    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    retained: float
    history: list[float] = field(default_factory=list)


def check_tiles(shape: tuple[int, ...], n: int, m: int, vector_rows: int | None, keep: float) -> tuple[int, int]:
    """Rows of a tile and kept columns of a tile.

    Raises:
        ValueError: "vector_rows 6 does not divide the 16 rows of the weight; choose a divisor." or "keep must lie in
            0 < keep <= 1, got 0." or as `check_n_m`.
    """
    rows, columns = shape
    check_n_m(n, m, columns)
    vector_rows = rows if vector_rows is None else vector_rows
    if int(vector_rows) != vector_rows or not 1 <= vector_rows <= rows or rows % vector_rows:
        raise ValueError(f"vector_rows {vector_rows} does not divide the {rows} rows of the weight; choose a divisor.")
    if not 0 < keep <= 1:
        raise ValueError(f"keep must lie in 0 < keep <= 1, got {keep}.")
    return int(vector_rows), max(1, round(keep * columns / m)) * m


def kept_columns(tile_sums: NDArray, kept: int) -> NDArray[np.int64]:
    """For each tile the `kept` columns of largest sum, ascending: (tiles, K) -> (tiles, kept)."""
    return np.sort(np.argsort(-tile_sums, axis=-1, kind="stable")[..., :kept], axis=-1)


def permutation_mask(importance: NDArray[np.float32], n: int, m: int, permutation: Permutation) -> NDArray[np.bool_]:
    """Which weights stay under a permutation, in the original order of rows and columns: (N, K) bool."""
    tiles, kept = permutation.columns.shape
    place = permutation.rows.reshape(tiles, -1, 1), permutation.columns[:, None, :]  # (tiles, V, kept)
    mask = np.zeros(importance.shape, bool)
    mask[place] = n_m_mask(importance[place].reshape(-1, kept), n, m).reshape(tiles, -1, kept)
    return mask


def retained(importance: NDArray[np.float32], mask: NDArray[np.bool_]) -> float:
    """Share of the importance that a mask keeps; 1 for a matrix of zeros."""
    total = float(importance.sum(dtype=np.float64))
    return float(importance[mask].sum(dtype=np.float64)) / total if total else 1.0


@compiled(forceinline=True)
def _sort_first(values, count, n):
    """The n largest of values[:count] to the front."""
    for i in range(min(n, count)):
        for j in range(i + 1, count):
            if values[j] > values[i]:
                values[i], values[j] = values[j], values[i]


@compiled()
def _kept(importance, groups, n):
    """Importance that the n largest of each group keep over all rows, as a double."""
    m = groups.shape[1]
    values = np.empty(m, np.float32)
    total = 0.0
    for g in range(groups.shape[0]):
        for r in range(importance.shape[1]):
            for k in range(m):
                values[k] = importance[groups[g, k], r]
            _sort_first(values, m, n)
            for i in range(n):
                total += values[i]
    return total


@compiled(fastmath=True)  # sums in any order: vectors; what is gained is counted again by _kept
def _gains(importance, groups, leaving, n, gain):
    """gain[i, g]: importance kept in group g if the leaving column of group i stood in place of g's own.

    importance: (K, V), a row per column of the weight; groups: (G, m); leaving: (G,) which place of a group leaves.
    """
    count, m = groups.shape
    rows = importance.shape[1]
    others = np.empty(m, np.float32)
    bar = np.empty(rows, np.float32)
    for g in range(count):
        base = np.float32(0)
        for r in range(rows):
            filled = 0
            for k in range(m):
                if k != leaving[g]:
                    others[filled] = importance[groups[g, k], r]
                    filled += 1
            _sort_first(others, filled, n)
            for i in range(min(n, filled)):
                base += others[i]
            bar[r] = others[n - 1] if n <= filled else np.float32(0)  # a newcomer must beat the n-th
        for i in range(count):
            newcomer = importance[groups[i, leaving[i]]]
            more = np.float32(0)
            for r in range(rows):
                more += max(newcomer[r] - bar[r], np.float32(0))
            gain[i, g] = base + more


@compiled()
def exchange(gain, place, rounds):
    """Exchange the places of two items while that raises the sum of gain[i, place[i]]; place is changed."""
    count = gain.shape[0]
    for _ in range(rounds):
        changed = False
        for i in range(count):
            for j in range(i + 1, count):
                now = gain[i, place[i]] + gain[j, place[j]]
                then = gain[i, place[j]] + gain[j, place[i]]
                if then > now + 1e-6 * abs(now):
                    place[i], place[j] = place[j], place[i]
                    changed = True
        if not changed:
            break


def _group_columns(
    importance: NDArray[np.float32], columns: NDArray[np.int64], n: int, m: int, rounds: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], list[float]]:
    """Deal the kept columns of one tile to groups of m; importance (V, K) of the tile's rows."""
    mine = np.ascontiguousarray(importance[:, columns].T)
    count = len(columns) // m

    def kept(groups: NDArray) -> float:
        return float(_kept(mine, groups, n))

    natural = np.arange(len(columns)).reshape(count, m)
    # strong columns apart: the best `count` of them open a group each, the next join one each, and so on
    dealt = np.ascontiguousarray(np.argsort(-mine.sum(1), kind="stable").reshape(m, count).T)
    groups = max((natural, dealt), key=kept)
    gain = np.empty((count, count), np.float32)
    best, now, idle = groups, kept(groups), 0
    history = [now]
    for _ in range(rounds if n < m and count > 1 else 0):
        leaving = rng.integers(0, m, count)
        _gains(mine, groups, leaving, n, gain)
        place = np.arange(count)
        exchange(gain, place, 20)
        moved = groups.copy()
        moved[place, leaving[place]] = groups[np.arange(count), leaving]
        score = kept(moved)
        idle = 0 if score > now * (1 + 1e-7) else idle + 1
        if score >= now:  # rounding of float32 sums may promise a gain that is none
            groups, now = moved, score
        if now > history[-1]:
            best = groups
        history.append(max(now, history[-1]))
        if idle > 2 * m:  # a valley: leave it by some exchanges at random, and remember what was best
            groups, idle = best.copy(), 0
            for _ in range(1 + count // 8):
                a, b = rng.integers(0, groups.size, 2)
                groups.flat[a], groups.flat[b] = groups.flat[b], groups.flat[a]
            now = kept(groups)
    return columns[best.reshape(-1)], history


@compiled()
def _fill(closest, size, count, member):
    """Give rows to clusters of `size`, the closest pairs (row * count + cluster) first, while there is room."""
    room = np.full(count, size)
    member[:] = -1
    for place in closest:
        row, cluster = place // count, place % count
        if member[row] < 0 and room[cluster] > 0:
            member[row] = cluster
            room[cluster] -= 1


def _deal_rows(
    importance: NDArray[np.float32], vector_rows: int, kept: int, rounds: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], list[float]]:
    """Deal rows to tiles so that much importance lies in the `kept` strongest columns of each tile."""
    count = len(importance) // vector_rows
    tiles = np.arange(len(importance)).reshape(count, vector_rows)

    def best(sums: NDArray) -> NDArray:
        return np.partition(sums, sums.shape[-1] - kept, axis=-1)[..., sums.shape[-1] - kept :].sum(-1)

    history = [float(best(importance[tiles].sum(1)).sum())]
    for turn in range(rounds):
        sample = max(1, round(vector_rows / 2 * (1 - turn / rounds)))  # many rows at first, single ones at last
        shuffled = rng.permuted(tiles, axis=1)
        leaving, staying = shuffled[:, :sample], shuffled[:, sample:]
        clusters = _cluster(importance, leaving, rng)
        rest = importance[staying].sum(1)  # (tiles, K)
        added = importance[clusters].sum(1)
        gain = np.stack([best(rest + cluster) for cluster in added]).astype(np.float32)
        place = np.arange(count)
        exchange(gain, place, 20)
        moved = np.empty_like(tiles)
        moved[:, : vector_rows - sample] = staying
        moved[place, vector_rows - sample :] = clusters
        score = float(best(importance[moved].sum(1)).sum())
        if score > history[-1]:
            tiles = moved
        history.append(max(score, history[-1]))
    return tiles.reshape(-1), history


def _cluster(
    importance: NDArray[np.float32], leaving: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Sampled rows (tiles, sample) as as many clusters of equal size: rows alike in pattern come together (k-means)."""
    count, size = leaving.shape
    if size == 1:
        return leaving
    rows = leaving.reshape(-1)
    points = importance[rows].astype(np.float64)
    points /= np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-30)
    centres = points[rng.choice(len(rows), count, replace=False)]
    member = np.zeros(len(rows), np.int64)
    for _ in range(3):
        closeness = points @ centres.T
        _fill(np.argsort(-closeness, axis=None, kind="stable"), size, count, member)
        centres = np.stack([points[member == c].mean(0) for c in range(count)])
    return rows[np.argsort(member, kind="stable")].reshape(count, size)


def search_permutation(
    importance: NDArray[np.float32],
    n: int,
    m: int,
    vector_rows: int | None = None,
    keep: float = 1.0,
    rounds: int = 40,
    method: str = "gyro",
    seed: int = 0,
) -> Permutation:
    """Find an order of rows and columns under which pruning removes little.

    Args:
        importance: (N, K) float32, not negative: the magnitude, or `activation_importance`.
        n, m: of every m weights n stay.
        vector_rows: rows of a tile; None: all rows form one tile, and its column order is one for the whole matrix.
        keep: share of a tile's columns that survive the first level (rounded to groups of m); 1: no first level.
        rounds: of sampling and assignment, for rows and for the columns of each tile.
        method: "gyro" searches, "random" draws one order, "none" keeps the order of the matrix.
        seed: of all samples.

    Returns:
        The permutation with the share of importance that it retains.

    Raises:
        ValueError: "importance holds negative numbers; pass magnitudes." and as `check_tiles`.
    """
    importance = validate.finite_matrix(importance, "importance", WHY)
    if (importance < 0).any():
        raise ValueError("importance holds negative numbers; pass magnitudes.")
    if method not in METHODS:
        raise ValueError(f"method {method!r} is unknown; choose one of {', '.join(METHODS)}.")
    vector_rows, kept = check_tiles(importance.shape, n, m, vector_rows, keep)
    rng = np.random.default_rng(seed)
    rows, history = np.arange(len(importance)), list[float]()
    total = max(float(importance.sum(dtype=np.float64)), 1e-30)
    if method == "random":
        rows = rng.permutation(rows)
    elif method == "gyro" and vector_rows < len(rows) and kept < importance.shape[1]:
        rows, history = _deal_rows(importance, vector_rows, kept, rounds, rng)
    tiles = rows.reshape(-1, vector_rows)
    columns = kept_columns(importance[tiles].sum(1, dtype=np.float64), kept)
    if method == "random":
        columns = rng.permuted(columns, axis=1)
    elif method == "gyro":
        found = [
            _group_columns(importance[tile], here, n, m, rounds, rng) for tile, here in zip(tiles, columns, strict=True)
        ]
        columns = np.stack([order for order, _ in found])
        history = history + [sum(step) for step in zip(*(h for _, h in found), strict=True)]
    made = Permutation(rows, columns, 0.0)
    share = retained(importance, permutation_mask(importance, n, m, made))
    return Permutation(rows, columns, share, [value / total for value in history])


def groupings(columns: int, m: int) -> Iterator[list[tuple[int, ...]]]:
    """Every way to put columns into unordered groups of m: 35 for 8 columns and m = 4, 5,775 for 12."""

    def parts(left: tuple[int, ...]) -> Iterator[list[tuple[int, ...]]]:
        if not left:
            yield []
            return
        for others in itertools.combinations(left[1:], m - 1):
            rest = tuple(c for c in left[1:] if c not in others)
            for tail in parts(rest):
                yield [(left[0], *others), *tail]

    return parts(tuple(range(columns)))


@cache
def _all_groupings(columns: int, m: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Every group of m columns (groups, m), and every grouping as numbers of such groups (ways, columns / m)."""
    every = list(itertools.combinations(range(columns), m))
    number = {group: i for i, group in enumerate(every)}
    ways = [[number[group] for group in way] for way in groupings(columns, m)]
    return np.array(every), np.array(ways)


def exhaustive_grouping(importance: NDArray[np.float32], n: int, m: int) -> Permutation:
    """The best column order of a small matrix (one tile, all columns kept) by trying every grouping.

    Raises:
        ValueError: "16 columns in groups of 4 are too many to try; take at most 12."
    """
    importance = validate.finite_matrix(importance, "importance", WHY)
    n, m = check_n_m(n, m, importance.shape[1])
    count = importance.shape[1]
    if count > 12:
        raise ValueError(f"{count} columns in groups of {m} are too many to try; take at most 12.")
    groups, ways = _all_groupings(count, m)
    scores = np.sort(importance[:, groups], axis=2)[..., m - n :].sum((0, 2), dtype=np.float64)
    best = int(np.argmax(scores[ways].sum(1)))
    total = float(importance.sum(dtype=np.float64))
    share = float(scores[ways[best]].sum()) / total if total else 1.0
    return Permutation(np.arange(len(importance)), groups[ways[best]].reshape(1, -1), share)


def permute_mlp(
    gate: NDArray, up: NDArray, down: NDArray, order: NDArray[np.int64]
) -> tuple[NDArray, NDArray, NDArray]:
    """Permute the hidden channels of a gated feed-forward network on both sides: its outputs stay the same.

    Args:
        gate, up: (H, K), their rows are the hidden channels.
        down: (K, H), its columns are the hidden channels.
        order: (H,), a permutation.
    """
    return gate[order], up[order], down[:, order]
