"""Plans are safe, none goes below the bound, and the exact solver agrees with trying every order."""

import numpy as np
import pytest
from edgeinfer.memory.buffers import (
    PLANNERS,
    Buffer,
    Plan,
    check_plan,
    live_bytes,
    lower_bound,
    plan_by_size,
    plan_ping_pong,
)
from edgeinfer.memory.buffers.optimal import plan_exhaustive, plan_optimal
from edgeinfer.memory.buffers.symbolic import Linear, SymbolicBuffer, plan_symbolic, through
from hypothesis import given, settings
from hypothesis import strategies as st

one = st.tuples(st.integers(0, 40), st.integers(0, 9), st.integers(0, 4))
few = st.lists(one, max_size=6).map(lambda rows: [Buffer(f"b{i}", s, f, f + d) for i, (s, f, d) in enumerate(rows)])
many = st.lists(one, max_size=25).map(lambda rows: [Buffer(f"b{i}", s, f, f + d) for i, (s, f, d) in enumerate(rows)])


@given(many)
def test_live_bytes_are_those_counted_step_by_step(buffers):
    counted = live_bytes(buffers)
    for step in range(max((b.last for b in buffers), default=-1) + 1):
        assert counted[step] == sum(b.size for b in buffers if b.first <= step <= b.last)
    assert lower_bound(buffers) == counted.max(initial=0)


@given(many)
def test_every_plan_is_safe_and_not_below_the_bound(buffers):
    naive = sum(b.size for b in buffers)
    for name, make in PLANNERS.items():
        plan = make(buffers)
        check_plan(buffers, plan)
        assert lower_bound(buffers) <= plan.total <= naive, name


@settings(max_examples=25, deadline=None)
@given(few)
def test_the_solver_finds_what_every_order_finds(buffers):
    solved, tried = plan_optimal(buffers, always_solve=True), plan_exhaustive(buffers)
    check_plan(buffers, solved)
    check_plan(buffers, tried)
    assert solved.total == tried.total and solved.proved and tried.proved


def harder(seed):
    rng = np.random.default_rng(seed)
    rows = [(int(rng.integers(1, 9)), int(rng.integers(0, 6)), int(rng.integers(0, 3))) for _ in range(7)]
    return [Buffer(f"b{i}", s, f, f + d) for i, (s, f, d) in enumerate(rows)]


def test_best_fit_is_not_always_best():
    better = 0
    for seed in range(20):
        buffers = harder(seed)
        best = plan_exhaustive(buffers)
        check_plan(buffers, best)
        better += best.total < plan_by_size(buffers).total
    assert better


def test_the_floor_cannot_always_be_reached():
    # size, first and last step: eight buffers that fill every byte of the floor in four of five steps
    rows = [(3, 0, 0), (3, 0, 1), (1, 1, 2), (1, 1, 3), (1, 1, 3), (2, 2, 3), (2, 3, 4), (3, 4, 4)]
    buffers = [Buffer(str(i), *row) for i, row in enumerate(rows)]
    assert lower_bound(buffers) == 6
    assert plan_exhaustive(buffers).total == plan_optimal(buffers).total == 7


def test_ping_pong_takes_two_neighbours_and_refuses_a_residual():
    chain = [Buffer(f"x{i}", size, i, i + 1) for i, size in enumerate((64, 256, 128, 320))]
    plan = plan_ping_pong(chain)
    check_plan(chain, plan)
    assert plan.total == 128 + 320 == lower_bound(chain)
    with pytest.raises(ValueError, match="no neighbours in the chain"):
        plan_ping_pong([*chain, Buffer("residual", 64, 0, 4)])
    assert plan_ping_pong([]).total == 0
    assert plan_ping_pong(chain[:1]).total == 64


def test_an_unsafe_plan_is_named_in_one_sentence():
    buffers = [Buffer("x", 64, 0, 3), Buffer("y", 96, 3, 5)]
    with pytest.raises(ValueError, match="'x' and 'y' are both alive in step 3 and share bytes 0 to 63"):
        check_plan(buffers, Plan((0, 0), 96, "wrong"))
    with pytest.raises(ValueError, match="beyond the arena of 100"):
        check_plan(buffers, Plan((0, 64), 100, "wrong"))
    with pytest.raises(ValueError, match="1 offsets for 2"):
        check_plan(buffers, Plan((0,), 100, "wrong"))
    with pytest.raises(ValueError, match="begins at byte -1"):
        check_plan(buffers, Plan((-1, 64), 200, "wrong"))
    with pytest.raises(ValueError, match="ends where it begins"):
        Buffer("z", 8, 3, 2)
    with pytest.raises(ValueError, match="0 or more"):
        Buffer("z", -8, 2, 3)
    with pytest.raises(ValueError, match="steps count from 0"):
        live_bytes([Buffer("z", 8, -1, 2)])
    with pytest.raises(ValueError, match="use plan_optimal"):
        plan_exhaustive([Buffer(str(i), 1, 0, 0) for i in range(9)])


lines = st.builds(Linear, st.integers(0, 50), st.integers(0, 20))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(lines, st.integers(0, 8), st.integers(0, 4)), max_size=12), st.integers(0, 5))
def test_one_symbolic_plan_is_safe_for_every_length(rows, low):
    buffers = [SymbolicBuffer(f"b{i}", s, f, f + d) for i, (s, f, d) in enumerate(rows)]
    plan = plan_symbolic(buffers, low, 64)
    for n in range(low, 65):
        plain = [Buffer(b.name, b.size.at(n), b.first, b.last) for b in buffers]
        check_plan(plain, plan.at(n))
    for n in (low - 1, 65):
        with pytest.raises(ValueError, match="outside of the plan's range"):
            plan.at(n)


def test_lines_are_checked_by_a_third_length():
    assert through((8, 12, 20), (80, 116, 188), "x") == Linear(8, 9)
    assert str(Linear(8, 9)) == "9 n + 8" and str(Linear(-8, 9)) == "9 n - 8" and str(Linear(3, 0)) == "3"
    with pytest.raises(ValueError, match=r"the bytes of x are 64, 144 and 400 .* not linear in n"):
        through((8, 12, 20), (64, 144, 400), "the bytes of x")
    with pytest.raises(ValueError, match="0 <= low <= high"):
        plan_symbolic([], 5, 2)
