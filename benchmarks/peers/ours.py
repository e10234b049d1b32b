"""The kernels of this book."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from edgeinfer import kernels
from edgeinfer.kernels import simd
from edgeinfer.kernels.memory import in_huge_pages

from . import GROUP, Contender, Problem


def _copy(weight: Any) -> Any:
    """The same weight at another place in memory."""
    arrays = {
        f.name: in_huge_pages(getattr(weight, f.name))
        for f in dataclasses.fields(weight)
        if isinstance(getattr(weight, f.name), np.ndarray)
    }
    return dataclasses.replace(weight, **arrays)


def contenders(problem: Problem) -> list[Contender]:
    """Integer products, look-up products, ternary, W4A8, float tables; and what a machine without AVX-512 gets."""
    x, threads = problem.x, problem.threads
    found: list[Contender] = []

    def add(name: str, weight: Any, product: Callable[..., Any], expected: Any, **options: Any) -> None:
        few = options.get("path") == "portable"  # slow: the copies need not fill the memory
        copies = [weight, *(_copy(weight) for _ in range((2 if few else problem.copies(weight.nbytes)) - 1))]
        found.append(
            Contender(
                f"this book: {name}",
                problem.spread(
                    lambda w: product(w, x, threads=threads, **options), copies if problem.cold else [weight]
                ),
                weight.nbytes,
                lambda: product(weight, x, threads=threads, **options),
                expected,
                0.02,
            )
        )

    for bits in (8, 4, 2):
        add(f"int{bits}", kernels.pack(problem.quantized[bits]), kernels.matmul, problem.expected(bits))
    channel = kernels.quantize_per_channel(problem.weight, 4)
    exact = channel.dequantize().astype(np.float64) @ x
    add("W4A8 by channel", kernels.pack_w4a8(channel), kernels.w4a8_matmul, exact)
    for bits in (4, 3, 2):
        planes = kernels.pack_lookup(problem.quantized[bits])
        add(f"look-up {bits} bits", planes, kernels.lookup_matmul, problem.expected(bits))
    alpha = np.abs(problem.weight).reshape(problem.rows, -1, GROUP).mean(-1).repeat(GROUP, 1)
    exact = (np.sign(problem.weight) * alpha).astype(np.float64) @ x
    add("look-up 1 bit", kernels.quantize_sign(problem.weight, GROUP), kernels.lookup_matmul, exact)
    ternary, scale = kernels.ternarize(problem.weight)
    exact = (ternary * scale[:, None]).astype(np.float64) @ x
    add("ternary 1.6 bits", kernels.pack_ternary(ternary, scale), kernels.ternary_matmul, exact)
    add("ternary 2 bits", kernels.pack_ternary_int2(ternary, scale), kernels.matmul, exact)
    if threads == 1:
        if simd.available():
            packed = kernels.pack(problem.quantized[4])
            add("int4, portable", packed, kernels.matmul, problem.expected(4), path="portable")
        add_binary(problem, add)
    return found


def add_binary(problem: Problem, add: Callable[..., None]) -> None:
    """LUT-GEMM with float tables; planes at random, since the fit of a matrix of this size would take minutes."""
    rng = np.random.default_rng(2)
    groups = problem.columns // GROUP
    weight = kernels.BinaryCodedWeight(
        rng.integers(0, 256, (problem.rows, 2, problem.columns // 8), dtype=np.uint8),
        np.ones((problem.rows, groups, 2), np.float32) * np.array([1, 2], np.float32),
        np.zeros((problem.rows, groups), np.float32),
        GROUP,
        (problem.rows, problem.columns),
    )
    exact = weight.dequantize().astype(np.float64) @ problem.x
    add("float tables 2 bits (LUT-GEMM)", weight, kernels.binary_matmul, exact)
