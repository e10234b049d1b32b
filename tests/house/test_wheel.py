"""What a notebook service gets: the package alone, installed from the repository, without the checkout around it."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOP_LEVEL = ["pyproject.toml", "README.md", "LICENSE"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder that holds the unpacked wheel, as `pip install` from the repository would leave it."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    files = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "lib", *TOP_LEVEL],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if files.returncode != 0:
        pytest.skip("this copy is no git checkout, so there is nothing that pip could install from")
    for name in filter(None, files.stdout.splitlines()):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).symlink_to(ROOT / name)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(folder),
        str(source),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-1000:]
    target = folder / "site"
    zipfile.ZipFile(next(folder.glob("edgeinfer-*.whl"))).extractall(target)
    return target


def run_in(installed: Path, folder: Path, code: str) -> str:
    """Runs code in another folder with the unpacked wheel first on the path."""
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(installed)!r})\n{code}"],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


def test_the_shipped_models_travel_with_the_package(installed, tmp_path):
    code = "import edgeinfer; from edgeinfer import models; print(edgeinfer.__file__); print(*sorted(models.shipped()))"
    where, names = run_in(installed, tmp_path, code).splitlines()
    assert Path(where).is_relative_to(installed)
    assert {"target", "draft", "relu", "moe", "early_exit", "ternary"} <= set(names.split())


def test_a_shipped_model_loads_and_runs_without_the_checkout(installed, tmp_path):
    code = (
        "import torch; from edgeinfer import models\n"
        "model = models.load('target')\n"
        "logits, cache = model.prefill(torch.tensor([[1, 2, 3]]))\n"
        "print(tuple(model.decode(torch.tensor([[4]]), cache).shape)[0])"
    )
    assert run_in(installed, tmp_path, code) == "1"


def test_the_checks_of_the_labs_work_without_the_checkout(installed, tmp_path):
    code = (
        "from edgeinfer.grading import checks; print(checks.lab('lab01_quantization').check('no such', None) is None)"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(installed)!r})\n{code}"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "ModuleNotFoundError" not in done.stderr
    assert "FileNotFoundError" not in done.stderr
