"""Four bits in the shape of a float: a code is put into the fraction of a half, so that decoding is two bit operations.

A half has a sign, 5 bits of exponent and 10 of fraction. With the exponent fixed to 2**10 the fraction counts ones, so
the half that holds code c is 1024 + c: no conversion. What the exponent added, and the zero point, leave in one exact
subtraction. Knows formats and their decoders; they run on counted arrays, so that operations are counted and not
guessed. N = output rows, K = input columns. Source: transformer-lite (E0M4; the word layout here is this book's).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeinfer.kernels import validate
from edgeinfer.kernels.quantize import QuantizedWeight, check_group_size, quantize_groupwise

# Bits 0..3 of the fraction count ones under the exponent of 1024.0, bits 4..7 under that of 64.0.
EXPONENTS = ((0x000F, 0x6400), (0x00F0, 0x5400))
PER_WORD = 4  # codes in a 16-bit word


@dataclass(frozen=True)
class Counted:
    """An array whose operations are counted: a step of a decoder is a line of code that does one of these.

    Attributes:
        value: the numbers.
        counts: name of operation -> operations on single elements; shared by everything computed from it.
    """

    value: NDArray[Any]
    counts: Counter[str] = field(default_factory=Counter)

    def _step(self, name: str, value: NDArray[Any]) -> Counted:
        self.counts[name] += value.size
        return Counted(value, self.counts)

    def __and__(self, mask: int) -> Counted:
        return self._step("and", self.value & self.value.dtype.type(mask))

    def __or__(self, mask: int) -> Counted:
        return self._step("or", self.value | self.value.dtype.type(mask))

    def __rshift__(self, bits: int) -> Counted:
        return self._step("shift", self.value >> self.value.dtype.type(bits))

    def convert(self) -> Counted:
        """Integer to half: an instruction of its own."""
        return self._step("convert", self.value.astype(np.float16))

    def as_half(self) -> Counted:
        """The same bits read as a half: no instruction."""
        return Counted(self.value.view(np.float16), self.counts)

    def __sub__(self, other: NDArray[np.float16]) -> Counted:
        return self._step("subtract", self.value - other)

    def __mul__(self, other: NDArray[np.float16]) -> Counted:
        return self._step("multiply", self.value * other)


BIT_OPERATIONS = ("and", "or", "shift", "convert")


@dataclass(frozen=True)
class Float4Weight:
    """A 4-bit weight in words of four codes, with a half scale and a zero point per group.

    Attributes:
        words: (N, K // 4) uint16; code i of a word stands in bits 4 i to 4 i + 3.
        scale: (N, K // group_size) float16.
        zero_point: (N, K // group_size) uint8, the code that means 0.
        group_size: columns that share a scale; a multiple of 4.
        shape: (N, K).
    """

    words: NDArray[np.uint16]
    scale: NDArray[np.float16]
    zero_point: NDArray[np.uint8]
    group_size: int
    shape: tuple[int, int]

    @property
    def nbytes(self) -> int:
        """Stored bytes."""
        return self.words.nbytes + self.scale.nbytes + self.zero_point.nbytes

    def dequantize(self, decoder: str = "float") -> NDArray[np.float16]:
        """The matrix that the words stand for: (N, K) float16; both decoders give the same bits."""
        return decode(self, decoder)[0]


def pack_float4(weight: QuantizedWeight) -> Float4Weight:
    """Put the codes of a 4-bit quantized weight into 16-bit words.

    Raises:
        ValueError: "pack_float4 takes codes of 4 bits, got 3." or a group that is no multiple of 4.
    """
    if weight.bits != 4:
        raise ValueError(f"pack_float4 takes codes of 4 bits, got {weight.bits}.")
    if weight.group_size % PER_WORD:
        raise ValueError(
            f"group_size {weight.group_size} is not a multiple of {PER_WORD}; a word holds that many codes."
        )
    rows, columns = weight.shape
    codes = weight.codes.astype(np.uint16).reshape(rows, columns // PER_WORD, PER_WORD)
    words = sum(codes[..., i] << np.uint16(4 * i) for i in range(PER_WORD))
    if weight.scale.max() > 65504 or weight.scale.min() < 2**-14:
        raise ValueError(
            f"scales from {weight.scale.min():.2g} to {weight.scale.max():.2g} leave the normal range of float16, "
            "6.1e-05 to 65504; scale the weight first."
        )
    scale = weight.scale.astype(np.float16)
    return Float4Weight(np.asarray(words, np.uint16), scale, weight.zero_point, weight.group_size, weight.shape)


def quantize_float4(weight: NDArray[np.float32], group_size: int) -> Float4Weight:
    """Quantize to evenly spaced 4-bit codes (asymmetric, nearest) and store them as float fractions.

    Args:
        weight: (N, K) float32.
        group_size: columns that share a scale; divides K, a multiple of 4.
    """
    return pack_float4(quantize_groupwise(weight, 4, group_size, symmetric=False))


def decode(weight: Float4Weight, decoder: str = "float") -> tuple[NDArray[np.float16], Counter[str]]:
    """Decode all weights, step by step, on counted arrays.

    Args:
        weight: packed.
        decoder: "float": the code becomes the fraction of a half; "integer": shift, mask, convert, as for int4.

    Returns:
        (N, K) float16, and the operations: name -> count. Folding scale and offset, once per group, is not counted.

    Raises:
        ValueError: "decoder 'x' is unknown; choose 'float' or 'integer'."
    """
    if decoder not in ("float", "integer"):
        raise ValueError(f"decoder {decoder!r} is unknown; choose 'float' or 'integer'.")
    rows, columns = weight.shape
    per_group = weight.group_size // PER_WORD
    words = Counted(weight.words.reshape(rows, -1, per_group))
    scale, zero = weight.scale[..., None], weight.zero_point[..., None].astype(np.float16)
    parts = (_by_fraction if decoder == "float" else _by_integer)(words, scale, zero)
    out = np.stack([part.value for part in parts], -1)  # rows, groups, words of a group, codes of a word
    return np.ascontiguousarray(out.reshape(rows, columns)), words.counts


def _by_fraction(words: Counted, scale: NDArray[np.float16], zero: NDArray[np.float16]) -> list[Counted]:
    parts = []
    for pair in (words, words >> 8):  # one shift serves two codes
        for mask, exponent in EXPONENTS:
            half = ((pair & mask) | exponent).as_half()  # the two bit operations
            # What the exponent added goes with the zero point: exact, for both are integers below 2048.
            offset = np.array(exponent, np.uint16).view(np.float16) + zero
            parts.append((half - offset) * scale)
    return parts


def _by_integer(words: Counted, scale: NDArray[np.float16], zero: NDArray[np.float16]) -> list[Counted]:
    parts = []
    for i in range(PER_WORD):
        code = ((words >> 4 * i) if i else words) & 0xF
        parts.append((code.convert() - zero) * scale)
    return parts


def operations_per_weight(weight: Float4Weight, decoder: str) -> dict[str, float]:
    """Operations that decoding one weight takes on average.

    Args:
        weight: packed.
        decoder: as in `decode`.

    Returns:
        Name -> count, and under "bit operations" the sum of all that come before the first float operation.
    """
    counts = decode(weight, decoder)[1]
    size = weight.shape[0] * weight.shape[1]
    found = {name: count / size for name, count in sorted(counts.items())}
    return found | {"bit operations": sum(counts[name] for name in BIT_OPERATIONS) / size}


def exponent_levels(weight: NDArray[np.float32], group_size: int) -> NDArray[np.float32]:
    """Round to a sign and a power of two: what four bits mean when they are put into the *exponent* of a float (M0E4).

    Args:
        weight: (N, K) float32.
        group_size: columns that share a scale, which is their largest magnitude.

    Returns:
        (N, K) float32: sign * largest * 2**-e, e in 0..7 (a sign and three bits), to the nearest of these values.
    """
    weight = validate.finite_matrix(weight, "weight")
    rows, columns = weight.shape
    grouped = weight.reshape(rows, columns // check_group_size(group_size, columns), group_size)
    largest = np.abs(grouped).max(-1, keepdims=True)
    share = np.abs(grouped) / np.where(largest > 0, largest, np.float32(1))
    # Between 2**-e and 2**-(e+1) the middle is 0.75 * 2**-e, so the nearest power is found by a shifted logarithm.
    power = np.floor(-np.log2(np.maximum(share, np.float32(2**-9)) / np.float32(1.5)))
    values = np.exp2(-np.clip(power, 0, 7)) * largest
    return np.where(np.signbit(grouped), -values, values).astype(np.float32).reshape(rows, columns)
