"""How far apart two uses of a row of the dense operand lie, and what a cache makes of it: exact counts, no timing.

Knows a stream of row numbers and an ideal cache (least recently used, fully associative) that holds a number of such
rows. One pass over the stream answers for caches of every size (the stack distance of Mattson and others, 1970).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeinfer.kernels.simd import compiled

FIRST = np.iinfo(np.int64).max  # distance of a first use: no cache helps


@compiled()
def _distances(stream, last, tree, out):
    """Distinct numbers between two uses, by a Fenwick tree over the moments of the latest uses."""
    size = tree.size - 1
    for t in range(stream.size):
        number = stream[t]
        before = last[number]
        if before < 0:
            out[t] = np.int64(9223372036854775807)
        else:
            total = 0
            i = t  # latest uses at moments up to t - 1
            while i > 0:
                total += tree[i]
                i -= i & -i
            i = before + 1
            while i > 0:
                total -= tree[i]
                i -= i & -i
            out[t] = total
            i = before + 1
            while i <= size:
                tree[i] -= 1
                i += i & -i
        i = t + 1
        while i <= size:
            tree[i] += 1
            i += i & -i
        last[number] = t


def reuse_distances(stream: NDArray[np.integer]) -> NDArray[np.int64]:
    """For each use the number of other rows used since its last use; the largest int64 for a first use.

    Args:
        stream: (uses,) non-negative row numbers in the order of use, such as `CSR.indices`.

    Raises:
        ValueError: "row numbers must not be negative, got -1."
    """
    stream = np.ascontiguousarray(stream, np.int64)
    if stream.size and int(stream.min()) < 0:
        raise ValueError(f"row numbers must not be negative, got {int(stream.min())}.")
    out = np.empty(stream.size, np.int64)
    last = np.full(int(stream.max()) + 1 if stream.size else 1, -1, np.int64)
    _distances(stream, last, np.zeros(stream.size + 1, np.int64), out)
    return out


def misses(stream: NDArray[np.integer], capacity: int) -> int:
    """Rows that a cache of `capacity` rows must fetch: first uses, and reuses farther away than it reaches back.

    Raises:
        ValueError: "capacity must be at least one row, got 0."
    """
    if capacity < 1:
        raise ValueError(f"capacity must be at least one row, got {capacity}.")
    return int((reuse_distances(stream) >= capacity).sum())


def miss_curve(stream: NDArray[np.integer], capacities: list[int]) -> list[int]:
    """`misses` for several capacities from one pass."""
    distances = np.sort(reuse_distances(stream))
    return [int(len(distances) - np.searchsorted(distances, capacity, side="left")) for capacity in capacities]
