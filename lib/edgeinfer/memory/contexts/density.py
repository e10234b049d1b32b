"""How much a chunk matters, by the attention that it receives, and how many bits it gets for that.

It reads a decoder's attention through the hook. Source: llms (tolerance-aware compression).
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgeinfer.models import Decoder, attend


class AttentionMass:
    """An `attention` for the decoder that also adds up what each token receives.

    Example::

        mass = AttentionMass()
        model.attention = mass
        model.prefill(tokens)
        print(mass.per_token(len(tokens)))
    """

    def __init__(self) -> None:
        self._sum = np.zeros(0)
        self._lookers = np.zeros(0)

    def __call__(self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, layer: int) -> Tensor:
        """As `attend`; rows of a batch are added together."""
        B, heads, T, D = query.shape
        S = keys.shape[2]
        grouped = query.reshape(B, keys.shape[1], -1, T, D)
        scores = (grouped @ keys.unsqueeze(2).transpose(-1, -2)).reshape(B, heads, T, S) * D**-0.5
        if mask is not None:
            scores = scores.masked_fill(~mask, float("-inf"))
        if len(self._sum) < S:
            more = S - len(self._sum)
            self._sum, self._lookers = (np.concatenate([a, np.zeros(more)]) for a in (self._sum, self._lookers))
        self._sum[:S] += scores.softmax(-1).sum((0, 1, 2)).double().numpy() / heads
        # Token s is visible to the queries at its place and after it.
        self._lookers[:S] += B * np.minimum(T, S - np.arange(S))
        return attend(query, keys, values, mask, layer)

    def per_token(self, count: int) -> NDArray[np.float64]:
        """Return the mean share of attention that each of the first `count` tokens received from a token seeing it."""
        mean = self._sum / np.maximum(self._lookers, 1)
        return np.concatenate([mean, np.zeros(max(0, count - len(mean)))])[:count]


def allot_bits(
    density: Sequence[float] | NDArray[np.float64], average_bits: float, widths: Sequence[int] = (2, 4, 8)
) -> list[int]:
    """Give chunks of equal length a width each, the dense ones more.

    Rounding errors fall fourfold with each bit; a chunk's harm is taken as density / 4**bits. Starting with the fewest
    bits, the step that takes away the most harm per bit is made next, as long as the average allows it.

    Args:
        density: information density per chunk, at least 0 (here: attention received).
        average_bits: mean width that must not be passed.
        widths: allowed widths in rising order.

    Returns:
        One width per chunk; of equal steps the earlier chunk's is made first.

    Raises:
        ValueError: "average_bits must be at least 2, the smallest width; came 1".

    Source: llms; the greedy allotment is ours.
    """
    if average_bits < widths[0]:
        raise ValueError(f"average_bits must be at least {widths[0]}, the smallest width; came {average_bits:g}")
    bits = [widths[0]] * len(density)
    left = (average_bits - widths[0]) * len(density)

    def step(chunk: int, place: int) -> tuple[float, int, int]:
        small, large = widths[place], widths[place + 1]
        return -float(density[chunk]) * (4.0**-small - 4.0**-large) / (large - small), chunk, place

    queue = [step(chunk, 0) for chunk in range(len(bits)) if len(widths) > 1]
    heapq.heapify(queue)
    while queue:
        _, chunk, place = heapq.heappop(queue)
        price = widths[place + 1] - widths[place]
        if price <= left:
            left -= price
            bits[chunk] = widths[place + 1]
            if place + 2 < len(widths):
                heapq.heappush(queue, step(chunk, place + 1))
    return bits


def chunk_density(mass: NDArray[np.float64], chunk_tokens: int) -> NDArray[np.float64]:
    """Return the mean of (T,) over consecutive whole chunks, (T // chunk_tokens,)."""
    whole = len(mass) // chunk_tokens
    return mass[: whole * chunk_tokens].reshape(whole, chunk_tokens).mean(1)


def attention_mass(model: Decoder, tokens: Tensor) -> NDArray[np.float64]:
    """Run tokens (1, T) through a decoder once and return what each token receives, (T,); hooks are put back."""
    before, mass = model.attention, AttentionMass()
    model.attention = mass
    try:
        with torch.inference_mode():
            model.prefill(tokens)
    finally:
        model.attention = before
    return mass.per_token(tokens.shape[1])
