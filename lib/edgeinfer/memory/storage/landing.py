"""How fast a file comes from the disk, by the size of a read and by the pages of memory in which it lands.

Both kinds of memory are filled by the same direct reads, in turns. It measures, and is not needed to read anything.
"""

from __future__ import annotations

import mmap
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgeinfer.kernels.memory import huge_empty
from edgeinfer.memory.storage.cold_file import BLOCK, ColdFile

PAGES = ("small pages", "huge pages")
SIZES = (64 << 10, 256 << 10, 1 << 20, 4 << 20)


def small_pages(nbytes: int) -> np.ndarray:
    """Bytes in pages of the usual size, wherever the system finds them."""
    room = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        room.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(room, np.uint8)


def landing_rates(path: str | Path, sizes: Sequence[int] = SIZES, rounds: int = 5) -> dict[str, list[float]]:
    """Read a whole file again and again, in reads of one size after the other.

    Args:
        path: of a file of several of the largest reads; what is beyond whole reads is left out.
        sizes: bytes of a read, multiples of 4096.
        rounds: how often; medians are kept.

    Returns:
        {"small pages": bytes/s for each size, "huge pages": bytes/s for each size}.

    Raises:
        ValueError: "reads must be multiples of 4096 bytes ..." or "... has 4096 bytes, less than one read of ...".
    """
    if any(size < BLOCK or size % BLOCK for size in sizes):
        raise ValueError(f"reads must be multiples of {BLOCK} bytes; came {tuple(sizes)}")
    found: dict[tuple[str, int], list[float]] = {}
    with ColdFile(path) as file:
        most = max(sizes)
        if file.size < most:
            raise ValueError(f"{file.path.name} has {file.size} bytes, less than one read of {most}; take a larger one")
        places = dict(zip(PAGES, (small_pages(most), huge_empty((most,), np.uint8)), strict=True))
        for place in places.values():
            place[:] = 1  # the system hands out pages when they are first written
        for _ in range(rounds):
            for size in sizes:
                for name, place in places.items():
                    ends = range(0, file.size - size + 1, size)
                    start = time.perf_counter()
                    for at in ends:
                        file.read_into(at, place[:size])
                    found.setdefault((name, size), []).append(len(ends) * size / (time.perf_counter() - start))
    return {name: [float(np.median(found[name, size])) for size in sizes] for name in PAGES}
