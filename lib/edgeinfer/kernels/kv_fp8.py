"""Floats of one byte, E4M3 and E5M2, by exact tables: values that can be appended without any scale.

A byte per number whose step follows the number itself, so a new token needs to know nothing of earlier ones. Needs no
special hardware: decoding is a look-up among 256 floats. Knows nothing of attention. Source: fp8-formats, mnn-llm.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

FORMATS = {"e4m3": (4, 3), "e5m2": (5, 2)}


@cache
def fp8_table(name: str) -> NDArray[np.float32]:
    """The 256 numbers of a format, read-only.

    Args:
        name: "e4m3" (largest number 448, one NaN per sign, no infinity) or "e5m2" (largest 57344, with infinity).

    Returns:
        (256,) float32, indexed by the byte.

    Raises:
        ValueError: "fp8 format 'e3m4' is unknown; choose 'e4m3' or 'e5m2'."

    Source: Micikevicius et al., FP8 Formats for Deep Learning.
    """
    if name not in FORMATS:
        raise ValueError(f"fp8 format {name!r} is unknown; choose 'e4m3' or 'e5m2'.")
    exponent_bits, mantissa_bits = FORMATS[name]
    byte = np.arange(256)
    exponent = (byte >> mantissa_bits) & (2**exponent_bits - 1)
    mantissa = (byte & (2**mantissa_bits - 1)) / 2.0**mantissa_bits
    bias = 2 ** (exponent_bits - 1) - 1
    number = np.where(exponent == 0, mantissa * 2.0 ** (1 - bias), (1 + mantissa) * 2.0 ** (exponent - bias))
    if name == "e4m3":
        number[(byte & 127) == 127] = np.nan
    else:
        top = exponent == 31
        number[top] = np.where(mantissa[top] == 0, np.inf, np.nan)
    table = (np.where(byte < 128, 1.0, -1.0) * number).astype(np.float32)
    table.setflags(write=False)
    return table


def to_fp8(x: NDArray[np.float32], name: str = "e4m3") -> NDArray[np.uint8]:
    """Round to the nearest number of the format, halfway cases to the even byte; beyond the largest: the largest.

    Args:
        x: any shape, float32.
        name: "e4m3" or "e5m2".

    Returns:
        The bytes, same shape.

    Raises:
        ValueError: "x contains 2 NaN values; they have no nearest number."
    """
    x = np.asarray(x, np.float32)
    if np.isnan(x).any():
        raise ValueError(f"x contains {int(np.isnan(x).sum())} NaN values; they have no nearest number.")
    table = fp8_table(name)
    positive = table[:128][np.isfinite(table[:128])].astype(np.float64)
    magnitude = np.minimum(np.abs(x.astype(np.float64)), positive[-1])
    above = np.searchsorted(positive, magnitude).clip(0, len(positive) - 1)
    below = np.maximum(above - 1, 0)
    up, down = positive[above] - magnitude, magnitude - positive[below]
    byte = np.where((up < down) | ((up == down) & (above % 2 == 0)), above, below)
    return (byte + np.where(np.signbit(x), 128, 0)).astype(np.uint8)


def from_fp8(codes: NDArray[np.uint8], name: str = "e4m3") -> NDArray[np.float32]:
    """The numbers of the bytes, float32, same shape."""
    return fp8_table(name)[codes]


@dataclass(frozen=True)
class Fp8Array:
    """Numbers of one byte each: `codes` of any shape, and the `format` that they are in."""

    codes: NDArray[np.uint8]
    format: str

    @property
    def nbytes(self) -> int:
        """One byte a number: there is no scale."""
        return self.codes.nbytes

    def dequantize(self) -> NDArray[np.float32]:
        """The numbers, float32."""
        return from_fp8(self.codes, self.format)


def quantize_fp8(values: NDArray[np.float32], format: str = "e4m3") -> Fp8Array:
    """Values of a cache as floats of one byte (see `to_fp8`)."""
    return Fp8Array(to_fp8(values, format), format)
