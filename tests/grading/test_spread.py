"""A class over a Dask scheduler gets the grades it gets here. Without `distributed`, its client is a stand-in."""

import json
import pickle
import sys

import pytest
from edgeinfer.grading import grade as grading
from edgeinfer.grading import spread
from edgeinfer.grading.sandbox import Sandbox

from .test_grade import HOSTILE, grade, hand_in, notebook


class Future:
    def __init__(self, value):
        self.value = value

    def result(self):
        if isinstance(self.value, Exception):
            raise self.value
        return pickle.loads(self.value)  # noqa: S301 - bytes that the stand-in below has just made itself

    def cancel(self):
        self.value = RuntimeError("cancelled")


class StandIn:
    """The methods of `distributed.Client` that are used, with what really happens to values: they are pickled."""

    def __init__(self, threads=2):
        self.threads, self.calls = threads, 0

    def nthreads(self):
        return {"tcp://a": self.threads} if self.threads else {}

    def submit(self, function, *arguments, pure):
        self.calls += 1
        assert pure is False
        function, arguments = pickle.loads(pickle.dumps((function, arguments)))  # noqa: S301 - made in this line
        try:
            return Future(pickle.dumps(function(*arguments)))
        except Exception as error:
            return Future(error)

    def close(self):
        raise AssertionError("a client that was handed in is not ours to close")


def plain(records):
    return [{k: v for k, v in r.items() if k != "mark"} for r in records]


def test_a_scheduler_gives_the_grades_of_this_machine_and_resumes(built, tmp_path):
    for student in ("right", "misconception", "os_exit"):
        hand_in(tmp_path / "in", student, notebook(built, HOSTILE[student][0]))
    hand_in(tmp_path / "in", "broken", b"{")
    here = grade(built, tmp_path / "in", tmp_path / "here", seed=5)
    client = StandIn()
    there = grade(built, tmp_path / "in", tmp_path / "there", seed=5, scheduler=client)
    assert plain(there) == plain(here) and client.calls == 4
    assert "Dask workers" in json.loads((tmp_path / "there" / "run.json").read_text())["speed"]
    assert grade(built, tmp_path / "in", tmp_path / "there", seed=5, scheduler=client) == there and client.calls == 4


def test_a_worker_with_other_code_refuses(built, tmp_path):
    job = spread.Job(str(built.exercises), b"{}", b"", 1, False, "another state")
    with pytest.raises(grading.GradingError, match="another version of edgeinfer"):
        spread.grade_one(job, "someone", "", {}, b"{}")


def test_without_workers_or_without_the_package_one_sentence_says_what_to_do(monkeypatch):
    job = spread.Job("lab", b"", b"", 1, False, "")
    with pytest.raises(grading.GradingError, match="has no worker; start one"):
        spread.Remote(StandIn(0), job)
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(grading.GradingError, match="needs the package distributed, which is not installed"):
        spread.connect("tcp://127.0.0.1:1")


def test_a_real_scheduler_on_this_machine(built, tmp_path):
    distributed = pytest.importorskip("distributed", reason="the optional package distributed is not installed")
    hand_in(tmp_path / "in", "right", notebook(built, HOSTILE["right"][0]))
    hand_in(tmp_path / "in", "wrong", notebook(built, HOSTILE["wrong"][0]))
    with distributed.LocalCluster(1, processes=True, threads_per_worker=2, dashboard_address=None) as cluster:
        records = grade(built, tmp_path / "in", tmp_path / "out", scheduler=cluster.scheduler_address)
    assert [r["score"] for r in records] == [2, 0]
    assert Sandbox().kind in ("bubblewrap", "limits")
