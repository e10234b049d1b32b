"""The few questions that describe_machine asks of the operating system, in one place so that tests can answer them.

It knows nothing of processors. A question that cannot be answered gives None, never an exception.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Host:
    """Access to files, `sysctl` and the process's own limits.

    `root` stands before every path, so that a test can lay out a whole /proc and /sys in a folder.
    """

    root: Path = field(default_factory=lambda: Path("/"))
    system: str = field(default_factory=lambda: "Emscripten" if sys.platform == "emscripten" else platform.system())
    architecture: str = field(default_factory=platform.machine)

    def read(self, path: str) -> str | None:
        """Return the text of a file, or None when it does not exist or may not be read."""
        try:
            return (self.root / path.lstrip("/")).read_text(encoding="utf-8", errors="replace").strip("\0\n ")
        except OSError:
            return None

    def folder(self, path: str) -> list[str]:
        """Return the sorted names in a folder, empty when there is none."""
        try:
            return sorted(p.name for p in (self.root / path.lstrip("/")).iterdir())
        except OSError:
            return []

    def sysctl(self, name: str) -> str | None:
        """Return one value of macOS's sysctl, or None."""
        try:
            done = subprocess.run(
                ["/usr/sbin/sysctl", "-n", name], capture_output=True, text=True, timeout=5, check=True
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip() or None

    def affinity(self) -> int | None:
        """Return the number of processors that this process may run on, or None where that cannot be asked."""
        if not hasattr(os, "sched_getaffinity"):
            return None
        try:
            return len(os.sched_getaffinity(0))
        except OSError:
            return None

    def cpu_count(self) -> int | None:
        """Return the number of processors that the system shows."""
        return os.cpu_count()
