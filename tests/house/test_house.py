"""Rules of the house that are cheap to hold and easy to forget."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def tracked(*patterns: str) -> list[Path]:
    """Files that git knows (or would add); a source archive without git has none of the others to worry about."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *patterns]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip("this copy is no git checkout, so there is no list of tracked files")
    return [path for line in done.stdout.splitlines() if (path := ROOT / line).is_file()]


def test_importing_the_package_is_quick_and_light():
    code = "import sys, edgeinfer; print([m for m in ('torch', 'numba', 'numpy', 'matplotlib') if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


@pytest.mark.parametrize("room", ["measure", "figures", "evidence", "grading"])
def test_light_rooms_import_neither_torch_nor_numba(room):
    code = f"import sys, edgeinfer.{room}; print([m for m in ('torch', 'numba') if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


def test_notebooks_are_stored_without_outputs_and_with_stable_ids():
    for path in tracked("*.ipynb"):
        cells = json.loads(path.read_text())["cells"]
        assert not any(cell.get("outputs") for cell in cells), f"{path.name} is stored with outputs"
        identifiers = [cell["id"] for cell in cells]
        assert len(set(identifiers)) == len(identifiers), f"{path.name} has a cell id twice"
        assert not [i for i in identifiers if re.fullmatch(r"[0-9a-f]{8,}|\d+", i)], f"{path.name} has a random cell id"


def test_no_source_file_is_too_long_to_read_in_one_sitting():
    long = {
        str(path.relative_to(ROOT)): lines
        for path in tracked("*.py")
        if (lines := path.read_text().count("\n")) > 400
        and not set(path.parts) & {"solutions", "mutants"}  # a lab, and a table of answers: read cell by cell
    }
    assert not long, f"files over 400 lines: {long}"


def test_no_path_of_one_machine_stands_in_the_project():
    pattern = re.compile(r"(?<![\w.])/(?:home|root|work|Users)/[A-Za-z.]")
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in tracked(
            "*.py", "*.md", "*.yml", "*.yaml", "*.toml", "*.txt", "*.ipynb", "*.cff", "Makefile", ".ci/run"
        )
        if path != Path(__file__)
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if pattern.search(line)
    ]
    assert not found


def test_checkpoints_are_safetensors_never_pickles():
    assert not tracked("*.pt", "*.pth", "*.bin", "*.pkl", "*.pickle", "*.ckpt")
    loads = [
        p.name
        for p in tracked("lib/**/*.py")
        if re.search(r"\bpickle\.load|torch\.load\((?!.*weights_only=True)", p.read_text())
    ]
    assert not loads


def test_every_direct_dependency_is_pinned_exactly():
    for name in ("requirements.txt", "requirements-dev.txt"):
        lines = [line.strip() for line in (ROOT / name).read_text().splitlines()]
        loose = [
            line
            for line in lines
            if line and not line.startswith(("#", "-r ")) and not re.fullmatch(r"[\w.-]+==[\w.+]+", line)
        ]
        assert not loose, f"{name}: {loose}"
