"""Linear layers and norms of a few rows, compiled: what decoding does token after token.

Torch's products are made for many rows; for one to four they leave half of the memory's bandwidth unused, and its
norm is nine small operations. More rows, gradients, other types, or a switched-off compiler go to torch. It knows
arrays, not models. Sums are float32 throughout, rounded once, so the results equal torch's up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable

import numba
import numpy as np
import torch
from numba.core import config as numba_config
from torch import Tensor
from torch.nn import functional

MOST_ROWS = 4
# From here on reading the weight takes long enough for torch's second thread to pay.
LARGE = 4 << 20
_COMPILED = not numba_config.DISABLE_JIT
_TYPES = (torch.float32, torch.bfloat16)


def _compiled(function: Callable) -> Callable:
    """Compile when first called; kept on disk where a cache can be written."""
    options = {"fastmath": {"reassoc", "contract", "nsz"}, "nogil": True}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # "no locator available": a read-only installation without a home
        return numba.njit(**options)(function)


def _array(tensor: Tensor) -> np.ndarray:
    """The tensor's own memory; bfloat16 as the uint16 that holds its bits."""
    return tensor.numpy() if tensor.dtype == torch.float32 else tensor.view(torch.uint16).numpy()


def _suits(x: Tensor, row: int) -> bool:
    few = x.numel() <= MOST_ROWS * row and x.dtype in _TYPES and not x.requires_grad
    # Whoever watches torch's operations (a counter of FLOPs, a tracer) wants to see them all.
    return few and _COMPILED and torch._C._len_torch_dispatch_stack() == 0


class Linear:
    """x (..., K) -> x @ weight.T + bias (..., N), with the weight where it is: changed in place, it is used changed.

    Args:
        weight: (N, K) of any floating type, stored row by row or column by column.
        bias: (N,) or None.
    """

    __slots__ = ("_array", "_by_column", "_compiled", "bias", "weight")

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self.weight, self.bias = weight, bias
        self._by_column = not weight.is_contiguous()
        stored = weight.t() if self._by_column else weight
        here = weight.device.type == "cpu"  # a weight without memory stands for one that a store fetches
        self._compiled = here and weight.dtype in _TYPES and stored.is_contiguous() and not weight.requires_grad
        self._array = _array(stored) if self._compiled else None

    def __call__(self, x: Tensor) -> Tensor:
        rows, columns = self.weight.shape
        if not (self._compiled and x.dtype == self.weight.dtype and _suits(x, columns)) or (
            self.weight.numel() >= LARGE and torch.get_num_threads() > 1
        ):
            return functional.linear(x, self.weight, self.bias)
        if x.shape[-1] != columns:
            raise ValueError(f"a weight ({rows}, {columns}) needs inputs of {columns} values; came {tuple(x.shape)}")
        out = x.new_empty(*x.shape[:-1], rows)
        product = _by_column if self._by_column else _by_row
        product(_array(x.reshape(-1, columns)), self._array, _array(out.view(-1, rows)))
        return out if self.bias is None else out + self.bias


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Return x / sqrt(mean(x ** 2) + eps) * weight over the last axis of x (..., K); weight (K,). Source: rmsnorm."""
    size = weight.shape[0]
    if not _suits(x, size) or x.dtype != weight.dtype or weight.requires_grad or not weight.is_contiguous():
        return functional.rms_norm(x, (size,), weight, eps)
    x = x.contiguous()
    out = torch.empty_like(x)
    _norm(_array(x.view(-1, size)), _array(weight), np.float32(eps), _array(out.view(-1, size)))
    return out


# The two types share their loops: `_read` and `_written` are chosen when a kernel is compiled for its arrays.


def _read(value):
    """A stored number as float32."""
    return np.uint32(np.uint32(value) << np.uint32(16)).view(np.float32)


def _written(value, like):
    """A float32 as it is stored: rounded to the nearest bfloat16, ties to even, NaN kept."""
    bits = np.float32(value).view(np.uint32)
    if value != value:
        return np.uint16(0x7FC0)
    return np.uint16((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16))


@numba.extending.overload(_read, inline="always")
def _overload_read(value):
    return (lambda value: value) if isinstance(value, numba.types.Float) else _read


@numba.extending.overload(_written, inline="always")
def _overload_written(value, like):
    return (lambda value, like: value) if isinstance(like, numba.types.Float) else _written


@_compiled
def _by_row(x, weight, out):
    """x (M, K), weight (N, K), out (M, N): four rows of the weight at a time share each read of an input."""
    N, K = weight.shape
    for m in range(x.shape[0]):
        row = np.empty(K, np.float32)
        for k in range(K):
            row[k] = _read(x[m, k])
        n = 0
        while n + 4 <= N:
            a = b = c = d = np.float32(0)
            for k in range(K):
                a += row[k] * _read(weight[n, k])
                b += row[k] * _read(weight[n + 1, k])
                c += row[k] * _read(weight[n + 2, k])
                d += row[k] * _read(weight[n + 3, k])
            out[m, n], out[m, n + 1] = _written(a, out[m, n]), _written(b, out[m, n])
            out[m, n + 2], out[m, n + 3] = _written(c, out[m, n]), _written(d, out[m, n])
            n += 4
        while n < N:
            a = np.float32(0)
            for k in range(K):
                a += row[k] * _read(weight[n, k])
            out[m, n] = _written(a, out[m, n])
            n += 1


@_compiled
def _by_column(x, weight, out):
    """x (M, K), weight (K, N), out (M, N): the weight is one stream, which the processor fetches ahead of its use."""
    M, K = x.shape
    sums = np.zeros(out.shape, np.float32)
    for k in range(K):
        column = weight[k]
        for m in range(M):
            scale, total = _read(x[m, k]), sums[m]
            for n in range(len(total)):
                total[n] += scale * _read(column[n])
    for m in range(M):
        for n in range(out.shape[1]):
            out[m, n] = _written(sums[m, n], out[m, n])


@_compiled
def _norm(x, weight, eps, out):
    """x (M, K), weight (K,), out (M, K)."""
    M, K = x.shape
    for m in range(M):
        total = np.float32(0)
        for k in range(K):
            value = _read(x[m, k])
            total += value * value
        scale = np.float32(1) / np.sqrt(total / np.float32(K) + eps)
        for k in range(K):
            out[m, k] = _written(_read(x[m, k]) * scale * _read(weight[k]), out[m, k])
