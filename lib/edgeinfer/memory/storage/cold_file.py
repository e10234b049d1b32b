"""Reads of a file that really come from the disk: past the page cache, or with the cache emptied behind each read.

A second read of an ordinary file comes from memory and measures nothing. It does not know what the bytes mean.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import threading
from pathlib import Path
from types import TracebackType

import numpy as np

from edgeinfer.kernels.memory import HUGE, huge_empty

# Direct reads start and end at multiples of the disk's block; 4096 fits every common disk and file system.
BLOCK = 4096
SMALL = 64 * 1024  # bytes; buffers of larger reads lie in huge pages
KEPT = 64 * 1024 * 1024  # bytes of the largest buffer that is kept for the next read


class ColdFile:
    """A file whose reads do not come from the page cache.

    With O_DIRECT the disk writes into our own aligned memory ("direct"): into the caller's, where it and the piece of
    the file begin and end at blocks, or else into a buffer from which the piece is copied. A disk wants a list of the
    places in memory; a huge page is one entry where 512 small pages can be as many, so large reads into huge pages are
    faster by far (`kernels.memory.huge_empty`). Where the file system has no
    direct reads (tmpfs, some network folders, macOS), ordinary reads are followed by the advice to forget the pages
    ("dropped"); `how` says which. Reads may come from several threads at once.

    Attributes:
        size: bytes of the file.
        how: "direct" or "dropped".
        bytes_read: bytes that crossed from the disk, the rounding to blocks included.
        requests: number of reads.
    """

    def __init__(self, path: str | Path, direct: bool = True) -> None:
        """Open a file for cold reads.

        Args:
            path: the file.
            direct: ask for direct reads; False: read and drop.

        Raises:
            FileNotFoundError: "there is no file ...; ...".
        """
        self.path = Path(path)
        self.bytes_read = self.requests = 0
        self._lock = threading.Lock()
        self._spare: dict[int, list[np.ndarray]] = {}
        if not self.path.is_file():
            raise FileNotFoundError(f"there is no file {self.path.name}; write it first, or give its whole path")
        self._file, self.how = -1, "dropped"
        if direct and hasattr(os, "O_DIRECT"):
            try:
                self._file = os.open(self.path, os.O_RDONLY | os.O_DIRECT)
                self.how = "direct"
                os.preadv(self._file, [mmap.mmap(-1, BLOCK)], 0)
            except OSError:  # opened, but this file system cannot read directly
                self.close()
                self.how = "dropped"
        if self._file < 0:
            self._file = os.open(self.path, os.O_RDONLY)
        self.size = os.fstat(self._file).st_size

    def __enter__(self) -> ColdFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; a second time does nothing."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def read(self, offset: int, length: int) -> memoryview:
        """Read `length` bytes at `offset`; both may be any number, the blocks around them are read.

        Returns:
            The bytes, in memory of their own.

        Raises:
            ValueError: "... ends at byte 4096, but bytes 4000 to 5000 were asked for; ...".
        """
        out = np.empty(max(length, 0), np.uint8)
        self.read_into(offset, out)
        return out.data

    def read_into(self, offset: int, array: np.ndarray) -> None:
        """Fill a C-contiguous array of any dtype with the bytes at `offset`.

        Raises:
            ValueError: as `read`, or when the array is not contiguous, or the file is closed.
        """
        if not array.flags.c_contiguous:
            raise ValueError("read_into fills a C-contiguous array; this one has gaps, so read into a fresh one")
        if self._file < 0:
            raise ValueError(f"{self.path.name} is closed; open it again before reading")
        length = array.nbytes
        if offset < 0 or offset + length > self.size:
            raise ValueError(
                f"{self.path.name} ends at byte {self.size}, but bytes {offset} to {offset + length} were asked for; "
                "the file is cut short or belongs to another model: write it again"
            )
        if length == 0:
            return
        start = offset - offset % BLOCK
        hull = -(-(offset + length - start) // BLOCK) * BLOCK
        target = array.reshape(-1).view(np.uint8)
        if hull == length and target.ctypes.data % BLOCK == 0:
            got = self._fill(target.data, start, length)
        else:
            buffer = self._borrow(hull)
            try:
                got = self._fill(buffer[:hull].data, start, offset + length - start)
                target[:] = buffer[offset - start :][:length]
            finally:
                self._give_back(buffer)
        if self.how == "dropped" and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._file, start, hull, os.POSIX_FADV_DONTNEED)
        with self._lock:
            self.bytes_read += got
            self.requests += 1

    def _fill(self, view: memoryview, start: int, needed: int) -> int:
        got = 0
        while got < needed:
            count = os.preadv(self._file, [view[got:]], start + got)
            if count == 0:
                raise ValueError(
                    f"{self.path.name} ended at byte {start + got} while it was read, {needed - got} bytes too soon: "
                    "another program has cut it, so write it again"
                )
            got += count
        return got

    def _borrow(self, size: int) -> np.ndarray:
        # Buffers are kept by size class: a fresh one costs a page fault per page.
        key = SMALL if size <= SMALL else max(HUGE, 1 << (size - 1).bit_length())
        with self._lock:
            spare = self._spare.setdefault(key, [])
            if spare:
                return spare.pop()
        return np.frombuffer(mmap.mmap(-1, key), np.uint8) if key == SMALL else huge_empty((key,), np.uint8)

    def _give_back(self, buffer: np.ndarray) -> None:
        with self._lock:
            spare = self._spare[len(buffer)]
            if len(spare) < 4 and len(buffer) <= KEPT:
                spare.append(buffer)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def resident_fraction(path: str | Path) -> float:
    """Return the share of a file's pages that lie in the page cache, 0 to 1 (an empty file: 0).

    Raises:
        FileNotFoundError: when there is no such file.
        OSError: "this system cannot say what its page cache holds ..." (no mincore).
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size == 0:
            return 0.0
        if not hasattr(_libc(), "mincore"):
            raise OSError("this system cannot say what its page cache holds (no mincore); run this part on Linux")
        pages = -(-size // mmap.PAGESIZE)
        with mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as mapped:
            whole = np.frombuffer(mapped, np.uint8)
            flags = (ctypes.c_ubyte * pages)()
            failed = _libc().mincore(ctypes.c_void_p(whole.ctypes.data), ctypes.c_size_t(size), flags)
            del whole
        if failed:
            raise OSError(f"mincore failed with error {ctypes.get_errno()}; the file system does not support it")
        return float((np.frombuffer(bytes(flags), np.uint8) & 1).mean())


def drop_from_cache(path: str | Path) -> None:
    """Write a file's pages to the disk and ask the system to forget them; `resident_fraction` says whether it did.

    Raises:
        FileNotFoundError: when there is no such file.
        OSError: "this system takes no advice about its page cache ..." (no posix_fadvise).
    """
    if not hasattr(os, "posix_fadvise"):
        raise OSError("this system takes no advice about its page cache (no posix_fadvise); run this part on Linux")
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(file)
