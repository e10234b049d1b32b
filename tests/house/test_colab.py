"""A lab opened in Colab: one notebook, the usual packages, no clone around it. Its second cell must bring the library.

Colab itself cannot be reached from a test. What stands in for it is a fresh environment that sees the installed
packages but not the library, and the repository is this checkout's own git history instead of its public address.
"""

import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LABS = sorted((ROOT / "labs").glob("*.ipynb"))


@pytest.fixture(scope="module")
def bare(tmp_path_factory) -> Path:
    """The Python of an environment that sees every installed package but edgeinfer."""
    folder = tmp_path_factory.mktemp("colab")
    venv.create(folder / "env", with_pip=False)
    python = folder / "env" / "bin" / "python"
    site = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    # A folder named in a .pth file is searched, but its own .pth files (the editable library) are not read.
    (Path(site) / "packages.pth").write_text(sysconfig.get_path("purelib") + "\n")
    done = subprocess.run(
        [python, "-c", "import numpy, IPython, pip, edgeinfer"], cwd=folder, capture_output=True, text=True
    )
    assert "No module named 'edgeinfer'" in done.stderr
    return python


def library_cell(notebook: Path) -> str:
    return next("".join(c["source"]) for c in json.loads(notebook.read_text())["cells"] if c["id"] == "library")


def run_cell(python: Path, folder: Path, source: str, **environment: str) -> subprocess.CompletedProcess:
    script = folder / "cell.ipy"
    script.write_text(source + "\nprint('library at', edgeinfer.__file__)\n")
    return subprocess.run(
        [python, "-m", "IPython", "--colors=NoColor", str(script)],
        cwd=folder, capture_output=True, text=True, check=False, env={**os.environ, **environment, "PYTHONPATH": ""},
    )  # fmt: skip


def test_every_lab_has_the_same_library_cell():
    assert LABS, "there are no labs; run `make labs`"
    assert len({library_cell(notebook) for notebook in LABS}) == 1


def test_a_lab_without_a_clone_installs_its_library_from_the_repository(bare, tmp_path):
    if subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, check=False).returncode:
        pytest.skip("this copy is no git checkout, so there is nothing that pip could install from")
    source = library_cell(LABS[0])
    url = next(part for part in source.split('"') if part.startswith("edgeinfer @ git+")).removeprefix(
        "edgeinfer @ git+"
    )
    # pip's switch is the wrong way round: PIP_NO_BUILD_ISOLATION=0 builds with what is installed, without a network.
    done = run_cell(
        bare, tmp_path, source.replace(url, f"file://localhost{ROOT}"), PIP_NO_BUILD_ISOLATION="0", PIP_NO_INDEX="1"
    )
    assert "library at" in done.stdout, done.stdout[-1500:] + done.stderr[-1500:]
    assert str(bare.parents[1]) in done.stdout.splitlines()[-1]


def test_a_lab_inside_a_clone_that_is_not_installed_uses_the_clone(bare, tmp_path):
    (tmp_path / "clone" / "labs").mkdir(parents=True)
    (tmp_path / "clone" / "lib").symlink_to(ROOT / "lib")
    subprocess.run([bare, "-m", "pip", "uninstall", "-q", "-y", "edgeinfer"], capture_output=True, check=False)
    done = run_cell(bare, tmp_path / "clone" / "labs", library_cell(LABS[0]))
    assert "library at" in done.stdout, done.stderr[-1500:]
    assert "clone" in done.stdout.splitlines()[-1]


def test_a_lab_that_cannot_find_its_library_says_so_in_one_sentence(bare, tmp_path):
    subprocess.run([bare, "-m", "pip", "uninstall", "-q", "-y", "edgeinfer"], capture_output=True, check=False)
    source = library_cell(LABS[0]).replace("git+https://", "git+file:///nowhere/")
    done = run_cell(bare, tmp_path, source, PIP_NO_INDEX="1")
    assert "This lab needs the book's library edgeinfer" in done.stdout + done.stderr
    assert sys.executable not in done.stdout
