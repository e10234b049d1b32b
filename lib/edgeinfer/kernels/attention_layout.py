"""Quantized keys and values in the order in which the attention kernel reads them, and room to append whole blocks.

Keys: blocks of 32 tokens, a vector lane is a token: byte 64 v + 4 l + j of a step holds the codes of channels j, 4 + j,
... of token 16 v + l. Values: blocks of 64 tokens, a lane is a channel: byte 64 v + 4 l + j of a step of a chunk of 32
channels holds tokens j, 4 + j, ... of channel 16 v + l. H key-value heads, S tokens, D channels. Knows the layout only.
"""

from __future__ import annotations

from math import lcm

import numpy as np
from numpy.typing import NDArray

from edgeinfer.kernels.attention_scores import KEY_BLOCK
from edgeinfer.kernels.attention_values import CHUNK, VALUE_BLOCK
from edgeinfer.kernels.kv_quantize import QuantizedKV, finite_cache, quantize_keys, quantize_values
from edgeinfer.kernels.memory import in_huge_pages


def _joined(codes: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """(..., P, last) codes -> (..., last) bytes, the first in the lowest bits."""
    packed = codes[..., 0, :].copy()
    for s in range(1, 8 // bits):
        packed |= codes[..., s, :] << np.uint8(s * bits)
    return packed


def order_keys(codes: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """(H, S, D) codes -> (H, S * D * bits / 8) bytes; S a multiple of 32, D of 32."""
    heads, tokens, channels = codes.shape
    per_byte = 8 // bits
    # block, vector, lane, step, code of the byte, byte
    parts = codes.reshape(heads, tokens // KEY_BLOCK, 2, 16, channels // (4 * per_byte), per_byte, 4)
    return np.ascontiguousarray(_joined(parts, bits).transpose(0, 1, 4, 2, 3, 5)).reshape(heads, -1)


def order_values(codes: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """(H, S, D) codes -> (H, S * D * bits / 8) bytes; S a multiple of 64, D of 32. Codes of 8 bits lose 128."""
    heads, tokens, channels = codes.shape
    per_byte = 8 // bits
    if bits == 8:
        codes = codes ^ np.uint8(128)  # minus 128 as a signed byte
    # block, step, code of the byte, byte, chunk, vector, lane
    parts = codes.reshape(heads, tokens // VALUE_BLOCK, -1, per_byte, 4, channels // CHUNK, 2, 16)
    parts = parts.transpose(0, 1, 5, 2, 6, 7, 3, 4)  # block, chunk, step, vector, lane, code, byte
    return np.ascontiguousarray(_joined(parts, bits)).reshape(heads, -1)


def _padded(x: NDArray[np.float32], channels: int) -> NDArray[np.float32]:
    return np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, channels - x.shape[-1])]) if x.shape[-1] < channels else x


class PackedKV:
    """The cache of one layer of one sequence: quantized blocks, then the recent tokens as float32.

    Tokens become codes `step` at a time, as soon as so many are older than the last `window`; until then they stay as
    they are. So between `window` and `window + step - 1` tokens are exact.

    Args:
        heads: key-value heads.
        head_dim: channels of a head.
        bits: of keys and values, 2, 4 or 8: one number or (keys, values).
        group_size: tokens that share a key scale, a multiple of 32; and channels that share a value scale, a multiple
            of 32 or all of them.
        window: recent tokens that stay float32.

    Raises:
        ValueError: "group_size of keys must be a multiple of 32 tokens, got 48." and the like.
    """

    def __init__(
        self,
        heads: int,
        head_dim: int,
        bits: int | tuple[int, int] = 4,
        group_size: int | tuple[int, int] = 64,
        window: int = 0,
    ) -> None:
        self.bits = bits if isinstance(bits, tuple) else (bits, bits)
        key_group, value_group = group_size if isinstance(group_size, tuple) else (group_size, group_size)
        self.heads, self.head_dim, self.window = heads, head_dim, window
        self.channels = -(-head_dim // CHUNK) * CHUNK
        if key_group < 1 or key_group % KEY_BLOCK:
            raise ValueError(f"group_size of keys must be a multiple of {KEY_BLOCK} tokens, got {key_group}.")
        if value_group < 1 or (value_group < head_dim and value_group % CHUNK):
            raise ValueError(f"group_size of values must be a multiple of {CHUNK} channels, got {value_group}.")
        if window < 0:
            raise ValueError(f"window must be 0 or more tokens, got {window}.")
        if not set(self.bits) <= {2, 4, 8}:
            raise ValueError(f"a KV cache is stored in 2, 4 or 8 bits, got {self.bits}.")
        self.group_size = (key_group, min(value_group, self.channels))
        self.step = lcm(VALUE_BLOCK, key_group)
        self.tokens = 0  # of them quantized
        # token by token, so that appending one moves none of the others; fewer than these are left after every append
        self._recent = np.empty((2, window + self.step, heads, self.channels), np.float32)
        self._count = 0
        self.arrays = self._room(0)

    @property
    def recent_keys(self) -> NDArray[np.float32]:
        """(tokens, H, padded D) float32, those that are not quantized."""
        return self._recent[0, : self._count]

    @property
    def recent_values(self) -> NDArray[np.float32]:
        """Like `recent_keys`."""
        return self._recent[1, : self._count]

    def _room(self, tokens: int) -> list[NDArray]:
        """Empty key bytes, scales, offsets and value bytes, scales, offsets for so many tokens."""
        heads, channels, (key_group, value_group) = self.heads, self.channels, self.group_size
        key_side = (heads, tokens // key_group, channels)
        value_side = (heads, -(-channels // value_group), tokens)
        return [
            np.empty((heads, tokens * channels * self.bits[0] // 8), np.uint8),
            *(np.empty(key_side, np.uint16) for _ in range(2)),
            np.empty((heads, tokens * channels * self.bits[1] // 8), np.uint8),
            *(np.empty(value_side, np.uint16) for _ in range(2)),
        ]

    @property
    def length(self) -> int:
        """Tokens kept, quantized or not."""
        return self.tokens + self._count

    @property
    def nbytes(self) -> int:
        """Bytes of codes, scales, offsets and recent tokens, which one attention reads."""
        return self.quantized_nbytes + self.recent_keys.nbytes + self.recent_values.nbytes

    @property
    def quantized_nbytes(self) -> int:
        """Bytes of codes, scales and offsets."""
        return sum(array.nbytes for array in self.arrays)

    def append(self, keys: NDArray[np.float32], values: NDArray[np.float32]) -> None:
        """Add tokens.

        Args:
            keys: (H, T, D) float32, rotated.
            values: (H, T, D) float32.

        Raises:
            ValueError: "keys must have shape (8, tokens, 128), got (8, 3, 64)." or NaN, as `quantize_keys` says.
        """
        for name, x in (("keys", keys), ("values", values)):
            if np.ndim(x) != 3 or (x.shape[0], x.shape[2]) != (self.heads, self.head_dim):
                raise ValueError(f"{name} must have shape ({self.heads}, tokens, {self.head_dim}), got {np.shape(x)}.")
        if keys.shape != values.shape:
            raise ValueError(f"keys and values must have as many tokens, got {keys.shape[1]} and {values.shape[1]}.")
        keys, values = (
            _padded(finite_cache(x, name), self.channels) for x, name in ((keys, "keys"), (values, "values"))
        )
        total = self._count + keys.shape[1]
        count = max(0, total - self.window) // self.step * self.step
        new = [x.transpose(1, 0, 2) for x in (keys, values)]
        if count:
            new = [np.concatenate([old[: self._count], x]) for old, x in zip(self._recent, new, strict=True)]
            self._quantize(*(x[:count].transpose(1, 0, 2) for x in new))
            new, self._count = [x[count:] for x in new], 0
        for room, x in zip(self._recent, new, strict=True):
            room[self._count : total - count] = x
        self._count = total - count

    def _quantize(self, keys: NDArray[np.float32], values: NDArray[np.float32]) -> None:
        (key_bits, value_bits), (key_group, value_group) = self.bits, self.group_size
        k = quantize_keys(keys, key_bits, key_group)
        v = quantize_values(values, value_bits, value_group)
        new: list[NDArray] = [
            order_keys(k.codes, key_bits),
            k.scale.view(np.uint16),
            k.offset.view(np.uint16),
            order_values(v.codes, value_bits),
            *(side.view(np.uint16).transpose(0, 2, 1) for side in (v.scale, v.offset)),
        ]
        axes = (1, 1, 1, 1, 2, 2)
        self.arrays = [
            in_huge_pages(np.concatenate([old, add], axis)) if old.size else in_huge_pages(add)
            for old, add, axis in zip(self.arrays, new, axes, strict=True)
        ]
        self.tokens += keys.shape[1]

    def dequantize(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The numbers that the kernel stands for: keys and values (H, length, D) float32."""
        (key_bits, value_bits), (key_group, value_group) = self.bits, self.group_size
        shape = (self.heads, self.tokens, self.channels)
        key_codes = _key_codes(self.arrays[0], key_bits, shape)
        value_codes = _value_codes(self.arrays[3], value_bits, shape)

        def numbers(codes: NDArray[np.uint8], bits: int, group: int, along: str, sides: list[NDArray]) -> NDArray:
            packed = np.empty((0, 0), np.uint8)
            scale, offset = (np.ascontiguousarray(s).view(np.float16) for s in sides)
            q = QuantizedKV(packed, scale, offset, bits, group, along, shape)
            axis = -2 if along == "tokens" else -1
            index = np.arange(shape[axis]) // group
            wide_scale, wide_offset = (np.take(a, index, axis).astype(np.float32) for a in (q.scale, q.offset))
            return wide_offset + wide_scale * codes

        keys = numbers(key_codes, key_bits, key_group, "tokens", self.arrays[1:3])
        values = numbers(
            value_codes, value_bits, value_group, "channels", [s.transpose(0, 2, 1) for s in self.arrays[4:6]]
        )
        keys, values = (
            np.concatenate([old, recent.transpose(1, 0, 2)], 1)[..., : self.head_dim]
            for old, recent in ((keys, self.recent_keys), (values, self.recent_values))
        )
        return keys, values


def _split(packed: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """(..., last) bytes -> (..., P, last) codes."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
    return (packed[..., None, :] >> shifts) & np.uint8(2**bits - 1)


def _key_codes(packed: NDArray[np.uint8], bits: int, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    heads, tokens, channels = shape
    steps = channels // (4 * (8 // bits))
    parts = packed.reshape(heads, tokens // KEY_BLOCK, steps, 2, 16, 4).transpose(0, 1, 3, 4, 2, 5)
    return _split(parts, bits).reshape(shape)


def _value_codes(packed: NDArray[np.uint8], bits: int, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    heads, tokens, channels = shape
    steps = VALUE_BLOCK // (4 * (8 // bits))
    parts = _split(packed.reshape(heads, tokens // VALUE_BLOCK, channels // CHUNK, steps, 2, 16, 4), bits)
    codes = parts.transpose(0, 1, 3, 6, 7, 2, 4, 5).reshape(shape)  # block, step, code, byte, chunk, vector, lane
    return codes ^ np.uint8(128) if bits == 8 else codes
