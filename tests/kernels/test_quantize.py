"""Round-to-nearest quantization against its definition."""

import numpy as np
import pytest
from edgeinfer.kernels import (
    pack_bits,
    quantization_error,
    quantize_groupwise,
    quantize_per_channel,
    quantize_per_tensor,
    unpack_bits,
)
from hypothesis import given, settings
from hypothesis import strategies as st


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 8), st.integers(1, 9), st.integers(0, 40), st.integers(0, 2**32 - 1))
def test_packed_codes_come_back_and_take_no_more_than_their_bits(bits, rows, columns, seed):
    codes = np.random.default_rng(seed).integers(0, 2**bits, (rows, columns)).astype(np.uint8)
    packed = pack_bits(codes, bits)
    assert packed.shape == (rows, -(-columns * bits // 8))
    np.testing.assert_array_equal(unpack_bits(packed, bits, columns), codes)


def test_a_code_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="a code of 9 does not fit into 3 bits"):
        pack_bits(np.array([[9]], np.uint8), 3)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(2, 8),
    st.booleans(),
    st.integers(1, 5),
    st.integers(1, 4),
    st.integers(1, 33),
    st.integers(0, 2**32 - 1),
)
def test_no_weight_is_further_than_half_a_step_from_its_code(bits, symmetric, rows, groups, group_size, seed):
    rng = np.random.default_rng(seed)
    weight = (rng.standard_normal((rows, groups * group_size)) * 10.0 ** rng.integers(-3, 4)).astype(np.float32)
    quantized = quantize_groupwise(weight, bits, group_size, symmetric)
    error = np.abs(quantized.dequantize().astype(np.float64) - weight).reshape(rows, groups, group_size)
    # asymmetric: the zero point is rounded too, so the ends may be off by up to one step
    allowed = quantized.scale[..., None] * (0.5 if symmetric else 1.0) * (1 + 1e-4)
    assert (error <= allowed).all()
    if symmetric:
        assert (np.abs(quantized.codes.astype(int) - 2 ** (bits - 1)) < 2 ** (bits - 1)).all()


def test_finer_groups_and_more_bits_never_hurt(rng):
    weight = rng.standard_normal((32, 256)).astype(np.float32)
    weight[:, 7] *= 30  # an outlier channel
    error = lambda q: quantization_error(weight, q.dequantize())  # noqa: E731
    assert error(quantize_groupwise(weight, 4, 32)) < error(quantize_per_channel(weight, 4))
    assert error(quantize_per_channel(weight, 4)) <= error(quantize_per_tensor(weight, 4))
    ladder = [error(quantize_groupwise(weight, bits, 64)) for bits in range(2, 9)]
    assert ladder == sorted(ladder, reverse=True)


def test_asymmetric_beats_symmetric_on_one_sided_weights(rng):
    weight = np.abs(rng.standard_normal((16, 128))).astype(np.float32)
    symmetric, asymmetric = (quantize_groupwise(weight, 4, 64, s).dequantize() for s in (True, False))
    assert quantization_error(weight, asymmetric) < 0.7 * quantization_error(weight, symmetric)


@pytest.mark.parametrize("symmetric", [True, False])
def test_constant_zero_and_huge_groups_survive(symmetric):
    weight = np.zeros((4, 32), np.float32)
    weight[1] = 3.5
    weight[2] = -3.5
    weight[3, ::2] = 3e38
    weight[3, 1::2] = -3e38
    back = quantize_groupwise(weight, 8, 32, symmetric).dequantize()
    assert np.isfinite(back).all()
    np.testing.assert_array_equal(back[0], 0)
    np.testing.assert_allclose(back[1:3], weight[1:3], rtol=1e-6)
    np.testing.assert_allclose(back[3], weight[3], rtol=5e-3)


def test_bytes_are_what_is_stored(rng):
    weight = rng.standard_normal((8, 256)).astype(np.float32)
    symmetric, asymmetric = quantize_groupwise(weight, 4, 64), quantize_groupwise(weight, 4, 64, symmetric=False)
    assert symmetric.nbytes == 8 * 256 // 2 + 8 * 4 * 4
    assert asymmetric.nbytes == symmetric.nbytes + 8 * 4
    assert symmetric.bits_per_weight == 4.5


def test_a_non_contiguous_and_a_double_weight_give_the_same_codes(rng):
    weight = rng.standard_normal((64, 48)).astype(np.float32)
    same = quantize_groupwise(weight.T, 4, 32)
    np.testing.assert_array_equal(same.codes, quantize_groupwise(np.ascontiguousarray(weight.T), 4, 32).codes)
    np.testing.assert_array_equal(same.codes, quantize_groupwise(weight.T.astype(np.float64), 4, 32).codes)


W = np.ones((4, 256), np.float32)
BROKEN = W.copy()
BROKEN[0, 0] = np.nan


@pytest.mark.parametrize(
    ("weight", "bits", "group_size", "error", "sentence"),
    [
        (W, 4, 48, ValueError, "group_size 48 does not divide in_features 256; choose one of 16, 32, 64, 128, 256"),
        (W, 4, 0, ValueError, "group_size must be a positive integer, got 0"),
        (W, 9, 32, ValueError, "bits must be an integer from 2 to 8, got 9"),
        (W, 4.0, 32, ValueError, "bits must be an integer from 2 to 8, got 4.0"),
        (BROKEN, 4, 32, ValueError, "weight contains 1 NaN or infinite values"),
        (W * np.inf, 4, 32, ValueError, "weight contains 1024 NaN or infinite values"),
        (W[:0], 4, 32, ValueError, r"weight is empty: shape \(0, 256\)"),
        (W[0], 4, 32, ValueError, r"weight must be a matrix \(out_features, in_features\), got shape \(256,\)"),
        (W.astype(np.int32), 4, 32, TypeError, "weight must hold float32 numbers, got dtype int32"),
        ([["a"]], 4, 32, TypeError, "weight must hold float32 numbers"),
    ],
)
def test_a_wrong_weight_gets_one_clear_sentence(weight, bits, group_size, error, sentence):
    with pytest.raises(error, match=sentence):
        quantize_groupwise(weight, bits, group_size)


def test_a_tensor_is_named_as_such():
    torch = __import__("torch")
    with pytest.raises(TypeError, match="weight must be a NumPy array, got a torch tensor"):
        quantize_groupwise(torch.ones(2, 32), 4, 32)
