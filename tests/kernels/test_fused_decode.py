"""The fused step against the decoder with the same quantized layers, token by token."""

import dataclasses

import numpy as np
import pytest
import torch
from edgeinfer import models
from edgeinfer.kernels import KernelLinear, fused_decode, quantize_groupwise, quantize_model, simd
from edgeinfer.kernels.fused_decode import FusedDecoder

TOKENS = models.held_out_tokens()[:40]


def quantized(name: str):
    """A shipped model with its layers replaced, and what `quantize_model` found."""
    model = models.load(name)
    found = quantize_model(model, 4, 64)
    head = model.state_dict()["model.embed_tokens.weight"].numpy()
    model.replace_linear("lm_head", KernelLinear(quantize_groupwise(head, 8, 64)))
    return model, found


@pytest.fixture(scope="module")
def draft():
    return quantized("draft")


@pytest.mark.parametrize("name", ["draft", "relu"])
def test_every_step_equals_the_decoders(name):
    model, found = quantized(name)
    fused, (_, kv_cache) = FusedDecoder(model, found), model.prefill(TOKENS[None, :1])
    fused.step(int(TOKENS[0]))
    for token in TOKENS[1:].tolist():
        wanted = model.decode(torch.tensor([[token]]), kv_cache)[0, 0].numpy()
        # Sums in another order change an activation's code now and then: the error of one code, not of a layer.
        assert np.abs(fused.step(token) - wanted).max() < 0.05 * np.abs(wanted).max()
    assert fused.length == len(TOKENS)


def test_generation_equals_the_decoders(draft):
    model, found = draft
    assert torch.equal(FusedDecoder(model, found).generate(TOKENS, 12), models.generate(model, TOKENS, 12))


def test_four_bits_cost_less_than_four_percent_of_perplexity():
    model = models.load("target")
    fused = FusedDecoder(model, quantize_model(model, 4, 64, attach="none"))
    tokens, total = models.held_out_tokens()[:1025], 0.0
    for row, labels in zip(tokens[:-1].view(4, 256), tokens[1:].view(4, 256), strict=True):
        fused.reset()
        logits = np.stack([fused.step(token) for token in row.tolist()])
        total += torch.nn.functional.cross_entropy(torch.from_numpy(logits), labels, reduction="sum").item()
    assert np.exp(total / 1024) < 1.04 * models.perplexity(model, tokens)


@pytest.mark.skipif(not simd.available(), reason=f"one path only: {simd.why_portable()}")
def test_both_paths_agree(draft, monkeypatch):
    first = FusedDecoder(*draft)
    monkeypatch.setattr(simd, "available", lambda: False)
    second = FusedDecoder(*draft)
    assert first._step is fused_decode._vector_step and second._step is fused_decode._portable_step
    for token in TOKENS[:8].tolist():
        np.testing.assert_allclose(first.step(token), second.step(token), rtol=1e-5, atol=1e-5)


def test_a_full_cache_and_a_foreign_token_are_told(draft):
    fused = FusedDecoder(*draft, max_tokens=2)
    fused.step(1)
    with pytest.raises(ValueError, match=r"token 4096 is none of the \d+ of this model"):
        fused.step(4096)
    fused.step(2)
    with pytest.raises(ValueError, match="holds 2 tokens and is full"):
        fused.step(3)
    fused.reset()
    fused.step(3)


@pytest.mark.parametrize(
    ("name", "change", "sentence"),
    [
        ("moe", {}, "takes dense models"),
        ("draft", {"bits": 2}, "takes weights of 4 bits"),
        ("draft", {"weights": {}}, "was not quantized; a fused step needs all of them"),
    ],
)
def test_what_a_fused_step_cannot_do_is_told(draft, name, change, sentence):
    with pytest.raises(ValueError, match=sentence):
        FusedDecoder(models.load(name), dataclasses.replace(draft[1], **change))


def test_weights_that_are_no_numbers_are_told(draft):
    fused = FusedDecoder(*draft)
    fused._weights[5][0, 0] = np.nan
    with pytest.raises(ValueError, match="NaN or infinite"):
        fused.step(1)
