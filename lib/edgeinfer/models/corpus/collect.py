"""Collects the training text from the running interpreter's standard library: done once, its result is committed.

`python -m edgeinfer.models.corpus.collect FOLDER` writes train.jsonl.xz and held_out.jsonl.xz into FOLDER. Another
Python version gives other sources, so the shipped files, not this script, are what training reads.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import re
import sys
import sysconfig
from pathlib import Path

# Tests, generated tables, long data and copies of grammar files teach a small model little.
LEFT_OUT = {
    "test", "tests", "idlelib", "encodings", "pydoc_data", "lib2to3", "distutils", "turtledemo", "site-packages",
    "ensurepip", "config-3.11-x86_64-linux-gnu", "__phello__", "__pycache__", "_distutils_hack",
}  # fmt: skip
LARGEST_FILE = 120_000  # bytes
HELD_OUT_PERCENT = 4


def clean(source: str) -> str | None:
    """Return the source with tabs expanded and trailing blanks gone, or None where it is not plain ASCII."""
    if not source.isascii() or "\x00" in source:
        return None
    lines = [line.rstrip() for line in source.expandtabs(8).split("\n")]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip("\n") + "\n"


def is_held_out(name: str) -> bool:
    """Decide by a hash of the file's name, so that the split never depends on order or on a random state."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") % 100 < HELD_OUT_PERCENT


def collect(folder: Path) -> dict[str, int]:
    """Write both splits into `folder`; return the number of characters in each."""
    root = Path(sysconfig.get_path("stdlib"))
    splits: dict[str, list[str]] = {"train": [], "held_out": []}
    sizes = dict.fromkeys(splits, 0)
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root).as_posix()
        if LEFT_OUT & set(path.relative_to(root).parts) or path.name.startswith("_sysconfigdata"):
            continue
        source = clean(path.read_text(encoding="utf-8", errors="replace"))
        if source is None or not 200 < len(source) <= LARGEST_FILE:
            continue
        split = "held_out" if is_held_out(name) else "train"
        splits[split].append(json.dumps({"name": name, "text": source}))
        sizes[split] += len(source)
    for split, lines in splits.items():
        (folder / f"{split}.jsonl.xz").write_bytes(
            lzma.compress("\n".join(lines).encode(), preset=9 | lzma.PRESET_EXTREME)
        )
    return sizes


if __name__ == "__main__":
    print(collect(Path(sys.argv[1])))
