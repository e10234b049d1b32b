"""The sample lab, built once: a small lab that only the tests use."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
from edgeinfer.grading.exercise import Lab, import_file, load_lab

HERE = Path(__file__).parent
TOOLS = HERE.parent.parent / "tools"


@dataclass
class Sample:
    """A project folder that holds only the sample lab."""

    root: Path
    exercises: Path
    lab: Lab
    builder: ModuleType

    @property
    def source(self) -> Path:
        return self.root / "solutions" / "lab99_sample.py"

    @property
    def solution(self) -> Path:
        return self.root / "solutions" / "lab99_sample.ipynb"

    @property
    def released(self) -> Path:
        return self.root / "labs" / "lab99_sample.ipynb"

    def build(self, *arguments: str) -> int:
        return self.builder.main(["--root", str(self.root), "--exercises", str(self.exercises.parent), *arguments])


def make_sample(root: Path) -> Sample:
    (root / "solutions").mkdir()
    shutil.copy(HERE / "sample" / "lab99_sample.py.txt", root / "solutions" / "lab99_sample.py")
    exercises = HERE / "sample" / "lab99.py"
    return Sample(root, exercises, load_lab(exercises), import_file(TOOLS / "build_labs.py"))


@pytest.fixture
def sample(tmp_path):
    """Not built yet; each test has its own."""
    return make_sample(tmp_path)


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """Built; only read by the tests."""
    made = make_sample(tmp_path_factory.mktemp("sample"))
    assert made.build() == 0
    return made
