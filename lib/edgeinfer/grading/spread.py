"""Spreads a class over the workers of a Dask scheduler. Optional: needs `distributed`, which nothing else here uses.

A worker builds its own grader from the same lab, seed and notebooks, refuses if its code or its sandbox differ, and
gives back a plain record. Source: dask.distributed, `Client.submit`. Anyone who can reach a Dask scheduler can run code
on its workers: keep it on a private network or use its TLS settings.
"""

import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeinfer.grading import grade as grading
from edgeinfer.grading.exercise import load_lab
from edgeinfer.grading.notebooks import Submission
from edgeinfer.grading.sandbox import Sandbox

_graders: dict[str, grading.Grader] = {}
_making = threading.Lock()


@dataclass(frozen=True)
class Job:
    """What a worker needs to know about the class: everything but the submissions."""

    lab: str
    solution: bytes
    released: bytes
    seed: int
    partial_points: bool
    state: str


class Remote:
    """A connection to a scheduler; grades one submission per call, from many threads.

    Args:
        scheduler: its address ("tcp://host:8786"), or a client with the methods `submit`, `nthreads` and `close`.
        job: the class.
        say: takes one line about the workers.

    Raises:
        GradingError: distributed is not installed, nobody answers, or there is no worker.
    """

    def __init__(self, scheduler: Any, job: Job, say: Callable[[str], None] = print) -> None:
        self.job, self.own = job, isinstance(scheduler, str)
        self.client = connect(scheduler) if self.own else scheduler
        self.waiting: set[Any] = set()
        self.slots = sum(self.client.nthreads().values())
        if not self.slots:
            self.close()
            raise grading.GradingError(
                f"the Dask scheduler {scheduler} has no worker; start one on each machine: dask worker {scheduler}"
            )
        say(f"Dask: {len(self.client.nthreads())} workers with {self.slots} threads")

    def grade(self, submission: Submission, data: bytes | None) -> tuple[dict[str, Any], list[float]]:
        """The record of one student and the sandbox's seconds, from some worker."""
        who = (submission.student, submission.problem, dict(submission.identity))
        future = self.client.submit(grade_one, self.job, *who, data, pure=False)
        self.waiting.add(future)
        try:
            answer: tuple[dict[str, Any], list[float]] = future.result()
        finally:
            self.waiting.discard(future)
        return answer

    def stop(self) -> None:
        """Give up what has not come back."""
        for future in list(self.waiting):
            future.cancel()

    def close(self) -> None:
        if self.own:
            self.client.close()


def connect(address: str) -> Any:
    """A client of the scheduler at this address."""
    try:
        from distributed import Client
    except ImportError:
        raise grading.GradingError(
            "SCHEDULER needs the package distributed, which is not installed: .venv/bin/pip install distributed "
            "(and on every worker), or leave SCHEDULER out to use the cores of this machine"
        ) from None
    try:
        return Client(address, timeout=15, set_as_default=False)
    except (OSError, ValueError) as error:  # TimeoutError is an OSError
        raise grading.GradingError(f"no Dask scheduler answers at {address} ({type(error).__name__})") from None


def grade_one(
    job: Job, student: str, problem: str, identity: dict[str, str], data: bytes | None
) -> tuple[dict[str, Any], list[float]]:
    """Runs on a worker: grade one submission.

    Raises:
        GradingError: this worker's code, sandbox or lab is not the one of the machine that sends the job.
    """
    grader = grader_of(job)
    record = grader.grade(Submission(student, None, problem, identity), data)
    overheads = []
    while grader.overheads:
        try:
            overheads.append(grader.overheads.pop())
        except IndexError:  # another thread of this worker was quicker
            break
    return record, overheads


def grader_of(job: Job) -> grading.Grader:
    """Made once per worker process and class."""
    name = f"{job.state}/{job.seed}"
    with _making:
        if name not in _graders:
            lab, sandbox = load_lab(job.lab), Sandbox()
            if grading.fingerprint(lab, job.solution, job.released, sandbox, job.partial_points) != job.state:
                raise grading.GradingError(
                    "a Dask worker has another version of edgeinfer, of the exercises or of the sandbox "
                    f"({sandbox.describe()}); install the same commit and bubblewrap on every machine"
                )
            with tempfile.TemporaryDirectory() as folder:
                solution, released = Path(folder) / "solution.ipynb", Path(folder) / "released.ipynb"
                solution.write_bytes(job.solution)
                if job.released:
                    released.write_bytes(job.released)
                grader = grading.Grader(lab, solution, released, job.seed, sandbox, job.partial_points)
            grader.grade_reference()
            grader.overheads.clear()
            _graders[name] = grader
    return _graders[name]
