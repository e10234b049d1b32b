"""Blocks that run twice in a row while their weights are in the cache, and small nets that are really trained.

Traffic comes from an exact simulated cache; it is bytes, no times. Source: mobilellm.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgeinfer.memory.locality.lru import replay
from edgeinfer.memory.sharing.factors import batches, held_out_loss, tune
from edgeinfer.models.training.network import Network

ORDERS = ("immediate", "all-over", "reverse")


def block_order(blocks: int, order: str = "immediate") -> list[int]:
    """The blocks in the order they run, each twice: 0011.. (immediate), 0101.. (all-over), 0110.. (reverse).

    Raises:
        ValueError: "order must be one of immediate, all-over, reverse, got 'twice'."
    """
    if order not in ORDERS:
        raise ValueError(f"order must be one of {', '.join(ORDERS)}, got {order!r}.")
    once = list(range(blocks))
    if order == "immediate":
        return [b for b in once for _ in range(2)]
    return once + (once if order == "all-over" else once[::-1])


def bytes_per_token(order: list[int], block_bytes: int, cache_bytes: int, line_bytes: int = 64, tokens: int = 3) -> int:
    """Bytes that a token's weights bring from slow memory, cache warm from the tokens before: SIMULATED.

    Args:
        order: blocks in the order they run; a block's lines are read from first to last.
        block_bytes, cache_bytes, line_bytes: sizes in bytes.
        tokens: how many are run; the last one is counted.

    Raises:
        ValueError: "sizes must be positive and the cache hold a line, got ..."
    """
    lines = -(-block_bytes // line_bytes)
    if min(block_bytes, line_bytes, tokens - 1) < 1 or cache_bytes < line_bytes:
        raise ValueError(
            f"sizes must be positive and the cache hold a line, got a block of {block_bytes}, a cache of {cache_bytes} "
            f"and lines of {line_bytes} bytes, {tokens} tokens (at least 2)."
        )
    one = np.concatenate([np.arange(b * lines, (b + 1) * lines) for b in order])
    before = replay(np.tile(one, tokens - 1), cache_bytes // line_bytes).fetched
    return (replay(np.tile(one, tokens), cache_bytes // line_bytes).fetched - before) * line_bytes


class RepeatedNetwork(Network):
    """The training network with blocks that run in a given order, more than once if it says so."""

    def __init__(self, config: dict[str, Any], order: list[int]) -> None:
        super().__init__(config)
        self.order = order

    def forward(self, tokens: Tensor) -> tuple[dict[int, Tensor], Tensor]:
        """As `Network.forward`, for the last exit only."""
        T = tokens.shape[1]
        mask = torch.full((T, T), float("-inf")).triu(1)
        x, extra = self.model.embed_tokens(tokens), []
        for block in self.order:
            x, aux = self.model.layers[block](x, self.cos[:T], self.sin[:T], mask)
            extra.append(aux)
        logits = functional.linear(self.model.norm(x), self.model.embed_tokens.weight)
        return {len(self.order): logits}, torch.stack(extra)


def small_config(hidden_size: int, intermediate_size: int, blocks: int, vocab_size: int = 1024) -> dict[str, Any]:
    """Configuration of a small net with heads of 16 and two query heads for each key-value head."""
    return {
        "vocab_size": vocab_size,
        "hidden_size": hidden_size,
        "intermediate_size": intermediate_size,
        "num_hidden_layers": blocks,
        "num_attention_heads": hidden_size // 16,
        "num_key_value_heads": hidden_size // 32,
        "head_dim": 16,
        "max_position_embeddings": 256,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
    }


def parameters_in_blocks(network: nn.Module) -> int:
    """Parameters of the blocks, each counted once; the embedding is left out."""
    return sum(p.numel() for name, p in network.named_parameters() if "layers." in name)


def train_small(
    config: dict[str, Any], order: list[int], tokens: Tensor, held_out: Tensor, steps: int, seed: int = 0
) -> tuple[RepeatedNetwork, list[float], float]:
    """Train a small net from nothing for a few seconds.

    Args:
        config: from `small_config`.
        order: blocks in the order they run.
        tokens, held_out: (T,) int64, to train and to measure on.
        steps: batches of 8 x 64 tokens.
        seed: of weights and batches.

    Returns:
        The net, its loss before each step, and its loss on held-out text.
    """
    torch.manual_seed(seed)
    network = RepeatedNetwork(config, order)
    curve = tune(network, batches(tokens, steps, 8, 64, seed), rate=4e-3)
    return network, curve, held_out_loss(network, batches(held_out, 12, 8, 64, 1))
