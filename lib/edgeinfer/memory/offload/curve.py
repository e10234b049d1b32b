"""The cost model beside the clock: policies as they were predicted and as they ran, and throughput against memory.

Every run is a process of limited memory; the machine is measured anew before each round, since disks have moods. It
knows how to compare, not what is right. Source: flexgen.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgeinfer.memory.offload.limited import base_bytes, measure, possible, run
from edgeinfer.memory.offload.model_files import workload
from edgeinfer.memory.offload.policy import Machine, Policy, Workload, cost
from edgeinfer.memory.offload.search import search

MARGIN = 48 << 20  # bytes that allocators and threads take beyond what was counted
BATCHES, SUB_BATCHES = (1, 4, 8, 16, 32), (1, 2, 4)  # sizes of blocks that are tried here
FORMS = ("floats only", "four bits where they pay")


@dataclass(frozen=True)
class Point:
    """One policy, predicted and run.

    Attributes:
        policy: as it was laid out: whole tensors, whole sub-batches.
        rows: of a block.
        budget: bytes of fast memory that it was given; the process had `base_bytes` and `MARGIN` more.
        limit: bytes that the whole process had.
        peak: most bytes that it used.
        how: the limit was made: "cgroup" or "rlimit".
        predicted, measured: seconds of a step.
        bound: what the model takes for the longest.
    """

    policy: Policy
    rows: int
    budget: float
    limit: float
    peak: float
    how: str
    predicted: float
    measured: float
    bound: str

    @property
    def speed(self) -> float:
        """Measured tokens a second."""
        return self.rows / self.measured

    def as_dict(self) -> dict[str, Any]:
        """For a JSON file."""
        return {**asdict(self), "speed": self.speed, "predicted_speed": self.rows / self.predicted}


def one(
    folder: str | Path,
    slow: str | Path,
    machine: Machine,
    work: Workload,
    policy: Policy,
    base: float,
    prompt: int,
    new_tokens: int,
) -> Point:
    """Run a policy in the memory that the model says it needs, or that the machine has, and compare.

    Args:
        folder, slow: of the model, and the slow tier's file.
        machine: as measured; its fast memory is the budget, and where that is infinite, what the policy needs is.
        work: what is run.
        policy: to run.
        base: bytes of the process beyond what the model counts; see `base_bytes`.
        prompt, new_tokens: length of every prompt, and of every answer.

    Raises:
        RuntimeError: "the policy ... did not finish: ..." with the process's message.
    """
    needed = cost(machine, work, policy).fast_bytes
    budget = machine.fast_bytes if np.isfinite(machine.fast_bytes) else needed
    limit = int(base + budget + MARGIN)
    ended = run(folder, slow, policy, limit, prompt, new_tokens)
    if ended.outcome != "finished":
        raise RuntimeError(f"the policy {policy} did not finish: {ended.message}")
    real = possible(policy, ended)
    said = cost(machine, work, real)
    measured = float(np.median(ended.result["steps"][1:]))
    return Point(real, real.rows, budget, limit, ended.peak_bytes, ended.how, said.step_seconds, measured, said.bound)


def tried(
    folder: str | Path,
    slow: str | Path,
    policies: Mapping[str, Policy],
    prompt: int,
    new_tokens: int,
    rounds: int,
) -> dict[str, list[Point]]:
    """Predict and run policies, round by round.

    Args:
        folder, slow: of the model, and the slow tier's file.
        policies: {name: policy}.
        prompt, new_tokens: length of every prompt, and of every answer.
        rounds: how often; the machine is measured before each.
    """
    work = workload(folder, prompt + new_tokens, prompt)
    base = base_bytes(folder, slow, work, prompt, new_tokens)
    found: dict[str, list[Point]] = {name: [] for name in policies}
    for _ in range(rounds):
        machine = measure(folder, slow, prompt, new_tokens, np.inf, np.inf)
        for name, policy in policies.items():
            found[name].append(one(folder, slow, machine, work, policy, base, prompt, new_tokens))
    return found


def throughput(
    folder: str | Path,
    slow: str | Path,
    budgets: Iterable[float],
    slow_bytes: float,
    prompt: int,
    new_tokens: int,
    rounds: int = 1,
) -> dict[str, list[Point]]:
    """Tokens a second against fast memory: for each budget the search chooses a policy, which then runs within it.

    Args:
        folder, slow: of the model, and the slow tier's file.
        budgets: bytes of fast memory; those in which no policy fits are left out.
        slow_bytes: of the slow tier.
        prompt, new_tokens: length of every prompt, and of every answer.
        rounds: how often; the machine is measured before each, and the median of the measured steps is kept.

    Returns:
        {"floats only": points, "four bits where they pay": points}, by budget.
    """
    work = workload(folder, prompt + new_tokens, prompt)
    exact = replace(work, packed_layer_bytes=None, packed_kv_bytes=None)
    base = base_bytes(folder, slow, work, prompt, new_tokens)
    budgets = list(budgets)
    runs: dict[tuple[str, float], list[Point]] = {}
    for _ in range(rounds):
        # Whole sub-batches may take a little more of the slow tier than their share.
        rates = measure(folder, slow, prompt, new_tokens, np.inf, 0.9 * slow_bytes)
        for budget in budgets:
            machine = replace(rates, fast_bytes=budget)
            for form, offered in zip(FORMS, (exact, work), strict=True):
                try:
                    policy = search(machine, offered, BATCHES, SUB_BATCHES)
                except MemoryError:
                    continue
                point = one(folder, slow, machine, offered, policy, base, prompt, new_tokens)
                runs.setdefault((form, budget), []).append(point)
    found: dict[str, list[Point]] = {form: [] for form in FORMS}
    for (form, _), points in runs.items():
        # The point of the middle step time, whole: its policy is the one that was predicted and run.
        found[form].append(sorted(points, key=lambda p: p.speed)[len(points) // 2])
    return found
