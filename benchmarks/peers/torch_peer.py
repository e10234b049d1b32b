"""torch: dense products, and its own weight-only low-bit kernels."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from . import GROUP, Contender, Problem


def contenders(problem: Problem) -> list[Contender]:
    """float32, bfloat16 (the baseline), int8 and int4."""
    torch.set_num_threads(problem.threads)
    rows, columns = problem.rows, problem.columns
    x = torch.from_numpy(problem.x)[None]
    half = x.bfloat16()
    weight = torch.from_numpy(problem.weight)
    exact = problem.weight.astype(np.float64) @ problem.x
    found: list[Contender] = []

    def add(name: str, product, tensor: torch.Tensor, nbytes: int, expected, tolerance: float) -> None:
        copies = [tensor.clone() for _ in range(problem.copies(nbytes))]
        run = problem.spread(product, copies)
        found.append(Contender(name, run, nbytes, lambda: product(tensor).float().numpy(), expected, tolerance))

    add("torch bf16", lambda w: functional.linear(half, w), weight.bfloat16(), 2 * weight.numel(), exact, 0.02)
    add("torch fp32", lambda w: functional.linear(x, w), weight, 4 * weight.numel(), exact, 1e-4)
    try:
        codes = torch.randint(-127, 128, (rows, columns), dtype=torch.int8)
        scale = torch.ones(rows, dtype=torch.bfloat16)
        expected = codes.numpy().astype(np.float64) @ problem.x
        add(
            "torch int8 (_weight_int8pack_mm, bf16)",
            lambda w: torch._weight_int8pack_mm(half, w, scale),
            codes,
            codes.numel() + 2 * rows,
            expected,
            0.02,
        )
    except (AttributeError, RuntimeError) as error:
        problem.absent["torch int8"] = str(error).splitlines()[0]
    try:
        quantized = problem.quantized[4]
        packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(
            torch.from_numpy(quantized.codes.astype(np.int32)), 1
        )
        scales = torch.from_numpy(np.ascontiguousarray(quantized.scale.T))
        both = torch.stack([scales, torch.zeros_like(scales)], -1).bfloat16().contiguous()
        add(
            "torch int4 (_weight_int4pack_mm_for_cpu, bf16)",
            lambda w: torch.ops.aten._weight_int4pack_mm_for_cpu(half, w, GROUP, both),
            packed,
            packed.nbytes + both.nbytes,
            problem.expected(4),
            0.02,
        )
    except (AttributeError, RuntimeError) as error:
        problem.absent["torch int4"] = str(error).splitlines()[0]
    return found
