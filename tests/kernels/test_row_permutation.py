"""Reuse distances against a cache played move by move; orders that are orders; a choice that finds hidden patterns."""

from collections import OrderedDict

import numpy as np
import pytest
from edgeinfer.kernels import from_dense, row_permutation, sparse_patterns
from edgeinfer.kernels.reuse import FIRST, miss_curve, misses, reuse_distances
from edgeinfer.kernels.row_permutation import ORDERS, cost_bytes, count_misses, learn, order_rows, products_to_repay
from hypothesis import given, settings
from hypothesis import strategies as st


def played(stream, capacity):
    """Misses of a cache that drops the least recently used."""
    cache, missed = OrderedDict(), 0
    for number in stream:
        if number in cache:
            cache.move_to_end(number)
        else:
            missed += 1
            cache[number] = None
            if len(cache) > capacity:
                cache.popitem(last=False)
    return missed


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(0, 12), max_size=80), st.integers(1, 14))
def test_misses_are_those_of_a_cache_played_move_by_move(stream, capacity):
    stream = np.array(stream, np.int64)
    assert misses(stream, capacity) == played(stream.tolist(), capacity)
    assert miss_curve(stream, [1, capacity]) == [misses(stream, 1), misses(stream, capacity)]


def test_distance_counts_other_rows_once():
    assert list(reuse_distances(np.array([5, 1, 1, 1, 2, 5]))) == [FIRST, FIRST, 0, 0, FIRST, 2]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.floats(0, 0.5), st.integers(0, 2**32 - 1))
def test_every_order_names_each_row_once_whatever_the_matrix(rows, columns, density, seed):
    rng = np.random.default_rng(seed)
    matrix = from_dense((rng.random((rows, columns)) < density).astype(np.float32))
    for name in ORDERS:
        np.testing.assert_array_equal(np.sort(order_rows(matrix, name)), np.arange(rows))
        assert cost_bytes(matrix, name) >= 0


def test_every_order_but_the_given_one_costs_bytes():
    matrix = sparse_patterns.banded(64, 64, 4)
    assert cost_bytes(matrix, "as is") == 0
    assert all(cost_bytes(matrix, name) >= 2 * matrix.nbytes for name in ORDERS if name != "as is")


def test_a_hidden_band_is_found_again():
    matrix = sparse_patterns.shuffle_rows(sparse_patterns.banded(256, 256, 8))
    found = count_misses(matrix, 32)
    assert found["by first column"] == 256  # every row of the dense operand once
    assert found["as is"] > 5 * 256


@pytest.fixture(scope="module")
def chooser():
    examples = [m for seed in range(3) for m in sparse_patterns.gallery(128, seed).values()]
    return learn(examples, capacity=24)


def test_choice_saves_most_of_what_the_best_order_could_on_unseen_matrices(chooser):
    ours = best = 0.0
    for matrix in sparse_patterns.gallery(128, seed=9).values():
        counted = count_misses(matrix, 24)
        ours += np.log(counted["as is"] / counted[chooser.choose(matrix).name])
        best += np.log(counted["as is"] / min(counted.values()))
    assert best > 0 and ours / best > 0.8


def test_what_is_learned_on_small_matrices_holds_for_larger_ones_and_another_cache(chooser):
    larger = row_permutation.Chooser(chooser.weights, capacity=96)
    ours = best = 0.0
    for matrix in sparse_patterns.gallery(512, seed=11).values():
        counted = count_misses(matrix, 96)
        ours += np.log(counted["as is"] / counted[larger.choose(matrix).name])
        best += np.log(counted["as is"] / min(counted.values()))
    assert ours / best > 0.8


def test_choice_leaves_an_ordered_band_alone_and_moves_a_shuffled_one(chooser):
    band = sparse_patterns.banded(128, 128, 6, seed=5)
    assert chooser.choose(band).name == "as is"
    moved = chooser.choose(sparse_patterns.shuffle_rows(band))
    assert moved.name != "as is" and moved.cost_bytes > 2 * band.nbytes


def test_products_of_the_permuted_matrix_come_back_in_order(chooser, rng):
    matrix = sparse_patterns.shuffle_rows(sparse_patterns.banded(128, 128, 6))
    chosen = chooser.choose(matrix)
    x = rng.standard_normal((128, 3)).astype(np.float32)
    np.testing.assert_array_equal(chosen.matrix.to_dense(), matrix.to_dense()[chosen.order])
    back = chosen.restore(chosen.matrix.to_dense() @ x)
    np.testing.assert_allclose(back, matrix.to_dense() @ x, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dense", [np.zeros((6, 5)), np.ones((6, 5)), np.ones((1, 5))])
def test_nothing_is_gained_from_zeros_ones_or_one_row(chooser, dense):
    matrix = from_dense(dense.astype(np.float32))
    assert chooser.choose(matrix).name == "as is"
    assert len(set(count_misses(matrix, 4).values())) == 1


def test_repayment_is_counted_and_never_comes_where_nothing_is_saved():
    assert products_to_repay(4000, 30, 20, 10) == 10
    assert products_to_repay(4000, 20, 20, 10) == float("inf")


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: misses(np.array([1]), 0), "capacity must be at least one row, got 0"),
        (lambda: reuse_distances(np.array([1, -1])), "must not be negative, got -1"),
        (lambda: order_rows(sparse_patterns.uniform(4, 4, 0.5), "by magic"), "order 'by magic' is unknown"),
        (lambda: learn([], 4), "at least one matrix with an entry"),
        (lambda: row_permutation.learn([from_dense(np.zeros((2, 2), np.float32))], 4), "at least one matrix"),
    ],
)
def test_wrong_input_gets_one_sentence(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()
