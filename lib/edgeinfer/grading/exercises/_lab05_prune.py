"""Lab 5, exercise 1a: N:M pruning along the input axis.

Where magnitudes are equal several answers are right, so an answer is judged by what it keeps. Source: hierarchical-nm.
"""

from collections.abc import Callable
from functools import partial

import numpy as np

from edgeinfer.grading.exercise import Args, Arrays, Exercise, Misconception, Returns

# ---------------------------------------------------------------- 1a. prune_n_m


def _prune_cases(rng: np.random.Generator) -> list[Args]:
    cases: list[Args] = []
    for rows, columns, n, m in (
        (4, 16, 2, 4), (4, 12, 1, 4), (8, 24, 4, 8), (2, 6, 1, 2), (4, 4, 2, 4), (4, 8, 3, 4), (8, 8, 2, 8),
    ):  # fmt: skip
        cases.append((rng.normal(size=(rows, columns)).astype(np.float32), n, m))
    tied = (rng.choice([-1.0, 1.0], size=(4, 8)) * 0.75).astype(np.float32)
    tied[1] = 0
    return [*cases, (tied, 2, 4)]


def runs_of(weight: np.ndarray, m: int) -> np.ndarray:
    """(N, K) -> (N, K // m, m): the runs of m neighbouring columns."""
    return weight.reshape(len(weight), -1, m)


def pruned(weight: np.ndarray, n: int, m: int) -> np.ndarray:
    """Run by run in plain Python: the n largest magnitudes stay."""
    out = np.zeros_like(weight)
    for row in range(weight.shape[0]):
        for start in range(0, weight.shape[1], m):
            order = sorted(range(start, start + m), key=lambda k: -abs(float(weight[row, k])))
            for k in order[:n]:
                out[row, k] = weight[row, k]
    return out


def _prune_accept(args: Args, got: Arrays) -> str:
    weight, n, m = args
    (answer,) = got
    for row in range(len(weight)):
        for start in range(0, weight.shape[1], m):
            before, after = weight[row, start : start + m], answer[row, start : start + m]
            place = f"row {row}, columns {start} to {start + m - 1}: {numbers(before)} became {numbers(after)}"
            kept = after != 0
            if np.any(after[kept] != before[kept]):
                return f"{place}; a weight that stays must keep its value."
            if kept.sum() > n:
                return f"{place}; {int(kept.sum())} weights stay, at most {n} of {m} may."
            if np.abs(after).sum() < np.sort(np.abs(before))[m - n :].sum() * (1 - 1e-6):
                return f"{place}; these are not the {n} largest magnitudes."
    return ""


def numbers(values: np.ndarray) -> str:
    return np.array2string(values, precision=2, separator=", ", suppress_small=True, max_line_width=200)


def _without_ties(function: Callable[..., np.ndarray]) -> Callable[[Args, Arrays, Arrays], bool]:
    """Recognise this wrong function by its answers where no two magnitudes of a row are equal."""

    def recognises(args: Args, got: Arrays, want: Arrays) -> bool:
        weight = args[0]
        if np.unique(np.abs(weight)).size < weight.size:
            return True
        return bool(np.array_equal(got[0], function(*args)))

    return recognises


def _by(key: Callable[[np.ndarray], np.ndarray]) -> Callable[..., np.ndarray]:
    """Keep the n largest of each run by another measure."""

    def function(weight: np.ndarray, n: int, m: int) -> np.ndarray:
        runs = runs_of(weight, m)
        rank = np.argsort(np.argsort(-key(runs), axis=-1, kind="stable"), axis=-1)
        return np.where(rank < n, runs, 0).reshape(weight.shape)

    return function


def _whole(weight: np.ndarray, n: int, m: int, axis: int | None) -> np.ndarray:
    size = np.abs(weight)
    count = (weight.size if axis is None else weight.shape[1]) * n // m
    ordered = np.sort(size.ravel()) if axis is None else np.sort(size, 1)
    limit = ordered[-count] if axis is None else ordered[:, -count][:, None]
    return np.where(size >= limit, weight, 0)


def _down_the_columns(weight: np.ndarray, n: int, m: int) -> np.ndarray:
    return pruned(np.ascontiguousarray(weight.T), n, m).T


def _far_apart(weight: np.ndarray, n: int, m: int) -> np.ndarray:
    columns = weight.shape[1]
    order = np.arange(columns).reshape(m, columns // m).T.ravel()
    out = np.zeros_like(weight)
    out[:, order] = pruned(weight[:, order], n, m)
    return out


def _kept(weight: np.ndarray, n: int, m: int) -> np.ndarray:
    return pruned(weight, n, m) != 0


PRUNE = Exercise(
    name="prune_n_m",
    contract="weight float32 (N, K), n int, m int dividing K -> pruned float32 (N, K): of every m neighbouring columns "
    "of a row the n largest magnitudes keep their value, the others are 0 (among equal ones any n)",
    make_cases=_prune_cases,
    oracle=pruned,
    returns=(Returns("pruned", dtype="float32"),),
    accept=_prune_accept,
    misconceptions=[
        Misconception(
            "keeps-all-ties",
            "Right until magnitudes are equal: a comparison with the n-th largest (>=) then keeps more than n. Choose "
            "positions (argsort), not a threshold.",
            recognises=lambda args, got, want: (
                bool((np.count_nonzero(runs_of(got[0], args[2]), axis=2) > args[1]).any())
                and np.unique(np.abs(args[0])).size < args[0].size
            ),
        ),
        Misconception(
            "loses-ties",
            "Right until magnitudes are equal: a comparison with > then drops all of them. Choose positions (argsort), "
            "not a threshold.",
            recognises=lambda args, got, want: np.unique(np.abs(args[0])).size < args[0].size,
        ),
        Misconception(
            "drops-n",
            "n is how many STAY of each m. You set n of them to zero.",
            recognises=_without_ties(lambda w, n, m: pruned(w, m - n, m)),
        ),
        Misconception(
            "keeps-the-smallest",
            "The smallest magnitudes stay and the largest go: the order is the wrong way round.",
            recognises=_without_ties(lambda w, n, m: _by(lambda r: -np.abs(r))(w, n, m)),
        ),
        Misconception(
            "signed",
            "You compare signed values. A weight of -3 matters more than one of 0.1: compare magnitudes.",
            recognises=_without_ties(lambda w, n, m: _by(lambda r: r)(w, n, m)),
        ),
        Misconception(
            "loses-the-sign",
            "The right weights stay, but as magnitudes. Choose by magnitude, then keep the weight itself.",
            recognises=_without_ties(lambda w, n, m: np.abs(pruned(w, n, m))),
        ),
        Misconception(
            "whole-matrix",
            "The share n / m is kept of the whole matrix. That is unstructured pruning: it keeps more magnitude, but "
            "no unit can count on two of each four. Every run of m keeps its own n.",
            recognises=_without_ties(partial(_whole, axis=None)),
        ),
        Misconception(
            "whole-row",
            "The share n / m is kept of each row. The pattern asks for n in EVERY run of m neighbouring columns.",
            recognises=_without_ties(partial(_whole, axis=1)),
        ),
        Misconception(
            "down-the-columns",
            "The runs go down the columns. They must lie along the input axis (a row of the weight), where a product "
            "walks: there the unit picks n of m activations.",
            recognises=_without_ties(_down_the_columns),
        ),
        Misconception(
            "far-apart",
            "A run is m NEIGHBOURING columns. Yours lie K // m apart: reshape to (N, K // m, m), not (N, m, K // m).",
            recognises=_without_ties(_far_apart),
        ),
        Misconception(
            "first-ones",
            "The first n of each run stay, whatever their size. Which ones stay is decided by magnitude.",
            recognises=_without_ties(lambda w, n, m: _by(lambda r: np.zeros_like(r))(w, n, m)),
        ),
        Misconception(
            "returns-the-mask",
            "This says which weights stay. Return the weights themselves, with zeros where one goes.",
            recognises=_without_ties(lambda w, n, m: _kept(w, n, m).astype(np.float32)),
        ),
    ],
    hint="In a run of m, how many numbers stay, and which? Try [3, -5, 1, 0] with 2 of 4, and a run of equal numbers.",
    points=2,
)
