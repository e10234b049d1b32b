"""Evidence for attention that leaves out tokens and heads: SpAtten, on the shipped model; and a race of its kernels.

SpAtten's verdict rests on bits that are counted; a time is a ratio of two things timed in one run. Sources: spatten.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeinfer.evidence.protocol import Claim, Evidence, Result, evidence
from edgeinfer.evidence.va1_kv import PAIRS, PREDICTED, QUESTIONS, Quality, quality_of_attention

if TYPE_CHECKING:
    from edgeinfer.measure import Comparison

CASES: dict[str, dict[str, Any]] = {
    "tokens to 75 %": {"keep_tokens": 0.75},
    "tokens to 25 %": {"keep_tokens": 0.25},
    "tokens to 75 %, attention of all queries": {"keep_tokens": 0.75, "gather": "sum"},
    "tokens to 75 %, mean of all queries": {"keep_tokens": 0.75, "gather": "mean"},
    "heads to 50 %": {"keep_tokens": 1.0, "keep_heads": 0.5},
    "high bits first": {"keep_tokens": 1.0, "progressive": 0.1},
    "tokens to 75 % and high bits first": {"keep_tokens": 0.75, "progressive": 0.1},
}


def pruned_quality(
    keep_tokens: float = 1.0, keep_heads: float = 1.0, progressive: float | None = None, gather: str = "query"
) -> tuple[Quality, Any]:
    """Quality of the shipped model with cascade pruning, and the attention that counted.

    Args:
        keep_tokens, keep_heads: shares in the last layer.
        progressive: threshold below which a query fetches the low four bits of the keys; None: eight bits at once.
        gather: whose attention makes a token important, see `CascadePruning`.
    """
    from edgeinfer import models
    from edgeinfer.kernels.spatten import CascadePruning, Progressive

    model = models.load("target")
    bits = None if progressive is None else Progressive(4, progressive)
    pruning = CascadePruning(model.config.num_hidden_layers, keep_tokens, keep_heads, bits, gather)
    model.attention = pruning
    return quality_of_attention(model), pruning


@evidence("spatten")
def spatten() -> Evidence:
    """Bits read against perplexity and recall, for each of the three ideas and two of them together."""
    claim = Claim(
        "DRAM access falls by ten times on average over 30 benchmarks without loss of accuracy.",
        10,
        "x",
        "simulated accelerator",
        "spatten",
        verified=True,
    )
    plain, _ = pruned_quality()
    results = [
        Result("perplexity, nothing pruned", plain.perplexity, "1", "measured", f"{PREDICTED} tokens of held-out text"),
        Result("recall task, nothing pruned", plain.recall, "1", "measured", f"{QUESTIONS} questions, {PAIRS} pairs"),
    ]
    found: dict[str, tuple[Quality, Any]] = {}
    for name, options in CASES.items():
        found[name] = quality, pruning = pruned_quality(**options)
        results += [
            Result(f"traffic saved, {name}", 1 / pruning.traffic, "x", "measured", "bits of 8-bit keys and values"),
            Result(f"perplexity, {name}", quality.perplexity, "1", "measured"),
            Result(f"recall task, {name}", quality.recall, "1", "measured"),
        ]
        if pruning.progressive is not None:
            share = pruning.fetched / pruning.queries
            results.append(Result(f"queries that fetch the low bits, {name}", share, "1", "measured"))
    lossless = [
        pruning.traffic
        for quality, pruning in found.values()
        if quality.perplexity < 1.02 * plain.perplexity and quality.recall >= plain.recall
    ]
    saved = 1 / min(lossless, default=1.0)
    results.append(Result("most traffic saved at less than 2 % more perplexity", saved, "x", "measured"))
    reason = (
        f"With perplexity within 2 % and recall unchanged, {saved:.2f} times less is read here, not ten times: reading "
        "the high bits first costs little, but tokens pruned from contexts of 256 in a model of 8 layers are missed. "
        "The paper averages over 30 benchmarks; its accelerator is not modelled here."
    )
    return Evidence(claim, results, bool(saved >= 5), reason)


# ---------------------------------------------------------------- kernels


def attention_against_others(
    heads: int = 32,
    kv_heads: int = 8,
    tokens: int = 4096,
    width: int = 128,
    rounds: int = 15,
    copies: int = 4,
    max_seconds: float = 4.0,
    seed: int = 0,
) -> Comparison:
    """Time attention of one token over a cache of 8, 4 and 2 bits and over torch's floats, one thread, interleaved.

    Args:
        heads, kv_heads: of the query and of the cache.
        tokens, width: S and D.
        rounds: shuffled rounds.
        copies: of each cache, so that keys and values come from memory.
        max_seconds: no new round starts later.
        seed: of all numbers.

    Returns:
        The comparison; its baseline is "torch bf16".
    """
    import torch
    from torch.nn import functional

    from edgeinfer import kernels, measure

    rng = np.random.default_rng(seed)
    keys, values = (rng.standard_normal((kv_heads, tokens, width), np.float32) for _ in range(2))
    query = rng.standard_normal((heads, width), np.float32)
    contenders: dict[str, Callable[[], object]] = {}
    work = {}
    for name, kind in (("torch bf16", torch.bfloat16), ("torch fp32", torch.float32)):
        pairs = [tuple(torch.from_numpy(x)[None].to(kind, copy=True) for x in (keys, values)) for _ in range(copies)]
        q = torch.from_numpy(query)[None, :, None].to(kind)
        grouped = q.view(kv_heads, heads // kv_heads, width)

        def fused(pair: Any, q: torch.Tensor = q) -> Any:
            return functional.scaled_dot_product_attention(q, pair[0], pair[1], enable_gqa=True)

        def by_hand(pair: Any, q: torch.Tensor = grouped) -> Any:
            return (q @ pair[0][0].transpose(1, 2) * width**-0.5).softmax(-1) @ pair[1][0]

        contenders[name] = measure.rotating(fused, pairs)
        contenders[f"{name}, two products by hand"] = measure.rotating(by_hand, pairs)
        for both in (name, f"{name}, two products by hand"):
            work[both] = measure.Work(bytes=2 * pairs[0][0].nbytes)
    for bits in (8, 4, 2):
        packed = [kernels.pack_kv(keys, values, bits, (128, width))]
        for _ in range(2 * copies):
            other = copy.copy(packed[0])
            other.arrays = [array.copy() for array in other.arrays]
            packed.append(other)
        name = f"this book, {bits} bits"
        contenders[name] = measure.rotating(lambda p: kernels.attend_low_bit(query, p), packed)
        work[name] = measure.Work(bytes=packed[0].nbytes)
    return measure.compare(contenders, "torch bf16", rounds, max_seconds=max_seconds, sample_seconds=0.001, work=work)
