"""Sparse weights times one or sixteen columns: this book's formats against torch (dense, CSR) and scipy, side by side.

Each table (a shape, a share of zeros, a batch, a number of threads) is measured in a process of its own; weights come
from memory. Prints the tables and writes results/spmm.json.
"""

from __future__ import annotations

import itertools

from _tables import compared, run

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
    from peers import sparse_peers

    shape, zeros, batch = case.split(":")
    rows, columns = map(int, shape.split("x"))
    problem = sparse_peers.SparseProblem(rows, columns, float(zeros), int(batch), threads)
    title = f"{rows} x {columns}, {float(zeros):.0%} zeros, {batch} column{'s' if batch != '1' else ''}"
    table = compared(lambda: sparse_peers.contenders(problem), BASELINE, title, threads, rounds, 20, 1.0)
    return {**table, "absent": problem.absent}


if __name__ == "__main__":
    run(__file__, TITLE, CASES, measure, NOTE, rounds=15, quick="640x256:0.75:1")
