"""The feed-forward network of chosen neurons only, straight from their bundles: compiled, one token at a time.

A bundle holds a neuron's row of gate, row of up and column of down, one after the other, as bits of bfloat16. Sums are
float32, neurons are added in the order given, so the result does not depend on where a bundle lies. Source: deja-vu.
"""

from __future__ import annotations

import numpy as np
from numba.extending import register_jitable

from edgeinfer.kernels.simd import compiled


@register_jitable(inline="always")
def _wide(bits):
    """Bits of bfloat16 as float32."""
    return np.uint32(np.uint32(bits) << np.uint32(16)).view(np.float32)


@compiled(fastmath={"reassoc", "contract", "nsz"})
def _network(x, bundles, rows, out):
    """x float32 (H,), bundles uint16 (S, >= 3 H), rows int64 (n,), out float32 (H,), to which is added."""
    H = len(x)
    for row in rows:
        bundle = bundles[row]
        gate = np.float32(0)
        for k in range(H):
            gate += x[k] * _wide(bundle[k])
        if gate <= 0:  # the ReLU: a neuron that was predicted in vain
            continue
        up = np.float32(0)
        for k in range(H):
            up += x[k] * _wide(bundle[H + k])
        up *= gate
        for k in range(H):
            out[k] += up * _wide(bundle[2 * H + k])


def gathered_network(x: np.ndarray, bundles: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return down @ (relu(gate @ x) * (up @ x)) over some neurons.

    Args:
        x: float32 (H,) or (1, H).
        bundles: uint16 (S, W), W at least 3 H: bits of bfloat16, see `bundle_layer`.
        rows: int (n,), which rows of `bundles`, in the order in which they are added.

    Returns:
        float32 (H,).

    Raises:
        ValueError: "a bundle of 100 numbers is too short for inputs of 64 ..." or "row 9 is not among 8 bundles ...".
    """
    x = np.ascontiguousarray(x, np.float32).reshape(-1)
    rows = np.ascontiguousarray(rows, np.int64)
    if bundles.ndim != 2 or bundles.dtype != np.uint16:
        raise ValueError(f"bundles must be uint16 (neurons, numbers); came {bundles.dtype} {bundles.shape}")
    if bundles.shape[1] < 3 * len(x):
        raise ValueError(
            f"a bundle of {bundles.shape[1]} numbers is too short for inputs of {len(x)}: gate, up and down need "
            f"{3 * len(x)}; the file belongs to another model"
        )
    if len(rows) and not 0 <= rows.min() <= rows.max() < len(bundles):
        raise ValueError(f"rows {rows.min()} to {rows.max()} are not all among {len(bundles)} bundles; check the index")
    out = np.zeros(len(x), np.float32)
    _network(x, bundles, rows, out)
    return out
