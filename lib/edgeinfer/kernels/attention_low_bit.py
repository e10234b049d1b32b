"""Attention of one new token over a cache of few bits: `attend_low_bit`, and what it may differ from exact attention.

Knows arrays and the packed cache; the loops are in `attention_scores` and `attention_values`, the decoder's
cache in `kv_cache`. H key-value heads, G query heads of each, D channels. Source: kivi, flashattention.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from edgeinfer.kernels import attention_scores, attention_values, simd
from edgeinfer.kernels.attention_layout import PackedKV
from edgeinfer.kernels.threads import over_blocks

SPLIT = 1024  # tokens of a work item: its scores and probabilities stay in the second-level cache


def pack_kv(
    keys: NDArray[np.float32],
    values: NDArray[np.float32],
    bits: int | tuple[int, int] = 4,
    group_size: int | tuple[int, int] = 64,
    window: int = 0,
) -> PackedKV:
    """Quantize the keys and values of one layer for `attend_low_bit`.

    Args:
        keys: (H, S, D) float32, S may be 0.
        values: (H, S, D) float32.
        bits: 2, 4 or 8, one number or (keys, values).
        group_size: tokens of a key scale and channels of a value scale, one number or (keys, values).
        window: recent tokens that stay float32; the remainder of a block stays, too.

    Raises:
        TypeError, ValueError: what does not fit, in one sentence.
    """
    if np.ndim(keys) != 3:
        raise ValueError(f"keys must have shape (heads, tokens, head_dim), got {np.shape(keys)}.")
    packed = PackedKV(keys.shape[0], keys.shape[2], bits, group_size, window)
    packed.append(keys, values)
    return packed


def attend_low_bit(
    query: NDArray[np.float32],
    packed: PackedKV,
    threads: int = 1,
    path: str = "auto",
    scale: float | None = None,
    split: int = SPLIT,
) -> NDArray[np.float32]:
    """Scaled dot-product attention of one token over a packed cache, without making the codes floats.

    Args:
        query: (heads, D) float32, rotated; heads a multiple of the cache's H. Query head i reads cache head i // G.
        packed: the cache of one layer.
        threads: work items (cache heads x splits) are divided among so many threads.
        path: "auto", "simd" or "portable"; the same integers, floats may differ in rounding.
        scale: factor of the scores; None: 1 / sqrt(D).
        split: tokens of a work item, a multiple of 64.

    Returns:
        (heads, D) float32. Queries were rounded to int8 per group of tokens and probabilities to 16 bits; the rest of
        the difference from exact attention is that of the codes.

    Raises:
        ValueError: "query must have shape (heads, 128) with a multiple of 8 heads, got (12, 128)."; "the cache holds no
            token; append some before attending."; "query contains NaN or infinite values ...".

    Source: kivi, flashattention.
    """
    query = np.asarray(query)
    H, D = packed.heads, packed.head_dim
    if query.ndim != 2 or query.shape[1] != D or query.shape[0] == 0 or query.shape[0] % H:
        raise ValueError(f"query must have shape (heads, {D}) with a multiple of {H} heads, got {query.shape}.")
    if not packed.length:
        raise ValueError("the cache holds no token; append some before attending.")
    if split < 1 or split % attention_values.VALUE_BLOCK:
        raise ValueError(f"split must be a multiple of {attention_values.VALUE_BLOCK} tokens, got {split}.")
    if not np.isfinite(query).all():
        raise ValueError("query contains NaN or infinite values; attention with them means nothing.")
    vectors = simd.choose(path)
    G = query.shape[0] // H
    folded = np.zeros((H, G, packed.channels), np.float32)
    np.multiply(query.reshape(H, G, D), np.float32(1 / math.sqrt(D) if scale is None else scale), out=folded[..., :D])
    recent = packed.length > packed.tokens
    splits = -(-packed.tokens // split)
    largest = np.empty((H, splits + recent, G), np.float32)
    sums, partial = np.empty_like(largest), np.empty((*largest.shape, packed.channels), np.float32)
    if splits:
        key_arrays, value_arrays = packed.arrays[:3], packed.arrays[3:]
        scores = np.empty((H, G, packed.tokens), np.float32)
        kernel = attention_scores.score_simd if vectors else attention_scores.score_portable
        side = (packed.bits[0], packed.group_size[0])
        over_blocks(kernel, (*key_arrays, *side, folded, split, scores), H * splits, threads)
        kernel = attention_values.weigh_simd if vectors else attention_values.weigh_portable
        side = (packed.bits[1], packed.group_size[1])
        over_blocks(kernel, (*value_arrays, *side, scores, split, largest, sums, partial), H * splits, threads)
    if recent:
        attention_values.attend_recent(packed.recent_keys, packed.recent_values, folded, largest, sums, partial)
    out = np.empty((H, G, packed.channels), np.float32)
    attention_values.merge(largest, sums, partial, out)
    return out.reshape(H * G, -1)[:, :D]


def exact_attention(
    query: NDArray[np.float32], keys: NDArray[np.float32], values: NDArray[np.float32], scale: float | None = None
) -> NDArray[np.float64]:
    """The same in float64, to compare with.

    Args:
        query: (heads, D).
        keys: (H, S, D), S >= 1; values likewise.
        scale: factor of the scores; None: 1 / sqrt(D).

    Returns:
        (heads, D) float64.
    """
    H, _, D = keys.shape
    q = np.asarray(query, np.float64).reshape(H, -1, D) * (1 / math.sqrt(D) if scale is None else scale)
    scores = q @ keys.astype(np.float64).transpose(0, 2, 1)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return (weights @ values.astype(np.float64) / weights.sum(-1, keepdims=True)).reshape(-1, D)
