"""Grades a class: every answer runs alone in the sandbox, on hidden inputs; what comes back is judged here.

The reference solution is graded first. One record per student is written as soon as it is known, so a run can be
interrupted and goes on where it stopped. Knows no technique and runs no student's code in this process.
"""

import concurrent.futures
import json
import os
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgeinfer.grading import archives, notebooks, partial, report, runner
from edgeinfer.grading import judge as judging
from edgeinfer.grading import sandbox as sandboxing
from edgeinfer.grading.exercise import EXERCISES, Exercise, Lab, load_lab
from edgeinfer.grading.judge import Key, Verdict
from edgeinfer.grading.notebooks import Answer, BadNotebook, Submission
from edgeinfer.grading.sandbox import Limits, Run, Sandbox

ROOT = Path(__file__).resolve().parents[3]
SAID = {
    "time limit": "Stopped at the time limit: a loop may have no end, or it does one by one what numpy does at once.",
    "memory limit": "Stopped at the memory limit.",
    "process limit": "Stopped: the answer starts other processes.",
    "output limit": "Stopped: far more output came than an answer needs.",
    "killed": "The answer was ended by the operating system (memory or time).",
    "no answer": "The function ended Python before it returned an answer.",
}


class GradingError(Exception):
    """Why nothing can be graded: one sentence for the instructor."""


@dataclass(frozen=True)
class Written:
    """A written answer of the lab, graded by a person."""

    name: str
    points: float


class Grader:
    """Grades answers of one lab with one set of hidden inputs.

    Args:
        lab: its exercises.
        solution: the solution notebook.
        released: the released notebook, to recognise untouched cells; may be missing.
        seed: of the hidden inputs.
        sandbox: where answers run.
        partial_points: whether a wrong answer may keep a part of its points (see `partial`).

    Raises:
        GradingError: the solution notebook is missing or unreadable.
    """

    partial_points = False

    def __init__(
        self,
        lab: Lab,
        solution: Path,
        released: Path | None,
        seed: int,
        sandbox: Sandbox,
        partial_points: bool = False,
    ) -> None:
        self.lab, self.seed, self.sandbox, self.partial_points = lab, seed, sandbox, partial_points
        self.overheads: list[float] = []  # seconds of each answer that were the sandbox's, not the answer's
        self.keys = {e.name: Key(e, e.cases(seed)) for e in lab.exercises}
        self.limits = {e.name: self._limits(e) for e in lab.exercises}
        self.solution = read(solution, "make labs writes it")
        self.stubs: dict[str, str] = {}
        if released is not None and released.is_file():
            cells = read(released, "make labs writes it")
            self.stubs = {e.name: notebooks.answer(cells, e.name).code for e in lab.exercises}
        self.written = [
            Written(c["metadata"]["nbgrader"]["grade_id"], float(c["metadata"]["nbgrader"].get("points", 0)))
            for c in self.solution
            if c.get("cell_type") == "markdown" and c.get("metadata", {}).get("nbgrader", {}).get("grade")
        ]

    @property
    def points(self) -> float:
        """Of all exercises that are graded here; written answers come on top."""
        return sum(e.points for e in self.lab.exercises)

    def grade_reference(self) -> list[Verdict]:
        """Grade the solution notebook; it must get full marks.

        Raises:
            GradingError: it does not; a broken sandbox or exercise would look like a class that failed.
        """
        verdicts = self.grade_cells(self.solution, stubs=False)
        for e, v in zip(self.lab.exercises, verdicts, strict=True):
            if not v.passed:
                raise GradingError(
                    f"the reference solution of {e.name!r} is not right ({v.status}: {v.message}); nothing was graded. "
                    f"Sandbox: {self.sandbox.describe()}"
                )
        return verdicts

    def grade(self, submission: Submission, data: bytes | None) -> dict[str, Any]:
        """The record of one student; never raises for anything in the submission."""
        problem, cells = submission.problem, []
        if not problem:
            try:
                cells = notebooks.read_cells(data if data is not None else b"")
            except BadNotebook as error:
                problem = str(error)
        none = [Verdict("no notebook", problem) for _ in self.lab.exercises]
        verdicts = none if problem else self.grade_cells(cells)
        return {
            "student": submission.student,
            "identity": dict(submission.identity),
            "problem": problem,
            "score": sum(v.points for v in verdicts),
            "points": self.points,
            "exercises": {e.name: v.to_dict() for e, v in zip(self.lab.exercises, verdicts, strict=True)},
            "written": {w.name: notebooks.written(cells, w.name) for w in self.written},
        }

    def grade_cells(self, cells: list[dict[str, Any]], stubs: bool = True) -> list[Verdict]:
        answers = {
            e.name: notebooks.answer(cells, e.name, self.stubs.get(e.name, "") if stubs else "")
            for e in self.lab.exercises
        }
        return [self.grade_exercise(e, answers) for e in self.lab.exercises]

    def grade_exercise(self, exercise: Exercise, answers: dict[str, Answer]) -> Verdict:
        mine = answers[exercise.name]
        if mine.status:
            return Verdict(mine.status, mine.message)
        cells = [("<setup>", self.lab.setup)]
        cells += [(f"<answer {n}>", answers[n].code) for n in (*exercise.needs, exercise.name)]
        spec = {
            "cells": cells,
            "function": exercise.name,
            "harness": exercise.harness,
            "repeat": exercise.deterministic,
        }
        key = self.keys[exercise.name]
        run = self.sandbox.run(spec, key.cases, self.limits[exercise.name], self.lab.library)
        self.overheads.append(run.overhead)
        return verdict(key, run, self.partial_points)

    def _limits(self, exercise: Exercise) -> Limits:
        wanted = self.keys[exercise.name].wanted
        size = sum(a.nbytes for arrays in wanted for a in arrays)
        cpu = max(1, round(exercise.seconds))
        return Limits(cpu=cpu, wall=2 * cpu + 8, memory=exercise.memory, answer=8 * size + (1 << 20))


def verdict(key: Key, run: Run, partial_points: bool = False) -> Verdict:
    """Judge what came out of the sandbox."""
    if run.status != "answered":
        if "MemoryError" in run.said:
            return Verdict("memory limit", SAID["memory limit"])
        message = SAID.get(run.status, run.status)
        last = run.said.strip().splitlines()[-1:] if run.status == "no answer" else []
        return Verdict(run.status, "\n".join([message, *(line[:200] for line in last)]))
    try:
        outcomes = runner.unpack(run.data)
        first = outcomes[0] if outcomes else {}
        if first.get("kind") == "setup":
            return Verdict("error", judging.error_text(first, "while the cell was run"))
        if any(o.get("type") == "MemoryError" for o in outcomes if o.get("kind") == "error"):
            return Verdict("memory limit", SAID["memory limit"])
        found = judging.judge(key, outcomes)
        if partial_points and not found.passed:
            part = partial.share(key, outcomes, found.status, found.misconception)
            found = replace(found, points=round(part * key.exercise.points, 2))
        return found
    except ValueError as error:
        return Verdict("no answer", f"What came back is no valid answer: {error}.")
    except (TypeError, KeyError, AttributeError, OverflowError, MemoryError, RecursionError) as error:
        return Verdict("no answer", f"What came back is no valid answer: {type(error).__name__}.")


def read(path: Path, how: str) -> list[dict[str, Any]]:
    """Cells of one of our own notebooks."""
    try:
        return notebooks.read_cells(notebooks.read_bytes(path))
    except BadNotebook as error:
        raise GradingError(f"{path}: {error} ({how})") from None


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """One grading run at a time per report folder."""
    with (out / ".lock").open("w") as file:
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:
            pass
        except OSError:
            raise GradingError(f"another run is writing to {out}; wait for it or choose another --out") from None
        yield


def write_json(path: Path, value: Any, private: bool = False) -> None:
    """Through a rename, so that a record is there or not."""
    part = path.with_name(f".{path.name}.part")
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600 if private else 0o644)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        json.dump(value, file, indent=1, ensure_ascii=False)
    part.replace(path)


def load_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def fingerprint(lab: Lab, solution: bytes, released: bytes, sandbox: Sandbox, partial_points: bool) -> str:
    """Of all that a grade depends on beside submission and seed: a record with another fingerprint is graded again."""
    return notebooks.digest(
        solution,
        released,
        *(p.read_bytes() for p in sorted((lab.file or EXERCISES).parent.glob("*.py"))),
        *(Path(m.__file__ or "").read_bytes() for m in (judging, runner, notebooks, partial, sandboxing, archives)),
        Path(__file__).read_bytes(),
        sandbox.kind.encode(),
        bytes([partial_points]),
    )


def grade_class(
    lab_name: str | Path,
    submissions: Path,
    out: Path,
    *,
    solutions: Path = ROOT / "solutions",
    labs: Path = ROOT / "labs",
    sandbox: Sandbox | None = None,
    workers: int = 0,
    seed: int | None = None,
    partial_points: bool = False,
    scheduler: Any = "",
    say: Callable[[str], None] = lambda text: print(text, file=sys.stderr),
) -> list[dict[str, Any]]:
    """Grade every submission of a class; write records, sheets and feedback pages.

    Args:
        lab_name: name of the lab, or a file with its exercises.
        submissions: folder with one entry per student, or the zip file of the class (see `archives`).
        out: folder for the report; what is there already and still valid is not graded again.
        solutions, labs: where the notebooks of the lab are.
        sandbox: where answers run (default: the best that works here).
        workers: answers at the same time (default: one per core, or per thread of the Dask workers).
        seed: of the hidden inputs (default: secret, new for every report folder).
        partial_points: whether wrong answers may keep a part of their points (see `partial`).
        scheduler: address of a Dask scheduler, or a connected client; "" grades on this machine.
        say: takes progress lines.

    Returns:
        one record per student.

    Raises:
        GradingError: nothing could be graded; the reason.
        FileNotFoundError: no such lab or folder.
    """
    lab = load_lab(lab_name)
    if lab.file is not None and lab.file.suffix == ".xz":
        raise GradingError("this copy is the public release: it holds no oracles; grade in the instructor's repository")
    if out.resolve().is_relative_to(submissions.resolve()):
        raise GradingError(f"the report folder {out} lies inside the submissions; choose another --out")
    sandbox = sandbox or Sandbox()
    solution, released = solutions / f"{lab.name}.ipynb", labs / f"{lab.name}.ipynb"
    (out / "results").mkdir(parents=True, exist_ok=True)
    with locked(out):
        found = archives.gather(submissions, lab.name, out / "unpacked")
        ours, theirs = (p.read_bytes() if p.is_file() else b"" for p in (solution, released))
        state = fingerprint(lab, ours, theirs, sandbox, partial_points)
        before = load_json(out / "run.json") or {}
        if seed is None:
            seed = before["seed"] if before.get("state") == state else secrets.randbits(62)
        grader = Grader(lab, solution, released, seed, sandbox, partial_points)
        say(f"sandbox: {sandbox.describe()}")
        grader.grade_reference()
        say(f"{lab.name}: the reference solution gets all {grader.points:g} points; {len(found)} submissions")
        run = {"state": state, "seed": seed, "lab": lab.name, "sandbox": sandbox.describe()}
        write_json(out / "run.json", run, private=True)
        remote = None
        if scheduler:
            from edgeinfer.grading import spread

            job = spread.Job(str(lab_name), ours, theirs, seed, partial_points, state)
            remote = spread.Remote(scheduler, job, say)
        grader.overheads.clear()
        started = time.monotonic()
        try:
            records, new = grade_all(grader, found, out, state, workers, say, remote)
        finally:
            if remote is not None:
                remote.close()
        speed = before.get("speed", "")
        if new:
            speed = report.speed(new, time.monotonic() - started, grader.overheads, remote.slots if remote else 0)
            say(speed)
        write_json(out / "run.json", {**run, "speed": speed}, private=True)
        report.write(out, lab, grader.written, records, sandbox.describe(), speed)
    return records


def grade_all(
    grader: Grader,
    found: list[Submission],
    out: Path,
    state: str,
    workers: int,
    say: Callable[[str], None],
    remote: Any = None,
) -> tuple[list[dict[str, Any]], int]:
    """All submissions on all cores, or all Dask workers; records that are still valid are taken as they are.

    Returns:
        the records, and how many of them were graded now.
    """
    records: dict[str, dict[str, Any]] = {}
    graded: list[str] = []

    def one(submission: Submission) -> dict[str, Any]:
        data: bytes | None = None
        if submission.path is not None:
            try:
                data = notebooks.read_bytes(submission.path)
            except BadNotebook as error:
                submission = replace(submission, path=None, problem=str(error))
        mark = notebooks.digest(
            state.encode(),
            str(grader.seed).encode(),
            submission.student.encode("utf-8", "replace"),
            submission.problem.encode("utf-8", "replace"),
            data or b"",
        )
        file = out / "results" / f"{report.safe_name(submission.student)}.json"
        known = load_json(file)
        if isinstance(known, dict) and known.get("mark") == mark:
            return {**known, "identity": dict(submission.identity)}
        if remote is None:
            made = grader.grade(submission, data)
        else:
            made, overheads = remote.grade(submission, data)
            grader.overheads.extend(overheads)
        if grader.sandbox.stop.is_set():
            raise InterruptedError
        record = {**made, "mark": mark}
        write_json(file, record)
        graded.append(submission.student)
        return record

    pool = concurrent.futures.ThreadPoolExecutor(workers or (remote.slots if remote else available_cores()))
    started = time.monotonic()
    try:
        jobs = {pool.submit(one, s): s for s in found}
        for done, job in enumerate(concurrent.futures.as_completed(jobs), 1):
            records[jobs[job].student] = job.result()
            if done == len(jobs) or done % 10 == 0:
                say(report.progress(done, len(jobs), len(graded), time.monotonic() - started))
    except KeyboardInterrupt:
        grader.sandbox.stop.set()
        if remote is not None:
            remote.stop()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    keep = {f"{report.safe_name(s.student)}.json" for s in found}
    for old in (out / "results").glob("*.json"):
        if old.name not in keep:
            with suppress(OSError):
                old.unlink()
    return [records[s.student] for s in found], len(graded)


def available_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
