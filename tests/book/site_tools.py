"""Where the built book is, and how its tools and a browser are found."""

import importlib.util
import os
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SITE = ROOT / "_build" / "html"


def load_tool(name: str):
    """Imports a script of tools/ as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def built_pages() -> list[str]:
    """Returns the built pages relative to the site; one empty name when nothing is built, so that the skip is seen."""
    pages = [p.relative_to(SITE).as_posix() for p in SITE.rglob("*.html") if "_static" not in p.parts]
    return sorted(pages) or [""]


def find_chromium() -> str | None:
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return os.environ.get("EDGEINFER_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
