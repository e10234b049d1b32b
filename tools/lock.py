"""Writes constraints.txt from what is installed in `.venv`: run it after a version was changed and the tests passed."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HEAD = """\
# The frozen rest: every package that requirements.txt and requirements-dev.txt bring along, at the version
# that was tested together (Python 3.11, Linux). `make lock` writes this file anew.
"""
# torch is pinned in requirements.txt; its build (CPU or not) depends on the machine, so it must not stand here.
LEFT_OUT = ("torch==", "pip==", "setuptools==", "wheel==")


def main() -> None:
    frozen = subprocess.run(
        [sys.executable, "-m", "pip", "freeze", "--exclude-editable"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    kept = [line for line in frozen if not line.startswith(LEFT_OUT)]
    target = ROOT / "constraints.txt"
    temporary = target.with_suffix(".txt.new")
    temporary.write_text(HEAD + "\n".join(kept) + "\n")
    os.replace(temporary, target)
    print(f"lock: {len(kept)} packages frozen in {target.name}")


if __name__ == "__main__":
    main()
