"""Lab 5, exercise 5: condense a window of sparse rows into a dense block, and choose a unit for it by a cost model.

The block is judged by the window that it stands for. Source: hc-spmm.
"""

from collections.abc import Callable
from functools import partial

import numpy as np

from edgeinfer.grading.exercise import Args, Arrays, Exercise, Misconception, Returns

# ---------------------------------------------------------------- 5a. condense_window


def _rows(rng: np.random.Generator, rows: int, columns: int, density: float, shared: int = 0) -> tuple[np.ndarray, ...]:
    """A sparse matrix in row form; `shared` columns are used by most rows."""
    mask = rng.random((rows, columns)) < density
    mask[:, rng.choice(columns, shared, replace=False)] |= rng.random((rows, shared)) < 0.9
    starts = np.concatenate([[0], np.cumsum(mask.sum(1))]).astype(np.int64)
    return starts, np.nonzero(mask)[1].astype(np.int64)


def _window_cases(rng: np.random.Generator) -> list[Args]:
    cases: list[Args] = []
    for rows, columns, density, shared, width in (
        (4, 24, 0.1, 3, 4), (8, 40, 0.05, 6, 8), (3, 12, 0.3, 0, 2), (5, 64, 0.02, 4, 4), (4, 16, 0.2, 2, 1),
    ):  # fmt: skip
        starts, indices = _rows(rng, rows, columns, density, shared)
        cases.append((starts, indices, rng.normal(size=len(indices)).astype(np.float32), width))
    gap = np.array([0, 3, 3, 7, 7, 8])  # rows without a non-zero
    cases.append((gap, np.array([1, 5, 9, 1, 2, 9, 30, 5]), rng.normal(size=8).astype(np.float32), 4))
    full = np.array([0, 4, 8])  # exactly one block
    cases.append((full, np.array([3, 4, 8, 11, 3, 4, 8, 11]), rng.normal(size=8).astype(np.float32), 4))
    cases.append((np.zeros(4, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32), 4))  # nothing at all
    return cases


def _condensed(
    row_starts: np.ndarray, column_indices: np.ndarray, values: np.ndarray, width: int
) -> tuple[np.ndarray, np.ndarray]:
    place: dict[int, int] = {}
    for k in sorted(int(k) for k in column_indices):
        place.setdefault(k, len(place))
    padded = -(-len(place) // width) * width
    columns = np.zeros(padded, np.int64)
    columns[: len(place)] = list(place)
    block = np.zeros((len(row_starts) - 1, padded), np.float32)
    for row in range(len(block)):
        for at in range(row_starts[row], row_starts[row + 1]):
            block[row, place[int(column_indices[at])]] = values[at]
    return columns, block


def _dense(row_starts: np.ndarray, column_indices: np.ndarray, values: np.ndarray, columns: int) -> np.ndarray:
    out = np.zeros((len(row_starts) - 1, columns))
    for row in range(len(out)):
        for at in range(row_starts[row], row_starts[row + 1]):
            out[row, column_indices[at]] = values[at]
    return out


def _window_accept(args: Args, got: Arrays) -> str:
    row_starts, column_indices, values, _ = args
    columns, block = got
    total = int(column_indices.max(initial=0)) + 1
    if len(columns) and (columns.min() < 0 or columns.max() >= total):
        return f"`columns` holds {int(columns.min())} to {int(columns.max())}, the window has columns 0 to {total - 1}."
    back = np.zeros((len(block), total))
    for j, k in enumerate(columns):
        back[:, k] += block[:, j]
    want = _dense(row_starts, column_indices, values, total)
    wrong = np.argwhere(~np.isclose(back, want, rtol=1e-5, atol=0))
    if len(wrong):
        row, k = (int(i) for i in wrong[0])
        return (
            f"row {row}, column {k} of the window is {want[row, k]:.3f}, the block stands for {back[row, k]:.3f} "
            f"({len(wrong)} places differ)."
        )
    return ""


def _row_of_each(row_starts: np.ndarray) -> np.ndarray:
    return np.repeat(np.arange(len(row_starts) - 1), np.diff(row_starts))


def _each_row_to_the_left(
    row_starts: np.ndarray, column_indices: np.ndarray, values: np.ndarray, width: int
) -> tuple[np.ndarray, np.ndarray]:
    columns, block = _condensed(row_starts, column_indices, values, width)
    block[:] = 0
    for row in range(len(block)):
        part = values[row_starts[row] : row_starts[row + 1]]
        block[row, : len(part)] = part
    return columns, block


def _first_columns(
    row_starts: np.ndarray, column_indices: np.ndarray, values: np.ndarray, width: int
) -> tuple[np.ndarray, np.ndarray]:
    columns, block = _condensed(row_starts, column_indices, values, width)
    total = max(int(column_indices.max(initial=0)) + 1, block.shape[1])
    return columns, _dense(row_starts, column_indices, values, total)[:, : block.shape[1]].astype(np.float32)


def _sorted_apart(
    row_starts: np.ndarray, column_indices: np.ndarray, values: np.ndarray, width: int
) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(column_indices, kind="stable")
    columns, block = _condensed(row_starts, column_indices, values, width)
    block[:] = 0
    places = np.unique(column_indices, return_inverse=True)[1]
    block[_row_of_each(row_starts), places[order]] = values[order]
    return columns, block


def _padded_otherwise(
    row_starts: np.ndarray,
    column_indices: np.ndarray,
    values: np.ndarray,
    width: int,
    size: Callable[[int, int], int] = lambda c, w: c,
) -> tuple[np.ndarray, np.ndarray]:
    columns, block = _condensed(row_starts, column_indices, values, 1)
    more = max(size(len(columns), width) - len(columns), 0)
    return np.pad(columns, (0, more)), np.pad(block, ((0, 0), (0, more)))


def _column_for_each(
    row_starts: np.ndarray, column_indices: np.ndarray, values: np.ndarray, width: int
) -> tuple[np.ndarray, np.ndarray]:
    number = len(values)
    block = np.zeros((len(row_starts) - 1, -(-number // width) * width), np.float32)
    block[_row_of_each(row_starts), np.arange(number)] = values
    return np.pad(column_indices, (0, block.shape[1] - number)), block


def _numbered_anew(
    row_starts: np.ndarray, column_indices: np.ndarray, values: np.ndarray, width: int
) -> tuple[np.ndarray, np.ndarray]:
    columns, block = _condensed(row_starts, column_indices, values, width)
    return np.where(np.arange(len(columns)) < len(np.unique(column_indices)), np.arange(len(columns)), 0), block


def _ones(
    row_starts: np.ndarray, column_indices: np.ndarray, values: np.ndarray, width: int
) -> tuple[np.ndarray, np.ndarray]:
    return _condensed(row_starts, column_indices, np.ones_like(values), width)


WINDOW = Exercise(
    name="condense_window",
    contract="row_starts int64 (R + 1,), column_indices int64 (Z,), values float32 (Z,), width int -> columns integer "
    "(P,), block float32 (R, P): the C columns that hold a non-zero (each once) side by side, P = C rounded up to a "
    "multiple of width; padded places hold column number 0 and zeros in the block. "
    "For every X: block @ X[columns] = window @ X",
    make_cases=_window_cases,
    oracle=_condensed,
    returns=(Returns("columns", dtype="integer"), Returns("block", dtype="float32")),
    accept=_window_accept,
    misconceptions=[
        Misconception(
            "each-row-to-the-left",
            "Every row is pushed to the left on its own. Column j of the block must be ONE column of the matrix for "
            "all rows, `columns[j]`: it will be multiplied by one row of X.",
            produces=_each_row_to_the_left,
        ),
        Misconception(
            "no-remap",
            "The block is filled by the OLD column numbers. After condensing, old column k stands at the place of k in "
            "`columns`: np.unique(column_indices, return_inverse=True) gives the places.",
            produces=_first_columns,
        ),
        Misconception(
            "columns-numbered-anew",
            "`columns` holds the new numbers 0, 1, 2, ... It must say which OLD column each place is: X[columns] "
            "fetches the rows of X with it.",
            produces=_numbered_anew,
        ),
        Misconception(
            "sorted-apart",
            "Columns and values are sorted, the rows are not: a value ends up in the row of another one. Leave the "
            "non-zeros in their order and look up their new place instead.",
            produces=_sorted_apart,
        ),
        Misconception(
            "not-padded",
            "C columns, not padded. A dense unit works on full blocks: round up to a multiple of `width`, with zeros.",
            produces=_padded_otherwise,
        ),
        Misconception(
            "one-block-too-many",
            "C // width + 1 adds a block of zeros when C is a multiple already. Round up: -(-C // width) * width.",
            produces=partial(_padded_otherwise, size=lambda c, w: (c // w + 1) * w),
        ),
        Misconception(
            "one-column-per-non-zero",
            "A column that several rows use appears several times. Each column once: rows share it, and that is what "
            "condensing gains.",
            produces=_column_for_each,
        ),
        Misconception("ones", "The block says where non-zeros are. It must hold their values.", produces=_ones),
        Misconception(
            "padding-outside",
            "A padded place holds a column number that does not exist (-1 would silently fetch the last row of X, a "
            "larger one fails). Use 0; the zeros in the block make it harmless.",
            recognises=lambda args, got, want: bool(
                got[0].min(initial=0) < 0 or got[0].max(initial=0) > args[1].max(initial=0)
            ),
        ),
        Misconception(
            "padding-counts-twice",
            "A padded place holds values again, so a column is added twice. The block must be zero there.",
            recognises=lambda args, got, want: bool(
                got[1][:, len(np.unique(args[1])) :].any()
                and np.array_equal(got[1][:, : len(np.unique(args[1]))], want[1][:, : len(np.unique(args[1]))])
            ),
        ),
    ],
    hint="Which columns does the window use at all, and how often does each appear in your result? To which row "
    "does non-zero number p belong? How wide must the block be at least?",
    points=3,
)

# ---------------------------------------------------------------- 5b. choose_units


def _choice_cases(rng: np.random.Generator) -> list[Args]:
    cases: list[Args] = []
    for windows, height, columns, width in ((6, 4, 32, 4), (5, 8, 48, 8), (4, 2, 20, 2), (8, 4, 64, 8)):
        parts = [
            _rows(rng, height, columns, float(rng.choice([0.02, 0.06, 0.2])), int(rng.choice([0, 2, columns // 3])))
            for _ in range(windows - 1)
        ]
        parts.insert(1, (np.zeros(height + 1, np.int64), np.zeros(0, np.int64)))  # an empty window
        counts = np.concatenate([np.diff(starts) for starts, _ in parts])
        starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        indices = np.concatenate([indices for _, indices in parts])
        costs = [_counts(starts, indices, height, width, w) for w in range(windows)]
        ratios = sorted(n / blocks for blocks, n in costs if blocks)  # the price at which half are better off dense
        middle = (ratios[len(ratios) // 2 - 1] + ratios[len(ratios) // 2]) / 2
        per_non_zero = float(rng.uniform(0.02, 0.08))
        cases.append((starts, indices, height, width, middle * per_non_zero * 1.0001, per_non_zero))
    cases.append((*cases[0][:4], cases[0][4] / 10, cases[0][5]))  # blocks are cheap
    starts, indices, height, width = cases[1][:4]
    costs = [_counts(starts, indices, height, width, w) for w in range((len(starts) - 1) // height)]
    blocks, non_zeros = next(c for c in costs if c[0])
    # For one window both units take the same time.
    cases.append((starts, indices, height, width, float(non_zeros), float(blocks)))
    return cases


def _counts(starts: np.ndarray, indices: np.ndarray, height: int, width: int, window: int) -> tuple[int, int]:
    """(blocks, non-zeros) of one window."""
    here = indices[starts[window * height] : starts[(window + 1) * height]]
    return -(-len({int(k) for k in here}) // width), len(here)


def _choice(
    row_starts: np.ndarray,
    column_indices: np.ndarray,
    height: int,
    width: int,
    us_per_block: float,
    us_per_non_zero: float,
) -> tuple[np.ndarray, np.ndarray]:
    dense, times = [], []
    for window in range((len(row_starts) - 1) // height):
        blocks, non_zeros = _counts(row_starts, column_indices, height, width, window)
        dense.append(blocks * us_per_block < non_zeros * us_per_non_zero)
        times.append(min(blocks * us_per_block, non_zeros * us_per_non_zero))
    return np.array(dense), np.array(times, np.float64)


def _chosen_otherwise(
    row_starts: np.ndarray,
    column_indices: np.ndarray,
    height: int,
    width: int,
    us_block: float,
    us_non_zero: float,
    blocks_of: Callable[[np.ndarray, int], float] = lambda here, width: float(-(-len(np.unique(here)) // width)),
    rule: str = "cheaper",
) -> tuple[np.ndarray, np.ndarray]:
    """The choice with one screw loose."""
    windows = [
        column_indices[row_starts[w * height] : row_starts[(w + 1) * height]]
        for w in range((len(row_starts) - 1) // height)
    ]
    block = np.array([blocks_of(here, width) for here in windows]) * us_block
    sparse = np.array([len(here) for here in windows]) * us_non_zero
    dense = {
        "cheaper": block < sparse,
        "ties": block <= sparse,
        "dearer": block > sparse,
        "together": np.full(len(windows), block.sum() < sparse.sum()),
        "half full": np.array([len(h) > 0.5 * height * len(np.unique(h)) for h in windows]),
    }[rule]
    return dense, np.where(dense, block, sparse)


def _both_times(*args: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    dense, _ = _choice(*args)  # type: ignore[arg-type]
    always, never = (_chosen_otherwise(*args[:4], *costs)[1] for costs in ((args[4], 1e9), (1e9, args[5])))  # type: ignore[arg-type]
    return dense, always + never


def _flipped(*args: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    dense, times = _choice(*args)  # type: ignore[arg-type]
    return ~dense, times


UNITS = Exercise(
    name="choose_units",
    contract="row_starts int64 (N + 1,), column_indices int64 (Z,), height int dividing N, width int, us_per_block "
    "float, us_per_non_zero float -> dense bool (N // height,): True where the dense unit is strictly cheaper for "
    "the window of `height` rows; times floating (N // height,): us on the chosen unit. Dense: number of blocks of "
    "`width` condensed columns, rounded up, times us_per_block; vector unit: non-zeros times us_per_non_zero",
    make_cases=_choice_cases,
    oracle=_choice,
    returns=(Returns("dense", dtype="bool"), Returns("times", dtype="floating", rtol=1e-6, atol=1e-9)),
    misconceptions=[
        Misconception(
            "not-condensed",
            "You count the blocks of the OLD columns that hold something. Condense first: the window's distinct "
            "columns, side by side, divided by the width and rounded up.",
            produces=partial(_chosen_otherwise, blocks_of=lambda here, width: float(len(np.unique(here // width)))),
        ),
        Misconception(
            "fraction-of-a-block",
            "Part of a block costs as much as a whole one: round the number of blocks up.",
            produces=partial(_chosen_otherwise, blocks_of=lambda here, width: len(np.unique(here)) / width),
        ),
        Misconception(
            "rounds-down",
            "Part of a block costs as much as a whole one: round up, not down (-(-c // width)).",
            produces=partial(_chosen_otherwise, blocks_of=lambda here, width: float(len(np.unique(here)) // width)),
        ),
        Misconception(
            "columns-not-shared",
            "Columns that several rows use are counted several times. The rows of a window share them: count distinct "
            "columns.",
            produces=partial(_chosen_otherwise, blocks_of=lambda here, width: float(-(-len(here) // width))),
        ),
        Misconception(
            "columns-as-blocks",
            "You charge a block for every column. A block holds `width` of them.",
            produces=partial(_chosen_otherwise, blocks_of=lambda here, width: float(len(np.unique(here)))),
        ),
        Misconception(
            "one-unit-for-all",
            "One unit is chosen for the whole matrix. The windows differ: choose for each.",
            produces=partial(_chosen_otherwise, rule="together"),
        ),
        Misconception(
            "half-full-rule",
            "A fixed density is no cost model: where the border lies depends on the two prices. Compare the two times.",
            produces=partial(_chosen_otherwise, rule="half full"),
        ),
        Misconception(
            "dearer-unit",
            "The comparison is the wrong way round: you choose the slower unit.",
            produces=partial(_chosen_otherwise, rule="dearer"),
        ),
        Misconception(
            "flags-flipped",
            "The times are right, the flags are turned round: True means the dense unit.",
            produces=_flipped,
        ),
        Misconception(
            "empty-window",
            "Right but where both units take the same time, as in a window without a non-zero, 0 us: on a tie the "
            "vector unit is chosen (<).",
            produces=partial(_chosen_otherwise, rule="ties"),
        ),
        Misconception(
            "both-times",
            "The choice is right, but the times are those of both units together. Only the chosen one works.",
            produces=_both_times,
        ),
    ],
    hint="For one window: what does each unit count, and in which steps? A window with width + 1 columns costs how "
    "many blocks? What if both cost the same?",
    points=2,
)
