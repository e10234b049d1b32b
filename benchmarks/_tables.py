"""Runs the tables of a benchmark, each in a process of its own, prints them and writes `results/NAME.json`.

Thread pools of one table cannot disturb the next. Knows nothing of what is measured.
"""

from __future__ import annotations

import argparse
import fnmatch
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
VERSIONS = ("torch", "numpy", "scipy", "numba", "llvmlite", "onnxruntime", "llama-cpp-python")


def run(
    script: str,
    title: str,
    cases: Sequence[str],
    measure: Callable[[str, int, int], dict],
    note: str,
    rounds: int = 31,
    quick: str | None = None,
) -> None:
    """Be the `main` of a benchmark.

    Args:
        script: its `__file__`; it names the results.
        title: of the section on the book's page.
        cases: names of the tables.
        measure: (case, threads, rounds) -> a comparison as a dictionary with "title" and, where a peer is missing,
            "absent" {peer: reason}; called in a fresh process with the thread counts of all libraries set.
        note: what a reader must know of the times.
        rounds: of each table.
        quick: the case of `--quick`; None: the first.
    """
    name = Path(script).stem
    parser = argparse.ArgumentParser(prog=name)
    parser.add_argument("--quick", action="store_true", help="three rounds of one table, written nowhere")
    parser.add_argument("--threads", type=int, nargs="*", help="thread counts (default: 1 and 2)")
    parser.add_argument("--only", nargs="*", default=["*"], help="cases that match one of these patterns")
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=HERE / "results" / f"{name}.json")
    options = parser.parse_args()
    if options.worker:
        table = measure(options.worker, options.threads[0], options.rounds)
        options.out.write_text(json.dumps(table), encoding="utf-8")
        return
    wanted = [case for case in cases if any(fnmatch.fnmatch(case, pattern) for pattern in options.only)]
    if not wanted:
        sys.exit(f"{name}: no case matches {' '.join(options.only)}; there are: {', '.join(cases)}")
    if options.quick:
        wanted, options.rounds = [quick or cases[0]], 3

    from edgeinfer.measure import Comparison

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    tables: list[dict] = []
    failed: list[str] = []
    for threads in options.threads or [t for t in (1, 2) if t <= cores]:
        for case in wanted:
            table = _in_fresh_process(script, case, threads, options.rounds)
            if isinstance(table, str):
                failed.append(table)
                continue
            tables.append(table)
            print(f"\n{table['title']}\n{Comparison.from_json(json.dumps(table)).table()}", flush=True)
            if not options.quick:
                _save(options.out, title, tables, note)  # after every table: an interrupted run keeps what it has
    print("", *_notes(tables, note), sep="\n")
    if failed:
        sys.exit(f"{name}: " + "; ".join(failed))


def compared(
    make: Callable[[], Sequence[Any]],
    baseline: str,
    title: str,
    threads: int,
    rounds: int,
    max_seconds: float = 60,
    limits_seconds: float = 2.0,
    level: Callable[[int, Any], str] = lambda nbytes, limits: "DRAM",
) -> dict:
    """One table: the machine's limits, then every contender checked, then all of them in shuffled rounds.

    Args:
        make: gives the contenders (`peers.Contender`); called after the limits are measured.
        baseline: name of the contender that the others are compared with.
        title: of the table; the number of threads is added.
        threads: that every contender uses.
        rounds, max_seconds: of the comparison.
        limits_seconds: for measuring the machine.
        level: (bytes of a contender, limits) -> the memory that it reads from.
    """
    from edgeinfer import measure

    limits = measure.measure_limits(seconds=limits_seconds, threads=(threads,))
    contenders = make()
    for contender in contenders:
        contender.check()
    comparison = measure.compare(
        {c.name: c.run for c in contenders},
        baseline,
        rounds=rounds,
        sample_seconds=0.004,  # about a scheduler's time slice: on a busy machine most samples are not interrupted
        max_seconds=max_seconds,
        work={c.name: measure.Work(bytes=c.nbytes, level=level(c.nbytes, limits), threads=threads) for c in contenders},
        limits=limits,
    )
    return {
        "title": f"{title}, {threads} thread{'s' if threads > 1 else ''}",
        **json.loads(comparison.to_json()),
        "read_bandwidth": {name: limits.bandwidth(name, threads) for name in limits.read},
    }


def _in_fresh_process(script: str, case: str, threads: int, rounds: int) -> dict | str:
    """The table, or the reason why there is none."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    environment = {**os.environ, **dict.fromkeys(names, str(threads))}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "table.json"
        command = [sys.executable, script, "--worker", case, "--threads", str(threads), "--rounds", str(rounds)]
        done = subprocess.run([*command, "--out", str(out)], env=environment, check=False)
        if done.returncode or not out.exists():
            return f"{case} with {threads} thread(s) failed (exit code {done.returncode})"
        return json.loads(out.read_text(encoding="utf-8"))


def _notes(tables: list[dict], note: str) -> list[str]:
    """What a reader must know: missing peers, which kernels ran, what is inside a time."""
    from edgeinfer.kernels import simd

    absent = {f"{name} is missing: {reason}." for table in tables for name, reason in table.get("absent", {}).items()}
    reason = simd.why_portable()
    return [*sorted(absent), *([f"The portable kernels ran: {reason}."] if reason else []), note]


def _versions() -> dict[str, str]:
    found = {}
    for package in VERSIONS:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def _save(path: Path, title: str, tables: list[dict], note: str) -> None:
    """Write all tables, the machine and the versions; whole or not at all."""
    from edgeinfer.measure import describe_machine

    result = {
        "title": title,
        "machine": json.loads(describe_machine().to_json()),
        "versions": _versions(),
        "comparisons": tables,
        "notes": _notes(tables, note),
    }
    path.parent.mkdir(exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    part.replace(path)
