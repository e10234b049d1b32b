"""Continuous beside static batching on one synthetic trace, with the shipped model; and `transformers` in batches.

Writes results/serving.json. The two schedulers share model, pool and arithmetic. `transformers` gets the same
requests, eight at a time in order of arrival, padded on the left, each batch to the end of its longest answer.
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
from edgeinfer.memory.serving import Arrival, Engine, Replay, StaticBatching, cut_prompts, make_trace, replay
from transformers import AutoModelForCausalLM
from transformers.utils import logging

RESULTS = Path(__file__).resolve().parent / "results" / "serving.json"
BATCH, BLOCKS, BLOCK_SIZE, BUDGET = 8, 256, 16, 64
RATES = {"all at once": float("inf"), "12 requests per second": 12.0}


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


def comparison(runs: dict[str, list[float]], threads: int) -> dict[str, Any]:
    """Times, round by round, as the page reads them."""
    repeats = dict.fromkeys(runs, 1)
    return json.loads(Comparison("static batching", runs, repeats, threads={"torch": threads}).to_json())


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
            counted.append(f"{differ} of {len(answers)} answers of transformers differ from ours.")
        title = f"{options.requests} requests, {name}"
        comparisons[f"{title}: time until all are served"] = comparison(spans, 1)
        latencies = {kind: [run.latency for run in runs] for kind, runs in rounds.items()}
        comparisons[f"{title}: median latency of a request"] = comparison(latencies, 1)
        iterations = {kind: len(runs[0].steps) for kind, runs in rounds.items()}
        counted.append(f"Iterations, {name}: " + ", ".join(f"{kind} {n}" for kind, n in iterations.items()) + ".")
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
