"""Energon: keys are filtered in rounds of few bits, and only the survivors enter attention at full width.

A key is one byte a number; its two highest bits are read first, for a survivor two more, and the rest only for what is
attended to: bits are read once. Knows scores and thresholds; the co-processor is not modelled. T queries, S keys, D
channels. Source: energon.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeinfer.kernels.kv_quantize import finite_cache

if TYPE_CHECKING:
    from torch import Tensor

FULL_BITS = 8


@dataclass(frozen=True)
class FilteredKeys:
    """Which keys each query keeps, and what it read to find out.

    Attributes:
        rounds: per round (..., T, S) bool, the keys left after it; the last is what attention uses.
        visible: (..., T, S) bool, the keys a query could see.
        bits: widths of the rounds.
    """

    rounds: tuple[NDArray[np.bool_], ...]
    visible: NDArray[np.bool_]
    bits: tuple[int, ...]

    @property
    def kept(self) -> NDArray[np.bool_]:
        """(..., T, S) bool, the keys that enter attention."""
        return self.rounds[-1]

    def bits_read(self) -> NDArray[np.float64]:
        """Bits read per channel for each query, (..., T): the rounds, the rest of the kept keys, and their values."""
        candidates = (self.visible, *self.rounds[:-1])
        steps = np.diff((0, *self.bits))
        read = sum(step * c.sum(-1) for step, c in zip(steps, candidates, strict=True))
        return np.asarray(read + (2 * FULL_BITS - self.bits[-1]) * self.kept.sum(-1), np.float64)

    def bits_dense(self) -> NDArray[np.float64]:
        """Bits per channel that attention to all visible keys reads, (..., T)."""
        return np.asarray(2.0 * FULL_BITS * self.visible.sum(-1))


def leading_bits(keys: NDArray[np.float32], bits: int) -> NDArray[np.float32]:
    """Keys as they look when only the highest `bits` of their 8-bit codes have been read.

    Args:
        keys: (..., S, D) float32; one scale per token, symmetric.
        bits: 1..8.

    Returns:
        (..., S, D) float32: the middle of the interval that the bits leave open, so 4 bits refine what 2 bits said.
    """
    if not 1 <= bits <= FULL_BITS:
        raise ValueError(f"a round reads 1 to {FULL_BITS} bits, got {bits}.")
    scale = np.abs(keys).max(-1, keepdims=True) / np.float32(127.5)
    codes = np.floor(keys / np.where(scale > 0, scale, 1)).clip(-128, 127)
    width = 2.0 ** (FULL_BITS - bits)
    return ((np.floor(codes / width) + 0.5) * width * scale).astype(np.float32)


def threshold(scores: NDArray[np.float32], candidates: NDArray[np.bool_], alpha: float) -> NDArray[np.float32]:
    """The score a key must reach to survive a round.

    Args:
        scores: (..., T, S).
        candidates: (..., T, S) bool, the keys still there; at least one per query.
        alpha: -1 to 1; 0 is the mean of the candidates, 1 their maximum, -1 their minimum (nothing is dropped).

    Returns:
        (..., T, 1).
    """
    if not -1 <= alpha <= 1:
        raise ValueError(f"alpha must lie between -1 and 1, got {alpha}.")
    mean = np.where(candidates, scores, 0).sum(-1, keepdims=True) / candidates.sum(-1, keepdims=True).clip(1)
    largest = np.where(candidates, scores, -np.inf).max(-1, keepdims=True)
    end = largest if alpha >= 0 else np.where(candidates, scores, np.inf).min(-1, keepdims=True)
    bar = np.where(np.isfinite(end), (1 - abs(alpha)) * mean + abs(alpha) * end, mean)
    return np.minimum(bar, largest).astype(scores.dtype)  # rounding must not lift the bar above every key


def filter_keys(
    query: NDArray[np.float32],
    keys: NDArray[np.float32],
    bits: Sequence[int] = (2, 4),
    alpha: float | Sequence[float] = 0.0,
    mask: NDArray[np.bool_] | None = None,
) -> FilteredKeys:
    """Find the keys that matter to each query, in rounds of growing width.

    Args:
        query: (..., T, D) float32.
        keys: (..., S, D) float32, S >= 1.
        bits: widths of the rounds, growing.
        alpha: of the threshold in each round, see `threshold`.
        mask: bool, broadcastable to (..., T, S): what a query may see; None: everything.

    Returns:
        Survivors and the bits read. The best-scoring candidate always survives, so no query is left without a key.

    Raises:
        ValueError: "rounds must read more and more bits, got (4, 2)."; "there is no key to filter."; NaN.

    Source: energon.
    """
    query, keys = finite_cache(query, "query"), finite_cache(keys, "keys")
    if keys.shape[-2] == 0:
        raise ValueError("there is no key to filter.")
    if query.shape[-1] != keys.shape[-1]:
        raise ValueError(f"query and keys must have as many channels, got {query.shape[-1]} and {keys.shape[-1]}.")
    return filter_rounds(lambda width: query @ np.swapaxes(leading_bits(keys, width), -1, -2), bits, alpha, mask)


def filter_rounds(
    scores_at: Callable[[int], NDArray[np.float32]],
    bits: Sequence[int] = (2, 4),
    alpha: float | Sequence[float] = 0.0,
    mask: NDArray[np.bool_] | None = None,
) -> FilteredKeys:
    """`filter_keys` for keys that lie somewhere else, in parts.

    Args:
        scores_at: width -> (..., T, S) float32, the scores when only that many leading bits of each key are known.
        bits, alpha, mask: as in `filter_keys`.
    """
    widths = tuple(int(b) for b in bits)
    if not widths or list(widths) != sorted(set(widths)):
        raise ValueError(f"rounds must read more and more bits, got {widths}.")
    alphas = [float(alpha)] * len(widths) if isinstance(alpha, int | float) else [float(a) for a in alpha]
    if len(alphas) != len(widths):
        raise ValueError(f"give one alpha, or one for each of the {len(widths)} rounds; got {len(alphas)}.")
    rounds, alive = [], None
    for width, a in zip(widths, alphas, strict=True):
        scores = scores_at(width)
        if alive is None:
            alive = visible = np.broadcast_to(True if mask is None else mask, scores.shape)
        alive = alive & (scores >= threshold(scores, alive, a))
        rounds.append(alive)
    return FilteredKeys(tuple(rounds), visible, widths)


class FilteredAttention:
    """An attention for the decoder that looks only at filtered keys, and counts.

    Args:
        bits, alpha: of `filter_keys`.
        top: for `recall`, how many of the truly largest scores to look for.

    Example::

        model.attention = counted = FilteredAttention(alpha=0.1)
        perplexity(model, tokens)
        print(counted.kept, counted.traffic, counted.recall)
    """

    def __init__(self, bits: Sequence[int] = (2, 4), alpha: float | Sequence[float] = 0.0, top: int = 4) -> None:
        self.bits, self.alpha, self.top = tuple(bits), alpha, top
        self.counts: dict[str, float] = dict.fromkeys(("visible", "kept", "read", "dense", "found", "wanted"), 0.0)

    def __call__(self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, layer: int) -> Tensor:
        """Like `edgeinfer.models.decoder.attend`, over the keys that survive."""
        import torch

        B, heads, T, D = query.shape
        H = keys.shape[1]
        q = query.float().reshape(B, H, heads // H, T, D).numpy()
        k = keys.float().numpy()[:, :, None]
        seen = None if mask is None else mask.numpy().reshape(*([1] * (5 - mask.dim())), *mask.shape[-2:])
        if mask is not None and mask.dim() == 4:
            seen = mask.numpy()[:, :, None]
        filtered = filter_keys(q, k, self.bits, self.alpha, seen)
        scores = q @ np.swapaxes(k, -1, -2) / np.sqrt(np.float32(D))
        self._count(filtered, scores)
        weights = torch.from_numpy(np.where(filtered.kept, scores, -np.inf)).softmax(-1)
        mixed = weights @ values.float()[:, :, None]
        return mixed.reshape(B, heads, T, D).to(query.dtype)

    def _count(self, filtered: FilteredKeys, scores: NDArray[np.float32]) -> None:
        truth = np.where(filtered.visible, scores, -np.inf)
        top = min(self.top, truth.shape[-1])
        best = np.argpartition(-truth, top - 1, -1)[..., :top]
        real = np.take_along_axis(filtered.visible, best, -1)
        found = np.take_along_axis(filtered.kept, best, -1) & real
        new: dict[str, Any] = {
            "visible": filtered.visible.sum(),
            "kept": filtered.kept.sum(),
            "read": filtered.bits_read().sum(),
            "dense": filtered.bits_dense().sum(),
            "found": found.sum(),
            "wanted": real.sum(),
        }
        for name, number in new.items():
            self.counts[name] += float(number)

    @property
    def kept(self) -> float:
        """Share of the visible keys that entered attention."""
        return self.counts["kept"] / max(1.0, self.counts["visible"])

    @property
    def traffic(self) -> float:
        """Bits read over those of dense attention with 8-bit keys and values."""
        return self.counts["read"] / max(1.0, self.counts["dense"])

    @property
    def recall(self) -> float:
        """Share of each query's truly largest scores that survived."""
        return self.counts["found"] / max(1.0, self.counts["wanted"])
