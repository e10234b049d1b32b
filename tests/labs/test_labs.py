"""Every solution runs from the first to the last cell with strict checks, every unsolved lab with soft ones (nbval).

nbval compares no outputs here, since none are stored: asserts and checks in the cells decide. It runs as a process of
its own, because nbval and our own tests want different settings of the same pytest.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOLUTIONS = sorted((ROOT / "solutions").glob("*.ipynb"))
LABS = sorted((ROOT / "labs").glob("*.ipynb"))
CELL_SECONDS = 300  # only ends what hangs: how long a lab may take is held by tools/run_labs.py


def nbval(notebook: Path, strict: bool, **more: str) -> "subprocess.CompletedProcess[str]":
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-c",
        os.devnull,
        "--rootdir",
        str(notebook.parent),
    ]
    command += ["--nbval-lax", "--nbval-current-env", f"--nbval-cell-timeout={CELL_SECONDS}", str(notebook)]
    environment = {**os.environ, "EDGEINFER_STRICT": "1" if strict else "0", "MPLBACKEND": "agg", **more}
    return subprocess.run(command, cwd=notebook.parent, env=environment, capture_output=True, text=True, check=False)


def test_every_source_has_its_two_notebooks():
    sources = {p.stem for p in (ROOT / "solutions").glob("*.py")}
    assert {p.stem for p in SOLUTIONS} == {p.stem for p in LABS} == sources


@pytest.mark.slow
@pytest.mark.parametrize("notebook", SOLUTIONS, ids=lambda p: p.stem)
def test_solution_runs_with_strict_checks(notebook):
    done = nbval(notebook, strict=True)
    assert done.returncode == 0, done.stdout[-6000:]


@pytest.mark.slow
@pytest.mark.parametrize("notebook", LABS, ids=lambda p: p.stem)
def test_unsolved_lab_runs_to_its_end(notebook):
    done = nbval(notebook, strict=False)
    assert done.returncode == 0, done.stdout[-6000:]


@pytest.mark.slow
@pytest.mark.parametrize("notebook", LABS, ids=lambda p: p.stem)
def test_unsolved_lab_passes_no_check_when_they_are_strict(notebook):
    done = nbval(notebook, strict=True)
    assert done.returncode != 0 and "CheckFailed" in done.stdout, done.stdout[-6000:]
