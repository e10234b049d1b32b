"""Rates of reads into small and huge pages: what is measured is really read, and odd requests are refused."""

from __future__ import annotations

import mmap

import numpy as np
import pytest
from edgeinfer.kernels.memory import HUGE, LEAST, huge_empty
from edgeinfer.memory.storage import ColdFile
from edgeinfer.memory.storage.cold_file import BLOCK
from edgeinfer.memory.storage.landing import PAGES, landing_rates


@pytest.fixture(scope="module")
def numbers(tmp_path_factory):
    """A file of whole and broken blocks, and its bytes."""
    content = np.random.default_rng(0).integers(0, 256, 3 * HUGE + 777, dtype=np.uint8)
    path = tmp_path_factory.mktemp("landing") / "numbers"
    path.write_bytes(content.tobytes())
    return path, content


def test_every_size_has_a_rate_for_both_kinds(numbers) -> None:
    rates = landing_rates(numbers[0], sizes=(BLOCK, 1 << 18, 1 << 21), rounds=1)
    assert tuple(rates) == PAGES
    assert all(len(found) == 3 and min(found) > 0 for found in rates.values())


@pytest.mark.parametrize("size", [0, 100, BLOCK + 1])
def test_a_read_that_is_no_multiple_of_a_block_is_refused(numbers, size) -> None:
    with pytest.raises(ValueError, match=f"multiples of {BLOCK} bytes; came .{size},"):
        landing_rates(numbers[0], sizes=(size,))


def test_a_file_shorter_than_a_read_is_refused(numbers) -> None:
    with pytest.raises(ValueError, match="less than one read of 8388608; take a larger one"):
        landing_rates(numbers[0], sizes=(1 << 23,))


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("at", [0, BLOCK, BLOCK + 3])
@pytest.mark.parametrize("size", [0, 1, BLOCK, 5 * BLOCK + 1, LEAST, HUGE + BLOCK, 2 * HUGE + 777])
def test_bytes_arrive_wherever_they_land(numbers, direct, at, size) -> None:
    """Into memory that begins at a page, which the disk fills itself, and into memory that does not."""
    path, content = numbers
    with ColdFile(path, direct) as file:
        room = huge_empty((size + BLOCK + 1,), np.uint8)
        at_page = -room.ctypes.data % BLOCK
        for start in (at_page, at_page + 1):
            room[:] = 7
            file.read_into(at, room[start : start + size])
            np.testing.assert_array_equal(room[start : start + size], content[at : at + size])
            assert (room[:start] == 7).all() and (room[start + size :] == 7).all()  # and nowhere else


@pytest.mark.parametrize("shape", [(0,), (3, 5), (LEAST // 4 - 1,), (LEAST // 4,), (HUGE, 2)])
def test_large_arrays_begin_at_a_huge_page(shape) -> None:
    array = huge_empty(shape, np.float32)
    assert array.shape == shape and array.dtype == np.float32 and array.flags.c_contiguous and array.flags.writeable
    huge = array.nbytes >= LEAST and hasattr(mmap, "MADV_HUGEPAGE")
    assert array.ctypes.data % (HUGE if huge else 64) == 0 or not array.size
