"""Measures a machine of three tiers and runs policies on it, in processes whose memory is really limited.

The functions named `in_child_...` are targets of `run_limited`; the others start them.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeinfer.measure.memory_limit import LimitedRun, run_limited
from edgeinfer.memory.offload.policy import Machine, Policy, Workload, cost

if TYPE_CHECKING:
    from torch import Tensor

    from edgeinfer.memory.offload.tiers import Moved

HERE = "edgeinfer.memory.offload.limited"
PLENTY = 1 << 34  # bytes: a limit that is none
PROFILED = 4  # layers that are run to measure a machine; the others are like them
BATCHES = (4, 8, 32)  # sub-batches that are timed beside that of one row
SHARED = Path("/dev/shm")


def slow_folder(size: int, otherwise: str | Path) -> Path:
    """Where a slow tier of `size` bytes should lie: in memory that is a file, or else in a folder of the disk.

    A mapped file of a disk is written back now and then, and its pages are guarded while that goes on.
    """
    roomy = SHARED.is_dir() and os.access(SHARED, os.W_OK) and shutil.disk_usage(SHARED).free > 1.2 * size
    return SHARED if roomy else Path(otherwise)


def run_here(
    folder: str | Path,
    slow: str | Path,
    policy: Policy,
    prompt: int,
    new_tokens: int,
    ahead: bool = True,
    layers: int | None = None,
) -> tuple[list[Tensor], Moved, dict[str, Any]]:
    """Run a policy in this process, with one thread that computes.

    Args:
        folder: of a written model.
        slow: the slow tier's file.
        policy: to obey.
        prompt, new_tokens: length of every prompt, and of every answer.
        ahead: bring the next layer while one is used.
        layers: the first so many only.

    Returns:
        Answers, what was moved, and {"weights": shares that were possible, "how": of reading}.

    Raises:
        ValueError: "the slow tier has 1000 bytes left and 4000 are needed; make it larger", and as `run_block`.
    """
    import torch

    from edgeinfer.memory.offload.block import run_block
    from edgeinfer.memory.offload.model_files import LAYERS, PACKED, open_skeleton
    from edgeinfer.memory.offload.tiers import SlowTier, TieredWeights

    torch.set_num_threads(1)
    model, lower = open_skeleton(folder), SlowTier(slow)
    tokens = torch.arange(prompt).repeat(policy.batch, 1) % model.config.vocab_size
    path = Path(folder) / (PACKED if policy.pack_weights else LAYERS)
    try:
        with TieredWeights(path, policy.weights, lower, ahead, layers) as weights:
            answers, moved = run_block(model, weights, [tokens] * policy.sub_batches, new_tokens, policy, lower)
    except MemoryError as error:
        # A tier that is full must not look like a process that is.
        if "slow tier" in str(error):
            raise ValueError(str(error)) from error
        raise
    return answers, moved, {"weights": weights.shares, "how": weights.how}


def in_child_measure(folder: str, slow: str, prompt: int, new_tokens: int) -> dict[str, float]:
    """Measure the rates of a `Machine` from runs of the first layers, each with one thing to measure."""
    from edgeinfer.memory.offload.model_files import workload

    # Runs are short, at the length that texts have on average.
    steps, usual = max(2, min(8, new_tokens)), BATCHES[len(BATCHES) // 2]
    middle = prompt + max(new_tokens - steps, 0) // 2
    work = workload(folder, middle + steps, middle)
    moving = usual * (work.mean_kv_bytes or 0.0)
    profiled = min(PROFILED, work.layers)

    def lanes(batch: int, weights: tuple[float, float, float], below: float = 0.0, packed: bool = False) -> Moved:
        policy = Policy(batch, 2, weights, (1 - below, below), packed, packed)
        return run_here(folder, slow, policy, middle, steps, layers=PROFILED)[1]

    def a_layer(moved: Moved, lane: str) -> float:
        """Seconds of a lane for one layer: the mean of a step, the median over the steps after the first."""
        found = [end - start for name, _, start, end in moved.timeline if name == lane]
        each = len(found) // steps
        of_steps = np.reshape(found[len(found) - (steps - 1) * each :], (steps - 1, each)).sum(1)
        return float(np.median(of_steps)) / profiled

    def sub_batch(moved: Moved) -> float:
        """Seconds of one layer for one sub-batch, with its part of what comes before and after the layers."""
        layer = a_layer(moved, "compute")
        around = max(float(np.median(moved.steps[1:])) - profiled * layer, 0.0)
        return (layer + around / work.layers) / 2

    def slows(moved: Moved, lane: str) -> float:
        """Seconds that computing takes longer for each second in which both go on."""
        together = min(a_layer(moved, "compute"), a_layer(moved, lane))
        return max(0.0, a_layer(moved, "compute") - fast) / together

    lanes(1, (1.0, 0.0, 0.0))  # kernels are loaded, files are found
    single = sub_batch(lanes(1, (1.0, 0.0, 0.0)))
    alone = {batch: lanes(batch, (1.0, 0.0, 0.0)) for batch in BATCHES}
    took = np.array([sub_batch(moved) for moved in alone.values()])
    slope, start = np.polyfit(BATCHES, took, 1, w=1 / took)
    fast = a_layer(alone[usual], "compute")
    copied, read = lanes(usual, (0.0, 1.0, 0.0)), lanes(usual, (0.0, 0.0, 1.0))
    below = lanes(usual, (1.0, 0.0, 0.0), 1.0)
    found = {
        "copy_rate": work.layer_bytes / a_layer(copied, "slow"),
        "disk_rate": work.layer_bytes / a_layer(read, "disk"),
        "layer_seconds": float(max(start, 0.0)),
        "row_seconds": float(max(slope, 0.0)),
        "single_seconds": single,
        "cache_rate": 2 * moving / a_layer(below, "caches"),
        "cache_seconds": max(0.0, a_layer(below, "compute") - fast) / 2,
        "copy_slows": slows(copied, "slow"),
        "disk_slows": slows(read, "disk"),
    }
    if work.packed_layer_bytes is not None:
        packed = lanes(usual, (1.0, 0.0, 0.0), 1.0, packed=True)
        found["unpack_rate"] = work.layer_bytes / a_layer(packed, "unpack")
        found["cache_unpack_rate"] = 2 * moving / a_layer(packed, "caches")
        found["packed_cache_seconds"] = max(0.0, a_layer(packed, "compute") - fast) / 2
    return found


def in_child_run(
    folder: str, slow: str, policy: dict[str, Any], prompt: int, new_tokens: int, ahead: bool = True
) -> dict[str, Any]:
    """Run a policy; returns the shares that were possible, the seconds of each step and the bytes moved."""
    shares = {"weights": tuple(policy["weights"]), "kv": tuple(policy["kv"])}
    answers, moved, possible_ = run_here(folder, slow, Policy(**{**policy, **shares}), prompt, new_tokens, ahead)
    return {
        **possible_,
        "steps": moved.steps,
        "disk": moved.disk,
        "copied": moved.copied,
        "waited": moved.waited,
        "timeline": moved.timeline,
        "answer": answers[0][0].tolist(),
    }


def measure(
    folder: str | Path, slow: str | Path, prompt: int, new_tokens: int, fast_bytes: float, slow_bytes: float
) -> Machine:
    """The machine's rates, measured in a process of its own.

    Args:
        folder: of a written model.
        slow: the slow tier's file; it must hold `PROFILED` layers.
        prompt, new_tokens: of the texts that will be written.
        fast_bytes, slow_bytes: what the machine shall have of memory.

    Raises:
        RuntimeError: "the machine could not be measured: ..." with the process's message.
    """
    arguments = {"folder": str(folder), "slow": str(slow), "prompt": prompt, "new_tokens": new_tokens}
    ended = run_limited(f"{HERE}:in_child_measure", arguments, PLENTY, timeout_s=300)
    if ended.outcome != "finished":
        raise RuntimeError(f"the machine could not be measured: {ended.message}")
    return Machine(fast_bytes, slow_bytes, **ended.result)


def run(
    folder: str | Path,
    slow: str | Path,
    policy: Policy,
    memory_bytes: int,
    prompt: int = 16,
    new_tokens: int = 8,
    ahead: bool = True,
) -> LimitedRun:
    """Run a policy in a process of at most `memory_bytes`, interpreter and libraries included."""
    arguments = {
        "folder": str(folder),
        "slow": str(slow),
        "policy": asdict(policy),
        "prompt": prompt,
        "new_tokens": new_tokens,
        "ahead": ahead,
    }
    return run_limited(f"{HERE}:in_child_run", arguments, memory_bytes, timeout_s=300)


def possible(policy: Policy, ended: LimitedRun) -> Policy:
    """The policy as it was really laid out: whole tensors, whole sub-batches."""
    from edgeinfer.memory.offload.block import below

    lower = sum(below(policy.kv[1], policy.sub_batches)) / policy.sub_batches
    fast, slow, disk = ended.result["weights"]
    return replace(policy, weights=(fast, slow, disk), kv=(1 - lower, lower))


def base_bytes(folder: str | Path, slow: str | Path, work: Workload, prompt: int, new_tokens: int) -> int:
    """Bytes of a process that runs policies beyond what the cost model counts: interpreter, libraries, their data.

    Raises:
        RuntimeError: "a block of 1 could not be run: ..." with the process's message.
    """
    packed, most = work.packed_layer_bytes is not None, 0.0
    for batch in (1, BATCHES[-1]):  # products of many rows take memory of their own
        policy = Policy(batch, 1, (0.0, 0.0, 1.0), (1.0, 0.0), packed)
        ended = run(folder, slow, policy, PLENTY, prompt, new_tokens)
        if ended.outcome != "finished":
            raise RuntimeError(f"a block of {batch} could not be run: {ended.message}")
        most = max(most, ended.peak_bytes - cost(Machine(0, 0, 1, 1, 1, 0), work, policy).fast_bytes)
    return int(most)
