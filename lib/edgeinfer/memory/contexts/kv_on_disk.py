"""A cache of keys and values whose old part lies on the disk: the next layer's part is read while this one computes.

For a decoder's `cache_factory`; what it returns is what `PlainCache` would. Source: mnn-llm.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from edgeinfer.kernels.threads import beside
from edgeinfer.memory.storage import ColdFile
from edgeinfer.models import Config


class FlashKVCache:
    """Keeps the last tokens of each layer in memory and the others in a file.

    Example::

        model.cache_factory = lambda config, batch, dtype: FlashKVCache(config, batch, dtype, folder, recent=64)

    Attributes:
        prefetched, waited: reads that were under way or done when the layer asked, and reads that it had to start.
        peak_bytes: most bytes held in memory: recent tokens of all layers, and old ones of two layers at most.
    """

    def __init__(
        self,
        config: Config,
        batch: int,
        dtype: torch.dtype,
        folder: str | Path | None = None,
        recent: int = 64,
        block: int = 16,
        prefetch: bool = True,
    ) -> None:
        """Make an empty cache.

        Args:
            config, batch, dtype: as for every cache.
            folder: for the file, which has no name once it is open; None: the system's folder for such files.
            recent: tokens per layer that stay in memory, at least `block`.
            block: tokens that go to the file together.
            prefetch: read the next layer's old part while this layer computes.

        Raises:
            ValueError: "recent must be at least one block of 16 tokens; came 8", or for a type without a NumPy twin.
        """
        if recent < block or block < 1:
            raise ValueError(f"recent must be at least one block of {block} tokens; came {recent}")
        if dtype not in (torch.float32, torch.float16):
            raise ValueError(f"a cache on disk keeps float32 or float16, not {dtype}")
        self.length = 0
        self.padding: Tensor | None = None
        self._kind = np.dtype(np.float32 if dtype == torch.float32 else np.float16)
        self._layers, self._recent_tokens, self._block, self._prefetch = (
            config.num_hidden_layers,
            recent,
            block,
            prefetch,
        )
        self._shape = (2, batch, config.num_key_value_heads, block, config.head_dim)
        self._block_bytes = int(np.prod(self._shape)) * self._kind.itemsize
        self._region = self._block_bytes * -(-config.max_position_embeddings // block)
        empty = torch.empty(2, batch, config.num_key_value_heads, 0, config.head_dim, dtype=dtype)
        self._recent = [empty] * self._layers
        self._stored = [0] * self._layers
        number, name = tempfile.mkstemp(prefix="kv-", dir=folder)
        self._write = number
        try:
            os.ftruncate(number, self._region * self._layers)
            self._file = ColdFile(name)
        except BaseException:
            os.close(number)
            raise
        finally:
            os.unlink(name)  # the file lives as long as it is open: nothing is left behind, however we end
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="kv")
        self._coming: dict[int, tuple[int, Future[Tensor]]] = {}
        self.prefetched = self.waited = self.peak_bytes = 0

    @property
    def bytes_read(self) -> int:
        """Bytes that came from the disk."""
        return self._file.bytes_read

    def close(self) -> None:
        """Stop the thread and free the file."""
        if self._write >= 0:
            self._thread.shutdown(cancel_futures=True)
            self._file.close()
            os.close(self._write)
            self._write = -1

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self.close()

    def update(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Take the step's keys and values; return all (B, H, S, D), old ones read from the file."""
        old = self._old(layer)
        if self._prefetch and layer + 1 < self._layers:
            self._start(layer + 1)
        now = torch.cat((self._recent[layer], torch.stack((keys, values))), 3)
        both = now if old is None else torch.cat((old, now), 3)
        self._recent[layer] = self._spill(layer, now)
        held = sum(r.nbytes for r in self._recent) + sum(self._stored[n] * self._block_bytes for n in self._coming)
        self.peak_bytes = max(self.peak_bytes, held + (0 if old is None else old.nbytes))
        return both[0], both[1]

    def advance(self, count: int) -> None:
        """Note that `count` tokens have passed all layers; the first layer's old part is asked for at once."""
        self.length += count
        if self._prefetch:
            self._start(0)

    def _spill(self, layer: int, now: Tensor) -> Tensor:
        """Write the oldest whole blocks beyond `recent`; return what stays, in memory of its own."""
        extra = max(0, now.shape[3] - self._recent_tokens)
        blocks = -(-extra // self._block)
        for number in range(blocks):
            part = now[:, :, :, number * self._block : (number + 1) * self._block].contiguous().numpy()
            at = layer * self._region + self._stored[layer] * self._block_bytes
            view = part.reshape(-1).view(np.uint8).data
            while view:
                done = os.pwrite(self._write, view, at)
                view, at = view[done:], at + done
            self._stored[layer] += 1
        return now[:, :, :, blocks * self._block :].clone()

    def _start(self, layer: int) -> None:
        if self._stored[layer] and layer not in self._coming:
            count = self._stored[layer]
            self._coming[layer] = count, self._thread.submit(beside(self._read, layer, count))

    def _read(self, layer: int, count: int) -> Tensor:
        blocks = np.empty((count, *self._shape), self._kind)
        self._file.read_into(layer * self._region, blocks)
        # (blocks, 2, B, H, block, D) -> (2, B, H, blocks * block, D)
        joined = torch.from_numpy(blocks).permute(1, 2, 3, 0, 4, 5)
        return joined.reshape(*joined.shape[:3], -1, joined.shape[-1])

    def _old(self, layer: int) -> Tensor | None:
        if not self._stored[layer]:
            return None
        if layer in self._coming:
            count, future = self._coming.pop(layer)
            if count == self._stored[layer]:
                self.prefetched += 1
                return future.result()
            future.cancel()
        self.waited += 1
        return self._read(layer, self._stored[layer])
