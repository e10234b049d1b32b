"""Sparse weights times one or sixteen columns: this book's formats against torch (dense, CSR) and scipy, side by side.

Each table (a shape, a share of zeros, a batch, a number of threads) is measured in a process of its own; weights come
from memory. Prints the tables and writes results/spmm.json.
"""

from __future__ import annotations

import itertools
import json

from _tables import run

TITLE = "Sparse weights times few columns"
SHAPES = ("4096x11008", "640x256", "256x640")  # a feed-forward layer of 7 billion weights, and the shipped model's own
ZEROS = (0.5, 0.6, 0.75, 0.9, 0.95)
BATCHES = (1, 16)
CASES = [f"{shape}:{zeros}:{batch}" for shape, batch, zeros in itertools.product(SHAPES, BATCHES, ZEROS)]
BASELINE = "torch bf16, dense"
NOTE = (
    "Zeros lie at random places. This book's formats and the dense baseline hold bfloat16 numbers, torch's and scipy's "
    "CSR float32 with 32-bit columns, which they multiply fastest. All are given the activations of a linear layer, "
    "(B, K), and turn them inside the clock where they need columns. 'Of roofline' is the share of the read bandwidth "
    "measured in the same process; at many zeros or many columns arithmetic takes the time."
)


def measure(case: str, threads: int, rounds: int) -> dict:
    """One table; to be called in a fresh process with the thread counts of the libraries set."""
    from edgeinfer import measure
    from peers import sparse_peers

    shape, zeros, batch = case.split(":")
    rows, columns = map(int, shape.split("x"))
    limits = measure.measure_limits(seconds=1.0, threads=(threads,))
    problem = sparse_peers.SparseProblem(rows, columns, float(zeros), int(batch), threads)
    contenders = sparse_peers.contenders(problem)
    for contender in contenders:
        contender.check()
    comparison = measure.compare(
        {c.name: c.run for c in contenders},
        BASELINE,
        rounds=rounds,
        sample_seconds=0.004,
        max_seconds=20,
        work={c.name: measure.Work(bytes=c.nbytes, level="DRAM", threads=threads) for c in contenders},
        limits=limits,
    )
    title = (
        f"{rows} x {columns}, {float(zeros):.0%} zeros, {batch} column{'s' if batch != '1' else ''}, "
        f"{threads} thread{'s' if threads > 1 else ''}"
    )
    read = {level: limits.bandwidth(level, threads) for level in limits.read}
    return {"title": title, **json.loads(comparison.to_json()), "read_bandwidth": read, "absent": problem.absent}


if __name__ == "__main__":
    run(__file__, TITLE, CASES, measure, NOTE, rounds=15, quick="640x256:0.75:1")
