"""Lab 4, exercise 1: compressed sparse rows, and the product that reads only what is stored.

The oracles go through the matrix number by number, or make it dense again. Source: the CSR format of every sparse
library; flash-llm and spinfer count its bytes.
"""

from functools import partial
from typing import Any

import numpy as np

from edgeinfer.grading.exercise import Args, Arrays, Exercise, Misconception, Returns


def sparse(rng: np.random.Generator, n: int, k: int, density: float) -> np.ndarray:
    """A matrix whose non-zeros lie anywhere; float32."""
    weight = rng.normal(size=(n, k)) + np.copysign(0.05, rng.normal(size=(n, k)))
    return np.where(rng.random((n, k)) < density, weight, 0).astype(np.float32)


# ---------------------------------------------------------------- 1a. csr_from_dense


def _dense_cases(rng: np.random.Generator) -> list[Args]:
    gaps = sparse(rng, 7, 9, 0.6)
    gaps[[0, 3, 4, 6]] = 0  # empty rows at both ends and two in a row
    tiny = sparse(rng, 4, 6, 0.7)
    tiny[1, 2], tiny[3, 0] = 1e-12, -3e-20
    lost = sparse(rng, 3, 8, 0.5)
    lost[0, 5] = lost[2, 7] = np.nan
    return [
        (sparse(rng, 5, 8, 0.5),), (gaps,), (np.zeros((3, 4), np.float32),), (sparse(rng, 4, 3, 1.0),),
        (sparse(rng, 1, 12, 0.3),), (tiny,), (lost,), (sparse(rng, 3, 400, 0.4),), (sparse(rng, 2, 70_000, 0.01),),
    ]  # fmt: skip


def _compressed(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    values, columns, starts = [], [], [0]
    for row in weight.tolist():
        for column, value in enumerate(row):
            if value != 0:
                values.append(value)
                columns.append(column)
        starts.append(len(values))
    return np.array(values, np.float32), np.array(columns, np.int32), np.array(starts, np.int32)


def _kept(weight: np.ndarray, keep: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The format of the entries where `keep` is true."""
    starts = np.concatenate([[0], np.cumsum(keep.sum(1))])
    return weight[keep], np.nonzero(keep)[1], starts


def _by_columns(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return _compressed(weight.T)


def _skips_empty_rows(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    values, columns, starts = _compressed(weight)
    return values, columns, np.append(np.unique(starts[:-1][np.diff(starts) > 0]), len(values))


def _other_columns(weight: np.ndarray, flat: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    values, columns, starts = _compressed(weight)
    rows = np.nonzero(weight != 0)[0]
    return values, rows * weight.shape[1] + columns if flat else rows, starts


def _run_over(args: Args, got: Arrays, want: Arrays) -> bool:
    return np.array_equal(got[0], want[0]) and any(
        g.dtype.itemsize <= 2 and np.array_equal(g, w.astype(g.dtype)) and not np.array_equal(g, w)
        for g, w in zip(got[1:], want[1:], strict=True)
    )


def _starts_only(args: Args, got: Arrays, want: Arrays) -> bool:
    return np.array_equal(got[0], want[0], equal_nan=True) and np.array_equal(got[1], want[1])


def _other_starts(weight: np.ndarray, change: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    values, columns, starts = _compressed(weight)
    return values, columns, change(starts)


COMPRESS = Exercise(
    name="csr_from_dense",
    contract="weight float32 (N, K) -> (values float32 (nnz,), columns integer (nnz,), row_starts integer (N + 1,)): "
    "everything that is not equal to 0, row by row and from left to right; row n is values[row_starts[n] : "
    "row_starts[n + 1]]",
    make_cases=_dense_cases,
    oracle=_compressed,
    returns=(
        Returns("values", dtype="float32", nan_ok=True),
        Returns("columns", dtype="integer"),
        Returns("row_starts", dtype="integer"),
    ),
    misconceptions=[
        Misconception(
            "counts-instead-of-starts",
            "`row_starts` holds how many numbers each row has. It must hold where each row starts: the running total "
            "of the counts, beginning with 0 and ending with nnz.",
            produces=partial(_other_starts, change=np.diff),
        ),
        Misconception(
            "no-leading-zero",
            "The running total of the counts says where a row ENDS. Put a 0 in front, and it says where each row "
            "starts and, one further, where it ends: N + 1 numbers.",
            produces=partial(_other_starts, change=lambda starts: starts[1:]),
        ),
        Misconception(
            "no-end",
            "The last row has a start but no end. Append nnz: `row_starts` has N + 1 numbers.",
            produces=partial(_other_starts, change=lambda starts: starts[:-1]),
        ),
        Misconception(
            "starts-skip-empty-rows",
            "A row without a non-zero has a start, too (equal to its end). Otherwise all later rows move up.",
            produces=_skips_empty_rows,
        ),
        Misconception(
            "compressed-by-columns",
            "This is the format by columns (CSC). In CSR the numbers stand row by row, `columns` says in which column "
            "each one was, and there is a start for each row.",
            produces=_by_columns,
        ),
        Misconception(
            "rows-for-columns",
            "`columns` holds row numbers. The row of a number is known from row_starts; what must be stored is its "
            "column. np.nonzero gives (rows, columns), in this order.",
            produces=partial(_other_columns, flat=False),
        ),
        Misconception(
            "flat-positions",
            "`columns` holds positions in the flattened matrix. A column runs from 0 to K - 1 in every row; small "
            "numbers are what makes two bytes enough.",
            produces=partial(_other_columns, flat=True),
        ),
        Misconception(
            "loses-nan",
            "A NaN got lost: NaN > 0 is false. It is no zero, and a format must not repair a broken matrix in "
            "silence. Ask `weight != 0`.",
            produces=lambda weight: _kept(weight, np.abs(weight) > 0),
        ),
        Misconception(
            "drops-small-numbers",
            "Very small numbers got lost. Deciding what is small enough to go is pruning, and was done before; the "
            "format leaves out exact zeros only: `weight != 0`.",
            produces=lambda weight: _kept(weight, ~(np.abs(weight) < 1e-8)),
        ),
        Misconception(
            "positive-only",
            "The negative numbers got lost: `weight > 0` is not the question, `weight != 0` is.",
            produces=lambda weight: _kept(weight, weight > 0),
        ),
        Misconception(
            "keeps-zeros",
            "The zeros are stored as well: that is the dense matrix with a column number for each entry.",
            produces=lambda weight: _kept(weight, np.ones(weight.shape, bool)),
        ),
        Misconception(
            "numbers-run-over",
            "Wrong only where a column or a start is too large for its integer type: 8 bits hold 256 columns, 16 bits "
            "65,536. Take int32, or look at the width first.",
            recognises=_run_over,
        ),
        Misconception(
            "only-the-starts-are-wrong",
            "`values` and `columns` are right. `row_starts` is not: it begins with 0, grows by the number of non-zeros "
            "of each row, and ends with nnz.",
            recognises=_starts_only,
        ),
    ],
    hint="Try the matrix [[0, 5, 0], [0, 0, 0], [7, 0, 2]]: values 5 7 2, columns 1 0 2, row_starts 0 1 1 3.",
    points=2,
)

# ---------------------------------------------------------------- 1b. csr_matvec


def _matvec_cases(rng: np.random.Generator) -> list[Args]:
    gaps, end = sparse(rng, 8, 10, 0.5), sparse(rng, 6, 9, 0.5)
    gaps[[0, 3, 4]] = 0
    end[[1, 5]] = 0
    end[4, 2] = 1.0  # the row before the empty last one is not empty
    matrices = [
        sparse(rng, 5, 8, 0.5), gaps, sparse(rng, 4, 4, 0.7), sparse(rng, 1, 20, 0.3), end,
        sparse(rng, 3, 5, 1.0), sparse(rng, 12, 30, 0.2), np.zeros((3, 4), np.float32),
    ]  # fmt: skip
    return [(*_compressed(w), rng.normal(size=w.shape[1]).astype(np.float32)) for w in matrices]


def _dense_product(values: np.ndarray, columns: np.ndarray, row_starts: np.ndarray, x: np.ndarray) -> np.ndarray:
    weight = np.zeros((len(row_starts) - 1, len(x)))
    for n in range(len(weight)):
        for i in range(row_starts[n], row_starts[n + 1]):
            weight[n, columns[i]] = values[i]
    return weight @ x.astype(np.float64)


def _sliced(
    values: np.ndarray,
    columns: np.ndarray,
    row_starts: np.ndarray,
    x: np.ndarray,
    end: int = 0,
    start: int = 0,
    skip_last: bool = False,
    by_position: bool = False,
) -> np.ndarray:
    """Row by row, with one screw loose."""
    products = values * x[columns].astype(np.float64)
    y = np.zeros(len(row_starts) - 1)
    for n in range(len(y) - skip_last):
        first, last = row_starts[n] + start, row_starts[n + 1] + end
        part = values[first:last] * x[: last - first] if by_position else products[first : max(first, last)]
        y[n] = part.sum()
    return y


def _last_of_row(values: np.ndarray, columns: np.ndarray, row_starts: np.ndarray, x: np.ndarray) -> np.ndarray:
    y = np.zeros(len(row_starts) - 1)
    rows = np.repeat(np.arange(len(y)), np.diff(row_starts))
    y[rows] += values * x[columns]
    return y


def _segments(values: np.ndarray, columns: np.ndarray, row_starts: np.ndarray, x: np.ndarray) -> np.ndarray:
    return np.add.reduceat(np.append(values * x[columns], np.float32(0)), row_starts[:-1])


def _transposed(values: np.ndarray, columns: np.ndarray, row_starts: np.ndarray, x: np.ndarray) -> np.ndarray:
    y = np.zeros(len(x))
    rows = np.repeat(np.arange(len(row_starts) - 1), np.diff(row_starts))
    np.add.at(y, columns, values * x[np.minimum(rows, len(x) - 1)])
    return y


MATVEC = Exercise(
    name="csr_matvec",
    contract="values float32 (nnz,), columns int32 (nnz,), row_starts int32 (N + 1,) as csr_from_dense makes them, "
    "x float32 (K,) -> y floating (N,): W @ x; an empty row gives 0",
    make_cases=_matvec_cases,
    oracle=_dense_product,
    returns=(Returns("y", dtype="floating", rtol=1e-4, atol=1e-5),),
    misconceptions=[
        Misconception(
            "fancy-index-keeps-the-last",
            "Each row holds only its last product. `y[rows] += products` does not add up when a row number occurs "
            "several times: NumPy reads y once and writes it once. Use np.add.at, np.bincount, or a sum for each row.",
            produces=_last_of_row,
        ),
        Misconception(
            "reduceat-empty-rows",
            "np.add.reduceat has no sum of nothing: for an empty row it gives the number that stands at its start, "
            "which belongs to a later row. Empty rows must give 0.",
            produces=_segments,
        ),
        Misconception(
            "reduceat-beyond-the-end",
            "np.add.reduceat has no sum of nothing: an empty last row starts where the numbers end, "
            "and it refuses that; for other empty rows it gives a number of a later row. Empty rows must give 0.",
            produces=lambda values, columns, row_starts, x: np.add.reduceat(values * x[columns], row_starts[:-1]),
        ),
        Misconception(
            "position-instead-of-column",
            "Number i of a row was multiplied by x[i]. Zeros were left out, so the place in the row is not the "
            "column: take x[columns].",
            produces=partial(_sliced, by_position=True),
        ),
        Misconception(
            "loses-the-last-of-a-row",
            "The last number of each row is missing: row n ends BEFORE row_starts[n + 1], and a Python slice already "
            "leaves its end out.",
            produces=partial(_sliced, end=-1),
        ),
        Misconception(
            "runs-into-the-next-row",
            "Each row takes one number of the next row along: row n ends before row_starts[n + 1].",
            produces=partial(_sliced, end=1),
        ),
        Misconception(
            "loses-the-first-of-a-row",
            "The first number of each row is missing: it stands at row_starts[n], not after it.",
            produces=partial(_sliced, start=1),
        ),
        Misconception(
            "skips-the-last-row",
            "The last row is missing: there are len(row_starts) - 1 rows.",
            produces=partial(_sliced, skip_last=True),
        ),
        Misconception(
            "sums-run-on",
            "The sum is not set back to 0 between rows: y[n] holds all rows up to n. (With a running total, subtract "
            "the total at the row's start.)",
            produces=lambda *args: np.cumsum(_dense_product(*args)),
        ),
        Misconception(
            "values-forgotten",
            "The activations of each row are added, but not multiplied by `values`: value i meets x[columns[i]].",
            produces=lambda values, columns, row_starts, x: _dense_product(
                np.ones_like(values), columns, row_starts, x
            ),
        ),
        Misconception(
            "transposed-product",
            "That is the transposed product: column numbers say where to READ x (a gather), not where to add in y "
            "(a scatter). y has one number for each row.",
            produces=_transposed,
        ),
    ],
    hint="Which stretch of `values` belongs to row n, and which element of x does each of its numbers meet? Try it "
    "with an empty row first.",
    points=2,
)
