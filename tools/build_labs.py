"""Writes solutions/NAME.ipynb (with answers) and labs/NAME.ipynb (released) from solutions/NAME.py, reproducibly.

Everything is built and checked in memory first, then written file by file through a rename: a notebook is old or new,
never half. `--check` writes nothing and fails when a notebook is out of step. How to write one: solutions/README.md.
"""

import argparse
import ast
import copy
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import yaml
from edgeinfer.grading.exercise import Lab, load_lab
from nbformat import NotebookNode
from nbgrader.preprocessors import (
    CheckCellMetadata,
    ClearHiddenTests,
    ClearOutput,
    ClearSolutions,
    ComputeChecksums,
    LockCells,
)
from traitlets.config import Config

ROOT = Path(__file__).resolve().parent.parent
STUB = "...  # your code here"
WRITTEN_STUB = "*Your answer here.*"
NO_URL = "https://example.org/REPOSITORY"
LEAK_LENGTH = 20  # shorter lines ("return x") may stand in a lab by accident
GIVEN = "# not secret"
BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"
BEGIN_HIDDEN, END_HIDDEN = "### BEGIN HIDDEN TESTS", "### END HIDDEN TESTS"
METADATA = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
LIBRARY_CELL = """\
# Finds the book's library; on Colab, or in an environment without it, installs it. The same cell in every lab.
import importlib.util
import os
import sys
from pathlib import Path

source = os.environ.get("EDGEINFER_SOURCE", "git+{url}")  # without a network: file:///... of a wheel
for folder in (Path.cwd(), *Path.cwd().parents):  # a clone of the book that is not installed
    if importlib.util.find_spec("edgeinfer") is None and (folder / "lib" / "edgeinfer").is_dir():
        sys.path.insert(0, str(folder / "lib"))
if importlib.util.find_spec("edgeinfer") is None and sys.version_info >= (3, 11):
    %pip install --quiet "edgeinfer @ {source}"
    importlib.invalidate_caches()
if importlib.util.find_spec("edgeinfer") is None:
    raise ImportError(
        f"This lab needs Python 3.11 or newer (this one is {sys.version.split()[0]}) and the book's library edgeinfer, "
        f"which is neither installed nor in a folder above this notebook and did not come from {source}: "
        "open the notebook inside a clone of the book (make lab), or run this cell again with a network."
    )
import edgeinfer.packages

edgeinfer.packages.check()  # in one sentence, if a package is missing or too old"""


class LabError(Exception):
    """One sentence for the author: file, cell, what is wrong, what to do."""


def repository_url(root: Path) -> str:
    """The one repository setting, or a placeholder while there is none."""
    try:
        config = yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))
        url = config["repository"]["url"]
    except (OSError, KeyError, TypeError, yaml.YAMLError):
        return NO_URL
    if not isinstance(url, str) or not re.fullmatch(r"https?://[^\s\"'{}]+", url):
        raise LabError(f"_config.yml: repository.url is {url!r}, expected an https address")
    return url.rstrip("/")


def read_source(path: Path) -> NotebookNode:
    """The py:percent file as a notebook with ids, roles still in the metadata."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise LabError(f"{path.name}: is not UTF-8 text ({error.reason} at byte {error.start})") from None
    notebook = jupytext.reads(text, fmt="py:percent")
    notebook.metadata = nbformat.from_dict(METADATA)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    seen: set[str] = set()
    for number, cell in enumerate(notebook.cells, 1):
        start = cell.source.strip().split("\n")[0][:40]
        if "id" not in cell.metadata:
            raise LabError(f'{path.name}: cell {number} ("{start}") has no id; write it into its header: # %% id="..."')
        cell["id"] = str(cell.metadata.pop("id"))
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", cell.id):
            raise LabError(f"{path.name}: id {cell.id!r} of cell {number} holds more than letters, digits, - and _")
        if cell.id in seen:
            raise LabError(f"{path.name}: id {cell.id!r} is used twice; the second is cell {number}")
        seen.add(cell.id)
        cell.metadata.pop("lines_to_next_cell", None)
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    if not notebook.cells or notebook.cells[0].cell_type != "markdown" or not notebook.cells[0].source.startswith("# "):
        raise LabError(f"{path.name}: the first cell must be Markdown and begin with the title (# ...)")
    if "library" in seen:
        raise LabError(f"{path.name}: cell 'library' is written by the builder; remove it")
    return notebook


def nbgrader_metadata(grade_id: str, grade: bool, solution: bool, points: float | None) -> dict[str, Any]:
    out = {"grade": grade, "grade_id": grade_id, "locked": not solution, "schema_version": 3, "solution": solution}
    return {**out, "task": False, **({"points": points} if grade else {})}


def apply_roles(notebook: NotebookNode, lab: Lab, name: str) -> None:
    """Turn roles into nbgrader's metadata, and hold the cells against the exercises."""
    exercises = {e.name: e for e in lab.exercises}
    solved, checked = [], []
    for cell in notebook.cells:
        role, points = cell.metadata.pop("role", None), cell.metadata.pop("points", None)
        where = f"{name}: cell {cell.id!r}"
        if role not in (None, "solution", "check", "written"):
            raise LabError(f"{where} has role={role!r}; expected solution, check or written")
        marked = find_regions(cell.source, BEGIN, END, where)
        hidden = find_regions(cell.source, BEGIN_HIDDEN, END_HIDDEN, where)
        if hidden and role != "check":
            raise LabError(f'{where} holds hidden tests but has not role="check"')
        if marked and role not in ("solution", "written"):
            raise LabError(f'{where} holds an answer but has not role="solution" or "written"; it would be released')
        if role in ("solution", "written") and not marked:
            raise LabError(f"{where} has role={role!r} but no {BEGIN} ... {END}; its whole text would be released")
        if role is None:
            continue
        if role == "solution":
            if cell.cell_type != "code" or cell.id not in exercises:
                known = ", ".join(exercises)
                raise LabError(f"{where} is a solution, but the lab has no exercise of this name; it has {known}")
            if not re.search(rf"^(def|class)\s+{cell.id}\b", cell.source, re.M):
                raise LabError(f"{where} defines no function {cell.id}")
            solved.append(cell.id)
            cell.metadata["nbgrader"] = nbgrader_metadata(cell.id, False, True, None)
        elif role == "check":
            exercise = cell.id.removeprefix("check_")
            if exercise not in solved or not cell.id.startswith("check_"):
                raise LabError(
                    f"{where} is a check; its id must be check_ and the exercise of a solution cell above it"
                )
            if not re.search(rf"\.check\(\s*[\"']{exercise}[\"']\s*,\s*{exercise}\s*\)", cell.source):
                raise LabError(f'{where} must call lab.check("{exercise}", {exercise})')
            checked.append(exercise)
            cell.metadata["nbgrader"] = nbgrader_metadata(cell.id, True, False, exercises[exercise].points)
        else:
            if cell.cell_type != "markdown" or not isinstance(points, int | float):
                raise LabError(f"{where} is a written answer; it must be Markdown and say points=...")
            cell.metadata["nbgrader"] = nbgrader_metadata(cell.id, True, True, points)
    for e in exercises:
        if solved.count(e) != 1 or checked.count(e) != 1:
            came = f"{solved.count(e)} and {checked.count(e)}"
            raise LabError(f"{name}: exercise {e!r} needs one solution cell and one check cell; it has {came}")


def find_regions(source: str, begin: str, end: str, where: str) -> list[list[str]]:
    """The lines between each pair of markers; refuses pairs that do not fit."""
    regions: list[list[str]] = []
    is_open = False
    for line in source.split("\n"):
        if begin in line:
            if is_open:
                raise LabError(f"{where} has a {begin} inside another")
            is_open, regions = True, [*regions, []]
        elif end in line:
            if not is_open:
                raise LabError(f"{where} has a {end} without {begin}")
            is_open = False
        elif is_open:
            regions[-1].append(line)
    if is_open:
        raise LabError(f"{where} has a {begin} without {end}")
    return regions


def check_syntax(notebook: NotebookNode, name: str) -> None:
    from IPython.core.inputtransformer2 import TransformerManager

    for cell in notebook.cells:
        if cell.cell_type == "code":
            try:
                ast.parse(TransformerManager().transform_cell(cell.source))
            except SyntaxError as error:
                raise LabError(
                    f"{name}: cell {cell.id!r} has a syntax error in line {error.lineno}: {error.msg}"
                ) from None
        if "parameters" in cell.metadata.get("tags", []):
            check_parameters(cell, name)


def check_parameters(cell: NotebookNode, name: str) -> None:
    names = set()
    for statement in ast.parse(cell.source).body:
        if not isinstance(statement, ast.Assign) or not isinstance(statement.targets[0], ast.Name):
            raise LabError(f"{name}: cell {cell.id!r} (parameters) may hold assignments of literals only")
        try:
            ast.literal_eval(statement.value)
        except ValueError:
            raise LabError(f"{name}: parameter {statement.targets[0].id} must be a literal") from None
        names.add(statement.targets[0].id)
    if not {"seed", "size"} <= names:
        raise LabError(
            f"{name}: the parameters cell must set seed and size; it sets {', '.join(sorted(names)) or 'nothing'}"
        )


def release(notebook: NotebookNode) -> NotebookNode:
    """What students get: nbgrader's own preprocessors, one after the other."""
    config = Config()
    config.ClearSolutions.code_stub = {"python": STUB}
    config.ClearSolutions.text_stub = WRITTEN_STUB
    notebook = copy.deepcopy(notebook)
    for step in (CheckCellMetadata, LockCells, ClearSolutions, ClearHiddenTests, ClearOutput, ComputeChecksums):
        notebook, _ = step(config=config).preprocess(notebook, {})
    return notebook


def check_leaks(source: NotebookNode, released: NotebookNode, name: str) -> None:
    """No line of an answer or a hidden test stands anywhere in the released notebook: code, text, outputs, metadata."""
    secret: dict[str, str] = {}
    for cell in source.cells:
        for begin, end in ((BEGIN, END), (BEGIN_HIDDEN, END_HIDDEN)):
            for line in (line for region in find_regions(cell.source, begin, end, name) for line in region):
                text = squeeze(line)
                if len(text) > LEAK_LENGTH and not line.rstrip().endswith(GIVEN):
                    secret[text] = cell.id
    for cell in released.cells:
        for text in strings(cell):
            if any(marker in text for marker in (BEGIN, END, BEGIN_HIDDEN, END_HIDDEN)):
                raise LabError(f"{name}: cell {cell.id!r} of the released lab still holds a marker of an answer")
            squeezed = squeeze(text)
            for line, origin in secret.items():
                if line in squeezed:
                    raise LabError(
                        f"{name}: cell {cell.id!r} of the released lab holds a line of the answer of {origin!r}: "
                        f"{line[:60]!r}; change the cell, or end the answer's line in '{GIVEN}' if it may be known"
                    )


def squeeze(text: str) -> str:
    """Without white space and without a comment at the end of the line, so that layout hides nothing."""
    lines = (re.sub(r"\s+#.*$", "", line) for line in text.split("\n"))
    return re.sub(r"\s+", "", "".join(lines))


def strings(value: Any) -> Iterator[str]:
    """Every string in a piece of JSON."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for k, v in value.items():
            yield from strings(k)
            yield from strings(v)
    elif isinstance(value, list):
        for v in value:
            yield from strings(v)


def build(path: Path, lab: Lab, url: str) -> tuple[NotebookNode, NotebookNode]:
    """Both notebooks of one source.

    Args:
        path: the py:percent source.
        lab: its exercises.
        url: address of the repository for the library cell.

    Returns:
        (solution, released lab), validated.

    Raises:
        LabError: one sentence that names the file and the cell.
    """
    name = path.name
    notebook = read_source(path)
    apply_roles(notebook, lab, name)
    library = nbformat.v4.new_code_cell(
        LIBRARY_CELL.replace("{url}", url), id="library", metadata={"tags": ["hide-input"]}
    )
    notebook.cells.insert(1, library)
    check_syntax(notebook, name)
    released = release(notebook)
    check_syntax(released, f"{name} (released)")
    check_leaks(notebook, released, name)
    for n in (notebook, released):
        nbformat.validate(n)
    return notebook, released


def as_text(notebook: NotebookNode) -> str:
    return str(nbformat.writes(notebook)).rstrip("\n") + "\n"


def write_whole(path: Path, text: str) -> None:
    """Write through a rename in the same folder: readers see the old file or the new one."""
    part = path.with_name(f".{path.name}.part")
    with part.open("w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def plan(root: Path, exercises: Path | None, only: list[str]) -> dict[Path, str | None]:
    """Every notebook with the text it must have; None for one that must not exist.

    Raises:
        LabError: the first source that cannot be built; nothing has been written by then.
    """
    url = repository_url(root)
    sources = sorted((root / "solutions").glob("*.py"))
    unknown = set(only) - {p.stem for p in sources}
    if unknown:
        raise LabError(
            f"no source solutions/{sorted(unknown)[0]}.py; there are {', '.join(p.stem for p in sources) or 'none'}"
        )
    out: dict[Path, str | None] = {}
    for path in sources:
        if only and path.stem not in only:
            continue
        try:
            lab = load_lab(path.stem, exercises)
        except FileNotFoundError as error:
            raise LabError(f"{path.name}: {error}") from None
        solution, released = build(path, lab, url)
        out[path.with_suffix(".ipynb")] = as_text(solution)
        out[root / "labs" / f"{path.stem}.ipynb"] = as_text(released)
    if not only:
        for folder in ("solutions", "labs"):
            out.update({p: None for p in (root / folder).glob("*.ipynb") if p not in out})
    return out


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="only these labs (default: all)")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a notebook is out of step")
    parser.add_argument("--root", type=Path, default=ROOT, help=argparse.SUPPRESS)
    parser.add_argument("--exercises", type=Path, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    try:
        wanted = plan(options.root, options.exercises, options.names)
    except LabError as error:
        print(f"labs: {error}", file=sys.stderr)
        return 1
    current = {p: p.read_bytes() if p.is_file() else None for p in wanted}
    stale = [p for p, text in wanted.items() if current[p] != (None if text is None else text.encode())]
    if options.check:
        if stale:
            names = ", ".join(str(p.relative_to(options.root)) for p in stale)
            print(f"labs: stale: {names}; run `make labs` and commit the result", file=sys.stderr)
        return 1 if stale else 0
    for path in stale:
        text = wanted[path]
        path.parent.mkdir(exist_ok=True)
        if text is None:
            print(
                f"labs: {path.relative_to(options.root)} has no source solutions/{path.stem}.py; remove it",
                file=sys.stderr,
            )
        else:
            write_whole(path, text)
            print(f"wrote {path.relative_to(options.root)}")
    print(f"labs: {len(wanted)} notebooks, {len(stale)} changed")
    return 1 if any(wanted[p] is None for p in stale) else 0


if __name__ == "__main__":
    sys.exit(main())
