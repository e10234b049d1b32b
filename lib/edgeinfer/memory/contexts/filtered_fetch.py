"""A cache whose old keys and values lie on the disk, and of which only what a query's filter lets through is read.

Memory keeps the four leading bits of every key, on which Energon's rounds decide; the file keeps the other four and the
values. It is the decoder's cache and its attention at once, because the query decides what is read. That also means
that nothing can be read ahead. H key-value heads, G query heads of each, T queries, S keys, D channels.
Source: energon.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgeinfer.kernels.energon import filter_rounds
from edgeinfer.memory.storage import ColdFile
from edgeinfer.models import Config

LEADING = 4  # bits of a key that stay in memory
LINE = 64  # bytes


class FilteredFetch:
    """Cache and attention of one conversation.

    Example::

        fetch = FilteredFetch(model.config)
        model.cache_factory, model.attention = fetch.as_cache, fetch.attention

    Attributes:
        together: tokens of a head that are written, and read, as one piece.
        bytes_wanted: of the records that passed the filter, as if a single record could be read.
        bytes_in_lines: of the lines of 64 bytes that hold them: what memory beyond a link would send.
        bytes_all: of all old records, once for each step: what a cache on the disk without a filter reads.
    """

    def __init__(
        self,
        config: Config,
        bits: Sequence[int] = (2, LEADING),
        alpha: float | Sequence[float] = 0.0,
        together: int = 16,
        folder: str | Path | None = None,
    ) -> None:
        """Make an empty one.

        Args:
            config: of the model; its head_dim must be even.
            bits, alpha: of Energon's rounds (`filter_keys`); no round looks at more than 4 bits.
            together: see above.
            folder: for the file, which has no name once it is open; None: the system's folder for such files.

        Raises:
            ValueError: "memory keeps the 4 leading bits of a key, so no round can read 6", or together below 1.
        """
        if max(bits, default=LEADING) > LEADING:
            raise ValueError(f"memory keeps the {LEADING} leading bits of a key, so no round can read {max(bits)}")
        if together < 1 or config.head_dim % 2:
            raise ValueError(f"together must be at least 1 and head_dim even; came {together} and {config.head_dim}")
        self.bits, self.alpha, self.together = tuple(bits), alpha, together
        self.length = 0
        self.padding: Tensor | None = None
        self._config, self._layers = config, config.num_hidden_layers
        heads, width = config.num_key_value_heads, config.head_dim
        self._width = width
        self._record = width // 2 + width + 4  # low halves of the key's codes, codes of the value, the value's scale
        self._room = -(-config.max_position_embeddings // together) * together
        self._leading = [np.empty((heads, 0, width // 2), np.uint8) for _ in range(self._layers)]
        self._scale = [np.empty((heads, 0, 1), np.float32) for _ in range(self._layers)]
        self._tail = [np.empty((heads, 0, self._record), np.uint8) for _ in range(self._layers)]
        number, name = tempfile.mkstemp(prefix="kv-", dir=folder)
        self._write = number
        try:
            os.ftruncate(number, self._layers * heads * self._room * self._record)
            self._file = ColdFile(name)
        except BaseException:
            os.close(number)
            raise
        finally:
            os.unlink(name)  # the file lives as long as it is open: nothing is left behind, however we end
        self.bytes_wanted = self.bytes_in_lines = self.bytes_all = 0

    @property
    def bytes_read(self) -> int:
        """Bytes that came from the disk, its whole blocks counted."""
        return self._file.bytes_read

    @property
    def requests(self) -> int:
        """Reads of the file."""
        return self._file.requests

    @property
    def memory_bytes(self) -> int:
        """Bytes held in memory: leading bits and scales of all keys, and the newest records."""
        return sum(part.nbytes for parts in (self._leading, self._scale, self._tail) for part in parts)

    def as_cache(self, config: Config, batch: int, dtype: torch.dtype) -> FilteredFetch:
        """Be a decoder's `cache_factory`.

        Raises:
            ValueError: for a batch, or when the conversation has already begun.
        """
        if batch != 1 or self.length:
            raise ValueError("one FilteredFetch serves one conversation, once: make another for the next")
        return self

    def close(self) -> None:
        """Free the file; a second time does nothing."""
        if self._write >= 0:
            self._file.close()
            os.close(self._write)
            self._write = -1

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self.close()

    def advance(self, count: int) -> None:
        """Note that `count` tokens have passed all layers."""
        self.length += count

    def update(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Take the step's keys and values (1, H, T, D).

        Returns:
            Tensors of (1, H, S, 0): `attention` knows where the numbers are.
        """
        codes, scale = _codes(keys[0].float().numpy())
        value_codes, value_scale = _codes(values[0].float().numpy())
        low, high = codes & np.uint8(15), codes >> np.uint8(4)
        record = np.concatenate((_pairs(low), value_codes, value_scale.view(np.uint8)), -1)
        self._leading[layer] = np.concatenate((self._leading[layer], _pairs(high)), 1)
        self._scale[layer] = np.concatenate((self._scale[layer], scale), 1)
        self._tail[layer] = self._spill(layer, np.concatenate((self._tail[layer], record), 1))
        nothing = keys.new_empty(1, keys.shape[1], self._leading[layer].shape[1], 0)
        return nothing, nothing

    def attention(self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, layer: int) -> Tensor:
        """Like `edgeinfer.models.decoder.attend`, over the keys that pass the filter; `update` gave keys and values."""
        _, heads, T, width = query.shape
        leading, scale = _unpaired(self._leading[layer]), self._scale[layer]
        H, S = leading.shape[:2]
        q = query[0].float().reshape(H, heads // H, T, width).numpy()

        def scores_at(width: int) -> NDArray[np.float32]:
            # the middle of what the bits leave open, in units of the 8-bit code
            step = np.float32(2.0 ** (8 - width))
            seen = (leading >> (LEADING - width)).astype(np.float32) + np.float32(0.5)
            return q @ np.swapaxes((seen * step - 128) * scale, -1, -2)[:, None]

        seen = None if mask is None else mask.reshape(mask.shape[-2:]).numpy()
        kept = filter_rounds(scores_at, self.bits, self.alpha, seen).kept
        records = self._fetch(layer, np.asarray(kept.any((1, 2))), S)
        codes = (leading << np.uint8(4)) | _unpaired(records[..., : width // 2])
        full = _numbers(codes, scale)
        value_scale = np.ascontiguousarray(records[..., -4:]).view(np.float32)
        found = _numbers(records[..., width // 2 : -4], value_scale)
        scores = q @ np.swapaxes(full, -1, -2)[:, None] / np.sqrt(np.float32(width))
        weights = torch.from_numpy(np.where(kept, scores, -np.inf)).softmax(-1)
        return (weights @ torch.from_numpy(found)[:, None]).reshape(1, heads, T, width).to(query.dtype)

    def _place(self, layer: int, head: int, token: int) -> int:
        return ((layer * self._leading[layer].shape[0] + head) * self._room + token) * self._record

    def _stored(self, layer: int) -> int:
        return self._leading[layer].shape[1] - self._tail[layer].shape[1]

    def _spill(self, layer: int, tail: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Write whole pieces from the front of the newest records; returns what stays."""
        count = tail.shape[1] // self.together * self.together
        first = self._leading[layer].shape[1] - tail.shape[1]
        for head in range(tail.shape[0] if count else 0):
            view = np.ascontiguousarray(tail[head, :count]).reshape(-1).data
            at = self._place(layer, head, first)
            while view:
                done = os.pwrite(self._write, view, at)
                view, at = view[done:], at + done
        return tail[:, count:].copy()

    def _fetch(self, layer: int, needed: NDArray[np.bool_], count: int) -> NDArray[np.uint8]:
        """Records (H, S, ...) of the needed (H, S) tokens; the others are left zero."""
        records = np.zeros((needed.shape[0], count, self._record), np.uint8)
        stored = self._stored(layer)
        records[:, stored:] = self._tail[layer]
        self.bytes_wanted += int(needed[:, :stored].sum()) * self._record
        self.bytes_all += needed.shape[0] * stored * self._record
        for head in range(needed.shape[0]):
            tokens = np.flatnonzero(needed[head, :stored])
            self.bytes_in_lines += _lines(self._place(layer, head, 0) + tokens * self._record, self._record) * LINE
            pieces = np.unique(tokens // self.together)
            for run in np.split(pieces, np.flatnonzero(np.diff(pieces) > 1) + 1) if pieces.size else ():
                first, last = run[0] * self.together, (run[-1] + 1) * self.together
                self._file.read_into(self._place(layer, head, first), records[head, first:last])
        return records


def _lines(starts: NDArray[np.int64], length: int) -> int:
    """How many lines hold pieces of `length` bytes, in order, that do not overlap; a shared line counts once."""
    first, last = starts // LINE, (starts + length - 1) // LINE
    return int((last - first + 1).sum() - (first[1:] == last[:-1]).sum())


def _codes(x: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """8-bit codes with one scale for each token, as `leading_bits` cuts them, moved up by 128."""
    scale = np.abs(x).max(-1, keepdims=True) / np.float32(127.5)
    codes = np.floor(x / np.where(scale > 0, scale, 1)).clip(-128, 127)
    return (codes + 128).astype(np.uint8), scale.astype(np.float32)


def _numbers(codes: NDArray[np.uint8], scale: NDArray[np.float32]) -> NDArray[np.float32]:
    return (codes.astype(np.float32) - np.float32(127.5)) * scale


def _pairs(halves: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return halves[..., ::2] | (halves[..., 1::2] << np.uint8(4))


def _unpaired(pairs: NDArray[np.uint8]) -> NDArray[np.uint8]:
    out = np.empty((*pairs.shape[:-1], 2 * pairs.shape[-1]), np.uint8)
    out[..., ::2], out[..., 1::2] = pairs & 15, pairs >> 4
    return out
