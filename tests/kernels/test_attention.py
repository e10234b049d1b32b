"""Low-bit attention against float64 attention over the same decoded numbers, on any shape."""

import numpy as np
import pytest
from edgeinfer.kernels import PackedKV, attend_low_bit, exact_attention, pack_kv, quantize_keys, quantize_values, simd
from hypothesis import given, settings
from hypothesis import strategies as st

from .conftest import PATHS


def drawn(rng, heads, tokens, channels):
    return rng.standard_normal((heads, tokens, channels)).astype(np.float32)


def relative(found, expected):
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(st.sampled_from([2, 4, 8]), st.sampled_from([2, 4, 8])),
    st.integers(1, 3),
    st.integers(1, 9),
    st.integers(1, 300),
    st.sampled_from([8, 32, 40, 64, 128]),
    st.sampled_from([32, 64, 96]),
    st.integers(0, 70),
    st.sampled_from([64, 128, 1024]),
    st.integers(1, 2),
    st.integers(0, 2**32 - 1),
)
def test_attends_to_the_decoded_numbers_on_any_shape(bits, H, G, S, D, group, window, split, threads, seed):
    rng = np.random.default_rng(seed)
    keys, values, query = drawn(rng, H, S, D), drawn(rng, H, S, D), drawn(rng, 1, H * G, D)[0]
    packed = pack_kv(keys, values, bits, group, window)
    assert packed.length == S
    expected = exact_attention(query, *packed.dequantize())
    results = [attend_low_bit(query, packed, threads, path, split=split) for path in PATHS]
    # Queries in int8 per group: half a unit of 127 in each channel, and the softmax passes that on.
    assert np.abs(results[0] - expected).max() < 0.06 * max(1.0, np.abs(expected).max())
    for result in results[1:]:
        np.testing.assert_allclose(result, results[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_packing_keeps_every_code(bits, rng):
    keys, values = drawn(rng, 3, 192, 64), drawn(rng, 3, 192, 64)
    decoded = pack_kv(keys, values, bits, 64).dequantize()
    np.testing.assert_array_equal(decoded[0], quantize_keys(keys, bits, 64).dequantize())
    np.testing.assert_array_equal(decoded[1], quantize_values(values, bits, 64).dequantize())


def test_error_at_eight_bits_is_below_one_percent_and_that_of_the_query_too(path, rng):
    keys, values, query = drawn(rng, 2, 1024, 128), drawn(rng, 2, 1024, 128), drawn(rng, 1, 8, 128)[0]
    packed = pack_kv(keys, values, 8, 128)
    found = attend_low_bit(query, packed, path=path)
    assert relative(found, exact_attention(query, keys, values)) < 0.02
    assert relative(found, exact_attention(query, *packed.dequantize())) < 0.01


def test_appending_in_steps_gives_what_appending_at_once_gives(rng):
    keys, values, query = drawn(rng, 2, 333, 32), drawn(rng, 2, 333, 32), drawn(rng, 1, 4, 32)[0]
    once = pack_kv(keys, values, 4, 32, window=20)
    steps = PackedKV(2, 32, 4, 32, window=20)
    for start, end in ((0, 1), (1, 100), (100, 100), (100, 230), (230, 333)):
        steps.append(keys[:, start:end], values[:, start:end])
    assert (steps.tokens, steps.length, steps.nbytes) == (once.tokens, 333, once.nbytes)
    np.testing.assert_array_equal(attend_low_bit(query, steps), attend_low_bit(query, once))


def test_recent_tokens_stay_exact(path, rng):
    keys, values, query = drawn(rng, 2, 50, 64), drawn(rng, 2, 50, 64), drawn(rng, 1, 6, 64)[0]
    packed = pack_kv(keys, values, 2, 32, window=50)
    assert packed.tokens == 0
    np.testing.assert_allclose(
        attend_low_bit(query, packed, path=path), exact_attention(query, keys, values), atol=1e-5
    )


def test_one_token_is_its_own_value(path, rng):
    keys, values = drawn(rng, 2, 1, 64), drawn(rng, 2, 1, 64)
    found = attend_low_bit(drawn(rng, 1, 8, 64)[0], pack_kv(keys, values), path=path)
    np.testing.assert_allclose(found, values[:, 0].repeat(4, 0), rtol=1e-6)


def test_sharp_and_flat_softmax_and_large_offsets(path, rng):
    keys, values = drawn(rng, 1, 256, 64), drawn(rng, 1, 256, 64)
    keys[..., 5] += 40  # an outlier channel adds the same to every score
    packed = pack_kv(keys, values, 8, 64)
    for factor in (0.0, 30.0):
        query = factor * drawn(rng, 1, 2, 64)[0]
        query[:, 5] = 0
        expected = exact_attention(query, *packed.dequantize())
        assert relative(attend_low_bit(query, packed, path=path), expected) < 0.05


def test_bytes_are_counted_exactly():
    x = np.zeros((8, 4096, 128), np.float32)
    packed = pack_kv(x, x, 4, (128, 128))
    assert packed.nbytes == 2 * 8 * 4096 * 64 + 8 * 32 * 128 * 4 + 8 * 4096 * 4


def test_wrong_input_gets_one_sentence(rng):
    keys = drawn(rng, 2, 64, 32)
    packed = pack_kv(keys, keys)
    query = drawn(rng, 1, 4, 32)[0]
    broken = query.copy()
    broken[0, 0] = np.nan
    for call, words in (
        (lambda: attend_low_bit(query[:3], packed), "multiple of 2 heads"),
        (lambda: attend_low_bit(query[:, :8], packed), "must have shape"),
        (lambda: attend_low_bit(broken, packed), "NaN or infinite"),
        (lambda: attend_low_bit(query, PackedKV(2, 32)), "holds no token"),
        (lambda: attend_low_bit(query, packed, split=60), "multiple of 64"),
        (lambda: attend_low_bit(query, packed, path="avx"), "is unknown"),
        (lambda: pack_kv(keys * np.nan, keys), "NaN or infinite"),
        (lambda: pack_kv(keys, keys[:, :3]), "as many tokens"),
        (lambda: pack_kv(keys[0], keys[0]), "must have shape"),
        (lambda: pack_kv(keys, keys, 3), "2, 4 or 8 bits"),
        (lambda: pack_kv(keys, keys, 4, 48), "multiple of 32 tokens"),
        (lambda: PackedKV(2, 64, 4, (32, 48)), "multiple of 32 channels"),
    ):
        with pytest.raises(ValueError, match=words):
            call()


@pytest.mark.skipif(not simd.available(), reason="portable only")
def test_vector_and_portable_paths_agree_to_rounding(rng):
    keys, values, query = drawn(rng, 4, 640, 64), drawn(rng, 4, 640, 64), drawn(rng, 1, 20, 64)[0]
    for bits in (2, 4, 8):
        packed = pack_kv(keys, values, bits, 64)
        found = [attend_low_bit(query, packed, path=path) for path in ("simd", "portable")]
        assert relative(found[0], found[1]) < 1e-6
