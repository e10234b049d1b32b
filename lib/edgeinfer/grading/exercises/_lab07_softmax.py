"""Lab 7, exercise 5: softmax in pieces with a fixed maximum, and the way back when it does not fit.

Source: flashdecoding-pp.
"""

from functools import partial

import numpy as np

from edgeinfer.grading.exercise import Args, Exercise, Misconception, Returns


def _cases(rng: np.random.Generator) -> list[Args]:
    cases: list[Args] = []
    for count, channels, split, phi in ((12, 4, 4, 0.0), (10, 3, 4, 2.0), (7, 2, 16, -1.5), (33, 5, 8, 1.0)):
        scores = (rng.standard_normal(count) * 3 + phi).astype(np.float32)
        values = rng.standard_normal((count, channels)).astype(np.float32)
        cases.append((np.clip(scores, phi - 19, phi + 19).astype(np.float32), values, phi, -20.0, 20.0, split))
    for at, score in ((5, 30.0), (0, -30.0), (8, 200.0), (3, -1e4)):  # one score out of range, above or below
        scores = rng.standard_normal(9).astype(np.float32)
        scores[at] = score
        cases.append((scores, rng.standard_normal((9, 3)).astype(np.float32), 0.0, -20.0, 20.0, 4))
    edge = rng.uniform(-1.5, 3.5, 8).astype(np.float32)
    edge[[1, 6]] = 4.0, -2.0  # exactly on the borders: inside
    cases.append((edge, rng.standard_normal((8, 2)).astype(np.float32), 1.0, -3.0, 3.0, 3))
    # the score itself is in range, its distance from phi is not; and the other way round
    near = rng.standard_normal((2, 5)).astype(np.float32)
    cases.append((near[0] - 10, rng.standard_normal((5, 2)).astype(np.float32), 15.0, -20.0, 20.0, 2))
    cases.append((near[1] + 30, rng.standard_normal((5, 2)).astype(np.float32), 28.0, -20.0, 20.0, 2))
    far = (rng.standard_normal(6) + 500).astype(np.float32)  # all far above phi
    cases.append((far, rng.standard_normal((6, 2)).astype(np.float32), 0.0, -20.0, 20.0, 4))
    low = (rng.standard_normal(6) - 900).astype(np.float32)  # all far below: every exponential would be 0
    cases.append((low, rng.standard_normal((6, 2)).astype(np.float32), 0.0, -20.0, 20.0, 2))
    wide = (rng.standard_normal(6) + 94).astype(np.float32)  # in range for float64; float32 overflows beyond 88.7
    cases.append((wide, rng.standard_normal((6, 2)).astype(np.float32), 0.0, -100.0, 100.0, 4))
    cases.append((np.array([0.5], np.float32), np.ones((1, 1), np.float32), 0.0, -20.0, 20.0, 4))
    return cases


def softmax(
    scores: np.ndarray, values: np.ndarray, phi: float, low: float, high: float, split: int
) -> tuple[np.ndarray, np.ndarray, bool]:
    x = [float(s) for s in scores]
    again = any(s - phi < low or s - phi > high for s in x)
    shift = max(x) if again else phi
    weights = np.array([np.exp(s - shift) for s in x])
    sums = np.array([weights[p : p + split].sum() for p in range(0, len(x), split)])
    return np.asarray(weights @ values.astype(np.float64) / weights.sum()), sums, again


def _mistaken(
    scores: np.ndarray,
    values: np.ndarray,
    phi: float,
    low: float,
    high: float,
    split: int,
    check: str = "both",
    strict: bool = False,
    repair: str = "row",
    average: bool = False,
    sign: float = 1,
    floor: bool = False,
    always: bool = False,
    every: bool = False,
    divide: str = "out",
    distance: bool = True,
) -> tuple[np.ndarray, np.ndarray, bool]:
    """The softmax with one screw loose."""
    x = scores.astype(np.float64)
    far = x - phi if distance else x
    above = (far >= high) if strict else (far > high)
    below = (far <= low) if strict else (far < low)
    again = (
        bool((above | below).all())
        if every
        else bool((above.any() and check != "low") or (below.any() and check != "high"))
    )
    shift = x.max() if (again and repair == "row") or always else sign * phi
    with np.errstate(all="ignore"):
        if repair == "clip":
            x = np.clip(x, phi + low, phi + high)
        if repair == "drop":
            x = np.where(above | below, -np.inf, x)
        weights = np.exp(x - shift)
        if repair in ("piece", "pieces") and again:
            for p in range(0, len(x), split):
                if repair == "pieces" or (above | below)[p : p + split].any():
                    weights[p : p + split] = np.exp(x[p : p + split] - x[p : p + split].max())
        pieces = range(0, len(x) - split + 1 if floor else len(x), split)
        sums = np.array([weights[p : p + split].sum() for p in pieces])
        if average:
            parts = [weights[p : p + split] @ values[p : p + split] / weights[p : p + split].sum() for p in pieces]
            return np.mean(parts, axis=0), sums, again
        out = weights @ values / (weights.sum() if "out" in divide else 1.0)
        return out, sums / (weights.sum() if "sums" in divide else 1.0), again


SOFTMAX = Exercise(
    name="unified_softmax",
    contract="scores float32 (S,), values float32 (S, D), phi, low, high float, split int -> out floating (D,): "
    "softmax of the scores times values; sums floating (ceil(S / split),): of each piece of `split` tokens (the last "
    "may be shorter) the sum of exp(score - shift); again bool: whether some score - phi is below low or above high "
    "(on the border is inside); shift is phi, or, if again, the largest score of the row",
    make_cases=_cases,
    oracle=softmax,
    returns=(
        Returns("out", dtype="floating", rtol=1e-3, atol=1e-5),
        Returns("sums", dtype="floating", rtol=1e-3, atol=1e-30),
        Returns("again", dtype="any"),
    ),
    misconceptions=[
        Misconception(
            "single-precision",
            "Right while the exponentials fit in float32. exp(89) does not: convert the scores to float64 first.",
            recognises=lambda args, got, want: args[4] > 88,
        ),
        Misconception(
            "score-for-difference",
            "The score itself is compared with low and high. What must fit is exp(score - phi): the distance counts.",
            produces=partial(_mistaken, distance=False),
        ),
        Misconception(
            "checks-the-top-only",
            "Scores far below phi are a danger, too: their exponentials vanish, and with all of them the sum by which "
            "you divide.",
            produces=partial(_mistaken, check="high"),
        ),
        Misconception(
            "checks-the-bottom-only",
            "Scores far above phi overflow: check both borders.",
            produces=partial(_mistaken, check="low"),
        ),
        Misconception(
            "border-is-outside",
            "A score exactly on the border is inside; again is for scores beyond it.",
            produces=partial(_mistaken, strict=True),
        ),
        Misconception(
            "clips",
            "Clipping the scores gives another softmax. The row must be computed again, with its true maximum.",
            produces=partial(_mistaken, repair="clip"),
        ),
        Misconception(
            "leaves-out",
            "Scores out of range are left out. They belong to the softmax; one of them may be nearly all of it.",
            produces=partial(_mistaken, repair="drop"),
        ),
        Misconception(
            "repairs-the-piece-only",
            "Only the piece with the bad score gets its own maximum. Then the pieces have different shifts, and their "
            "sums cannot be added: do the whole row again.",
            produces=partial(_mistaken, repair="piece"),
        ),
        Misconception(
            "maximum-of-each-piece",
            "Each piece is computed again with its own maximum. Sums with different shifts cannot be added: one shift, "
            "the largest score of the row.",
            produces=partial(_mistaken, repair="pieces"),
        ),
        Misconception(
            "flag-without-repair",
            "You notice that a score is out of range, but use phi all the same.",
            produces=partial(_mistaken, repair="none"),
        ),
        Misconception(
            "all-must-be-out",
            "`again` is True here only if ALL scores are out of range. One is enough to spoil the sum.",
            produces=partial(_mistaken, every=True),
        ),
        Misconception(
            "not-divided", "`out` is not divided by the sum of the weights.", produces=partial(_mistaken, divide="")
        ),
        Misconception(
            "sums-divided",
            "The sums of the pieces are shares of the whole here. A piece cannot know the whole: hand out its own sum.",
            produces=partial(_mistaken, divide="out and sums"),
        ),
        Misconception(
            "averages-pieces",
            "Each piece divides by its own sum, and the results are averaged. Add all numerators and all sums first, "
            "divide once.",
            produces=partial(_mistaken, average=True),
        ),
        Misconception(
            "always-the-maximum",
            "The result is right, but the shift is always the true maximum: for that all pieces must wait. Use phi "
            "while all scores are in range.",
            produces=partial(_mistaken, always=True),
        ),
        Misconception(
            "adds-phi",
            "phi is subtracted: exp(score - phi).",
            produces=partial(_mistaken, sign=-1),
        ),
    ],
    hint="Which decision must be made for the whole row before any exponential is taken? Then print the sums of "
    "the pieces: do all of them use the same shift, and where do you divide?",
    points=3,
)
