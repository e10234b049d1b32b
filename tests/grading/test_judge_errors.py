"""An exception that a misconception leads to gets its name; any other exception keeps its own words."""

import numpy as np
from edgeinfer.grading.exercise import Exercise, Misconception, Returns
from edgeinfer.grading.judge import Key, judge
from edgeinfer.grading.runner import call_case


def next_number(x):
    return x[np.arange(1, len(x) + 1)]


EXERCISE = Exercise(
    name="double",
    contract="x float64 (N,) -> y floating (N,)",
    make_cases=lambda rng: [(np.arange(n, dtype=float),) for n in (3, 5)],
    oracle=lambda x: 2 * x,
    returns=(Returns("y", dtype="floating"),),
    misconceptions=[Misconception("reads-past-the-end", "There is no number after the last.", produces=next_number)],
)


def verdict(function):
    key = Key(EXERCISE, EXERCISE.cases(1))
    return judge(key, [call_case(function, args) for args in key.cases])


def test_the_same_exception_in_the_same_words_is_named_and_still_shown():
    found = verdict(lambda x: 2 * x.take(range(1, len(x) + 1)) if len(x) > 9 else x[[*range(1, len(x)), len(x)]])
    assert found.misconception == "reads-past-the-end" and not found.passed
    assert found.message.startswith("There is no number after the last.") and "IndexError" in found.message


def test_another_exception_is_not_named():
    assert verdict(lambda x: x[len(x) + 7]).misconception == ""
    assert verdict(lambda x: 1 / 0).misconception == ""


def test_an_exception_on_one_case_only_is_not_named():
    assert verdict(lambda x: next_number(x) if len(x) == 3 else 2 * x).misconception == ""
