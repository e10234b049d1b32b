"""Evidence for locality: GPU Merge Path and loop tiling.

Verdicts rest on counted steps and on an exact simulated cache; measured times are ratios of one run and stand beside
them. Sources: gpu-merge-path, loop-tiling.
"""

from __future__ import annotations

import time
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from edgeinfer.evidence.protocol import Claim, Evidence, Result, evidence
from edgeinfer.evidence.va1_lookup import best_ratio

if TYPE_CHECKING:
    from edgeinfer.kernels.spmm import CSR

TILE_EDGES = (4, 8, 16, 32, 64)
SIDE = 64  # of the simulated products


# ---------------------------------------------------------------- GPU Merge Path


@cache
def skewed_matrix() -> CSR:
    """(16384, 16384) with row lengths by a power law: few long rows, many short ones."""
    from edgeinfer.kernels.sparse_patterns import power_law

    return power_law(16384, 16384, 64, 1.9)


def longest_part_seconds(parts: int = 8, width: int = 32, repeats: int = 7) -> tuple[float, float]:
    """Seconds of the longest part, by rows and by the path: each part alone, one thread, least of some runs.

    All workers wait for the longest part, so this is what a machine with `parts` free cores would take.
    """
    from edgeinfer.kernels import spmm
    from edgeinfer.memory.locality.merge_path import _one_part, merge_path_split, row_split

    matrix = skewed_matrix()
    x = np.random.default_rng(0).standard_normal((matrix.shape[1], width)).astype(np.float32)
    y, carried = np.empty((matrix.shape[0], width), np.float32), np.zeros((1, width), np.float32)
    kernel = spmm.row_kernel()
    longest = []
    for points in (row_split(matrix.indptr, parts), merge_path_split(matrix.indptr, parts)):
        times = np.empty((repeats, parts))
        for repeat in range(repeats):
            for part in range(parts):
                start = time.perf_counter()
                _one_part(kernel, matrix, x, y, carried, points[part], points[part + 1])
                times[repeat, part] = time.perf_counter() - start
        longest.append(float(times.min(0).max()))
    return longest[0], longest[1]


def two_threads(width: int = 32, max_seconds: float = 1.5) -> float:
    """Speed of two real threads that divide by the path, over that of two that divide by rows.

    The rows stand in the order of their lengths, as in graphs that are sorted by degree.
    """
    from edgeinfer import measure
    from edgeinfer.memory.locality.merge_path import merge_spmm, row_split

    matrix = skewed_matrix()
    matrix = matrix.permute_rows(np.argsort(-matrix.row_lengths, kind="stable"))
    x = np.random.default_rng(0).standard_normal((matrix.shape[1], width)).astype(np.float32)
    rows = row_split(matrix.indptr, 2)
    contenders = {
        "by rows": lambda: merge_spmm(matrix, x, points=rows, threads=2),
        "by the path": lambda: merge_spmm(matrix, x, 2, threads=2),
    }
    run = measure.compare(contenders, "by rows", 15, sample_seconds=0.002, max_seconds=max_seconds, tolerance=1e-4)
    return best_ratio(run, "by the path", "by rows")


@evidence("gpu-merge-path")
def gpu_merge_path() -> Evidence:
    """Lengths of parts (counted), results, the longest part and two threads (measured)."""
    from edgeinfer.kernels.spmm import csr_matmul
    from edgeinfer.memory.locality.merge_path import (
        imbalance,
        merge_path_split,
        merge_points,
        merge_sorted,
        merge_spmm,
        row_split,
        steps,
    )

    claim = Claim(
        "Diagonals give every processor an equal share of a merge, and they are found in parallel; on a GPU the merge "
        "is 10 times as fast as that of the Thrust library.",
        value=10,
        unit="x",
        hardware="GPU",
        citation="gpu-merge-path",
        verified=True,
    )
    matrix = skewed_matrix()
    results = []
    for parts in (8, 64):
        for name, points in (
            ("by rows", row_split(matrix.indptr, parts)),
            ("by the path", merge_path_split(matrix.indptr, parts)),
        ):
            results.append(
                Result(
                    f"longest part over the mean, {parts} parts, {name}", imbalance(points), "x", "measured", "steps"
                )
            )
    spread = int(np.ptp(steps(merge_path_split(matrix.indptr, 64))))
    rng = np.random.default_rng(0)
    a, b = np.sort(rng.integers(0, 1 << 20, 100_000)), np.sort(rng.integers(0, 1 << 12, 30_000))
    merged = np.diff(merge_points(a, b, 64).sum(1))
    right = bool(np.array_equal(merge_sorted(a, b, 64), np.sort(np.concatenate([a, b]))))
    x = rng.standard_normal((matrix.shape[1], 32)).astype(np.float32)
    want = csr_matmul(matrix, x)
    error = float(np.abs(merge_spmm(matrix, x, 64) - want).max() / np.abs(want).max())
    by_rows, by_path = longest_part_seconds()
    results += [
        Result("largest difference between parts, 64 parts", spread, "steps", "measured", "counted"),
        Result("largest difference between parts of a merge, 64 parts", int(np.ptp(merged)), "steps", "measured"),
        Result("relative difference from the whole product, 64 parts", error, "1", "measured", "order of sums"),
        Result("time of the longest of 8 parts, rows over path", by_rows / by_path, "x", "measured", "one core"),
        Result("speed of two threads over a division by rows", two_threads(), "x", "measured", "rows sorted by length"),
    ]
    even = spread <= 1 and int(np.ptp(merged)) <= 1 and right and error < 1e-4
    words = (
        "The equal shares hold exactly. The GPU's speed was not put to the test: measured are the parts one by one, "
        "and two threads on a matrix whose rows are sorted by length."
    )
    return Evidence(claim, results, even, words)


# ---------------------------------------------------------------- loop tiling


@cache
def simulated_tiles(cache_bytes: int = 4096) -> dict[tuple[int, int, int], int]:
    """SIMULATED bytes of every tile, exactly: C (64, 64) = A B through a cache with lines of 64 bytes."""
    from edgeinfer.memory.locality.lru import simulate_matmul

    every = {(m, n, k) for m in TILE_EDGES for n in TILE_EDGES for k in TILE_EDGES}
    return {t: simulate_matmul(SIDE, SIDE, SIDE, t, cache_bytes).bytes for t in sorted(every)}


def measured_tiles(side: int = 384, max_seconds: float = 1.0) -> dict[str, float]:
    """Speed of real compiled loops over the untiled ones that run across the columns of B, one thread."""
    from functools import partial

    from edgeinfer import measure
    from edgeinfer.memory.locality.tiled import prepare, tiled_matmul

    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((side, side)).astype(np.float32) for _ in range(2))
    tile, whole = (64, 64, 64), (side, side, side)
    forms = {
        "B by columns, untiled": (whole, "column"),
        "B by columns, tiled": (tile, "column"),
        "B by rows, untiled": (whole, "row"),
        "B by rows, tiled": ((side, side, 64), "row"),
        "B in blocks, tiled": ((side, side, 64), "blocked"),
    }
    contenders = {
        name: partial(tiled_matmul, a, prepare(b, layout, form), form, layout, True)
        for name, (form, layout) in forms.items()
    }
    first = "B by columns, untiled"
    run = measure.compare(contenders, first, 5, warmup=1, max_seconds=max_seconds, tolerance=1e-4)
    return {name: best_ratio(run, name, first) for name in forms if name != first}


@evidence("loop-tiling")
def loop_tiling() -> Evidence:
    """Bytes of all tiles in an exact cache (simulated), the tile that a formula picks, and real loops (measured)."""
    from edgeinfer.memory.locality.lru import simulate_matmul
    from edgeinfer.memory.locality.tiles import choose_tile, least_traffic

    claim = Claim(
        "Reordering the iterations of a loop nest into tiles raises reuse and locality; shape and size of the tiles "
        "are what the techniques differ in.",
        hardware="CPU",
        citation="loop-tiling",
        verified=True,
    )
    results, worst = [], 1.0
    for kib in (2, 4, 8):
        every = simulated_tiles(1024 * kib)
        tile = choose_tile(SIDE, SIDE, SIDE, 256 * kib, TILE_EDGES, line=16)
        best, untiled = min(every.values()), every[SIDE, SIDE, SIDE]
        worst = max(worst, every[tile] / best)
        results += [
            Result(
                f"bytes untiled over the best tile, cache of {kib} KiB",
                untiled / best,
                "x",
                "simulated",
                "64 x 64 x 64",
            ),
            Result(
                f"bytes of the formula's tile over the best of all, cache of {kib} KiB",
                every[tile] / best,
                "x",
                "simulated",
                f"tile {tile.m} x {tile.n} x {tile.k} of {len(every)} tried",
            ),
            Result(
                f"bytes of the best tile over the bound, cache of {kib} KiB",
                best / (4 * least_traffic(SIDE, SIDE, SIDE, 256 * kib)),
                "x",
                "simulated",
                "C is fetched as well as written",
            ),
        ]
    whole, best_tile = (SIDE, SIDE, SIDE), (16, 32, 4)
    by_rows = {form: simulate_matmul(SIDE, SIDE, SIDE, form, 4096).bytes for form in (whole, best_tile)}
    for layout in ("column", "blocked"):
        for form, name in ((whole, "untiled"), (best_tile, "tiled")):
            moved = simulate_matmul(SIDE, SIDE, SIDE, form, 4096, layouts=("row", layout, "row")).bytes
            results.append(
                Result(
                    f"bytes with B {layout} over B by rows, {name}", moved / by_rows[form], "x", "simulated", "4 KiB"
                )
            )
    for name, speed in measured_tiles().items():
        note = "384 x 384 x 384, float32, one thread"
        results.append(Result(f"speed over untiled across columns, {name}", speed, "x", "measured", note))
    gains = [r.value for r in results if r.name.startswith("bytes untiled")]
    words = (
        "Bytes are those of a simulated cache: a guest may not read the processor's own counters. On the real "
        "processor the order of the loops decides the time; tiles add little while outer caches hold the matrices."
    )
    return Evidence(claim, results, bool(min(gains) > 1.5 and worst < 1.5), words)


def permuted_lookups(bits: int = 2, side: int = 4096, rounds: int = 15) -> float:
    """Return how many times as long a look-up product takes whose planes lie row by row; both give the same bits."""
    from edgeinfer.kernels import quantize_groupwise
    from edgeinfer.kernels.lookup import build_tables, lookup_matmul, pack_lookup
    from edgeinfer.memory.locality import row_order, row_order_matmul

    rng = np.random.default_rng(0)
    packed = pack_lookup(quantize_groupwise(rng.standard_normal((side, side), np.float32), bits, 128))
    rows, tables = row_order(packed), build_tables(rng.standard_normal(side, np.float32), 128)
    if not np.array_equal(row_order_matmul(rows, tables), lookup_matmul(packed, tables)):
        raise AssertionError("the two orders of the planes give different products")
    ratios = []
    for _ in range(rounds):
        start = time.perf_counter()
        lookup_matmul(packed, tables)
        middle = time.perf_counter()
        row_order_matmul(rows, tables)
        ratios.append((time.perf_counter() - middle) / (middle - start))
    return float(np.median(ratios))
