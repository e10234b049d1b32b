"""One product on two unlike devices: plans against all divisions, exact results, honest padding, signals."""

import itertools

import numpy as np
import pytest
import torch
from edgeinfer.memory.locality.pair import Profile, RealPair, measure_profile
from edgeinfer.memory.locality.signals import measure_signals
from edgeinfer.memory.locality.split_plan import (
    KINDS,
    FlexibleDevice,
    Plan,
    StaticDevice,
    best_plan,
    cover,
    padding_share,
    plan_seconds,
)
from hypothesis import given, settings
from hypothesis import strategies as st


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@given(st.integers(0, 40), st.sets(st.integers(1, 12), min_size=1, max_size=3))
@settings(max_examples=100, deadline=None)
def test_cover_pads_least(rows, sizes):
    pieces = cover(rows, tuple(sorted(sizes)))
    assert sum(pieces) >= rows and set(pieces) <= sizes
    reachable = {0}
    for total in range(1, rows + 13):
        reachable |= {total} if any(total - size in reachable for size in sizes) else set()
    assert sum(pieces) == min(total for total in reachable if total >= rows)


@pytest.mark.parametrize("rows", [1, 40, 100, 300])
def test_plan_is_the_best_of_all_divisions(rows):
    static, flexible = StaticDevice(sizes=(32, 128)), FlexibleDevice()
    options = {"meeting": 1e-5, "memory_bandwidth": 60.0}
    plan = best_plan(rows, 1024, 512, static, flexible, static.sizes, grain=128, **options)
    corners = [(0, 0), *itertools.product([r for r in (*range(32, rows, 32), rows)], range(128, 1025, 128))]
    least = min(plan_seconds(rows, 1024, 512, c, static, flexible, **options)[0] for c in corners)
    assert plan.seconds == pytest.approx(least)


def test_one_token_is_shared_by_outputs_and_many_tokens_by_rows():
    static, flexible = StaticDevice(), FlexibleDevice()
    kinds = {
        rows: best_plan(rows, 4096, 4096, static, flexible, static.sizes, memory_bandwidth=60, grain=256).kind
        for rows in (1, 300)
    }
    assert kinds == {1: "weight", 300: "activation"}
    assert padding_share(1, static.sizes) == 31 / 32 and padding_share(96, static.sizes) == 0


def test_a_dear_meeting_keeps_small_products_on_one_device():
    static, flexible = StaticDevice(), FlexibleDevice()
    plan = best_plan(8, 256, 256, static, flexible, static.sizes, meeting=1e-3)
    assert plan.kind == "flexible alone" and plan.static_seconds == 0


@pytest.mark.parametrize("rows", [1, 5, 16, 21, 70])
def test_every_division_gives_the_exact_product(rows):
    rng = np.random.default_rng(rows)
    weight, x = (rng.integers(-4, 5, shape).astype(np.float32) for shape in ((300, 70), (rows, 70)))
    profile = Profile(1e-5, 1e-9, (8, 32)), Profile(0, 2e-9)
    with RealPair(weight, (8, 32)) as pair:
        for kind in KINDS:
            if kind in ("activation", "hybrid") and rows <= 8:
                continue
            plan = best_plan(rows, 300, 70, *profile, pair.sizes, grain=64, kinds=(kind,))
            assert np.array_equal(pair.run(x, plan), x @ weight.T), kind


def test_padding_is_counted():
    with RealPair(np.ones((4, 3)), (8,)) as pair:
        assert np.array_equal(
            pair.run(np.ones((5, 3), np.float32), Plan("static alone", 5, 4, 0, 0, 0)), np.full((5, 4), 3)
        )
        assert pair.padded_rows == 3


def test_profile_is_positive_and_pads():
    weight = np.random.default_rng(0).standard_normal((64, 32)).astype(np.float32)
    with RealPair(weight, (4, 8)) as pair:
        static, flexible = measure_profile(pair, repeats=2)
    assert static.seconds(8, 64, 32) > 0 and flexible.seconds(3, 64, 32) > 0
    assert static.seconds(3, 64, 32) == static.seconds(4, 64, 32) and static.seconds(0, 64, 32) == 0


def test_signals_arrive():
    found = measure_signals(20)
    assert set(found) == {"flag", "pipe", "flag, undisturbed", "pipe, undisturbed"} and min(found.values()) > 0


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: best_plan(0, 1, 1, StaticDevice(), FlexibleDevice(), (32,)), "positive sizes"),
        (
            lambda: best_plan(4, 4, 4, StaticDevice(), FlexibleDevice(), (32,), kinds=("depth",)),
            "kind 'depth' is unknown",
        ),
        (
            lambda: best_plan(4, 4, 4, StaticDevice(), FlexibleDevice(), (32,), kinds=("activation",)),
            "no division of kind",
        ),
        (lambda: RealPair(np.ones((2, 2)), ()), "sizes must be positive"),
        (lambda: RealPair(np.full((2, 2), np.inf)), "NaN or infinite"),
        (
            lambda: RealPair(np.ones((2, 2))).run(np.ones((1, 2)), Plan("weight", 4, 1, 0, 0, 0)),
            "more than the product",
        ),
        (lambda: measure_signals(0), "at least 1"),
    ],
)
def test_refusals_are_one_sentence(call, says):
    with pytest.raises(ValueError, match=says):
        call()
