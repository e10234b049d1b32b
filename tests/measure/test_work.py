"""The formulas of the work agree with a naive count and with what torch really computes."""

import json

import pytest
from edgeinfer.measure import KNOWN_MODELS, ModelShape, torch_flops, work
from hypothesis import given, settings
from hypothesis import strategies as st

LLAMA2_7B = KNOWN_MODELS["Llama-2-7B"]
MIXTRAL = KNOWN_MODELS["Mixtral-8x7B"]

shapes = st.builds(
    lambda vocab, heads, groups, dim, inner, layers, tied: ModelShape(
        vocab, heads * groups * dim, inner, layers, heads * groups, heads, dim, tied
    ),
    st.integers(2, 300),
    st.integers(1, 4),
    st.integers(1, 4),
    st.sampled_from([2, 4, 8]),
    st.integers(1, 64),
    st.integers(1, 3),
    st.booleans(),
)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("Llama-2-7B", 6_738_415_616),
        ("Llama-2-70B", 68_976_648_192),
        ("Llama-3-8B", 8_030_261_248),
        ("Mistral-7B", 7_241_732_096),
        ("Mixtral-8x7B", 46_702_792_704),
    ],
)
def test_published_parameter_counts_come_out(name, parameters):
    assert work.weight_count(KNOWN_MODELS[name])["total"] == parameters


def test_llama2_7b_keeps_half_a_mebibyte_of_keys_and_values_per_token():
    assert work.kv_bytes(LLAMA2_7B, 1) == 512 * 1024


@given(shapes, st.integers(1, 20), st.integers(1, 3), st.booleans())
def test_prefill_equals_a_naive_count(shape, tokens, batch, causal):
    step = work.prefill(shape, tokens, batch, causal=causal, all_logits=True)
    linear = attention = 0
    for _ in range(batch):
        for t in range(tokens):
            for n, k in work.layer_linears(shape).values():
                linear += shape.num_hidden_layers * 2 * n * k
            seen = t + 1 if causal else tokens
            attention += shape.num_hidden_layers * shape.num_attention_heads * seen * 4 * shape.head_dim
    assert (step.flops_linear, step.flops_attention) == (linear, attention)
    assert step.flops_head == 2 * batch * tokens * shape.vocab_size * shape.hidden_size
    assert step.kv_write_bytes == work.kv_bytes(shape, tokens, batch)


@given(shapes, st.integers(1, 20), st.integers(1, 3))
def test_a_causal_prefill_is_as_much_arithmetic_as_decoding_its_tokens(shape, tokens, batch):
    whole = work.prefill(shape, tokens, batch, causal=True, all_logits=True).flops
    assert whole == sum(work.decode(shape, t + 1, batch).flops for t in range(tokens))


@given(shapes, st.integers(1, 50), st.integers(1, 8))
def test_a_batch_shares_the_weights_but_not_the_cache(shape, context, batch):
    one, many = work.decode(shape, context), work.decode(shape, context, batch)
    assert many.weight_bytes == one.weight_bytes
    assert many.kv_read_bytes == batch * one.kv_read_bytes
    assert many.flops == batch * one.flops
    assert many.intensity >= one.intensity * 0.999999


@given(shapes, st.sampled_from([1.6, 2, 4, 8, 16, 32]), st.integers(1, 9))
def test_bytes_scale_with_the_bits(shape, bits, context):
    full, less = work.decode(shape, context), work.decode(shape, context, weight_bits=bits, kv_bits=bits)
    assert less.weight_bytes == pytest.approx(full.weight_bytes * bits / 16)
    assert less.kv_read_bytes == pytest.approx(full.kv_read_bytes * bits / 16)


def test_one_token_of_a_mixture_reads_its_own_experts_and_many_tokens_read_all():
    common = work.active_weights(MIXTRAL, 1)
    all_of_them = work.active_weights(MIXTRAL, 10_000)
    layers = work.weight_count(MIXTRAL)["layers"]
    expert = 32 * 3 * 4096 * 14336
    assert common == pytest.approx(layers - 6 * expert)
    assert all_of_them == pytest.approx(layers)


def test_scales_cost_their_share():
    assert work.bits_with_scales(4, 128) == 4.125
    assert work.bits_with_scales(4, 32, 16, 4) == 4.625
    with pytest.raises(ValueError, match="group_size is 0"):
        work.bits_with_scales(4, 0)


def test_the_token_bound_is_bytes_over_bandwidth_until_the_peak_bounds():
    step = work.decode(LLAMA2_7B, 1)
    assert work.tokens_per_second_bound(step, 100) == pytest.approx(100e9 / step.bytes)
    assert work.tokens_per_second_bound(step, 1e9, peak=1000) == pytest.approx(1e12 / step.flops)


def test_a_shape_is_read_from_dict_object_file_and_folder(tmp_path):
    raw = {
        "vocab_size": 100, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 4, "torch_dtype": "bfloat16",
    }  # fmt: skip
    wanted = ModelShape(100, 64, 128, 2, 4, 4, 16)
    (tmp_path / "config.json").write_text(json.dumps(raw))
    holder = type("Config", (), raw)
    for source in (raw, holder, tmp_path, str(tmp_path / "config.json")):
        assert ModelShape.from_config(source) == wanted


def test_incomplete_and_impossible_shapes_get_one_sentence():
    with pytest.raises(ValueError, match="lacks 'num_attention_heads'"):
        ModelShape.from_config({"vocab_size": 1})
    with pytest.raises(ValueError, match="cannot share 3 key-value heads"):
        ModelShape(10, 8, 8, 1, 4, 3, 2)
    with pytest.raises(ValueError, match="hidden_size is 0"):
        ModelShape(10, 0, 8, 1, 4, 4, 2)
    with pytest.raises(ValueError, match="context is 0"):
        work.decode(LLAMA2_7B, 0)
    with pytest.raises(ValueError, match="batch is 0"):
        work.prefill(LLAMA2_7B, 3, 0)


@pytest.fixture(scope="module")
def target():
    models = pytest.importorskip("edgeinfer.models")
    if "target" not in models.shipped():
        pytest.skip("the target model is not here")
    model = models.load("target")
    model.attention = plain_attention
    return model


def plain_attention(query, keys, values, mask, layer):
    """Attention as two matrix products, which torch's counter sees on every device."""
    import torch

    groups = query.shape[1] // keys.shape[1]
    keys, values = keys.repeat_interleave(groups, 1), values.repeat_interleave(groups, 1)
    scores = query @ keys.transpose(2, 3) / query.shape[-1] ** 0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return torch.softmax(scores, -1) @ values


@settings(max_examples=5, deadline=None)
@given(st.integers(2, 40), st.integers(1, 3))
def test_the_shipped_model_computes_what_the_formula_says(target, tokens, batch):
    torch = pytest.importorskip("torch")
    shape = ModelShape.from_config(target.config)
    prompt = torch.randint(0, shape.vocab_size, (batch, tokens))
    assert torch_flops(lambda: target.prefill(prompt)) == work.prefill(shape, tokens, batch, all_logits=True).flops
    assert torch_flops(lambda: target.prefill(prompt, last_only=True)) == work.prefill(shape, tokens, batch).flops
    _, cache = target.prefill(prompt)
    counted = torch_flops(lambda: target.decode(prompt[:, :1], cache))
    assert counted == work.decode(shape, tokens + 1, batch).flops
    assert cache.nbytes == work.kv_bytes(shape, tokens + 1, batch, kv_bits=32)


def test_the_shipped_model_has_as_many_weights_as_the_formula_says(target):
    shape = ModelShape.from_config(target.config)
    assert target.num_parameters() == work.weight_count(shape)["total"]
