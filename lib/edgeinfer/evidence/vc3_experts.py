"""Evidence for experts that do not fit into memory: Mixtral offloading and Pre-gated MoE.

The measurements are functions of their own, which the chapter and the lab use, too.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeinfer.evidence.protocol import Claim, Evidence, Result, evidence

if TYPE_CHECKING:
    from torch import Tensor

    from edgeinfer.memory.experts.replacement import Policy
    from edgeinfer.memory.experts.store import Event

Uses = tuple[tuple[int, ...], ...]  # per layer, the experts in the order of use
CAPACITIES = (1, 2, 3, 4, 5, 6, 7, 8)
ROUNDED_TOKENS = 1024  # held-out tokens, from the first on, that judge rounded experts
PREGATE_START, PREGATE_TOKENS = 2048, 2048  # held-out tokens that judge pre-gates


@dataclass(frozen=True)
class Routing:
    """What gates choose on held-out text: uses per layer; recall by (layers ahead, guesses), mean over layers."""

    uses: Uses
    recall: dict[tuple[int, int], float]


@cache
def routing(gates: str = "trained", count: int = 1024) -> Routing:
    """Record the "trained" gates, or "random" ones of the same size, on `count` held-out tokens."""
    from edgeinfer import models
    from edgeinfer.memory import experts

    model = models.load("moe")
    if gates == "random":
        model = experts.with_random_gates(model)
    inputs = experts.gate_inputs(model, models.held_out_tokens("text")[:count].view(-1, 256))
    uses = tuple(tuple(layer.flatten().tolist()) for layer in experts.choices(model, inputs))
    recall = {
        (ahead, guesses): float(np.mean(experts.speculation_recall(model, inputs, guesses, ahead)))
        for ahead in (1, 2, 3)
        for guesses in range(1, 9)
    }
    return Routing(uses, recall)


@cache
def uniform_uses(count: int = 1024, seed: int = 0) -> Uses:
    """Uses of two experts per token drawn blindly, for one layer: what a cache finds when nothing repeats."""
    rng = np.random.default_rng(seed)
    return (tuple(int(e) for _ in range(count) for e in sorted(rng.permutation(8)[:2])),)


def hit_rates(uses: Uses, policy: Policy, capacities: tuple[int, ...] = CAPACITIES) -> list[float]:
    """Return the share of uses found in a cache, by experts kept per layer, over all layers."""
    from edgeinfer.memory.experts import hits

    total = sum(map(len, uses))
    return [sum(hits(layer, capacity, policy) for layer in uses) / total for capacity in capacities]


@dataclass(frozen=True)
class Run:
    """One decoding run with experts in a file: totals over `tokens` tokens."""

    tokens: int
    seconds: float
    waiting: float
    hits: int
    misses: int
    foreseen: int
    unused: int
    bytes_read: int
    peak_bytes: int
    all_bytes: int
    difference: float
    events: tuple[Event, ...]


def offloaded_runs(
    ways: dict[str, dict[str, Any]], bits: int = 32, tokens: int = 32, folder: Path | None = None
) -> dict[str, Run]:
    """Decode held-out text with experts read cold from a file, once for each way.

    Args:
        ways: by name: `capacity` experts kept per layer (None: none), `guesses`, `pregates` (a list of gates),
            `early` (False: the pre-gates' experts are fetched only when needed).
        bits: of the stored experts.
        tokens: decoded one by one.
        folder: for the file.

    Returns:
        The runs; `difference` is the largest one of logits from the model in memory.
    """
    from edgeinfer import models
    from edgeinfer.memory import experts

    model, text = models.load("moe"), models.held_out_tokens("text")[:tokens]
    want, _ = experts.decode_with(model, text)
    runs = {}
    with tempfile.TemporaryDirectory(dir=folder) as place:
        experts.write_experts(Path(place) / "experts", model, bits)
        file = experts.ExpertFile(Path(place) / "experts")
        for name, way in ways.items():
            capacity = way.get("capacity")
            budget = None if capacity is None else capacity * file.layers * file.expert_bytes
            store = experts.ExpertStore(model.weight_store, file, budget)
            model.weight_store = store
            if way.get("guesses"):
                experts.install_speculation(model, store, way["guesses"])
            if way.get("pregates"):
                experts.install_pregates(model, way["pregates"], store=store if way.get("early", True) else None)
            before = file.cold.bytes_read
            got, seconds = experts.decode_with(model, text)
            store.close()
            model.restore()
            runs[name] = Run(
                tokens, seconds, sum(e.end - e.start for e in store.events if e.kind == "wait"), store.hits,
                store.misses, store.foreseen, store.unused, file.cold.bytes_read - before, store.peak_bytes,
                file.expert_bytes * file.layers * file.experts, float((got - want).abs().max()), tuple(store.events),
            )  # fmt: skip
        file.close()
    return runs


def mixed_bits_perplexity(
    pairs: tuple[tuple[int, int], ...], tokens: int = ROUNDED_TOKENS
) -> dict[tuple[int, int], float]:
    """Return the perplexity for each (bits of experts, bits of attention); 32 leaves a part alone."""
    import torch

    from edgeinfer import models
    from edgeinfer.kernels.quantize import quantize_groupwise

    model, text = models.load("moe"), models.held_out_tokens("text")
    original = model.linears()

    def put(part: str, bits: int) -> None:
        for name, weight in original.items():
            if part in name:
                if bits < 32:
                    weight = torch.from_numpy(
                        quantize_groupwise(weight.numpy(), bits, 64, symmetric=False).dequantize()
                    )
                model.set_weight(name, weight)

    found, now = {}, {".experts.": 32, ".attention.": 32}
    for expert_bits, attention_bits in pairs:
        for part, bits in ((".experts.", expert_bits), (".attention.", attention_bits)):
            if now[part] != bits:
                put(part, bits)
                now[part] = bits
        found[expert_bits, attention_bits] = models.perplexity(model, text, max_tokens=tokens)
    return found


@evidence("mixtral-offloading")
def mixtral_offloading() -> Evidence:
    """Hit rates on trained gates, guesses by the next gate, bytes and waiting of real runs from a file."""
    trained, random = routing(), routing("random")
    policies: tuple[Policy, ...] = ("lru", "lfu", "belady")
    rates = {p: dict(zip(CAPACITIES, hit_rates(trained.uses, p), strict=True)) for p in policies}
    blind, untrained = hit_rates(uniform_uses(), "lru", (2,))[0], hit_rates(random.uses, "lru", (2,))[0]
    runs = offloaded_runs(
        {"one kept": {"capacity": 1}, "kept": {"capacity": 4}, "guessed": {"capacity": 4, "guesses": 2}}
    )
    bits = mixed_bits_perplexity(((32, 32), (3, 8), (4, 8), (8, 3)))
    waiting = runs["one kept"].waiting / runs["guessed"].waiting
    per_token = {name: run.bytes_read / run.tokens for name, run in runs.items()}
    results = [
        Result("uses found, 2 of 8 kept, LRU", rates["lru"][2], "1", "measured", "1,024 tokens, trained gates"),
        Result("uses found, 4 of 8 kept, LRU", rates["lru"][4], "1", "measured"),
        Result("uses found, 4 of 8 kept, LFU", rates["lfu"][4], "1", "measured"),
        Result("uses found, 4 of 8 kept, best possible", rates["belady"][4], "1", "measured", "Belady's rule"),
        Result("uses found, 2 kept, experts drawn blindly", blind, "1", "simulated"),
        Result("uses found, 2 kept, random gates", untrained, "1", "measured", "says nothing about a trained model"),
        Result("experts foreseen by the next gate, 2 guesses", trained.recall[1, 2], "1", "measured", "chance: 0.25"),
        Result("experts foreseen by the next gate, 4 guesses", trained.recall[1, 4], "1", "measured", "chance: 0.5"),
        Result("bytes a token, 1 kept", per_token["one kept"], "bytes", "measured", "float32 experts"),
        Result("bytes a token, 4 kept", per_token["kept"], "bytes", "measured"),
        Result("bytes a token, 4 kept, 2 guesses", per_token["guessed"], "bytes", "measured", "wrong guesses included"),
        Result("waiting of 1 kept over 4 kept and guesses", waiting, "x", "measured"),
        Result("largest difference of logits", max(r.difference for r in runs.values()), "1", "measured"),
        Result("perplexity", bits[32, 32], "1", "measured", f"the first {ROUNDED_TOKENS:,} held-out tokens"),
        Result("perplexity, experts 3 bits, attention 8", bits[3, 8], "1", "measured"),
        Result("perplexity, experts 4 bits, attention 8", bits[4, 8], "1", "measured"),
        Result("perplexity, experts 8 bits, attention 3", bits[8, 3], "1", "measured"),
    ]  # fmt: skip
    claim = Claim(
        "A cache of recently used experts, guesses from the next gate and mixed quantization let Mixtral-8x7B run on "
        "desktop hardware and free-tier Colab instances.",
        hardware="consumer GPU with host memory",
        citation="mixtral-offloading",
        verified=True,
    )
    holds = rates["lru"][2] > blind and trained.recall[1, 2] > 0.5 and per_token["kept"] < per_token["one kept"]
    return Evidence(
        claim, results, holds,
        "experts repeat more often than blind draws, but weakly: the gates were trained to use all experts equally",
    )  # fmt: skip


@cache
def pregates() -> tuple[tuple[Tensor, ...], float]:
    """Return pre-gates distilled on at most 4,096 training tokens, and the seconds of processor time it took."""
    import torch

    from edgeinfer import models
    from edgeinfer.memory.experts import fit_pregates
    from edgeinfer.models import corpus, load_tokenizer

    # Some files of the training text: encoding all of it would take longer than the training.
    files = [part[:6000] for part in list(corpus.text("train"))[::40]][:16]
    ids = [i for encoding in load_tokenizer("target").encode_batch(files) for i in encoding.ids]
    model, text = models.load("moe"), torch.tensor(ids[: len(ids) // 256 * 256][:4096]).view(-1, 256)
    start = time.process_time()
    gates = tuple(fit_pregates(model, text, steps=100))
    return gates, time.process_time() - start


def pregate_perplexity(tokens: int = PREGATE_TOKENS) -> dict[str, float]:
    """Return the perplexity of the model, of the untrained shift, and of trained pre-gates with both ways to mix."""
    from edgeinfer import models
    from edgeinfer.memory.experts import gate_weights, install_pregates

    model, text = models.load("moe"), models.held_out_tokens("text")[PREGATE_START:]
    found = {"own gates": models.perplexity(model, text, max_tokens=tokens)}
    for name, gates, mixing in (
        ("shifted, untrained", gate_weights(model), "pre-gate"),
        ("trained, shares by own gate", list(pregates()[0]), "own gate"),
        ("trained", list(pregates()[0]), "pre-gate"),
    ):
        install_pregates(model, gates, mixing)  # type: ignore[arg-type]
        found[name] = models.perplexity(model, text, max_tokens=tokens)
        model.restore()
    return found


def pregate_runs(tokens: int = 24) -> dict[str, Run]:
    """Decode with no expert kept: fetched when needed, or a block early by another thread."""
    gates = list(pregates()[0])
    ways: dict[str, dict[str, Any]] = {
        "on demand": {"pregates": gates, "early": False},
        "a block early": {"pregates": gates},
    }
    return offloaded_runs(ways, tokens=tokens)


@evidence("pre-gated-moe")
def pre_gated_moe() -> Evidence:
    """Quality of gates that decide early, the waiting that this saves, and the memory that experts take."""
    from edgeinfer.memory.experts import schedule

    quality, runs = pregate_perplexity(), pregate_runs()
    late, early = runs["on demand"], runs["a block early"]
    even = [schedule([1.0] * 8, [1.0] * 8, ahead).end for ahead in (False, True)]
    own = quality["own gates"]
    results = [
        Result("perplexity, own gates", own, "1", "measured", f"{PREGATE_TOKENS:,} held-out tokens, another part"),
        *(Result(f"perplexity, {n}", quality[n], "1", "measured") for n in quality if n != "own gates"),
        Result("seconds of training", pregates()[1], "s", "measured", "processor time, gates only"),
        Result("waiting on demand over a block early", late.waiting / early.waiting, "x", "measured", "no expert kept"),
        Result("share of uses foreseen", early.foreseen / (early.foreseen + early.misses), "1", "measured"),
        Result("memory of experts over all of them", early.peak_bytes / early.all_bytes, "1", "measured", "peak"),
        Result("end on demand over a block early", even[0] / even[1], "x", "modelled", "8 blocks, equal loads"),
    ]  # fmt: skip
    claim = Claim(
        "Pre-gates improve performance and reduce GPU memory while keeping the same level of model quality.",
        hardware="one GPU with host memory",
        citation="pre-gated-moe",
        verified=True,
    )
    holds = quality["trained"] < 1.02 * own < quality["shifted, untrained"] * 1.02 and early.waiting < late.waiting
    return Evidence(
        claim, results, holds,
        "the first block's experts are still waited for; only the gates are trained here, in "
        f"{pregates()[1]:.1f} s of processor time",
    )  # fmt: skip
