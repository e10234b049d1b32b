"""What Binder installs: the tested versions, the small torch, enough for every lab, nothing that only builds the book.

Binder itself cannot be reached from a test. Its recipe is followed by what stands in its files: repo2docker reads only
the folder .binder, runs `pip install -r .binder/requirements.txt` from the repository's root, and brings JupyterLab.
"""

import ast
import importlib.metadata
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
LINES = [
    line
    for line in (ROOT / ".binder" / "requirements.txt").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
]
PINS = {r.name: str(r.specifier).removeprefix("==") for r in map(Requirement, (x for x in LINES if x[0] != "-"))}
# What repo2docker puts into every image before, under the names that its recipe has.
BROUGHT = ("ipywidgets", "jupyterlab", "notebook", "ipykernel", "tornado")


def needed(names) -> set[str]:
    """The names of these packages and of all that they need, as installed here."""
    found, todo = set(), [canonicalize_name(name) for name in names]
    while todo:
        name = todo.pop()
        if name in found:
            continue
        try:
            lines = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        found.add(name)
        wanted = [Requirement(line) for line in lines]
        todo += [canonicalize_name(r.name) for r in wanted if r.marker is None or r.marker.evaluate({"extra": ""})]
    return found


def test_versions_are_those_of_the_book():
    text = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    book = dict(re.findall(r"^([\w.-]+)==(\S+)", text, re.M))
    assert {name: version.removesuffix("+cpu") for name, version in PINS.items()} == {name: book[name] for name in PINS}


def test_torch_is_the_build_without_cuda_and_its_index_is_named():
    assert PINS["torch"].endswith("+cpu")
    assert any(line.startswith("--extra-index-url ") and line.endswith("/whl/cpu") for line in LINES)


def test_the_library_comes_from_the_repository_and_the_rest_is_frozen():
    assert "-e ." in LINES and "-c ../constraints.txt" in LINES


def test_what_the_library_declares_is_installed():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [Requirement(line) for line in project["dependencies"]]
    assert {r.name for r in wanted} == set(PINS)
    assert all(PINS[r.name].removesuffix("+cpu") in r.specifier for r in wanted)


def test_python_is_one_that_the_library_allows():
    runtime = (ROOT / ".binder" / "runtime.txt").read_text(encoding="utf-8").strip()
    assert runtime == (ROOT / "runtime.txt").read_text(encoding="utf-8").strip()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert runtime.removeprefix("python-") in SpecifierSet(project["requires-python"])


def test_nothing_that_only_builds_the_book_is_installed():
    assert not {"jupyter-book", "sphinx", "nbgrader", "openai", "transformers"} & needed(PINS)


@pytest.mark.slow
def test_every_import_of_a_lab_works_with_nothing_else(tmp_path):
    """Importing what no image has fails here as it would there."""
    allowed = needed([*PINS, *BROUGHT])
    owners = importlib.metadata.packages_distributions()
    refused = {
        module
        for module, names in owners.items()
        if not {canonicalize_name(name) for name in names} & (allowed | {"edgeinfer"})
    }
    lines = set()
    for notebook in sorted((ROOT / "solutions").glob("*.ipynb")):
        for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] == "code" and cell["id"] != "library":
                tree = ast.parse("".join(cell["source"]))
                lines |= {ast.unparse(n) for n in ast.walk(tree) if isinstance(n, ast.Import | ast.ImportFrom)}
    assert len(lines) > 10
    guard = (
        "import sys\n"
        f"refused = {sorted(refused)!r}\n"
        "class Guard:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in refused:\n"
        "            raise ModuleNotFoundError(f'{name} is not on Binder', name=name)\n"
        "sys.meta_path.insert(0, Guard())\n"
    )
    script = tmp_path / "imports.py"
    script.write_text(guard + "\n".join(sorted(lines, key=lambda line: ("__future__" not in line, line))) + "\n")
    done = subprocess.run([sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-1500:]
