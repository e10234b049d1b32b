"""A block of sub-batches answered in zig-zag order: a layer that was brought serves all of them before the next comes.

It obeys a policy and does not choose one. Source: flexgen (zig-zag block schedule).
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from edgeinfer.memory.offload.caches import CacheStream, TieredCache
from edgeinfer.memory.offload.policy import Policy
from edgeinfer.memory.offload.tiers import Moved, SlowTier, TieredWeights
from edgeinfer.models.cache import PlainCache
from edgeinfer.models.decoder import Decoder


def below(share: float, sub_batches: int) -> list[bool]:
    """Which sub-batches keep their caches in the slow tier: at least their share, spread evenly over the block."""
    count = math.ceil(share * sub_batches - 1e-6)
    return [(n + 1) * count // sub_batches > n * count // sub_batches for n in range(sub_batches)]


def place_caches(
    model: Decoder, prompts: Sequence[Tensor], capacity: int, policy: Policy, slow: SlowTier | None, moved: Moved
) -> list[PlainCache]:
    """The caches of a block where its policy wants them.

    Args:
        model: whose keys and values they hold.
        prompts: sub-batches (B, T).
        capacity: tokens of a row.
        policy: says which lie below and whether they are packed.
        slow: the slow tier.
        moved: counts their copies.

    Raises:
        ValueError: "the policy keeps caches in the slow tier; give one".
        MemoryError: "the slow tier has ... bytes left ...".
    """

    def fast(size: int) -> np.ndarray:
        return np.empty(size, np.uint8)

    caches: list[PlainCache] = []
    for prompt, lower in zip(prompts, below(policy.kv[1], len(prompts)), strict=True):
        if lower and slow is None:
            raise ValueError("the policy keeps caches in the slow tier; give one")
        if not lower and not policy.pack_kv:
            caches.append(PlainCache(model.config, len(prompt), model.dtype, capacity))
            continue
        take = slow.take if lower and slow is not None else fast
        caches.append(TieredCache(model.config, len(prompt), model.dtype, capacity, take, policy.pack_kv, moved))
    return caches


def run_block(
    model: Decoder,
    weights: TieredWeights,
    prompts: Sequence[Tensor],
    max_new_tokens: int,
    policy: Policy,
    slow: SlowTier | None = None,
) -> tuple[list[Tensor], Moved]:
    """Greedy answers for a block of sub-batches, each layer brought once per step for all of them.

    Args:
        model: from `skeleton`, or any decoder of the same weights.
        weights: where its linear layers come from.
        prompts: sub-batches (B, T) int64 of one length.
        max_new_tokens: for each row.
        policy: decides where the caches lie, and in which form.
        slow: the slow tier; needed when caches lie there.

    Returns:
        (B, max_new_tokens) for each sub-batch, and what was moved; `steps` are the seconds of each step, prefill first.

    Raises:
        ValueError: "the policy wants weights in four bits and the file holds floats; ..." and as `place_caches`.
    """
    if policy.pack_weights != weights.packed:
        forms = {True: "four bits", False: "floats"}
        raise ValueError(
            f"the policy wants weights in {forms[policy.pack_weights]} and the file holds {forms[weights.packed]}; "
            "give the other file, or the other policy"
        )
    if len({p.shape[1] for p in prompts}) != 1:
        raise ValueError(
            f"the sub-batches of a block have one length; came {sorted({p.shape[1] for p in prompts})}; pad them"
        )
    layers, moved = weights.layers, weights.moved
    caches = place_caches(model, prompts, prompts[0].shape[1] + max_new_tokens, policy, slow, moved)
    stream = CacheStream(
        caches, layers, weights.roads.get("slow"), moved, torch.float32 if policy.pack_kv else model.dtype
    )
    tokens, answers = list(prompts), [[] for _ in prompts]  # type: ignore[var-annotated]
    before, model.weight_store = model.weight_store, weights
    try:
        with torch.inference_mode():
            for step in range(max_new_tokens):
                start = time.perf_counter()
                again = step + 1 < max_new_tokens
                hidden = [model.embed(t) for t in tokens]
                for layer in range(layers):
                    following = (layer + 1) % layers if again or layer + 1 < layers else None
                    weights.enter(layer, following)
                    with moved.lane("compute", layer):
                        for number, cache in enumerate(caches):
                            stream.enter(layer, number, tokens[number].shape[1], again)
                            hidden[number] = model.forward_layers(hidden[number], cache, layer, layer + 1)
                for number, cache in enumerate(caches):
                    cache.advance(tokens[number].shape[1])
                    tokens[number] = model.head(hidden[number][:, -1:])[:, 0].argmax(-1, keepdim=True)
                    answers[number].append(tokens[number])
                moved.steps.append(time.perf_counter() - start)
    finally:
        model.weight_store = before
    return [torch.cat(parts, 1) for parts in answers], moved
