"""GPTQ, activation-aware scaling, outlier columns and low-rank compensation: each must do what it is for."""

import numpy as np
import pytest
from edgeinfer.kernels import (
    activation_aware_scale,
    gptq_quantize,
    low_rank_compensation,
    matmul,
    outlier_columns,
    output_error,
    pack,
    quantize_groupwise,
    quantize_per_channel,
    second_moment,
    split_outliers,
)
from hypothesis import given, settings
from hypothesis import strategies as st


def correlated(rng, rows, columns):
    """Inputs whose columns depend on each other and differ in size, as hidden states do."""
    mixing = rng.standard_normal((columns, columns)) * 0.5 ** np.arange(columns)[None, :]
    return (rng.standard_normal((rows, columns)) @ mixing.T + 0.3 * rng.standard_normal((rows, columns))).astype(
        np.float32
    )


def gptq_by_definition(weight, hessian, bits, size, damping=0.01):
    """Column by column with an explicit inverse that shrinks after each column (optimal brain surgeon), symmetric."""
    w, codes = weight.astype(np.float64).copy(), np.zeros(weight.shape, np.int64)
    h = hessian + damping * np.diagonal(hessian).mean() * np.eye(len(hessian))
    inverse = np.linalg.inv(h)
    for i in range(w.shape[1]):
        if i % size == 0:
            scale = (np.abs(w[:, i : i + size]).max(1) / (2 ** (bits - 1) - 1)).astype(np.float32)
        codes[:, i] = np.clip(np.rint(w[:, i] / scale), -(2 ** (bits - 1) - 1), 2 ** (bits - 1) - 1)
        error = (w[:, i] - codes[:, i] * scale) / inverse[i, i]
        w -= np.outer(error, inverse[i])
        inverse -= np.outer(inverse[:, i], inverse[i]) / inverse[i, i]
    return codes + 2 ** (bits - 1)


@settings(max_examples=15, deadline=None)
@given(st.integers(2, 4), st.sampled_from([8, 16, 32]), st.sampled_from([5, 16, 64]), st.integers(0, 2**32 - 1))
def test_gptq_chooses_the_codes_of_its_definition_whatever_the_block_size(bits, size, block, seed):
    rng = np.random.default_rng(seed)
    weight, hessian = rng.standard_normal((6, 32)).astype(np.float32), second_moment(correlated(rng, 200, 32))
    found = gptq_quantize(weight, hessian, bits, size, block_size=block).codes
    # a sum that lies on the edge between two codes may fall to either side
    assert (
        found != gptq_by_definition(weight, hessian.astype(np.float32).astype(np.float64), bits, size)
    ).mean() < 0.03


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("by_importance", [True, False])
def test_gptq_halves_the_output_error_on_correlated_inputs(symmetric, by_importance, rng):
    weight, hessian = rng.standard_normal((32, 64)).astype(np.float32), second_moment(correlated(rng, 500, 64))
    plain = quantize_groupwise(weight, 3, 32, symmetric)
    gptq = gptq_quantize(weight, hessian, 3, 32, symmetric, by_importance=by_importance)
    assert output_error(weight, gptq.dequantize(), hessian) < 0.5 * output_error(weight, plain.dequantize(), hessian)
    assert gptq.nbytes == plain.nbytes


def test_gptq_without_correlation_is_round_to_nearest(rng):
    weight = rng.standard_normal((8, 64)).astype(np.float32)
    codes = gptq_quantize(weight, np.eye(64), 4, 32).codes
    np.testing.assert_array_equal(codes, quantize_groupwise(weight, 4, 32).codes)


def test_gptq_survives_few_rows_and_dead_columns(rng):
    inputs = rng.standard_normal((3, 32)).astype(np.float32)
    inputs[:, 5] = 0
    quantized = gptq_quantize(rng.standard_normal((4, 32)).astype(np.float32), second_moment(inputs), 4, 16)
    assert np.isfinite(quantized.dequantize()).all()
    assert (quantized.dequantize()[:, 5] == 0).all()


def test_output_error_is_that_of_the_outputs(rng):
    weight, inputs = rng.standard_normal((8, 16)), correlated(rng, 100, 16)
    other = weight + 0.1 * rng.standard_normal((8, 16))
    direct = np.linalg.norm(inputs @ (weight - other).T) / np.linalg.norm(inputs @ weight.T)
    np.testing.assert_allclose(output_error(weight, other, second_moment(inputs)), direct, rtol=1e-4)


def test_activation_aware_scaling_protects_the_columns_with_large_inputs(rng):
    weight, inputs = rng.standard_normal((32, 64)).astype(np.float32), rng.standard_normal((200, 64)).astype(np.float32)
    inputs[:, [3, 40]] *= 20
    found = activation_aware_scale(weight, inputs, 3, 32)
    assert found.exponent > 0
    assert found.error < 0.7 * found.error_without
    assert found.input_scale[[3, 40]].min() > np.delete(found.input_scale, [3, 40]).max()
    direct = np.linalg.norm(inputs @ (weight - found.dequantize()).T) / np.linalg.norm(inputs @ weight.T)
    np.testing.assert_allclose(found.error, direct, rtol=1e-3)


def test_outliers_apart_give_a_better_product_and_none_is_counted_twice(rng):
    weight, x = rng.standard_normal((40, 64)).astype(np.float32), rng.standard_normal((5, 64)).astype(np.float32)
    x[:, 9] *= 100
    columns = outlier_columns(x)
    np.testing.assert_array_equal(columns, [9])
    exact = x.astype(np.float64) @ weight.T
    split = split_outliers(weight, columns)
    together = matmul(pack(quantize_per_channel(weight, 8)), x)
    error = [np.linalg.norm(y - exact) / np.linalg.norm(exact) for y in (split.matmul(x), together)]
    assert error[0] < 0.2 * error[1]
    assert split.matmul(x[0]).shape == (40,)
    assert split_outliers(weight, np.array([], int)).kept.shape == (40, 0)


def test_low_rank_compensation_is_the_best_of_its_rank(rng):
    weight = rng.standard_normal((24, 40)).astype(np.float32)
    back = quantize_groupwise(weight, 2, 40).dequantize()
    singular = np.linalg.svd(weight.astype(np.float64) - back, compute_uv=False)
    errors = []
    for rank in (0, 1, 5, 24):
        found = low_rank_compensation(weight, back, rank)
        left = np.linalg.norm(weight - back - found.left @ found.right)
        np.testing.assert_allclose(left, np.sqrt((singular[rank:] ** 2).sum()), atol=1e-4)
        np.testing.assert_allclose(found.energy, (singular[:rank] ** 2).sum() / (singular**2).sum(), rtol=1e-6)
        errors.append(left)
    assert errors == sorted(errors, reverse=True)
    half = low_rank_compensation(weight, back, energy=0.5)
    assert half.energy >= 0.5 > low_rank_compensation(weight, back, half.rank - 1).energy
    x = rng.standard_normal((3, 40)).astype(np.float32)
    np.testing.assert_allclose(half.matmul(x), x @ (half.left @ half.right).T, rtol=1e-4, atol=1e-4)


W = np.ones((4, 32), np.float32)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: gptq_quantize(W, np.eye(16), 4, 16), r"hessian must have shape \(32, 32\) for this weight, got"),
        (lambda: gptq_quantize(W, np.eye(32) * np.nan, 4, 16), "hessian contains 1024 NaN"),
        (lambda: gptq_quantize(W, np.eye(32), 4, 24), "group_size 24 does not divide in_features 32"),
        (lambda: second_moment(W[:0]), "inputs is empty"),
        (lambda: activation_aware_scale(W, W[:, :16], 4, 16), "inputs must have 32 columns for this weight, got 16"),
        (lambda: split_outliers(W, np.array([32])), "column 32 is not one of the 32 columns"),
        (lambda: low_rank_compensation(W, W, 1, energy=0.5), "give either rank or energy"),
        (lambda: low_rank_compensation(W, W, 9), r"rank must lie in 0..4, got 9"),
        (lambda: low_rank_compensation(W, W[:, :16], 1), "approximation must have the weight's shape"),
    ],
)
def test_a_wrong_call_gets_one_clear_sentence(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()
