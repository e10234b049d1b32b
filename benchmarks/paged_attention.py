"""Attention of one new token of each request over a cache in blocks, against torch on contiguous caches.

Each table (a shape, lengths, a number of threads) is measured in a process of its own. Every contender walks through
copies of its cache, so that keys and values come from memory. Prints the tables, writes results/paged_attention.json.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from _tables import compared, run

TITLE = "Attention over a paged cache"
RAGGED = "3000,1100,700,400,250,120,60,17"
CASES = (  # query heads, key-value heads, head_dim, tokens of each request
    "32:8:128:1024",
    "32:8:128:4096",
    "32:8:128:16384",
    "8:4:64:4096",
    "8:4:32:4096",  # the shipped model's heads
    f"32:8:128:{RAGGED}",
    f"8:4:64:{RAGGED}",
)
BASELINE = "torch bf16, grouped by hand"
NOTE = (
    "Blocks of 16 tokens in random order, found through block tables that every call checks. For several requests "
    "torch is called once for each, or once with all caches padded to the longest. 'enable_gqa' is torch's own way for "
    "grouped heads; 'grouped by hand' gives it the query heads of a group as if they were tokens, which it does faster."
)
COLD_BYTES, BLOCK_SIZE = 128 << 20, 16  # of all copies of a contender together


def contenders(case: str, threads: int) -> list[Any]:
    """Every contender of one shape, checked against float64."""
    import numpy as np
    import torch
    from edgeinfer.kernels import exact_attention, simd
    from edgeinfer.kernels.memory import in_huge_pages
    from edgeinfer.measure import rotating
    from edgeinfer.memory.paging.attention import paged_attention
    from peers import Contender
    from torch.nn import functional

    torch.set_num_threads(threads)
    heads, kv_heads, width = map(int, case.split(":")[:3])
    lengths = [int(n) for n in case.split(":")[3].split(",")]
    rows, most, counts = len(lengths), max(lengths), [-(-n // BLOCK_SIZE) for n in lengths]
    rng = np.random.default_rng(0)
    query = rng.standard_normal((rows, heads, width), np.float32)
    caches = [[rng.standard_normal((kv_heads, n, width), np.float32) for _ in range(2)] for n in lengths]
    exact = np.concatenate([exact_attention(q, *pair).reshape(-1) for q, pair in zip(query, caches, strict=True)])
    tables = np.split(rng.permutation(sum(counts)), np.cumsum(counts)[:-1])
    flat, ends = (np.concatenate(tables), np.cumsum([0, *counts[:-1]])), np.array(lengths)
    mask = torch.arange(most)[None, None, None] < torch.tensor(lengths)[:, None, None, None]
    found: list[Contender] = []

    def add(name: str, call: Callable, cache: Any, clone: Callable, nbytes: int, allowed: float) -> None:
        copies = [cache, *(clone(cache) for _ in range(max(2, round(COLD_BYTES / nbytes)) - 1))]
        found.append(Contender(name, rotating(call, copies), nbytes, lambda: call(cache), exact, allowed))

    for kind, name, allowed in ((torch.bfloat16, "bf16", 0.02), (torch.float32, "fp32", 1e-4)):
        plain = [[torch.from_numpy(x)[None].to(kind) for x in pair] for pair in caches]
        wide = torch.from_numpy(query)[:, :, None].to(kind)
        grouped = wide.view(rows, kv_heads, heads // kv_heads, width)
        nbytes = sum(side.nbytes for pair in plain for side in pair)

        def loop(pairs: Any, q: Any = wide, **how: Any) -> Any:
            attend = functional.scaled_dot_product_attention
            return torch.cat([attend(q[r : r + 1], *pair, **how).float().flatten() for r, pair in enumerate(pairs)])

        def by_hand(pairs: Any, q: Any = grouped, loop: Callable = loop) -> Any:
            return loop(pairs, q)

        def own_way(pairs: Any, loop: Callable = loop) -> Any:
            return loop(pairs, enable_gqa=True)

        def clones(pairs: Any) -> Any:
            return [[side.clone() for side in pair] for pair in pairs]

        add(f"torch {name}, grouped by hand", by_hand, plain, clones, nbytes, allowed)
        add(f"torch {name}, enable_gqa", own_way, plain, clones, nbytes, allowed)
        if rows > 1:
            padded = [torch.zeros(rows, kv_heads, most, width, dtype=kind) for _ in range(2)]
            for row, pair in enumerate(plain):
                for side, part in zip(padded, pair, strict=True):
                    side[row, :, : part.shape[2]] = part[0]

            def at_once(pair: Any, q: Any = grouped) -> Any:
                return functional.scaled_dot_product_attention(q, *pair, mask).float().flatten()

            add(
                f"torch {name}, padded",
                at_once,
                padded,
                lambda p: [s.clone() for s in p],
                2 * padded[0].nbytes,
                allowed,
            )

        keys = torch.zeros(sum(counts), kv_heads, width, BLOCK_SIZE, dtype=kind)
        values = torch.zeros(sum(counts), kv_heads, BLOCK_SIZE, width, dtype=kind)
        for table, (k, v) in zip(tables, plain, strict=True):
            at, place = (
                torch.from_numpy(table)[torch.arange(k.shape[2]) // BLOCK_SIZE],
                torch.arange(k.shape[2]) % BLOCK_SIZE,
            )
            keys[at, :, :, place] = k[0].transpose(0, 1)
            values[at, :, place] = v[0].transpose(0, 1)
        pool = [in_huge_pages(t.numpy() if name == "fp32" else t.view(torch.uint16).numpy()) for t in (keys, values)]

        def ours(pool: Any, path: str = "auto") -> Any:
            return paged_attention(query, *pool, flat, ends, threads=threads, path=path).reshape(-1)

        def elsewhere(pool: Any) -> Any:
            return [in_huge_pages(side) for side in pool]

        add(f"this book: blocks, {name}", ours, pool, elsewhere, nbytes, 1e-2 if name == "bf16" else 1e-4)
        if name == "bf16" and threads == 1 and simd.available():

            def portable(pool: Any, ours: Callable = ours) -> Any:
                return ours(pool, "portable")

            add(f"this book: blocks, {name}, portable", portable, pool, elsewhere, nbytes, 1e-2)
    return found


def measure(case: str, threads: int, rounds: int) -> dict:
    """One table; to be called in a fresh process with the thread counts of the libraries set."""
    heads, kv_heads, width, lengths = case.split(":")
    many = (
        f"{lengths.count(',') + 1} requests of {lengths.replace(',', ', ')} tokens"
        if "," in lengths
        else f"{lengths} tokens"
    )
    title = f"{heads} query heads, {kv_heads} key-value heads of {width}, {many}"
    return compared(lambda: contenders(case, threads), BASELINE, title, threads, rounds)


if __name__ == "__main__":
    run(__file__, TITLE, CASES, measure, NOTE, rounds=15)
