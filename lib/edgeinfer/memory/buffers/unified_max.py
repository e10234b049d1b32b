"""Decode attention over splits of the tokens, without and with waiting: one fixed maximum, or the true one.

A softmax may subtract any number. With the true maximum, no split can finish before all have been seen; with a number
phi fixed in advance each is done when it is done, as long as every score stays near phi. A row with a score out of
range is computed again the slow way. Knows arrays, no model. H key-value heads, G query heads of each, S tokens, D
channels. Source: flashdecoding-pp.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeinfer.kernels.simd import compiled
from edgeinfer.kernels.threads import over_blocks

SPLIT, CHUNK = 256, 64
# float32: exp(88) is near its largest number, exp(-87) near its smallest; 60 leaves room for the sum of all tokens.
LOW, HIGH = -80.0, 60.0


@dataclass
class Counts:
    """What attention had to do.

    Attributes:
        rows: softmax rows (one for each query head).
        splits: pieces of rows.
        waits: pieces whose sums had to be scaled anew when another piece's maximum became known.
        scalings: multiplications spent on that.
        recomputed: rows computed again because a score was out of range.
    """

    rows: int = 0
    splits: int = 0
    waits: int = 0
    scalings: int = 0
    recomputed: int = 0

    def add(self, other: Counts) -> None:
        """Add another call's counts."""
        for name in self.__dataclass_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


@compiled(fastmath={"reassoc", "contract", "nsz"})
def _score(query, key):
    total = np.float32(0)
    for d in range(query.size):
        total += query[d] * key[d]
    return total


@compiled()
def _add(out, weight, row):
    for d in range(out.size):
        out[d] += weight * row[d]


@compiled()
def _unified(query, keys, values, scale, phi, low, high, split, sums, mixed, bad, first, last):
    """Items first to last, each one (head, query head, split): nothing is read that another item writes."""
    tokens = keys.shape[1]
    splits, groups = sums.shape[2], query.shape[1]
    scores = np.empty(CHUNK, np.float32)
    for item in range(first, last):
        h, g, p = item // (groups * splits), item // splits % groups, item % splits
        out, total = mixed[h, g, p], np.float32(0)
        out[:] = 0
        end = min((p + 1) * split, tokens)
        # A chunk's scores are used at once, while the other way must keep them until its maximum is known.
        for begin in range(p * split, end, CHUNK):
            stop, fits = min(begin + CHUNK, end), True
            for t in range(begin, stop):
                x = _score(query[h, g], keys[h, t]) * scale - phi
                scores[t - begin] = x
                fits &= low <= x <= high
            if not fits:
                bad[h, g, p] = True
                break
            for t in range(begin, stop):
                weight = np.exp(scores[t - begin])
                total += weight
                _add(out, weight, values[h, t])
        sums[h, g, p] = total


@compiled()
def _own_maximum(query, keys, values, scale, split, maxima, sums, mixed, rows, first, last):
    """The same items with each split's own maximum; only the rows that are asked for."""
    tokens = keys.shape[1]
    splits, groups = sums.shape[2], query.shape[1]
    scores = np.empty(split, np.float32)
    for item in range(first, last):
        h, g, p = item // (groups * splits), item // splits % groups, item % splits
        if not rows[h, g]:
            continue
        begin, end = p * split, min((p + 1) * split, tokens)
        largest = np.float32(-np.inf)
        for t in range(begin, end):
            scores[t - begin] = _score(query[h, g], keys[h, t]) * scale
            largest = max(largest, scores[t - begin])
        out, total = mixed[h, g, p], np.float32(0)
        out[:] = 0
        for t in range(begin, end):
            weight = np.exp(scores[t - begin] - largest)
            total += weight
            _add(out, weight, values[h, t])
        maxima[h, g, p], sums[h, g, p] = largest, total


def _checked(query: Any, keys: Any, values: Any) -> tuple[NDArray, NDArray, NDArray]:
    query, keys, values = (np.ascontiguousarray(a, dtype=np.float32) for a in (query, keys, values))
    if query.ndim != 3 or keys.ndim != 3 or keys.shape != values.shape:
        raise ValueError(
            "query must have shape (heads, queries, head_dim), keys and values (heads, tokens, head_dim); came "
            f"{query.shape}, {keys.shape} and {values.shape}."
        )
    if query.shape[0] != keys.shape[0] or query.shape[2] != keys.shape[2]:
        raise ValueError(f"query {query.shape} and keys {keys.shape} differ in heads or head_dim; both must agree.")
    if keys.shape[1] == 0:
        raise ValueError("there are no tokens to attend to; at least one is needed.")
    return query, keys, values


def attend_with_maximum(
    query: NDArray[np.float32],
    keys: NDArray[np.float32],
    values: NDArray[np.float32],
    split: int = SPLIT,
    threads: int = 1,
    rows: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[np.float32], Counts]:
    """Split attention as it was before: each split with its own maximum, all scaled to the largest afterwards.

    Args:
        query: (H, G, D) float32, not scaled.
        keys, values: (H, S, D) float32.
        split: tokens of a work item.
        threads: so many threads divide the items.
        rows: (H, G) bool, which rows to compute; None: all (the others are 0).

    Returns:
        (H, G, D) float32 and what was done.

    Raises:
        ValueError: which shapes do not fit.
    """
    query, keys, values = _checked(query, keys, values)
    (H, G, D), splits = query.shape, -(-keys.shape[1] // split)
    maxima, sums = np.zeros((2, H, G, splits), np.float32)
    mixed = np.zeros((H, G, splits, D), np.float32)
    wanted = np.ones((H, G), np.bool_) if rows is None else rows
    arguments = (query, keys, values, np.float32(1 / math.sqrt(D)), split, maxima, sums, mixed, wanted)
    over_blocks(_own_maximum, arguments, H * G * splits, threads)
    # Here everybody waits: no piece can be added before the largest maximum is known.
    factor = np.exp(maxima - maxima.max(-1, keepdims=True))
    count = int(wanted.sum())
    out = (mixed * factor[..., None]).sum(2) / np.maximum((sums * factor).sum(2), np.float32(1e-38))[..., None]
    waits = count * (splits - 1)
    return out, Counts(count, count * splits, waits, waits * (D + 1))


def attend_unified(
    query: NDArray[np.float32],
    keys: NDArray[np.float32],
    values: NDArray[np.float32],
    phi: float = 0.0,
    low: float = LOW,
    high: float = HIGH,
    split: int = SPLIT,
    threads: int = 1,
) -> tuple[NDArray[np.float32], Counts]:
    """Split attention with one number phi for the maximum of all rows; rows with a score out of range are done again.

    Args:
        query: (H, G, D) float32, not scaled.
        keys, values: (H, S, D) float32.
        phi: what is subtracted from every score, for instance from `choose_phi`.
        low, high: a score minus phi must lie between them; outside, exp would overflow or vanish in the type in use.
        split: tokens of a work item.
        threads: so many threads divide the items; the result does not depend on it.

    Returns:
        (H, G, D) float32, and what was done: no waits but those of rows that were computed again.

    Raises:
        ValueError: which shapes do not fit, or "low must be below high, got 3 and 3."
    """
    query, keys, values = _checked(query, keys, values)
    if not low < high:
        raise ValueError(f"low must be below high, got {low:g} and {high:g}.")
    (H, G, D), splits = query.shape, -(-keys.shape[1] // split)
    sums, bad = np.zeros((H, G, splits), np.float32), np.zeros((H, G, splits), np.bool_)
    mixed = np.zeros((H, G, splits, D), np.float32)
    numbers = [np.float32(n) for n in (1 / math.sqrt(D), phi, low, high)]
    over_blocks(_unified, (query, keys, values, *numbers, split, sums, mixed, bad), H * G * splits, threads)
    again = np.asarray(bad.any(-1))
    total = np.where(again, np.float32(1), sums.sum(-1))
    out = mixed.sum(2) / total[..., None]
    counts = Counts(H * G, H * G * splits, 0, 0, int(again.sum()))
    if counts.recomputed:
        right, more = attend_with_maximum(query, keys, values, split, threads, again)
        out = np.where(again[..., None], right, out)
        counts.waits, counts.scalings, counts.splits = more.waits, more.scalings, counts.splits + more.splits
    return out, counts


def score_range(query: NDArray[np.float32], keys: NDArray[np.float32]) -> tuple[float, float]:
    """Smallest and largest score of queries (H, G, D) with keys (H, S, D): what phi is chosen from."""
    scores = np.einsum("hgd,hsd->hgs", query, keys) / math.sqrt(query.shape[-1])
    return float(scores.min()), float(scores.max())


def choose_phi(lows: NDArray[np.float64], highs: NDArray[np.float64], low: float = LOW, high: float = HIGH) -> float:
    """A phi for which as many of these rows as possible stay in range; of equal ones the middle.

    Args:
        lows, highs: smallest and largest score of each row seen.
        low, high: the range of a score minus phi.

    Returns:
        phi; a row stays in range when high - phi and low - phi do: highs - high <= phi <= lows - low.
    """
    begin, end = np.asarray(highs, float) - high, np.asarray(lows, float) - low
    fits = begin <= end
    if not fits.any():
        return float(np.median((begin + end) / 2))
    edges = np.unique(np.concatenate([begin[fits], end[fits]]))
    middle = np.concatenate([edges, (edges[1:] + edges[:-1]) / 2])
    inside = ((begin[fits] <= middle[:, None]) & (middle[:, None] <= end[fits])).sum(1)
    best = middle[inside == inside.max()]
    return float(best[np.argmin(np.abs(best - best.mean()))])


@dataclass
class UnifiedAttention:
    """Attention for `model.attention`: decoding steps of batch 1 by `attend_unified`, everything else as before.

    Attributes:
        phi, low, high, split: as in `attend_unified`.
        counts: over all calls.
        seen: (smallest, largest) score of each row, if `watch` is set: for `choose_phi`.
    """

    phi: float = 0.0
    low: float = LOW
    high: float = HIGH
    split: int = SPLIT
    watch: bool = False
    counts: Counts = field(default_factory=Counts)
    seen: list[tuple[float, float]] = field(default_factory=list)

    def __call__(self, query: Any, keys: Any, values: Any, mask: Any, layer: int) -> Any:
        """As `models.decoder.attend`."""
        import torch

        from edgeinfer.models.decoder import attend

        if query.shape[0] != 1 or query.shape[2] != 1 or mask is not None:
            return attend(query, keys, values, mask, layer)
        kv_heads = keys.shape[1]
        q = query.float().numpy().reshape(kv_heads, -1, query.shape[3])
        k, v = keys[0].float().numpy(), values[0].float().numpy()
        if self.watch:
            scores = np.einsum("hgd,hsd->hgs", q, k).reshape(-1, k.shape[1]) / math.sqrt(q.shape[-1])
            self.seen += list(zip(scores.min(1).tolist(), scores.max(1).tolist(), strict=True))
        out, counts = attend_unified(q, k, v, self.phi, self.low, self.high, self.split)
        self.counts.add(counts)
        return torch.from_numpy(out.reshape(1, -1, 1, q.shape[-1])).to(query.dtype)
