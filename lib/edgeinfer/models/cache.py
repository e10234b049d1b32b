"""Where a decoder keeps keys and values: the protocol that a technique's cache fulfils, and the plain cache.

The decoder calls `update` once per layer and `advance` once per step; it reads `length` for the next position. A
cache may return fewer or other keys than it was given (eviction, quantization, paging). Keys arrive already rotated.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from edgeinfer.models.config import Config


class KVCache(Protocol):
    """What the decoder needs of a cache. B batch, H key-value heads, T new tokens, S kept tokens, D head size.

    Example: a cache that keeps only the last 64 tokens (a sliding window) overrides one method::

        class Window(PlainCache):
            def update(self, layer, keys, values):
                keys, values = super().update(layer, keys, values)
                return keys[:, :, -64:], values[:, :, -64:]

        model.cache_factory = Window

    A cache may also have `positions`, (T,) int64: then the step's tokens belong to several sequences, packed one behind
    the other in a batch of one, and the decoder's `attention` must know by itself who looks at whom; no mask is made.
    """

    length: int  # tokens seen, which is the position of the next one
    padding: Tensor | None  # (B,) int64, tokens of padding on the left of each row

    def update(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Take keys, values (B, H, T, D) of the step's tokens; return those to attend to, (B, H, S, D), S >= T."""

    def advance(self, count: int) -> None:
        """Note that `count` tokens have passed all layers."""


CacheFactory = Callable[[Config, int, torch.dtype], KVCache]


class PlainCache:
    """Keeps every key and value in one preallocated block per layer, doubled when it is full."""

    def __init__(self, config: Config, batch: int, dtype: torch.dtype, capacity: int = 128) -> None:
        self.length = 0
        self.padding: Tensor | None = None
        self._capacity = capacity
        shape = (batch, config.num_key_value_heads, capacity, config.head_dim)
        self._blocks = [
            (torch.empty(shape, dtype=dtype), torch.empty(shape, dtype=dtype)) for _ in range(config.num_hidden_layers)
        ]

    def update(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store the step's keys and values after the tokens seen so far; return views of all of them."""
        start, count = self.length, keys.shape[2]
        end = start + count
        if end > self._capacity:
            self.reserve(max(end, 2 * self._capacity))
        kept_keys, kept_values = self._blocks[layer]
        kept_keys.narrow(2, start, count).copy_(keys)
        kept_values.narrow(2, start, count).copy_(values)
        return kept_keys.narrow(2, 0, end), kept_values.narrow(2, 0, end)

    def advance(self, count: int) -> None:
        """Note that `count` tokens have passed all layers."""
        self.length += count

    def crop(self, length: int) -> None:
        """Forget all tokens from position `length` on, as speculative decoding does with rejected ones.

        Raises:
            ValueError: "cannot crop to 9 tokens: the cache holds 7".
        """
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot crop to {length} tokens: the cache holds {self.length}")
        self.length = length

    def reserve(self, capacity: int) -> None:
        """Make room for `capacity` tokens in all."""

        def larger(block: Tensor) -> Tensor:
            # All of the old room: layers already updated in this step hold newer tokens than `length` says.
            room = block.new_empty(*block.shape[:2], capacity, block.shape[3])
            room[:, :, : self._capacity] = block
            return room

        self._blocks = [(larger(keys), larger(values)) for keys, values in self._blocks]
        self._capacity = capacity

    def layer(self, number: int) -> tuple[Tensor, Tensor]:
        """Return the keys and values kept for one layer, each (B, H, length, D)."""
        keys, values = self._blocks[number]
        return keys[:, :, : self.length], values[:, :, : self.length]

    @property
    def nbytes(self) -> int:
        """Bytes of the keys and values kept (not of the room reserved)."""
        return sum(2 * keys.numel() * keys.element_size() for keys, _ in map(self.layer, range(len(self._blocks))))
