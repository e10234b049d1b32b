"""Where packed weights lie: in huge pages if the system grants them, so that a stream through them misses no address.

A matrix of some megabytes spans a thousand small pages; each new one costs a look-up in the page table. NumPy asks for
huge pages from 4 MiB on; low-bit weights are smaller than that. Knows nothing of what the bytes mean.
"""

import contextlib
import mmap

import numpy as np
from numpy.typing import DTypeLike, NDArray

HUGE = 2 << 20
LEAST = 1 << 20  # below, a huge page would be mostly empty


def aligned_empty(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray:
    """An uninitialised array that starts at a cache line, so that no vector of 64 bytes straddles two."""
    count = int(np.prod(shape)) * np.dtype(dtype).itemsize
    space = np.empty(count + 64, np.uint8)
    start = -space.ctypes.data % 64
    return space[start : start + count].view(dtype).reshape(shape)


def in_huge_pages(array: NDArray) -> NDArray:
    """A contiguous copy of an array that starts at a cache line, in huge pages where it is large and there are any."""
    array = np.ascontiguousarray(array)
    if array.nbytes < LEAST or not hasattr(mmap, "MADV_HUGEPAGE"):
        placed = aligned_empty(array.shape, array.dtype)
    else:
        room = mmap.mmap(-1, -(-array.nbytes // HUGE) * HUGE + HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with contextlib.suppress(OSError):  # a kernel without them: small pages hold the same bytes
            room.madvise(mmap.MADV_HUGEPAGE)
        space = np.frombuffer(room, np.uint8)
        start = -space.ctypes.data % HUGE
        placed = space[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    placed[...] = array
    return placed
