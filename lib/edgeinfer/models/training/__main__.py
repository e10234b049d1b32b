"""Command line: `python -m edgeinfer.models.training [MEMBER ...]`, working files under `training/`."""

from __future__ import annotations

import argparse
import ctypes
import faulthandler
import signal
from pathlib import Path

import torch

from edgeinfer.models.checkpoint import SHIPPED
from edgeinfer.models.training.family import MEMBERS, finish, train

# Options of the C library's `mallopt`: blocks below this size are kept instead of being given back at every step.
TRIM_THRESHOLD, MMAP_THRESHOLD, KEPT_BYTES = -1, -3, 2**30


def keep_memory() -> None:
    """Let the C library reuse freed blocks: mapping them anew each step can take longer than computing."""
    try:
        library = ctypes.CDLL("libc.so.6")
    except OSError:  # another system; the default is good enough there
        return
    library.mallopt(MMAP_THRESHOLD, KEPT_BYTES)
    library.mallopt(TRIM_THRESHOLD, KEPT_BYTES)


def main() -> None:
    """Train the named members, or all in order, going on where a run stopped; then export and measure them."""
    parser = argparse.ArgumentParser(prog="python -m edgeinfer.models.training", description=main.__doc__)
    parser.add_argument("members", nargs="*", help=f"any of {', '.join(MEMBERS)}; all when none is named")
    parser.add_argument("--folder", type=Path, default=Path("training"), help="working folder (default: training)")
    parser.add_argument("--out", type=Path, default=SHIPPED, help="where the finished models go (default: the package)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", choices=("train", "finish"), help="only train, or only export and measure")
    arguments = parser.parse_args()
    unknown = set(arguments.members) - set(MEMBERS)
    if unknown:
        parser.error(f"no member is called {', '.join(sorted(unknown))}; choose from {', '.join(MEMBERS)}")
    if hasattr(signal, "SIGUSR1"):
        faulthandler.register(signal.SIGUSR1)  # `kill -USR1` shows where a run is
    keep_memory()
    torch.set_num_threads(arguments.threads)
    names = arguments.members or list(MEMBERS)
    if arguments.only != "finish":
        for name in names:
            train(name, arguments.folder)
    if arguments.only != "train":
        for name in names:
            finish(name, arguments.folder, arguments.out)


if __name__ == "__main__":
    main()
