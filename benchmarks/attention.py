"""Attention of one new token over 4096 tokens of cache: few bits against torch in bfloat16 and float32, side by side.

Each table (a shape, a number of threads) is measured in a process of its own. Every contender walks through copies of
its cache, so that keys and values come from memory. Prints the tables and writes results/attention.json.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from _tables import compared, run

TITLE = "Attention of one token over a long cache"
CASES = ("32:8:4096:128", "32:8:4096:64", "32:32:4096:128")  # query heads, key-value heads, tokens, head_dim
BASELINE = "torch bf16"
NOTE = (
    "Queries are rounded and folded with the key scales inside every call; quantizing new keys and values, once a "
    "block of tokens, is not in these times. Results are checked against float64 attention over the same numbers; what "
    "the bits cost in quality stands in the chapter on the KV cache."
)
COLD_BYTES = 128 << 20  # all copies of a contender together


def contenders(case: str, threads: int) -> list[Any]:
    """Every contender of one shape, checked against float64."""
    import numpy as np
    import torch
    from edgeinfer.kernels import attend_low_bit, exact_attention, pack_kv, simd
    from edgeinfer.kernels.memory import in_huge_pages
    from edgeinfer.measure import rotating
    from peers import Contender
    from torch.nn import functional

    torch.set_num_threads(threads)
    heads, kv_heads, tokens, width = map(int, case.split(":"))
    rng = np.random.default_rng(0)
    keys, values = (rng.standard_normal((kv_heads, tokens, width), np.float32) for _ in range(2))
    query = rng.standard_normal((heads, width), np.float32)
    exact = exact_attention(query, keys, values).reshape(-1)
    found: list[Contender] = []

    def add(name: str, call: Callable, cache: Any, clone: Callable, nbytes: int, expected: Any, allowed: float) -> None:
        copies = [cache, *(clone(cache) for _ in range(max(2, round(COLD_BYTES / nbytes)) - 1))]
        found.append(Contender(name, rotating(call, copies), nbytes, lambda: call(cache), expected, allowed))

    def both(pair: Any) -> Any:
        return pair[0].clone(), pair[1].clone()

    for kind, name in ((torch.bfloat16, BASELINE), (torch.float32, "torch fp32")):
        q, k, v = (torch.from_numpy(x)[None].to(kind) for x in (query[:, None], keys, values))
        grouped = q.view(kv_heads, heads // kv_heads, width)

        def fused(pair: Any, q: torch.Tensor = q) -> Any:
            return functional.scaled_dot_product_attention(q, *pair, enable_gqa=True).float()

        def by_hand(pair: Any, q: torch.Tensor = grouped) -> Any:
            weights = (q @ pair[0][0].transpose(1, 2) * width**-0.5).softmax(-1)
            return (weights @ pair[1][0]).float()

        nbytes, allowed = k.nbytes + v.nbytes, 0.02 if kind is torch.bfloat16 else 1e-4
        add(name, fused, (k, v), both, nbytes, exact, allowed)
        add(f"{name}, two products by hand", by_hand, (k, v), both, nbytes, exact, 2 * allowed)

    def elsewhere(packed: Any) -> Any:
        other = copy.copy(packed)
        other.arrays = [in_huge_pages(array) for array in packed.arrays]
        return other

    for bits in (8, 4, 2):
        packed = pack_kv(keys, values, bits, (128, width))
        expected = exact_attention(query, *packed.dequantize()).reshape(-1)

        def ours(packed: Any, path: str = "auto") -> Any:
            return attend_low_bit(query, packed, threads, path)

        add(f"this book: {bits} bits", ours, packed, elsewhere, packed.nbytes, expected, 0.02)
        if bits == 4 and threads == 1 and simd.available():

            def portable(packed: Any) -> Any:
                return attend_low_bit(query, packed, threads, "portable")

            add("this book: 4 bits, portable", portable, packed, elsewhere, packed.nbytes, expected, 0.02)
    return found


def measure(case: str, threads: int, rounds: int) -> dict:
    """One table; to be called in a fresh process with the thread counts of the libraries set."""
    heads, kv_heads, tokens, width = case.split(":")
    title = f"{heads} query heads, {kv_heads} key-value heads, {tokens} tokens of {width}"
    return compared(lambda: contenders(case, threads), BASELINE, title, threads, rounds)


if __name__ == "__main__":
    run(__file__, TITLE, CASES, measure, NOTE)
