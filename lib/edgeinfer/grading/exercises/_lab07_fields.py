"""Lab 7, exercise 4: the integers of three recordings as lines in the number of tokens. Source: edgellm."""

from functools import partial

import numpy as np

from edgeinfer.grading.exercise import Args, Arrays, Exercise, Misconception, Returns


def _cases(rng: np.random.Generator) -> list[Args]:
    cases: list[Args] = []
    for lengths in ((8, 12, 20), (3, 4, 9), (2, 100, 7), (16, 32, 64)):
        n = np.array(lengths)
        a, b = rng.integers(-40, 300, 8), rng.integers(-6, 40, 8)
        b[:2] = 0
        table = a + b * n[:, None]
        table[:, 4] = n * n  # the scores of plain attention
        table[:, 5] = n // 3 * 64  # rounded up somewhere: no line
        table[2, 6] += 1  # the third recording differs
        table[1, 7] += n[2] - n[0]  # ... or the second
        cases.append((n, table))
    cases.append((np.array([8, 12, 20]), np.array([[5], [5], [5]])))
    n = np.array([8, 12, 20])
    cases.append((n, np.array([70_000_001, 5]) + np.array([3, 1_234_567]) * n[:, None]))  # more than 24 bits
    cases.append((n, np.array([400, 9]) - np.array([7, 0]) * n[:, None]))  # a field that falls
    cases.append((np.array([8, 12, 20]), np.array([[0, 3], [6, 3], [18, 4]])))  # steps of 3/2: no whole slope
    return cases


def fields(n: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    a, b, line = [], [], []
    for u, v, w in values.T.tolist():
        found = [0, 0, False]
        for slope in {(v - u) // int(n[1] - n[0])}:
            start = u - slope * int(n[0])
            if [start + slope * int(k) for k in n] == [u, v, w]:
                found = [start, slope, True]
        a.append(found[0])
        b.append(found[1])
        line.append(found[2])
    return np.array(a), np.array(b), np.array(line)


def _mistaken(
    n: np.ndarray,
    values: np.ndarray,
    third: bool = True,
    spacing: str = "n",
    intercept: bool = True,
    zeroed: bool = True,
    outer: bool = False,
    tolerant: float = 0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fields with one screw loose."""
    steps = np.array([0, 1, 2]) if spacing == "index" else n
    u = values[0]
    p, q, far = (0, 2, 1) if outer else (0, 1, 2)
    b = np.floor_divide(values[q] - values[p], steps[q] - steps[p])
    a = u - b * steps[0] if intercept else u
    line = (a + b * steps[q] == values[q]) if third or outer else np.ones(len(u), bool)
    if third and not outer and intercept:
        line &= np.abs(a + b * steps[far] - values[far]) <= tolerant
    if zeroed:
        a, b = np.where(line, a, 0), np.where(line, b, 0)
    return a, b, line


def _fractions(args: Args, got: Arrays, want: Arrays) -> bool:
    """A line of fractions counts as a line, however a and b were made whole."""
    n, values = args
    straight = (values[1] - values[0]) * (n[2] - n[0]) == (values[2] - values[0]) * (n[1] - n[0])
    return np.array_equal(got[2].astype(bool), straight) and not np.array_equal(straight, want[2].astype(bool))


FIELDS = Exercise(
    name="fields",
    contract="n integer (3,), three different numbers of tokens, in any order; values integer (3, F): each field of "
    "the instructions in the three recordings -> a integer (F,), b integer (F,), line bool (F,): line is True where "
    "whole numbers a and b give a + b * n in all three recordings (b = 0 where a field is fixed); elsewhere both are 0",
    make_cases=_cases,
    oracle=fields,
    returns=(Returns("a", dtype="integer"), Returns("b", dtype="integer"), Returns("line", dtype="any")),
    misconceptions=[
        Misconception(
            "rounded",
            "Right for small numbers. float32 holds whole numbers up to 2^24 only: calculate in integers.",
            recognises=lambda args, got, want: int(args[1].max()) > 1 << 24,
        ),
        Misconception(
            "exchanged",
            "a and b are exchanged: b is what n is multiplied with.",
            recognises=lambda args, got, want: (
                np.array_equal(got[0], want[1]) and np.array_equal(got[1], want[0]) and np.array_equal(got[2], want[2])
            ),
        ),
        Misconception(
            "third-recording-unused",
            "Two points always lie on a line. The third recording is there to check it: a square shows only there.",
            produces=partial(_mistaken, third=False),
        ),
        Misconception(
            "first-and-last-only",
            "The second recording is not checked: a + b * n must give all three.",
            recognises=lambda args, got, want: (
                bool(
                    np.array_equal(got[2].astype(bool)[:7], want[2].astype(bool)[:7]) and not want[2].astype(bool).all()
                )
                and len(args[1][0]) == 8
                and bool(got[2].astype(bool)[7])
            ),
        ),
        Misconception(
            "spacing-ignored",
            "The recordings are not one token apart: divide the difference of the values by that of n.",
            produces=partial(_mistaken, spacing="index"),
        ),
        Misconception(
            "fixed-is-no-line",
            "A field that never changes is the simplest line: b = 0 and line is True.",
            recognises=lambda args, got, want: np.array_equal(
                got[2].astype(bool), want[2].astype(bool) & (want[1] != 0)
            ),
        ),
        Misconception(
            "value-for-intercept",
            "a is the value at n = 0, not in the first recording: a = value - b * n.",
            recognises=lambda args, got, want: (
                bool(np.array_equal(got[1][: len(want[1])], want[1]) or np.array_equal(got[0], args[1][0]))
                and not np.array_equal(got[0], want[0])
            ),
        ),
        Misconception(
            "leftovers",
            "`line` is right. Where it is False, a and b must be 0, so that nobody uses them.",
            recognises=lambda args, got, want: (
                np.array_equal(got[2].astype(bool), want[2].astype(bool))
                and np.array_equal(np.where(got[2], got[0], 0), want[0])
                and np.array_equal(np.where(got[2], got[1], 0), want[1])
            ),
        ),
        Misconception(
            "fractions",
            "A slope of one and a half gives no whole number for the next token. Only whole a and b are lines here; "
            "check in integers.",
            recognises=_fractions,
        ),
        Misconception(
            "rising-only",
            "Right for fields that rise. A field may fall as n grows: b is negative then.",
            recognises=lambda args, got, want: np.array_equal(
                got[2].astype(bool), want[2].astype(bool) & (want[1] >= 0)
            ),
        ),
        Misconception(
            "through-zero",
            "Only fields that are a multiple of n count as lines. A line may start anywhere: that is what a is for.",
            recognises=lambda args, got, want: np.array_equal(
                got[2].astype(bool), want[2].astype(bool) & (want[0] == 0)
            ),
        ),
        Misconception(
            "nearly",
            "Off by one is not on the line: sizes and addresses are exact. Compare integers with ==.",
            produces=partial(_mistaken, tolerant=1),
        ),
    ],
    hint="How many recordings does it take to draw a line, and what is the one left over good for? Try (8, 12, 20) "
    "with values (17, 25, 41): what is the value at n = 0?",
    points=2,
)
