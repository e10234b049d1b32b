"""Writes a file so that it is whole or absent, whenever the power, the process or the disk gives out.

It does not know what is written.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

Chunk = bytes | bytearray | memoryview | np.ndarray
# In the name of a part; what a killed process left is removed by `remove_parts`.
PART = ".part-"


def write_whole(path: str | Path, chunks: Iterable[Chunk]) -> int:
    """Write chunks one after the other, and only then give the file its name.

    The bytes go to a part beside the file, are forced to the disk, and the part is renamed, which a file system does
    at once or not at all. An older file of that name stays as it is until then.

    Args:
        path: name of the file; its folder must exist.
        chunks: bytes-like objects or C-contiguous arrays.

    Returns:
        Bytes written.

    Raises:
        OSError: "could not write ...: No space left on device; the old file (if any) is untouched ...".
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder for {path.name}; make {path.parent.name or '.'} first")
    written = 0
    number, part = tempfile.mkstemp(prefix=f".{path.name}{PART}", dir=path.parent)
    try:
        with os.fdopen(number, "wb") as file:
            for chunk in chunks:
                view = memoryview(chunk)  # type: ignore[arg-type]  # arrays are buffers, too
                written += file.write(view.cast("B")) if view.nbytes else 0
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(part)
        if isinstance(error, OSError):
            raise OSError(
                error.errno,
                f"could not write {path.name}: {error.strerror}; "
                "an older file of that name is untouched: free some space, then write it again",
            ) from error
        raise
    _sync_folder(path.parent)
    return written


def remove_parts(folder: str | Path) -> int:
    """Remove the parts that killed writers left in a folder; return how many. Call it when nothing is being written."""
    parts = [p for p in Path(folder).iterdir() if p.name.startswith(".") and PART in p.name]
    for part in parts:
        part.unlink(missing_ok=True)
    return len(parts)


def _sync_folder(folder: Path) -> None:
    # The rename itself must reach the disk. Some systems do not open folders; there the rename is all one can do.
    with contextlib.suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)
