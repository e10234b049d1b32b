"""Files of contexts: whole or absent, whatever kills the writer; damaged ones are refused with one sentence."""

import signal
import subprocess
import sys

import numpy as np
import pytest
from edgeinfer.memory.contexts.chunk import compress
from edgeinfer.memory.contexts.chunk_file import ContextFileError, pack_chunk, read_chunk, unpack_chunk, write_chunk
from edgeinfer.memory.storage import remove_parts
from hypothesis import given, settings
from hypothesis import strategies as st

WRITER = """
import sys
import numpy as np
from edgeinfer.memory.contexts.chunk import compress
from edgeinfer.memory.contexts.chunk_file import write_chunk
keys = np.random.default_rng(0).normal(size=(8, 4, 256, 32)).astype(np.float32)
number = 0
while True:
    chunk = compress(number, np.arange(256), keys + number, keys - number, 8)
    write_chunk(f"{sys.argv[1]}/app.{number % 3:05d}.kv", chunk)
    print(number, flush=True)
    number += 1
"""

SERVICE = """
import sys
import torch
from edgeinfer import models
from edgeinfer.memory.contexts import ContextService, Costs
torch.set_num_threads(1)
service = ContextService(models.load("draft"), sys.argv[1], 200_000, Costs(1e-4, 1e9, 1e-4))
text = models.held_out_tokens("text")
at = len(service.tokens("a"))
while True:
    service.run("a" if at % 2 else "b", text[at : at + 37])
    print(at, flush=True)
    at = (at + 37) % 700
    if not at:
        service.forget("a")
"""


def sample(seed=0, n=32, bits=4, start=0):
    rng = np.random.default_rng(seed)
    keys, values = rng.normal(size=(2, 2, 2, n, 8)).astype(np.float32)
    return compress(start, rng.integers(0, 100, n), keys, values, bits)


def same(a, b):
    return (
        a.start == b.start
        and np.array_equal(a.tokens, b.tokens)
        and np.array_equal(a.keys.dequantize(), b.keys.dequantize())
        and np.array_equal(a.values.dequantize(), b.values.dequantize())
    )


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 9), st.sampled_from([1, 7, 32, 33]), st.sampled_from([2, 4, 8]), st.integers(0, 900))
def test_contexts_chunk_survives_its_file(tmp_path_factory, seed, n, bits, start):
    chunk, path = sample(seed, n, bits, start), tmp_path_factory.mktemp("c") / "a.00000.kv"
    assert write_chunk(path, chunk) == path.stat().st_size
    assert same(read_chunk(path), chunk)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_contexts_any_cut_and_any_changed_byte_is_refused(data):
    whole = b"".join(pack_chunk(sample()))
    cut = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(ContextFileError, match="computed again"):
        unpack_chunk(whole[:cut])
    changed = bytearray(whole)
    changed[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(ContextFileError, match="computed again"):
        unpack_chunk(bytes(changed))


def test_contexts_missing_file_is_one_sentence(tmp_path):
    with pytest.raises(ContextFileError, match="there is no file"):
        read_chunk(tmp_path / "gone.00000.kv")


def killed(program, folder, lines):
    """Run a program until it has printed some lines, then kill it, wherever it is by then."""
    child = subprocess.Popen([sys.executable, "-c", program, str(folder)], stdout=subprocess.PIPE, text=True)
    try:
        for _ in range(lines):
            assert child.stdout.readline(), "the writer ended by itself"
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()


@pytest.mark.parametrize("lines", [0, 1, 2, 4, 5])
def test_contexts_writer_killed_at_any_moment_leaves_whole_files_only(tmp_path, lines):
    killed(WRITER, tmp_path, lines)
    remove_parts(tmp_path)
    found = sorted(tmp_path.iterdir())
    assert len(found) >= min(lines, 3)
    assert all(path.suffix == ".kv" for path in found)
    for path in found:
        chunk = read_chunk(path)  # raises if torn
        assert chunk.start % 3 == int(path.name.split(".")[1])
        assert abs(float(chunk.keys.dequantize().mean()) - chunk.start) < 0.1


@pytest.mark.parametrize("lines", [2, 5, 23])
def test_contexts_service_killed_at_any_moment_opens_again_with_the_beginning_of_each_context(tmp_path, lines):
    import torch
    from edgeinfer import models
    from edgeinfer.memory.contexts import ContextService, Costs

    torch.set_num_threads(1)
    killed(SERVICE, tmp_path, lines)
    service = ContextService(models.load("draft"), tmp_path, 200_000, Costs(1e-4, 1e9, 1e-4))
    assert not [p for p in tmp_path.iterdir() if p.suffix != ".kv"]
    for app in service.apps():
        tokens = service.tokens(app)
        assert len(tokens) % 32 == 0 and len(tokens) // 32 == len(service.chunks(app))
        logits = service.run(app, torch.tensor([5]))
        assert torch.isfinite(logits).all()
