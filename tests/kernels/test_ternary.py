"""Ternary packing and its product against integer arithmetic: equal, not near."""

import numpy as np
import pytest
from edgeinfer.kernels import (
    matmul,
    pack_ternary,
    pack_ternary_int2,
    quantize_activations,
    ternarize,
    ternary_matmul,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from .conftest import PATHS


def exactly(ternary, scale, x):
    """Integer sums by NumPy, then one float32 multiplication by both scales."""
    activations = quantize_activations(x, x.shape[-1])
    sums = activations.codes.astype(np.int64) @ ternary.astype(np.int64).T
    y = sums.astype(np.float32) * (activations.scale * scale)
    return y[0] if activations.one else y


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 600), st.integers(1, 400), st.integers(0, 3), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_product_equals_integer_arithmetic_on_any_shape(rows, columns, batch, threads, seed):
    rng = np.random.default_rng(seed)
    ternary, scale = rng.integers(-1, 2, (rows, columns)), (rng.random(rows) + 0.1).astype(np.float32)
    x = rng.standard_normal((batch, columns) if batch else columns).astype(np.float32)
    packed = pack_ternary(ternary, scale)
    np.testing.assert_array_equal(packed.unpack(), ternary)
    for path in PATHS:
        np.testing.assert_array_equal(ternary_matmul(packed, x, threads, path), exactly(ternary, scale, x))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 200), st.integers(1, 20), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_two_bits_give_the_same_product(rows, sixteens, threads, seed):
    rng = np.random.default_rng(seed)
    ternary, scale = rng.integers(-1, 2, (rows, 16 * sixteens)), (rng.random(rows) + 0.1).astype(np.float32)
    x, packed = rng.standard_normal(16 * sixteens).astype(np.float32), pack_ternary_int2(ternary, scale)
    assert packed.data.nbytes == -(-rows // 64) * 64 * 4 * sixteens
    for path in PATHS:
        np.testing.assert_allclose(matmul(packed, x, threads, path), exactly(ternary, scale, x), rtol=1e-6)


def test_two_bits_need_sixteen_columns():
    with pytest.raises(ValueError, match="multiple of 16 columns, got 100"):
        pack_ternary_int2(np.zeros((4, 100), np.int8))


@pytest.mark.parametrize("value", [1, -1])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_sums_do_not_overflow(value, sign, path):
    ternary = np.full((300, 20000), value)
    y = ternary_matmul(pack_ternary(ternary, 1.0), np.full(20000, sign, np.float32), path=path)
    np.testing.assert_allclose(y, value * sign * 20000, rtol=1e-6)


def test_five_weights_take_one_byte():
    packed = pack_ternary(np.zeros((64, 4095), np.int8), 1.0)
    assert packed.data.nbytes * 8 / (64 * 4095) == 1.6


def test_every_five_weights_have_a_byte_of_their_own():
    import itertools

    tuples = np.array(list(itertools.product((-1, 0, 1), repeat=5)), np.int8)
    packed = pack_ternary(tuples, 1.0)
    assert len(np.unique(packed.data.reshape(-1, 32, 2).transpose(0, 2, 1).reshape(-1)[:243])) == 243
    np.testing.assert_array_equal(packed.unpack(), tuples)


def test_absmean_rounds_to_the_nearest_of_three(rng):
    weight = rng.standard_normal((32, 64)).astype(np.float32)
    ternary, scale = ternarize(weight)
    assert len(set(scale)) == 1
    np.testing.assert_allclose(scale, np.abs(weight).mean(), rtol=1e-6)
    np.testing.assert_array_equal(ternary, np.clip(np.rint(weight / scale[0]), -1, 1))
    by_row = ternarize(weight, per="channel")[1]
    np.testing.assert_allclose(by_row, np.abs(weight).mean(1), rtol=1e-6)
    assert (ternarize(np.zeros((2, 5), np.float32))[0] == 0).all()


ONE = pack_ternary(np.ones((3, 7), np.int8), 1.0)


@pytest.mark.parametrize(
    ("call", "error", "sentence"),
    [
        (lambda: pack_ternary(np.full((2, 5), 2), 1.0), ValueError, "ternary weights must be -1, 0 or 1, got 2"),
        (lambda: pack_ternary(np.ones((2, 5)), 1.0), ValueError, "must be a non-empty matrix of integers, got shape"),
        (lambda: pack_ternary(np.ones((0, 5), np.int8), 1.0), ValueError, "must be a non-empty matrix of integers"),
        (lambda: ternarize(np.full((2, 5), np.nan, np.float32)), ValueError, "weight contains 10 NaN"),
        (lambda: ternarize(np.ones((2, 5), np.float32), per="group"), ValueError, "per must be 'tensor' or 'channel'"),
        (lambda: ternary_matmul(ONE, np.ones(8, np.float32)), ValueError, r"x must have shape \(7,\)"),
        (lambda: ternary_matmul(ONE, np.ones(7, np.int32)), TypeError, "x must hold float32 numbers, got dtype int32"),
        (lambda: ternary_matmul(ONE, np.full(7, np.nan, np.float32)), ValueError, "x contains NaN"),
    ],
)
def test_a_wrong_call_gets_one_clear_sentence(call, error, sentence):
    with pytest.raises(error, match=sentence):
        call()
