"""Runs every check of the project, one stage after another, and ends with a table of what passed and how long it took.

A failing stage does not stop the later ones: one run tells everything. `--only NAME` runs a single stage.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHON = sys.executable
BIN = Path(PYTHON).parent
PYTEST = [PYTHON, "-m", "pytest"]
WORKERS = [
    "-n",
    str(max(1, min(4, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2))),
    "--dist",
    "loadfile",
]

# name -> commands. Order: the quick ones first, the book before the tests that read it.
STAGES: dict[str, list[list[str]]] = {
    "lint": [
        [str(BIN / "ruff"), "check", "."],
        [str(BIN / "ruff"), "format", "--check", "lib", "tests", "tools", "benchmarks", "book/_ext"],
        [str(BIN / "mypy")],
        [str(BIN / "lint-imports")],
    ],
    "labs-check": [[PYTHON, "tools/build_labs.py", "--check"]],
    "library": [[*PYTEST, *WORKERS, "tests", "--ignore=tests/evidence", "--ignore=tests/labs", "--ignore=tests/book"]],
    "evidence": [[*PYTEST, *WORKERS, "tests/evidence"]],
    "nbval": [[*PYTEST, *WORKERS[:2], "tests/labs"]],
    "papermill": [[PYTHON, "tools/run_labs.py"]],
    "book": [[PYTHON, "tools/build_book.py"]],
    "pages": [[*PYTEST, "tests/book"]],
}


def run_stage(name: str) -> bool:
    print(f"\n=== {name} " + "=" * (70 - len(name)), flush=True)
    passed = True
    for command in STAGES[name]:
        shown = " ".join(Path(part).name if part.startswith(str(BIN)) else part for part in command)
        print(f"$ {shown}", flush=True)
        passed = subprocess.run(command, cwd=ROOT, check=False).returncode == 0 and passed
    return passed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=list(STAGES), action="append", help="run this stage only (may be repeated)")
    chosen = parser.parse_args().only or list(STAGES)
    os.environ["PATH"] = f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}"
    # NumPy's products of small matrices: on a busy machine a second thread is waited for longer than it works.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    results = []
    try:
        for name in chosen:
            started = time.monotonic()
            results.append((name, run_stage(name), time.monotonic() - started))
    except KeyboardInterrupt:
        sys.exit("\ntests: interrupted; nothing was changed.")
    print("\n" + "=" * 75)
    for name, passed, seconds in results:
        print(f"{'passed' if passed else 'FAILED':7} {name:12} {seconds:7.1f} s")
    failed = sum(not passed for _, passed, _ in results)
    print(f"stages: {len(results) - failed} passed, {failed} failed, in {sum(s for *_, s in results) / 60:.1f} minutes")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
