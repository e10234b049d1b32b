"""Evidence for shared work: HeteroLLM (its V.C.2 side) and SpeedLoader (its inference side).

Verdicts rest on simulated devices, bytes that crossed and equal results; measured times are ratios of one run and stand
beside them. Sources: heterollm, speedloader.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeinfer.evidence.protocol import Claim, Evidence, Result, evidence

if TYPE_CHECKING:
    from edgeinfer.memory.locality.split_plan import Plan

# ---------------------------------------------------------------- HeteroLLM

SOC_BANDWIDTH = 60.0  # GB/s of the simulated memory; each device alone draws 40


def simulated_plan(rows: int, kinds: tuple[str, ...] | None = None, meeting: float = 10e-6) -> Plan:
    """The best division of `rows` tokens times a 4096 x 4096 weight on the SIMULATED pair of round rates."""
    from edgeinfer.memory.locality.split_plan import KINDS, FlexibleDevice, StaticDevice, best_plan

    static, flexible = StaticDevice(), FlexibleDevice()
    allowed = kinds or KINDS
    options: dict[str, Any] = {"meeting": meeting, "memory_bandwidth": SOC_BANDWIDTH}
    return best_plan(rows, 4096, 4096, static, flexible, static.sizes, grain=256, kinds=allowed, **options)


@cache
def real_pair(rows_tried: tuple[int, ...] = (1, 5, 16, 20, 64, 72)) -> dict[str, float]:
    """Run the REAL pair: rows -> which division its measured profile picks, and the largest error of all divisions."""
    from edgeinfer.memory.locality.pair import RealPair, measure_profile
    from edgeinfer.memory.locality.split_plan import KINDS, best_plan

    rng = np.random.default_rng(0)
    weight = rng.integers(-4, 5, (640, 256)).astype(np.float32)  # whole numbers: float32 sums are exact in any order
    found: dict[str, float] = {"wrong numbers": 0, "divisions": 0}
    with RealPair(weight, (16, 64)) as pair:
        static, flexible = measure_profile(pair)
        for rows in rows_tried:
            x = rng.integers(-4, 5, (rows, 256)).astype(np.float32)
            for kind in KINDS:
                if kind in ("activation", "hybrid") and rows <= min(pair.sizes):
                    continue
                plan = best_plan(rows, 640, 256, static, flexible, pair.sizes, grain=64, kinds=(kind,))
                found["divisions"] += 1
                found["wrong numbers"] += int((pair.run(x, plan) != x @ weight.T).sum())
        found["padding, 1 row"] = static.seconds(1, 640, 256) / flexible.seconds(1, 640, 256)
        found["rate"] = flexible.seconds(64, 640, 256) / static.seconds(64, 640, 256)
    return found


@evidence("heterollm")
def heterollm() -> Evidence:
    """Divisions on simulated devices, exactness and profile of a real pair, and two ways to say "done"."""
    from edgeinfer.memory.locality.signals import measure_signals
    from edgeinfer.memory.locality.split_plan import StaticDevice, padding_share

    claim = Claim(
        "Dividing products between GPU and NPU, with fast signals in unified memory, makes inference 9.99 and 4.36 "
        "times as fast as with MLC and MNN.",
        9.99,
        "x",
        "mobile SoC",
        "heterollm",
        verified=True,
    )
    results = []
    for rows in (1, 64, 100, 300, 700):
        alone = simulated_plan(rows, ("static alone", "flexible alone")).seconds
        plan = simulated_plan(rows)
        note = f"{plan.kind}; one product, 4096 x 4096"
        gain, share = alone / plan.seconds, padding_share(rows, StaticDevice().sizes)
        results += [
            Result(f"speed over the better device alone, {rows} rows", gain, "x", "simulated", note),
            Result(f"share of the static device's work that is padding, {rows} rows", share, "1", "modelled"),
        ]
    real = real_pair()
    signals, count = measure_signals(), f"{real['divisions']:g} divisions"
    faster, median = signals["pipe, undisturbed"] / signals["flag, undisturbed"], signals["pipe"] / signals["flag"]
    results += [
        Result("wrong numbers on the real pair", real["wrong numbers"], "1", "measured", count),
        Result("static over flexible time of the real pair, 1 row", real["padding, 1 row"], "x", "measured"),
        Result("flexible over static time of the real pair, 64 rows", real["rate"], "x", "measured"),
        Result("pipe over flag, undisturbed round trips", faster, "x", "measured", "two processes"),
        Result("pipe over flag, median round trips", median, "x", "measured", "needs two free cores"),
    ]
    gains = [r.value for r in results if r.name.startswith("speed over the better")]
    words = (
        f"A phone's speed cannot be measured here. On simulated devices a division is {min(gains):.2f} to "
        f"{max(gains):.2f} times as fast as the better device; the real pair of processor threads shows exact results "
        "and the cost of padding."
    )
    return Evidence(claim, results, None, words)


# ---------------------------------------------------------------- SpeedLoader


@dataclass(frozen=True)
class Streamed:
    """One real run: what was read from the disk for a token, its seconds, and whether the tokens were right."""

    bytes_per_token: float
    seconds: float
    requests: int
    passes: int
    equal: bool


@cache
def streamed_runs(together: tuple[int, ...] = (1, 2, 4), new_tokens: int = 6) -> dict[tuple[int, bool], Streamed]:
    """Generate for four sub-batches of two prompts from a real file: (sub-batches for a loaded layer, ahead) -> run."""
    import torch

    from edgeinfer.memory.locality.layer_file import LayerStream, write_layers
    from edgeinfer.memory.locality.sub_batches import SubBatchRunner
    from edgeinfer.models import generate, held_out_tokens, load

    model = load("target")
    tokens = held_out_tokens("text")
    prompts = [tokens[i * 64 : (i + 1) * 64].view(2, 32) for i in range(4)]
    want = torch.cat([generate(model, prompt, new_tokens)[:, -new_tokens:] for prompt in prompts])
    runs = {}
    with tempfile.TemporaryDirectory() as folder:
        file = write_layers(model, Path(folder) / "layers.safetensors")
        for count in together:
            for ahead in (False, True):
                with LayerStream(file, ahead=ahead) as stream, SubBatchRunner(model, stream) as runner:
                    start = time.perf_counter()
                    made = torch.cat(runner.generate(prompts, new_tokens, count))
                    seconds = time.perf_counter() - start
                    equal = torch.equal(made, want)
                    share = stream.bytes_read / runner.tokens
                    runs[count, ahead] = Streamed(share, seconds, stream.requests, runner.passes, equal)
    return runs


@evidence("speedloader")
def speedloader() -> Evidence:
    """Bytes for a token and equal tokens while a real file is streamed, and the time of one run."""
    claim = Claim(
        "Redesigning the data flow so that little crosses twice makes inference 1.5 to 2.35 times as fast without loss "
        "of arithmetic precision.",
        1.5,
        "x",
        "GPUs with host memory",
        "speedloader",
        verified=True,
    )
    runs = streamed_runs()
    one, most = runs[1, True], runs[4, True]
    results = [
        Result(
            f"bytes read for a token, {count} sub-batches a layer",
            run.bytes_per_token,
            "B",
            "measured",
            "8 rows in all",
        )
        for (count, ahead), run in runs.items()
        if ahead
    ]
    results += [
        Result("fewer bytes, 4 sub-batches a layer", one.bytes_per_token / most.bytes_per_token, "x", "measured"),
        Result(
            "speed of 4 sub-batches a layer over one",
            one.seconds / most.seconds,
            "x",
            "measured",
            "cold reads",
        ),
        Result("speed of reading ahead, 1 sub-batch", runs[1, False].seconds / one.seconds, "x", "measured", "one run"),
        Result("runs with tokens other than in memory", sum(not run.equal for run in runs.values()), "1", "measured"),
    ]
    holds = all(run.equal for run in runs.values()) and one.bytes_per_token / most.bytes_per_token > 3.9
    words = (
        "The bytes fall by exactly the number of sub-batches and the tokens stay the same; how much time that saves "
        "depends on disk and processor. The training side of the paper is not treated here."
    )
    return Evidence(claim, results, holds, words)
