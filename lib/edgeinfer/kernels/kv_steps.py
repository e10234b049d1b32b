"""Keys and values in few bits step by step in NumPy, with the signatures of lab 3: what the lab falls back on.

Slow and clear; it trusts its arguments. The fast counterparts are `kv_quantize` (float16 grids, packed codes) and
`attention_low_bit`. T tokens, D channels of one head. Source: kivi, minicache, energon, spatten.
"""

import numpy as np
from numpy.typing import NDArray

from edgeinfer.kernels.energon import threshold
from edgeinfer.kernels.minicache import cosine_similarity, interpolate

Floats = NDArray[np.floating]
Grid = tuple[NDArray[np.uint8], Floats, Floats]


def key_grids(keys: NDArray[np.float32], bits: int, group_size: int) -> Grid:
    """A grid per channel for each group of tokens.

    Args:
        keys: (T, D) float32, T a multiple of group_size.
        bits: 2..8.
        group_size: tokens that share a grid.

    Returns:
        Codes (T, D), scale and low (T // group_size, D): a key is about low + scale * code.
    """
    starts = np.arange(0, len(keys), group_size)
    low, high = (extreme.reduceat(keys, starts, axis=0) for extreme in (np.minimum, np.maximum))
    scale = np.where(high > low, (high - low) / np.float32(2**bits - 1), np.float32(1))
    group = np.arange(len(keys)) // group_size
    return np.rint((keys - low[group]) / scale[group]).astype(np.uint8), scale, low


def append_to_grids(
    codes: NDArray[np.uint8],
    scale: Floats,
    low: Floats,
    recent: NDArray[np.float32],
    key: NDArray[np.float32],
    bits: int,
    group_size: int,
) -> tuple[NDArray[np.uint8], Floats, Floats, NDArray[np.float32]]:
    """The coded tokens and the recent ones after one more; a full group of recent ones is coded."""
    recent = np.vstack([recent, key])
    full = len(recent) // group_size * group_size
    parts = key_grids(recent[:full], bits, group_size) if full else (codes[:0], scale[:0], low[:0])
    return (
        np.vstack([codes, parts[0]]),
        np.vstack([scale, parts[1]]),
        np.vstack([low, parts[2]]),
        recent[full:],
    )


def merge_directions(
    lower: NDArray[np.float32], upper: NDArray[np.float32], t: float, keep: int
) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """One direction per token for two layers, by turning lower's towards upper's.

    Args:
        lower, upper: (T, D) float32, the same tokens in two layers.
        t: share of the angle that is turned, 0 to 1.
        keep: tokens of largest angle to name, which are to be stored unmerged.

    Returns:
        Directions (T, D) of length 1, the lengths (2, T) of both layers, the kept tokens (keep,) in ascending order.
    """
    lengths = np.stack([np.linalg.norm(side, axis=1) for side in (lower, upper)])
    kept = np.sort(np.argsort(cosine_similarity(lower, upper), kind="stable")[:keep])
    return interpolate(lower, upper, t), lengths, kept


def filter_rounds(
    query: NDArray[np.int8], keys: NDArray[np.int8], alpha: float
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Keys alive after a round by the high two bits of their 4-bit codes, and after one by all four.

    Args:
        query: (D,) int8, codes from -8 to 7.
        keys: (T, D) int8, likewise.
        alpha: 0 puts the threshold at the mean of a round's scores, towards 1 it nears their maximum.

    Returns:
        Two masks (T,).
    """
    wide = query.astype(np.int32)
    high = (keys >> 2) @ wide
    first = _at_least(high, np.ones(len(keys), np.bool_), alpha)
    return first, _at_least(4 * high + (keys & 3) @ wide, first, alpha)


def _at_least(scores: NDArray[np.int32], alive: NDArray[np.bool_], alpha: float) -> NDArray[np.bool_]:
    return np.asarray(alive & (scores >= threshold(scores.astype(np.float64), alive, alpha)))


def cascade(
    importance: NDArray[np.float64], alive: NDArray[np.int64], probabilities: Floats, keep: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The importance gathered after one more layer, and the `keep` alive tokens that have gathered most.

    Args:
        importance: (T,) float64.
        alive: (A,) int64, ascending.
        probabilities: (H, Q, A), attention of H heads and Q queries to the alive tokens.
        keep: 1..A.

    Returns:
        Importance (T,) and the tokens (keep,), ascending.
    """
    gathered = importance.copy()
    np.add.at(gathered, alive, probabilities.sum((0, 1), dtype=np.float64))
    order = np.argsort(-gathered[alive], kind="stable")
    return gathered, np.sort(alive[order[:keep]])
