"""Permutations for N:M: every order is one, the search beats chance, and finds the best where all can be tried."""

import numpy as np
import pytest
from edgeinfer.kernels import hierarchical_matmul, hierarchical_n_m, n_m_mask, prune_n_m, search_permutation
from edgeinfer.kernels.n_m_permutation import (
    exchange,
    exhaustive_grouping,
    groupings,
    permutation_mask,
    permute_mlp,
    retained,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from .conftest import PATHS


def uneven(rng, rows, columns):
    """Importances whose rows and columns differ in strength, as in trained layers."""
    strength = np.exp(rng.standard_normal((rows, 1))) * np.exp(rng.standard_normal((1, columns)))
    return (rng.random((rows, columns)) * strength).astype(np.float32)


requests = st.tuples(
    st.integers(1, 4), st.sampled_from([1, 2, 4, 16]), st.integers(1, 5), st.sampled_from([(2, 4), (1, 4), (1, 2)])
)


@settings(max_examples=25, deadline=None)
@given(requests, st.floats(0.01, 1), st.sampled_from(["gyro", "random", "none"]), st.integers(0, 2**32 - 1))
def test_every_permutation_is_one_and_the_packed_product_follows_it(request, keep, method, seed):
    tiles, height, groups, (n, m) = request
    rng = np.random.default_rng(seed)
    importance = uneven(rng, tiles * height, groups * m)
    weight = importance * rng.choice(np.array([-1, 1], np.float32), importance.shape)
    found = search_permutation(importance, n, m, height, keep, rounds=4, method=method, seed=seed)
    np.testing.assert_array_equal(np.sort(found.rows), np.arange(tiles * height))
    assert all(len(set(columns)) == len(columns) for columns in found.columns)
    mask = permutation_mask(importance, n, m, found)
    assert found.retained == pytest.approx(retained(importance, mask))
    packed = hierarchical_n_m(weight, n, m, height, keep, permutation=found)
    np.testing.assert_array_equal(packed.dequantize(), np.where(mask, weight, 0))
    assert mask.mean() == pytest.approx(packed.density)
    x = rng.standard_normal((3, groups * m)).astype(np.float32)
    results = [hierarchical_matmul(packed, x, path=path) for path in PATHS]
    np.testing.assert_allclose(results[0], x @ packed.dequantize().T, rtol=1e-3, atol=1e-3)
    for other in results[1:]:
        np.testing.assert_array_equal(results[0], other)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 20), st.sampled_from([4, 8]), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_search_never_keeps_more_than_the_best_of_all_groupings_and_nearly_as_much(rows, columns, n, seed):
    importance = uneven(np.random.default_rng(seed), rows, columns)
    best = exhaustive_grouping(importance, n, 4)
    found = search_permutation(importance, n, 4, rounds=60, seed=seed)
    none = search_permutation(importance, n, 4, method="none")
    assert none.retained - 1e-6 <= found.retained <= best.retained + 1e-6
    assert found.retained >= best.retained - 0.02


def test_search_reaches_the_best_grouping_in_most_small_cases():
    reached = 0
    for seed in range(20):
        importance = uneven(np.random.default_rng(seed), 16, 12)
        best = exhaustive_grouping(importance, 2, 4).retained
        reached += search_permutation(importance, 2, 4, rounds=300, seed=seed).retained > best - 1e-6
    assert reached >= 14


def test_history_never_falls_and_ends_at_what_is_retained(rng):
    importance = uneven(rng, 64, 64)
    found = search_permutation(importance, 2, 4, 16, 0.5, rounds=10)
    levels = found.history[:11], found.history[11:]
    assert all(np.diff(level).min() > -1e-9 for level in levels) and found.history[-1] == pytest.approx(found.retained)
    others = [search_permutation(importance, 2, 4, 16, 0.5, method=m).retained for m in ("none", "random")]
    assert found.retained > max(others)


def test_hidden_structure_is_found_where_the_given_order_hides_it(rng):
    """Two kinds of rows use two kinds of columns; mixed, no vector can go without loss."""
    importance = np.kron(np.eye(2), np.ones((16, 16))).astype(np.float32) + 0.001
    mixed = importance[rng.permutation(32)][:, rng.permutation(32)]
    found = search_permutation(mixed, 4, 4, 16, 0.5, rounds=40)
    assert found.retained > 0.99
    assert search_permutation(mixed, 4, 4, 16, 0.5, method="none").retained < 0.8


def test_groupings_are_all_and_each_once():
    every = [frozenset(frozenset(g) for g in groups) for groups in groupings(8, 4)]
    assert len(every) == len(set(every)) == 35


def test_exchange_comes_close_to_the_exact_assignment():
    from scipy.optimize import linear_sum_assignment

    for seed in range(5):
        gain = np.random.default_rng(seed).random((30, 30)).astype(np.float32)
        place = np.arange(30)
        exchange(gain, place, 20)
        assert sorted(place) == list(range(30))
        exact = gain[linear_sum_assignment(gain, maximize=True)].sum()
        assert 0.95 * exact < gain[np.arange(30), place].sum() <= exact + 1e-4


def test_one_tile_with_all_columns_in_order_is_plain_n_m(rng):
    weight = rng.standard_normal((32, 32)).astype(np.float32)
    packed = hierarchical_n_m(weight, 2, 4, 32, 1.0)
    np.testing.assert_array_equal(packed.dequantize(), prune_n_m(weight, 2, 4))
    assert packed.retained == pytest.approx(retained(np.abs(weight), n_m_mask(np.abs(weight), 2, 4)))


def test_permuting_both_sides_of_the_network_changes_no_output(rng):
    import torch
    from edgeinfer import models

    model = models.load("target")
    tokens = models.held_out_tokens()[:64][None]
    before = model.prefill(tokens)[0]
    for layer in range(model.config.num_hidden_layers):
        names = [f"layers.{layer}.mlp.{part}_proj" for part in ("gate", "up", "down")]
        parts = [model.linears()[name].float().numpy() for name in names]
        for name, part in zip(names, permute_mlp(*parts, rng.permutation(len(parts[0]))), strict=True):
            model.set_weight(name, torch.from_numpy(np.ascontiguousarray(part)))
    torch.testing.assert_close(model.prefill(tokens)[0], before, rtol=1e-3, atol=1e-3)


ONES = np.ones((16, 8), np.float32)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: search_permutation(ONES, 2, 4, 6), "vector_rows 6 does not divide the 16 rows"),
        (lambda: search_permutation(ONES, 2, 4, 8, 0.0), "0 < keep <= 1, got 0.0"),
        (lambda: search_permutation(ONES, 2, 3), "3 does not divide the 8 columns"),
        (lambda: search_permutation(-ONES, 2, 4), "negative numbers; pass magnitudes"),
        (lambda: search_permutation(ONES * np.nan, 2, 4), "importance contains 128 NaN"),
        (lambda: search_permutation(ONES, 2, 4, method="magic"), "method 'magic' is unknown"),
        (lambda: exhaustive_grouping(np.ones((2, 16), np.float32), 2, 4), "too many to try; take at most 12"),
        (lambda: hierarchical_n_m(ONES, 2, 4, 8, 0.5, ONES[:8]), "importance must have the shape"),
        (
            lambda: hierarchical_n_m(ONES, 2, 4, 8, 0.5, permutation=search_permutation(ONES, 2, 4)),
            "the permutation has 1 tiles of 8 columns, the request 2 tiles of 4",
        ),
    ],
)
def test_wrong_input_gets_one_sentence(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


def test_zeros_keep_everything_there_is():
    assert search_permutation(np.zeros((4, 8), np.float32), 2, 4, 2, 0.5).retained == 1.0
