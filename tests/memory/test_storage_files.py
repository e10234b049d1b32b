"""Cold reads give the file's bytes whatever the offset; writes are whole or absent, also under a kill."""

import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
from edgeinfer.memory.storage import ColdFile, drop_from_cache, remove_parts, resident_fraction, write_whole
from hypothesis import given, settings
from hypothesis import strategies as st

SIZE = 50_001  # odd on purpose: the last block is not full


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("storage") / "weights.bin"
    write_whole(path, [np.random.default_rng(0).integers(0, 256, SIZE, dtype=np.uint8)])
    return path


@settings(max_examples=60, deadline=None)
@given(st.integers(0, SIZE), st.integers(0, SIZE), st.booleans())
def test_any_part_is_what_an_ordinary_read_gives(file, offset, length, direct):
    length = min(length, SIZE - offset)
    with ColdFile(file, direct) as cold:
        assert bytes(cold.read(offset, length)) == file.read_bytes()[offset : offset + length]
        assert cold.bytes_read >= length and cold.requests == (length > 0)


def test_arrays_of_any_dtype_are_filled(file):
    wanted = np.fromfile(file, np.float32, 100, offset=4)
    got = np.empty((10, 10), np.float32)
    with ColdFile(file) as cold:
        cold.read_into(4, got)
    np.testing.assert_array_equal(got.ravel(), wanted)


def test_reads_leave_nothing_in_the_page_cache(file):
    drop_from_cache(file)
    if resident_fraction(file) > 0:
        pytest.skip("this file system keeps its pages whatever is advised (it lies in memory)")
    with ColdFile(file) as cold:
        cold.read(0, SIZE)
    assert resident_fraction(file) == 0
    file.read_bytes()
    assert resident_fraction(file) == 1


def test_threads_may_read_at_once(file):
    wanted, got = file.read_bytes(), {}
    with ColdFile(file) as cold:

        def some(start):
            got[start] = bytes(cold.read(start, 1000))

        threads = [threading.Thread(target=some, args=(s,)) for s in range(0, 40_000, 2500)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert cold.requests == len(threads)
    assert all(part == wanted[start : start + 1000] for start, part in got.items())


def test_what_is_not_there_is_said(file, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file nothing\.bin"):
        ColdFile(tmp_path / "nothing.bin")
    with ColdFile(file) as cold:
        with pytest.raises(ValueError, match="cut short"):
            cold.read(SIZE - 10, 11)
        with pytest.raises(ValueError, match="cut short"):
            cold.read(-1, 5)
        with pytest.raises(ValueError, match="gaps"):
            cold.read_into(0, np.empty((4, 4), np.uint8)[:, ::2])
    with pytest.raises(ValueError, match="closed"):
        cold.read(0, 1)


def test_a_file_cut_while_it_is_open_is_said(tmp_path):
    path = tmp_path / "cut.bin"
    write_whole(path, [bytes(20_000)])
    with ColdFile(path) as cold:
        os.truncate(path, 5000)
        with pytest.raises(ValueError, match="another program has cut it"):
            cold.read(0, 20_000)


def test_a_failed_write_leaves_the_old_file_and_no_part(tmp_path):
    path = tmp_path / "context.bin"
    write_whole(path, [b"old"])

    def breaks():
        yield b"new"
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match=r"could not write context\.bin: No space left on device; an older file"):
        write_whole(path, breaks())
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]
    with pytest.raises(FileNotFoundError, match="no folder"):
        write_whole(tmp_path / "nowhere" / "x.bin", [b""])


def test_a_killed_writer_leaves_the_old_file_whole(tmp_path):
    path = tmp_path / "context.bin"
    write_whole(path, [b"old" * 1000])
    program = (
        "import sys\nfrom edgeinfer.memory.storage import write_whole\n"
        "def chunks():\n    yield b'new' * 1000\n    print('half', flush=True)\n    sys.stdin.read()\n"
        "write_whole(sys.argv[1], chunks())"
    )
    command = [sys.executable, "-c", program, str(path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"half\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert path.read_bytes() == b"old" * 1000
    assert remove_parts(tmp_path) == 1 and list(tmp_path.iterdir()) == [path]


def test_empty_chunks_and_empty_files(tmp_path):
    path = tmp_path / "empty.bin"
    assert write_whole(path, [b"", np.empty((0, 3), np.float32)]) == 0
    assert path.read_bytes() == b"" and resident_fraction(path) == 0
    with ColdFile(path) as cold:
        assert bytes(cold.read(0, 0)) == b""
