"""Activation-aware scaling: columns whose inputs are large get a larger weight before rounding, and x is divided by it.

Knows a weight and its calibration inputs; the scale is a power of the mean input magnitude, the power found by search
on the layer's own output error. Source: awq.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeinfer.kernels.gptq import output_error, second_moment
from edgeinfer.kernels.quantize import QuantizedWeight, check_bits, check_group_size, nearest_codes, quantize_groupwise
from edgeinfer.kernels.validate import finite_matrix


@dataclass(frozen=True)
class ActivationAware:
    """Result of the search: y = Q(W diag(s)) (x / s).

    Attributes:
        input_scale: (K,) float32, s; 1 everywhere when no scaling helps.
        exponent: the power of the mean magnitude that was best.
        error: relative error of the layer's output with it.
        error_without: the same with exponent 0, that is round-to-nearest.
        weight: the quantized W diag(s).
    """

    input_scale: NDArray[np.float32]
    exponent: float
    error: float
    error_without: float
    weight: QuantizedWeight

    def dequantize(self) -> NDArray[np.float32]:
        """The matrix that replaces W: (N, K) float32, the input scale undone."""
        return self.weight.dequantize() / self.input_scale


def activation_aware_scale(
    weight: NDArray[np.float32],
    inputs: NDArray[np.float32],
    bits: int,
    group_size: int,
    symmetric: bool = False,
    steps: int = 10,
) -> ActivationAware:
    """Find the input scale that makes round-to-nearest hurt least.

    Args:
        weight: (N, K) float32.
        inputs: (rows, K) float32, calibration inputs of the layer.
        bits, group_size, symmetric: as in `quantize_groupwise`.
        steps: exponents tried between 0 and 1.

    Raises:
        ValueError: "inputs must have 256 columns for this weight, got 128." and as `quantize_groupwise`.
    """
    weight, inputs = finite_matrix(weight, "weight"), finite_matrix(inputs, "inputs")
    if inputs.shape[1] != weight.shape[1]:
        raise ValueError(f"inputs must have {weight.shape[1]} columns for this weight, got {inputs.shape[1]}.")
    bits, group_size = check_bits(bits), check_group_size(group_size, weight.shape[1])
    hessian = second_moment(inputs)
    magnitude = np.maximum(np.abs(inputs).mean(0, dtype=np.float64), 1e-8)
    errors, scales = [], []
    for exponent in np.arange(steps) / steps:
        scale = magnitude**exponent
        scale = (scale / np.sqrt(scale.max() * scale.min())).astype(np.float32)  # only ratios matter
        codes, step, zero = nearest_codes(weight * scale, bits, group_size, symmetric)
        back = ((codes - zero[..., None]) * step[..., None]).reshape(weight.shape) / scale
        errors.append(output_error(weight, back, hessian))
        scales.append(scale)
    best = int(np.argmin(errors))
    quantized = quantize_groupwise(weight * scales[best], bits, group_size, symmetric)
    return ActivationAware(scales[best], best / steps, errors[best], errors[0], quantized)
