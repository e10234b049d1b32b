"""Evidence for the caches and filters of keys and values: MiniCache and Energon, on the shipped model.

Verdicts rest on bytes, perplexity and the recall task; no time is measured. Sources: minicache, energon.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeinfer.evidence.protocol import Claim, Evidence, Result, evidence

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgeinfer.models import Decoder

CONTEXT, PREDICTED = 256, 768  # tokens of a window, and of all windows
QUESTIONS, PAIRS = 24, 24


@dataclass(frozen=True)
class Quality:
    """Perplexity on held-out text, share of recall questions answered, and bytes of the cache per token."""

    perplexity: float
    recall: float
    bytes_per_token: float


def quality_of_cache(model: Decoder, part: int = 32) -> Quality:
    """Judge a decoder whose cache has been set: text and questions are read `part` tokens at a time."""
    from edgeinfer import models
    from edgeinfer.kernels.kv_cache import perplexity_in_parts, recall_in_parts
    from edgeinfer.models import tasks
    from edgeinfer.models.checkpoint import load_tokenizer

    found, nbytes = perplexity_in_parts(model, models.held_out_tokens(), CONTEXT, PREDICTED, part)
    questions = tasks.recall_questions(load_tokenizer("target"), QUESTIONS, PAIRS, seed=1)
    return Quality(found, recall_in_parts(model, questions, part), nbytes)


def quality_of_attention(model: Decoder) -> Quality:
    """Judge a decoder whose attention has been set: every query of a window goes through it."""
    return quality_of_cache(model, part=CONTEXT)


def cached_layers(tokens: int = 256) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Keys and values of the shipped model on held-out text: two arrays (layers, H, tokens, D) float32."""
    from edgeinfer import models

    model = models.load("target")
    _, kv_cache = model.prefill(models.held_out_tokens()[:tokens].view(1, -1))
    layers: Any = kv_cache
    sides = zip(*(layers.layer(number) for number in range(model.config.num_hidden_layers)), strict=True)
    keys, values = (np.stack([x[0].float().numpy() for x in side]) for side in sides)
    return keys, values


def neighbour_similarity(layers: NDArray[np.float32]) -> NDArray[np.float64]:
    """Mean cosine between each layer and the next, (layers - 1,), from (layers, H, tokens, D)."""
    from edgeinfer.kernels import minicache

    return np.array([minicache.cosine_similarity(a, b).mean() for a, b in pairwise(layers)])


# ---------------------------------------------------------------- MiniCache


def merged_quality(start: int, keep: float) -> Quality:
    """Quality of the shipped model when layers from `start` on are merged in pairs and a share of tokens is kept."""
    from edgeinfer import models
    from edgeinfer.kernels import minicache

    model = models.load("target")
    model.cache_factory = minicache.MergedCache.factory(start=start, keep=keep)
    return quality_of_cache(model)


@evidence("minicache")
def minicache() -> Evidence:
    """Similarity of neighbouring layers, and bytes of the merged cache against perplexity and recall."""
    claim = Claim(
        "Merging the caches of neighbouring layers compresses that of LLaMA-2-7B 1.53 times on ShareGPT, nearly "
        "without loss; with 4-bit codes besides, up to 5.02 times.",
        1.53,
        "x",
        "GPU",
        "minicache",
        verified=True,
    )
    keys, values = cached_layers()
    near = {"keys": neighbour_similarity(keys), "values": neighbour_similarity(values)}
    layers = len(keys)
    full = merged_quality(layers, 0)  # nothing merged: everything in float16
    half = {keep: merged_quality(layers // 2, keep) for keep in (0.0, 0.05, 0.2)}
    results = [
        Result("bytes per token, full cache", full.bytes_per_token, "B", "measured", "float16, all layers"),
        Result("perplexity, full cache", full.perplexity, "1", "measured", f"{PREDICTED} tokens of held-out text"),
        Result("recall, full cache", full.recall, "1", "measured", f"{QUESTIONS} questions, {PAIRS} pairs each"),
    ]
    for name, similarity in near.items():
        for part, some in (("lower", similarity[: layers // 2]), ("upper", similarity[layers // 2 :])):
            text = f"mean cosine of neighbouring layers, {name}, {part} half"
            results.append(Result(text, float(some.mean()), "1", "measured"))
    for keep, found in half.items():
        name = f"upper half merged, {keep:.0%} of tokens kept"
        results += [
            Result(f"compression, {name}", full.bytes_per_token / found.bytes_per_token, "x", "measured"),
            Result(f"perplexity, {name}", found.perplexity, "1", "measured"),
            Result(f"recall, {name}", found.recall, "1", "measured"),
        ]
    loss = half[0.05].perplexity / full.perplexity - 1
    holds = loss < 0.02 and full.bytes_per_token / half[0.05].bytes_per_token > 1.1
    reason = (
        "The upper half of the layers can be merged nearly without loss here, too."
        if holds
        else f"The bytes fall as they must, but perplexity rises by {loss:.0%}. In this model of 8 layers the "
        "directions of neighbouring layers have nothing in common (cosines near 0), so a shared one suits neither; the "
        "paper relies on the high similarity that it finds in the middle and deep layers of large models."
    )
    return Evidence(claim, results, bool(holds), reason)


# ---------------------------------------------------------------- Energon


def filtered_quality(alpha: float, bits: tuple[int, ...] = (2, 4)) -> tuple[Quality, Any]:
    """Quality with filtered keys, and the attention that counted."""
    from edgeinfer import models
    from edgeinfer.kernels import energon

    model = models.load("target")
    counted = energon.FilteredAttention(bits, alpha)
    model.attention = counted
    return quality_of_attention(model), counted


def random_keys_quality(share: float, seed: int = 0) -> Quality:
    """The control: each query keeps as many keys, but drawn at random (its own token always)."""
    import torch

    from edgeinfer import models
    from edgeinfer.models.decoder import attend

    rng = torch.Generator().manual_seed(seed)

    def attention(query: Any, keys: Any, values: Any, mask: Any, layer: int) -> Any:
        B, heads, T, _ = query.shape
        S = keys.shape[2]
        kept = torch.rand(B, heads, T, S, generator=rng) < share
        kept[:, :, torch.arange(T), torch.arange(S - T, S)] = True
        return attend(query, keys, values, kept if mask is None else kept & mask, layer)

    model = models.load("target")
    model.attention = attention
    return quality_of_attention(model)


@evidence("energon")
def energon() -> Evidence:
    """Keys kept, bits read and quality against the threshold; how well two and four bits find the largest scores."""
    claim = Claim(
        "On language and vision benchmarks, filtering in rounds of low bits on a co-processor is 168 times as fast as "
        "a Xeon 5220 and 8.7 times as fast as a V100 (geometric means), with negligible loss of accuracy.",
        168,
        "x",
        "simulated co-processor (ASIC)",
        "energon",
        verified=True,
    )
    from edgeinfer import models

    plain = quality_of_attention(models.load("target"))
    results = [
        Result("perplexity, all keys", plain.perplexity, "1", "measured", f"{PREDICTED} tokens of held-out text"),
        Result("recall task, all keys", plain.recall, "1", "measured", f"{QUESTIONS} questions, {PAIRS} pairs each"),
    ]
    measured: dict[float, tuple[Quality, Any]] = {}
    for alpha in (-0.2, 0.0, 0.1):
        measured[alpha] = found, counted = filtered_quality(alpha)
        results += _filter_results(f"alpha {alpha:g}", found, counted)
    one_round, counted = filtered_quality(0.0, (2,))
    results += _filter_results("2 bits only, alpha 0", one_round, counted)
    best, counted = measured[0.0]
    control = random_keys_quality(counted.kept)
    results.append(
        Result("perplexity, as many keys at random", control.perplexity, "1", "measured", "share of alpha 0")
    )
    results += _from_disk()
    rise = best.perplexity / plain.perplexity - 1
    holds = counted.traffic < 0.5 and counted.recall > 0.85 and rise < 0.1 < control.perplexity / plain.perplexity - 1
    reason = (
        f"Shape only: with the mean as threshold {counted.kept:.0%} of the keys enter attention and "
        f"{counted.traffic:.0%} of the bits are read; perplexity rises by {rise:.1%}, which is little but not nothing. "
        "Speed and energy belong to a co-processor that is not modelled here."
    )
    return Evidence(claim, results, bool(holds), reason)


def _from_disk() -> list[Result]:
    """The other side of the list's entry: old keys and values on a slower level, fetched after the filter."""
    from edgeinfer.evidence.vc3_contexts import on_demand

    found = on_demand()
    note = "of all records of 384 tokens, decoding"
    return [
        Result("records on disk that pass the filter, alpha 0", found.wanted, "1", "measured", note),
        Result("lines of 64 bytes that hold them", found.in_lines, "1", "measured", note),
        Result("bytes that the disk gave for them", found.read, "1", "measured", f"{note}; blocks of 4096 bytes"),
    ]


def _filter_results(name: str, found: Quality, counted: Any) -> list[Result]:
    return [
        Result(f"keys kept, {name}", counted.kept, "1", "measured", "of those that a query can see"),
        Result(f"bits read, {name}", counted.traffic, "1", "measured", "of 8-bit keys and values of all tokens"),
        Result(f"largest scores found, {name}", counted.recall, "1", "measured", "the true four largest"),
        Result(f"perplexity, {name}", found.perplexity, "1", "measured"),
        Result(f"recall task, {name}", found.recall, "1", "measured"),
    ]
