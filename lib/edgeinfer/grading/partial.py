"""How much of a wrong answer counts when an instructor wants partial points (`PARTIAL=1`); by default nothing does.

Shares of the inputs are no measure: which of the hidden inputs a wrong function happens to survive changes with their
seed, and two runs must give one grade. What does not change is which of the returned values is right on every input,
and whether all values are right but the function misbehaves otherwise. Only these two earn points, at most half.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgeinfer.grading.judge import WRONG, Key

MISBEHAVES = ("changes-its-input", "remembers-between-calls")
MOST = 0.5


def share(key: Key, outcomes: Sequence[dict[str, Any]], status: str, misconception: str) -> float:
    """The part of an exercise's points that a wrong answer keeps.

    Args:
        key: cases with the right answers.
        outcomes: of `runner.call_case`, one per case, in order.
        status, misconception: the verdict.

    Returns:
        0 to 0.5. Half if every value is right but inputs are changed or calls depend on each other; otherwise half
        of the share of returned values that are right, in shape, dtype and value, on every input. 0 for a single
        value, for an error, and where several answers are right (there the values cannot be judged one by one).
    """
    exercise = key.exercise
    if status != WRONG:
        return 0.0
    if misconception in MISBEHAVES:
        return MOST
    if exercise.accept is not None or len(exercise.returns) < 2 or len(outcomes) < len(key.cases):
        return 0.0
    right = [True] * len(exercise.returns)
    seen: list[set[bytes]] = [set() for _ in exercise.returns]
    for outcome, want in zip(outcomes, key.wanted, strict=False):
        got = outcome.get("arrays") or []
        if outcome.get("kind") != "arrays" or len(got) != len(exercise.returns):
            return 0.0
        for i, (r, g, w) in enumerate(zip(exercise.returns, got, want, strict=True)):
            seen[i].add(w.tobytes())
            right[i] &= g.shape == w.shape and r.fits(g.dtype) and bool(np.all(r.close(g, w)))
    counts = [ok and len(values) > 1 for ok, values in zip(right, seen, strict=True)]  # a constant proves nothing
    return MOST * sum(counts) / len(exercise.returns)
