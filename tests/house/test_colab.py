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


def without_library(python: Path) -> None:
    subprocess.run([python, "-m", "pip", "uninstall", "-q", "-y", "edgeinfer"], capture_output=True, check=False)


def test_a_lab_without_a_clone_installs_its_library_from_the_repository(bare, tmp_path):
    if subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, check=False).returncode:
        pytest.skip("this copy is no git checkout, so there is nothing that pip could install from")
    # pip's switch is the wrong way round: PIP_NO_BUILD_ISOLATION=0 builds with what is installed, without a network.
    done = run_cell(
        bare,
        tmp_path,
        library_cell(LABS[0]),
        EDGEINFER_SOURCE=f"git+file://localhost{ROOT}",
        PIP_NO_BUILD_ISOLATION="0",
        PIP_NO_INDEX="1",
    )
    assert "library at" in done.stdout, done.stdout[-1500:] + done.stderr[-1500:]
    assert str(bare.parents[1]) in done.stdout.splitlines()[-1]


def test_a_class_without_a_network_installs_from_a_wheel(bare, tmp_path):
    without_library(bare)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(tmp_path)]
    subprocess.run([*command, str(ROOT)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("edgeinfer-*.whl")
    done = run_cell(bare, tmp_path, library_cell(LABS[0]), EDGEINFER_SOURCE=wheel.as_uri(), PIP_NO_INDEX="1")
    assert "library at" in done.stdout, done.stdout[-1500:] + done.stderr[-1500:]


def test_a_lab_inside_a_clone_that_is_not_installed_uses_the_clone(bare, tmp_path):
    (tmp_path / "clone" / "labs").mkdir(parents=True)
    (tmp_path / "clone" / "lib").symlink_to(ROOT / "lib")
    without_library(bare)
    done = run_cell(bare, tmp_path / "clone" / "labs", library_cell(LABS[0]))
    assert "library at" in done.stdout, done.stderr[-1500:]
    assert "clone" in done.stdout.splitlines()[-1]


def test_a_lab_that_cannot_find_its_library_says_so_in_one_sentence(bare, tmp_path):
    without_library(bare)
    done = run_cell(bare, tmp_path, library_cell(LABS[0]), EDGEINFER_SOURCE="git+file:///nowhere", PIP_NO_INDEX="1")
    said = done.stdout + done.stderr
    assert "and the book's library edgeinfer" in said and "did not come from git+file:///nowhere" in said
    assert sys.executable not in done.stdout


def test_a_package_that_is_too_old_is_named_before_anything_else_runs(bare, tmp_path):
    (tmp_path / "lib").symlink_to(ROOT / "lib")
    (tmp_path / "torch-2.1.0.dist-info").mkdir()
    (tmp_path / "torch-2.1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 2.1.0\n")
    done = run_cell(
        bare, tmp_path, library_cell(LABS[0]).replace("import os\n", "import os, sys; sys.path.insert(0, '')\n")
    )
    assert "needs torch 2.4 or newer, but this environment has torch 2.1.0" in done.stdout + done.stderr
