"""The search finds the optimum of its model, and the model keeps its books."""

import itertools

import numpy as np
import pytest
from edgeinfer.memory.offload import (
    Budget,
    Machine,
    Policy,
    Workload,
    best_shares,
    cost,
    exhaustive,
    fits,
    on_a_grid,
    plan,
    search,
)
from hypothesis import given, settings
from hypothesis import strategies as st

MACHINE = Machine(100e6, 100e6, 5e9, 1.5e9, 0.004, 0.0005)
WORK = Workload(8, 28e6, 1e6, 3e3, 5e6)
positive = st.floats(0.05, 20)


@settings(max_examples=25, deadline=None)
@given(positive, positive, positive, positive, positive, positive)
def test_no_policy_on_a_fine_grid_beats_the_search(fast, slow, copy, disk, compute, kv):
    machine = Machine(fast * 1e8, slow * 5e7, copy * 1e9, disk * 3e8, compute * 2e-3, compute * 3e-4)
    work = Workload(4, 20e6, kv * 2e5, 1e4, 2e6)
    sizes = (1, 8), (1, 4)
    known = [cost(machine, work, p).tokens_per_second for p in on_a_grid(machine, work, *sizes, steps=8)]
    if not known:
        return
    found = search(machine, work, *sizes)
    assert fits(machine, work, found)
    assert cost(machine, work, found).tokens_per_second >= max(known) * (1 - 1e-6)


@settings(max_examples=25, deadline=None)
@given(positive, positive, positive, positive)
def test_the_shares_of_one_block_are_as_good_as_a_much_finer_grid_allows(fast, slow, copy, disk):
    machine = Machine(fast * 6e7, slow * 3e7, copy * 1e9, disk * 3e8, 1e-3, 1e-4)
    work = Workload(3, 10e6, 5e5)
    found = best_shares(machine, work, 4, 2)
    known = [cost(machine, work, p).step_seconds for p in on_a_grid(machine, work, (4,), (2,), steps=24)]
    assert found is not None or not known
    if known:
        assert cost(machine, work, found).step_seconds <= min(known) * (1 + 1e-6)


def test_with_memory_for_everything_everything_is_fast():
    found = search(Machine(1e12, 1e12, 1e9, 1e9, 1e-3, 1e-4), WORK, (4,), (1,))
    assert found.weights[0] == pytest.approx(1) and cost(MACHINE, WORK, found).bound == "compute"


def test_overlap_takes_the_longest_time_and_without_it_they_add_up():
    policy = Policy(4, 2, (0.2, 0.3, 0.5), (0.5, 0.5))
    together, alone = cost(MACHINE, WORK, policy), cost(MACHINE, WORK, policy, overlap=False)
    times = together.compute, together.copy, together.disk
    assert together.step_seconds == pytest.approx(WORK.layers * max(times))
    assert alone.step_seconds == pytest.approx(WORK.layers * sum(times))
    assert together.disk_bytes == pytest.approx(0.5 * WORK.layers * WORK.layer_bytes)


def test_less_memory_is_never_faster():
    speeds = []
    for fast in np.linspace(70e6, 400e6, 12):
        machine = Machine(float(fast), 50e6, 5e9, 1.5e9, 0.004, 0.0005)
        speeds.append(cost(machine, WORK, search(machine, WORK, (1, 4, 16), (1, 4))).tokens_per_second)
    assert all(a <= b * (1 + 1e-9) for a, b in itertools.pairwise(speeds))


def test_too_little_memory_is_said():
    with pytest.raises(MemoryError, match=r"no policy fits: 10\.0 MB of fast memory were given.* 63\.0 MB"):
        search(Machine(10e6, 1e9, 1e9, 1e9, 1e-3, 1e-4), WORK)


def test_shares_that_do_not_sum_to_one_are_refused():
    for weights, kv in (((0.5, 0.5, 0.5), (1, 0)), ((1, 0, 0), (0.5, 0)), ((-0.5, 1, 0.5), (1, 0))):
        with pytest.raises(ValueError, match="must not be negative and sum to 1"):
            Policy(1, 1, weights, kv)
    with pytest.raises(ValueError, match="a block needs rows"):
        Policy(0, 1, (1, 0, 0))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5), st.integers(1, 4), st.integers(0, 2**31))
def test_the_plan_of_fidelities_is_the_best_of_all(shards, kinds, seed):
    rng = np.random.default_rng(seed)
    sizes = np.sort(rng.integers(0, 9000, (shards, kinds)), 1)
    losses = -np.sort(-rng.random((shards, kinds)), 1)
    limits = np.cumsum(rng.integers(500, 9000, shards)).astype(float)
    best = exhaustive(sizes, losses, limits)
    if not np.isfinite(best):
        with pytest.raises(ValueError, match="cannot be there in time"):
            plan(sizes, losses, limits)
        return
    chosen = plan(sizes, losses, limits)
    assert sum(losses[i, k] for i, k in enumerate(chosen)) == pytest.approx(best)
    read = np.cumsum([-(-sizes[i, k] // 1024) for i, k in enumerate(chosen)])
    assert all(r <= limit // 1024 for r, limit in zip(read, limits, strict=True))


def test_a_later_layer_may_have_read_more():
    budget = Budget(1000, 1e6, 0.01, 0.05)
    assert [budget.until(layer, 4) for layer in range(4)] == pytest.approx([11_000, 21_000, 31_000, 41_000])
    assert Budget(1000, 1e6, 0.01, 0.01).until(0, 4) == 1000
