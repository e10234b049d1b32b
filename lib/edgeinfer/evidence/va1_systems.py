"""V.A.1, formats for real chips: an embedding that stays in its file, shadow outliers, codes in the shape of a float.

Perplexities are those of the shipped model on held-out text; calibration takes another part of it. Knows kernels,
caches and the model, no page and no plot. Source: mnn-llm, mllm-npu, transformer-lite.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgeinfer.evidence.protocol import Claim, Evidence, Result, evidence
from edgeinfer.evidence.va1_quantization import GROUP, TOKENS, Subject

# ---------------------------------------------------------------- MNN-LLM


@evidence("mnn-llm")
def mnn_llm() -> Evidence:
    """Asymmetric against symmetric, the zero point in integers, and what stays in memory without the embedding."""
    import torch

    from edgeinfer import kernels, models
    from edgeinfer.evidence.vc3_contexts import kv_on_disk_results
    from edgeinfer.kernels.mnn_weights import FileEmbedding, combine, folded_dot, resident_16_bit, subtracted_dot
    from edgeinfer.models.checkpoint import find_folder

    subject = Subject()
    base = subject.perplexity()
    grids: dict[tuple[int, bool], float] = {}
    for bits, symmetric in ((4, True), (4, False), (2, True), (2, False)):
        rounded = {n: kernels.quantize_groupwise(w, bits, GROUP, symmetric) for n, w in subject.weights.items()}
        grids[bits, symmetric] = subject.perplexity({n: q.dequantize() for n, q in rounded.items()})
    layer = kernels.quantize_per_channel(subject.weights["layers.3.mlp.gate_proj"], 4, symmetric=False)
    x = np.random.default_rng(0).integers(-127, 128, layer.shape[1]) + 5  # activations are not centred
    codes, zero = layer.codes, layer.zero_point[:, 0]
    exact = subtracted_dot(codes, zero, x)
    wrong = codes.astype(np.int64) @ x - zero.astype(np.int64) * layer.shape[1]
    subject.put(subject.weights)
    model, tokens = subject.model, subject.text[:64][None]
    before, _ = model.prefill(tokens)
    head = model.state_dict()["model.embed_tokens.weight"].float().numpy()
    with FileEmbedding(find_folder("target") / "model.safetensors") as table:
        model.embed = table  # type: ignore[method-assign]
        difference = float((model.prefill(tokens)[0] - before).abs().max())
        whole, small = resident_16_bit(model), combine(model, head)
        combined = models.perplexity(model, subject.text, max_tokens=subject.tokens)
        logits, cache = model.prefill(tokens)
        read = table.bytes_read
        model.decode(torch.argmax(logits[:, -1:], -1), cache)
        read = table.bytes_read - read
    results = [
        Result("sums that differ when the zero point is folded", int((folded_dot(codes, zero, x) != exact).sum()), "1",
               "measured", f"{len(exact)} rows of a trained layer, integers"),
        Result("error when the number of columns stands for the activation sum",
               float(np.linalg.norm(wrong - exact) / np.linalg.norm(exact)), "1", "measured", "relative; the trap"),
        Result("perplexity, not quantized", base, "1", "measured", f"{TOKENS} held-out tokens"),
        *[Result(f"perplexity, {b} bits, {'symmetric' if s else 'asymmetric'}", value, "1", "measured",
                 f"groups of {GROUP}") for (b, s), value in grids.items()],
        Result("largest difference of a logit, embedding in its file", difference, "1", "measured"),
        Result("bytes of the file that a decoded token reads", read, "bytes", "measured", "one row"),
        Result("bytes in memory, 16 bits", whole.total, "bytes", "measured", "embedding and head are one table here"),
        Result("bytes in memory, 4-bit layers, 8-bit head, embedding in its file", small.total, "bytes", "measured",
               "without keys and values"),
        Result("perplexity of that", combined, "1", "measured", "int8 activations"),
        *kv_on_disk_results(),
    ]  # fmt: skip
    claim = Claim(
        "Quantization and an embedding table kept in flash reduce the memory that a phone needs; with weights laid out "
        "for the chip the engine is up to 8.6 times as fast as others.",
        8.6,
        "x",
        "mobile CPU and GPU",
        "mnn-llm",
        verified=True,
    )
    holds = difference == 0 and small.total < whole.total / 2.5 and combined < 1.05 * base
    reason = (
        "Shape only, and of the memory: the logits are the same bits, one row is read for a token, and less than half "
        "of the bytes stay in memory. The speed on a phone is not measured here. This model's head is its embedding, "
        "so the table has to stay once, in 8 bits; where the two are separate, the whole embedding leaves."
        if holds
        else "The combined widths cost too much quality or save too little memory here; see the table."
    )
    return Evidence(claim, results, bool(holds), reason)


# ---------------------------------------------------------------- mllm-NPU

LOUD_CHANNELS, STRENGTH = (17, 80, 141, 222), 30.0


def loud_subject(channels: tuple[int, ...] = LOUD_CHANNELS, strength: float = STRENGTH) -> Subject:
    """The shipped model with outlier channels: norms scaled up, the columns after them down, the function unchanged.

    The model is too small to grow outliers, so they are injected: a simulated cause for a measured effect.
    """
    subject = Subject()
    state, picked = subject.model.state_dict(), list(channels)
    after = {
        "input_layernorm": ("attention.q_proj", "attention.k_proj", "attention.v_proj"),
        "post_attention_layernorm": ("mlp.gate_proj", "mlp.up_proj"),
    }
    for layer in range(subject.model.config.num_hidden_layers):
        for norm, followers in after.items():
            state[f"model.layers.{layer}.{norm}.weight"][picked] *= strength
            for follower in followers:
                subject.weights[f"layers.{layer}.{follower}"][:, picked] /= strength
    return subject


@dataclass(frozen=True)
class Shadowed:
    """Perplexity with one fixed scale per tensor, and outlier channels of a layer for a chunk of 256 tokens."""

    perplexity: float
    channels: float


def shadowed(subject: Subject, inputs, outliers: float, shadow: bool) -> Shadowed:
    """Run all layers in int8, one scale per weight and one fixed scale per input."""
    from edgeinfer import models
    from edgeinfer.kernels.shadow import shadow_linear

    layers = {n: shadow_linear(w, inputs[n].numpy(), outliers, shadow) for n, w in subject.weights.items()}
    for name, layer in layers.items():
        subject.model.replace_linear(name, layer)
    try:
        value = models.perplexity(subject.model, subject.text, max_tokens=subject.tokens, batch=1)
    finally:
        for name in layers:
            subject.model.replace_linear(name, None)
    calls = sum(layer.calls for layer in layers.values())
    return Shadowed(value, sum(layer.channels for layer in layers.values()) / calls)


@evidence("mllm-npu")
def mllm_npu() -> Evidence:
    """One fixed scale per tensor on a model with outlier channels: stretched, clipped, and with the shadow path."""
    from edgeinfer.kernels.shadow import split_activations, static_scale

    subject = loud_subject()
    base, inputs = subject.perplexity(), subject.calibration()
    stretched = shadowed(subject, inputs, 0.0, False)
    clipped = shadowed(subject, inputs, 0.02, False)
    with_shadow = shadowed(subject, inputs, 0.02, True)
    x = inputs["layers.3.mlp.gate_proj"].numpy()
    scale = static_scale(x, 0.02)
    parts = split_activations(x, scale)
    together = parts.codes * np.float32(scale)
    together[:, parts.columns] += parts.shadow
    twice = np.clip(np.rint(x / scale), -127, 127) * np.float32(scale)  # the trap: clip first, then add the channel
    twice[:, parts.columns] += parts.shadow
    note = f"{TOKENS} held-out tokens; int8 weights and activations, one scale per tensor"
    results = [
        Result("perplexity, float", base, "1", "measured", "outliers injected by an exact rescaling"),
        Result("perplexity, scale fits the outliers", stretched.perplexity, "1", "measured", note),
        Result("perplexity, outliers clipped", clipped.perplexity, "1", "measured", "scale leaves out 2 % of channels"),
        Result("perplexity, shadow path", with_shadow.perplexity, "1", "measured", "same scale as clipped"),
        Result("outlier channels of a layer's input", with_shadow.channels, "1", "measured",
               "mean for 256 tokens; each costs a float column"),
        Result("largest error of the split", float(np.abs(together - x).max() / scale), "steps", "measured",
               "half a step is rounding"),
        Result("error if outliers are clipped and then added as well", float(np.abs(twice - x).max() / scale), "steps",
               "measured", "the trap: counted twice"),
    ]  # fmt: skip
    claim = Claim(
        "Prefill is 22.4 times as fast and takes a thirtieth of the energy (30.7 times less) on average; a "
        "billion-parameter model passes 1,000 tokens/s.",
        22.4,
        "x",
        "smartphone NPU",
        "mllm-npu",
        verified=True,
    )
    reason = (
        "The speed needs an NPU. What it rests on was put to the test: with one scale per tensor the perplexity of "
        f"this model goes from {base:.2f} to {stretched.perplexity:.2f}, or {clipped.perplexity:.2f} when outliers are "
        f"clipped; the shadow path brings it to {with_shadow.perplexity:.2f} for about {with_shadow.channels:.0f} "
        "float columns a layer."
    )
    return Evidence(claim, results, None, reason)


# ---------------------------------------------------------------- Transformer-Lite


def cache_traffic(prompt: int = 128, steps: int = 64) -> dict[str, tuple[int, int, list[int]]]:
    """Name of a cache -> bytes copied, bytes written and tokens, for a greedy answer of `steps` tokens."""
    from edgeinfer import models
    from edgeinfer.memory.kv_in_place import InPlaceCache, JoiningCache

    model, found = models.load("target"), {}
    for name, kind in (("joined", JoiningCache), ("in place", InPlaceCache)):
        model.cache_factory = kind
        logits, kv_cache = model.prefill(models.held_out_tokens()[None, :prompt], last_only=True)
        tokens = []
        for _ in range(steps):
            token = logits[:, -1].argmax(-1, keepdim=True)
            tokens.append(int(token))
            logits = model.decode(token, kv_cache)
        assert isinstance(kv_cache, kind)
        found[name] = (kv_cache.bytes_copied, kv_cache.bytes_written, tokens)
    return found


@evidence("transformer-lite")
def transformer_lite() -> Evidence:
    """Operations per decoded weight, equality with int4, what a code in the exponent would mean, and bytes copied."""
    from edgeinfer.evidence.vc1_buffers import buffer_results
    from edgeinfer.kernels import quantization_error, quantize_groupwise
    from edgeinfer.kernels.float4 import exponent_levels, operations_per_weight, pack_float4

    subject = Subject()
    layer = subject.weights["layers.3.mlp.gate_proj"]
    quantized = quantize_groupwise(layer, 4, GROUP, symmetric=False)
    packed = pack_float4(quantized)
    by_float, by_integer = packed.dequantize("float"), packed.dequantize("integer")
    steps = np.abs(by_float.astype(np.float32) - quantized.dequantize()) / np.repeat(quantized.scale, GROUP, 1)
    work = {name: operations_per_weight(packed, name) for name in ("float", "integer")}
    base = subject.perplexity()
    spaced = subject.with_each(
        lambda w: pack_float4(quantize_groupwise(w, 4, GROUP, symmetric=False)).dequantize().astype(np.float32)
    )
    powers = subject.with_each(lambda w: exponent_levels(w, GROUP))
    traffic = cache_traffic()
    joined, placed = traffic["joined"], traffic["in place"]
    results = [
        Result("bit operations per weight, code in the fraction", work["float"]["bit operations"], "1", "measured",
               "and, or, and a shift for two of them; counted while decoding"),
        Result("the same for an integer code", work["integer"]["bit operations"], "1", "measured",
               "shift, and, and a conversion to half"),
        Result("conversions per weight, code in the fraction", work["float"].get("convert", 0.0), "1", "measured"),
        Result("weights in which the two decoders differ", int((by_float != by_integer).sum()), "1", "measured",
               f"of {by_float.size:,}"),
        Result("largest difference from int4 in float32", float(steps.max()), "steps", "measured", "rounding to half"),
        Result("error, code in the fraction", quantization_error(layer, by_float.astype(np.float32)), "1", "measured"),
        Result("error, code in the exponent", quantization_error(layer, exponent_levels(layer, GROUP)), "1", "measured",
               "a sign and a power of two"),
        Result("perplexity, not quantized", base, "1", "measured", f"{TOKENS} held-out tokens"),
        Result("perplexity, code in the fraction", spaced, "1", "measured"),
        Result("perplexity, code in the exponent", powers, "1", "measured"),
        Result("bytes of old keys and values copied, joined", joined[0], "bytes", "measured", "128 + 64 tokens"),
        Result("bytes of old keys and values copied, in place", placed[0], "bytes", "measured", "same tokens come out"
               if joined[2] == placed[2] else "other tokens come out"),
        Result("bytes written by either", placed[1], "bytes", "measured"),
        *buffer_results(),
    ]  # fmt: skip
    claim = Claim(
        "Prefill is over ten times and decode two to three times as fast as with FastLLM on the CPU and MLC-LLM on the "
        "GPU.",
        10,
        "x",
        "mobile phone GPU",
        "transformer-lite",
        verified=True,
    )
    saved = joined[0] / joined[1]
    reason = (
        "The speed needs a phone's GPU. Three of its four techniques were put to the test: the decoded weights are the "
        f"bits of int4 without any conversion, {work['float']['bit operations']:g} bit operations for each, and "
        f"writing in place copies nothing, where joining copies {saved:.0f} times what is new. One plan of the "
        "buffers, made once, holds for every length."
    )
    return Evidence(claim, results, None, reason)
