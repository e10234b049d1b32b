"""Which reads fetch a set of neurons from a file: runs of neighbours, small gaps read along, blocks rounded up.

It counts requests and bytes and models their time; it opens no file. Sources: llm-in-a-flash, ripple.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BLOCK = 4096


@dataclass(frozen=True)
class Reads:
    """Reads of consecutive places.

    Attributes:
        starts: int64 (R,), first place of each read, ascending.
        counts: int64 (R,), places of each read.
    """

    starts: np.ndarray
    counts: np.ndarray

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def places(self) -> int:
        """Places that are read, gaps included."""
        return int(self.counts.sum())


def merge_reads(places: np.ndarray, gap: int = 0) -> Reads:
    """Join places of a file into reads.

    Args:
        places: int (n,), wanted places, in any order, each once.
        gap: two wanted places with at most so many unwanted ones between them share a read. 0: neighbours only.

    Returns:
        The reads; together they hold every wanted place, and nothing before the first or after the last of a run.

    Raises:
        ValueError: "gap must be 0 or more; came -1".
    """
    if gap < 0:
        raise ValueError(f"gap must be 0 or more; came {gap}")
    ordered = np.sort(np.asarray(places, np.int64))
    if len(ordered) == 0:
        return Reads(ordered, ordered)
    first = np.concatenate(([True], np.diff(ordered) > gap + 1))
    starts = ordered[first]
    last = np.concatenate((np.flatnonzero(first)[1:] - 1, [len(ordered) - 1]))
    return Reads(starts, ordered[last] - starts + 1)


def cost_of_reads(reads: Reads, bundle_bytes: int, block: int = BLOCK, start: int = 0) -> tuple[int, int]:
    """Return (requests, bytes that cross from the disk) of reads of bundles, each read rounded to whole blocks.

    Args:
        reads: of places.
        bundle_bytes: bytes of one place.
        block: bytes of the disk's block; 1: no rounding.
        start: byte at which place 0 lies.
    """
    begin = start + reads.starts * bundle_bytes
    end = begin + reads.counts * bundle_bytes
    hull = -(-end // block) * block - begin // block * block
    return len(reads), int(hull.sum())


def time_of_reads(requests: float, moved: float, requests_per_s: float, bytes_per_s: float) -> float:
    """Model the seconds that a drive needs: it starts at most so many requests, and moves at most so many bytes.

    The slower of the two binds (reads are queued, so they overlap). Source: ripple (its flash is bound by requests).
    """
    return max(requests / requests_per_s, moved / bytes_per_s)
