"""Reads the notebooks of a class and takes the answers out of them.

Trusts no file: a link, a pipe, bytes that are no notebook become a sentence for this one student. Runs nothing.
"""

import ast
import hashlib
import io
import json
import os
import re
import stat
import tokenize
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MAX_NOTEBOOK = 32 << 20
MAX_CELL = 256 << 10
MAX_WRITTEN = 20_000


@dataclass(frozen=True)
class Submission:
    """One student's notebook, or the reason why there is none."""

    student: str
    path: Path | None
    problem: str = ""
    identity: Mapping[str, str] = field(default_factory=dict)  # what the learning platform's file names tell


@dataclass(frozen=True)
class Answer:
    """The student's cell of one exercise, or the status and sentence that stand in its place."""

    code: str = ""
    status: str = ""
    message: str = ""


class BadNotebook(Exception):
    """One sentence: why this file cannot be graded."""


def from_folder(folder: Path, student: str, lab: str) -> Submission:
    """The notebook in a student's folder; no link is followed."""
    notebooks, links = [], 0
    for place in (folder, folder / lab):
        if place.is_symlink() or not place.is_dir():
            continue
        try:
            with os.scandir(place) as entries:
                for count, e in enumerate(entries):
                    if count > 1000:
                        return Submission(student, None, "The folder holds more than 1000 files.")
                    if e.name.endswith(".ipynb") and not e.name.startswith("."):
                        links += e.is_symlink()
                        notebooks += [] if e.is_symlink() else [Path(e.path)]
        except OSError as error:
            return Submission(student, None, f"The folder cannot be read: {error.strerror}.")
    named = [p for p in notebooks if p.name == f"{lab}.ipynb"] or notebooks
    if len(named) == 1:
        return Submission(student, named[0])
    if not named:
        return Submission(
            student, None, "The notebook is a link, not a file." if links else "The folder holds no notebook."
        )
    return Submission(student, None, f"There are {len(named)} notebooks; expected one, {lab}.ipynb.")


def read_bytes(path: Path, most: int = MAX_NOTEBOOK) -> bytes:
    """The bytes of a regular file.

    Raises:
        BadNotebook: a link, a pipe, a device, too large, unreadable.
    """
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        handle = os.open(path, flags)
    except OSError as error:
        raise BadNotebook(f"The notebook cannot be opened: {error.strerror or error}.") from None
    with os.fdopen(handle, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise BadNotebook("The notebook is not a regular file.")
        if status.st_size > most:
            raise BadNotebook(
                f"The notebook has {status.st_size >> 20} MiB, at most {most >> 20} are read: clear the "
                "outputs and hand it in again."
            )
        return file.read(most + 1)


def read_cells(data: bytes) -> list[dict[str, Any]]:
    """The cells of a notebook.

    Raises:
        BadNotebook: not UTF-8, not JSON, no notebook.
    """
    try:
        notebook = json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise BadNotebook(f"The notebook is not UTF-8 text (byte {error.start}).") from None
    except (ValueError, RecursionError) as error:
        where = f" (line {error.lineno})" if isinstance(error, json.JSONDecodeError) else ""
        raise BadNotebook(f"The notebook is not JSON{where}: the file is damaged or is no notebook.") from None
    cells = notebook.get("cells") if isinstance(notebook, dict) else None
    if not isinstance(cells, list):
        raise BadNotebook("The file is JSON, but no notebook of format 4: it has no list of cells.")
    return [c for c in cells if isinstance(c, dict)]


def cell_source(cell: dict[str, Any]) -> str:
    source = cell.get("source", "")
    if isinstance(source, list):
        source = "".join(s for s in source if isinstance(s, str))
    return source.encode("utf-8", "replace").decode() if isinstance(source, str) else ""


def grade_id(cell: dict[str, Any]) -> str:
    """nbgrader's id; where a service dropped the metadata, the cell's own id, which is the same."""
    metadata = cell.get("metadata")
    nbgrader = metadata.get("nbgrader") if isinstance(metadata, dict) else None
    found = nbgrader.get("grade_id") if isinstance(nbgrader, dict) else None
    return str(found) if isinstance(found, str) else str(cell.get("id", ""))


def answer(cells: list[dict[str, Any]], exercise: str, stub: str = "") -> Answer:
    """The code of one exercise.

    Args:
        cells: of the student's notebook.
        exercise: its name.
        stub: what the released lab holds in this cell.
    """
    mine = [c for c in cells if c.get("cell_type") == "code" and grade_id(c) == exercise]
    if not mine:
        return Answer(
            status="cell missing", message=f"The notebook has no cell {exercise!r}: it was removed or replaced."
        )
    if len(mine) > 1:
        return Answer(
            status="cell doubled",
            message=f"The notebook has {len(mine)} cells {exercise!r}; expected one. Copies count too.",
        )
    code = cell_source(mine[0])
    if len(code.encode()) > MAX_CELL:
        return Answer(status="cell too large", message=f"The cell {exercise!r} is longer than {MAX_CELL >> 10} KiB.")
    if stub and bare(code) == bare(stub):
        return Answer(status="not attempted", message="Not attempted: the cell is as it was handed out.")
    problem = syntax_problem(code)
    if problem:
        code = without_magics(code)
        if syntax_problem(code):
            return Answer(status="syntax error", message=problem)
    return Answer(code)


def written(cells: list[dict[str, Any]], name: str) -> str:
    """The text of a written answer, cut to a sane length."""
    texts = [cell_source(c) for c in cells if c.get("cell_type") == "markdown" and grade_id(c) == name]
    return "\n\n".join(texts)[:MAX_WRITTEN]


def syntax_problem(code: str) -> str:
    try:
        compile(code, "<answer>", "exec", ast.PyCF_ONLY_AST, dont_inherit=True)
    except SyntaxError as error:
        return f"Syntax error in line {error.lineno}: {error.msg}. {(error.text or '').strip()[:100]}".strip()
    except (ValueError, RecursionError, MemoryError, OverflowError) as error:
        return f"The cell is no Python: {type(error).__name__}."
    return ""


def without_magics(code: str) -> str:
    """Notebook commands (%timeit, !ls) do nothing in the grader; the lines keep their numbers."""
    return re.sub(r"^(\s*)[%!].*$", r"\1pass", code, flags=re.M)


def bare(code: str) -> str:
    """Code without comments and white space, to see whether a cell was touched at all."""
    try:
        tokens = tokenize.generate_tokens(io.StringIO(code).readline)
        dropped = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
        return " ".join(t.string for t in tokens if t.type not in dropped)
    except (tokenize.TokenError, SyntaxError):
        return "".join(code.split())


def digest(*parts: bytes) -> str:
    """One fingerprint of several pieces."""
    total = hashlib.sha256()
    for part in parts:
        total.update(len(part).to_bytes(8, "little") + part)
    return total.hexdigest()
