"""Sparse weights times one or sixteen columns: this book's formats against torch (dense, CSR) and scipy, side by side.

Each table (a shape, a share of zeros, a batch, a number of threads) is measured in a process of its own; weights come
from memory. Prints the tables and writes results/spmm.json.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
TITLE = "Sparse weights times few columns"
SHAPES = ("4096x11008", "640x256", "256x640")  # a feed-forward layer of 7 billion weights, and the shipped model's own
ZEROS = (0.5, 0.6, 0.75, 0.9, 0.95)
BATCHES = (1, 16)
BASELINE = "torch bf16, dense"


def measure(case: str, threads: int, rounds: int) -> dict:
    """One table; to be called in a fresh process with the thread counts of the libraries set."""
    sys.path.insert(0, str(HERE))
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


def in_fresh_process(case: str, threads: int, rounds: int) -> dict | str:
    """The table, or the reason why there is none."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    environment = {**os.environ, **dict.fromkeys(names, str(threads))}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "table.json"
        command = [sys.executable, __file__, "--worker", case, "--threads", str(threads), "--rounds", str(rounds)]
        done = subprocess.run([*command, "--out", str(out)], env=environment, check=False)
        if done.returncode or not out.exists():
            return f"{case} with {threads} thread(s) failed (exit code {done.returncode})"
        return json.loads(out.read_text(encoding="utf-8"))


def notes_of(tables: list[dict]) -> list[str]:
    """What a reader must know: missing peers, which kernels ran, what the bytes are."""
    from edgeinfer.kernels import simd

    notes = sorted({f"{name} is missing: {reason}." for table in tables for name, reason in table["absent"].items()})
    if reason := simd.why_portable():
        notes.append(f"The portable kernels ran: {reason}.")
    return [
        *notes,
        "Zeros lie at random places. This book's formats and the dense baseline hold bfloat16 numbers, torch's and "
        "scipy's CSR float32 with 32-bit columns, which they multiply fastest. 'Of roofline' is the share of the "
        "read bandwidth measured in the same process; at many zeros or many columns arithmetic takes the time.",
    ]


def save(path: Path, tables: list[dict]) -> None:
    """Write all tables, the machine and the versions; whole or not at all."""
    from edgeinfer.measure import describe_machine
    from gemv import versions

    result = {
        "title": TITLE,
        "machine": json.loads(describe_machine().to_json()),
        "versions": versions(),
        "comparisons": tables,
        "notes": notes_of(tables),
    }
    path.parent.mkdir(exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    part.replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="three rounds of the model's first shape, written nowhere")
    parser.add_argument("--threads", type=int, nargs="*", help="thread counts (default: 1 and 2)")
    parser.add_argument("--shapes", nargs="*", default=SHAPES, help="rows x columns, such as 4096x11008")
    parser.add_argument("--zeros", type=float, nargs="*", default=ZEROS, help="shares of zeros")
    parser.add_argument("--batches", type=int, nargs="*", default=BATCHES)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "spmm.json")
    options = parser.parse_args()
    if options.worker:
        table = measure(options.worker, options.threads[0], options.rounds)
        options.out.write_text(json.dumps(table), encoding="utf-8")
        return

    from edgeinfer.measure import Comparison

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = options.threads or [t for t in (1, 2) if t <= cores]
    shapes = SHAPES[1:2] if options.quick else options.shapes
    tables, failed = [], []
    for count, shape, batch, zeros in itertools.product(threads, shapes, options.batches, options.zeros):
        table = in_fresh_process(f"{shape}:{zeros}:{batch}", count, 3 if options.quick else options.rounds)
        if isinstance(table, str):
            failed.append(table)
            continue
        tables.append(table)
        print(f"\n{table['title']}\n{Comparison.from_json(json.dumps(table)).table()}", flush=True)
        if not options.quick:
            save(options.out, tables)  # after every table: an interrupted run keeps what it has
    print("", *notes_of(tables), sep="\n")
    if failed:
        sys.exit("spmm: " + "; ".join(failed))


if __name__ == "__main__":
    main()
