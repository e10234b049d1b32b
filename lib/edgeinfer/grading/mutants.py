"""The mutation suite: plausible wrong and unusual right answers of every exercise, put through the judge.

A mutation file (`tests/grading/mutants/labNN.py`) registers functions; `run` says which were judged as they must be.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeinfer.grading.checks import LabChecks
from edgeinfer.grading.exercise import Lab, load_lab
from edgeinfer.grading.judge import NOT_ATTEMPTED, Key, judge
from edgeinfer.grading.runner import call_case

WRONG_NEEDED, RIGHT_NEEDED = 8, 2
PARTS = ("rejected", "named", "accepted")
Function = Callable[..., Any]


@dataclass(frozen=True)
class Mutant:
    """One answer and how it must be judged (`named`: the misconception that must be diagnosed, or "")."""

    exercise: str
    name: str
    function: Function
    right: bool
    named: str = ""


class Mutants:
    """Collects the answers of one lab.

    Args:
        lab: name of the lab, or the path of its exercises.
    """

    def __init__(self, lab: str | Path) -> None:
        self.lab: Lab = load_lab(lab)
        self.all: list[Mutant] = []

    def wrong(self, exercise: str, named: str = "") -> Callable[[Function], Function]:
        """Register a wrong answer; `named` is the misconception that the check must name."""
        return self._register(exercise, False, named)

    def right(self, exercise: str) -> Callable[[Function], Function]:
        """Register a right answer in another style."""
        return self._register(exercise, True, "")

    def _register(self, exercise: str, right: bool, named: str) -> Callable[[Function], Function]:
        known = [m.name for m in self.lab[exercise].misconceptions]
        built_in = ["changes-its-input", "remembers-between-calls", "calls-the-library"]
        if named and named not in known + built_in:
            raise ValueError(f"{exercise} has no misconception {named!r}; it has {', '.join(known)}")

        def keep(function: Function) -> Function:
            self.all.append(Mutant(exercise, function.__name__, function, right, named))
            return function

        return keep


@dataclass(frozen=True)
class Outcome:
    """How a mutant was judged: `problem` is empty if as it must be."""

    mutant: Mutant
    status: str
    misconception: str
    message: str
    problem: str


def run(mutants: Mutants, seeds: tuple[int, ...] = (1, 2, 3)) -> list[Outcome]:
    """Judge every mutant by the student's check and on hidden inputs of several seeds."""
    checks = LabChecks(mutants.lab)
    keys = {e.name: [Key(e, e.cases(seed)) for seed in seeds] for e in mutants.lab.exercises}
    out = []
    for m in mutants.all:
        result = checks._verdict(mutants.lab[m.exercise], m.function)
        verdicts = [result]
        for key in keys[m.exercise]:
            if result.status in ("time limit", NOT_ATTEMPTED) or result.misconception == "calls-the-library":
                break
            cases = key.cases + (key.cases[:1] if key.exercise.deterministic else [])
            call = m.function
            if key.exercise.harness:
                space: dict[str, Any] = {}
                exec(mutants.lab.setup + "\n" + key.exercise.harness, space)  # noqa: S102 - the author's own harness
                harness = space["run"]
                call = lambda *args, f=m.function, h=harness: h(f, *args)  # noqa: E731
            verdicts.append(judge(key, [call_case(call, args) for args in cases]))
        out.append(Outcome(m, result.status, result.misconception, result.message, problem_of(m, verdicts)))
    return out


def problem_of(mutant: Mutant, verdicts: list[Any]) -> str:
    if mutant.right:
        bad = [v for v in verdicts if not v.passed]
        return f"a right answer is rejected: {bad[0].message}" if bad else ""
    if any(v.status == NOT_ATTEMPTED for v in verdicts):
        return "counts as not attempted; a mutant must return something"
    if any(v.passed for v in verdicts):
        return "a wrong answer is accepted" + (" with some seeds only" if not all(v.passed for v in verdicts) else "")
    if mutant.named:
        other = [v for v in verdicts if v.misconception != mutant.named]
        if other:
            came = other[0].misconception or other[0].status
            return f"expected the diagnosis {mutant.named!r}, got {came!r}: {other[0].message}"
    return ""


def too_few(mutants: Mutants, wrong: int = WRONG_NEEDED, right: int = RIGHT_NEEDED) -> list[str]:
    """Which exercises lack wrong or right answers, one sentence each."""
    out = []
    for e in mutants.lab.exercises:
        for needed, is_right, word in ((wrong, False, "wrong"), (right, True, "right")):
            n = sum(m.exercise == e.name and m.right is is_right for m in mutants.all)
            if n < needed:
                out.append(f"{e.name} has {n} {word} answers in the mutation suite, expected at least {needed}")
    return out


def counts(outcomes: list[Outcome]) -> dict[str, dict[str, int]]:
    """Return {exercise: {wrong, rejected, named, right, accepted}}: how many answers there are and how they fared."""
    found = {}
    for name in dict.fromkeys(o.mutant.exercise for o in outcomes):
        wrong = [o for o in outcomes if o.mutant.exercise == name and not o.mutant.right]
        right = [o for o in outcomes if o.mutant.exercise == name and o.mutant.right]
        found[name] = {
            "wrong": len(wrong),
            "rejected": sum("accepted" not in o.problem for o in wrong),
            "named": sum(bool(o.misconception) for o in wrong),
            "right": len(right),
            "accepted": sum(not o.problem for o in right),
        }
    return found


def table(outcomes: list[Outcome]) -> str:
    """The score of the suite, per exercise, as plain text."""
    rows = [f"{'exercise':34} {'wrong rejected':>15} {'named':>9} {'right accepted':>15}"]
    for name, n in counts(outcomes).items():
        shares = (f"{n[part]}/{n[whole]}" for part, whole in zip(PARTS, ("wrong", "wrong", "right"), strict=True))
        rows.append(f"{name:34} " + " ".join(f"{s:>{w}}" for s, w in zip(shares, (15, 9, 15), strict=True)))
    return "\n".join(rows)
