"""A REAL pair on one machine: a library held to fixed shapes and our own kernel that takes any, at the same time.

Both are processor threads, so the rates are not a phone's; what is real is the padding, the division by a measured
profile, the meeting, and the result. Source: heterollm.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edgeinfer.kernels import validate
from edgeinfer.memory.locality.split_plan import Plan, cover
from edgeinfer.memory.locality.tiled import _rows

TILE = (64, 256, 64)  # of the flexible engine: rows, outputs, depth


def _share(x: NDArray, weight: NDArray, y: NDArray, row: int, last_row: int, output: int, last_output: int) -> None:
    """Fill y[row:last_row, output:last_output] of x (M, K) times weight (K, N) with the tiled loops."""
    part = y[row:last_row, output:last_output]
    part[:] = 0
    _rows(x[row:last_row], weight[:, output:last_output], part, *TILE, 0, last_row - row)


@dataclass(frozen=True)
class Profile:
    """Measured times as a line: start + rows * outputs * each, rows padded where programs have fixed sizes.

    Attributes:
        start: seconds of one call.
        each: seconds for one row and one output (depth is the measured one).
        sizes: fixed numbers of rows; empty: any.
    """

    start: float
    each: float
    sizes: tuple[int, ...] = ()

    def seconds(self, rows: int, outputs: int, depth: int) -> float:
        """Predicted time; `depth` must be the one that was measured."""
        if rows <= 0 or outputs <= 0:
            return 0.0
        pieces = cover(rows, self.sizes) if self.sizes else (rows,)
        return sum(self.start + self.each * piece * outputs for piece in pieces)


class RealPair:
    """y = x W^T by two engines at once: torch with fixed numbers of rows in a thread, a compiled kernel in the caller.

    Attributes:
        shape: (N, K) of the weight.
        sizes: numbers of rows that the static engine has buffers for.
        padded_rows: rows that it computed although nobody asked for them, since the start.
    """

    def __init__(self, weight: Any, sizes: Sequence[int] = (16, 64)) -> None:
        """Prepare both engines.

        Args:
            weight: (N, K) float32, finite.
            sizes: numbers of rows of the static engine.

        Raises:
            ValueError: "sizes must be positive numbers of rows, got (0,)." and what `validate` says.
        """
        matrix = validate.finite_matrix(weight, "weight", "a product with them means nothing")
        if not sizes or min(sizes) < 1:
            raise ValueError(f"sizes must be positive numbers of rows, got {tuple(sizes)}.")
        self.shape, self.sizes, self.padded_rows = matrix.shape, tuple(sorted(sizes)), 0
        self._torch_weight = torch.from_numpy(matrix)
        self._weight = np.ascontiguousarray(matrix.T)
        self._inputs = {size: torch.zeros(size, matrix.shape[1]) for size in self.sizes}
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="static-device")

    def __enter__(self) -> RealPair:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def static_part(self, x: NDArray[np.float32], y: NDArray[np.float32], rows: int, outputs: int) -> None:
        """Fill y[:rows, :outputs] with programs of fixed sizes; what they pad is thrown away."""
        at = 0
        with torch.inference_mode():
            for size in cover(rows, self.sizes):
                used = min(size, rows - at)
                buffer = self._inputs[size]
                buffer[:used] = torch.from_numpy(x[at : at + used])
                buffer[used:] = 0
                y[at : at + used, :outputs] = (buffer @ self._torch_weight[:outputs].T)[:used].numpy()
                self.padded_rows += size - used
                at += used

    def flexible_part(self, x: NDArray[np.float32], y: NDArray[np.float32], rows: int, outputs: int) -> None:
        """Fill everything but y[:rows, :outputs]."""
        if rows and outputs < y.shape[1]:
            _share(x, self._weight, y, 0, rows, outputs, y.shape[1])
        if rows < len(x):
            _share(x, self._weight, y, rows, len(x), 0, y.shape[1])

    def run(self, x: Any, plan: Plan) -> NDArray[np.float32]:
        """The product, divided as the plan says.

        Args:
            x: (M, K) float32, finite.
            plan: of `best_plan`, for M rows.

        Returns:
            (M, N) float32.

        Raises:
            ValueError: "the plan is for 8 rows and 64 outputs, more than the product (4, 64) has."
        """
        rows = validate.finite_activations(x, self.shape[1])
        r, n = plan.static_rows, plan.static_outputs
        if r > len(rows) or n > self.shape[0]:
            raise ValueError(
                f"the plan is for {r} rows and {n} outputs, more than the product {(len(rows), self.shape[0])} has."
            )
        y = np.empty((len(rows), self.shape[0]), np.float32)
        if not r or not n:
            self.flexible_part(rows, y, 0, 0)
        elif (r, n) == y.shape:
            self.static_part(rows, y, r, n)
        else:
            waiting = self._pool.submit(self.static_part, rows, y, r, n)
            self.flexible_part(rows, y, r, n)
            waiting.result()
        return y


def _median_seconds(call: Callable[[], object], repeats: int) -> float:
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def _line(points: Sequence[tuple[int, int]], seconds: Sequence[float], sizes: tuple[int, ...]) -> Profile:
    work = np.array([rows * outputs for rows, outputs in points], float)
    times = np.asarray(seconds)
    # relative errors count: without the weights the largest product alone would decide
    design = np.stack([1 / times, work / times], 1)
    start, each = np.linalg.lstsq(design, np.ones(len(times)), rcond=None)[0]
    return Profile(max(float(start), 0.0), max(float(each), 1e-15), sizes)


def measure_profile(pair: RealPair, repeats: int = 5, seed: int = 0) -> tuple[Profile, Profile]:
    """Time both engines on a few shapes, each alone, and fit a line to each.

    Args:
        pair: the engines.
        repeats: of each shape; the median counts.
        seed: of the activations.

    Returns:
        (static, flexible) profiles for `best_plan`.
    """
    N, K = pair.shape
    some = max(1, N // 2)
    largest = max(pair.sizes)
    x = np.random.default_rng(seed).standard_normal((largest, K)).astype(np.float32)
    y = np.empty((largest, N), np.float32)
    fixed = [(size, outputs) for size in pair.sizes for outputs in (some, N)]
    free = [(rows, outputs) for rows in sorted({1, max(1, largest // 4), largest // 2 or 1}) for outputs in (some, N)]
    static = [_median_seconds(partial(pair.static_part, x[:s], y[:s], s, n), repeats) for s, n in fixed]
    flexible = [_median_seconds(partial(_share, x, pair._weight, y, 0, r, 0, n), repeats) for r, n in free]
    return _line(fixed, static, pair.sizes), _line(free, flexible, ())
