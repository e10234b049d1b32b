"""Every solution runs to its end with strict checks, every unsolved lab with soft ones, and no stub passes a check.

Nothing is executed twice: `make test` runs the solutions with papermill and the unsolved labs for the book, and both
leave a record of what they ran, with which library. Where that record is missing or old, nbval runs the notebook here.
nbval compares no outputs, since none are stored: asserts and checks in the cells decide. It runs as a process of its
own, because nbval and our own tests want different settings of the same pytest.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from edgeinfer.grading import checks

ROOT = Path(__file__).resolve().parents[2]
SOLUTIONS = sorted((ROOT / "solutions").glob("*.ipynb"))
LABS = sorted((ROOT / "labs").glob("*.ipynb"))
CELL_SECONDS = 300  # only ends what hangs: how long a lab may take is held by tools/run_labs.py


def tool(name: str):
    """A script of tools/ as a module."""
    if str(ROOT / "tools") not in sys.path:
        sys.path.insert(0, str(ROOT / "tools"))
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def nbval(notebook: Path, strict: bool, *more: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull]
    command += ["--rootdir", str(notebook.parent), *more]
    command += ["--nbval-lax", "--nbval-current-env", f"--nbval-cell-timeout={CELL_SECONDS}", str(notebook)]
    environment = {**os.environ, "EDGEINFER_STRICT": "1" if strict else "0", "MPLBACKEND": "agg"}
    return subprocess.run(command, cwd=notebook.parent, env=environment, capture_output=True, text=True, check=False)


def test_every_source_has_its_two_notebooks():
    sources = {p.stem for p in (ROOT / "solutions").glob("*.py")}
    assert {p.stem for p in SOLUTIONS} == {p.stem for p in LABS} == sources


@pytest.mark.slow
@pytest.mark.parametrize("notebook", SOLUTIONS, ids=lambda p: p.stem)
def test_solution_runs_with_strict_checks(notebook):
    if tool("run_labs").has_passed(notebook):
        return
    done = nbval(notebook, True)
    assert done.returncode == 0, done.stdout[-6000:]


@pytest.mark.slow
@pytest.mark.parametrize("notebook", LABS, ids=lambda p: p.stem)
def test_unsolved_lab_runs_to_its_end(notebook):
    if tool("build_book").has_run(notebook):
        return
    done = nbval(notebook, False)
    assert done.returncode == 0, done.stdout[-6000:]


@pytest.mark.parametrize("notebook", LABS, ids=lambda p: p.stem)
def test_no_stub_passes_its_check(notebook, monkeypatch):
    monkeypatch.setenv("EDGEINFER_STRICT", "0")
    lab = checks.lab(notebook.stem)
    names = {exercise.name for exercise in lab.lab.exercises}
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        if cell["id"] in names:
            space: dict = {}
            exec(lab.lab.setup + "\n" + "".join(cell["source"]), space)  # noqa: S102 - our own released notebook
            assert not lab.check(cell["id"], space[cell["id"]]), cell["id"]
            names.remove(cell["id"])
    assert not names


@pytest.mark.slow
@pytest.mark.parametrize("notebook", LABS, ids=lambda p: p.stem)
def test_unsolved_lab_stops_at_a_check_when_they_are_strict(notebook):
    done = nbval(notebook, True, "--exitfirst")
    assert done.returncode != 0 and "CheckFailed" in done.stdout, done.stdout[-6000:]
