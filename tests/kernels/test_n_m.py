"""N:M weights: what stays, how many bytes it takes, and the product against dense arithmetic, both paths alike."""

import numpy as np
import pytest
from edgeinfer.kernels import activation_importance, n_m_bytes, n_m_mask, n_m_matmul, pack_n_m, prune_n_m
from edgeinfer.kernels.n_m import pack_positions, position_bits, unpack_positions
from hypothesis import given, settings
from hypothesis import strategies as st

from .conftest import PATHS

RATIOS = [(1, 1), (1, 2), (2, 4), (1, 4), (4, 4), (3, 8), (2, 3), (4, 16), (5, 20)]
shapes = st.tuples(st.integers(1, 70), st.integers(1, 12), st.sampled_from(RATIOS), st.integers(0, 9))


@settings(max_examples=60, deadline=None)
@given(shapes, st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_product_equals_the_dense_one_on_any_shape_and_both_paths_agree_to_the_bit(shape, threads, seed):
    rows, groups, (n, m), batch = shape
    rng = np.random.default_rng(seed)
    pruned = prune_n_m(rng.standard_normal((rows, groups * m)).astype(np.float32), n, m)
    x = rng.standard_normal((batch, groups * m) if batch else groups * m).astype(np.float32)
    packed = pack_n_m(pruned, n, m)
    results = [n_m_matmul(packed, x, threads, path) for path in PATHS]
    np.testing.assert_allclose(results[0], x.astype(np.float64) @ pruned.T.astype(np.float64), rtol=1e-4, atol=1e-4)
    for other in results[1:]:
        np.testing.assert_array_equal(results[0], other)


@settings(max_examples=60, deadline=None)
@given(shapes, st.integers(0, 2**32 - 1))
def test_exactly_the_largest_stay_in_every_group(shape, seed):
    rows, groups, (n, m), _ = shape
    weight = np.random.default_rng(seed).standard_normal((rows, groups * m)).astype(np.float32)
    pruned = prune_n_m(weight, n, m)
    assert ((pruned == 0) | (pruned == weight)).all()
    size = np.abs(weight).reshape(rows, groups, m)
    kept = np.abs(pruned).reshape(rows, groups, m)
    np.testing.assert_allclose(np.sort(kept, -1)[..., m - n :], np.sort(size, -1)[..., m - n :])
    assert (np.count_nonzero(kept, axis=-1) <= n).all()


@settings(max_examples=60, deadline=None)
@given(shapes, st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_packing_loses_nothing_also_with_fewer_non_zeros_than_allowed(shape, emptier, seed):
    rows, groups, (n, m), _ = shape
    rng = np.random.default_rng(seed)
    pruned = prune_n_m(rng.standard_normal((rows, groups * m)).astype(np.float32), n, m)
    pruned[rng.random(pruned.shape) < emptier] = 0
    np.testing.assert_array_equal(pack_n_m(pruned, n, m).dequantize(), pruned)


def test_two_of_four_takes_two_bits_a_position():
    packed = pack_n_m(prune_n_m(np.ones((64, 128), np.float32), 2, 4), 2, 4)
    weights = 64 * 128
    assert packed.nbytes == weights / 2 * 4 + weights / 2 * 2 / 8 == n_m_bytes(64, 128, 2, 4)
    assert packed.values.nbytes == weights * 2 and packed.positions.nbytes == weights / 8
    assert n_m_bytes(64, 128, 2, 4, value_bytes=2) * 8 / weights == 9  # bfloat16: 9 bits of 16 a weight
    assert [position_bits(m) for m in (1, 2, 3, 4, 5, 8, 16)] == [1, 1, 2, 2, 3, 3, 4]


@given(st.integers(1, 8), st.integers(1, 40), st.integers(0, 99))
def test_positions_come_out_as_they_went_in(bits, slots, seed):
    place = np.random.default_rng(seed).integers(0, 1 << bits, (3, slots, 16))
    np.testing.assert_array_equal(unpack_positions(pack_positions(place, bits), bits, slots), place)


def test_of_equal_weights_the_first_stay():
    np.testing.assert_array_equal(n_m_mask(np.ones((1, 4), np.float32), 2, 4), [[True, True, False, False]])


def test_importance_decides_and_counts_the_inputs(rng):
    weight = np.array([[1.0, 0.9, 0.8, 0.7]], np.float32)
    inputs = rng.standard_normal((50, 4)).astype(np.float32) * np.array([1, 1, 9, 9], np.float32)
    important = activation_importance(weight, inputs)
    np.testing.assert_allclose(important, np.abs(weight) * np.linalg.norm(inputs, axis=0), rtol=1e-5)
    np.testing.assert_array_equal(prune_n_m(weight, 2, 4, important) != 0, [[False, False, True, True]])


def test_all_zeros_and_one_row(path):
    for weight in (np.zeros((5, 8), np.float32), np.ones((1, 8), np.float32)):
        y = n_m_matmul(pack_n_m(prune_n_m(weight, 2, 4), 2, 4), np.ones(8, np.float32), path=path)
        np.testing.assert_array_equal(y, np.full(len(weight), 4.0 * weight[0, 0], np.float32))


SMALL = pack_n_m(prune_n_m(np.ones((2, 8), np.float32), 2, 4), 2, 4)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: prune_n_m(np.ones((2, 10), np.float32), 2, 4), "4 does not divide the 10 columns"),
        (lambda: prune_n_m(np.ones((2, 8), np.float32), 5, 4), "1 <= n <= m <= 256, got 5:4"),
        (lambda: prune_n_m(np.ones((2, 8), np.float32), 0, 4), "1 <= n <= m <= 256, got 0:4"),
        (lambda: prune_n_m(np.full((2, 8), np.nan, np.float32), 2, 4), "weight contains 16 NaN"),
        (lambda: prune_n_m(np.ones(8, np.float32), 2, 4), "weight must be a matrix"),
        (lambda: prune_n_m(np.ones((0, 8), np.float32), 2, 4), "weight is empty"),
        (lambda: prune_n_m(np.ones((2, 8), np.float32), 2, 4, np.ones((2, 4), np.float32)), "importance must have the"),
        (lambda: pack_n_m(np.ones((2, 8), np.float32), 2, 4), "has 4 non-zeros, more than n = 2; prune"),
        (lambda: n_m_matmul(SMALL, np.ones(4, np.float32)), r"x must have shape \(8,\)"),
        (lambda: n_m_matmul(SMALL, np.full(8, np.inf, np.float32)), "x contains NaN or infinite"),
        (lambda: n_m_matmul(SMALL, np.ones(8, np.float32), path="avx"), "path 'avx' is unknown"),
        (
            lambda: activation_importance(np.ones((2, 8), np.float32), np.ones((3, 4), np.float32)),
            "must have 8 columns",
        ),
    ],
)
def test_wrong_input_gets_one_sentence(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()
