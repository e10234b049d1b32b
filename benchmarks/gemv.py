"""Matrix-vector products with few bits per weight against torch, onnxruntime and llama.cpp, side by side.

Each table (a shape, cached or not, a number of threads) is measured in a process of its own, so that no thread pool
of one disturbs another. Prints the tables and writes results/gemv.json.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
TITLE = "Products with few bits per weight, one token"
CASES = ("4096x4096", "11008x4096", "2048x2048 in cache")
VERSIONS = ("torch", "numpy", "numba", "llvmlite", "onnxruntime", "llama-cpp-python")
BASELINE = "torch bf16"


def measure(case: str, threads: int, rounds: int) -> dict:
    """One table; to be called in a fresh process with the thread counts of the libraries set."""
    sys.path.insert(0, str(HERE))
    from edgeinfer import measure
    from peers import Problem, ggml_peer, onnx_peer, ours, torch_peer

    shape, _, where = case.partition(" ")
    rows, columns = map(int, shape.split("x"))
    limits = measure.measure_limits(seconds=2.0, threads=(threads,))
    problem = Problem(rows, columns, threads, cold=not where)
    contenders = [c for peer in (torch_peer, onnx_peer, ggml_peer, ours) for c in peer.contenders(problem)]
    for contender in contenders:
        contender.check()
    levels = {c.name: _level(c.nbytes, limits) if where else "DRAM" for c in contenders}
    comparison = measure.compare(
        {c.name: c.run for c in contenders},
        BASELINE,
        rounds=rounds,
        sample_seconds=0.004,  # about a scheduler's time slice: on a busy machine most samples are not interrupted
        max_seconds=90,
        work={c.name: measure.Work(bytes=c.nbytes, level=levels[c.name], threads=threads) for c in contenders},
        limits=limits,
    )
    title = f"{rows} x {columns}, weights {where or 'from memory'}, {threads} thread{'s' if threads > 1 else ''}"
    return {
        "title": title,
        **json.loads(comparison.to_json()),
        "read_bandwidth": {level: limits.bandwidth(level, threads) for level in limits.read},
        "absent": problem.absent,
    }


def _level(nbytes: int, limits) -> str:
    """The cache that holds so many bytes (the working sets are half a cache)."""
    for level, size in limits.working_set.items():
        if nbytes <= 2 * size:
            return level
    return "DRAM"


def versions() -> dict[str, str]:
    found = {}
    for package in VERSIONS:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


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
    """What a reader must know: missing peers, which kernels ran, what is inside a time."""
    from edgeinfer.kernels import simd

    notes = sorted({f"{name} is missing: {reason}." for table in tables for name, reason in table["absent"].items()})
    if reason := simd.why_portable():
        notes.append(f"The portable kernels ran: {reason}.")
    return [
        *notes,
        "Activations are quantized, or tables built, inside every call; 'of roofline' is the share of the read "
        "bandwidth measured in the same process, in memory or in the cache that holds the weights.",
    ]


def save(path: Path, tables: list[dict]) -> None:
    """Write all tables, the machine and the versions; whole or not at all."""
    from edgeinfer.measure import describe_machine

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
    parser.add_argument("--quick", action="store_true", help="three rounds of the first shape, written nowhere")
    parser.add_argument("--threads", type=int, nargs="*", help="thread counts (default: 1 and 2)")
    parser.add_argument("--shapes", nargs="*", default=CASES, help=f"which of: {', '.join(CASES)}")
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "gemv.json")
    options = parser.parse_args()
    if options.worker:
        table = measure(options.worker, options.threads[0], options.rounds)
        options.out.write_text(json.dumps(table), encoding="utf-8")
        return

    from edgeinfer.measure import Comparison

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = options.threads or [t for t in (1, 2) if t <= cores]
    cases = options.shapes[:1] if options.quick else options.shapes
    tables, failed = [], []
    for count in threads:
        for case in cases:
            table = in_fresh_process(case, count, 3 if options.quick else options.rounds)
            if isinstance(table, str):
                failed.append(table)
                continue
            tables.append(table)
            print(f"\n{table['title']}\n{Comparison.from_json(json.dumps(table)).table()}", flush=True)
            if not options.quick:
                save(options.out, tables)  # after every table: an interrupted run keeps what it has
    print("", *notes_of(tables), sep="\n")
    if failed:
        sys.exit("gemv: " + "; ".join(failed))


if __name__ == "__main__":
    main()
