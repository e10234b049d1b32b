"""How long two processes need to tell each other "done": a flag in shared memory against a message through the kernel.

Measured on two real processes. It knows nothing of what they wait for. Source: heterollm (unified memory makes flags
possible between a GPU and an NPU).
"""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress

# What the other process runs: plain Python, so that it starts at once. Cells: 0 our flag, 1 its flag.
_PARTNER = """
import mmap, os, sys
rounds = int(sys.argv[2])
with open(sys.argv[1], "r+b") as file:
    cells = memoryview(mmap.mmap(file.fileno(), 4096)).cast("q")
cells[1] = -1
pause, spins = getattr(os, "sched_yield", lambda: None), 0
for turn in range(1, rounds + 1):
    while cells[0] != turn:
        spins += 1
        if spins % 1000 == 0:
            pause()
    cells[1] = turn
for turn in range(rounds):
    os.read(0, 1)
    os.write(1, b"x")
"""


def _wait(cells: memoryview, value: int, partner: subprocess.Popen, until: float) -> None:
    spins = 0
    while cells[1] != value:
        spins += 1
        if spins % 1000 == 0:
            if partner.poll() is not None or time.monotonic() > until:
                raise RuntimeError("the partner process did not answer; is this machine out of processes or memory?")
            # With fewer free cores than processes a spinning one would otherwise keep the other from answering.
            getattr(os, "sched_yield", lambda: None)()


def measure_signals(rounds: int = 200, limit_s: float = 10.0) -> dict[str, float]:
    """Seconds of "go" and "done" between two processes.

    Args:
        rounds: round trips of each kind.
        limit_s: give up after so many seconds.

    Returns:
        Medians "flag" and "pipe", and the lowest tenth "flag, undisturbed" and "pipe, undisturbed": a flag needs a free
        core on both sides, or the one that looks takes the time of the one that should answer.

    Raises:
        ValueError: "rounds must be at least 1, got 0."
        RuntimeError: "the partner process did not answer; ..."
    """
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, got {rounds}.")
    until = time.monotonic() + limit_s
    with tempfile.NamedTemporaryFile() as file:
        file.write(bytes(4096))
        file.flush()
        shared = mmap.mmap(file.fileno(), 4096)
        command = [sys.executable, "-S", "-c", _PARTNER, file.name, str(rounds)]
        partner = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        cells = memoryview(shared).cast("q")
        try:
            _wait(cells, -1, partner, until)
            flags, pipes = [], []
            for turn in range(1, rounds + 1):
                start = time.perf_counter()
                cells[0] = turn
                _wait(cells, turn, partner, until)
                flags.append(time.perf_counter() - start)
            assert partner.stdin is not None and partner.stdout is not None
            to, back = partner.stdin.fileno(), partner.stdout.fileno()
            for _ in range(rounds):
                start = time.perf_counter()
                os.write(to, b"x")
                os.read(back, 1)
                pipes.append(time.perf_counter() - start)
        finally:
            cells.release()
            with suppress(BufferError):
                shared.close()
            with suppress(ProcessLookupError):
                partner.kill()
            partner.communicate()
    found: dict[str, float] = {}
    for name, times in (("flag", sorted(flags)), ("pipe", sorted(pipes))):
        found |= {name: times[rounds // 2], f"{name}, undisturbed": times[rounds // 10]}
    return found
