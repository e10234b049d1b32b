"""Command line: `python -m edgeinfer.models.training [MEMBER ...]`, working files under `training/`."""

from __future__ import annotations

import argparse
import faulthandler
import signal
from pathlib import Path

import torch

from edgeinfer.models.training.family import MEMBERS, train


def main() -> None:
    """Train the named members, or all in order; a member that is finished is passed over."""
    faulthandler.register(signal.SIGUSR1)  # `kill -USR1` shows where a run is
    parser = argparse.ArgumentParser(prog="python -m edgeinfer.models.training", description=main.__doc__)
    parser.add_argument("members", nargs="*", help=f"any of {', '.join(MEMBERS)}; all when none is named")
    parser.add_argument("--folder", type=Path, default=Path("training"), help="working folder (default: training)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    unknown = set(arguments.members) - set(MEMBERS)
    if unknown:
        parser.error(f"no member is called {', '.join(sorted(unknown))}; choose from {', '.join(MEMBERS)}")
    torch.set_num_threads(arguments.threads)
    for name in arguments.members or MEMBERS:
        train(name, arguments.folder)


if __name__ == "__main__":
    main()
