"""Lab 9, exercises 5 and 6: an even division of a sparse matrix, and what a tile saves.

The division is walked step by step, the traffic counted tile by tile. Sources: gpu-merge-path, loop-tiling.
"""

from collections.abc import Callable
from functools import partial

import numpy as np

from edgeinfer.grading.exercise import Args, Exercise, Misconception, Returns

# ---------------------------------------------------------------- merge path


def _offsets(counts: list[int] | np.ndarray) -> np.ndarray:
    return np.concatenate(([0], np.cumsum(np.asarray(counts, np.int64)))).astype(np.int64)


def _split_cases(rng: np.random.Generator) -> list[Args]:
    return [
        (_offsets(rng.integers(0, 6, 11)), 4),
        (_offsets([2, 40, 1, 0, 3]), 5),  # one giant row
        (_offsets([3, 0, 0, 0, 0, 0, 4, 1]), 3),  # empty rows pile up
        (_offsets([0, 1]), 7),  # more parts than steps
        (_offsets([]), 3),
        (_offsets([0, 0, 0, 0]), 2),
        (_offsets(rng.integers(0, 3, 40)), 1),
        (_offsets(rng.geometric(0.2, 25) - 1), 6),
        (_offsets([2, 2, 2, 2]), 4),
    ]


def _walk(
    row_offsets: np.ndarray,
    parts: int,
    cut: Callable[[int, int, int], int] = lambda p, total, parts: p * total // parts,
    late: bool = False,
) -> np.ndarray:
    """Step by step; `late`: the end of a row waits until the next entry is taken."""
    ends = [int(e) for e in row_offsets[1:]]
    rows, entries = len(ends), int(row_offsets[-1])
    at, i, j = [(0, 0)], 0, 0
    for _ in range(rows + entries):
        if i < rows and (ends[i] < j or (ends[i] == j and (not late or j == entries))):
            i += 1
        else:
            j += 1
        at.append((i, j))
    return np.array([at[min(cut(p, rows + entries, parts), rows + entries)] for p in range(parts + 1)], np.int64)


def _rows_only(row_offsets: np.ndarray, parts: int) -> np.ndarray:
    i = np.arange(parts + 1) * (len(row_offsets) - 1) // parts
    return np.stack((i, np.asarray(row_offsets)[i]), 1)


def _entries_only(row_offsets: np.ndarray, parts: int) -> np.ndarray:
    j = np.arange(parts + 1) * int(row_offsets[-1]) // parts
    return np.stack((np.searchsorted(row_offsets[1:], j, side="right"), j), 1)


def _whole_rows(row_offsets: np.ndarray, parts: int) -> np.ndarray:
    points = _walk(row_offsets, parts)
    return np.stack((points[:, 0], np.asarray(row_offsets)[points[:, 0]]), 1)


def _one_end_more(row_offsets: np.ndarray, parts: int) -> np.ndarray:
    points = _walk(row_offsets, parts)
    for point in points:
        if point[0] < len(row_offsets) - 1 and row_offsets[point[0] + 1] == point[1]:  # the next step ends a row
            point += (1, -1)
    return points


def _in_the_row(row_offsets: np.ndarray, parts: int) -> np.ndarray:
    points = _walk(row_offsets, parts)
    points[:, 1] -= np.asarray(row_offsets)[points[:, 0]]
    return points


def _both_evenly(row_offsets: np.ndarray, parts: int) -> np.ndarray:
    p = np.arange(parts + 1)
    return np.stack((p * (len(row_offsets) - 1) // parts, p * int(row_offsets[-1]) // parts), 1)


def _sizes(row_offsets: np.ndarray, parts: int) -> np.ndarray:
    return np.diff(_walk(row_offsets, parts), axis=0)


def _rest_last(p: int, total: int, parts: int) -> int:
    return total if p == parts else p * (total // parts)


SPLIT = Exercise(
    name="merge_path_split",
    contract="row_offsets integer (rows + 1,) of a CSR matrix, parts int >= 1 -> points integer (parts + 1, 2): (row, "
    "entry) where the walk stands after p * (rows + entries) // parts steps; a step takes the next entry, or, as "
    "soon as "
    "all its entries are taken, ends the row",
    make_cases=_split_cases,
    oracle=_walk,
    returns=(Returns("points", dtype="integer"),),
    misconceptions=[
        Misconception(
            "rows-only",
            "Every part has the same number of rows. One long row then keeps one part busy while the others wait.",
            produces=_rows_only,
        ),
        Misconception(
            "entries-only",
            "Every part has the same number of entries. Empty rows are work as well (an output is written): they "
            "count as "
            "steps.",
            produces=_entries_only,
        ),
        Misconception(
            "each-list-alone",
            "Rows and entries are divided each for itself. A point then names an entry that is not in its row: both "
            "numbers come from the same walk.",
            produces=_both_evenly,
        ),
        Misconception(
            "sizes-not-points",
            "These are the sizes of the parts. Asked are the parts + 1 points at which they begin and end.",
            produces=_sizes,
        ),
        Misconception(
            "rounded-to-nearest",
            "The cuts are rounded to the nearest step; the contract rounds down.",
            produces=partial(_walk, cut=lambda p, total, parts: round(p * total / parts)),
        ),
        Misconception(
            "whole-rows",
            "The cuts are moved to the beginning of a row, so a giant row stays in one piece. A cut may lie inside a "
            "row.",
            produces=_whole_rows,
        ),
        Misconception(
            "row-ends-late",
            "At a tie the next entry is taken first. A row ends as soon as its entries are taken: compare with <=, "
            "not <.",
            produces=partial(_walk, late=True),
        ),
        Misconception(
            "remainder-last",
            "The last part takes all of the remainder. Cut after p * total // parts steps: sizes then differ by at "
            "most 1.",
            produces=partial(_walk, cut=_rest_last),
        ),
        Misconception(
            "rounded-up",
            "The cuts are rounded up; the contract rounds p * total / parts down.",
            produces=partial(_walk, cut=lambda p, total, parts: -(-p * total // parts)),
        ),
        Misconception(
            "next-step-counted",
            "A row that ends in the step right behind the cut counts as ended here. Steps are numbered from 0: after s "
            "steps, the steps 0 to s - 1 are done.",
            produces=_one_end_more,
        ),
        Misconception(
            "entry-within-its-row",
            "Your entries are counted from the beginning of their row. Count them from the beginning of the matrix.",
            produces=_in_the_row,
        ),
        Misconception(
            "entry-first",
            "The two numbers of a point are exchanged: row first, then entry.",
            produces=lambda row_offsets, parts: _walk(row_offsets, parts)[:, ::-1],
        ),
    ],
    hint="Which steps come before the end of row i: how many entries, and how many ends of rows? That is the number of "
    "its step (from 0). How many rows end before the cut? The rest of the steps took entries.",
    points=3,
)

# ---------------------------------------------------------------- tiles


def _traffic_cases(rng: np.random.Generator) -> list[Args]:
    drawn = [tuple(int(v) for v in (*rng.integers(3, 40, 3), *rng.integers(2, 9, 3))) for _ in range(6)]
    return [
        *drawn,
        (7, 5, 9, 16, 2, 4),
        (8, 8, 8, 4, 2, 2),
        (1, 6, 10, 1, 4, 3),
        (13, 1, 6, 4, 1, 2),
        (5, 7, 3, 2, 3, 8),
    ]


def _tiles(extent: int, tile: int) -> list[int]:
    return [min(tile, extent - start) for start in range(0, extent, tile)]


def _traffic(M: int, N: int, K: int, tile_m: int, tile_n: int, tile_k: int) -> tuple[int, int]:
    moved = held = 0
    for m in _tiles(M, tile_m):
        for n in _tiles(N, tile_n):
            for k in _tiles(K, tile_k):
                moved += m * k + k * n
                held = max(held, m * k + k * n + m * n)
            moved += m * n
    return moved, held


def _up(a: int, b: int) -> int:
    return -(-a // b)


def _formula(
    M: int, N: int, K: int, tile_m: int, tile_n: int, tile_k: int, *, times_a: int | None = None,
    times_b: int | None = None, times_c: int = 1, cut: bool = True, with_c: bool = True, largest: bool = False,
) -> tuple[int, int]:  # fmt: skip
    times_a = _up(N, tile_n) if times_a is None else times_a
    times_b = _up(M, tile_m) if times_b is None else times_b
    m, n, k = (min(tile_m, M), min(tile_n, N), min(tile_k, K)) if cut else (tile_m, tile_n, tile_k)
    parts = [m * k, k * n, m * n if with_c else 0]
    return M * K * times_a + K * N * times_b + M * N * times_c, max(parts) if largest else sum(parts)


def _floor(M: int, N: int, K: int, tile_m: int, tile_n: int, tile_k: int) -> tuple[int, int]:
    return _formula(M, N, K, tile_m, tile_n, tile_k, times_a=N // tile_n, times_b=M // tile_m)


def _swapped(M: int, N: int, K: int, tile_m: int, tile_n: int, tile_k: int) -> tuple[int, int]:
    return _formula(M, N, K, tile_m, tile_n, tile_k, times_a=_up(M, tile_m), times_b=_up(N, tile_n))


def _c_each_step(M: int, N: int, K: int, tile_m: int, tile_n: int, tile_k: int) -> tuple[int, int]:
    return _formula(M, N, K, tile_m, tile_n, tile_k, times_c=_up(K, tile_k))


def _padded(M: int, N: int, K: int, tile_m: int, tile_n: int, tile_k: int) -> tuple[int, int]:
    whole = (_up(M, tile_m) * tile_m, _up(N, tile_n) * tile_n, _up(K, tile_k) * tile_k)
    return _traffic(*whole, tile_m, tile_n, tile_k)


def _fractions(M: int, N: int, K: int, tile_m: int, tile_n: int, tile_k: int) -> tuple[int, int]:
    moved = int(M * K * N / tile_n + K * N * M / tile_m + M * N)
    return moved, _traffic(M, N, K, tile_m, tile_n, tile_k)[1]


def _k_again(M: int, N: int, K: int, tile_m: int, tile_n: int, tile_k: int) -> tuple[int, int]:
    steps = _up(K, tile_k)
    return _formula(M, N, K, tile_m, tile_n, tile_k, times_a=_up(N, tile_n) * steps, times_b=_up(M, tile_m) * steps)


def _exchanged(M: int, N: int, K: int, tile_m: int, tile_n: int, tile_k: int) -> tuple[int, int]:
    return _traffic(M, N, K, tile_m, tile_n, tile_k)[::-1]


def _untiled(M: int, N: int, K: int, tile_m: int, tile_n: int, tile_k: int) -> tuple[int, int]:
    return 2 * M * N * K + M * N, _traffic(M, N, K, tile_m, tile_n, tile_k)[1]


TRAFFIC = Exercise(
    name="tiled_matmul_traffic",
    contract="M, N, K, tile_m, tile_n, tile_k int >= 1 -> moved int, held int, in elements: what C (M, N) = A (M, K) "
    "B (K, "
    "N) reads of A and B and writes of C when tiles of A and B are loaded step by step and the tile of C stays until "
    "it "
    "is done; and the most that one tile of each takes, tiles cut at the edges of the matrices",
    make_cases=_traffic_cases,
    oracle=_traffic,
    returns=(Returns("moved", dtype="integer"), Returns("held", dtype="integer")),
    misconceptions=[
        Misconception("edge-tiles-forgotten", "Tiles at the edge are forgotten: round up, not down.", produces=_floor),
        Misconception(
            "c-every-step",
            "The tile of C is moved at every step along K. It stays in fast memory until the sum is complete.",
            produces=_c_each_step,
        ),
        Misconception(
            "a-and-b-exchanged",
            "A is read once for every tile COLUMN of C (along N), B once for every tile row (along M); here it is the "
            "other way round.",
            produces=_swapped,
        ),
        Misconception(
            "padded", "Tiles at the edge are counted as whole ones. They are as small as the matrix leaves them.",
            produces=_padded,
        ),
        Misconception(
            "fractions-of-tiles",
            "N / tile_n is no whole number of tiles. Tiles at the edge make the other operand pass by once more.",
            produces=_fractions,
        ),
        Misconception(
            "again-for-every-step",
            "A and B are counted again for every step along K. A step loads only its own part of them.",
            produces=_k_again,
        ),
        Misconception("results-exchanged", "The two results are exchanged: moved, then held.", produces=_exchanged),
        Misconception("c-left-out", "C is written once, too.", produces=partial(_formula, times_c=0)),
        Misconception(
            "c-read-and-written", "C is only written: its sum begins with zero in fast memory.",
            produces=partial(_formula, times_c=2),
        ),
        Misconception(
            "each-matrix-once",
            "Each matrix is moved once. That needs all of it in fast memory; a tile of A is loaded again for every "
            "tile of "
            "C that needs it.",
            produces=partial(_formula, times_a=1, times_b=1),
        ),
        Misconception(
            "untiled", "This is the traffic without tiles: two numbers loaded per multiplication.", produces=_untiled
        ),
        Misconception(
            "held-not-cut", "`held`: a tile cannot be larger than its matrix.", produces=partial(_formula, cut=False)
        ),
        Misconception(
            "held-without-c",
            "`held`: the tile of C is in fast memory as well.",
            produces=partial(_formula, with_c=False),
        ),
        Misconception(
            "held-largest", "`held`: the three tiles are there at the same time; add them.",
            produces=partial(_formula, largest=True),
        ),
    ],
    hint="Take one tile of C. Which part of A and which part of B pass by until it is done? How many tiles of C need "
    "the same part? Which of the three tile sizes does not matter for `moved`?",
    points=3,
)  # fmt: skip
