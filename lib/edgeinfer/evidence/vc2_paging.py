"""Evidence for PagedAttention: memory without a token, requests that fit, and the price of the detour through a table.

Memory is counted on a synthetic trace (simulated); steps of the shipped model and attention against torch are timed,
one thread, interleaved. Source: pagedattention.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeinfer.evidence.protocol import Claim, Evidence, Result, evidence

if TYPE_CHECKING:
    from edgeinfer.measure import Comparison
    from edgeinfer.memory.paging.usage import Usage
    from edgeinfer.memory.serving.trace import Arrival

LONGEST, POOL, BLOCK_SIZE = 2048, 16_384, 16
CONTEXT = 400  # tokens of each request when steps are timed: about the mean of the trace
RAGGED = (3000, 1100, 700, 400, 250, 120, 60, 17)


@cache
def trace(requests: int = 200) -> list[Arrival]:
    """A synthetic trace with lengths of a chat service: several hundred tokens, a long tail."""
    from edgeinfer.memory.serving.trace import make_trace

    return make_trace(0, requests, prompt_mean=160, output_mean=320, longest=LONGEST // 2)


@cache
def wasted(way: str, block_size: int = BLOCK_SIZE) -> float:
    """Share of the given-out memory without a token, over all steps of the trace."""
    from edgeinfer.memory.paging.usage import waste

    return waste(trace(), way, block_size, LONGEST)


@cache
def served(way: str, pool: int = POOL) -> Usage:
    """The trace through one pool."""
    from edgeinfer.memory.paging.usage import serve

    return serve(trace(), way, pool, BLOCK_SIZE, LONGEST)


def step_seconds(batches: Sequence[int], context: int = CONTEXT, rounds: int = 9) -> dict[int, float]:
    """Median seconds of one step that gives each of so many requests a token; shipped model, float32, one thread.

    Args:
        batches: how many requests at once.
        context: tokens that each has. Their keys are zeros: time does not depend on them.
        rounds: interleaved.
    """
    import torch

    from edgeinfer import models
    from edgeinfer.memory.paging.runner import PagedRunner, Work

    model = models.load("target")
    each = -(-(context + len(batches) * (rounds + 1)) // BLOCK_SIZE) + 1
    runner = PagedRunner(model, max(batches) * each, BLOCK_SIZE)
    names = [str(i) for i in range(max(batches))]
    for name in names:
        runner.blocks.add(name)
        runner.blocks.append(name, context)
    times: dict[int, list[float]] = {batch: [] for batch in batches}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for turn in range(rounds + 1):
            for batch in batches:
                items = [Work(name, [5]) for name in names[:batch]]
                start = time.perf_counter()
                runner.step(items)
                if turn:  # the first round compiles
                    times[batch].append(time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads)
    return {batch: float(np.median(found)) for batch, found in times.items()}


def different_tokens(prompts: int = 3, count: int = 12) -> int:
    """Tokens that differ between sequences in blocks, computed together, and each alone in a plain cache."""
    import torch

    from edgeinfer import models
    from edgeinfer.memory.paging.runner import PagedRunner, Work

    model, text = models.load("target"), models.held_out_tokens("text").tolist()
    starts = [text[500 * i : 500 * i + 20 + 17 * i] for i in range(prompts)]
    runner = PagedRunner(model, 32, BLOCK_SIZE)
    together: list[list[int]] = [[] for _ in starts]
    waiting = [list(start) for start in starts]
    for _ in range(count):
        logits = runner.step([Work(str(i), tokens) for i, tokens in enumerate(waiting)])
        for i, token in enumerate(logits.argmax(-1).tolist()):
            together[i].append(token)
            waiting[i] = [token]
    differ = 0
    for start, mine in zip(starts, together, strict=True):
        logits, cache = model.prefill(torch.tensor([start]), last_only=True)
        for token in mine:
            expected = int(logits[0, -1].argmax())
            differ += token != expected
            logits = model.decode(torch.tensor([[expected]]), cache)
    return differ


def blocks_of_samples(samples: int = 4, prompt: int = 100, answer: int = 20) -> tuple[int, int]:
    """Blocks of several answers to one prompt: shared until written, and each with its own copy."""
    from edgeinfer.memory.paging.blocks import BlockManager

    manager = BlockManager(256, BLOCK_SIZE)
    manager.add("0")
    manager.append("0", prompt)
    for i in range(1, samples):
        manager.fork("0", str(i))
    for _ in range(answer):
        for i in range(samples):
            manager.append(str(i), 1)
    manager.check()
    return manager.num_blocks - manager.free_blocks, samples * -(-(prompt + answer) // BLOCK_SIZE)


def timed_attention(
    lengths: Sequence[int], dtype: str = "bfloat16", heads: int = 8, kv_heads: int = 4, width: int = 64, rounds: int = 7
) -> Comparison:
    """One new token of each request: blocks against torch on contiguous caches of the same type, one thread.

    Args:
        lengths: tokens of each request.
        dtype: "float32" or "bfloat16".
        heads, kv_heads, width: of the attention.
        rounds: interleaved.

    Returns:
        The comparison of "blocks", "torch, grouped by hand" and "torch, enable_gqa"; several requests are padded for
        torch in the one and looped over in the other.
    """
    import torch
    from torch.nn import functional

    from edgeinfer import measure
    from edgeinfer.memory.paging.attention import paged_attention

    rng = np.random.default_rng(0)
    kind = getattr(torch, dtype)
    counts = [-(-n // BLOCK_SIZE) for n in lengths]
    total, most, rows = sum(counts), max(lengths), len(lengths)
    tables = [part.tolist() for part in np.split(rng.permutation(total), np.cumsum(counts)[:-1])]
    keys = torch.from_numpy(rng.standard_normal((total, kv_heads, width, BLOCK_SIZE), np.float32)).to(kind)
    values = torch.from_numpy(rng.standard_normal((total, kv_heads, BLOCK_SIZE, width), np.float32)).to(kind)
    query = rng.standard_normal((rows, heads, width), np.float32)
    pool = [t.numpy() if dtype == "float32" else t.view(torch.uint16).numpy() for t in (keys, values)]
    padded = [torch.zeros(rows, kv_heads, most, width, dtype=kind) for _ in range(2)]
    for row, (table, length) in enumerate(zip(tables, lengths, strict=True)):
        padded[0][row, :, :length] = keys[table].permute(1, 0, 3, 2).flatten(1, 2)[:, :length]
        padded[1][row, :, :length] = values[table].transpose(0, 1).flatten(1, 2)[:, :length]
    alone = [[side[r : r + 1, :, :n].clone() for side in padded] for r, n in enumerate(lengths)]
    wide = torch.from_numpy(query)[:, :, None].to(kind)
    grouped = wide.view(rows, kv_heads, heads // kv_heads, width)
    mask = None
    if rows > 1:
        mask = torch.arange(most)[None, None, None] < torch.tensor(lengths)[:, None, None, None]
    ends = np.array(lengths)
    flat = np.concatenate([np.array(t) for t in tables]), np.cumsum([0, *counts[:-1]])

    attend: Any = functional.scaled_dot_product_attention

    def loop(q: Any, **how: Any) -> Any:
        return torch.cat([attend(q[r : r + 1], *pair, **how) for r, pair in enumerate(alone)])

    contenders: dict[str, Callable[[], Any]] = {"blocks": lambda: paged_attention(query, pool[0], pool[1], flat, ends)}
    contenders["torch, grouped by hand"] = lambda: loop(grouped).reshape(rows, heads, width)
    if rows > 1:
        contenders["torch, padded"] = lambda: attend(grouped, *padded, mask).reshape(rows, heads, width)
    else:
        contenders["torch, enable_gqa"] = lambda: loop(wide, enable_gqa=True).reshape(rows, heads, width)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return measure.compare(contenders, "blocks", rounds=rounds, sample_seconds=0.004, max_seconds=4)
    finally:
        torch.set_num_threads(threads)


def times_of_torch(comparison: Comparison) -> float:
    """Time of blocks over that of the quickest way with torch."""
    rivals = [row.seconds for row in comparison.rows() if row.name != "blocks"]
    return comparison.row("blocks").seconds / min(rivals)


@evidence("pagedattention")
def pagedattention() -> Evidence:
    """Waste by way of reserving, requests at once, such batches, attention through tables, shared beginnings."""
    from edgeinfer.evidence import vc2_prefixes

    claim = Claim(
        "Near-zero waste of cache memory, and two to four times the throughput of FasterTransformer and Orca at the "
        "same latency",
        4,
        "x",
        "GPU",
        "pagedattention",
        verified=True,
    )
    reserved, paged = served("longest text"), served("blocks")
    few, many = round(reserved.running), round(paged.running)
    seconds = step_seconds((few, many))
    throughput = (many / seconds[many]) / (few / seconds[few])
    shared, copied = blocks_of_samples()
    alike = vc2_prefixes.measured()
    beginnings = (
        f"{len(alike.shared.served)} requests of a synthetic trace, one of {vc2_prefixes.KINDS} beginnings of "
        f"{vc2_prefixes.BEGINNING} tokens each, shipped model"
    )
    synthetic = f"synthetic trace, up to {LONGEST} tokens"
    results = [
        Result("waste, blocks of 16", 100 * wasted("blocks"), "%", "simulated", synthetic),
        Result("waste, longest text reserved", 100 * wasted("longest text"), "%", "simulated", synthetic),
        Result("waste, reserved by an oracle", 100 * wasted("oracle"), "%", "simulated", "knows every length"),
        Result("waste, next power of two", 100 * wasted("power of two"), "%", "simulated", "moved when it is full"),
        Result("requests at once, blocks over reserved", paged.running / reserved.running, "x", "simulated"),
        Result(
            "tokens per second of such steps",
            throughput,
            "x",
            "measured",
            f"shipped model, {many} requests a step against {few}, {CONTEXT} tokens each",
        ),
        Result("tokens unlike those of a plain cache", different_tokens(), "1", "measured", "3 requests together"),
        Result("blocks of four samples, shared over copied", shared / copied, "x", "measured", "copy on write"),
        Result("prompt tokens read, shared beginnings over none", alike.read, "x", "measured", beginnings),
        Result("blocks held at most, shared beginnings over none", alike.blocks, "x", "measured", "counted"),
        Result("first token, time with shared beginnings over none", alike.first_token, "x", "measured", "median"),
        Result("answers changed by sharing", alike.different, "1", "measured", "float32, greedy"),
        Result(
            "attention, time over torch, 4096 tokens",
            times_of_torch(timed_attention((4096,))),
            "x",
            "measured",
            "bfloat16, torch's cache contiguous",
        ),
        Result(
            "attention, time over torch, eight ragged requests",
            times_of_torch(timed_attention(RAGGED)),
            "x",
            "measured",
            "bfloat16, torch padded or looped, whichever is quicker",
        ),
    ]
    holds = wasted("blocks") < 0.04 and paged.running / reserved.running >= 2 and throughput > 1.2
    reason = (
        "more requests fit into the same memory; how much faster that is depends on how cheap one more request in a "
        "step is, "
        "and a processor core is bound by arithmetic sooner than a GPU"
    )
    return Evidence(claim, results, holds, reason)
