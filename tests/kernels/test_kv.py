"""Quantized keys and values, floats of one byte, and the decoder's caches of few bits."""

import math

import numpy as np
import pytest
import torch
from edgeinfer import models
from edgeinfer.kernels import (
    EncodedCache,
    LowBitCache,
    fp8_table,
    from_fp8,
    quantize_fp8,
    quantize_keys,
    quantize_values,
    to_fp8,
    use_low_bit_cache,
)
from edgeinfer.kernels.kv_cache import perplexity_in_parts, recall_in_parts
from edgeinfer.models import tasks
from edgeinfer.models.checkpoint import load_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([2, 4, 8]),
    st.integers(0, 70),
    st.integers(1, 40),
    st.integers(1, 50),
    st.sampled_from(["tokens", "channels"]),
    st.floats(-3, 3),
    st.integers(0, 2**32 - 1),
)
def test_every_number_is_at_most_half_a_step_away(bits, tokens, channels, group, along, middle, seed):
    rng = np.random.default_rng(seed)
    x = ((rng.standard_normal((2, tokens, channels)) + middle) * 10 ** rng.uniform(-2, 2)).astype(np.float32)
    quantized = quantize_keys(x, bits, group, along)
    count = tokens if along == "tokens" else channels
    step = np.repeat(quantized.scale.astype(np.float32), group, -2 if along == "tokens" else -1)
    step = step[:, :count] if along == "tokens" else step[..., :count]
    error = np.abs(quantized.dequantize() - x)
    assert quantized.dequantize().shape == x.shape
    assert (error <= step * 0.5001 + 1e-6 * np.abs(x)).all()


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_bytes_are_those_of_codes_scales_and_offsets(bits):
    x = np.zeros((4, 100, 64), np.float32)
    keys, values = quantize_keys(x, bits, 32), quantize_values(x, bits, 64)
    codes = 4 * 100 * 64 * bits // 8
    assert keys.nbytes == codes + 4 * 4 * 64 * 2 * 2  # four groups of tokens, two float16 for each channel
    assert values.nbytes == codes + 4 * 100 * 1 * 2 * 2


def test_a_large_channel_harms_only_itself_when_keys_are_grouped_along_tokens(rng):
    x = rng.standard_normal((1, 64, 32)).astype(np.float32)
    x[..., 7] = 30 + x[..., 7]
    others = np.arange(32) != 7
    per_channel = np.abs(quantize_keys(x, 4, 32).dequantize() - x)[..., others].mean()
    per_token = np.abs(quantize_keys(x, 4, 32, along="channels").dequantize() - x)[..., others].mean()
    assert per_token > 4 * per_channel


@pytest.mark.parametrize("function", [quantize_keys, quantize_values])
def test_wrong_input_gets_one_sentence(function):
    good = np.zeros((1, 4, 8), np.float32)
    bad = good.copy()
    bad[0, 1, 2] = np.nan
    for arguments, words in (
        ((bad, 4, 32), "1 NaN or infinite"),
        ((good + 1e6, 4, 32), "end at 65504"),
        ((good, 3, 32), "2, 4 or 8 bits"),
        ((good, 4, 0), "positive integer"),
        ((good[0, 0], 4, 32), "must have shape"),
    ):
        with pytest.raises(ValueError, match=words):
            function(*arguments)
    with pytest.raises(TypeError, match="NumPy array"):
        function(torch.zeros(1, 4, 8), 4, 32)


@pytest.mark.parametrize(("name", "kind"), [("e4m3", torch.float8_e4m3fn), ("e5m2", torch.float8_e5m2)])
def test_fp8_tables_are_those_of_torch_bit_for_bit(name, kind):
    theirs = torch.arange(256, dtype=torch.uint8).view(kind).float().numpy()
    np.testing.assert_array_equal(fp8_table(name), theirs)


@pytest.mark.parametrize(("name", "kind"), [("e4m3", torch.float8_e4m3fn), ("e5m2", torch.float8_e5m2)])
def test_fp8_rounds_as_torch_does_and_saturates(name, kind, rng):
    top = float(np.nanmax(fp8_table(name)[np.isfinite(fp8_table(name))]))
    x = np.concatenate([rng.standard_normal(2000) * 10.0 ** rng.integers(-6, 2, 2000), [0, -0.0, top, -top]])
    between = (fp8_table(name)[:60] + fp8_table(name)[1:61]) / 2  # halfway cases
    x = np.clip(np.concatenate([x, between, -between]), -top, top).astype(np.float32)
    np.testing.assert_array_equal(to_fp8(x, name), torch.from_numpy(x).to(kind).view(torch.uint8).numpy())
    assert from_fp8(to_fp8(np.float32([1e9, -1e9, np.inf]), name), name).tolist() == [top, -top, top]


def test_fp8_numbers_survive_and_unknown_formats_and_nan_are_refused():
    for name in ("e4m3", "e5m2"):
        finite = fp8_table(name)[np.isfinite(fp8_table(name))]
        np.testing.assert_array_equal(from_fp8(to_fp8(finite, name), name), finite)
        assert quantize_fp8(finite, name).nbytes == finite.size
    with pytest.raises(ValueError, match="'e3m4' is unknown"):
        fp8_table("e3m4")
    with pytest.raises(ValueError, match="1 NaN"):
        to_fp8(np.float32([1, np.nan]))


@pytest.fixture(scope="module")
def model():
    torch.set_num_threads(1)
    return models.load("target")


@pytest.fixture(autouse=True)
def _restored(request):
    yield
    if "model" in request.fixturenames:
        request.getfixturevalue("model").restore()


def test_a_cache_whose_window_holds_all_changes_nothing(model):
    tokens = models.held_out_tokens()[:90].view(1, -1)
    expected = model.prefill(tokens)[0]
    model.cache_factory = LowBitCache.factory(bits=2, window=128)
    kv_cache = None
    parts = []
    for some in tokens.split(30, 1):
        logits, kv_cache = model.prefill(some, kv_cache)
        parts.append(logits)
    torch.testing.assert_close(torch.cat(parts, 1), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bits", [8, 4])
def test_attention_on_the_packed_form_gives_the_logits_of_the_decoded_form(model, bits):
    tokens = models.held_out_tokens()[:150].view(1, -1)
    logits = []
    for packed in (False, True):
        use_low_bit_cache(model, bits=bits, window=8)
        if not packed:
            model.cache_factory = LowBitCache.factory(bits=bits, window=8)
        _, kv_cache = model.prefill(tokens[:, :-4])
        logits.append(torch.cat([model.decode(t, kv_cache) for t in tokens[:, -4:].split(1, 1)], 1))
        assert kv_cache.length == 150 and kv_cache.layers[0][0].tokens == 128
    assert (logits[0] - logits[1]).norm() < 0.03 * logits[0].norm()


def test_bytes_of_the_cache_follow_the_layout(model):
    model.cache_factory = LowBitCache.factory(bits=4, group_size=32, window=0)
    _, kv_cache = model.prefill(models.held_out_tokens()[:130].view(1, -1))
    per_head = 128 * 32 // 2 * 2 + 4 * 32 * 4 + 128 * 4 + 2 * 2 * 32 * 4  # codes, key sides, value sides, two exact
    assert kv_cache.nbytes == 8 * 4 * per_head


def test_rows_of_different_lengths_may_share_a_cache(model):
    tokens = models.held_out_tokens()[:64]
    model.cache_factory = LowBitCache.factory(bits=8, window=0)
    rows = torch.stack([tokens, torch.cat([torch.zeros(10, dtype=torch.long), tokens[:54]])])
    logits, kv_cache = model.prefill(rows, padding=torch.tensor([0, 10]))
    after = model.decode(tokens[:2].view(2, 1), kv_cache)
    assert logits.shape == (2, 64, 1024) and bool(after.isfinite().all())


def test_encoded_cache_keeps_any_code_and_counts_its_bytes(model):
    model.cache_factory = EncodedCache.factory(lambda k: quantize_keys(k, 8, 32, "channels"), quantize_fp8)
    found, nbytes = perplexity_in_parts(model, models.held_out_tokens(), 64, 128, part=16)
    model.restore()
    exact, _ = perplexity_in_parts(model, models.held_out_tokens(), 64, 128, part=16)
    assert nbytes == 8 * 4 * (32 + 4 + 32)
    assert math.isclose(found, exact, rel_tol=0.02)


def test_two_bits_still_answer_questions_and_perplexity_rises_as_bits_fall(model):
    questions = tasks.recall_questions(load_tokenizer("target"), 12, pairs=16, seed=3)
    found = {}
    for bits in (8, 2):
        model.cache_factory = LowBitCache.factory(bits=bits, window=0)
        found[bits] = perplexity_in_parts(model, models.held_out_tokens(), 256, 512, part=64)[0]
    assert recall_in_parts(model, questions) > 0.5
    assert found[2] > found[8]
