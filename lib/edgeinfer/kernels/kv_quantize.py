"""Keys and values of a KV cache as codes of 2, 4 or 8 bits with a scale and an offset per group.

Keys are grouped along the tokens of one channel, because a few channels are large for every token; values along the
channels of one token, because an appended token must not touch the scales of earlier ones. S tokens, D channels. Knows
the numbers only: `attention_layout` orders them for the kernel. Source: kivi, mnn-llm.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeinfer.kernels.bits import pack_bits, unpack_bits

WIDTHS = (2, 4, 8)
LARGEST = 65504.0  # the largest finite float16


@dataclass(frozen=True)
class QuantizedKV:
    """x = offset + scale * code.

    Attributes:
        packed: (rows, ceil(D * bits / 8)) uint8, the codes of one token side by side; rows = all leading axes times S.
        scale: float16, (..., groups, D) for groups of tokens, (..., S, groups) for groups of channels.
        offset: like scale, the value of code 0.
        bits: 2, 4 or 8.
        group_size: numbers that share a scale; the last group may be shorter.
        along: "tokens" or "channels", the axis that groups run along.
        shape: (..., S, D).
    """

    packed: NDArray[np.uint8]
    scale: NDArray[np.float16]
    offset: NDArray[np.float16]
    bits: int
    group_size: int
    along: str
    shape: tuple[int, ...]

    @property
    def codes(self) -> NDArray[np.uint8]:
        """(..., S, D) uint8, one code a byte."""
        if not self.packed.size:
            return np.zeros(self.shape, np.uint8)
        return unpack_bits(self.packed, self.bits, self.shape[-1]).reshape(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of codes, scales and offsets."""
        return self.packed.nbytes + self.scale.nbytes + self.offset.nbytes

    def dequantize(self) -> NDArray[np.float32]:
        """(..., S, D) float32."""
        axis = -2 if self.along == "tokens" else -1
        count = self.shape[axis]
        index = np.arange(count) // self.group_size
        scale, offset = (np.take(a, index, axis).astype(np.float32) for a in (self.scale, self.offset))
        return offset + scale * self.codes


def finite_cache(value: NDArray[np.float32], name: str) -> NDArray[np.float32]:
    """Keys or values (..., S, D) as contiguous float32.

    Raises:
        TypeError: "keys must be a NumPy array of float32, got Tensor; pass keys.float().numpy()."
        ValueError: "keys contain 3 NaN or infinite values; a scale cannot be computed from them." and the like.
    """
    if not isinstance(value, np.ndarray) or value.dtype.kind != "f":
        raise TypeError(
            f"{name} must be a NumPy array of float32, got {type(value).__name__}; pass {name}.float().numpy()."
        )
    if value.ndim < 2 or value.shape[-1] == 0:
        raise ValueError(f"{name} must have shape (..., tokens, head_dim), got {value.shape}.")
    array = np.ascontiguousarray(value, dtype=np.float32)
    magnitude = np.abs(array)
    if not np.isfinite(magnitude).all():
        count = int(array.size - np.isfinite(array).sum())
        raise ValueError(f"{name} contain {count} NaN or infinite values; a scale cannot be computed from them.")
    if array.size and float(magnitude.max()) > LARGEST:
        raise ValueError(f"{name} reach {float(magnitude.max()):.3g}; offsets are float16 and end at 65504.")
    return array


def _check(bits: int, group_size: int) -> None:
    if bits not in WIDTHS:
        raise ValueError(f"a KV cache is stored in 2, 4 or 8 bits, got {bits!r}.")
    if not isinstance(group_size, int | np.integer) or group_size < 1:
        raise ValueError(f"group_size must be a positive integer, got {group_size!r}.")


def _not_above(x: NDArray[np.float32]) -> NDArray[np.float16]:
    """The nearest float16 that is not above x."""
    half = x.astype(np.float16)
    return np.where(half.astype(np.float32) > x, np.nextafter(half, np.float16(-np.inf)), half)


def _quantize(x: NDArray[np.float32], bits: int, group_size: int, along: str) -> QuantizedKV:
    _check(bits, group_size)
    axis = x.ndim - 2 if along == "tokens" else x.ndim - 1
    count = x.shape[axis]
    groups = -(-count // group_size)
    levels = 2**bits - 1
    if x.size == 0:
        sides = tuple(groups if i == axis else n for i, n in enumerate(x.shape))
        nothing = np.zeros(sides, np.float16)
        return QuantizedKV(
            np.zeros((0, -(-x.shape[-1] * bits // 8)), np.uint8), nothing, nothing, bits, group_size, along, x.shape
        )
    starts = np.arange(0, count, group_size)
    low, high = (f.reduceat(x, starts, axis=axis) for f in (np.minimum, np.maximum))
    # Offsets rounded down and scales rounded up reach from the smallest to the largest number: no code is clipped,
    # so the error is half a step at most.
    offset = np.maximum(_not_above(low), np.float16(-LARGEST))
    steps: NDArray[np.float32] = np.asarray((offset.astype(np.float32) - high) / np.float32(levels), np.float32)
    scale = -_not_above(steps)
    index = np.arange(count) // group_size
    step, start = (np.take(a, index, axis).astype(np.float32) for a in (scale, offset))
    codes = np.rint(np.divide(x - start, step, out=np.zeros_like(x), where=step > 0))
    codes = np.clip(codes, 0, levels).astype(np.uint8)
    packed = pack_bits(codes.reshape(-1, x.shape[-1]), bits)
    return QuantizedKV(packed, scale, offset, bits, int(group_size), along, x.shape)


def quantize_keys(keys: NDArray[np.float32], bits: int, group_size: int = 32, along: str = "tokens") -> QuantizedKV:
    """Quantize keys, by default per channel: one scale for `group_size` consecutive tokens of one channel.

    Args:
        keys: (..., S, D) float32; S may be 0.
        bits: 2, 4 or 8.
        group_size: tokens (or channels) that share a scale; the last group may be shorter.
        along: "tokens", or "channels" for groups inside one token, as MNN-LLM stores keys.

    Returns:
        Codes, float16 scales and offsets; no number is more than half a step away.

    Raises:
        TypeError: for anything but an array of floats.
        ValueError: "keys contain 3 NaN or infinite values; a scale cannot be computed from them." and the like.

    Source: kivi, mnn-llm.
    """
    if along not in ("tokens", "channels"):
        raise ValueError(f"along must be 'tokens' or 'channels', got {along!r}.")
    return _quantize(finite_cache(keys, "keys"), bits, group_size, along)


def quantize_values(values: NDArray[np.float32], bits: int, group_size: int = 32) -> QuantizedKV:
    """Quantize values per token: one scale for `group_size` consecutive channels of one token.

    Args:
        values: (..., S, D) float32; S may be 0.
        bits: 2, 4 or 8.
        group_size: channels that share a scale; the last group may be shorter.

    Returns:
        Codes, float16 scales and offsets; no number is more than half a step away.

    Raises:
        TypeError, ValueError: as for keys.

    Source: kivi.
    """
    return _quantize(finite_cache(values, "values"), bits, group_size, "channels")
