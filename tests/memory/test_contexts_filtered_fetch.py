"""Only what passes Energon's filter is read from the disk; the result is that of the same codes in memory."""

import pytest
import torch
from edgeinfer import models
from edgeinfer.kernels.energon import FilteredAttention, leading_bits
from edgeinfer.memory.contexts import FilteredFetch
from edgeinfer.models import PlainCache
from hypothesis import given, settings
from hypothesis import strategies as st


class Rounded(PlainCache):
    """Keys and values as eight bits make them, in memory."""

    def update(self, layer, keys, values):
        def eight(x):
            return torch.from_numpy(leading_bits(x.float().numpy(), 8))

        return super().update(layer, eight(keys), eight(values))


def follow(model, tokens, prompt):
    logits, kept = model.prefill(tokens[:, :prompt], last_only=True)
    rows = [logits[:, -1]]
    for i in range(prompt, tokens.shape[1]):
        rows.append(model.decode(tokens[:, i : i + 1], kept)[:, -1])
    return torch.stack(rows)


@settings(max_examples=6, deadline=None)
@given(
    prompt=st.integers(1, 70),
    steps=st.integers(0, 6),
    together=st.sampled_from([1, 3, 16, 64]),
    alpha=st.sampled_from([-1.0, -0.2, 0.0, 0.3, 1.0]),
    bits=st.sampled_from([(2,), (2, 4), (1, 3)]),
)
def test_the_logits_are_those_of_the_same_codes_in_memory(prompt, steps, together, alpha, bits):
    model = models.load("target")
    tokens = models.held_out_tokens()[: prompt + steps].view(1, -1)
    model.cache_factory, model.attention = Rounded, FilteredAttention(bits, alpha)
    want = follow(model, tokens, prompt)
    fetch = FilteredFetch(model.config, bits, alpha, together)
    model.cache_factory, model.attention = fetch.as_cache, fetch.attention
    torch.testing.assert_close(follow(model, tokens, prompt), want, rtol=1e-4, atol=1e-4)


def test_without_a_filter_everything_is_read_and_with_one_less():
    model = models.load("target")
    tokens = models.held_out_tokens()[:100].view(1, -1)
    wanted = {}
    for alpha in (-1.0, 0.0):
        fetch = FilteredFetch(model.config, alpha=alpha, together=1)
        model.cache_factory, model.attention = fetch.as_cache, fetch.attention
        follow(model, tokens, 96)
        wanted[alpha] = fetch.bytes_wanted / fetch.bytes_all
        assert fetch.bytes_read >= fetch.bytes_in_lines >= fetch.bytes_wanted
    assert wanted[-1.0] == 1.0
    assert wanted[0.0] < 0.8


def test_memory_holds_half_of_the_keys_bits_and_no_values():
    model = models.load("target")
    fetch = FilteredFetch(model.config, together=16)
    model.cache_factory, model.attention = fetch.as_cache, fetch.attention
    model.prefill(models.held_out_tokens()[:160].view(1, -1))
    config = model.config
    heads = config.num_hidden_layers * config.num_key_value_heads
    assert fetch.memory_bytes == heads * 160 * (config.head_dim // 2 + 4)


def test_what_cannot_be_done_is_said_in_one_sentence():
    model = models.load("target")
    with pytest.raises(ValueError, match="no round can read 6"):
        FilteredFetch(model.config, bits=(2, 6))
    with pytest.raises(ValueError, match="together must be at least 1"):
        FilteredFetch(model.config, together=0)
    fetch = FilteredFetch(model.config)
    model.cache_factory, model.attention = fetch.as_cache, fetch.attention
    with pytest.raises(ValueError, match="one conversation, once"):
        model.prefill(models.held_out_tokens()[:8].view(2, 4))
