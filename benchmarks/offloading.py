"""A decoder streamed from disk, with and without prefetching, beside its bounds; and the cost model beside the clock.

Writes results/offloading.json. A model of random weights is written to a file and read past the page cache. Bounds: all
weights in memory (computing alone), and reading them alone. Policies run in processes of limited memory.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from edgeinfer import measure
from edgeinfer.measure.comparison import Comparison
from edgeinfer.memory.offload import Policy, cost
from edgeinfer.memory.offload.block import run_block
from edgeinfer.memory.offload.limited import measure as measure_machine
from edgeinfer.memory.offload.limited import possible, run
from edgeinfer.memory.offload.model_files import LAYERS, open_skeleton, workload, write_random_model
from edgeinfer.memory.offload.tiers import SlowTier, TieredWeights

RESULTS = Path(__file__).resolve().parent / "results" / "offloading.json"
HIDDEN, DEPTH, LENGTH, STEPS = 1024, 8, 64, 5
KINDS = {
    "weights in memory (computing alone)": ((1.0, 0.0, 0.0), True),
    "streamed, with prefetch": ((0.0, 0.0, 1.0), True),
    "streamed, without prefetch": ((0.0, 0.0, 1.0), False),
}
READING = "reading alone"
POLICIES = {
    "all weights on the disk, 16 rows": Policy(16, 1, (0.0, 0.0, 1.0)),
    "all weights on the disk, 4 x 16 rows": Policy(16, 4, (0.0, 0.0, 1.0)),
    "weights on three tiers, 4 x 8 rows, half of the caches slow": Policy(8, 4, (0.3, 0.3, 0.4), (0.5, 0.5)),
    "weights fast and slow, 2 x 16 rows": Policy(16, 2, (0.5, 0.5, 0.0)),
}
INTERPRETER = 400 << 20


def seconds_per_step(folder: Path, model: Any, kind: str, batch: int) -> float:
    """Median seconds of a step after the first; a fresh reader each time."""
    shares, ahead = KINDS[kind]
    tokens = torch.arange(8).repeat(batch, 1)
    with TieredWeights(folder / LAYERS, shares, None, ahead) as weights:
        _, moved = run_block(model, weights, [tokens], STEPS, Policy(batch, 1, shares))
    return float(np.median(moved.steps[1:]))


def seconds_of_reading(folder: Path) -> float:
    """Seconds in which one reader brings all layers while nothing is computed."""
    with TieredWeights(folder / LAYERS, (0.0, 0.0, 1.0)) as weights:
        start = time.perf_counter()
        for layer in range(weights.layers):
            weights.bring(layer, "disk", weights.buffers[layer % 2])
        return time.perf_counter() - start


def streaming(folder: Path, batch: int, rounds: int) -> dict[str, list[float]]:
    """Every contender in shuffled order, round by round."""
    model = open_skeleton(folder)
    names = [*KINDS, READING]
    times: dict[str, list[float]] = {name: [] for name in names}
    rng = np.random.default_rng(0)
    for number in range(rounds + 1):  # the first round warms up
        for name in rng.permutation(names):
            took = seconds_of_reading(folder) if name == READING else seconds_per_step(folder, model, name, batch)
            if number:
                times[name].append(took)
    return times


def predictions(folder: Path, slow: Path, rounds: int) -> dict[str, tuple[list[float], list[float]]]:
    """Predicted and measured seconds of a step of each policy; the machine is measured anew before each round."""
    work = workload(folder, LENGTH)
    found: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in POLICIES}
    for _ in range(rounds):
        machine = measure_machine(folder, slow, 8, 8, 1e12, 1e12)
        for name, policy in POLICIES.items():
            fast = cost(machine, work, policy).fast_bytes
            ended = run(folder, slow, policy, int(INTERPRETER + fast), 8, 8)
            if ended.outcome != "finished":
                raise SystemExit(f"offloading: {name}: {ended.message}")
            found[name][0].append(cost(machine, work, possible(policy, ended)).step_seconds)
            found[name][1].append(float(np.median(ended.result["steps"][1:])))
    return found


def main() -> None:
    """Measure, print the tables, write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--folder", type=Path, help="where the model is written (default: a temporary folder)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    comparisons: dict[str, Any] = {}
    notes = []
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        write_random_model(folder, HIDDEN, DEPTH, LENGTH)
        slow = folder / "slow"
        SlowTier.make(slow, 400 << 20)
        for batch in options.batches:
            times = streaming(folder, batch, options.rounds)
            ahead = np.array(times["streamed, with prefetch"])
            bound = np.maximum(times["weights in memory (computing alone)"], times[READING])
            without = np.array(times["streamed, without prefetch"])
            title = f"One step of {DEPTH} layers, batch {batch}"
            comparisons[title] = json.loads(
                Comparison("streamed, without prefetch", times, dict.fromkeys(times, 1), threads={"torch": 1}).to_json()
            )
            notes.append(
                f"Batch {batch}: the longer bound takes {np.median(bound / ahead):.2f} of the time with prefetch; "
                f"without it takes {np.median(without / ahead):.2f} times as long as with it (medians)."
            )
        for name, (said, took) in predictions(folder, slow, min(options.rounds, 5)).items():
            ratio = np.median(np.array(said) / np.array(took))
            notes.append(f"Predicted over measured, {name}: {ratio:.2f} (median of {len(said)} limited runs).")
        size = (folder / LAYERS).stat().st_size
    for title, table in comparisons.items():
        print(f"\n{title}\n{Comparison.from_json(json.dumps(table)).table()}")
    content = {
        "title": "Weights streamed from disk",
        "machine": json.loads(measure.describe_machine().to_json()),
        "comparisons": comparisons,
        "notes": [
            f"A decoder of random weights, {size / 1e6:.0f} MB in float32, read past the page cache; one thread "
            "computes and one reads. A step writes one token for each row.",
            *notes,
        ],
    }
    RESULTS.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print("\n" + "\n".join(notes) + f"\nwritten: benchmarks/results/{RESULTS.name}")


if __name__ == "__main__":
    main()
