"""Keys and values that do not lie where they are used: stored on a tier, as floats or in four bits, brought in time.

A cache is brought whole into one of two buffers while another one is used. It does not choose what lies where.
Source: flexgen.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future

import numpy as np
import torch
from torch import Tensor

from edgeinfer.memory.offload import packed
from edgeinfer.memory.offload.roads import Road
from edgeinfer.memory.offload.tiers import Moved
from edgeinfer.models.cache import PlainCache
from edgeinfer.models.config import Config


class FourBitCache(PlainCache):
    """Keeps in memory what remains of keys and values after four bits: what `TieredCache` must be equal to."""

    def update(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store the step's keys and values, rounded; return all of them."""
        rounded = (torch.from_numpy(packed.round_trip(x.float().numpy())).to(x.dtype) for x in (keys, values))
        return super().update(layer, *rounded)


class TieredCache(PlainCache):
    """Keys and values stored somewhere; a layer's are in a buffer while they are used, the step's own included.

    Args:
        config, batch, dtype: as `PlainCache`.
        capacity: tokens of a row, at most.
        take: gives memory of the tier, (bytes) uint8.
        four_bits: store them in four bits, 64 channels of a token together.
        moved: counts the copies.

    Attributes:
        here: the buffer that holds the layer in use, (2, B, H, capacity, D).
    """

    def __init__(
        self,
        config: Config,
        batch: int,
        dtype: torch.dtype,
        capacity: int,
        take: Callable[[int], np.ndarray],
        four_bits: bool,
        moved: Moved,
    ) -> None:
        self.length, self.padding = 0, None
        self._capacity, self._moved = capacity, moved
        self.shape = (2, batch, config.num_key_value_heads, capacity, config.head_dim)
        flat = (2 * batch * config.num_key_value_heads, capacity, config.head_dim)
        self.here = torch.empty(0)
        self._floats: list[Tensor] = []
        self._groups: list[packed.Groups] = []
        for _ in range(config.num_hidden_layers):
            if four_bits:
                self._groups.append(packed.view(take(packed.packed_bytes(flat[0] * flat[1], flat[2])), flat))
            else:
                raw = take(int(np.prod(self.shape)) * dtype.itemsize)
                self._floats.append(torch.from_numpy(raw).view(dtype).view(self.shape))

    def bring(self, layer: int, buffer: Tensor, count: int) -> None:
        """Copy the first `count` tokens of a layer's keys and values into a buffer."""
        with self._moved.lane("caches", layer):
            if self._groups:
                stored = self._groups[layer]
                stored.unpack(buffer.numpy(), slice(0, count))
                self._moved.copied += stored.nbytes * count // self._capacity
            else:
                kept = self._floats[layer][:, :, :, :count]
                buffer[:, :, :, :count] = kept
                self._moved.copied += kept.numel() * kept.element_size()

    def update(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add the step's keys and values, here and where they lie; return all of them as they were stored."""
        end = self.length + keys.shape[2]
        if end > self._capacity:
            raise ValueError(f"{end} tokens were given and the cache has room for {self._capacity}; make it longer")
        new = slice(self.length, end)
        step = torch.stack((keys, values))
        if self._groups:
            flat = step.float().flatten(0, 2).numpy()
            self._groups[layer].set(flat, new)
            self._groups[layer].unpack(self.here.numpy(), new)
        else:
            self.here[:, :, :, new] = step
            self._floats[layer][:, :, :, new] = step
        found = self.here[:, :, :, :end].to(keys.dtype)
        return found[0], found[1]


class CacheStream:
    """Brings the caches of a block in the order in which layers use them: the next one while one is used.

    Args:
        caches: of the sub-batches, in order; those that are no `TieredCache` are left alone.
        layers: of the model.
        road: where copies run; None: in the caller, when they are needed.
        moved: notes the waiting.
        dtype: of the buffers.
    """

    def __init__(
        self, caches: Sequence[PlainCache], layers: int, road: Road | None, moved: Moved, dtype: torch.dtype
    ) -> None:
        self._caches = {n: cache for n, cache in enumerate(caches) if isinstance(cache, TieredCache)}
        self._layers, self._road, self._moved = layers, road, moved
        largest = max((int(np.prod(c.shape)) for c in self._caches.values()), default=0)
        self._buffers = [torch.empty(largest, dtype=dtype) for _ in range(2 if road and largest else 1)]
        self._turn = 0
        self._coming: tuple[tuple[int, int], Future] | None = None

    def _buffer(self, number: int, turn: int) -> Tensor:
        shape = self._caches[number].shape
        return self._buffers[turn][: int(np.prod(shape))].view(shape)

    def enter(self, layer: int, number: int, count: int, again: bool) -> None:
        """Wait until the cache of a sub-batch is here for a layer, and send for the one that is used after it.

        Args:
            layer, number: of the layer, and of the sub-batch.
            count: tokens of this step.
            again: another step follows.
        """
        if number not in self._caches:
            return
        start = time.perf_counter()
        coming, self._coming = self._coming, None
        if coming is not None:
            coming[1].result()
        if coming is not None and coming[0] == (layer, number):
            self._turn = 1 - self._turn
        else:
            self._caches[number].bring(layer, self._buffer(number, self._turn), self._caches[number].length)
        self._caches[number].here = self._buffer(number, self._turn)
        self._moved.waited += time.perf_counter() - start
        self._send(layer, number, count, again)

    def _send(self, layer: int, number: int, count: int, again: bool) -> None:
        order = list(self._caches)
        place = order.index(number) + 1
        following, later = (order[place], layer) if place < len(order) else (order[0], layer + 1)
        if self._road is None or (following, later % self._layers) == (number, layer):
            return
        tokens = self._caches[following].length
        if later == self._layers:  # the next step's first layer: what this step wrote there has come, too
            if not again:
                return
            later, tokens = 0, tokens + count
        into = self._buffer(following, 1 - self._turn)
        future = self._road.submit(self._caches[following].bring, later, into, tokens, urgent=True)
        self._coming = (later, following), future
