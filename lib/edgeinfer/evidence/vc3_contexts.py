"""Evidence for contexts that do not fit into memory: LLMS, and MNN-LLM's old keys and values on the disk.

The measurements are functions of their own, which the chapter and the lab use, too.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from edgeinfer.evidence.protocol import Claim, Evidence, Result, evidence

if TYPE_CHECKING:
    from torch import Tensor


@cache
def allotment_perplexity(texts: int = 3) -> dict[str, float]:
    """Return the perplexity of 64 tokens after 512 whose chunks of 32 tokens were stored in the bits named."""
    import torch
    from torch.nn import functional

    from edgeinfer import models
    from edgeinfer.memory.contexts import AttentionMass, allot_bits, compress
    from edgeinfer.memory.contexts.density import chunk_density
    from edgeinfer.models import PlainCache

    model, text = models.load("target"), models.held_out_tokens("text")
    total: dict[str, float] = {}
    for start in range(3000, 3000 + 3000 * texts, 3000):
        mass = AttentionMass()
        model.attention = mass
        whole = PlainCache(model.config, 1, torch.float32, 512)
        model.prefill(text[None, start : start + 512], whole, last_only=True)
        model.restore()
        density = chunk_density(mass.per_token(512), 32)
        layers = [whole.layer(n) for n in range(model.config.num_hidden_layers)]
        keys, values = (torch.cat([pair[i] for pair in layers]).numpy() for i in (0, 1))
        ways: dict[str, list[int]] = {"16 bits": [], "8 bits": [8] * 16, "4 bits": [4] * 16, "2 bits": [2] * 16}
        ways["2.5 bits, by attention"] = allot_bits(density, 2.5)
        ways["2.5 bits, against it"] = allot_bits(1 / density, 2.5)
        for name, bits in ways.items():
            stored = keys.copy(), values.copy()
            for n, b in enumerate(bits):
                at = slice(32 * n, 32 * n + 32)
                chunk = compress(32 * n, np.zeros(32, np.int64), keys[:, :, at], values[:, :, at], b)
                stored[0][:, :, at], stored[1][:, :, at] = chunk.keys.dequantize(), chunk.values.dequantize()
            cache = PlainCache(model.config, 1, torch.float32, 640)
            for layer in range(model.config.num_hidden_layers):
                cache.update(layer, *(torch.from_numpy(half[layer : layer + 1]) for half in stored))
            cache.advance(512)
            logits, _ = model.prefill(text[None, start + 512 : start + 576], cache)
            loss = functional.cross_entropy(logits[0], text[start + 513 : start + 577], reduction="sum").item()
            total[name] = total.get(name, 0.0) + loss
    return {name: float(np.exp(loss / (64 * texts))) for name, loss in total.items()}


@dataclass(frozen=True)
class Switching:
    """Two apps of 512 tokens that take turns in a memory for less than one: medians of a call of one token."""

    seconds: float
    bytes_read: float
    recomputed: float


def switching(rounds: int = 2, average_bits: float = 4.0) -> dict[str, Switching]:
    """Let two contexts take turns, for each way to bring chunks back."""
    import torch

    from edgeinfer import models
    from edgeinfer.memory.contexts import ContextService, measure_costs

    model, text = models.load("target"), models.held_out_tokens("text")
    with tempfile.TemporaryDirectory() as place:
        costs = measure_costs(model, place)
        services = {}
        ways: tuple[Literal["recompute", "read", "split"], ...] = ("recompute", "read", "split")
        for name in ways:
            services[name] = ContextService(model, Path(place) / name, 200_000, costs, average_bits=average_bits)
            services[name].loading = name
            for app, first in (("a", 0), ("b", 4000)):
                services[name].run(app, text[first : first + 512])
        times: dict[str, list[tuple[float, float, float]]] = {name: [] for name in services}
        for turn in range(2 * rounds):
            for name, service in services.items():  # interleaved, so that a busy moment meets all of them
                start = time.perf_counter()
                service.run("ab"[turn % 2], torch.tensor([100]))
                last = service.last
                times[name].append((time.perf_counter() - start, last.bytes_read, last.recomputed))
    return {name: Switching(*np.median(np.array(rows), 0).tolist()) for name, rows in times.items()}


def recall_after_switching(average_bits: float, count: int = 12) -> float:
    """Return the share of questions answered after the context had been pushed out by the other questions'."""
    import torch

    from edgeinfer import models
    from edgeinfer.memory.contexts import ContextService, Costs
    from edgeinfer.models import load_tokenizer, tasks

    model, text = models.load("target"), models.held_out_tokens("text").numpy()
    questions = tasks.recall_questions(load_tokenizer("target"), count, 8, text=text, length=128)
    with tempfile.TemporaryDirectory() as place:
        service = ContextService(model, place, 150_000, Costs(1e-4, 1e9, 1e-3), average_bits=average_bits)
        for number, question in enumerate(questions):
            service.run(f"app{number}", torch.from_numpy(question.prompt[:-2]))
        right = [
            int(service.run(f"app{number}", torch.from_numpy(question.prompt[-2:])).argmax()) == question.answer[0]
            for number, question in enumerate(questions)
        ]
    return float(np.mean(right))


def modelled_loading(chunks: int, read_seconds: float, compute_seconds: float) -> dict[str, float]:
    """Return the modelled end of reading all, computing all, and the best split; and the split ("computed")."""
    from edgeinfer.memory.contexts import split_point

    n = split_point([read_seconds] * chunks, [compute_seconds] * chunks)
    return {
        "read": chunks * read_seconds, "recompute": chunks * compute_seconds,
        "split": max(n * compute_seconds, (chunks - n) * read_seconds), "computed": float(n),
    }  # fmt: skip


@evidence("llms")
def llms() -> Evidence:
    """Switching between two contexts by three ways, what few bits cost, and answers after a context was away."""
    quality, ways = allotment_perplexity(), switching()
    close = modelled_loading(16, 3.0, 2.0)
    float16 = 512 * 8 * 4 * 32 * 2 * 2
    ratio = ways["recompute"].seconds / ways["split"].seconds
    results = [
        *(Result(f"perplexity after 512 tokens in {name}", p, "1", "measured") for name, p in quality.items()),
        Result("time to switch, computed again", ways["recompute"].seconds, "s", "measured", "512 tokens"),
        Result("time to switch, split by the cost model", ways["split"].seconds, "s", "measured"),
        Result("chunks computed again in the split", ways["split"].recomputed, "1", "measured", "of 16"),
        Result("switching, computed again over split", ratio, "x", "measured"),
        Result("bytes of a switch, 16-bit cache over chunks", float16 / ways["read"].bytes_read, "x", "measured"),
        Result("recall after switching, 4 bits", recall_after_switching(4.0), "1", "measured", "12 questions"),
        Result("reading all over the split, slow disk", close["read"] / close["split"], "x", "modelled"),
    ]  # fmt: skip
    claim = Claim(
        "Compressed chunks, loaded while others are recomputed, make switching contexts up to two orders of magnitude "
        "quicker than competitive baselines.",
        100,
        "x",
        "several edge devices",
        "llms",
        verified=True,
    )
    ordered = quality["2.5 bits, by attention"] < quality["2.5 bits, against it"]
    return Evidence(
        claim, results, ratio > 1.5 and ordered,
        "the direction holds; the factor is far smaller, since computing this small model again costs little. "
        "With this disk the cost model reads everything; a split pays where reading and computing take about as long",
    )  # fmt: skip


@dataclass(frozen=True)
class DiskCache:
    """Decoding with old keys and values on the disk."""

    seconds: float
    peak_bytes: int
    plain_bytes: int
    prefetched: int
    waited: int
    equal: bool


def kv_on_disk(prefetch: bool = True, prompt: int = 384, tokens: int = 24, recent: int = 32) -> DiskCache:
    """Decode after a prompt with all but `recent` tokens' keys and values on the disk."""
    import torch

    from edgeinfer import models
    from edgeinfer.memory.contexts import FlashKVCache

    model, text = models.load("target"), models.held_out_tokens("text")

    def run() -> tuple[Tensor, Any, float]:
        _, kept = model.prefill(text[None, :prompt], last_only=True)
        start = time.perf_counter()
        rows = [model.decode(text[None, i : i + 1], kept)[0] for i in range(prompt, prompt + tokens)]
        return torch.cat(rows), kept, time.perf_counter() - start

    want, plain, _ = run()
    model.cache_factory = lambda config, batch, dtype: FlashKVCache(
        config, batch, dtype, recent=recent, prefetch=prefetch
    )
    got, disk, seconds = run()
    model.restore()
    disk.close()
    equal = torch.equal(got, want)
    return DiskCache(seconds, disk.peak_bytes, plain.nbytes, disk.prefetched, disk.waited, equal)


def kv_on_disk_results() -> list[Result]:
    """Findings about MNN-LLM's old keys and values on the disk, for its evidence."""
    disk = kv_on_disk()
    under_way = disk.prefetched / (disk.prefetched + disk.waited)
    return [
        Result("KV bytes in memory, old ones on disk, over all", disk.peak_bytes / disk.plain_bytes, "1", "measured",
               "384 tokens, 32 recent in memory"),
        Result("reads under way when the layer asked", under_way, "1", "measured"),
        Result("logits equal with old KV on disk", int(disk.equal), "yes", "measured", "bit for bit"),
    ]  # fmt: skip


@dataclass(frozen=True)
class OnDemand:
    """What a decoder reads of old keys and values on the disk when a filter decides; shares of reading them all."""

    wanted: float
    in_lines: float
    read: float
    requests: float
    memory: float
    equal: bool


@cache
def on_demand(alpha: float = 0.0, together: int = 16, prompt: int = 384, tokens: int = 4) -> OnDemand:
    """Decode with Energon's filter in front of the disk; `requests` for a layer, `memory` over that of all records."""
    import torch

    from edgeinfer import models
    from edgeinfer.kernels.energon import FilteredAttention, leading_bits
    from edgeinfer.memory.contexts import FilteredFetch
    from edgeinfer.models import PlainCache

    class Rounded(PlainCache):
        def update(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
            eight = (torch.from_numpy(leading_bits(x.numpy(), 8)) for x in (keys, values))
            return super().update(layer, *eight)

    model, text = models.load("target"), models.held_out_tokens("text")
    config = model.config

    def run() -> tuple[Tensor, tuple[int, ...]]:
        _, kept = model.prefill(text[None, :prompt], last_only=True)
        before = count(kept)
        rows = [model.decode(text[None, i : i + 1], kept)[0] for i in range(prompt, prompt + tokens)]
        return torch.cat(rows), tuple(now - then for now, then in zip(count(kept), before, strict=True))

    def count(kept: Any) -> tuple[int, ...]:
        if not isinstance(kept, FilteredFetch):
            return ()
        return kept.bytes_wanted, kept.bytes_in_lines, kept.bytes_read, kept.bytes_all, kept.requests

    fetch = FilteredFetch(config, alpha=alpha, together=together)
    model.cache_factory, model.attention = fetch.as_cache, fetch.attention
    got, (wanted, in_lines, read, everything, requests) = run()
    held = fetch.memory_bytes / (everything / tokens)
    fetch.close()
    model.cache_factory, model.attention = Rounded, FilteredAttention(alpha=alpha)
    want, _ = run()
    calls = tokens * config.num_hidden_layers
    equal = bool(torch.allclose(got, want, rtol=1e-4, atol=1e-4))
    return OnDemand(wanted / everything, in_lines / everything, read / everything, requests / calls, held, equal)
