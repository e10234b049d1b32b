"""Says in one sentence when a package that the library needs is missing or too old: a lab's first cell asks.

It knows what the project declares (its installed metadata, or the pyproject.toml of a clone) and what is installed, and
imports none of it. Old Python versions can read it too, for it is also the place that says that a Python is too old.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import sys
from pathlib import Path

OLDEST_PYTHON = (3, 11)
_MODULES = {"PyYAML": "yaml"}


def declared() -> list[tuple[str, str]]:
    """Return (package, oldest version) of everything that the library needs to run, such as ("torch", "2.4")."""
    project = Path(__file__).resolve().parents[2] / "pyproject.toml"
    text = project.read_text(encoding="utf-8") if project.is_file() else ""
    if 'name = "edgeinfer"' in text:
        lines = re.findall(r'"([^"]+)"', text.split("\ndependencies = [", 1)[1].split("\n]", 1)[0])
    else:
        try:
            lines = [line for line in importlib.metadata.requires("edgeinfer") or [] if "extra" not in line]
        except importlib.metadata.PackageNotFoundError:
            lines = []
    parts = [re.match(r"([\w.-]+)\s*>=\s*([\d.]+)", line) for line in lines]
    return [(part.group(1), part.group(2)) for part in parts if part]


def check() -> None:
    """Pass in silence when Python and every package is there and new enough.

    Raises:
        ImportError: "This lab needs torch 2.4 or newer, but this environment has 2.1.0; run: pip install ...", or the
            like for Python and for a package that is missing; one sentence names all of them.
    """
    if sys.version_info[:2] < OLDEST_PYTHON:
        came = ".".join(map(str, sys.version_info[:2]))
        raise ImportError(f"This lab needs Python 3.11 or newer, but this is Python {came}; choose another kernel.")
    wanted, came_with = [], []
    for name, oldest in declared():
        if importlib.util.find_spec(_MODULES.get(name, name)) is None:
            wanted.append(f"{name}>={oldest}")
            came_with.append(f"no {name}")
            continue
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # a module without metadata: whoever put it there knows better
        if _numbers(version) < _numbers(oldest):
            wanted.append(f"{name}>={oldest}")
            came_with.append(f"{name} {version}")
    if wanted:
        quoted = " ".join(f"'{item}'" for item in wanted)
        raise ImportError(
            f"This lab needs {' and '.join(item.replace('>=', ' ') + ' or newer' for item in wanted)}, but this "
            f"environment has {' and '.join(came_with)}; run %pip install {quoted} in a cell and restart the kernel."
        )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.match(r"[\d.]*", version).group(0).split(".") if part)  # type: ignore[union-attr]
