"""The family's training text: source files of the Python standard library, split by file into training and held-out.

The files were collected once (`collect.py`) and are shipped compressed, so that training starts from the same bytes on
every machine. This module does not know tokens; see `README.md` beside it for licence and provenance.
"""

from __future__ import annotations

import json
import lzma
from collections.abc import Iterator
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent
SPLITS = ("train", "held_out")


def documents(split: str) -> Iterator[tuple[str, str]]:
    """Yield the files of one split in their fixed order.

    Args:
        split: "train" or "held_out"; a file is in exactly one of them.

    Yields:
        (name, text): path below the standard library's folder, and the cleaned source.

    Raises:
        ValueError: "split 'x' is unknown; choose 'train' or 'held_out'".
    """
    if split not in SPLITS:
        raise ValueError(f"split {split!r} is unknown; choose 'train' or 'held_out'")
    with lzma.open(FOLDER / f"{split}.jsonl.xz", "rt", encoding="utf-8") as lines:
        for line in lines:
            entry = json.loads(line)
            yield entry["name"], entry["text"]


@cache
def text(split: str) -> tuple[str, ...]:
    """Return the sources of one split as a tuple, one string a file (kept in memory after the first call)."""
    return tuple(source for _, source in documents(split))
