"""Runs every check of the project, one stage after another, and ends with a table of what passed and how long it took.

A failing stage does not stop the later ones: one run tells everything, and how to run only that again. `--only NAME`
runs a single stage. Nothing is executed twice: the pages recall the evidence that the tests have found, and nbval takes
the records of the solutions that papermill ran and of the labs that the book ran (tests/labs), so the order matters.
"""

import argparse
import os
import re
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PYTHON = sys.executable
BIN = Path(PYTHON).parent
PROCESSES = str(max(1, min(4, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2)))
# worksteal: tests go wherever a process is free; tests/book/conftest.py keeps those of one opened page together.
PYTEST = [PYTHON, "-m", "pytest", "-n", PROCESSES]
BY_FILE, BY_TEST = ["--dist", "loadfile"], ["--dist", "worksteal"]


class Stage(NamedTuple):
    """What a stage proves, and its commands."""

    what: str
    commands: list[list[str]]


# Order: the quick ones first; what leaves results or records before what reads them.
STAGES: dict[str, Stage] = {
    "lint": Stage(
        "style, types and the direction of imports",
        [
            [str(BIN / "ruff"), "check", "."],
            [str(BIN / "ruff"), "format", "--check", "lib", "tests", "tools", "benchmarks", "book/_ext"],
            [str(BIN / "mypy")],
            [str(BIN / "lint-imports")],
        ],
    ),
    "labs-check": Stage("the notebooks are in step with their sources", [[PYTHON, "tools/build_labs.py", "--check"]]),
    "library": Stage(
        "the library, the grader, the figures, the catalogue",
        [[*PYTEST, *BY_FILE, "tests", "--ignore=tests/evidence", "--ignore=tests/labs", "--ignore=tests/book"]],
    ),
    "evidence": Stage("what the papers claim, tried here", [[*PYTEST, *BY_TEST, "tests/evidence"]]),
    "papermill": Stage("every solution runs, within its time and memory", [[PYTHON, "tools/run_labs.py"]]),
    "book": Stage("every page runs and is built without a warning", [[PYTHON, "tools/build_book.py"]]),
    "nbval": Stage("solutions pass their checks, unsolved labs do not", [[*PYTEST, *BY_TEST, "tests/labs"]]),
    "pages": Stage("the built pages in a browser, and the book's tools", [[*PYTEST, *BY_TEST, "tests/book"]]),
}


def shown(command: list[str]) -> str:
    return " ".join(Path(part).name if part.startswith(str(BIN)) else part for part in command)


def processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run_stage(name: str) -> list[str]:
    """Runs one stage; returns how to run again only what failed, nothing when it passed."""
    stage, again = STAGES[name], []
    for command in stage.commands:
        print(f"$ {shown(command)}", flush=True)
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert process.stdout is not None
        failed: list[str] = []
        try:
            # Passed on as it comes, so that dots are seen while they are printed.
            rest = b""
            while piece := os.read(process.stdout.fileno(), 1 << 16):
                sys.stdout.buffer.write(piece)
                sys.stdout.flush()
                *lines, rest = (rest + piece).split(b"\n")
                failed += [
                    f[1].decode().split("@")[0]
                    for line in lines
                    if (f := re.match(rb"(?:FAILED|ERROR) (tests/\S+)", line))
                ]
        except KeyboardInterrupt:
            process.wait()
            raise
        if process.wait() != 0:
            files = " ".join(dict.fromkeys(f"'{test}'" for test in failed[:5]))
            again.append(f".venv/bin/python -m pytest {files}" if failed else f"make check ONLY={name}")
    return again


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", choices=list(STAGES), action="append", help="run this stage only (may be repeated)")
    chosen = parser.parse_args().only or list(STAGES)
    os.environ["PATH"] = f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}"
    # NumPy's products of small matrices: on a busy machine a second thread is waited for longer than it works.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    results = []
    try:
        for number, name in enumerate(chosen, 1):
            title = f"{name} ({number} of {len(chosen)}): {STAGES[name].what}"
            print(f"\n=== {title} " + "=" * max(3, 95 - len(title)), flush=True)
            started, used = time.monotonic(), processor_seconds()
            again = run_stage(name)
            results.append((name, again, time.monotonic() - started, processor_seconds() - used))
    except KeyboardInterrupt:
        sys.exit("\ntests: interrupted; nothing was changed.")
    print("\n" + "=" * 100)
    for name, again, seconds, work in results:
        print(f"{'FAILED' if again else 'passed':7} {name:12} {seconds:7.1f} s {work:8.1f} s of processor time")
    failed = [again for _, again, *_ in results if again]
    minutes, work = (sum(r[column] for r in results) / 60 for column in (2, 3))
    print(f"stages: {len(results) - len(failed)} passed, {len(failed)} failed, in {minutes:.1f} minutes", end=" ")
    print(f"({work:.1f} of processor time)")
    for again in failed:
        print("again: " + "\n       ".join(again))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
