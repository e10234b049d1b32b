"""What `gemv.py` compares: one module per program, each giving contenders for one problem."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from edgeinfer.kernels import QuantizedWeight, quantize_groupwise
from edgeinfer.measure import rotating
from numpy.typing import NDArray

GROUP = 128
COLD_BYTES = 200 << 20  # all copies of a contender together


@dataclass
class Problem:
    """One product y = W x: its shape, threads, and whether the weights come from memory.

    Attributes:
        rows, columns: N and K.
        threads: of every contender.
        cold: a different copy of the weights in each call, or the same one.
        absent: what could not be compared, and why; the peers add to it.
    """

    rows: int
    columns: int
    threads: int
    cold: bool
    absent: dict[str, str] = field(default_factory=dict)

    @cached_property
    def weight(self) -> NDArray[np.float32]:
        return np.random.default_rng(0).standard_normal((self.rows, self.columns), np.float32)

    @cached_property
    def x(self) -> NDArray[np.float32]:
        return np.random.default_rng(1).standard_normal(self.columns, np.float32)

    @cached_property
    def quantized(self) -> dict[int, QuantizedWeight]:
        return {bits: quantize_groupwise(self.weight, bits, GROUP) for bits in (2, 3, 4, 8)}

    def expected(self, bits: int) -> NDArray[np.float64]:
        """The dense product with the quantized weights."""
        return self.quantized[bits].dequantize().astype(np.float64) @ self.x

    def copies(self, nbytes: int) -> int:
        return max(2, round(COLD_BYTES / nbytes)) if self.cold else 1

    def spread(self, function: Callable[[Any], object], copies: Sequence[Any]) -> Callable[[], object]:
        """A call that takes the next copy each time, or always the only one."""
        if len(copies) == 1:
            return lambda: function(copies[0])
        return rotating(function, copies)


@dataclass(frozen=True)
class Contender:
    """Something to be timed.

    Attributes:
        name: as shown.
        run: does the whole product once.
        nbytes: of the weights and scales that a call reads.
        result: computes the product and returns (N,) numbers.
        expected: (N,) what it should return.
        tolerance: relative error that is allowed.
    """

    name: str
    run: Callable[[], object]
    nbytes: int
    result: Callable[[], Any]
    expected: NDArray
    tolerance: float

    def check(self) -> None:
        found = np.asarray(self.result(), np.float64).reshape(-1)
        error = float(np.linalg.norm(found - self.expected) / np.linalg.norm(self.expected))
        if not error <= self.tolerance:
            raise AssertionError(f"{self.name} is wrong: relative error {error:.3g}, allowed {self.tolerance:g}.")
