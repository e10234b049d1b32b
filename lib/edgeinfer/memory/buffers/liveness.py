"""When a buffer is alive, and the bytes below which no plan can go.

Knows numbers of steps and bytes, no tensors and no model. A buffer is alive from the step that writes it to the last
step that reads it, both included: a step may not write over what it still reads. Source: transformer-lite.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ALIGNMENT = 64  # bytes of a cache line and of the widest vector register


@dataclass(frozen=True)
class Buffer:
    """Bytes that are needed for a while.

    Attributes:
        name: for people.
        size: bytes.
        first: number of the step that writes it.
        last: number of the last step that reads it; not before `first`.
    """

    name: str
    size: int
    first: int
    last: int

    def __post_init__(self) -> None:
        if self.size < 0:
            raise ValueError(f"buffer {self.name!r} has {self.size} bytes; a size is 0 or more.")
        if self.last < self.first:
            raise ValueError(
                f"buffer {self.name!r} is written in step {self.first} and last read in step {self.last}; "
                "a buffer that nobody reads ends where it begins."
            )

    def overlaps(self, other: Buffer) -> bool:
        """Whether there is a step in which both are alive."""
        return self.first <= other.last and other.first <= self.last


@dataclass(frozen=True)
class Plan:
    """Where each buffer begins in one arena.

    Attributes:
        offsets: bytes from the start of the arena, in the order of the buffers.
        total: bytes of the arena.
        method: what made it.
        proved: True where no smaller arena exists and the method knows it.
    """

    offsets: tuple[int, ...]
    total: int
    method: str
    proved: bool = False


def aligned(size: int, alignment: int = ALIGNMENT) -> int:
    """The next multiple of `alignment`."""
    return -(-size // alignment) * alignment


def live_bytes(buffers: Sequence[Buffer]) -> NDArray[np.int64]:
    """Bytes alive in each step.

    Returns:
        (steps,) int64, from step 0 to the last one that any buffer is alive in; empty without buffers.

    Raises:
        ValueError: "buffer 'x' is written in step -1; steps count from 0."
    """
    if not buffers:
        return np.zeros(0, np.int64)
    for buffer in buffers:
        if buffer.first < 0:
            raise ValueError(f"buffer {buffer.name!r} is written in step {buffer.first}; steps count from 0.")
    change = np.zeros(max(b.last for b in buffers) + 2, np.int64)
    for buffer in buffers:
        change[buffer.first] += buffer.size
        change[buffer.last + 1] -= buffer.size
    return np.cumsum(change)[:-1]


def lower_bound(buffers: Sequence[Buffer]) -> int:
    """The most bytes that are alive in one step: no arena can be smaller. (The best one can still be larger.)"""
    return int(live_bytes(buffers).max(initial=0))


def conflicts(buffers: Sequence[Buffer]) -> list[list[int]]:
    """For each buffer the numbers of those that are alive in one of its steps; a buffer of 0 bytes disturbs nobody."""
    return [
        [j for j, b in enumerate(buffers) if j != i and a.size and b.size and a.overlaps(b)]
        for i, a in enumerate(buffers)
    ]


def check_plan(buffers: Sequence[Buffer], plan: Plan) -> None:
    """Raise unless the plan is safe: every buffer inside the arena, no two that live together in the same bytes.

    Raises:
        ValueError: "the plan has 3 offsets for 4 buffers.", "buffer 'x' ends at byte 96, beyond the arena of 64." or
            "buffers 'x' and 'y' are both alive in step 3 and share bytes 0 to 63."
    """
    if len(plan.offsets) != len(buffers):
        raise ValueError(f"the plan has {len(plan.offsets)} offsets for {len(buffers)} buffers.")
    for buffer, start in zip(buffers, plan.offsets, strict=True):
        if start < 0:
            raise ValueError(f"buffer {buffer.name!r} begins at byte {start}; offsets are 0 or more.")
        if start + buffer.size > plan.total:
            raise ValueError(
                f"buffer {buffer.name!r} ends at byte {start + buffer.size}, beyond the arena of {plan.total}."
            )
    for i, others in enumerate(conflicts(buffers)):
        for j in others:
            start = max(plan.offsets[i], plan.offsets[j])
            end = min(plan.offsets[i] + buffers[i].size, plan.offsets[j] + buffers[j].size)
            if start < end:
                step = max(buffers[i].first, buffers[j].first)
                raise ValueError(
                    f"buffers {buffers[i].name!r} and {buffers[j].name!r} are both alive in step {step} and share "
                    f"bytes {start} to {end - 1}."
                )
