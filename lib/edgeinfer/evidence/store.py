"""Findings kept between the tests, the chapters and the Atlas, so that one build runs each piece of evidence once.

Kept under `_build/evidence` of the checkout, one JSON file per system, named by a hash of the library and the shipped
models: any change there makes every kept finding stale. EDGEINFER_EVIDENCE_CACHE names another folder, `0` keeps none.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from functools import cache
from pathlib import Path

from edgeinfer.evidence.catalogue import CatalogueError, book_folder
from edgeinfer.evidence.protocol import Evidence, EvidenceError

LIBRARY = Path(__file__).resolve().parents[1]


@cache
def library_stamp(folder: Path = LIBRARY) -> str:
    """Hash of the library's Python files and of the names and sizes of its other files (weights are large)."""
    stamp = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            stamp.update(path.relative_to(folder).as_posix().encode())
            stamp.update(path.read_bytes() if path.suffix == ".py" else str(path.stat().st_size).encode())
    return stamp.hexdigest()[:16]


def place(system_id: str) -> Path | None:
    """File that keeps the finding of a system; None where nothing is kept."""
    chosen = os.environ.get("EDGEINFER_EVIDENCE_CACHE", "")
    if chosen == "0":
        return None
    try:
        folder = Path(chosen) if chosen else book_folder().parent / "_build" / "evidence"
    except CatalogueError:
        return None
    return folder / f"{system_id}-{library_stamp()}.json"


def keep(system_id: str, found: Evidence) -> None:
    """Keep a finding; a folder that cannot be written is no error, the evidence then simply runs again."""
    path = place(system_id)
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Written beside and renamed, so that an interrupted run never leaves half a file that reads as a finding.
        handle, name = tempfile.mkstemp(dir=path.parent, suffix=".part")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(found.to_json())
        os.replace(name, path)
    except OSError:
        return


def kept(system_id: str) -> Evidence | None:
    """The kept finding of a system, or None when there is none that can be read."""
    path = place(system_id)
    if path is None or not path.is_file():
        return None
    try:
        return Evidence.from_json(path.read_text(encoding="utf-8"))
    except (EvidenceError, OSError, UnicodeDecodeError):
        return None
