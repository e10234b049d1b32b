"""Lab 5, exercise 3: pruning on two levels, pieces of columns first, then N:M inside. Source: hierarchical-nm."""

from collections.abc import Callable
from functools import partial

import numpy as np

from edgeinfer.grading.exercise import Args, Exercise, Misconception, Returns
from edgeinfer.grading.exercises._lab05_prune import pruned


def _levels_cases(rng: np.random.Generator) -> list[Args]:
    return [
        (rng.normal(size=(rows, columns)).astype(np.float32) * rng.uniform(0.4, 1.6, columns).astype(np.float32),
         height, keep, n, m)
        for rows, columns, height, keep, n, m in (
            (8, 16, 4, 8, 2, 4), (6, 12, 3, 8, 1, 4), (4, 16, 2, 12, 2, 4), (8, 8, 8, 4, 1, 2), (6, 24, 2, 16, 4, 8),
        )
    ]  # fmt: skip


def _levels(weight: np.ndarray, height: int, keep: int, n: int, m: int) -> tuple[np.ndarray, np.ndarray]:
    chosen, values = [], []
    for top in range(0, len(weight), height):
        tile = weight[top : top + height]
        size = [sum(abs(float(v)) for v in tile[:, k]) for k in range(tile.shape[1])]
        loudest = sorted(zip(size, range(len(size)), strict=True), reverse=True)[:keep]
        columns = sorted(k for _, k in loudest)
        chosen.append(columns)
        values.append(pruned(np.stack([tile[:, k] for k in columns], axis=1), n, m))
    return np.array(chosen, np.int64), np.concatenate(values)


def _mistaken_levels(
    weight: np.ndarray,
    height: int,
    keep: int,
    n: int,
    m: int,
    measure: Callable[[np.ndarray], np.ndarray] = lambda tile: np.abs(tile).sum(0),
    ascending: bool = True,
    whole: bool = False,
    first: str = "vectors",
    inner: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """Two-level pruning with one screw loose."""
    chosen, values = [], []
    for top in range(0, len(weight), height):
        tile = weight[top : top + height]
        judged = weight if whole else pruned(tile, n, m) if first == "n_m" else tile
        columns = np.argsort(-measure(judged.astype(np.float64)), kind="stable")[:keep]
        columns = np.sort(columns) if ascending else columns
        chosen.append(columns)
        if first == "n_m":
            values.append(judged[:, columns])
        elif first == "in_place":
            values.append(pruned(np.where(np.isin(np.arange(tile.shape[1]), columns), tile, 0), n, m)[:, columns])
        else:
            values.append(pruned(tile[:, columns], n, m) if inner else tile[:, columns])
    return np.stack(chosen), np.concatenate(values)


LEVELS = Exercise(
    name="hierarchical_n_m",
    contract="weight float32 (N, K), height int dividing N, keep int (m divides it), n int, m int -> columns integer "
    "(N // height, keep): for each band of `height` rows, ascending, the columns whose piece in the band has the "
    "largest sum of magnitudes; values float32 (N, keep): these pieces side by side, then of every m neighbours of "
    "a row all but the n largest magnitudes set to 0",
    make_cases=_levels_cases,
    oracle=_levels,
    returns=(Returns("columns", dtype="integer"), Returns("values", dtype="float32")),
    misconceptions=[
        Misconception(
            "one-choice-for-all",
            "All bands share one choice of columns, made over the whole matrix. Each band of `height` rows chooses its "
            "own: that is what makes vectors finer than whole columns.",
            produces=partial(_mistaken_levels, whole=True),
        ),
        Misconception(
            "levels-swapped",
            "N:M comes first and the columns are chosen from what it left. First choose whole pieces of columns, then "
            "apply N:M to those that stay, side by side.",
            produces=partial(_mistaken_levels, first="n_m"),
        ),
        Misconception(
            "old-neighbours",
            "N:M looks at runs of the OLD columns, before the gaps are closed. The unit sees the pieces side by side: "
            "runs of m are neighbours in `values`.",
            produces=partial(_mistaken_levels, first="in_place"),
        ),
        Misconception(
            "signed-sums",
            "Weights of opposite sign cancel in your sum. Add up magnitudes.",
            produces=partial(_mistaken_levels, measure=lambda tile: tile.sum(0)),
        ),
        Misconception(
            "sum-of-squares",
            "You compare sums of squares; the contract asks for sums of magnitudes, the quantity that N:M keeps.",
            produces=partial(_mistaken_levels, measure=lambda tile: (tile**2).sum(0)),
        ),
        Misconception(
            "largest-weight",
            "One large weight decides for its whole piece. Add up the magnitudes of the piece.",
            produces=partial(_mistaken_levels, measure=lambda tile: np.abs(tile).max(0)),
        ),
        Misconception(
            "keeps-the-smallest",
            "The pieces with the SMALLEST sums are kept. argsort ascends: take its last ones, or sort by the negative.",
            produces=partial(_mistaken_levels, measure=lambda tile: -np.abs(tile).sum(0)),
        ),
        Misconception(
            "not-ascending",
            "The right columns, but in order of their size. Sort the chosen column numbers: a product then walks "
            "through the activations in one direction. It also decides which columns share a run.",
            produces=partial(_mistaken_levels, ascending=False),
        ),
        Misconception(
            "only-vectors",
            "The first level is right. The second is missing: of every m neighbours in `values` only n stay.",
            produces=partial(_mistaken_levels, inner=False),
        ),
        Misconception(
            "n-m-wrong",
            "The columns are right, the values are not: apply N:M to the pieces side by side, row by row, by "
            "magnitude.",
            recognises=lambda args, got, want: bool(np.array_equal(got[0], want[0])),
        ),
    ],
    hint="Which rows decide together which columns stay, and are the columns that stay in their old order? Only "
    "then come runs of m: of which columns?",
    points=3,
)
