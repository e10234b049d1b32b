"""Attention heads that use the weights of a similar head: matching by cosine similarity, sharing without training.

A unit is one key-value head with the query heads that belong to it. Knows weights only, no data. Source:
head-wise-sharing (DirectShare).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from edgeinfer.models import Decoder

PARTS = ("q_proj", "k_proj", "v_proj")


@dataclass(frozen=True)
class HeadPlan:
    """Which units borrow.

    Attributes:
        units: number of units.
        borrows: {unit: unit whose weights it uses}; a lender never borrows.
        unit_bytes: bytes of one unit's shared weights at 16 bits.
    """

    units: int
    borrows: dict[int, int]
    unit_bytes: int = 0

    @property
    def bytes_saved(self) -> int:
        return len(self.borrows) * self.unit_bytes


def head_similarity(parts: Sequence[NDArray[np.float32]]) -> NDArray[np.float64]:
    """Cosine between units, the mean over the parts: each part counts the same, whatever its length.

    Args:
        parts: for q, k (and v) an array (units, ...); a unit's weights of that kind, flattened here.

    Returns:
        (units, units) float64, 1 on the diagonal; a unit of zeros is similar to nothing (0).

    Raises:
        ValueError: "every part must hold the same number of units, got [32, 31]."
    """
    counts = [len(p) for p in parts]
    if not parts or len(set(counts)) != 1:
        raise ValueError(f"every part must hold the same number of units, got {counts}.")
    total = np.zeros((counts[0], counts[0]))
    for part in parts:
        rows = np.asarray(part, np.float64).reshape(len(part), -1)
        length = np.linalg.norm(rows, axis=1, keepdims=True)
        rows = np.divide(rows, length, out=np.zeros_like(rows), where=length > 0)
        total += rows @ rows.T
    return np.asarray(total / len(parts), np.float64)


def match_heads(similarity: NDArray[np.floating], count: int) -> dict[int, int]:
    """Choose `count` borrowers: pairs by falling similarity; who lends never borrows, who borrows never lends.

    Args:
        similarity: (units, units), symmetric.
        count: how many units give up their own weights, 0..units - 1.

    Returns:
        {borrower: lender}; of a fresh pair the later unit borrows. Fewer than `count` only if no pair is left.

    Raises:
        ValueError: "count must lie in 0..31, got 32."
    """
    units = len(similarity)
    if not 0 <= count < max(units, 1):
        raise ValueError(f"count must lie in 0..{units - 1}, got {count}.")
    first, second = np.triu_indices(units, 1)
    borrows: dict[int, int] = {}
    lends: set[int] = set()
    for at in np.argsort(-np.asarray(similarity)[first, second], kind="stable"):
        if len(borrows) == count:
            break
        lender, borrower = int(first[at]), int(second[at])
        if borrower in lends:
            lender, borrower = borrower, lender
        if borrower in lends or borrower in borrows or lender in borrows:
            continue
        borrows[borrower] = lender
        lends.add(lender)
    return borrows


def random_match(units: int, count: int, seed: int = 0) -> dict[int, int]:
    """As many borrowers as `match_heads`, drawn by chance: the control."""
    order = np.random.default_rng(seed).permutation(units)
    lenders = order[count:]
    return {int(b): int(lenders[i % len(lenders)]) for i, b in enumerate(order[:count])}


def unit_weights(model: Decoder) -> dict[str, torch.Tensor]:
    """Return {"q_proj": (units, rows, K), ...}; unit layer * kv_heads + head, its query heads' rows in one piece."""
    linears, kv = model.linears(), model.config.num_key_value_heads
    layers = range(model.config.num_hidden_layers)
    return {p: torch.cat([linears[f"layers.{i}.attention.{p}"].unflatten(0, (kv, -1)) for i in layers]) for p in PARTS}


def share_heads(
    model: Decoder, count: int, parts: Sequence[str] = ("q_proj", "k_proj"), seed: int | None = None
) -> HeadPlan:
    """Let `count` units of the decoder use the weights of the unit most like them; the decoder is changed.

    Args:
        model: a decoder, changed in place.
        count: borrowers.
        parts: which weights are compared and shared.
        seed: None matches by similarity; a number draws the pairs instead (the control).
    """
    weights = unit_weights(model)
    units = len(weights["q_proj"])
    if seed is None:
        borrows = match_heads(head_similarity([weights[p].float().numpy() for p in parts]), count)
    else:
        borrows = random_match(units, count, seed)
    kv = model.config.num_key_value_heads
    for part in parts:
        new = weights[part].clone()
        for borrower, lender in borrows.items():
            new[borrower] = weights[part][lender]
        for layer in range(model.config.num_hidden_layers):
            model.set_weight(f"layers.{layer}.attention.{part}", new[layer * kv : (layer + 1) * kv].flatten(0, 1))
    return HeadPlan(units, borrows, 2 * sum(weights[p][0].numel() for p in parts))
