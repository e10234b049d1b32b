"""A call divided among threads is the call: every block once, errors told, nothing kept, whoever calls and forks."""

import os
import subprocess
import sys
import threading
import time
import weakref

import numpy as np
import pytest
from edgeinfer.kernels import threads
from edgeinfer.kernels.threads import over_blocks
from hypothesis import given, settings
from hypothesis import strategies as st


@settings(deadline=None)
@given(blocks=st.integers(0, 40), count=st.integers(1, 9))
def test_every_block_is_computed_once(blocks, count):
    done = np.zeros(blocks, np.int64)
    runs = []

    def kernel(out, first, last):
        out[first:last] += 1
        runs.append((first, last))

    over_blocks(kernel, (done,), blocks, count)
    assert (done == 1).all()
    assert len(runs) == max(1, min(count, blocks))


@pytest.mark.parametrize("wrong", [0, -1, 1.5, "2"])
def test_a_number_of_threads_that_is_none_is_refused(wrong):
    with pytest.raises(ValueError, match="threads must be a positive integer"):
        over_blocks(lambda first, last: None, (), 4, wrong)


def test_little_work_wakes_nobody(monkeypatch):
    monkeypatch.setattr(threads, "SHARE", 1 << 20)
    runs = []
    for nbytes in ((2 << 20) - 1, 2 << 20, None):
        over_blocks(lambda first, last: runs.append((first, last)), (), 8, 2, nbytes)
    assert runs[0] == (0, 8) and sorted(runs[1:3]) == sorted(runs[3:]) == [(0, 4), (4, 8)]


@pytest.mark.parametrize("part", [0, 3])
def test_an_error_of_any_thread_is_the_callers_and_the_others_have_ended(part):
    ended = []

    def kernel(first, last):
        if first == part:
            raise ZeroDivisionError("in block " + str(first))
        time.sleep(0.02)
        ended.append(first)

    with pytest.raises(ZeroDivisionError, match=f"in block {part}"):
        over_blocks(kernel, (), 4, 4)
    assert sorted(ended) == [i for i in range(4) if i != part]
    test_every_block_is_computed_once.hypothesis.inner_test(7, 3)  # the helpers serve on


def test_a_helper_keeps_nothing_of_a_call():
    class Thing:
        pass

    thing = Thing()
    seen = weakref.ref(thing)
    over_blocks(lambda it, first, last: None, (thing,), 2, 2)
    del thing
    for _ in range(1000):  # the helper may still be on its way out of the call
        if seen() is None:
            break
        time.sleep(0.001)
    assert seen() is None


def test_many_callers_at_once_do_not_mix():
    wrong = []

    def kernel(out, value, first, last):
        out[first:last] = value

    def caller(number):
        for turn in range(50):
            out = np.zeros(16, np.int64)
            over_blocks(kernel, (out, number + turn), 16, 3)
            if not (out == number + turn).all():
                wrong.append((number, turn))

    callers = [threading.Thread(target=caller, args=(1000 * i,)) for i in range(6)]
    for one in callers:
        one.start()
    for one in callers:
        one.join()
    assert wrong == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_starts_helpers_of_its_own():
    code = """
import os, warnings
from edgeinfer.kernels.threads import over_blocks
warnings.simplefilter("ignore")
call = lambda first, last: None
over_blocks(call, (), 2, 2)
child = os.fork()
over_blocks(call, (), 2, 2)
if child == 0:
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system does not tell threads where to run")
def test_where_the_caller_may_run_is_left_alone():
    allowed = os.sched_getaffinity(0)
    for _ in range(20):
        over_blocks(lambda first, last: None, (), 4, 4)
    assert os.sched_getaffinity(0) == allowed
