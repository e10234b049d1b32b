"""Runs the pages that need it before Sphinx reads them: several at a time, with progress, each at most once.

myst-nb alone would run them one by one, silently, while reading, and stop at the first that fails. Pages whose cells
read a clock run by themselves at the end, so that nothing stands beside what they measure. What ran goes into myst-nb's
own cache (jupyter-cache); this file knows that cache, not the book. tools/book_watch.py reads two lines that it prints.
"""

import multiprocessing
import multiprocessing.connection
import os
import re
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn
from jupyter_cache.executors.utils import single_nb_execution
from myst_nb.core.config import NbParserConfig
from myst_nb.core.execute import NotebookClientCache, create_client
from myst_nb.core.nb_to_tokens import nb_node_to_dict
from myst_nb.core.read import create_nb_reader
from sphinx.errors import SphinxError

CLOCK = re.compile(r"\b(measure_limits|compare|rotating|perf_counter|process_time|monotonic|time\.time)\b *\(")
BEGIN, END = "pages: running", "pages: all have run"


class PageFailed(SphinxError):
    """Some pages did not run to their end; what they said has been printed."""

    category = "pages"


@dataclass
class Job:
    """One page to run."""

    name: str
    client: Any
    cells: int = 0
    alone: bool = False
    started: float = 0.0
    seconds: float = 0.0
    problem: str = ""
    process: Any = field(default=None, repr=False)


def say(text: str) -> None:
    print(text, flush=True)


def clock_time(seconds: float) -> str:
    """A span for people: seconds below a minute and a half, else minutes."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.1f} minutes"


def workers() -> int:
    """Pages at a time: one per processor, at most four (each may hold a gigabyte)."""
    free = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(4, int(os.environ.get("EDGEINFER_JOBS") or free)))


def jobs_for(env: Any, names: list[str]) -> list[Job]:
    """The pages among `names` with code that the cache does not hold yet; what cannot be read is left to Sphinx."""
    config: NbParserConfig = env.mystnb_config
    if config.execution_mode != "cache":
        return []
    cache = get_cache(config.execution_cache_path)
    # tools/book_watch.py names the pages whose kept results it knows to be old.
    again = os.environ.get("EDGEINFER_RUN_AGAIN", "").split()
    found: dict[str, Job] = {}
    for name in names:
        path = env.doc2path(name)
        try:
            text = Path(path).read_text(encoding="utf-8")
            reader = create_nb_reader(path, env.myst_config, config, text)
            notebook = None if reader is None else reader.read(text)
        except Exception:  # Sphinx reads it again and says what is wrong, with the line
            continue
        if notebook is None:
            continue
        own = nb_node_to_dict(notebook.metadata.get(config.metadata_key, {}))
        own.pop("output_folder", None)
        client = create_client(notebook, path, config.copy(**own), None, reader.read_fmt)  # type: ignore[arg-type]
        key = cache.create_hashed_notebook(notebook)[1]
        if not isinstance(client, NotebookClientCache) or key in found:
            continue
        try:
            known = bool(cache.match_cache_notebook(notebook)) and name not in again
        except KeyError:
            known = False
        if not known:
            code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
            found[key] = Job(name, client, len(code), bool(CLOCK.search("\n".join(code))))
    return list(found.values())


def execute(job: Job, answer: Any) -> None:
    """In the child: run one page and send back the notebook with its outputs."""
    parent = os.getppid()

    def end_with_parent() -> None:  # the kernel follows: it watches this process in the same way
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    # A child that raises would print its own traceback between the lines of progress.
    try:
        config, notebook = job.client.nb_config, job.client.notebook
        done = single_nb_execution(
            notebook, str(Path(job.client.path).parent), config.execution_timeout, config.execution_allow_errors
        )
        answer.send((None if done.err else notebook, done.time, done.exc_string or ""))
    except KeyboardInterrupt:
        os._exit(1)
    except Exception as error:
        answer.send((None, 0.0, f"{type(error).__name__}: {error}"))


class Progress:
    """Says which page has run, how many are left and for how long. Pages run before are known by their seconds."""

    def __init__(self, jobs: list[Job], known: dict[str, float], lanes: int) -> None:
        self.jobs, self.known, self.lanes = jobs, known, lanes
        self.started = time.monotonic()
        self.done: list[Job] = []

    def expected(self, job: Job) -> float:
        """Seconds that a page will take: as last time, or as its cells took on the pages that have run."""
        if job.name in self.known:
            return self.known[job.name]
        cells = sum(j.cells for j in self.done) or 1
        return max(1.0, job.cells * (sum(j.seconds for j in self.done) / cells if self.done else 1.0))

    def left(self) -> float:
        now, beside, alone = time.monotonic(), [0.0], 0.0
        for job in self.jobs:
            if job in self.done:
                continue
            rest = max(0.0, self.expected(job) - (now - job.started if job.started else 0.0))
            if job.alone:
                alone += rest
            else:
                beside.append(rest)
        return max(sum(beside) / self.lanes, max(beside)) + alone

    def tell(self, job: Job) -> None:
        self.done.append(job)
        passed = "FAILED" if job.problem else "ran"
        more = f"; about {clock_time(self.left())} left" if len(self.done) < len(self.jobs) else ""
        say(f"pages: {len(self.done):3} of {len(self.jobs)}  {passed} {job.name} in {job.seconds:.1f} s{more}")


def run_all(jobs: list[Job], keep: Any, progress: Progress, lanes: int) -> None:
    """Run every job; `keep(job, notebook)` stores each result. Jobs that want the machine alone come last."""
    context = multiprocessing.get_context("fork" if sys.platform.startswith("linux") else "spawn")
    # The longest first: then no long one is left over at the end while the other processors have nothing to do.
    waiting = sorted(jobs, key=lambda j: (j.alone, -progress.expected(j)))
    running: dict[Any, Job] = {}
    try:
        while waiting or running:
            while waiting and len(running) < lanes and not (running and waiting[0].alone):
                job = waiting.pop(0)
                reading, writing = context.Pipe(duplex=False)
                job.started = time.monotonic()
                job.process = context.Process(target=execute, args=(job, writing))
                job.process.start()
                writing.close()
                running[reading] = job
            for reading in multiprocessing.connection.wait(list(running)):
                job = running.pop(reading)
                try:
                    notebook, job.seconds, job.problem = reading.recv()  # type: ignore[attr-defined]
                except EOFError:
                    notebook, job.problem = None, "the process that ran the page was killed (is there enough memory?)"
                job.process.join()
                if notebook is not None:
                    keep(job, notebook)
                progress.tell(job)
    finally:
        for job in running.values():
            job.process.terminate()


def past_seconds(path: Path | None) -> dict[str, float]:
    import json

    try:
        return dict(json.loads(path.read_text())) if path else {}
    except (OSError, ValueError):
        return {}


def run_pages(app: Any, env: Any, names: list[str]) -> None:
    """Before Sphinx reads `names`: run those of them that the cache does not hold.

    Raises:
        PageFailed: names the pages; their errors stand above it in the form that nbclient gives them.
    """
    import json

    jobs = jobs_for(env, names)
    if not jobs:
        return
    record = os.environ.get("EDGEINFER_PAGE_SECONDS")
    known = past_seconds(Path(record) if record else None)
    lanes = workers()
    progress = Progress(jobs, known, lanes)
    cache = get_cache(env.mystnb_config.execution_cache_path)

    def keep(job: Job, notebook: Any) -> None:
        bundle = CacheBundleIn(notebook, str(job.client.path), data={"execution_seconds": job.seconds})
        cache.cache_notebook_bundle(bundle, check_validity=False, overwrite=True)
        known[job.name] = round(job.seconds, 1)

    alone = sum(job.alone for job in jobs)
    side = f", {lanes} at a time" if lanes > 1 and len(jobs) > alone + 1 else ""
    last = f"; {alone} read a clock and run alone at the end" if alone and side else ""
    guess = f" (about {clock_time(progress.left())})" if all(job.name in known for job in jobs) else ""
    say(f"{BEGIN} {len(jobs)} page(s) whose code, library or data is new{side}{last}{guess}")
    run_all(jobs, keep, progress, lanes)
    if record:
        Path(record).write_text(json.dumps(dict(sorted(known.items())), indent=0) + "\n")
    say(f"{END}, in {clock_time(time.monotonic() - progress.started)}")
    failed = [job for job in jobs if job.problem]
    for job in failed:
        say(f"{job.problem.strip()}\nThe above exception was the direct cause of: ExecutionError: {job.client.path}")
    if failed:
        raise PageFailed("not run to the end: " + ", ".join(job.name for job in failed))


def setup(app: Any) -> dict[str, bool]:
    app.connect("env-before-read-docs", run_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
