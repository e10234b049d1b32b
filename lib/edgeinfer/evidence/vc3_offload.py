"""Evidence for offloading: FlexGen and ZeRO-Inference.

Verdicts rest on counted bytes, on exhaustive searches and on what a process with little memory can do; times stand
beside them. Sources: flexgen, zero-inference.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from edgeinfer.evidence.protocol import Claim, Evidence, Result, evidence

INTERPRETER = 270_000_000  # bytes of Python, NumPy and torch in a fresh process, with a margin
HIDDEN, LAYERS, TOKENS = 640, 12, 64


@cache
def small_machine() -> Any:
    """A machine of three tiers with round numbers, for what needs no measurement."""
    from edgeinfer.memory.offload import Machine, Workload

    return Machine(100e6, 100e6, 5e9, 1.5e9, 0.004, 0.0005), Workload(8, 28e6, 1e6, 3e3, 5e6)


@evidence("flexgen")
def flexgen() -> Evidence:
    """The search against a grid and a clock, a real run in less memory than the weights take, and four bits."""
    from edgeinfer.evidence.vc3_four_bits import four_bit_results
    from edgeinfer.memory.offload import Policy, cost, on_a_grid, search
    from edgeinfer.memory.offload.limited import run
    from edgeinfer.memory.offload.model_files import workload, write_random_model
    from edgeinfer.memory.offload.tiers import SlowTier

    machine, work = small_machine()
    sizes = (1, 4, 16), (1, 4)
    best = search(machine, work, *sizes)
    on_grid = [cost(machine, work, p).tokens_per_second for p in on_a_grid(machine, work, *sizes, steps=10)]
    whole = search(machine, work)
    offered = replace(work, packed_layer_bytes=work.layer_bytes / 7, packed_kv_bytes=work.kv_bytes / 7)
    start = time.perf_counter()
    search(replace(machine, unpack_rate=1e10, cache_unpack_rate=4e9), offered)
    seconds = time.perf_counter() - start
    ahead, one_by_one = cost(machine, work, whole), cost(machine, work, whole, overlap=False)
    single = max(cost(machine, work, search(machine, work, (1,), (1,))).tokens_per_second, 1e-9)
    with tempfile.TemporaryDirectory() as folder:
        write_random_model(folder, HIDDEN, LAYERS, TOKENS)
        weights = workload(folder, 24).layer_bytes * LAYERS
        slow = Path(folder) / "slow"
        SlowTier.make(slow, int(0.5 * weights))
        budget = int(INTERPRETER + 0.5 * weights)
        policy = Policy(8, 2, (0.2, 0.2, 0.6), (0.5, 0.5))
        offloaded = run(folder, slow, policy, budget, 8, 3)
        if offloaded.how == "rlimit":
            # Without a control group everything that was asked for counts, so the interpreter's part is measured.
            budget = run(folder, slow, policy, 1 << 34, 8, 3).peak_bytes + (20 << 20)
            offloaded = run(folder, slow, policy, budget, 8, 3)
        resident = run(folder, slow, Policy(8, 2, (1, 0, 0)), budget, 8, 3)
    four_bits, right = four_bit_results()
    ended = {"out of memory": 0, "failed": 0, "finished": 1}
    return Evidence(
        Claim(
            "A model far larger than the memory of its accelerator generates at a useful rate: 1 token/s for OPT-175B "
            "on one 16 GB GPU, by a policy that a linear programme finds over three tiers",
            value=1,
            unit="token/s",
            hardware="one 16 GB GPU with host memory and SSD",
            verified=True,
        ),
        [
            Result(
                "best policy on a grid over the one that was found",
                max(on_grid) / cost(machine, work, best).tokens_per_second,
                "x",
                "modelled",
                f"{len(on_grid):,} policies that fit; at most 1, since the programme is not bound to the grid",
            ),
            Result(
                "time of the whole search",
                seconds,
                "s",
                "measured",
                "35 sizes of block in four forms, up to two programmes each; what cannot win is not tried",
            ),
            Result(
                "tokens a second, blocks against one row at a time",
                cost(machine, work, whole).tokens_per_second / single,
                "x",
                "modelled",
                "same memory, best policy of each",
            ),
            Result(
                "time of a step without overlap over with it",
                one_by_one.step_seconds / ahead.step_seconds,
                "x",
                "modelled",
                "the best policy",
            ),
            Result(
                "the policy ran in less memory than the weights take",
                ended.get(offloaded.outcome, 0),
                "yes",
                "measured",
                f"limit by {offloaded.how}: {budget / 1e6:.0f} MB for interpreter, libraries and part of the "
                f"{weights / 1e6:.0f} MB of weights",
            ),
            Result(
                "all weights in memory, under the same limit",
                ended.get(resident.outcome, 0),
                "yes",
                "measured",
                f"it ended: {resident.outcome}",
            ),
            *four_bits,
        ],
        holds=max(on_grid) <= cost(machine, work, best).tokens_per_second * (1 + 1e-6)
        and offloaded.outcome == "finished"
        and resident.outcome == "out of memory"
        and right
        and seconds < 5,
        reason="The shape of the claim: a model runs where it does not fit, and the policy is the optimum of its "
        "model. Its seconds are those of a made-up machine; the library can measure yours and run a policy on it.",
    )


@evidence("zero-inference")
def zero_inference() -> Evidence:
    """Bytes for each token against the batch, and a layer read by several readers."""
    import torch

    from edgeinfer import models
    from edgeinfer.memory.locality.layer_file import write_layers
    from edgeinfer.memory.offload import Policy
    from edgeinfer.memory.offload.block import run_block
    from edgeinfer.memory.offload.readers import read_together
    from edgeinfer.memory.offload.tiers import TieredWeights
    from edgeinfer.memory.storage import ColdFile, write_whole

    model = models.load("draft")
    tokens = models.held_out_tokens()
    steps, per_token, same = 4, {}, True
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "layers.safetensors"
        write_layers(model, file)
        for batch in (1, 4, 16):
            prompts = tokens[: batch * 8].view(batch, 8)
            with TieredWeights(file, (0, 0, 1)) as weights:
                answers, moved = run_block(model, weights, [prompts], steps, Policy(batch, 1, (0, 0, 1)))
            per_token[batch] = moved.disk / (batch * steps)
            same = same and bool(torch.equal(answers[0], models.generate(model, prompts, steps)[:, 8:]))
        large = Path(folder) / "layer"
        data = np.random.default_rng(0).integers(0, 256, 48 << 20, dtype=np.uint8)
        write_whole(large, [data])
        ratios, got = [], np.empty_like(data)
        with ColdFile(large) as cold:
            read_together(cold, 0, got, 4)
            whole = bool(np.array_equal(got, data))
            for _ in range(5):
                times = []
                for readers in (1, 4):
                    start = time.perf_counter()
                    read_together(cold, 0, got, readers)
                    times.append(time.perf_counter() - start)
                ratios.append(times[0] / times[1])
            how = cold.how
    return Evidence(
        Claim(
            "With all weights in host memory or on NVMe, layers streamed ahead of their use, large batches and all "
            "links in use, one GPU runs models that do not fit into it at a good throughput",
            hardware="one GPU with host memory or NVMe",
        ),
        [
            Result(
                "bytes read for each token, batch of 16 against 1",
                per_token[16] / per_token[1],
                "x",
                "measured",
                "shipped draft model, streamed from a file, prefill and three steps; a sixteenth is the best there is",
            ),
            Result("tokens are those of the model in memory", int(same), "yes", "measured", "batches of 1, 4 and 16"),
            Result(
                "speed of four readers against one",
                float(np.median(ratios)),
                "x",
                "measured",
                f"one file of {data.nbytes >> 20} MiB, {how} reads, median of five pairs; one disk is one road here",
            ),
        ],
        holds=same and whole and abs(per_token[16] * 16 / per_token[1] - 1) < 1e-9,
        reason="Streaming and batching do what they must; several roads need several disks, and this machine has one.",
    )
