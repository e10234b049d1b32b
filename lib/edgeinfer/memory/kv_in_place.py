"""Two ways to append a token's keys and values: join old and new to a new tensor, or write into room that was kept.

The first is what a plain graph of operators does: the cache is an input and an output of every step. The second makes
both the same memory, the step's keys a part of it. Both count the bytes they move. Source: transformer-lite.
"""

from __future__ import annotations

import torch
from torch import Tensor

from edgeinfer.models.cache import PlainCache
from edgeinfer.models.config import Config


class JoiningCache(PlainCache):
    """Every step makes a new tensor of the old and the new keys, and of the values: all that was kept is copied.

    Attributes:
        bytes_copied: of old keys and values, so far.
        bytes_written: of new ones.
    """

    def __init__(self, config: Config, batch: int, dtype: torch.dtype) -> None:
        super().__init__(config, batch, dtype, capacity=0)
        self.bytes_copied = self.bytes_written = 0

    def update(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Join; return all."""
        old_keys, old_values = self.layer(layer)
        self.bytes_copied += 2 * old_keys.numel() * old_keys.element_size()
        self.bytes_written += 2 * keys.numel() * keys.element_size()
        joined = torch.cat((old_keys, keys), 2), torch.cat((old_values, values), 2)
        self._blocks[layer] = joined
        return joined


class InPlaceCache(PlainCache):
    """Room for all tokens from the start; a step writes its keys and values where they stay, as a view of that room.

    Attributes:
        bytes_copied: of old keys and values: stays 0 while the room suffices.
        bytes_written: of new ones.
    """

    def __init__(self, config: Config, batch: int, dtype: torch.dtype) -> None:
        super().__init__(config, batch, dtype, capacity=config.max_position_embeddings)
        self.bytes_copied = self.bytes_written = 0

    def update(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write in place; return views."""
        self.bytes_written += 2 * keys.numel() * keys.element_size()
        return super().update(layer, keys, values)

    def reserve(self, capacity: int) -> None:
        """Make room, which copies all that is kept (and is counted)."""
        if self.length:
            self.bytes_copied += self.nbytes
        super().reserve(capacity)
