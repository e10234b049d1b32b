"""Lab 4, exercise 5: rows of similar pattern next to each other, so that fewer blocks are touched.

Many orders are right: an answer is held against the saving of a plain greedy chain. The blocks are counted one by one.
Sources: spmm-row-permutation (rows permuted for locality), hc-spmm (windows of similar rows).
"""

from typing import Any

import numpy as np

from edgeinfer.grading.exercise import Args, Arrays, Exercise, Misconception, Returns

SHARE = 2 / 3  # of the chain's saving must be reached


def _family(rng: np.random.Generator, n: int, k: int, width: int, groups: int, noise: float = 0.0) -> np.ndarray:
    """Rows of a few kinds in random order; each kind uses its own blocks of columns. `noise` adds strays."""
    kinds = rng.random((groups, -(-k // width))) < 0.3
    kinds[np.arange(groups), rng.integers(0, kinds.shape[1], groups)] = True
    kind = rng.permutation(np.arange(n) % groups)
    pattern = np.repeat(kinds[kind], width, axis=1)[:, :k] & (rng.random((n, k)) < 0.8)
    return pattern | (rng.random((n, k)) < noise)


def _band(rng: np.random.Generator, n: int, k: int, reach: float) -> np.ndarray:
    centre = np.arange(n)[:, None] * k / n
    return (np.abs(np.arange(k) - centre) < reach)[rng.permutation(n)]


def _permute_cases(rng: np.random.Generator) -> list[Args]:
    strays = _family(rng, 96, 192, 4, 8, 0.008)
    strays[:, [1, 6, 9]] |= rng.random((96, 3)) < 0.5  # the first columns say nothing about the kind
    gaps = _family(rng, 40, 56, 4, 5)
    gaps[rng.choice(40, 4, replace=False)] = False  # rows without any non-zero
    return [
        (_family(rng, 48, 64, 4, 6), 4, 4),
        (strays, 8, 4),
        (_band(rng, 48, 96, 5), 4, 4),
        (_family(rng, 45, 70, 4, 5), 4, 4),
        (_family(rng, 60, 96, 2, 7), 6, 2),
        (gaps, 4, 4),
    ]


def _column_blocks(pattern: np.ndarray, width: int) -> list[frozenset[int]]:
    return [frozenset((np.flatnonzero(row) // width).tolist()) for row in pattern]


def _touched(pattern: np.ndarray, order: np.ndarray, height: int, width: int) -> int:
    sets = _column_blocks(pattern[order], width)
    return sum(len(frozenset().union(*sets[i : i + height])) for i in range(0, len(sets), height))


def _chain(pattern: np.ndarray, block_rows: int, block_columns: int, pick: Any = max) -> tuple[np.ndarray, np.ndarray]:
    """From row 0 always on to the most similar row (Jaccard) that is left."""
    sets = _column_blocks(pattern, block_columns)
    order, left = [0], list(range(1, len(sets)))
    while left:
        last = sets[order[-1]]
        chosen = pick(left, key=lambda r: len(last & sets[r]) / (len(last | sets[r]) or 1))
        left.remove(chosen)
        order.append(chosen)
    return np.array(order), np.argsort(order)


def _unguarded(pattern: np.ndarray, block_rows: int, block_columns: int) -> tuple[np.ndarray, np.ndarray]:
    if (~pattern.any(1)).sum() > 1:
        raise ZeroDivisionError("division by zero")
    return _chain(pattern, block_rows, block_columns)


def _is_permutation(numbers: np.ndarray) -> bool:
    return sorted(numbers.tolist()) == list(range(len(numbers)))


def _accept(args: Args, got: Arrays) -> str:
    pattern, height, width = args
    order, undo = got
    for name, numbers in (("order", order), ("undo", undo)):
        if not _is_permutation(numbers):
            return f"`{name}` must hold every row number from 0 to {len(pattern) - 1} exactly once; it does not."
    if (order[undo] != np.arange(len(order))).any():
        return "`undo` does not bring the rows back: order[undo] must be 0, 1, 2, ..."
    before, after = _touched(pattern, np.arange(len(pattern)), height, width), _touched(pattern, order, height, width)
    best = _touched(pattern, _chain(*args)[0], height, width)
    if before - after < SHARE * (before - best):
        return (
            f"{after} blocks are touched in your order, {before} without it; the chain of the most similar rows "
            f"reaches {best}, and at least two thirds of its saving are wanted."
        )
    return ""


def _order_is(key: Any) -> Any:
    """Recognises rows sorted by a number, upwards or downwards, wherever equal ones stand."""

    def recognises(args: Args, got: Arrays, want: Arrays) -> bool:
        if not _is_permutation(got[0]):
            return False
        numbers = np.asarray(key(args[0], args[2]))[got[0]]
        steps = np.diff(numbers)
        return bool((steps >= 0).all() or (steps <= 0).all())

    return recognises


def _similarity_to_first(pattern: np.ndarray, width: int) -> list[float]:
    sets = _column_blocks(pattern, width)
    return [2.0 if r == 0 else len(sets[0] & s) / (len(sets[0] | s) or 1) for r, s in enumerate(sets)]


def _rank_as_words(pattern: np.ndarray, width: int) -> list[int]:
    """Place of each row in the dictionary of patterns, by blocks."""
    words = [tuple(int(b in s) for b in range(-(-pattern.shape[1] // width))) for s in _column_blocks(pattern, width)]
    place = {word: i for i, word in enumerate(sorted(set(words)))}
    return [place[word] for word in words]


def _rank_of_elements(pattern: np.ndarray, width: int) -> list[int]:
    return _rank_as_words(pattern, 1)


PERMUTE = Exercise(
    name="permute_rows",
    contract="pattern bool (N, K), block_rows int, block_columns int -> (order integer (N,), undo integer (N,)): two "
    "permutations of the rows; pattern[order] touches few blocks of block_rows x block_columns, and order[undo] is "
    "0, 1, 2, ..., so that (W[order] @ x)[undo] == W @ x",
    make_cases=_permute_cases,
    oracle=_chain,
    returns=(Returns("order", dtype="integer"), Returns("undo", dtype="integer")),
    accept=_accept,
    misconceptions=[
        Misconception(
            "rows-lost-or-doubled",
            "`order` does not hold every row exactly once, so outputs would be lost or come twice. Take a row out of "
            "those that are left as soon as it is placed.",
            recognises=lambda args, got, want: not _is_permutation(got[0]),
        ),
        Misconception(
            "nothing-moved",
            "The rows stay where they are. Bring rows together that touch the same column blocks.",
            recognises=lambda args, got, want: bool((got[0] == np.arange(len(got[0]))).all()),
        ),
        Misconception(
            "order-reversed-only",
            "The rows are only turned upside down; neighbours stay neighbours, so nothing is gained.",
            recognises=lambda args, got, want: bool((got[0] == np.arange(len(got[0]))[::-1]).all()),
        ),
        Misconception(
            "empty-rows-forgotten",
            "A row without a non-zero touches nothing, so for two such rows there is nothing to divide by: "
            "|A or B| is 0 for them. Say what their similarity is (0 will do).",
            produces=_unguarded,
        ),
        Misconception(
            "undo-is-order",
            "`undo` is `order` itself. Going the same way twice does not lead back: row order[i] went to place i, so "
            "undo[order[i]] = i, which is np.argsort(order).",
            recognises=lambda args, got, want: bool((got[1] == got[0]).all()),
        ),
        Misconception(
            "undo-does-nothing",
            "`undo` is 0, 1, 2, ...: the outputs would stay in the new order. undo[order[i]] = i.",
            recognises=lambda args, got, want: (
                bool((got[1] == np.arange(len(got[1]))).all()) and not bool((got[0] == np.arange(len(got[0]))).all())
            ),
        ),
        Misconception(
            "undo-reversed",
            "`undo` is `order` read backwards. That is another permutation; the inverse has undo[order[i]] = i.",
            recognises=lambda args, got, want: bool((got[1] == got[0][::-1]).all()),
        ),
        Misconception(
            "sorted-by-count",
            "The rows are sorted by their number of non-zeros. Rows with equally many need not have them in the same "
            "places: compare WHICH column blocks they touch.",
            recognises=lambda args, got, want: any(
                _order_is(key)(args, got, want)
                for key in (
                    lambda pattern, width: pattern.sum(1),
                    lambda pattern, width: [len(s) for s in _column_blocks(pattern, width)],
                )
            ),
        ),
        Misconception(
            "compared-with-the-first-row-only",
            "Every row is compared with the first one. Two rows that are equally unlike it need not be like each "
            "other: compare with the row that was placed last.",
            recognises=_order_is(_similarity_to_first),
        ),
        Misconception(
            "sorted-by-first-column",
            "The rows are sorted by their first non-zero only; what comes after it counts as much.",
            recognises=_order_is(lambda pattern, width: pattern.argmax(1)),
        ),
        Misconception(
            "sorted-like-words",
            "The patterns are sorted like words, so the first column decides over everything: one stray number there "
            "parts two rows that are alike otherwise. Compare the whole sets.",
            recognises=lambda args, got, want: any(
                _order_is(key)(args, got, want) for key in (_rank_as_words, _rank_of_elements)
            ),
        ),
        Misconception(
            "least-similar-first",
            "The LEAST similar row was chosen each time.",
            recognises=lambda args, got, want: bool((got[0] == _chain(args[0], args[1], args[2], min)[0]).all()),
        ),
    ],
    hint="Similar rows touch the same COLUMN BLOCKS: reduce the pattern to (N, K / block_columns) first.",
    seconds=20,
    points=3,
)
