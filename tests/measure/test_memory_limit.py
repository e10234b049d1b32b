"""A limited process ends in one of four ways, each said in one sentence, and the limit is real."""

import pytest
from edgeinfer.measure import memory_limit
from edgeinfer.measure.memory_limit import run_limited

MEGABYTE = 1_000_000
HERE = "edgeinfer.measure.memory_limit:"


@pytest.fixture(params=["best", "rlimit"])
def way(request, monkeypatch):
    if request.param == "rlimit":
        monkeypatch.setattr(memory_limit, "group_folders", lambda *_: [])


@pytest.fixture
def helpers(tmp_path, monkeypatch):
    (tmp_path / "limited_helpers.py").write_text(
        "import os, sys, time\n"
        "def take(megabytes):\n    print('noise')\n    return len(b'x' * (megabytes * 10**6)) // 10**6\n"
        "def fail():\n    raise KeyError('lost')\n"
        "def wait():\n    time.sleep(60)\n"
        "def vanish():\n    os._exit(3)\n"
        "def odd():\n    return object()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))


def test_within_the_limit_the_result_comes_back(way, helpers):
    run = run_limited("limited_helpers:take", {"megabytes": 50}, 300 * MEGABYTE)
    assert (run.outcome, run.result, run.message) == ("finished", 50, "")
    assert 50 * MEGABYTE <= run.peak_bytes <= 300 * MEGABYTE


def test_beyond_the_limit_it_says_so(way, helpers):
    run = run_limited("limited_helpers:take", {"megabytes": 600}, 300 * MEGABYTE)
    assert run.outcome == "out of memory" and run.result is None
    assert "needs more than the 300 MB" in run.message


def test_every_other_end_is_one_sentence(helpers):
    assert run_limited("limited_helpers:fail", {}, 300 * MEGABYTE).message == "KeyError: 'lost'"
    assert run_limited("limited_helpers:vanish", {}, 300 * MEGABYTE).outcome == "failed"
    assert "JSON serializable" in run_limited("limited_helpers:odd", {}, 300 * MEGABYTE).message
    late = run_limited("limited_helpers:wait", {}, 300 * MEGABYTE, timeout_s=1)
    assert late.outcome == "timeout" and "did not end within 1 s" in late.message


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match="module:function"):
        run_limited("json.dumps", {}, MEGABYTE)
    with pytest.raises(ValueError, match="positive"):
        run_limited("json:dumps", {}, 0)
