"""A chunk of a context: some consecutive tokens with their keys and values in 2, 4 or 8 bits.

It knows neither apps nor files. Source: llms.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeinfer.kernels.kv_quantize import QuantizedKV, quantize_keys, quantize_values


@dataclass(frozen=True)
class Chunk:
    """Keys and values of consecutive tokens, of all layers.

    Attributes:
        start: position of the first token.
        tokens: (n,) int64, the tokens themselves, from which the chunk can be computed again.
        keys, values: shape (layers, key-value heads, n, head_dim).
    """

    start: int
    tokens: NDArray[np.int64]
    keys: QuantizedKV
    values: QuantizedKV

    @property
    def bits(self) -> int:
        """Bits of a code."""
        return self.keys.bits

    @property
    def nbytes(self) -> int:
        """Bytes of codes, scales, offsets and tokens."""
        return self.keys.nbytes + self.values.nbytes + self.tokens.nbytes


def compress(
    start: int, tokens: NDArray[np.int64], keys: NDArray[np.float32], values: NDArray[np.float32], bits: int
) -> Chunk:
    """Make a chunk.

    Args:
        start: position of the first token.
        tokens: (n,) int64.
        keys: (layers, key-value heads, n, head_dim) float32; values likewise.
        bits: 2, 4 or 8.

    Raises:
        ValueError: "a chunk of 32 tokens needs keys and values of 32 tokens; came 31 and 32", or as `quantize_keys`.
    """
    n = len(tokens)
    if keys.shape[-2] != n or values.shape[-2] != n:
        raise ValueError(
            f"a chunk of {n} tokens needs keys and values of {n} tokens; came {keys.shape[-2]} and {values.shape[-2]}"
        )
    return Chunk(start, np.array(tokens, np.int64), quantize_keys(keys, bits), quantize_values(values, bits))
