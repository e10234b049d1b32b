"""Limits are measured where that is possible, bounded in time and memory, and missing with a reason elsewhere."""

import sys

import pytest
from edgeinfer.measure import Cache, Limits, Machine, limits, measure_limits
from edgeinfer.measure.limits import working_sets
from hypothesis import given
from hypothesis import strategies as st


def machine(caches=(), memory=8 << 30):
    return Machine("x", "x86_64", 8, 8, None, (), tuple(caches) or None, memory, memory, "Linux", False, {})


@given(st.integers(14, 18), st.integers(18, 23), st.integers(22, 30), st.integers(1, 16), st.integers(27, 40))
def test_working_sets_fit_their_level_and_spill_the_one_below(l1, l2, l3, threads, memory):
    caches = [Cache(1, 1 << l1, 1), Cache(2, 1 << l2, 1), Cache(3, 1 << l3, 64)]
    sets = working_sets(machine(caches, 1 << memory), threads)
    below = 0
    for cache in caches:
        if f"L{cache.level}" in sets:
            size = sets[f"L{cache.level}"]
            assert below < size
            assert size * (threads if cache.shared_by > 1 else 1) <= cache.bytes // 2
            below = cache.bytes
    assert sets["DRAM"] * threads <= max(1 << memory, 64 << 20) and sets["DRAM"] * threads <= limits.MOST_BYTES
    if memory > 33 and l3 < 27:
        assert sets["DRAM"] * threads >= (4 << l3) - threads


def test_unknown_caches_leave_the_memory():
    assert list(working_sets(machine())) == ["DRAM"]


@pytest.fixture
def small(monkeypatch):
    """A machine with small caches, so that a measurement moves little."""
    monkeypatch.setattr(limits, "describe_machine", lambda: machine([Cache(1, 32 << 10, 1)], 256 << 20))
    limits._measured.cache_clear()
    yield
    limits._measured.cache_clear()
    limits._make_reader.cache_clear()


def test_a_short_measurement_finds_every_limit(small):
    found = measure_limits(0.2, threads=(1, 2))
    assert list(found.bandwidths()) == ["L1", "DRAM"]
    assert all(rate > 0 for rate in [*found.bandwidths().values(), *found.peaks().values()])
    assert found.threads == (1, 2) and "float32" in found.peaks(1)
    assert Limits.from_json(found.to_json()) == found
    assert "GB/s" in found.table() and "<caption>" in found._repr_html_()
    assert measure_limits(0.2, threads=(1, 2)) is found


def test_without_torch_float32_is_measured_and_the_rest_says_why(small, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    found = measure_limits(0.1, threads=(1,))
    assert list(found.peaks()) == ["float32"]
    assert "torch is not installed" in found.unknown["peak of int8"]
    assert "torch is not installed" in found.table()


def test_without_numba_numpy_reads_and_a_note_says_so(small, monkeypatch):
    limits._make_reader.cache_clear()
    monkeypatch.setitem(sys.modules, "numba", None)
    found = measure_limits(0.1, threads=(1,))
    assert found.bandwidth("DRAM") > 0
    assert any("Numba is missing" in note for note in found.notes)


def test_a_format_that_this_torch_cannot_multiply_is_left_out(small, monkeypatch):
    torch = pytest.importorskip("torch")

    def refuse(*_):
        raise RuntimeError("not implemented for 'Char'")

    monkeypatch.setattr(torch, "_int_mm", refuse)
    before = torch.get_num_threads()
    found = measure_limits(0.1, threads=(1,))
    assert found.peak("int8") is None and "not implemented" in found.unknown["peak of int8"]
    assert torch.get_num_threads() == before


def test_threads_are_checked():
    with pytest.raises(ValueError, match="whole numbers above 0"):
        measure_limits(threads=(0,))


def test_unknown_levels_formats_and_thread_counts_are_none():
    found = Limits({"DRAM": {1: 5.0, 4: 9.0}}, {}, {})
    assert found.bandwidth() == 9 and found.bandwidth("DRAM", 1) == 5
    assert found.bandwidth("DRAM", 2) is None and found.bandwidth("L1") is None and found.peak() is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "edgeinfer.limits/1"}'])
def test_foreign_json_is_refused(text):
    with pytest.raises(ValueError, match="not limits written by to_json"):
        Limits.from_json(text)
