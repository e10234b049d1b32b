"""A cache of neurons that does not tear reads apart: a neuron out of a long run is not kept, a lone one is.

Keeping one neuron from the middle of a run saves few bytes and turns one read into two. It counts places only.
Source: ripple.
"""

from __future__ import annotations

from collections import OrderedDict

import numpy as np

from edgeinfer.memory.flash.reads import Reads


class LinkAwareCache:
    """Least recently used places, with an admission that looks at the read they came in.

    Args:
        capacity: places that may be kept.
        longest: places of a read of more wanted places than this are not admitted; None: admit all (plain cache).

    Raises:
        ValueError: "capacity must be 0 or more places; came -1".
    """

    def __init__(self, capacity: int, longest: int | None = None) -> None:
        if capacity < 0:
            raise ValueError(f"capacity must be 0 or more places; came {capacity}")
        self.capacity, self.longest = capacity, longest
        self._kept: OrderedDict[int, None] = OrderedDict()

    def missing(self, places: np.ndarray) -> np.ndarray:
        """Return the places that are not kept, ascending, and count the others as used."""
        wanted = np.sort(np.asarray(places, np.int64)).tolist()
        for place in wanted:
            if place in self._kept:
                self._kept.move_to_end(place)
        return np.array([p for p in wanted if p not in self._kept], np.int64)

    def admit(self, places: np.ndarray, reads: Reads) -> None:
        """Keep what was just read.

        Args:
            places: int (n,), wanted places that were read, ascending.
            reads: the reads that fetched them.
        """
        of_read = np.searchsorted(reads.starts, places, side="right") - 1
        wanted = np.bincount(of_read, minlength=len(reads)) if len(places) else np.zeros(0, int)
        for place, read in zip(np.asarray(places).tolist(), of_read.tolist(), strict=True):
            if self.longest is None or wanted[read] <= self.longest:
                self._kept[place] = None
        while len(self._kept) > self.capacity:
            self._kept.popitem(last=False)
