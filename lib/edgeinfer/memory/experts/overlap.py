"""A timeline of blocks whose experts travel over one link: loaded when their own gate has spoken, or a block earlier.

A MODEL: it adds given times and measures nothing; `ExpertStore.events` are the measured ones. Source: pre-gated-moe.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """Moments in seconds, one per block: when loading and computing start and end."""

    load_start: list[float]
    load_end: list[float]
    compute_start: list[float]
    compute_end: list[float]

    @property
    def end(self) -> float:
        """End of the last block, 0 for none."""
        return self.compute_end[-1] if self.compute_end else 0.0

    @property
    def waiting(self) -> float:
        """Seconds in which the processor had nothing to do."""
        return self.end - sum(e - s for s, e in zip(self.compute_start, self.compute_end, strict=True))


def schedule(compute: Sequence[float], load: Sequence[float], ahead: bool) -> Schedule:
    """Lay blocks on a timeline.

    Args:
        compute: seconds of each block's computation.
        load: seconds that each block's experts travel; one transfer at a time, in order.
        ahead: True: block n + 1 may be loaded from the moment block n starts to compute (its gate has chosen).
            False: only when block n has been computed.

    Returns:
        The moments; a block computes when its experts are there and the block before is done.

    Raises:
        ValueError: "compute and load need one time per block; came 3 and 4", or for negative times.

    Source: pre-gated-moe.
    """
    if len(compute) != len(load):
        raise ValueError(f"compute and load need one time per block; came {len(compute)} and {len(load)}")
    if any(t < 0 for t in (*compute, *load)):
        raise ValueError("times are seconds and cannot be negative")
    plan = Schedule([], [], [], [])
    known = link_free = done = 0.0
    for work, travel in zip(compute, load, strict=True):
        arrival = max(known, link_free)
        link_free = arrival + travel
        start = max(done, link_free)
        done = start + work
        known = start if ahead else done
        plan.load_start.append(arrival)
        plan.load_end.append(link_free)
        plan.compute_start.append(start)
        plan.compute_end.append(done)
    return plan
