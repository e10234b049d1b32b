"""Look-up products against the sums that the tables stand for, and against the dense product."""

import numpy as np
import pytest
from edgeinfer.kernels import build_tables, lookup_matmul, pack_lookup, quantize_groupwise, quantize_sign
from hypothesis import given, settings
from hypothesis import strategies as st

from .conftest import PATHS


def looked_up(codes, scale, offset, tables, bits, size):
    """The product from the tables' bytes by the definition, in int64 and float64."""
    rows, columns = codes.shape
    entries = tables.entries.reshape(len(tables.entries), columns // 4, 16).astype(np.int64) - 128
    total = np.zeros((len(entries), rows, columns // 4), np.int64)
    for p in range(bits):
        plane = (codes >> p) & 1
        index = (plane.reshape(rows, -1, 4) * [1, 2, 4, 8]).sum(-1)
        for b, table in enumerate(entries):
            total[b] += np.take_along_axis(table[None].repeat(rows, 0), index[..., None], 2)[..., 0] << p
    total = total.reshape(len(entries), rows, -1, size // 4).sum(-1)
    units, sums = tables.scale.astype(np.float64)[:, None], tables.sums.astype(np.float64)[:, None]
    y = (scale * (0.5 * units * total + offset * sums)).sum(-1)
    return y[0] if tables.one else y


@settings(max_examples=50, deadline=None)
@given(
    st.integers(2, 4),
    st.booleans(),
    st.integers(1, 150),
    st.integers(1, 4),
    st.sampled_from([32, 64, 96, 128]),
    st.integers(0, 3),
    st.integers(1, 2),
    st.integers(0, 2**32 - 1),
)
def test_product_equals_the_sum_of_entries_on_any_shape(bits, symmetric, rows, groups, size, batch, threads, seed):
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((rows, groups * size)).astype(np.float32)
    x = rng.standard_normal((batch, groups * size) if batch else groups * size).astype(np.float32)
    quantized = quantize_groupwise(weight, bits, size, symmetric)
    offset = (2**bits - 1) / 2 - quantized.zero_point.astype(np.float64)
    reference = looked_up(quantized.codes, quantized.scale, offset, build_tables(x, size), bits, size)
    results = [lookup_matmul(pack_lookup(quantized), x, threads, path) for path in PATHS]
    np.testing.assert_allclose(results[0], reference, rtol=2e-5, atol=2e-5 * np.abs(reference).max(initial=1e-30))
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_result_is_near_the_product_with_the_same_codes(bits, path, rng):
    quantized = quantize_groupwise(rng.standard_normal((96, 512)).astype(np.float32), bits, 64)
    x = rng.standard_normal((2, 512)).astype(np.float32)
    exact = x.astype(np.float64) @ quantized.dequantize().T.astype(np.float64)
    y = lookup_matmul(pack_lookup(quantized), x, path=path)
    assert np.linalg.norm(y - exact) < 0.02 * np.linalg.norm(exact)


def test_one_bit_is_the_sign_and_the_mean_magnitude(path, rng):
    weight, x = rng.standard_normal((70, 256)).astype(np.float32), rng.standard_normal(256).astype(np.float32)
    alpha = np.abs(weight.astype(np.float64)).reshape(70, -1, 64).mean(-1).repeat(64, 1)
    exact = (np.sign(weight) * alpha) @ x
    y = lookup_matmul(quantize_sign(weight, 64), x, path=path)
    assert np.linalg.norm(y - exact) < 0.02 * np.linalg.norm(exact)


def test_tables_are_mirrored_and_hold_every_signed_sum(rng):
    x = rng.standard_normal(64).astype(np.float32)
    tables = build_tables(x, 32)
    entries = (tables.entries.reshape(2, 8, 16).astype(np.float64) - 128) * tables.scale.reshape(2, 1, 1)
    signs = np.array([[1 if (j >> t) & 1 else -1 for t in range(4)] for j in range(16)])
    exact = (x.reshape(2, 8, 1, 4).astype(np.float64) * signs).sum(-1)
    assert (np.abs(entries - exact) <= 0.5001 * tables.scale.reshape(2, 1, 1)).all()
    assert (np.abs(entries + entries[..., ::-1]) <= 1.0001 * tables.scale.reshape(2, 1, 1)).all()


@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_tables_do_not_overflow(sign, path):
    columns = 8192
    quantized = quantize_groupwise(np.ones((2, columns), np.float32), 4, columns, symmetric=False)
    y = lookup_matmul(pack_lookup(quantized), np.full(columns, sign, np.float32), path=path)
    np.testing.assert_allclose(y, sign * columns, rtol=1e-5)


def test_bytes_are_linear_in_the_bits(rng):
    weight = rng.standard_normal((64, 256)).astype(np.float32)
    planes = {bits: pack_lookup(quantize_groupwise(weight, bits, 64)).data.nbytes for bits in (2, 3, 4)}
    planes[1] = quantize_sign(weight, 64).data.nbytes
    assert planes == {bits: bits * 64 * 256 // 8 for bits in (1, 2, 3, 4)}


def test_tables_built_once_serve_every_product_and_zeros_stay_zeros(path, rng):
    packed = pack_lookup(quantize_groupwise(rng.standard_normal((8, 64)).astype(np.float32), 2, 32, symmetric=False))
    x = rng.standard_normal((3, 64)).astype(np.float32)
    np.testing.assert_array_equal(lookup_matmul(packed, build_tables(x, 32), path=path), lookup_matmul(packed, x))
    np.testing.assert_array_equal(lookup_matmul(packed, 0 * x, path=path), 0)
    assert lookup_matmul(packed, x[:0], path=path).shape == (0, 8)


PACKED = pack_lookup(quantize_groupwise(np.ones((8, 64), np.float32), 2, 32))
ONES = np.ones(64, np.float32)


@pytest.mark.parametrize(
    ("call", "error", "sentence"),
    [
        (lambda: lookup_matmul(PACKED, ONES[:63]), ValueError, r"x must have shape \(64,\) or"),
        (lambda: lookup_matmul(PACKED, ONES.astype(np.int8)), TypeError, "x must hold float32 numbers, got dtype int8"),
        (lambda: lookup_matmul(PACKED, ONES * np.nan), ValueError, "x contains NaN or infinite values"),
        (lambda: lookup_matmul(PACKED, ONES * np.inf), ValueError, "x contains NaN or infinite values"),
        (lambda: lookup_matmul(PACKED, build_tables(ONES, 64)), ValueError, "the tables were built for 64 columns in"),
        (lambda: build_tables(np.ones(48, np.float32), 32), ValueError, "group_size 32 does not divide the 48 columns"),
        (
            lambda: pack_lookup(quantize_groupwise(np.ones((8, 64), np.float32), 8, 32)),
            ValueError,
            "look-up tables serve 1..4 bits, got 8",
        ),
        (
            lambda: pack_lookup(quantize_groupwise(np.ones((8, 64), np.float32), 4, 16)),
            ValueError,
            "group_size 16 cannot be looked up: a step takes 32 columns; choose a multiple of 32",
        ),
        (lambda: quantize_sign(np.ones((8, 64), np.float32) * np.nan, 32), ValueError, "weight contains 512 NaN"),
    ],
)
def test_a_wrong_call_gets_one_clear_sentence(call, error, sentence):
    with pytest.raises(error, match=sentence):
        call()
