"""A processor that prepares instructions and an accelerator that runs them: a simulation with clocks, no machine.

Times come from bytes and rates that the caller gives; nothing here is measured. Source: edgellm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Timeline:
    """Simulated times of a list of instructions.

    Attributes:
        prepared: (begin, end) on the processor, one for each instruction.
        ran: (begin, end) on the accelerator.
    """

    prepared: tuple[tuple[float, float], ...]
    ran: tuple[tuple[float, float], ...]

    @property
    def end(self) -> float:
        """When the last instruction has run."""
        return self.ran[-1][1] if self.ran else 0.0

    @property
    def busy(self) -> float:
        """Share of the time in which the accelerator works."""
        return sum(b - a for a, b in self.ran) / self.end if self.end else 0.0


def simulate(prepare: Sequence[float], run: Sequence[float], ahead: int) -> Timeline:
    """Run a list of instructions.

    Args:
        prepare: processor time of each instruction (filling in its token fields).
        run: accelerator time of each.
        ahead: instructions that may wait in the queue; 0: the processor waits until the last one has run.

    Raises:
        ValueError: "prepare and run have 3 and 2 instructions; ..." or "ahead must be 0 or more, got -1."
    """
    if len(prepare) != len(run):
        raise ValueError(f"prepare and run have {len(prepare)} and {len(run)} instructions; give one time for each.")
    if ahead < 0:
        raise ValueError(f"ahead must be 0 or more, got {ahead}.")
    prepared: list[tuple[float, float]] = []
    ran: list[tuple[float, float]] = []
    for i, (fill, work) in enumerate(zip(prepare, run, strict=True)):
        begin = prepared[-1][1] if prepared else 0.0
        if i > ahead:  # its place in the queue is free when an earlier instruction has left the accelerator
            begin = max(begin, ran[i - ahead - 1][1])
        prepared.append((begin, begin + fill))
        start = max(begin + fill, ran[-1][1] if ran else 0.0)
        ran.append((start, start + work))
    return Timeline(tuple(prepared), tuple(ran))


@dataclass(frozen=True)
class TwoMemories:
    """An accelerator with a quick memory for weights, keys and values, and a slow one for all else (simulated).

    Attributes:
        quick, slow: bytes per second.
    """

    quick: float
    slow: float

    def seconds(self, weight_bytes: float, cache_bytes: float, activation_bytes: float, together: bool = True) -> float:
        """Time of one operator that is bound by memory; `together`: both memories are read at the same time."""
        above, below = (weight_bytes + cache_bytes) / self.quick, activation_bytes / self.slow
        return max(above, below) if together else above + below
