"""Where large arrays lie: in huge pages if the system grants them, so that a stream through them misses no address.

A matrix of some megabytes spans a thousand small pages; each new one costs the processor a look-up in the page table,
and a disk that fills it an entry in a list. NumPy asks for huge pages from 4 MiB on; low-bit weights are smaller than
that. Knows nothing of what the bytes mean.
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


def huge_empty(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray:
    """An uninitialised array that starts at a huge page, where it is large and there are any; else at a cache line."""
    nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
    if nbytes < LEAST or not hasattr(mmap, "MADV_HUGEPAGE"):
        return aligned_empty(shape, dtype)
    room = mmap.mmap(-1, -(-nbytes // HUGE) * HUGE + HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel without them: small pages hold the same bytes
        room.madvise(mmap.MADV_HUGEPAGE)
    space = np.frombuffer(room, np.uint8)
    start = -space.ctypes.data % HUGE
    return space[start : start + nbytes].view(dtype).reshape(shape)


def in_huge_pages(array: NDArray) -> NDArray:
    """A contiguous copy of an array in memory as `huge_empty` finds it."""
    array = np.ascontiguousarray(array)
    placed = huge_empty(array.shape, array.dtype)
    placed[...] = array
    return placed
