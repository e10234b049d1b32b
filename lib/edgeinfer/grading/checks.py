"""The checks of the labs: call the student's own function, say in words what was misunderstood, let the notebook go on.

Soft by default; `EDGEINFER_STRICT=1` makes every check and fallback raise. Knows no technique and never runs the
library's version in the student's place.
"""

import contextlib
import dis
import functools
import html
import os
import re
import signal
import threading
import time
import types
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from edgeinfer.grading.exercise import Exercise, Lab, load_lab
from edgeinfer.grading.judge import NOT_ATTEMPTED, Key, Verdict, judge
from edgeinfer.grading.runner import call_case

CHECK_SEED = 20  # public; the grader draws its own
COLOURS = {"right": "#1b7f4d", NOT_ATTEMPTED: "#6b7280"}


class CheckFailed(AssertionError):
    """Raised instead of shown when EDGEINFER_STRICT=1."""


class TimeUp(BaseException):
    """Raised inside a student's call that runs too long; no `except Exception` of theirs catches it."""


def strict() -> bool:
    """Whether checks raise: `EDGEINFER_STRICT` is set to anything but 0."""
    return os.environ.get("EDGEINFER_STRICT", "0") not in ("", "0")


class CheckResult:
    """A verdict that shows itself in a notebook. `passed` is its truth value."""

    def __init__(self, exercise: str, verdict: Verdict) -> None:
        self.exercise, self.verdict = exercise, verdict
        self.passed, self.status, self.message = verdict.passed, verdict.status, verdict.message
        self.misconception = verdict.misconception

    def __bool__(self) -> bool:
        return self.passed

    def __repr__(self) -> str:
        name = f" [{self.misconception}]" if self.misconception else ""
        return f"{self.exercise}: {self.status}{name}. {self.message}"

    def _repr_html_(self) -> str:
        colour = COLOURS.get(self.status, "#b45309")
        text = re.sub(r"`([^`\n]+)`", r"<code>\1</code>", html.escape(self.message)).replace("\n", "<br>")
        name = f" <small>({html.escape(self.misconception.replace('-', ' '))})</small>" if self.misconception else ""
        return (
            f'<div role="status" style="border-left:4px solid {colour};padding:.3em .8em;margin:.3em 0">'
            f"<strong><code>{html.escape(self.exercise)}</code>: {html.escape(self.status)}</strong>{name}"
            f"<br>{text}</div>"
        )


class LabChecks:
    """The checks of one lab; made by `lab(name)`."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self._keys: dict[str, Key] = {}
        self._seen: weakref.WeakKeyDictionary[Any, CheckResult] = weakref.WeakKeyDictionary()

    def check(self, name: str, function: Any) -> CheckResult:
        """Check the student's function against the oracle of exercise `name`.

        Args:
            name: the exercise.
            function: the object that the student wrote; this object is called and no other.

        Returns:
            a result that shows its message; false unless everything is right.

        Raises:
            CheckFailed: with EDGEINFER_STRICT=1, when it is not right.
            KeyError: the lab has no such exercise.
        """
        exercise = self.lab[name]
        result = CheckResult(name, self._verdict(exercise, function))
        with contextlib.suppress(TypeError):  # numbers and the like cannot be remembered
            self._seen[function] = result
        if strict() and not result.passed:
            raise CheckFailed(repr(result))
        return result

    def fallback(self, name: str, function: Any, library: Callable[..., Any]) -> Callable[..., Any]:
        """Hand out the student's function if its check passed, else the library's version, and say so.

        Args:
            name: the exercise.
            function: the student's function.
            library: a function with the same signature.

        Returns:
            one of the two; bind it to another name than the student's function.

        Raises:
            CheckFailed: with EDGEINFER_STRICT=1, when it would fall back.
        """
        exercise = self.lab[name]
        result = None
        with contextlib.suppress(TypeError):
            result = self._seen.get(function)
        if result is None:
            result = CheckResult(name, self._verdict(exercise, function))
        if result.passed:
            return function
        if strict():
            raise CheckFailed(f"{name} would fall back to the library: {result!r}")
        why = "is not attempted yet" if result.status == NOT_ATTEMPTED else "is not right yet"
        print(f"Note: your {name} {why}. The cells below use the library's version, so these results are not yours.")

        @functools.wraps(library)
        def stand_in(*args: Any, **kwargs: Any) -> Any:
            return library(*args, **kwargs)

        stand_in.is_library_version = True  # type: ignore[attr-defined]
        return stand_in

    def _verdict(self, exercise: Exercise, function: Any) -> Verdict:
        problem = self._not_students(exercise, function)
        if problem is not None:
            return problem
        if exercise.name not in self._keys:
            self._keys[exercise.name] = Key(exercise, exercise.cases(CHECK_SEED))
        key = self._keys[exercise.name]
        call = function
        if exercise.harness:
            space: dict[str, Any] = {}
            exec(self.lab.setup + "\n" + exercise.harness, space)  # noqa: S102 - the author's own harness
            call = functools.partial(space["run"], function)
        outcomes: list[dict[str, Any]] = []
        started = time.monotonic()
        try:
            with time_limit(exercise.seconds):
                for args in key.cases + (key.cases[:1] if exercise.deterministic else []):
                    outcomes.append(call_case(call, args))
                    if outcomes[-1]["kind"] == "error":
                        break
        except TimeUp:
            where = (
                f"input {len(outcomes) + 1} of {len(key.cases)}"
                if len(outcomes) < len(key.cases)
                else "a repeated input"
            )
            return Verdict(
                "time limit",
                f"Stopped after {time.monotonic() - started:.0f} s at {where}: a loop may have no end, or does "
                "element by element what numpy does at once.",
            )
        return judge(key, outcomes)

    def _not_students(self, exercise: Exercise, function: Any) -> Verdict | None:
        """Refuse what is not the student's own function, before anything is called."""
        if function is None or function is ...:
            return Verdict(NOT_ATTEMPTED, f"Not attempted yet: {exercise.name} is {function!r}.")
        if not callable(function):
            return Verdict(
                "wrong",
                f"{exercise.name} is a {type(function).__name__}, expected a function.\nContract: {exercise.contract}",
            )
        module = getattr(function, "__module__", "") or ""
        if getattr(function, "is_library_version", False) or belongs_to_library(module):
            return Verdict(
                NOT_ATTEMPTED,
                f"This {exercise.name} is the library's version, not yours: run the cell with your function again.",
            )
        allowed = tuple(f"edgeinfer.{room}" for room in self.lab.library) or ("-",)
        if isinstance(function, types.FunctionType):
            read = {i.argval for i in dis.get_instructions(function) if i.opname == "LOAD_GLOBAL"}  # no attributes
            for used in sorted(read):
                value = function.__globals__.get(used)
                origin = (
                    value.__name__ if isinstance(value, types.ModuleType) else getattr(value, "__module__", "") or ""
                )
                if callable(value) and getattr(value, "is_library_version", False):
                    origin = "edgeinfer"
                if belongs_to_library(str(origin)) and not str(origin).startswith(allowed):
                    return Verdict(
                        "wrong",
                        f"{exercise.name} calls the library (`{used}`). The answer has to be your own; when it is "
                        "graded, the library is not there.",
                        "calls-the-library",
                    )
        return None


def belongs_to_library(module: str) -> bool:
    return module == "edgeinfer" or module.startswith("edgeinfer.")


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeUp in the block after this time; on a side thread or without POSIX signals there is no limit."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def stop(*_: Any) -> None:
        raise TimeUp

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds, 0.5)  # again and again, should the code swallow the first
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def lab(name: str | Path) -> LabChecks:
    """The checks of a lab.

    Args:
        name: name of the lab, or the path of a Python file with its exercises.

    Raises:
        FileNotFoundError: "no exercises for lab ..."
    """
    return LabChecks(load_lab(name))
