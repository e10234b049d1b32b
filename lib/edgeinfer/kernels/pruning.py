"""Pruning without training: which weights are set to zero, by their size alone or by size times the input they meet.

Knows a weight and the norms of its inputs, and a model only by its hooks; knows nothing of how zeros are stored.
Source: wanda for the second criterion; magnitude is the older baseline it is compared with there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeinfer.kernels import validate

if TYPE_CHECKING:
    from torch import Tensor

METHODS = ("magnitude", "activation-aware")
WHY = "which of them is small cannot be said"


def _checked_sparsity(sparsity: float) -> float:
    if not isinstance(sparsity, int | float | np.floating) or not 0 <= sparsity <= 1:
        raise ValueError(f"sparsity must be a share of zeros between 0 and 1, got {sparsity!r}.")
    return float(sparsity)


def _zero_smallest(weight: NDArray[np.float32], score: NDArray, count: int) -> NDArray[np.float32]:
    """`weight` with exactly `count` entries of every row of equal shape `score` set to zero: those of lowest score."""
    if not count:
        return weight.copy()
    edge = np.partition(score, count - 1, axis=1)[:, count - 1 : count]
    below, equal = score < edge, score == edge
    needed = count - below.sum(1, keepdims=True)
    gone = below | (equal & (np.cumsum(equal, 1) <= needed))  # among equals the first go: the same on every machine
    return np.where(gone, np.float32(0), weight)


def prune_magnitude(weight: NDArray[np.float32], sparsity: float, per: str = "matrix") -> NDArray[np.float32]:
    """Set the weights of smallest magnitude to zero.

    Args:
        weight: (N, K) float32.
        sparsity: share of zeros wanted, 0 to 1; the number of zeros is rounded.
        per: "matrix" ranks all weights together, "row" those of each output apart.

    Returns:
        A pruned copy, (N, K) float32.

    Raises:
        ValueError: "sparsity must be a share of zeros between 0 and 1, got 50." and the like.
    """
    sparsity = _checked_sparsity(sparsity)
    weight = validate.finite_matrix(weight, "weight", WHY)
    if per == "row":
        return _zero_smallest(weight, np.abs(weight), round(sparsity * weight.shape[1]))
    if per != "matrix":
        raise ValueError(f"per must be 'matrix' or 'row', got {per!r}.")
    flat = weight.reshape(1, -1)
    return _zero_smallest(flat, np.abs(flat), round(sparsity * weight.size)).reshape(weight.shape)


def prune_activation_aware(
    weight: NDArray[np.float32], input_norm: NDArray[np.float32], sparsity: float
) -> NDArray[np.float32]:
    """Set to zero, in every row, the weights with the smallest |weight| times norm of the input that they multiply.

    Args:
        weight: (N, K) float32.
        input_norm: (K,) Euclidean norm of each input over a calibration set (`input_norm` makes it).
        sparsity: share of zeros of every row, 0 to 1.

    Returns:
        A pruned copy, (N, K) float32.

    Raises:
        ValueError: "input_norm must have shape (256,), one norm for each column of the weight, got (640,)." and others.

    Source: wanda.
    """
    sparsity = _checked_sparsity(sparsity)
    weight = validate.finite_matrix(weight, "weight", WHY)
    norm = np.asarray(input_norm, np.float32)
    if norm.shape != weight.shape[1:]:
        raise ValueError(
            f"input_norm must have shape ({weight.shape[1]},), one norm for each column of the weight, "
            f"got {norm.shape}."
        )
    if not np.isfinite(norm).all() or (norm < 0).any():
        raise ValueError("input_norm must hold norms: finite numbers that are not negative.")
    return _zero_smallest(weight, np.abs(weight) * norm, round(sparsity * weight.shape[1]))


def input_norm(inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    """Euclidean norm of every column of a layer's calibration inputs.

    Args:
        inputs: (rows, K) float.

    Returns:
        (K,) float32.
    """
    inputs = validate.finite_matrix(inputs, "inputs", "a norm cannot be computed from them")
    return np.sqrt((inputs.astype(np.float64) ** 2).sum(0)).astype(np.float32)


def calibrate(model: Any, tokens: Tensor) -> dict[str, NDArray[np.float32]]:
    """Norms of the inputs of every linear layer of the blocks, from one pass of the whole model.

    Args:
        model: a `Decoder`.
        tokens: (B, T) int64.

    Returns:
        Layer name -> (K,) norms. A layer that no token reached (an expert) is left out.
    """
    names = [name for name, weight in model.linears().items() if name.startswith("layers.") and weight.ndim == 2]
    seen = model.capture_inputs(tokens, names)
    return {name: input_norm(inputs.float().numpy()) for name, inputs in seen.items() if len(inputs)}


def prune_model(
    model: Any,
    sparsity: float,
    method: str = "magnitude",
    norms: dict[str, NDArray[np.float32]] | None = None,
) -> dict[str, NDArray[np.float32]]:
    """Prune every linear layer of the blocks (not embedding and head) and write the result into the model.

    Args:
        model: a `Decoder`; it is changed. Work on `model.clone()` to keep the original.
        sparsity: share of zeros of every layer.
        method: "magnitude" or "activation-aware".
        norms: of `calibrate`, for "activation-aware"; a layer that is missing there is pruned by magnitude.

    Returns:
        Layer name -> pruned weight.

    Raises:
        ValueError: "method 'activation-aware' needs the norms of calibrate(model, tokens)." and others.
    """
    import torch

    if method not in METHODS:
        raise ValueError(f"method {method!r} is unknown; choose one of {', '.join(METHODS)}.")
    if method == "activation-aware" and norms is None:
        raise ValueError("method 'activation-aware' needs the norms of calibrate(model, tokens).")
    pruned = {}
    for name, tensor in model.linears().items():
        if not name.startswith("layers.") or tensor.ndim != 2:
            continue
        weight = tensor.detach().float().numpy()
        if method == "activation-aware" and norms is not None and name in norms:
            pruned[name] = prune_activation_aware(weight, norms[name], sparsity)
        else:
            pruned[name] = prune_magnitude(weight, sparsity)
        model.set_weight(name, torch.from_numpy(pruned[name]))
    return pruned
