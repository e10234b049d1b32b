"""Kernels in a model: `KernelLinear` stands for one linear layer, `quantize_model` for all of them.

Knows a model only by `linears()`, `replace_linear()`, `set_weight()` and `capture_inputs()`; knows the weight formats
of this room. The only module here that needs torch, and only when it is called.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeinfer.kernels import bcq, integer, lookup, packing, ternary, w4a8
from edgeinfer.kernels.awq import activation_aware_scale
from edgeinfer.kernels.gptq import gptq_quantize, second_moment
from edgeinfer.kernels.low_rank import LowRank
from edgeinfer.kernels.quantize import QuantizedWeight, quantize_groupwise

if TYPE_CHECKING:
    from torch import Tensor

Format = (
    QuantizedWeight
    | packing.PackedWeight
    | lookup.LookupWeight
    | ternary.TernaryWeight
    | bcq.BinaryCodedWeight
    | w4a8.W4A8Weight
)
METHODS = ("rtn", "gptq", "awq")
SCHEMES = ("dot", "lookup")


def _product(weight: Any, scheme: str) -> tuple[Any, Callable[..., NDArray[np.float32]]]:
    """The stored form of a weight and the kernel that multiplies it."""
    if scheme not in SCHEMES:
        raise ValueError(f"scheme {scheme!r} is unknown; choose 'dot' (integer dot product) or 'lookup' (tables).")
    if isinstance(weight, QuantizedWeight):
        weight = packing.pack(weight) if scheme == "dot" else lookup.pack_lookup(weight)
    kernels: dict[type, Callable[..., NDArray[np.float32]]] = {
        packing.PackedWeight: integer.matmul,
        lookup.LookupWeight: lookup.lookup_matmul,
        ternary.TernaryWeight: ternary.ternary_matmul,
        bcq.BinaryCodedWeight: bcq.binary_matmul,
        w4a8.W4A8Weight: w4a8.w4a8_matmul,
    }
    if type(weight) not in kernels:
        raise TypeError(f"KernelLinear takes a quantized or packed weight of this room, got {type(weight).__name__}.")
    return weight, kernels[type(weight)]


class KernelLinear:
    """A linear layer computed by a low-bit kernel: torch in, torch out.

    Example::

        weight = quantize_groupwise(model.linears()[name].float().numpy(), bits=4, group_size=64)
        model.replace_linear(name, KernelLinear(weight))
    """

    def __init__(
        self,
        weight: Format,
        *,
        scheme: str = "dot",
        bias: NDArray | None = None,
        input_scale: NDArray | None = None,
        low_rank: LowRank | None = None,
        threads: int = 1,
    ) -> None:
        """
        Args:
            weight: any weight format of this room; a `QuantizedWeight` is packed for the scheme.
            scheme: "dot" or "lookup", for a `QuantizedWeight`.
            bias: (N,) added to the result.
            input_scale: (K,) by which x is divided first (activation-aware scaling).
            low_rank: compensation added to the product.
            threads: of each product.
        """
        self.weight, self._kernel = _product(weight, scheme)
        self.shape: tuple[int, int] = self.weight.shape
        self.low_rank, self.threads = low_rank, threads
        self._bias = None if bias is None else np.asarray(bias, np.float32)
        self._inverse = None if input_scale is None else (1 / np.asarray(input_scale, np.float32))

    @property
    def nbytes(self) -> int:
        """Bytes that one call reads."""
        extra = sum(a.nbytes for a in (self._bias, self._inverse) if a is not None)
        return self.weight.nbytes + extra + (self.low_rank.nbytes if self.low_rank else 0)

    def __call__(self, x: Tensor) -> Tensor:
        """x (..., K) of any float type -> (..., N) of the same type.

        Raises:
            ValueError: "x must have shape (256,) or (batch, 256) for this weight, got ..."
        """
        import torch

        rows = x.detach().reshape(-1, x.shape[-1]).to(torch.float32).numpy()
        if self._inverse is not None:
            rows = rows * self._inverse
        y = self._kernel(self.weight, rows, threads=self.threads)
        if self.low_rank is not None:
            y = y + self.low_rank.matmul(rows)
        if self._bias is not None:
            y = y + self._bias
        return torch.from_numpy(np.ascontiguousarray(y)).to(x.dtype).reshape(*x.shape[:-1], self.shape[0])

    def __repr__(self) -> str:
        return f"KernelLinear({self.shape[1]} -> {self.shape[0]}, {type(self.weight).__name__}, {self.nbytes} bytes)"


@dataclass
class QuantizedModel:
    """What `quantize_model` did.

    Attributes:
        weights: name -> quantized weight.
        input_scales: name -> (K,) input scale, for activation-aware scaling.
        method, bits, group_size: as asked for.
    """

    method: str
    bits: int
    group_size: int
    weights: dict[str, QuantizedWeight] = field(default_factory=dict)
    input_scales: dict[str, NDArray[np.float32]] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Stored bytes of all quantized layers."""
        return sum(w.nbytes for w in self.weights.values()) + sum(s.nbytes for s in self.input_scales.values())

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.nbytes / sum(w.shape[0] * w.shape[1] for w in self.weights.values())

    def dequantize(self, name: str) -> NDArray[np.float32]:
        """The matrix that a layer now computes with, in float32."""
        weight = self.weights[name].dequantize()
        return weight / self.input_scales[name] if name in self.input_scales else weight


def quantize_model(
    model: Any,
    bits: int,
    group_size: int,
    method: str = "rtn",
    calibration_tokens: Tensor | None = None,
    *,
    symmetric: bool | None = None,
    names: Sequence[str] | None = None,
    attach: str = "kernels",
    scheme: str = "dot",
    threads: int = 1,
) -> QuantizedModel:
    """Quantize the linear layers of a model and put the result in their place.

    With "gptq" and "awq" the layers are worked off block by block, each calibrated on what the quantized blocks before
    it produce. An expert that no calibration token chose is rounded to nearest.

    Args:
        model: a `Decoder` (or anything with its hooks); it is changed.
        bits, group_size: as in `quantize_groupwise`.
        method: "rtn" (round to nearest), "gptq" or "awq".
        calibration_tokens: (B, T) int64; needed by "gptq" and "awq".
        symmetric: None chooses the usual: symmetric, but asymmetric for awq and for 2 bits.
        names: layers to quantize; None: all of `model.linears()`.
        attach: "kernels" replaces the layers by products with int8 activations; "weights" writes the rounded weights
            into the float model (weights only); "none" leaves the model as it is.
        scheme: "dot" or "lookup", for attach="kernels".
        threads: of each product.

    Raises:
        ValueError: "method 'gptq' needs calibration_tokens (batch, tokens)." and the like.
    """
    if method not in METHODS:
        raise ValueError(f"method {method!r} is unknown; choose one of {', '.join(METHODS)}.")
    if attach not in ("kernels", "weights", "none"):
        raise ValueError(f"attach {attach!r} is unknown; choose 'kernels', 'weights' or 'none'.")
    if method != "rtn" and calibration_tokens is None:
        raise ValueError(f"method {method!r} needs calibration_tokens (batch, tokens).")
    if symmetric is None:
        symmetric = method != "awq" and bits > 2
    linears = model.linears()
    unknown = [name for name in names or () if name not in linears]
    if unknown:
        raise ValueError(f"the model has no linear layer {unknown[0]!r}; the first is {next(iter(linears))!r}.")
    done = QuantizedModel(method, bits, group_size)
    for block in _blocks(list(linears) if names is None else list(names)):
        inputs = {} if method == "rtn" else model.capture_inputs(calibration_tokens, block)
        moments: dict[int, NDArray] = {}  # q, k and v see the same input: one second moment serves them
        for name in block:
            weight = linears[name].detach().float().numpy()
            seen = inputs[name].detach().float().numpy() if name in inputs else np.empty((0, 0), np.float32)
            if method == "rtn" or not len(seen):
                done.weights[name] = quantize_groupwise(weight, bits, group_size, symmetric)
            elif method == "gptq":
                key = hash(seen.tobytes())
                if key not in moments:
                    moments[key] = second_moment(seen)
                done.weights[name] = gptq_quantize(weight, moments[key], bits, group_size, symmetric)
            else:
                found = activation_aware_scale(weight, seen, bits, group_size, symmetric)
                done.weights[name], done.input_scales[name] = found.weight, found.input_scale
        for name in block:
            _attach(model, name, done, attach, scheme, threads)
    return done


def _attach(model: Any, name: str, done: QuantizedModel, attach: str, scheme: str, threads: int) -> None:
    import torch

    if attach == "kernels":
        scale = done.input_scales.get(name)
        model.replace_linear(name, KernelLinear(done.weights[name], scheme=scheme, input_scale=scale, threads=threads))
    elif attach == "weights":
        model.set_weight(name, torch.from_numpy(done.dequantize(name)))


def _blocks(names: list[str]) -> list[list[str]]:
    """Names by transformer block: "layers.3.mlp.up_proj" belongs to ("layers", "3")."""
    blocks: dict[tuple[str, ...], list[str]] = {}
    for name in names:
        blocks.setdefault(tuple(name.split(".")[:2]), []).append(name)
    return list(blocks.values())
