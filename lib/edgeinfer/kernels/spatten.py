"""SpAtten: tokens and heads that gathered little attention are dropped for all later layers; low bits only on demand.

Two parts that work alone or together: `CascadePruning`, an attention for the decoder, and `progressive_attention`,
which reads the high bits of the keys first. Traffic is counted, the accelerator is not modelled. B sequences, T
queries, S keys, D channels. Source: spatten.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

FULL_BITS = 8


@dataclass(frozen=True)
class Progressive:
    """When the low bits of keys are fetched.

    Attributes:
        high_bits: bits of a key that are always read, 1..8.
        threshold: a query whose largest probability stays below it reads the other bits and repeats its softmax.
    """

    high_bits: int = 4
    threshold: float = 0.1

    def __post_init__(self) -> None:
        if not 1 <= self.high_bits <= FULL_BITS:
            raise ValueError(f"high_bits must be 1 to {FULL_BITS}, got {self.high_bits}.")
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold is a probability from 0 to 1, got {self.threshold}.")


def high_bits(x: Tensor, bits: int) -> Tensor:
    """Numbers (..., D) as the highest `bits` of their 8-bit codes show them; one symmetric scale per row."""
    scale = x.abs().amax(-1, keepdim=True).clamp(min=1e-30) / 127.5
    codes = (x / scale).floor().clamp(-128, 127)
    width = 2.0 ** (FULL_BITS - bits)
    return ((codes / width).floor() + 0.5) * width * scale


def progressive_probabilities(
    query: Tensor, keys: Tensor, mask: Tensor | None, progressive: Progressive
) -> tuple[Tensor, Tensor]:
    """Attention probabilities from the high bits of the keys, from all 8 where these leave the softmax flat.

    Args:
        query: (..., T, D).
        keys: (..., S, D), leading axes broadcastable to those of the query.
        mask: bool, broadcastable to (..., T, S), True where a query may look; None: everywhere.
        progressive: widths and threshold.

    Returns:
        probabilities (..., T, S), and (..., T) bool: which queries fetched the low bits.

    Raises:
        ValueError: "query or keys contain NaN; probabilities of them mean nothing."

    Source: spatten.
    """
    if bool(torch.isnan(query).any()) or bool(torch.isnan(keys).any()):
        raise ValueError("query or keys contain NaN; probabilities of them mean nothing.")

    def softmax(bits: int) -> Tensor:
        scores = query @ high_bits(keys, bits).transpose(-1, -2) / math.sqrt(query.shape[-1])
        return (scores if mask is None else scores.masked_fill(~mask, -math.inf)).softmax(-1)

    first = softmax(progressive.high_bits)
    fetched = first.amax(-1) < progressive.threshold
    if not bool(fetched.any()):
        return first, fetched
    return torch.where(fetched[..., None], softmax(FULL_BITS), first), fetched


class CascadePruning:
    """An attention for the decoder that prunes tokens and heads from layer to layer, and counts what it reads.

    A token's importance is the attention that it has received, summed over heads and over the layers passed. From
    whom, says `gather`: "query", from the present query alone; "mean", from every query that could see it, on average;
    "sum", in all, which favours old tokens: more queries have seen them. No query learns from later ones. After each
    layer the least important of those left are dropped for the later layers of this query; the shares shrink in equal
    steps from all at the first layer to `keep_tokens` and `keep_heads` at the last. A query's own token always stays.
    A head's importance is the magnitude of its output, summed over layers and earlier queries.

    Args:
        layers: of the model.
        keep_tokens: share of the tokens used in the last layer, above 0 to 1.
        keep_heads: share of the heads used in the last layer, above 0 to 1 (rounded up).
        progressive: read the high bits of keys first; None: all 8 bits at once.
        gather: "query", "mean" or "sum".

    Example::

        model.attention = pruning = CascadePruning(8, keep_tokens=0.3)
        perplexity(model, tokens)
        print(pruning.traffic)

    Raises:
        ValueError: "keep_tokens must be a share above 0 and up to 1, got 0."

    Source: spatten.
    """

    def __init__(
        self,
        layers: int,
        keep_tokens: float = 0.5,
        keep_heads: float = 1.0,
        progressive: Progressive | None = None,
        gather: str = "query",
    ) -> None:
        if gather not in ("query", "mean", "sum"):
            raise ValueError(f"gather must be 'query', 'mean' or 'sum', got {gather!r}.")
        for name, share in (("keep_tokens", keep_tokens), ("keep_heads", keep_heads)):
            if not 0 < share <= 1:
                raise ValueError(f"{name} must be a share above 0 and up to 1, got {share}.")
        self.layers, self.keep_tokens, self.keep_heads = layers, keep_tokens, keep_heads
        self.progressive, self.gather = progressive, gather
        self.bits_read = self.bits_dense = 0.0
        self.queries = self.fetched = 0.0
        self.alive: list[Tensor] = []  # per layer of the last step, (B, T, S) bool: the tokens that it used
        self._importance: Tensor | None = None

    def share(self, layer: int, end: float) -> float:
        """Share kept in a layer: 1 in the first, `end` in the last, equal steps between."""
        return 1 - (1 - end) * layer / max(1, self.layers - 1)

    @property
    def traffic(self) -> float:
        """Bits of keys and values read over those of dense attention with 8 bits."""
        return self.bits_read / max(1.0, self.bits_dense)

    def _start(self, query: Tensor, keys: Tensor, mask: Tensor | None) -> None:
        B, heads, T, _ = query.shape
        S = keys.shape[2]
        seen = torch.ones(B, 1, T, S, dtype=torch.bool) if mask is None else mask.expand(B, 1, T, S)
        self._visible = self._tokens = seen[:, 0]
        self._heads = torch.ones(B, T, heads, dtype=torch.bool)
        self._head_importance = torch.zeros(B, T, heads)
        # A step that goes on from the last one inherits what its tokens had gathered by then.
        old, self._before = self._importance, torch.zeros(B, 1, S)
        if old is not None and S > T and old.shape[0] == B and old.shape[1] == S - T:
            self._before[:, 0, : S - T] = old
        self._gathered = torch.zeros(B, T, S)
        self.alive = []

    def __call__(self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, layer: int) -> Tensor:
        """Like `edgeinfer.models.decoder.attend`, over the tokens and heads that are left."""
        B, heads, T, D = query.shape
        H = keys.shape[1]
        if layer == 0:
            self._start(query, keys, mask)
        q, k, v = query.float().reshape(B, H, heads // H, T, D), keys.float()[:, :, None], values.float()[:, :, None]
        allowed = self._tokens[:, None, None]
        fetched = torch.zeros(B, heads, T, dtype=torch.bool)
        if self.progressive is None:
            scores = q @ k.transpose(-1, -2) / math.sqrt(D)
            weights = scores.masked_fill(~allowed, -math.inf).softmax(-1)
        else:
            weights, repeated = progressive_probabilities(q, k, allowed, self.progressive)
            fetched = repeated.reshape(B, heads, T)
        alive_heads = self._heads.transpose(1, 2)  # (B, heads, T)
        weights = weights.reshape(B, heads, T, -1) * alive_heads[..., None]
        out = (weights.view(B, H, heads // H, T, -1) @ v).reshape(B, heads, T, D)
        self._count(fetched, alive_heads)
        self._gathered += weights.sum(1)
        self._head_importance += out.abs().sum(-1).transpose(1, 2)
        self.alive.append(self._tokens)
        self._prune(layer + 1)
        if layer == self.layers - 1:
            self._importance = (self._before + self._gathered.cumsum(1))[:, -1]
        return out.to(query.dtype)

    def _count(self, fetched: Tensor, alive_heads: Tensor) -> None:
        tokens = self._tokens.sum(-1)[:, None]  # (B, 1, T)
        first = FULL_BITS if self.progressive is None else self.progressive.high_bits
        key_bits = first + (FULL_BITS - first) * fetched
        self.bits_read += float(((key_bits + FULL_BITS) * alive_heads * tokens).sum())
        self.bits_dense += float((2 * FULL_BITS * self._visible.sum(-1)).sum()) * alive_heads.shape[1]
        self.fetched += float((fetched & alive_heads).sum())
        self.queries += float(alive_heads.sum())

    def _received(self) -> Tensor:
        """Attention received by each token as each query sees it, (B, T, S)."""
        if self.gather == "query":
            return self._gathered
        total = self._before + self._gathered.cumsum(1)
        if self.gather == "sum":
            return total
        _, T, S = total.shape
        queries = torch.arange(S - T + 1, S + 1)[:, None] - torch.arange(S)
        return total / queries.clamp(min=1)

    def _prune(self, layer: int) -> None:
        if layer >= self.layers:
            return
        importance = self._received()
        B, T, S = importance.shape
        own = torch.zeros(T, S, dtype=torch.bool)
        own[torch.arange(T), torch.arange(S - T, S)] = True
        importance = importance.masked_fill(~self._tokens, -1.0).masked_fill(own & self._visible, math.inf)
        count = (self.share(layer, self.keep_tokens) * self._visible.sum(-1)).ceil().long().clamp(min=1)
        self._tokens = self._tokens & best(importance, count)
        gathered = self._head_importance.cumsum(1).masked_fill(~self._heads, -1.0)
        heads = math.ceil(self.share(layer, self.keep_heads) * gathered.shape[-1] - 1e-9)
        self._heads = self._heads & best(gathered, torch.full((B, T), heads))


def best(importance: Tensor, count: Tensor) -> Tensor:
    """True at the `count` (...) largest of the last axis of importance (..., N); of equals, the earlier stay."""
    rank = torch.argsort(torch.argsort(importance, stable=True, dim=-1, descending=True), dim=-1)
    return rank < count[..., None]
