"""Integer products against dense arithmetic in int64 and float64."""

import os
import subprocess
import sys

import numba
import numpy as np
import pytest
from edgeinfer.kernels import (
    int4_matvec,
    integer,
    matmul,
    pack,
    pack_int2,
    pack_int4,
    quantize_activations,
    quantize_groupwise,
    quantize_per_channel,
    simd,
)
from edgeinfer.kernels.quantize import from_codes
from hypothesis import given, settings
from hypothesis import strategies as st

from .conftest import PATHS


def dense(quantized, activations) -> np.ndarray:
    """The product by its definition: exact integer sums of a group, then both scales, in float64."""
    rows = quantized.shape[0]
    size = quantized.group_size
    codes = quantized.codes.astype(np.int64).reshape(rows, -1, size) - quantized.zero_point[..., None].astype(np.int64)
    x = activations.codes.astype(np.int64).reshape(len(activations.codes), -1, size)
    sums = np.einsum("ngk,bgk->bng", codes, x).astype(np.float64)
    y = (sums * quantized.scale.astype(np.float64) * activations.scale.astype(np.float64)[:, None]).sum(-1)
    return y[0] if activations.one else y


def assert_equal_to_rounding(y, reference):
    np.testing.assert_allclose(y, reference, rtol=2e-5, atol=2e-6 * max(1e-30, np.abs(reference).max()))


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from([2, 3, 4, 5, 8]),
    st.booleans(),
    st.integers(1, 200),
    st.integers(1, 5),
    st.sampled_from([16, 32, 48, 64, 128]),
    st.integers(0, 17),
    st.integers(1, 3),
    st.integers(0, 2**32 - 1),
)
def test_product_equals_dense_arithmetic_on_any_shape(bits, symmetric, rows, groups, size, batch, threads, seed):
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((rows, groups * size)).astype(np.float32)
    x = rng.standard_normal((batch, groups * size) if batch else groups * size).astype(np.float32)
    quantized = quantize_groupwise(weight, bits, size, symmetric)
    reference = dense(quantized, quantize_activations(x, size))
    results = [matmul(pack(quantized), x, threads, path) for path in PATHS]
    assert_equal_to_rounding(results[0], reference)
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])  # the two paths do the same operations: the same bits


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_codes_do_not_overflow(bits, sign, path):
    columns = 16384
    top = 2**bits - 1
    codes = np.full((3, columns), top)
    one = np.ones((3, 1))
    quantized = from_codes(codes, one, 0 * one, bits, columns, symmetric=False)
    x = np.full((5, columns), sign, np.float32)  # every activation code is 127 or -127
    exact = np.float32(top * 127 * columns * sign) * np.float32(np.float32(1) / np.float32(127))
    np.testing.assert_allclose(matmul(pack(quantized), x, path=path), exact, rtol=1e-6)


def test_weights_by_channel_multiply_like_one_long_group(path, rng):
    quantized = quantize_per_channel(rng.standard_normal((33, 240)).astype(np.float32), 8)
    x = rng.standard_normal(240).astype(np.float32)
    assert_equal_to_rounding(matmul(pack(quantized), x, path=path), dense(quantized, quantize_activations(x, 240)))


def test_result_is_near_the_unquantized_product(path, rng):
    weight, x = rng.standard_normal((96, 512)).astype(np.float32), rng.standard_normal(512).astype(np.float32)
    exact = weight.astype(np.float64) @ x
    for bits, bound in ((8, 0.02), (4, 0.2)):
        y = matmul(pack(quantize_groupwise(weight, bits, 64)), x, path=path)
        assert np.linalg.norm(y - exact) < bound * np.linalg.norm(exact)


def test_activations_quantized_once_serve_every_product(path, rng):
    x = rng.standard_normal((3, 128)).astype(np.float32)
    packed = pack(quantize_groupwise(rng.standard_normal((20, 128)).astype(np.float32), 4, 64))
    np.testing.assert_array_equal(matmul(packed, quantize_activations(x, 64), path=path), matmul(packed, x, path=path))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 4), st.integers(1, 6), st.integers(1, 70), st.integers(-30, 30), st.integers(0, 2**32 - 1))
def test_activation_codes_are_the_nearest_ones(batch, groups, size, exponent, seed):
    x = np.random.default_rng(seed).standard_normal((batch, groups * size)).astype(np.float32)
    x = (x * np.float32(10.0) ** np.float32(exponent)).astype(np.float32)
    quantized = quantize_activations(x, size)
    assert (np.abs(quantized.codes.astype(int)) <= 127).all()
    grouped = quantized.codes.reshape(batch, groups, size)
    np.testing.assert_array_equal(quantized.sums, grouped.sum(-1, dtype=np.int64))
    error = np.abs(quantized.dequantize().astype(np.float64) - x).reshape(batch, groups, size)
    assert (error <= 0.5001 * quantized.scale[..., None]).all()


def test_zero_activations_give_exact_zeros(path, rng):
    packed = pack(quantize_groupwise(rng.standard_normal((8, 64)).astype(np.float32), 4, 32, symmetric=False))
    np.testing.assert_array_equal(matmul(packed, np.zeros(64, np.float32), path=path), 0)


def test_a_batch_of_none_gives_an_empty_result(path, rng):
    packed = pack(quantize_groupwise(rng.standard_normal((8, 64)).astype(np.float32), 4, 32))
    assert matmul(packed, np.zeros((0, 64), np.float32), path=path).shape == (0, 8)


def test_a_strided_or_double_input_gives_the_same_result(path, rng):
    packed = pack(quantize_groupwise(rng.standard_normal((8, 64)).astype(np.float32), 4, 32))
    wide = rng.standard_normal((4, 128)).astype(np.float32)
    plain = matmul(packed, np.ascontiguousarray(wide[:, ::2]), path=path)
    np.testing.assert_array_equal(matmul(packed, wide[:, ::2], path=path), plain)
    np.testing.assert_array_equal(matmul(packed, wide[:, ::2].astype(np.float64), path=path), plain)
    np.testing.assert_array_equal(matmul(packed, np.asfortranarray(wide[:, ::2]), path=path), plain)


QUANTIZED = quantize_groupwise(np.ones((8, 64), np.float32), 4, 32)
NAN = np.full(64, np.nan, np.float32)


@pytest.mark.parametrize(
    ("call", "error", "sentence"),
    [
        (lambda: matmul(pack(QUANTIZED), np.ones(63, np.float32)), ValueError, r"x must have shape \(64,\) or"),
        (lambda: matmul(pack(QUANTIZED), np.ones((1, 1, 64), np.float32)), ValueError, "x must have shape"),
        (lambda: matmul(pack(QUANTIZED), np.float32(3)), ValueError, "x must have shape"),
        (
            lambda: matmul(pack(QUANTIZED), np.ones(64, np.int64)),
            TypeError,
            "x must hold float32 numbers, got dtype int64",
        ),
        (lambda: matmul(pack(QUANTIZED), NAN), ValueError, "x contains NaN or infinite values"),
        (lambda: matmul(pack(QUANTIZED), NAN * 0 + np.inf), ValueError, "x contains NaN or infinite values"),
        (lambda: matmul(pack(QUANTIZED), np.ones(64, np.float32), threads=0), ValueError, "threads must be a positive"),
        (lambda: matmul(pack(QUANTIZED), np.ones(64, np.float32), path="avx"), ValueError, "path 'avx' is unknown"),
        (
            lambda: matmul(pack(QUANTIZED), quantize_activations(np.ones(64, np.float32), 16)),
            ValueError,
            "in groups of 16; this weight has 64 columns in groups of 32",
        ),
        (lambda: pack_int2(QUANTIZED), ValueError, "pack_int2 takes weights of 2 bits, got 4; use pack_int4"),
        (
            lambda: int4_matvec(pack(quantize_groupwise(np.ones((8, 64), np.float32), 8, 32)), np.ones(64, np.float32)),
            ValueError,
            "int4_matvec takes weights packed in 4 bits, got 8",
        ),
        (
            lambda: pack_int4(quantize_groupwise(np.ones((8, 12), np.float32), 4, 12)),
            ValueError,
            "group_size 12 cannot be multiplied: a step of the 4-bit product takes 8 columns; choose a multiple of 8",
        ),
        (lambda: quantize_activations(np.ones(30, np.float32), 16), ValueError, "group_size 16 does not divide the 30"),
    ],
)
def test_a_wrong_call_gets_one_clear_sentence(call, error, sentence):
    with pytest.raises(error, match=sentence):
        call()


def _in_fresh_process(code: str, **environment: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_an_environment_switch_forces_the_portable_kernels():
    code = "from edgeinfer.kernels import simd; print(simd.available(), '|', simd.why_portable())"
    assert _in_fresh_process(code, EDGEINFER_SIMD="0") == "False | EDGEINFER_SIMD=0 asks for the portable kernels"


def test_a_machine_without_the_features_is_told_which_are_missing():
    code = (
        "from edgeinfer.kernels import simd\nprint(simd.available())\n"
        "try: simd.choose('simd')\nexcept RuntimeError as error: print(error)"
    )
    said = _in_fresh_process(code, NUMBA_CPU_FEATURES="+avx2,+avx512f", EDGEINFER_SIMD="1")
    assert said.startswith("False\npath='simd' cannot run: this processor has no avx512bw, avx512vl")


@pytest.mark.skipif(not simd.available(), reason="no vector kernels on this machine")
def test_the_dot_product_instruction_is_really_used(rng):
    packed, x = pack(QUANTIZED), quantize_activations(np.ones(64, np.float32), 32)
    kernel = numba.njit(integer._vector_4.py_func)  # compiled anew: a cached kernel cannot be inspected
    y = np.empty((1, 64), np.float32)
    scale, zero = packed.scale.reshape(-1), packed.zero_point.reshape(-1)
    kernel(packed.data, scale, zero, packed.middle, x.codes, x.scale, x.sums, 32, y, 0, 1)
    (assembly,) = kernel.inspect_asm().values()
    assert "vpdpbusd" in assembly and "zmm" in assembly
