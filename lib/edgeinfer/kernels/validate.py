"""What every kernel checks about its arrays, and the one sentence that a wrong one gets."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

FLOATS = (np.float16, np.float32, np.float64)


def _array(value: Any, name: str) -> NDArray:
    if type(value).__module__.split(".")[0] == "torch":
        raise TypeError(f"{name} must be a NumPy array, got a torch tensor; pass {name}.detach().float().numpy().")
    array = np.asarray(value)
    if array.dtype not in FLOATS:
        raise TypeError(
            f"{name} must hold float32 numbers, got dtype {array.dtype}; convert it with astype('float32')."
        )
    return array


def finite_matrix(value: Any, name: str, why: str = "a scale cannot be computed from them") -> NDArray[np.float32]:
    """A two-dimensional, non-empty, finite matrix as contiguous float32; `why` ends the sentence about NaN.

    Raises:
        TypeError: "weight must hold float32 numbers, got dtype int64; convert it with astype('float32')."
        ValueError: "weight must be a matrix (out_features, in_features), got shape (3,)." and the like.
    """
    array = _array(value, name)
    if array.ndim != 2:
        raise ValueError(f"{name} must be a matrix (out_features, in_features), got shape {array.shape}.")
    if array.size == 0:
        raise ValueError(f"{name} is empty: shape {array.shape}; at least one row and one column are needed.")
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite and is refused below
        array = np.ascontiguousarray(array, dtype=np.float32)
    if not np.isfinite(array).all():
        count = int(array.size - np.isfinite(array).sum())
        raise ValueError(f"{name} contains {count} NaN or infinite values; {why}.")
    return array


def activations(value: Any, columns: int) -> NDArray[np.float32]:
    """Activations (K,) or (B, K) as contiguous float32 (B, K). Whether they are finite is seen when they are quantized.

    Raises:
        TypeError: as for a matrix.
        ValueError: "x must have shape (256,) or (batch, 256) for this weight, got (128,)."
    """
    array = value
    if type(value) is not np.ndarray or value.dtype != np.float32:
        array = _array(value, "x")
    if array.ndim not in (1, 2) or array.shape[-1] != columns:
        raise ValueError(f"x must have shape ({columns},) or (batch, {columns}) for this weight, got {array.shape}.")
    return np.ascontiguousarray(array, dtype=np.float32).reshape(-1, columns)


def finite_activations(value: Any, columns: int) -> NDArray[np.float32]:
    """`activations` that are finite.

    Raises:
        ValueError: "x contains NaN or infinite values; a product with them means nothing."
    """
    array = activations(value, columns)
    if not np.isfinite(array).all():
        raise ValueError("x contains NaN or infinite values; a product with them means nothing.")
    return array
