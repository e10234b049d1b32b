"""Continuous beside static batching on synthetic traces, with the shipped model; and `transformers` in batches.

Writes results/serving.json. The two schedulers share model, pool and arithmetic. `transformers` gets the same
requests, eight at a time in order of arrival, padded on the left, each batch to the end of its longest answer. A last
pair of tables serves prompts that begin alike, with and without sharing what they have in common.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from edgeinfer import measure, models
from edgeinfer.measure.comparison import Comparison
from edgeinfer.memory.paging.runner import PagedRunner
from edgeinfer.memory.serving import (
    Arrival,
    Engine,
    Replay,
    StaticBatching,
    begin_alike,
    cut_prompts,
    make_trace,
    replay,
)
from transformers import AutoModelForCausalLM
from transformers.utils import logging

RESULTS = Path(__file__).resolve().parent / "results" / "serving.json"
BATCH, BLOCKS, BLOCK_SIZE, BUDGET = 8, 256, 16, 64
RATES = {"all at once": float("inf"), "12 requests per second": 12.0}
# What is changed, one thing at a time; every one of these traces comes all at once.
OTHERS: dict[str, dict[str, Any]] = {
    "drawn anew, seed 2": {"seed": 2},
    "drawn anew, seed 3": {"seed": 3},
    "drawn anew, seed 4": {"seed": 4},
    "answers of 16 tokens on average": {"output_mean": 16},
    "answers of 64": {"output_mean": 64},
    "prompts of 128": {"prompt_mean": 128},
    "answers half as spread": {"output_spread": 0.5},
    "answers all equal": {"output_spread": 0},
}
BEGINNINGS, BEGINNING, SHARED_RATE = 3, 112, 10.0  # different beginnings, tokens of each, requests per second


def padded_batches(peer: Any, trace: list[Arrival], prompts: list[list[int]]) -> list[list[int]]:
    """Generate with `transformers`, BATCH requests at a time; return the answers cut to the wanted lengths."""
    answers = []
    for start in range(0, len(trace), BATCH):
        rows, wanted = prompts[start : start + BATCH], trace[start : start + BATCH]
        width, longest = max(map(len, rows)), max(a.output_tokens for a in wanted)
        tokens = torch.tensor([[0] * (width - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
        exactly = {"max_new_tokens": longest, "min_new_tokens": longest, "do_sample": False, "pad_token_id": 0}
        out = peer.generate(tokens, attention_mask=mask, **exactly)[:, width:]
        answers += [row[: a.output_tokens].tolist() for row, a in zip(out, wanted, strict=True)]
    return answers


def schedulers(model: models.Decoder, dtype: torch.dtype) -> dict[str, Any]:
    """Both schedulers, each over an empty pool of its own."""
    context = model.config.max_position_embeddings
    pools = [PagedRunner(model, BLOCKS, BLOCK_SIZE, dtype) for _ in range(2)]
    return {
        "static batching": StaticBatching(pools[0], BATCH, context=context),
        "continuous batching": Engine(pools[1], BATCH, BUDGET, context=context),
    }


def comparison(runs: dict[str, list[float]], baseline: str = "static batching") -> dict[str, Any]:
    """Times, round by round, as the page reads them."""
    repeats = dict.fromkeys(runs, 1)
    return json.loads(Comparison(baseline, runs, repeats, threads={"torch": 1}).to_json())


def other_traces(model: models.Decoder, dtype: torch.dtype, text: list[int], requests: int) -> list[str]:
    """How throughput and latency compare on traces of other shapes, one run of each, in processor time."""
    lines = []
    for name, how in OTHERS.items():
        trace = make_trace(**{"seed": 1, "requests": requests, "rate": float("inf")} | how)
        prompts = cut_prompts(trace, text)
        both = schedulers(model, dtype).values()
        static, continuous = (replay(s, trace, prompts, clock=time.thread_time) for s in both)
        throughput, latency = continuous.throughput / static.throughput, continuous.latency / static.latency
        lines.append(f"{name}: {throughput:.2f} and {latency:.2f}")
    return lines


def shared_beginnings(
    model: models.Decoder, dtype: torch.dtype, text: list[int], requests: int, count: int
) -> tuple[dict[str, dict[str, list[float]]], str]:
    """Times until all are served and to the first token, round by round, and what was counted."""
    trace = make_trace(3, requests, SHARED_RATE, prompt_mean=24, output_mean=24, longest=128)
    beginnings = [text[1000 * k : 1000 * k + BEGINNING] for k in range(BEGINNINGS)]
    trace, prompts = begin_alike(trace, cut_prompts(trace, text, seed=3), beginnings, seed=3)
    kinds = {"each reads its own": False, "beginnings shared": True}
    found: dict[str, list[Replay]] = {kind: [] for kind in kinds}
    for _ in range(count + 1):
        for kind, share in kinds.items():
            engine = Engine(PagedRunner(model, BLOCKS, BLOCK_SIZE, dtype), BATCH, BUDGET, share_prefixes=share)
            found[kind].append(replay(engine, trace, prompts))
    alone, shared = (runs[0] for runs in found.values())
    if [s.tokens for s in alone.served] != [s.tokens for s in shared.served]:
        raise SystemExit("serving: sharing changed an answer; nothing is reported")
    rounds = {kind: runs[1:] for kind, runs in found.items()}
    title = f"{requests} requests with one of {BEGINNINGS} beginnings of {BEGINNING} tokens"
    tables = {
        f"{title}: median time to the first token": {k: [r.first_token for r in runs] for k, runs in rounds.items()},
        f"{title}: median latency of a request": {k: [r.latency for r in runs] for k, runs in rounds.items()},
    }
    counted = (
        f"Beginnings shared: {shared.read} prompt tokens were read instead of {alone.read}, at most {shared.most_held} "
        f"blocks were held instead of {alone.most_held}; the answers are the same."
    )
    return tables, counted


def main() -> None:
    """Play the traces, print the tables, write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=48)
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    dtype = torch.float32
    model = models.load("target", dtype)
    peer = AutoModelForCausalLM.from_pretrained(str(models.shipped()["target"]), dtype=dtype).eval()
    text = models.held_out_tokens()[:20_000].tolist()
    comparisons: dict[str, Any] = {}
    counted = []
    for name, rate in RATES.items():
        trace = make_trace(1, options.requests, rate=rate)
        prompts = cut_prompts(trace, text)
        found: dict[str, list[Replay]] = {"static batching": [], "continuous batching": []}
        theirs: list[float] = []
        for _ in range(options.rounds + 1):  # the first round warms up
            for kind, scheduler in schedulers(model, dtype).items():
                found[kind].append(replay(scheduler, trace, prompts))
            if rate == float("inf"):
                started = time.perf_counter()
                answers = padded_batches(peer, trace, prompts)
                theirs.append(time.perf_counter() - started)
        same = [[s.tokens for s in runs[0].served] for runs in found.values()]
        if same[0] != same[1]:
            raise SystemExit("serving: the two schedulers made different answers; nothing is reported")
        rounds = {kind: runs[1:] for kind, runs in found.items()}
        spans = {kind: [run.span for run in runs] for kind, runs in rounds.items()}
        if theirs:
            spans["transformers generate, padded batches"] = theirs[1:]
            differ = sum(a != b for a, b in zip(answers, same[0], strict=True))
            counted.append(f"{differ or 'None'} of the {len(answers)} answers of transformers differ from ours.")
        title = f"{options.requests} requests, {name}"
        comparisons[f"{title}: time until all are served"] = comparison(spans)
        latencies = {kind: [run.latency for run in runs] for kind, runs in rounds.items()}
        comparisons[f"{title}: median latency of a request"] = comparison(latencies)
        iterations = {kind: len(runs[0].steps) for kind, runs in rounds.items()}
        counted.append(f"Iterations, {name}: " + ", ".join(f"{kind} {n}" for kind, n in iterations.items()) + ".")
    tables, said = shared_beginnings(model, dtype, text, options.requests, options.rounds)
    comparisons |= {title: comparison(runs, "each reads its own") for title, runs in tables.items()}
    counted.append(said)
    others = "; ".join(other_traces(model, dtype, text, options.requests))
    counted.append(
        "Other traces, all at once, throughput and median latency over those of static batching, one run of each in "
        f"processor time: {others}."
    )
    for title, table in comparisons.items():
        print(f"\n{title}\n{Comparison.from_json(json.dumps(table)).table()}")
    content = {
        "title": "Continuous batching beside static batching",
        "machine": json.loads(measure.describe_machine().to_json()),
        "comparisons": comparisons,
        "notes": [
            "Model: the shipped target in float32, one thread; a synthetic trace of bursts and log-normal lengths, the "
            f"same for all; at most {BATCH} requests are computed together, {BLOCKS} blocks of {BLOCK_SIZE} tokens. "
            "Both schedulers were checked to make the same answers. Waiting for arrivals takes no time of the machine.",
            *counted,
        ],
    }
    RESULTS.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print("\n" + "\n".join(counted) + f"\nwritten: benchmarks/results/{RESULTS.name}")


if __name__ == "__main__":
    main()
