"""Evidence for Orca: iteration-level scheduling beside request-level scheduling, on the shipped model and on paper.

The same requests, pool and arithmetic for both; only the schedule differs. Verdicts rest on counted iterations and rows
(simulated) and on a clock fitted to measured steps (modelled); one short run is measured. Source: orca.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeinfer.evidence.protocol import Claim, Evidence, Result, evidence

if TYPE_CHECKING:
    from edgeinfer.memory.serving import Arrival, CostModel, Replay

MAX_BATCH, TOKEN_BUDGET = 8, 64
BLOCKS, BLOCK_SIZE = 256, 16
REQUESTS, MEASURED = 120, 24  # requests of the simulated trace, and of the measured one
LOADS = tuple(float(r) for r in np.geomspace(1 / 64, 1, 9))  # requests offered in the time of one full step


@dataclass(frozen=True)
class Pair:
    """The same trace under both schedulers."""

    static: Replay
    continuous: Replay

    @property
    def throughput(self) -> float:
        """Throughput of continuous over that of static batching."""
        return self.continuous.throughput / self.static.throughput

    @property
    def latency(self) -> float:
        """Median latency of continuous over that of static batching."""
        return self.continuous.latency / self.static.latency


def simulate(trace: Sequence[Arrival], cost: CostModel, max_batch: int = MAX_BATCH, budget: int = TOKEN_BUDGET) -> Pair:
    """Play a trace to both schedulers without computing, on the clock of `cost`."""
    from edgeinfer.memory.serving import DryRunner, Engine, StaticBatching, replay

    return Pair(
        replay(StaticBatching(DryRunner(BLOCKS, BLOCK_SIZE), max_batch), trace, cost=cost.seconds),
        replay(Engine(DryRunner(BLOCKS, BLOCK_SIZE), max_batch, budget), trace, cost=cost.seconds),
    )


def run_pair(trace: Sequence[Arrival], dtype: str = "float32", max_batch: int = MAX_BATCH) -> Pair:
    """Play a trace to both schedulers with the shipped model, in processor time of one thread."""
    import torch

    from edgeinfer import models
    from edgeinfer.memory.paging.runner import PagedRunner
    from edgeinfer.memory.serving import Engine, StaticBatching, cut_prompts, replay

    kind = getattr(torch, dtype)
    model = models.load("target", kind)
    prompts = cut_prompts(trace, models.held_out_tokens()[:20_000].tolist())
    context = model.config.max_position_embeddings
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        # Compiled parts and caches of the processor are warm for neither or both.
        replay(Engine(PagedRunner(model, BLOCKS, BLOCK_SIZE, kind), max_batch), trace[:3], prompts[:3])
        static = replay(
            StaticBatching(PagedRunner(model, BLOCKS, BLOCK_SIZE, kind), max_batch, context=context),
            trace,
            prompts,
            clock=time.thread_time,
        )
        runner = PagedRunner(model, BLOCKS, BLOCK_SIZE, kind)
        engine = Engine(runner, max_batch, TOKEN_BUDGET, context=context)
        return Pair(static, replay(engine, trace, prompts, clock=time.thread_time))
    finally:
        torch.set_num_threads(threads)


@cache
def measured() -> Pair:
    """A short trace on the shipped model: all requests come at once, so both schedulers always have work."""
    from edgeinfer.memory.serving import make_trace

    return run_pair(make_trace(seed=4, requests=MEASURED, rate=float("inf"), longest=128))


@cache
def calibrated() -> CostModel:
    """The cost of a step, fitted to the steps of `measured`."""
    from edgeinfer.memory.serving import fit

    steps = [step for run in (measured().static, measured().continuous) for step in run.steps]
    return fit([step.record for step in steps], [step.seconds for step in steps])


@cache
def sweep(requests: int = REQUESTS) -> dict[float, Pair]:
    """Both schedulers, modelled, by offered rate (requests per second); the same work each time.

    The rates are multiples of what this machine can do, so that the curve has the same range on a slow and a quick one.
    """
    from edgeinfer.memory.serving import make_trace

    rates = [load / full_step() for load in LOADS]
    return {rate: simulate(make_trace(1, requests, rate=rate), calibrated()) for rate in rates}


def full_step() -> float:
    """Modelled seconds of a step in which every place makes a token, 64 tokens into its sequence."""
    from edgeinfer.memory.serving import Row, StepRecord

    return calibrated().seconds(StepRecord(tuple(Row(str(i), 1, 64, "decode") for i in range(MAX_BATCH))))


def load_at(latencies: Sequence[float], limit: float) -> float:
    """The load at which a latency per token first exceeds `limit`, interpolated between `LOADS` on logarithmic axes."""
    for i, latency in enumerate(latencies):
        if latency > limit:
            if i == 0:
                return LOADS[0]
            low, high = np.log(latencies[i - 1]), np.log(latency)
            share = (np.log(limit) - low) / (high - low)
            return float(LOADS[i - 1] * (LOADS[i] / LOADS[i - 1]) ** share)
    return LOADS[-1]


def differing_answers() -> int:
    """How many of the measured answers differ from what `generate` gives for each prompt alone."""
    import torch

    from edgeinfer import models

    model: Any = models.load("target")
    wrong = 0
    for served in measured().continuous.served[:12]:
        prompt = torch.tensor(served.request.prompt)
        alone = models.generate(model, prompt, len(served.tokens))[len(prompt) :].tolist()
        wrong += alone != served.tokens
    return wrong


@evidence("orca")
def orca() -> Evidence:
    """Throughput and latency of both schedulers, counted, modelled and measured."""
    from edgeinfer.memory.serving import make_trace

    claim = Claim(
        "At the same latency, serving GPT-3 175B with iteration-level scheduling and selective batching has 36.9 times "
        "the throughput of FasterTransformer",
        36.9,
        "x",
        "data-centre GPUs",
        "orca",
        True,
    )
    full = simulate(make_trace(1, REQUESTS, rate=float("inf")), calibrated())
    static, continuous = full.static, full.continuous
    light = next(iter(sweep().values())).static.latency_per_token
    limit = 2 * light
    loads = [
        load_at([getattr(pair, side).latency_per_token for pair in sweep().values()], limit)
        for side in ("static", "continuous")
    ]
    real = measured()
    both = f"{REQUESTS} requests at once, at most {MAX_BATCH} together"
    results = [
        Result("iterations, request-level", len(static.steps), "iterations", "simulated", both),
        Result("iterations, iteration-level", len(continuous.steps), "iterations", "simulated", both),
        Result("rows that were not idle, request-level", 100 * static.useful, "%", "simulated"),
        Result("throughput over request-level", full.throughput, "x", "modelled", "clock fitted to measured steps"),
        Result("median latency over request-level", full.latency, "x", "modelled"),
        Result(
            "rate served at the same latency per token", loads[1] / loads[0], "x", "modelled",
            "limit: twice the latency per token of request-level batching at light load",
        ),
        Result(
            "throughput over request-level, measured", real.throughput, "x", "measured",
            f"{len(real.static.served)} requests at once on the shipped model, processor time of one thread",
        ),
        Result("median latency over request-level, measured", real.latency, "x", "measured"),
        Result("answers that differ from those alone", differing_answers(), "answers", "measured", "of 12, float32"),
    ]  # fmt: skip
    holds = full.throughput > 1.5 and full.latency <= 1 and real.throughput > 1 and loads[1] > loads[0]
    reason = (
        "More throughput at less latency, in the direction of the claim and far from its size: the baseline shares "
        "pool and arithmetic with the engine, while the paper compares with another program on many GPUs."
    )
    return Evidence(claim, results, holds, reason)
