"""The small steps of this room with plain arrays, under the names and contracts of Lab 7.

They hand over to the room's own functions, so that a lab and the library cannot disagree. Knows arrays only.
Source: transformer-lite, edgellm, flashdecoding-pp.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeinfer.memory.buffers import liveness, planners

Integers = NDArray[np.int64]


def lifetimes(reads: Integers, writes: Integers, result: int) -> tuple[Integers, Integers]:
    """First and last step of each buffer.

    Args:
        reads: (S, R) int, the buffers that each step reads, filled up with -1.
        writes: (S,) int, the buffer that it writes, new or in place.
        result: the buffer that lives to the last step.

    Returns:
        first, last: (max(writes) + 1,) int64, both included.
    """
    used = np.concatenate([np.asarray(reads), np.asarray(writes)[:, None]], axis=1)
    steps = np.broadcast_to(np.arange(len(used))[:, None], used.shape)[used >= 0]
    buffers = used[used >= 0]
    first, last = np.full(int(np.max(writes)) + 1, len(used)), np.full(int(np.max(writes)) + 1, -1)
    np.minimum.at(first, buffers, steps)
    np.maximum.at(last, buffers, steps)
    last[result] = len(used) - 1
    return first, last


def _buffers(size: Integers, first: Integers, last: Integers) -> list[liveness.Buffer]:
    rows = zip(np.asarray(size).tolist(), np.asarray(first).tolist(), np.asarray(last).tolist(), strict=True)
    return [liveness.Buffer(str(i), *row) for i, row in enumerate(rows)]


def live_bytes(size: Integers, first: Integers, last: Integers) -> Integers:
    """Bytes alive in each step, (max(last) + 1,) int64; size, first, last: (B,) integers."""
    return liveness.live_bytes(_buffers(size, first, last))


def place(size: Integers, first: Integers, last: Integers) -> Integers:
    """Offsets (B,) by best fit, largest first; size, first, last: (B,) integers."""
    return np.array(planners.plan_by_size(_buffers(size, first, last)).offsets, np.int64)


def fields(n: Integers, values: Integers) -> tuple[Integers, Integers, NDArray[np.bool_]]:
    """Lines through three recordings.

    Args:
        n: (3,) int, the numbers of tokens.
        values: (3, F) int, each field in the three recordings.

    Returns:
        a, b (F,) int64 and line (F,) bool; a and b are 0 where no line of whole numbers fits.
    """
    n, values = np.asarray(n, np.int64), np.asarray(values, np.int64)
    b, rest = np.divmod(values[1] - values[0], n[1] - n[0])
    a = values[0] - b * n[0]
    line = (rest == 0) & (a + b * n[2] == values[2])
    return np.where(line, a, 0), np.where(line, b, 0), line


def unified_softmax(
    scores: NDArray[np.float32], values: NDArray[np.float32], phi: float, low: float, high: float, split: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], bool]:
    """One row of attention in pieces, with phi for the maximum while every score is in range.

    Args:
        scores: (S,) float32; values: (S, D) float32.
        phi, low, high: a score minus phi must lie in [low, high].
        split: tokens of a piece.

    Returns:
        out (D,), sums of the pieces (ceil(S / split),), and whether the row was computed again.
    """
    x = np.asarray(scores, np.float64)
    again = bool(((x - phi < low) | (x - phi > high)).any())
    weights = np.exp(x - (x.max() if again else phi))
    sums = np.add.reduceat(weights, np.arange(0, len(x), split))
    return weights @ values / sums.sum(), sums, again
