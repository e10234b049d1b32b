"""Filtered keys: bits refine, the best key survives, thresholds are those of the definition, bits are counted once."""

import numpy as np
import pytest
import torch
from edgeinfer import models
from edgeinfer.kernels import energon
from edgeinfer.models.decoder import attend
from hypothesis import given, settings
from hypothesis import strategies as st


def drawn(seed, heads, queries, tokens, channels):
    rng = np.random.default_rng(seed)
    return tuple(rng.standard_normal((heads, n, channels)).astype(np.float32) for n in (queries, tokens))


def filtered_by_loops(query, keys, bits, alpha):
    """The definition, one query and one key at a time."""
    out = []
    for q in query:
        alive = list(range(len(keys)))
        for width, a in zip(bits, alpha, strict=True):
            seen = energon.leading_bits(keys, width)
            scores = {s: float(np.dot(q, seen[s])) for s in alive}
            mean = sum(scores.values()) / len(scores)
            end = max(scores.values()) if a >= 0 else min(scores.values())
            bar = (1 - abs(a)) * mean + abs(a) * end
            alive = [s for s in alive if scores[s] >= bar - 1e-5 * abs(bar) - 1e-6]
        out.append(alive)
    return out


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 4),
    st.integers(1, 40),
    st.integers(1, 33),
    st.sampled_from([(2,), (2, 4), (1, 3, 8)]),
    st.floats(-0.9, 0.9),
    st.integers(0, 2**31),
)
def test_survivors_are_those_of_the_definition(queries, tokens, channels, bits, alpha, seed):
    query, keys = drawn(seed, 1, queries, tokens, channels)
    found = energon.filter_keys(query, keys, bits, alpha)
    for row, alive in zip(found.kept[0], filtered_by_loops(query[0], keys[0], bits, [alpha] * len(bits)), strict=True):
        assert set(np.flatnonzero(row)) <= set(alive) and row.any()
        assert len(alive) - row.sum() <= 1  # one key may lie on the bar, on either side of rounding


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 20), st.integers(1, 30), st.integers(0, 2**31))
def test_more_bits_refine_what_fewer_said(tokens, channels, seed):
    keys = drawn(seed, 1, 1, tokens, channels)[1]
    largest = np.abs(keys).max(-1, keepdims=True)
    for bits in range(1, 9):
        width = largest * 2 / 2**bits
        assert (np.abs(energon.leading_bits(keys, bits) - keys) <= width * 0.52 + 1e-6).all()
    # Four bits never leave the interval that two bits opened.
    step = largest * 2 / 4 / 255 * 256
    assert (np.abs(energon.leading_bits(keys, 4) - energon.leading_bits(keys, 2)) <= step / 2 + 1e-6).all()


def test_bits_are_read_once():
    query, keys = drawn(0, 1, 3, 50, 16)
    found = energon.filter_keys(query, keys, (2, 4))
    first, last = found.rounds[0].sum(-1), found.kept.sum(-1)
    np.testing.assert_array_equal(found.bits_read(), 2 * 50 + 2 * first + (4 + 8) * last)
    np.testing.assert_array_equal(found.bits_dense(), np.full((1, 3), 16 * 50))


def test_masked_keys_never_survive_and_higher_alpha_keeps_fewer():
    query, keys = drawn(1, 2, 6, 6, 32)
    causal = np.tril(np.ones((6, 6), bool))
    kept = [energon.filter_keys(query, keys, alpha=a, mask=causal).kept for a in (-0.5, 0.0, 0.5)]
    for one in kept:
        assert not (one & ~causal).any() and one.any(-1).all()
    assert kept[0].sum() > kept[1].sum() > kept[2].sum()


def test_a_key_that_stands_out_is_found():
    query, keys = drawn(2, 1, 4, 200, 64)
    keys[0, 77] = 3 * query[0, 2]
    assert energon.filter_keys(query, keys, alpha=0.3).kept[0, 2, 77]


def test_equal_scores_all_survive():
    query, keys = drawn(3, 1, 2, 5, 8)
    keys[:] = keys[:, :1]
    assert energon.filter_keys(query, keys).kept.all()


def test_wrong_input_gets_one_sentence():
    query, keys = drawn(0, 1, 2, 5, 8)
    for arguments, words in (
        ((query, keys, (4, 2)), "more and more bits"),
        ((query, keys, ()), "more and more bits"),
        ((query, keys, (2, 9)), "1 to 8 bits"),
        ((query, keys, (2, 4), (0.1,)), "one alpha, or one for each"),
        ((query, keys, (2, 4), 1.1), "between -1 and 1"),
        ((query, keys[:, :0]), "no key"),
        ((query, keys[..., :3]), "as many channels"),
        ((query * np.nan, keys), "NaN"),
    ):
        with pytest.raises(ValueError, match=words):
            energon.filter_keys(*arguments)


@pytest.mark.parametrize("batch", [1, 2])
def test_attention_that_keeps_all_is_the_decoder_s_own(batch):
    torch.set_num_threads(1)
    model = models.load("target")
    tokens = models.held_out_tokens()[: 20 * batch].view(batch, 20)
    expected = model.prefill(tokens)[0]
    counted = energon.FilteredAttention(bits=(8,), alpha=-1.0)
    model.attention = counted
    torch.testing.assert_close(model.prefill(tokens)[0], expected, rtol=1e-3, atol=1e-3)
    assert counted.kept > 0.99 and counted.recall > 0.99 and counted.traffic > 0.99


def test_attention_over_survivors_is_attention_with_their_mask():
    rng = torch.Generator().manual_seed(0)
    query, keys, values = (torch.randn(1, h, 5, 16, generator=rng) for h in (4, 2, 2))
    mask = torch.ones(5, 5, dtype=torch.bool).tril()
    found = energon.FilteredAttention(alpha=0.1)(query, keys, values, mask, 0)
    kept = energon.filter_keys(
        query.reshape(1, 2, 2, 5, 16).numpy(), keys[:, :, None].numpy(), alpha=0.1, mask=mask.numpy()
    ).kept
    expected = attend(query, keys, values, torch.from_numpy(kept).reshape(1, 4, 5, 5), 0)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
