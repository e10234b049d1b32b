"""The comparison is paired, derived from its raw times, and refuses wrong use in one sentence; nothing is timed."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
from edgeinfer.measure import Comparison, Limits, Work, cold_copies, compare, rotating, timing
from hypothesis import given, settings
from hypothesis import strategies as st

QUICK = {"rounds": 3, "sample_seconds": 0.0}


def work() -> int:
    return sum(range(50))


def make(times: dict[str, list[float]], **more) -> Comparison:
    return Comparison("base", {k: tuple(v) for k, v in times.items()}, dict.fromkeys(times, 1), **more)


@given(
    st.lists(st.floats(1e-6, 10), min_size=3, max_size=21),
    st.floats(0.01, 100),
    st.randoms(use_true_random=False),
)
def test_a_disturbance_that_hits_whole_rounds_leaves_the_ratio_alone(rounds, factor, random):
    disturbance = [random.uniform(1, 1000) for _ in rounds]
    base = [t * d for t, d in zip(rounds, disturbance, strict=True)]
    row = make({"base": base, "other": [t / factor for t in base]}).row("other")
    assert row.ratio == pytest.approx(factor, rel=1e-6)
    assert row.ratio_high - row.ratio_low == pytest.approx(0, abs=1e-6 * factor)


def test_ratio_is_the_median_of_per_round_ratios_and_the_spread_its_middle_half():
    row = make({"base": [1.0, 2.0, 3.0, 4.0, 5.0], "other": [1.0] * 5}).row("other")
    assert (row.ratio_low, row.ratio, row.ratio_high) == (2, 3, 4)


def test_baseline_has_ratio_one():
    assert make({"base": [1.0, 5.0, 2.0], "other": [1.0, 1.0, 1.0]}).row("base").ratio == 1


def test_every_round_runs_every_contender_once_in_changing_order(monkeypatch):
    order: list[str] = []
    contenders = {name: (lambda name=name: order.append(name)) for name in "abcd"}
    monkeypatch.setattr(timing, "_repeats", lambda *_: 1)
    result = compare(contenders, "a", rounds=12, warmup=1, sample_seconds=0)
    rounds = [order[4 + 4 * i : 8 + 4 * i] for i in range(12)]
    assert all(sorted(r) == list("abcd") for r in rounds)
    assert len({tuple(r) for r in rounds}) > 3
    assert all(len(t) == 12 for t in result.times.values())
    assert list(result.times) == list("abcd")


def test_short_calls_are_repeated_until_a_sample_is_long_enough(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])

    def tick() -> None:
        now[0] += 1e-5

    assert timing._repeats(tick, 1e-2) >= 1000
    assert timing._repeats(tick, 0) == 1


def test_a_time_budget_ends_the_rounds_early_and_says_so(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])

    def slow() -> None:
        now[0] += 10

    result = compare({"a": slow, "b": slow}, "a", rounds=50, max_seconds=100)
    assert len(result.times["a"]) == 6
    assert "stopped after 6 of 50 rounds" in result.table()


@settings(max_examples=30)
@given(
    st.lists(st.lists(st.floats(1e-9, 1e3), min_size=4, max_size=4), min_size=2, max_size=5),
    st.floats(1, 1e12),
)
def test_json_round_trip(rows, moved):
    names = ["base", *(f"c{i}" for i in range(1, len(rows)))]
    result = make(
        dict(zip(names, rows, strict=True)),
        work={"base": Work(moved, 2 * moved)},
        ceilings={"base": 3.0},
        notes=("a note",),
        threads={"torch": 1},
    )
    assert Comparison.from_json(result.to_json()) == result


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"format": "other"}', '{"format": "edgeinfer.comparison/1"}'])
def test_foreign_json_is_refused(text):
    with pytest.raises(ValueError, match="not a comparison written by to_json"):
        Comparison.from_json(text)


def test_rates_and_the_fraction_of_the_roofline_follow_from_the_work():
    times = {"base": [0.5] * 3, "other": [0.25, 3.0, 0.75]}  # rates are those of the fastest round
    result = make(times, work={"other": Work(1e9, 2e9)}, ceilings={"other": 16.0})
    row = result.row("other")
    assert row.gigabytes_per_second == 4
    assert row.gigaoperations_per_second == 8
    assert row.roofline_fraction == 0.5
    assert "50 %" in result.table()
    assert result.row("base").gigabytes_per_second is None


def test_ceilings_come_from_the_limits_of_the_right_level_format_and_threads():
    limits = Limits({"DRAM": {1: 10.0, 2: 20.0}, "L2": {1: 100.0}}, {"float32": {1: 50.0}, "int8": {1: 500.0}}, {})
    work = {
        "stream": Work(bytes=8),
        "slope": Work(bytes=8, operations=16),
        "roof": Work(bytes=8, operations=800),
        "int8 in L2": Work(bytes=8, operations=80, level="L2", dtype="int8"),
        "two threads": Work(bytes=8, threads=2),
        "unknown": Work(bytes=8, level="HBM"),
    }
    found = timing._ceilings(work, limits)
    assert found == {"stream": 10, "slope": 20, "roof": 50, "int8 in L2": 500, "two threads": 20}


def test_rotating_passes_every_copy_in_turn():
    seen: list[int] = []
    call = rotating(seen.append, [1, 2, 3])
    for _ in range(6):
        call()
    assert sorted(seen[:3]) == [1, 2, 3] and seen[:3] == seen[3:]


def test_cold_copies_together_exceed_the_cache_but_not_the_bound(monkeypatch):
    monkeypatch.setattr(timing, "describe_machine", lambda: type("M", (), {"last_level_cache_bytes": 1000}))
    array = np.arange(100, dtype=np.float32)
    copies = cold_copies(array)
    assert len(copies) * array.nbytes >= 3000 and all(np.array_equal(c, array) for c in copies)
    assert not any(np.shares_memory(a, b) for a, b in itertools.pairwise(copies))
    assert len(cold_copies(array, most_bytes=1600)) == 4
    assert len(cold_copies(np.zeros(1000), most_bytes=1)) == 2


def generator():
    yield 1


async def coroutine():
    return 1


class OnDevice:
    device = "cuda:0"


@pytest.mark.parametrize(
    ("contenders", "arguments", "sentence"),
    [
        ({}, {}, "at least two contenders"),
        ([work, work], {}, "dict of at least two contenders"),
        ({"a": work}, {}, "at least two contenders"),
        ({"a": work, "b": np.ones(2)}, {}, "'b' is a ndarray, not a function; pass lambda: f"),
        ({"a": work, "b": generator}, {}, "calling it does no work"),
        ({"a": work, "b": coroutine}, {}, "calling it does no work"),
        ({"a": work, "b": lambda: generator()}, {}, "returns a generator"),
        ({"a": work, "b": lambda x: x}, {}, "'b' must take no arguments"),
        ({"a": work, "b": lambda: OnDevice()}, {}, "synchronise"),
        ({"b": work, "c": work}, {}, "baseline 'a' is not one of"),
        ({"a": work, "b": work}, {"rounds": 2}, "at least 3 rounds"),
        ({"a": work, "b": work}, {"warmup": 0}, "at least 1 is needed"),
        ({"a": work, "b": work}, {"work": {"x": Work()}}, "work is given for 'x'"),
    ],
)
def test_wrong_use_gets_one_sentence(contenders, arguments, sentence):
    with pytest.raises((ValueError, TypeError), match=sentence):
        compare(contenders, "a", **{**QUICK, **arguments})


def test_an_error_inside_a_contender_is_not_hidden():
    with pytest.raises(ZeroDivisionError):
        compare({"a": work, "b": lambda: 1 // 0}, "a", **QUICK)


def test_a_wrong_result_is_not_timed():
    right, wrong = np.ones(4), np.array([1, 1, 1, 2.0])
    with pytest.raises(ValueError, match="'fast' differs from 'slow'"):
        compare({"slow": lambda: right, "fast": lambda: wrong}, "slow", tolerance=1e-3, **QUICK)
    with pytest.raises(ValueError, match="returns shape"):
        compare({"slow": lambda: right, "fast": lambda: right[:3]}, "slow", tolerance=1e-3, **QUICK)
    with pytest.raises(ValueError, match="differs"):
        compare({"slow": lambda: right, "fast": lambda: wrong * np.nan}, "slow", tolerance=1e-3, **QUICK)
    compare({"slow": lambda: right, "fast": lambda: right + 1e-6}, "slow", tolerance=1e-3, **QUICK)


def test_torch_results_are_compared_too():
    torch = pytest.importorskip("torch")
    x = torch.ones(3, dtype=torch.bfloat16)
    compare({"a": lambda: x, "b": lambda: x.float()}, "a", tolerance=1e-6, **QUICK)


def test_comparing_leaves_the_thread_counts_of_the_libraries_alone():
    code = (
        "import torch, numba; torch.set_num_threads(1); "
        "from edgeinfer.measure import compare; f = lambda: None; "
        "found = compare({'a': f, 'b': f}, 'a', rounds=3, sample_seconds=0); "
        "assert torch.get_num_threads() == 1 and found.threads == {'torch': 1}, found.threads"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_thread_count_that_changes_during_the_rounds_is_noted(monkeypatch):
    counts = iter([{"torch": 1}, {"torch": 2}])
    monkeypatch.setattr(timing, "_threads", lambda: next(counts))
    assert "torch had 1 threads before the rounds and 2 after" in compare({"a": work, "b": work}, "a", **QUICK).table()


def test_a_contender_waits_until_the_threads_of_the_last_one_are_idle(monkeypatch):
    events: list[str] = []
    busy = [0]  # windows in which threads of the last contender still spin
    used = [0.0]

    def sleep(seconds: float) -> None:
        events.append("rest")
        used[0] += seconds if busy[0] > 0 else 0.0
        busy[0] -= 1

    def spinning() -> None:
        events.append("spinning")
        busy[0] = 2

    monkeypatch.setattr(timing.time, "sleep", sleep)
    monkeypatch.setattr(timing.time, "process_time", lambda: used[0])
    monkeypatch.setattr(timing, "_repeats", lambda *_: 1)
    monkeypatch.setattr(timing, "_threads", lambda: {"torch": 2})
    compare({"a": spinning, "b": lambda: events.append("quiet")}, "a", rounds=8, warmup=1, sample_seconds=0)
    after = [events[i + 1 :][:3] for i, event in enumerate(events[2:-1], start=2) if event == "spinning"]
    assert after and all(rests == ["rest"] * 3 for rests in after if len(rests) == 3)
    events.clear()
    monkeypatch.setattr(timing, "_threads", lambda: {"torch": 1})
    compare({"a": spinning, "b": work}, "a", rounds=3, warmup=1, sample_seconds=0)
    assert "rest" not in events  # one thread leaves none behind


def test_rotating_needs_two_copies():
    with pytest.raises(ValueError, match="at least two copies, got 1"):
        rotating(work, [1])


def test_garbage_collection_is_off_during_the_rounds_and_on_again_after_an_error():
    import gc

    seen: list[bool] = []

    def third_time_wrong() -> None:
        seen.append(gc.isenabled())
        if not seen[-1] and seen.count(False) == 3:
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        compare({"a": third_time_wrong, "b": work}, "a", **QUICK)
    assert seen[0] and gc.isenabled()


def test_html_escapes_names_and_has_a_caption_and_header_cells():
    page = make({"base": [1.0] * 3, "<script>": [1.0] * 3})._repr_html_()
    assert "<script>" not in page and "&lt;script&gt;" in page
    assert "<caption>" in page and 'scope="row"' in page and 'scope="col"' in page


def test_unknown_contender_is_named():
    with pytest.raises(KeyError, match="no contender 'x'"):
        make({"base": [1.0] * 3}).row("x")


@pytest.mark.parametrize(
    ("seconds", "text"), [(2.5, "2.5 s"), (0.00125, "1.25 ms"), (2e-6, "2 µs"), (3e-8, "30 ns"), (0.0, "0 ns")]
)
def test_durations_have_the_unit_that_suits_them(seconds, text):
    from edgeinfer.measure.comparison import duration_text

    assert duration_text(seconds) == text
