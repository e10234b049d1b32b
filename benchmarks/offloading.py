"""A decoder streamed from disk beside its bounds, in floats and in four bits; the cost model beside the clock.

Writes results/offloading.json. A model of random weights is written to files and read past the page cache. Bounds: all
weights in memory (computing alone), and reading them alone. Policies run in processes of limited memory, each against
what the model said; then the search chooses for one size of memory after the other, and its choice is run there.
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
from edgeinfer.memory.locality.layer_file import LayerFile
from edgeinfer.memory.offload import Policy
from edgeinfer.memory.offload.block import run_block
from edgeinfer.memory.offload.curve import Point, throughput, tried
from edgeinfer.memory.offload.limited import slow_folder
from edgeinfer.memory.offload.model_files import LAYERS, PACKED, open_skeleton, write_random_model
from edgeinfer.memory.offload.tiers import SlowTier, TieredWeights

RESULTS = Path(__file__).resolve().parent / "results" / "offloading.json"
HIDDEN, DEPTH, LENGTH, STEPS = 1024, 8, 64, 5
PROMPT, ANSWER = 24, 8
SLOW_BYTES = 400 << 20
KINDS = {
    "weights in memory (computing alone)": ((1.0, 0.0, 0.0), True, False),
    "streamed, with prefetch": ((0.0, 0.0, 1.0), True, False),
    "streamed, without prefetch": ((0.0, 0.0, 1.0), False, False),
    "streamed in four bits, with prefetch": ((0.0, 0.0, 1.0), True, True),
}
READING = "reading alone"
DISK, HALF, THREE = (0.0, 0.0, 1.0), (0.5, 0.5, 0.0), (0.3, 0.3, 0.4)
POLICIES = {
    "all weights on the disk, 16 rows": Policy(16, 1, DISK),
    "all weights on the disk, 4 x 16 rows": Policy(16, 4, DISK),
    "weights on three tiers, 4 x 8 rows, half of the caches slow": Policy(8, 4, THREE, (0.5, 0.5)),
    "weights fast and slow, 2 x 16 rows": Policy(16, 2, HALF),
    "weights slow, 2 x 4 rows, all caches slow": Policy(4, 2, (0.0, 1.0, 0.0), (0.0, 1.0)),
    "four bits on the disk, 1 row": Policy(1, 1, DISK, (1.0, 0.0), True),
    "four bits on the disk, 4 x 16 rows, caches in four bits and slow": Policy(16, 4, DISK, (0.0, 1.0), True, True),
    "four bits on three tiers, 2 x 8 rows": Policy(8, 2, THREE, (1.0, 0.0), True),
}
SHARES = (0.15, 0.3, 0.5, 0.75, 1.1)  # of the weights' bytes: sizes of fast memory that the search gets


def seconds_per_step(folder: Path, model: Any, kind: str, batch: int) -> float:
    """Median seconds of a step after the first; a fresh reader each time."""
    shares, ahead, packed = KINDS[kind]
    tokens = torch.arange(8).repeat(batch, 1)
    with TieredWeights(folder / (PACKED if packed else LAYERS), shares, None, ahead) as weights:
        _, moved = run_block(model, weights, [tokens], STEPS, Policy(batch, 1, shares, (1.0, 0.0), packed))
    return float(np.median(moved.steps[1:]))


def seconds_of_reading(folder: Path) -> float:
    """Seconds in which one reader brings all layers while nothing is computed."""
    with TieredWeights(folder / LAYERS, DISK) as weights:
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


def streaming_notes(batch: int, times: dict[str, list[float]]) -> list[str]:
    """What the table of one batch says, in sentences."""
    ahead, small = (np.array(times[n]) for n in ("streamed, with prefetch", "streamed in four bits, with prefetch"))
    bound = np.maximum(times["weights in memory (computing alone)"], times[READING])
    without = np.array(times["streamed, without prefetch"])
    return [
        f"Batch {batch}: the longer bound takes {np.median(bound / ahead):.2f} of the time with prefetch; "
        f"without it takes {np.median(without / ahead):.2f} times as long as with it (medians).",
        f"Batch {batch}: four bits take {np.median(small / ahead):.2f} of the time of floats, both with prefetch.",
    ]


def prediction_note(name: str, points: list[Point]) -> tuple[str, bool]:
    """Predicted over measured of one policy, and whether the median is within a quarter."""
    ratio = float(np.median([p.predicted / p.measured for p in points]))
    within = 0.75 <= ratio <= 1.25
    verdict = "" if within else " Not within a quarter."
    return f"Predicted over measured, {name}: {ratio:.2f} (median of {len(points)} limited runs).{verdict}", within


def main() -> None:
    """Measure, print the tables, write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--folder", type=Path, help="where the model is written (default: a temporary folder)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    comparisons: dict[str, Any] = {}
    notes, far = [], []
    limited_rounds = min(options.rounds, 3)
    with (
        tempfile.TemporaryDirectory(dir=options.folder) as name,
        tempfile.TemporaryDirectory(dir=slow_folder(SLOW_BYTES, name)) as below,
    ):
        folder, slow = Path(name), Path(below) / "slow"
        write_random_model(folder, HIDDEN, DEPTH, LENGTH, four_bits=True)
        SlowTier.make(slow, SLOW_BYTES)
        for batch in options.batches:
            times = streaming(folder, batch, max(2, options.rounds))
            comparisons[f"One step of {DEPTH} layers, batch {batch}"] = json.loads(
                Comparison("streamed, without prefetch", times, dict.fromkeys(times, 1), threads={"torch": 1}).to_json()
            )
            notes += streaming_notes(batch, times)
        policies = tried(folder, slow, POLICIES, PROMPT, ANSWER, limited_rounds)
        size, small = (LayerFile(folder / f).nbytes for f in (LAYERS, PACKED))
        budgets = [share * size for share in SHARES]
        curves = throughput(folder, slow, budgets, SLOW_BYTES, PROMPT, ANSWER, limited_rounds)
    for policy, points in policies.items():
        sentence, within = prediction_note(policy, points)
        notes.append(sentence)
        far += [] if within else [policy]
    for form, points in curves.items():
        found = ", ".join(f"{p.budget / 1e6:.0f} MB: {p.speed:.1f} ({p.rows / p.predicted:.1f})" for p in points)
        notes.append(f"Tokens a second by fast memory, and what the model predicted, {form}: {found}.")
    content = {
        "title": "Weights streamed from disk",
        "machine": json.loads(measure.describe_machine().to_json()),
        "comparisons": comparisons,
        "policies": {name: [p.as_dict() for p in points] for name, points in policies.items()},
        "memory": {name: [p.as_dict() for p in points] for name, points in curves.items()},
        "notes": [
            f"A decoder of random weights, {size / 1e6:.0f} MB in float32 ({small / 1e6:.0f} MB in four bits), read "
            "past the page cache; one thread computes and one reads. A step writes one token for each row. The bounds "
            "are measured in turns of their own: where one takes more than the whole, the disk was slower then.",
            *notes,
        ],
    }
    RESULTS.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    for title, table in comparisons.items():
        print(f"\n{title}\n{Comparison.from_json(json.dumps(table)).table()}")
    print("\n" + "\n".join(notes) + f"\nwritten: benchmarks/results/{RESULTS.name}")
    if far:
        raise SystemExit(f"the cost model is off by more than a quarter for: {'; '.join(far)}")


if __name__ == "__main__":
    main()
