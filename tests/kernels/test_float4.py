"""Codes in the fraction of a half decode to what integers decode to, in fewer operations; offsets are what matters."""

import numpy as np
import pytest
from edgeinfer.kernels import quantize_groupwise
from edgeinfer.kernels.float4 import (
    EXPONENTS,
    Counted,
    decode,
    exponent_levels,
    operations_per_weight,
    pack_float4,
    quantize_float4,
)
from hypothesis import given, settings
from hypothesis import strategies as st


@given(st.integers(1, 9), st.integers(1, 5), st.sampled_from([4, 16, 64]), st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_both_decoders_give_the_same_bits_and_the_affine_weight_to_rounding(rows, groups, group_size, seed):
    weight = np.random.default_rng(seed).normal(size=(rows, groups * group_size)).astype(np.float32)
    quantized = quantize_groupwise(weight, 4, group_size, symmetric=False)
    packed = pack_float4(quantized)
    by_float, by_integer = packed.dequantize("float"), packed.dequantize("integer")
    assert np.array_equal(by_float, by_integer)
    exact = quantized.dequantize()
    assert np.abs(by_float.astype(np.float32) - exact).max() <= np.abs(exact).max() * 2**-9 + 1e-6


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_weights_of_any_size_keep_their_accuracy_as_far_as_a_half_has_it(rng, size):
    weight = (rng.normal(size=(8, 64)) * size).astype(np.float32)
    packed, exact = quantize_float4(weight, 32), quantize_groupwise(weight, 4, 32, symmetric=False).dequantize()
    assert np.abs(packed.dequantize().astype(np.float32) - exact).max() <= np.abs(exact).max() * 2**-9 + 16 * 2**-24


def test_operations_are_counted_while_decoding(rng):
    packed = quantize_float4(rng.normal(size=(6, 64)).astype(np.float32), 32)
    by_float, by_integer = operations_per_weight(packed, "float"), operations_per_weight(packed, "integer")
    assert by_float["and"] == by_float["or"] == 1 and by_float["shift"] == 0.25 and "convert" not in by_float
    assert by_integer["convert"] == by_integer["and"] == 1 and by_integer["shift"] == 0.75
    assert by_float["subtract"] == by_integer["subtract"] == by_float["multiply"] == by_integer["multiply"] == 1
    assert by_float["bit operations"] < by_integer["bit operations"]


@pytest.mark.parametrize(("place", "added"), [(0, 1024), (1, 64)])
def test_the_half_that_holds_a_code_is_more_than_it_by_what_the_exponent_says(place, added):
    # The trap: what the exponent adds has to be taken off, or every weight is off by so many steps.
    mask, exponent = EXPONENTS[place]
    codes = Counted(np.arange(16, dtype=np.uint16) << 4 * place)
    assert np.array_equal(((codes & mask) | exponent).as_half().value, added + np.arange(16))


def test_exponent_levels_are_the_nearest_signed_powers_of_two(rng):
    weight = rng.normal(size=(5, 64)).astype(np.float32)
    weight[0, :3] = 0, 1e-9, -1e-9
    found = exponent_levels(weight, 16)
    grouped = weight.reshape(5, 4, 16)
    largest = np.abs(grouped).max(-1, keepdims=True)
    levels = np.concatenate([sign * 2.0 ** -np.arange(8) for sign in (1, -1)])
    nearest = (levels[np.abs(grouped[..., None] - largest[..., None] * levels).argmin(-1)] * largest).reshape(5, 64)
    assert np.abs(found - weight).sum() == pytest.approx(np.abs(nearest - weight).sum(), rel=1e-6)
    assert len(np.unique(np.abs(found[1, :16]))) <= 8


def test_bytes_are_half_a_byte_a_weight_and_three_a_group(rng):
    assert quantize_float4(rng.normal(size=(8, 128)).astype(np.float32), 32).nbytes == 8 * 128 // 2 + 8 * 4 * 3


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda w: pack_float4(quantize_groupwise(w, 3, 16)), "takes codes of 4 bits, got 3"),
        (lambda w: pack_float4(quantize_groupwise(w[:, :30], 4, 6)), "group_size 6 is not a multiple of 4"),
        (lambda w: quantize_float4(w * np.float32(1e7), 16), "leave the normal range of float16, 6.1e-05 to 65504"),
        (lambda w: quantize_float4(w * np.float32(1e-6), 16), "scale the weight first"),
        (lambda w: decode(quantize_float4(w, 16), "fp"), "decoder 'fp' is unknown; choose 'float' or 'integer'"),
        (lambda w: exponent_levels(w, 10), "group_size 10 does not divide"),
    ],
)
def test_wrong_input_gets_one_sentence(rng, call, says):
    with pytest.raises(ValueError, match=says):
        call(rng.normal(size=(4, 32)).astype(np.float32))
