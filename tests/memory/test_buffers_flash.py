"""FlashDecoding++: the fixed maximum gives the true softmax and falls back; padding, double buffering and the table."""

import numpy as np
import pytest
import torch
from edgeinfer import models
from edgeinfer.memory.buffers import flat_gemm as flat
from edgeinfer.memory.buffers import unified_max as unified
from hypothesis import given, settings
from hypothesis import strategies as st


def exact(query, keys, values):
    scores = np.einsum("hgd,hsd->hgs", query.astype(np.float64), keys) / np.sqrt(query.shape[-1])
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return np.einsum("hgs,hsd->hgd", weights / weights.sum(-1, keepdims=True), values)


def drawn(seed, heads, groups, count, channels, loud=1.0):
    rng = np.random.default_rng(seed)
    query = (rng.standard_normal((heads, groups, channels)) * loud).astype(np.float32)
    return query, *rng.standard_normal((2, heads, count, channels)).astype(np.float32)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 999), st.integers(1, 3), st.integers(1, 3), st.integers(1, 70), st.integers(1, 33),
    st.sampled_from([1, 7, 16, 256]), st.floats(-3, 3), st.sampled_from([0.1, 3.0, 30.0]),
)  # fmt: skip
def test_both_ways_are_the_softmax_for_any_shape_split_and_phi(seed, heads, groups, count, channels, split, phi, loud):
    arrays = drawn(seed, heads, groups, count, channels, loud)
    want = exact(*arrays)
    for got, _ in (
        unified.attend_with_maximum(*arrays, split=split),
        unified.attend_unified(*arrays, phi, split=split),
        unified.attend_unified(*arrays, phi, low=-1.0, high=1.0, split=split),  # most rows fall back
    ):
        np.testing.assert_allclose(got, want, rtol=2e-4, atol=2e-5)


def test_only_rows_out_of_range_are_computed_again_and_only_they_wait():
    query, keys, values = drawn(1, 2, 2, 100, 16)
    query[1, 0] *= 400  # far beyond what exp can take
    got, counts = unified.attend_unified(query, keys, values, split=32)
    np.testing.assert_allclose(got, exact(query, keys, values), rtol=1e-4, atol=1e-4)
    assert (counts.rows, counts.recomputed, counts.waits, counts.scalings) == (4, 1, 3, 3 * 17)
    assert counts.splits == 4 * 4 + 4
    _, before = unified.attend_with_maximum(query, keys, values, split=32)
    assert (before.waits, before.scalings) == (4 * 3, 4 * 3 * 17)
    calm, none = unified.attend_unified(query[:1], keys[:1], values[:1], split=32)
    assert (none.recomputed, none.waits) == (0, 0) and np.isfinite(calm).all()


def test_scores_that_vanish_are_recomputed_instead_of_divided_by_zero():
    query, keys, values = drawn(2, 1, 1, 40, 8)
    got, counts = unified.attend_unified(query, keys, values, phi=1000.0)
    assert counts.recomputed == 1
    np.testing.assert_allclose(got, exact(query, keys, values), rtol=1e-4, atol=1e-5)


def test_threads_change_no_bit_and_nan_does_not_hide():
    query, keys, values = drawn(3, 4, 2, 500, 32)
    one, two = (unified.attend_unified(query, keys, values, split=64, threads=t)[0] for t in (1, 2))
    assert (one == two).all()
    keys[0, 3, 0] = np.nan
    got, counts = unified.attend_unified(query, keys, values, split=64)
    assert counts.recomputed == 2 and np.isnan(got[0]).all() and np.isfinite(got[1:]).all()


def test_wrong_arrays_get_one_sentence():
    query, keys, values = drawn(4, 2, 1, 5, 8)
    with pytest.raises(ValueError, match="query must have shape"):
        unified.attend_unified(query[0], keys, values)
    with pytest.raises(ValueError, match="differ in heads or head_dim"):
        unified.attend_unified(query[:1], keys, values)
    with pytest.raises(ValueError, match="no tokens"):
        unified.attend_with_maximum(query, keys[:, :0], values[:, :0])
    with pytest.raises(ValueError, match="low must be below high"):
        unified.attend_unified(query, keys, values, low=3, high=3)


def test_phi_covers_the_most_rows():
    lows, highs = np.array([-5.0, -4, 20]), np.array([5.0, 6, 30])
    phi = unified.choose_phi(lows, highs, -8, 8)
    assert ((lows - phi >= -8) & (highs - phi <= 8)).tolist() == [True, True, False]
    assert unified.choose_phi([-9.0], [9.0], -1, 1) == 0  # nobody fits: the middle


def test_the_model_decodes_the_same_with_the_fixed_maximum():
    model, tokens = models.load("target"), models.held_out_tokens("text")[:24].clone()
    want = models.generate(model, tokens, 12)
    attention = unified.UnifiedAttention(phi=5.0, split=8, watch=True)
    model.attention = attention
    assert torch.equal(models.generate(model, tokens, 12), want)
    assert attention.counts.rows == len(attention.seen) > 0 == attention.counts.recomputed


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 99), st.integers(1, 20), st.integers(1, 9), st.integers(1, 40), st.sampled_from([1, 3, 8, 64]))
def test_padded_products_equal_the_product(seed, M, N, K, tile):
    rng = np.random.default_rng(seed)
    x, w = rng.standard_normal((M, K)).astype(np.float32), rng.standard_normal((N, K)).astype(np.float32)
    np.testing.assert_allclose(flat.flat_gemm(x, w, tile), x @ w.T, rtol=1e-4, atol=1e-4)


def test_padding_to_eight_wastes_less_than_padding_to_sixty_four():
    assert flat.work(1, 10, 10, 8).utilisation == 1 / 8 and flat.work(1, 10, 10, 64).utilisation == 1 / 64
    assert flat.work(9, 10, 10, 8).multiplications == 16 * 100 and flat.work(64, 10, 10, 64).utilisation == 1
    assert flat.work(9, 10, 10, 8).weight_bytes == 2 * 400 == 2 * flat.work(9, 10, 10, 64).weight_bytes
    with pytest.raises(ValueError, match="must be 1 or more"):
        flat.work(0, 8, 8, 8)


def test_double_buffering_hides_the_shorter_of_two_times():
    load, compute = [3.0] * 5, [2.0] * 5
    assert flat.blocks_in_turn(load, compute, 1) == 25
    assert flat.blocks_in_turn(load, compute, 2) == 5 * 3 + 2
    assert flat.blocks_in_turn(compute, load, 2) == 2 + 5 * 3
    assert flat.blocks_in_turn([], [], 2) == 0
    with pytest.raises(ValueError, match="3 and 2 blocks"):
        flat.blocks_in_turn([1, 1, 1], [1, 1], 2)
    with pytest.raises(ValueError, match="buffers must be"):
        flat.blocks_in_turn([1], [1], 0)


def test_the_table_cuts_where_costs_cross_and_an_outlier_moves_it_little():
    costs = {"a": lambda M: M, "b": lambda M: 4 + M / 4, "c": lambda M: 20.0}
    rows = list(range(1, 101))
    table = flat.build_dataflow(("a", "b", "c"), [(8, 8)], rows, lambda k, M, N, K: costs[k](M))
    for M in rows:
        assert costs[table.choose(M, 8, 8)](M) == min(f(M) for f in costs.values())
    odd = flat.build_dataflow(
        ("a", "b", "c"), [(8, 8)], rows, lambda k, M, N, K: costs[k](M) * (3 if (k, M) == ("b", 30) else 1)
    )
    assert odd.thresholds == table.thresholds
    never = flat.build_dataflow(("a", "c"), [(8, 8)], (1, 2, 4), lambda k, M, N, K: costs[k](M))
    assert [never.choose(M, 8, 8) for M in (1, 4)] == ["a", "a"]
    with pytest.raises(KeyError, match="the table knows 8 x 8"):
        table.choose(1, 7, 9)
    with pytest.raises(ValueError, match="rows must ascend"):
        flat.build_dataflow(("a",), [(8, 8)], (2, 2), lambda *_: 1.0)
