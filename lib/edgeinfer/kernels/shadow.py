"""Shadow outliers: a fixed scale for whole activation tensors, and a float path beside it for what does not fit.

An integer unit wants one scale per tensor, known before the tokens come. The few channels in which a value is beyond
that scale leave the tensor *before* it is rounded and are multiplied in float. `outliers` takes fixed columns out of
the weight; here they are chosen by the values that come. N x K weights, B tokens. Source: mllm-npu.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgeinfer.kernels import validate
from edgeinfer.kernels.activations import QuantizedActivations
from edgeinfer.kernels.integer import matmul
from edgeinfer.kernels.packing import PackedWeight, pack
from edgeinfer.kernels.quantize import quantize_per_tensor

if TYPE_CHECKING:
    from torch import Tensor


def static_scale(inputs: NDArray[np.float32], outliers: float = 0.0) -> float:
    """One scale for a whole tensor, fixed on calibration inputs.

    Args:
        inputs: (rows, K) float32.
        outliers: share of *channels* that may be beyond the scale; 0 fits the largest value of all.

    Returns:
        The distance between codes: 127 of them reach the largest value of the channels that are no outliers.

    Raises:
        ValueError: "outliers must be a share of channels, at least 0 and below 1, got 1.0."
    """
    if not 0 <= outliers < 1:
        raise ValueError(f"outliers must be a share of channels, at least 0 and below 1, got {outliers}.")
    per_channel = np.sort(np.abs(validate.finite_matrix(inputs, "inputs")).max(0))
    kept = max(1, len(per_channel) - round(outliers * len(per_channel)))
    largest = float(per_channel[kept - 1])
    return largest / 127 if largest > 0 else 1.0


@dataclass(frozen=True)
class Split:
    """x = scale * codes + shadow, where `shadow` is zero but in the channels `columns`.

    Attributes:
        codes: (B, K) int8; 0 in the outlier channels.
        columns: (k,) channels in which some value is beyond 127 steps.
        shadow: (B, k) float32, their values.
    """

    codes: NDArray[np.int8]
    columns: NDArray[np.intp]
    shadow: NDArray[np.float32]


def split_activations(x: NDArray[np.float32], scale: float, shadow: bool = True) -> Split:
    """Take the channels with outliers out, then round what is left.

    Args:
        x: (B, K) float32, finite.
        scale: of the codes.
        shadow: False clips instead, as a unit without the float path would.
    """
    columns = np.flatnonzero(np.abs(x).max(0) > 127.5 * scale) if shadow else np.empty(0, np.intp)
    rest = x.copy()
    rest[:, columns] = 0  # before rounding: a clipped rest plus the whole channel would count it twice
    codes = np.clip(np.rint(rest / np.float32(scale)), -127, 127).astype(np.int8)
    return Split(codes, columns, np.ascontiguousarray(x[:, columns]))


@dataclass
class ShadowLinear:
    """A linear layer with one scale for the weight, one fixed scale for the activations, and the shadow path.

    Attributes:
        regular: packed int8 weight, one scale.
        integer: (N, K) float32, what these integers stand for; the float path of an unforeseen channel reads it.
        scale: of the activations, fixed.
        kept: channel -> (N,) float32 weights, for channels known as outliers from calibration.
        shadow: False switches the float path off (values beyond the scale are clipped).
        channels: outlier channels met so far, summed over `calls` calls.
    """

    regular: PackedWeight
    integer: NDArray[np.float32]
    scale: float
    kept: dict[int, NDArray[np.float32]]
    shadow: bool = True
    channels: int = 0
    calls: int = 0

    def matmul(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """y = x W^T for (K,) or (B, K) float32."""
        rows = validate.finite_activations(x, self.regular.shape[1])
        parts = split_activations(rows, self.scale, self.shadow)
        self.channels, self.calls = self.channels + parts.columns.size, self.calls + 1
        sums = parts.codes.sum(1, dtype=np.int32)[:, None]
        scale = np.full((len(rows), 1), self.scale, np.float32)
        y = matmul(self.regular, QuantizedActivations(parts.codes, scale, sums, rows.shape[1], False))
        if parts.columns.size:
            y = y + parts.shadow @ np.stack([self._column(int(k)) for k in parts.columns])
        return y[0] if np.ndim(x) == 1 else y

    def _column(self, k: int) -> NDArray[np.float32]:
        """Weights (N,) of a channel: in float where it was foreseen, else the integer ones, which are there anyway."""
        return self.kept[k] if k in self.kept else self.integer[:, k]

    def __call__(self, x: Tensor) -> Tensor:
        """x (..., K) -> (..., N), for `Decoder.replace_linear`."""
        import torch

        y = self.matmul(x.detach().reshape(-1, x.shape[-1]).float().numpy())
        return torch.from_numpy(np.ascontiguousarray(y)).to(x.dtype).reshape(*x.shape[:-1], self.regular.shape[0])


def shadow_linear(
    weight: NDArray[np.float32], inputs: NDArray[np.float32], outliers: float = 0.02, shadow: bool = True
) -> ShadowLinear:
    """Quantize a weight and fix the scale of its activations.

    Args:
        weight: (N, K) float32.
        inputs: (rows, K) float32, calibration inputs.
        outliers: share of channels that the scale may leave out; with 0 nothing is expected to be beyond it.
        shadow: whether the float path is there.
    """
    weight = validate.finite_matrix(weight, "weight")
    scale = static_scale(inputs, outliers)
    loud = np.flatnonzero(np.abs(inputs).max(0) > 127.5 * scale) if shadow else np.empty(0, np.intp)
    quantized = quantize_per_tensor(weight, 8)  # loud channels too: without a loud value they take the integer path
    kept = {int(k): weight[:, k].copy() for k in loud}
    return ShadowLinear(pack(quantized), quantized.dequantize(), scale, kept, shadow)
