"""Compares what a student's function returned with the oracle, and names the misconception behind a wrong answer.

The only place that decides right or wrong; the checks and the grader both come here. It sees answers, never code.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from edgeinfer.grading.exercise import Args, Arrays, Exercise, Returns, call_arguments, describe
from edgeinfer.grading.runner import Skip, to_arrays

RIGHT, WRONG, NOT_ATTEMPTED = "right", "wrong", "not attempted"


@dataclass(frozen=True)
class Verdict:
    """What came out for one exercise.

    Args:
        status: "right", "wrong", "not attempted", or what ended the run ("error", "time limit", ...).
        message: for the student, plain text.
        misconception: name of the recognised misconception, or "".
        points: earned.
    """

    status: str
    message: str
    misconception: str = ""
    points: float = 0

    @property
    def passed(self) -> bool:
        return self.status == RIGHT

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class Key:
    """Cases of one exercise with the oracle's answers and those of its misconceptions, computed once for a class."""

    def __init__(self, exercise: Exercise, cases: Sequence[Args]) -> None:
        self.exercise, self.cases = exercise, list(cases)
        self.wanted: list[Arrays] = []
        for args in self.cases:
            arrays, _ = to_arrays(exercise.oracle(*copied(args)))
            if len(arrays) != len(exercise.returns):
                raise ValueError(
                    f"oracle of {exercise.name!r} gives {len(arrays)} values; `returns` says {len(exercise.returns)}"
                )
            self.wanted.append(tuple(arrays))
        self.produced: dict[str, list[Arrays | str]] = {}
        for m in exercise.misconceptions:
            if m.produces is not None:
                self.produced[m.name] = [wrong_answer(m.produces, args) for args in self.cases]


def copied(args: Args) -> Args:
    return tuple(a.copy() if isinstance(a, np.ndarray) else a for a in args)


def wrong_answer(produces: Any, args: Args) -> Arrays | str:
    """What a misconception leads to: arrays, or the exception in words (empty if there is no answer here)."""
    try:
        with np.errstate(all="ignore"):
            return tuple(to_arrays(produces(*copied(args)))[0])
    except Skip:
        return ""
    except (ArithmeticError, ValueError, IndexError, TypeError) as error:
        return f"{type(error).__name__}: {str(error)[:300]}"


def judge(key: Key, outcomes: Sequence[dict[str, Any]]) -> Verdict:
    """Judge the outcomes of `runner.call_case`: one per case, plus the first again if the exercise is deterministic.

    Args:
        key: cases and right answers.
        outcomes: in the order of the cases; may be cut short by an error.

    Returns:
        the verdict; `points` are the exercise's if every case is right, else 0.
    """
    exercise = key.exercise
    if not outcomes:
        return Verdict("error", "No answer came back.")
    empty = [o.get("kind") in ("none", "ellipsis") for o in outcomes]
    if all(empty):
        what = "..." if outcomes[0].get("kind") == "ellipsis" else "None"
        return Verdict(NOT_ATTEMPTED, f"Not attempted yet, or a `return` is missing: {exercise.name} returns {what}.")
    answers: list[Arrays] = []
    for i, args in enumerate(key.cases):
        if i >= len(outcomes):
            return Verdict("error", f"Only {len(outcomes)} of {len(key.cases)} answers came back.")
        problem, arrays = contract(exercise, args, outcomes[i], key.wanted[i])
        if problem is not None:
            return named(key, problem, outcomes[: len(key.cases)])
        answers.append(arrays)
    wrong = [
        (i, text)
        for i, text in enumerate(map(differs, [exercise] * len(answers), key.cases, answers, key.wanted))
        if text
    ]
    if wrong:
        found = misconception_of(key, answers, [i for i, _ in wrong])
        example = call_arguments(exercise, key.cases[wrong[0][0]])
        place = f"{len(wrong)} of {len(key.cases)} inputs, for example with {example}"
        if found is not None:
            return Verdict(WRONG, f"{found.says}\nSeen on {place}: {wrong[0][1]}", found.name)
        hint = f"\n{exercise.hint}" if exercise.hint else ""
        return Verdict(WRONG, f"Wrong on {place}: {wrong[0][1]}{hint}\nContract: {exercise.contract}")
    if not exercise.may_change_inputs and any(o.get("changed") for o in outcomes):
        return Verdict(
            WRONG,
            "The values are right, but the function changes its input array, which the caller still needs: work on "
            "a copy (`weight = weight.copy()`), or write `a = a / b` instead of `a /= b`.",
            "changes-its-input",
        )
    if exercise.deterministic and len(outcomes) > len(key.cases):
        problem, again = contract(exercise, key.cases[0], outcomes[len(key.cases)], key.wanted[0])
        if problem is not None or differs(exercise, key.cases[0], again, key.wanted[0]):
            return Verdict(
                WRONG,
                "Two calls with the same input gave different answers: the function draws random numbers, or remembers "
                "something between calls (a global, a default argument that is changed).",
                "remembers-between-calls",
            )
    return Verdict(RIGHT, f"Right on all {len(key.cases)} inputs.", points=exercise.points)


def named(key: Key, problem: Verdict, outcomes: Sequence[dict[str, Any]]) -> Verdict:
    """A broken contract or an exception may be just what a misconception leads to, case by case."""
    if len(outcomes) < len(key.cases) and outcomes[-1].get("kind") != "error":
        return problem
    for m in key.exercise.misconceptions:
        pairs = zip(outcomes, key.produced.get(m.name, []), strict=False)
        if m.produces is not None and all(leads_to(key.exercise, o, w) for o, w in pairs):
            return Verdict(problem.status, f"{m.says}\n{problem.message}", m.name)
    return problem


def leads_to(exercise: Exercise, outcome: dict[str, Any], wrong: Arrays | str) -> bool:
    """Whether an outcome is the misconception's: the same arrays, or the same exception in the same words."""
    if outcome.get("kind") == "error":
        return f"{outcome.get('type')}: {outcome.get('message')}" == wrong
    arrays = tuple(outcome["arrays"]) if outcome.get("kind") == "arrays" else ()
    return not isinstance(wrong, str) and alike(exercise, arrays, wrong)


def contract(exercise: Exercise, args: Args, outcome: dict[str, Any], want: Arrays) -> tuple[Verdict | None, Arrays]:
    """Kind, number, dtypes and shapes of one answer."""
    kind = outcome.get("kind")
    where = f"with {call_arguments(exercise, args)}"
    rule = f"\nContract: {exercise.contract}"
    if kind == "error":
        return Verdict("error", error_text(outcome, where)), ()
    if kind != "arrays":
        name = {"none": "None", "ellipsis": "..."}.get(str(kind), str(outcome.get("type", "something else"))[:80])
        return Verdict(
            WRONG, f"{exercise.name} returned {name} {where}; expected {expected(exercise.returns)}.{rule}"
        ), ()
    got: Arrays = tuple(outcome["arrays"])
    if len(got) != len(exercise.returns):
        came = f"{len(got)} values" if len(got) != 1 else "one value"
        return Verdict(
            WRONG, f"{exercise.name} returned {came} {where}; expected {expected(exercise.returns)}.{rule}"
        ), ()
    for r, g, w in zip(exercise.returns, got, want, strict=True):
        if g.shape != w.shape:
            turned = " (it looks transposed)" if g.ndim == w.ndim > 1 and g.shape == w.shape[::-1] else ""
            return Verdict(WRONG, f"`{r.name}` has shape {g.shape}, expected {w.shape}{turned}, {where}.{rule}"), ()
        # An empty list has no type of its own; NumPy makes it float64.
        if not r.fits(g.dtype) and (g.size or g.dtype != np.float64):
            return Verdict(WRONG, f"`{r.name}` has dtype {g.dtype}, expected {r.dtype}, {where}.{rule}"), ()
    return None, got


def both(got: Any, want: Any) -> str:
    """What came and what was expected, with as many digits as it takes to tell them apart."""
    short = describe(got), describe(want)
    came, wanted = short if short[0] != short[1] else (repr(got), repr(want))
    return f"{came}, expected {wanted}"


def expected(returns: Sequence[Returns]) -> str:
    names = [f"`{r.name}`" for r in returns]
    return names[0] if len(names) == 1 else "the tuple (" + ", ".join(names) + ")"


def error_text(outcome: dict[str, Any], where: str) -> str:
    """What happened inside the student's code, with its line."""
    name, message = str(outcome.get("type", "Error"))[:60], str(outcome.get("message", ""))[:300]
    line, code = outcome.get("line", 0), str(outcome.get("code", ""))[:200]
    text = f"{name} {where}: {message}".rstrip(": ")
    if line:
        text += f"\nLine {line}" + (f": {code}" if code else "")
    if name == "NameError":
        text += "\nHelper functions and imports belong in the exercise's own cell: the grader runs that cell alone."
    if name in ("ModuleNotFoundError", "ImportError") and "edgeinfer" in message:
        text += "\nThe answer has to be your own: the library is not there when it is graded."
    return text


def differs(exercise: Exercise, args: Args, got: Arrays, want: Arrays) -> str:
    """Empty if the answer is right; else what is wrong with it, in one sentence."""
    if exercise.accept is not None:
        for r, g in zip(exercise.returns, got, strict=True):
            if g.dtype.kind == "f" and not r.nan_ok and np.isnan(g).any():
                return f"`{r.name}` holds NaN."
        with np.errstate(all="ignore"):
            return exercise.accept(copied(args), got)
    for r, g, w in zip(exercise.returns, got, want, strict=True):
        good = r.close(g, w)
        if good.all():
            continue
        bad = int(good.size - np.count_nonzero(good))
        if g.dtype.kind == "f" and not r.nan_ok and np.isnan(g).any():
            return f"`{r.name}` holds NaN; a division by zero is the usual reason."
        if g.ndim == 0:
            return f"`{r.name}` is {both(g.item(), w.item())}."
        at = tuple(int(i) for i in np.argwhere(~good)[0])
        position = f"[{', '.join(map(str, at))}]"
        share = f"{bad} of {good.size} elements differ"
        return f"`{r.name}`{position} is {both(g[at].item(), w[at].item())} ({share})."
    return ""


def alike(exercise: Exercise, a: Arrays, b: Arrays) -> bool:
    """Whether two answers are the same within the tolerances of the exercise (shape and dtype kind included)."""
    if len(a) != len(b):
        return False
    for i, (x, y) in enumerate(zip(a, b, strict=True)):
        r = exercise.returns[i] if i < len(exercise.returns) else Returns("")
        if x.shape != y.shape or not Returns(r.name, r.dtype, r.rtol, r.atol, True).close(x, y).all():
            return False
    return True


def misconception_of(key: Key, answers: list[Arrays], wrong: list[int]) -> Any:
    """The first misconception of the exercise that explains the answers, or None."""
    exercise = key.exercise
    for m in exercise.misconceptions:
        if m.produces is not None:
            pairs = zip(answers, key.produced[m.name], strict=True)
            if all(not isinstance(w, str) and alike(exercise, a, w) for a, w in pairs):
                return m
        elif m.recognises is not None:
            try:
                with np.errstate(all="ignore"):
                    if all(m.recognises(copied(key.cases[i]), answers[i], key.wanted[i]) for i in wrong):
                        return m
            except Exception:
                continue
    return None
