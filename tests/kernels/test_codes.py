"""Codes of other kinds (sign planes, nested codes, nibbles in high halves): each product against its matrix."""

import itertools

import numpy as np
import pytest
from edgeinfer.kernels import (
    any_precision_matmul,
    any_precision_quantize,
    binary_coding,
    binary_matmul,
    clip_search,
    pack_w4a8,
    quantization_error,
    quantize_activations,
    quantize_clipped,
    quantize_groupwise,
    quantize_per_channel,
    w4a8_matmul,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from .conftest import PATHS

seeds = st.integers(0, 2**32 - 1)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 4), st.integers(1, 40), st.integers(1, 3), st.integers(0, 3), st.booleans(), seeds)
def test_binary_product_equals_the_product_with_its_matrix(bits, rows, groups, batch, bias, seed):
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((rows, 32 * groups)).astype(np.float32)
    x = rng.standard_normal((batch, 32 * groups) if batch else 32 * groups).astype(np.float32)
    coded = binary_coding(weight, bits, 32, rounds=2, bias=bias)
    exact = x.astype(np.float64) @ coded.dequantize().T.astype(np.float64)
    np.testing.assert_allclose(binary_matmul(coded, x, threads=2), exact, rtol=1e-4, atol=1e-4)


def test_binary_coding_improves_on_its_greedy_start_and_on_uniform_codes(rng):
    weight = rng.standard_normal((32, 128)).astype(np.float32)
    error = {r: quantization_error(weight, binary_coding(weight, 3, 64, rounds=r).dequantize()) for r in (0, 1, 10)}
    assert error[10] < error[1] < error[0]
    assert error[10] < quantization_error(weight, quantize_groupwise(weight, 3, 64, symmetric=False).dequantize())
    shifted = weight + 3
    without, with_bias = (
        quantization_error(shifted, binary_coding(shifted, 2, 64, bias=b).dequantize()) for b in (False, True)
    )
    assert with_bias < without


def test_one_plane_is_the_sign_and_the_mean_magnitude(rng):
    weight = rng.standard_normal((4, 64)).astype(np.float32)
    coded = binary_coding(weight, 1, 32, bias=False)
    alpha = np.abs(weight).reshape(4, 2, 32).mean(-1)
    np.testing.assert_allclose(coded.alpha[..., 0], alpha, rtol=1e-4)
    np.testing.assert_allclose(coded.dequantize(), np.sign(weight) * alpha.repeat(32, 1), rtol=1e-4)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 12), st.integers(1, 70), st.integers(1, 3), st.integers(0, 3), seeds)
def test_nested_codes_share_their_first_bits_and_multiply_like_their_matrix(rows, columns, fewest, more, seed):
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((rows, columns)).astype(np.float32)
    x = rng.standard_normal((2, columns)).astype(np.float32)
    nested = any_precision_quantize(weight, fewest, fewest + more)
    longest = nested.codes(fewest + more)
    error = []
    for bits in range(fewest, fewest + more + 1):
        np.testing.assert_array_equal(nested.codes(bits), longest >> (fewest + more - bits))
        back = nested.dequantize(bits)
        error.append(np.square(weight.astype(np.float64) - back).sum())
        exact = x.astype(np.float64) @ back.T.astype(np.float64)
        np.testing.assert_allclose(any_precision_matmul(nested, x, bits), exact, rtol=1e-4, atol=1e-4)
    assert all(b <= a * (1 + 1e-6) + 1e-9 for a, b in itertools.pairwise(error))


def test_nested_codes_beat_truncated_uniform_codes_and_read_bytes_in_step_with_the_width(rng):
    weight = rng.standard_normal((16, 512)).astype(np.float32)
    nested = any_precision_quantize(weight, 2, 6)
    uniform = quantize_per_channel(weight, 6, symmetric=False)
    for bits in (2, 3, 4):
        codes = (uniform.codes >> (6 - bits) << (6 - bits)).astype(np.float32)
        truncated = (codes - uniform.zero_point) * uniform.scale
        independent = quantize_per_channel(weight, bits, symmetric=False).dequantize()
        found = quantization_error(weight, nested.dequantize(bits))
        assert found < quantization_error(weight, independent) < quantization_error(weight, truncated)
    assert [nested.nbytes(b) - 2 * 16 * 2**b for b in (2, 3, 6)] == [b * 16 * 512 // 8 for b in (2, 3, 6)]


def test_centroids_are_means_weighted_by_importance(rng):
    weight, importance = rng.standard_normal((3, 40)).astype(np.float32), rng.random(40) + 0.1
    nested = any_precision_quantize(weight, 2, 3, importance)
    codes = nested.codes(3)
    for n in range(3):
        for c in np.unique(codes[n]):
            inside = codes[n] == c
            mean = np.average(weight[n, inside], weights=importance[inside])
            np.testing.assert_allclose(nested.centroids[3][n, c], mean, rtol=1e-5, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 150), st.integers(1, 40), st.integers(0, 3), st.integers(1, 2), seeds)
def test_w4a8_product_equals_integer_arithmetic(rows, eighths, batch, threads, seed):
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((rows, 8 * eighths)).astype(np.float32)
    x = rng.standard_normal((batch, 8 * eighths) if batch else 8 * eighths).astype(np.float32)
    quantized = quantize_per_channel(weight, 4)
    a = quantize_activations(x, 8 * eighths)
    sums = a.codes.astype(np.int64) @ (quantized.codes.astype(np.int64) - 8).T
    exact = (sums * a.scale.astype(np.float64) * quantized.scale[:, 0]).reshape(*x.shape[:-1], rows)
    for path in PATHS:
        y = w4a8_matmul(pack_w4a8(quantized), x, threads, path)
        np.testing.assert_allclose(y, exact, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_w4a8_codes_do_not_overflow(sign, path):
    quantized = quantize_per_channel(np.full((3, 32768), -1, np.float32), 4)
    y = w4a8_matmul(pack_w4a8(quantized), np.full(32768, sign, np.float32), path=path)
    np.testing.assert_allclose(y, -sign * 32768, rtol=1e-6)


def test_clipping_helps_where_a_row_has_an_outlier(rng):
    weight = rng.standard_normal((16, 256)).astype(np.float32)
    weight[:, 3] = 9
    clip = clip_search(weight)
    assert (clip < 1).all()
    clipped = quantize_clipped(weight, clip)
    plain = quantize_per_channel(weight, 4)
    assert quantization_error(weight, clipped.dequantize()) < 0.9 * quantization_error(weight, plain.dequantize())
    importance = np.ones(256)
    importance[3] = 1e6  # now the outlier must stay
    np.testing.assert_allclose(clip_search(weight, importance=importance), 1)


W = np.ones((4, 32), np.float32)
BINARY, NESTED, FAST = binary_coding(W, 1, 32), any_precision_quantize(W, 2, 3), pack_w4a8(quantize_per_channel(W, 4))


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: binary_coding(W, 5, 32), r"binary coding takes 1..4 bits, got 5"),
        (lambda: binary_coding(W, 2, 4), "group_size 4 must be a multiple of 8"),
        (lambda: binary_coding(W * np.nan, 2, 8), "weight contains 128 NaN"),
        (lambda: binary_matmul(BINARY, W[0, :8]), r"x must have shape \(32,\)"),
        (lambda: binary_matmul(BINARY, W[0] * np.nan), "x contains NaN"),
        (lambda: any_precision_quantize(W, 4, 2), "bits must satisfy 1 <= fewest <= most <= 8, got 4 and 2"),
        (lambda: any_precision_quantize(W, 2, 3, -np.ones(32)), "importance must be 32 finite numbers, none negative"),
        (lambda: NESTED.dequantize(5), "this weight can be read at 2, 3 bits, not at 5"),
        (lambda: any_precision_matmul(NESTED, W[0] * np.inf, 2), "x contains NaN"),
        (lambda: pack_w4a8(quantize_groupwise(W, 4, 16)), "W4A8 takes a symmetric 4-bit weight with one scale per row"),
        (lambda: w4a8_matmul(FAST, W[0, :8]), r"x must have shape \(32,\)"),
        (lambda: w4a8_matmul(FAST, W[0] * np.nan), "x contains NaN"),
    ],
)
def test_a_wrong_call_gets_one_clear_sentence(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()
