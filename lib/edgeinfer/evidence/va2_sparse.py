"""V.A.2, unstructured sparsity: bits instead of indices, sparse loads with dense arithmetic, and the way from a disk.

Bytes are those of the packed arrays of trained layers, times are ratios of contenders timed interleaved, perplexities
are those of the shipped model on held-out text. Source: spinfer, flash-llm, endor.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeinfer.evidence.protocol import Claim, Evidence, Result, evidence
from edgeinfer.evidence.va1_lookup import best_ratio

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgeinfer.measure import Comparison

SIDE = 2048  # rows and columns of the matrices that are timed: 8 MiB in bfloat16
TOKENS = 2048  # predicted for one perplexity


@cache
def trained_layers() -> dict[str, NDArray[np.float32]]:
    """The linear layers of the target model's blocks: name -> (N, K) float32."""
    from edgeinfer import models

    linears = models.load("target").linears()
    return {name: w.float().numpy().copy() for name, w in linears.items() if name.startswith("layers.")}


def perplexity_against_sparsity(shares: Sequence[float], tokens: int = TOKENS) -> dict[str, list[float]]:
    """Perplexity of the target model, every layer of its blocks pruned to the same share of zeros.

    Args:
        shares: of zeros, 0 to 1.
        tokens: held-out tokens predicted; the calibration text lies at the other end of the file.

    Returns:
        Criterion -> perplexities: "magnitude" ranks a whole matrix, "magnitude by row" and "activation-aware" each row.
    """
    import torch

    from edgeinfer import models
    from edgeinfer.kernels import prune_activation_aware, prune_magnitude, pruning

    model, text = models.load("target"), models.held_out_tokens("text")
    norms = pruning.calibrate(model, text[-1024:].reshape(4, 256))
    ways: dict[str, Callable[[Any, str, float], Any]] = {
        "magnitude": lambda w, name, share: prune_magnitude(w, share),
        "magnitude by row": lambda w, name, share: prune_magnitude(w, share, per="row"),
        "activation-aware": lambda w, name, share: prune_activation_aware(w, norms[name], share),
    }
    found: dict[str, list[float]] = {}
    for way, prune in ways.items():
        found[way] = []
        for share in shares:
            for name, weight in trained_layers().items():
                model.set_weight(name, torch.from_numpy(prune(weight, name, share)))
            found[way].append(models.perplexity(model, text, max_tokens=tokens))
    return found


@cache
def bytes_per_weight(share: float) -> dict[str, float]:
    """Stored bytes per weight of a trained block's layers at a share of zeros (magnitude), starts included."""
    from edgeinfer.kernels import pack_bitmap, pack_csr, pack_tiled, prune_magnitude

    packers: dict[str, Callable[[Any], Any]] = {
        "bitmap": pack_bitmap,
        "CSR, 16-bit columns": lambda w: pack_csr(w, 16),
        "CSR, 32-bit columns": lambda w: pack_csr(w, 32),
        "tiles": pack_tiled,
    }
    pruned = [prune_magnitude(w, share) for name, w in trained_layers().items() if name.startswith("layers.3.")]
    count = sum(w.size for w in pruned)
    return {"dense": 2.0} | {n: sum(pack(w).nbytes for w in pruned) / count for n, pack in packers.items()}


def smaller_than_dense_from(kind: str) -> float:
    """Least share of zeros, in whole percent, from which a format is smaller than dense bfloat16 on trained layers."""
    low, high = 0, 100
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if bytes_per_weight(middle / 100)[kind] < 2 else (middle + 1, high)
    return low / 100


def random_sparse(share: float, side: int = SIDE, seed: int = 0) -> NDArray[np.float32]:
    """A square matrix with zeros at random places."""
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((side, side), np.float32)
    weight[rng.random((side, side), np.float32) < share] = 0
    return weight


def timed_products(
    share: float,
    batch: int,
    names: Sequence[str] = ("bitmap", "CSR", "tiles"),
    side: int = SIDE,
    rounds: int = 9,
    cold_bytes: int = 40 << 20,
) -> Comparison:
    """Products by the formats against torch's dense bfloat16 and its CSR, weights from memory, one thread.

    Args:
        share: of zeros.
        batch: tokens at a time.
        names: of "bitmap", "CSR", "tiles", "torch CSR"; "dense" is always there, as baseline.
        side: rows and columns.
        rounds: of the comparison.
        cold_bytes: of all copies of a contender together, so that none is in the cache.
    """
    import torch

    from edgeinfer import measure
    from edgeinfer.kernels import pack_bitmap, pack_csr, pack_tiled, sparse_matmul

    weight = random_sparse(share, side)
    x = np.random.default_rng(1).standard_normal((batch, side), np.float32)
    dense, half = torch.from_numpy(weight).bfloat16(), torch.from_numpy(x).bfloat16()
    wide = torch.from_numpy(np.ascontiguousarray(x.T))

    def copies(make: Callable[[], Any], nbytes: int) -> list[Any]:
        return [make() for _ in range(max(2, round(cold_bytes / nbytes)))]

    def copy_of(packed: Any) -> Any:
        arrays = {f.name: getattr(packed, f.name) for f in dataclasses.fields(packed)}
        return dataclasses.replace(packed, **{n: a.copy() for n, a in arrays.items() if isinstance(a, np.ndarray)})

    contenders = {
        "dense": measure.rotating(lambda w: torch.nn.functional.linear(half, w), copies(dense.clone, dense.nbytes))
    }
    packers: dict[str, Callable[[Any], Any]] = {"bitmap": pack_bitmap, "CSR": pack_csr, "tiles": pack_tiled}
    for name in names:
        if name == "torch CSR":
            with warnings.catch_warnings():  # "beta state"
                warnings.simplefilter("ignore")
                matrix = torch.from_numpy(weight).to_sparse_csr()
            made = copies(matrix.clone, 12 * int(matrix.values().numel()))
            contenders[name] = measure.rotating(lambda m: m @ wide, made)
        else:
            packed = packers[name](weight)
            made = copies(functools.partial(copy_of, packed), packed.nbytes)
            contenders[name] = measure.rotating(lambda w: sparse_matmul(w, x), made)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return measure.compare(contenders, "dense", rounds, warmup=1, sample_seconds=0.002, max_seconds=1.5)
    finally:
        torch.set_num_threads(threads)


# ---------------------------------------------------------------- SpInfer


@evidence("spinfer")
def spinfer() -> Evidence:
    """Bytes against density, positions found by counting bits, and speed at half the weights."""
    from edgeinfer.kernels import pack_bitmap, prune_magnitude
    from edgeinfer.kernels.sparse_common import to_bfloat16

    claim = Claim(
        "Sparse products outperform dense ones (cuBLAS) from 30 % zeros on, and are up to 2.14 times as fast as "
        "Flash-LLM at 30 to 70 %; inference as a whole is up to 1.58 times as fast.",
        2.14,
        "x",
        "GPU with tensor cores",
        "spinfer",
        verified=True,
    )
    first = prune_magnitude(next(iter(trained_layers().values())), 0.5)
    packed, bits = pack_bitmap(first), to_bfloat16(first)
    places = [packed.locate(r, c) for r in range(0, first.shape[0], 37) for c in range(first.shape[1])]
    wanted = [int(b) for r in range(0, first.shape[0], 37) for b in bits[r]]
    wrong = sum((0 if p < 0 else int(packed.values[p])) != w for p, w in zip(places, wanted, strict=True))
    wrong += int((packed.unpack_bits() != bits).sum())
    from_share = {kind: smaller_than_dense_from(kind) for kind in ("bitmap", "tiles", "CSR, 32-bit columns")}
    half = bytes_per_weight(0.5)
    one, few = timed_products(0.5, 1), timed_products(0.5, 16)
    low = timed_products(0.3, 1, ("bitmap",))
    note = f"{SIDE} x {SIDE}, one thread, weights from memory"
    results = [
        Result("values that counting bits does not find", wrong, "1", "measured", f"{len(places):,} places, one layer"),
        Result("bytes per weight, bitmap, half zeros", half["bitmap"], "bytes", "measured", "trained layers"),
        Result("bytes per weight, tiles, half zeros", half["tiles"], "bytes", "measured", "dense: 2"),
    ]
    results += [
        Result(f"smaller than dense from, {kind}", round(100 * share), "% zeros", "measured", "trained layers")
        for kind, share in from_share.items()
    ]
    results += [
        Result("speed over dense, 30 % zeros, 1 token", best_ratio(low, "bitmap", "dense"), "x", "measured", note),
        Result("speed over dense, half zeros, 1 token", best_ratio(one, "bitmap", "dense"), "x", "measured", note),
        Result("speed over dense, half zeros, 16 tokens", best_ratio(few, "bitmap", "dense"), "x", "measured", note),
        Result("speed over tiles, half zeros, 1 token", best_ratio(one, "bitmap", "tiles"), "x", "measured", note),
        Result("speed over tiles, half zeros, 16 tokens", best_ratio(few, "bitmap", "tiles"), "x", "measured", note),
    ]
    smaller = from_share["bitmap"] < 0.1 and half["bitmap"] < half["tiles"]
    faster = best_ratio(low, "bitmap", "dense") > 1 and best_ratio(one, "bitmap", "tiles") > 1
    reason = (
        "Shape only: bits make low sparsity pay in bytes, and for one token in time. For 16 tokens this machine's "
        "dense product is bound by arithmetic, and more zeros are needed."
        if smaller and faster
        else "The bytes hold; the times do not on this machine, or without its vector path."
    )
    return Evidence(claim, results, bool(smaller and faster and not wrong), reason)


# ---------------------------------------------------------------- Flash-LLM


@evidence("flash-llm")
def flash_llm() -> Evidence:
    """Sparse loads with dense arithmetic at 80 % zeros: in a scratch tile, in registers, and against visiting."""
    from edgeinfer.kernels import pack_tiled, prune_magnitude, sparse_matmul

    claim = Claim(
        "Pruned OPT models of 30B to 175B parameters generate up to 3.6 times as many tokens per second as with "
        "FasterTransformer.",
        3.6,
        "x",
        "GPU with tensor cores",
        "flash-llm",
        verified=True,
    )
    layer = prune_magnitude(next(iter(trained_layers().values())), 0.8)
    tiled = pack_tiled(layer)
    x = np.random.default_rng(0).standard_normal((16, layer.shape[1])).astype(np.float32)
    exact = x.astype(np.float64) @ tiled.unpack().astype(np.float64).T
    error = float(np.linalg.norm(sparse_matmul(tiled, x) - exact) / np.linalg.norm(exact))
    times = {batch: timed_products(0.8, batch, ("bitmap", "tiles")) for batch in (1, 4, 16)}
    note = f"{SIDE} x {SIDE}, 80 % zeros, one thread, weights from memory"
    results = [
        Result("relative error of the tiled product", error, "1", "measured", "trained layer, 16 tokens, float32 sums"),
        Result("bytes per weight, 80 % zeros", bytes_per_weight(0.8)["tiles"], "bytes", "measured", "dense: 2"),
    ]
    for batch, timed in times.items():
        tokens = f"{batch} token{'s' * (batch > 1)}"
        results.append(
            Result(f"speed over dense, tiles, {tokens}", best_ratio(timed, "tiles", "dense"), "x", "measured", note)
        )
        results.append(
            Result(f"speed over dense, bitmap, {tokens}", best_ratio(timed, "bitmap", "dense"), "x", "measured", note)
        )
    in_registers = best_ratio(times[1], "bitmap", "dense") > 1
    in_scratch = best_ratio(times[16], "tiles", "dense") > 1
    reason = (
        "Expanding in registers is faster than dense where loading binds, at one token. "
        if in_registers
        else "Expanding is not faster than dense here. "
    ) + (
        "The tile in a scratch wins at 16 tokens as well."
        if in_scratch
        else "The tile in a scratch, the paper's way, is not: it pays for every product with a zero, and a core "
        "without tensor units has no arithmetic to spare. There it is better to visit the non-zeros only."
    )
    return Evidence(claim, results, bool(in_registers and error < 1e-5), reason)


# ---------------------------------------------------------------- Endor


def cold_read(path: Path) -> tuple[NDArray[np.uint8], float]:
    """A file's bytes and the seconds of reading them, past the page cache where the system can be asked to drop it."""
    with open(path, "rb", buffering=0) as file:
        os.fsync(file.fileno())
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        data = np.empty(path.stat().st_size, np.uint8)
        start = time.perf_counter()
        file.readinto(data.data)
        return data, time.perf_counter() - start


def link_times(share: float, gigabytes_per_second: float, expand_gigabytes_per_second: float) -> dict[str, float]:
    """Seconds per gibi-weight over a link, for dense and for a bitmap that is expanded after the transfer (a model)."""
    weights = 2**30
    bitmap = weights * (2 * (1 - share) + 1 / 8)
    return {
        "dense": 2 * weights / gigabytes_per_second / 1e9,
        "bitmap": bitmap / gigabytes_per_second / 1e9 + 2 * weights / expand_gigabytes_per_second / 1e9,
    }


@evidence("endor")
def endor() -> Evidence:
    """Bytes that travel at each density, and the time from a disk to a dense matrix, read cold and expanded."""
    from edgeinfer.kernels import pack_bitmap
    from edgeinfer.kernels.sparse_common import to_bfloat16
    from edgeinfer.kernels.sparse_storage import expand_bitmap, load_sparse, save_sparse

    claim = Claim(
        "OPT-66B runs 1.70 and Llama2-70B 1.78 times as fast as with offloading by Accelerate, and 2.25 and 2.37 times "
        "with direct transfer from SSD.",
        2.37,
        "x",
        "GPU with weights on SSD",
        "endor",
        verified=True,
    )
    weight = random_sparse(0.5)
    bits, packed = to_bfloat16(weight), pack_bitmap(weight)
    seconds: dict[str, list[float]] = {"dense": [], "bitmap": [], "expand": []}
    with tempfile.TemporaryDirectory() as folder:
        dense_file, sparse_file = Path(folder) / "dense.bin", Path(folder) / "sparse.safetensors"
        bits.tofile(dense_file)
        save_sparse(packed, sparse_file)
        exact = bool((expand_bitmap(load_sparse(sparse_file)) == bits).all())  # type: ignore[arg-type]
        for _ in range(5):  # interleaved; the best of each counts, for other programs only ever slow a disk down
            seconds["dense"].append(cold_read(dense_file)[1])
            seconds["bitmap"].append(cold_read(sparse_file)[1])
            start = time.perf_counter()
            expand_bitmap(packed)
            seconds["expand"].append(time.perf_counter() - start)
        file_ratio = dense_file.stat().st_size / sparse_file.stat().st_size
    best = {name: min(values) for name, values in seconds.items()}
    expand_rate = bits.nbytes / best["expand"] / 1e9
    results = [Result("a file gives back every bit", float(exact), "yes", "measured")]
    for share in (0.3, 0.5, 0.7, 0.9):
        stored = bytes_per_weight(share)
        zeros = f"{share:.0%} zeros".replace("%", " %")
        results += [
            Result(f"dense bytes over bitmap bytes, {zeros}", 2 / stored["bitmap"], "x", "measured", "trained layers"),
            Result(
                f"dense bytes over CSR bytes, 16-bit columns, {zeros}",
                2 / stored["CSR, 16-bit columns"],
                "x",
                "measured",
            ),
            Result(
                f"dense bytes over CSR bytes, 32-bit columns, {zeros}",
                2 / stored["CSR, 32-bit columns"],
                "x",
                "measured",
            ),
        ]
    note = f"{SIDE} x {SIDE}, half zeros, page cache dropped where the system allows"
    results += [
        Result("dense file over bitmap file", file_ratio, "x", "measured", note),
        Result("read time of dense over bitmap", best["dense"] / best["bitmap"], "x", "measured", note),
        Result(
            "read time of dense over bitmap, expansion included",
            best["dense"] / (best["bitmap"] + best["expand"]),
            "x",
            "measured",
            note,
        ),
        Result("rate of expansion, dense bytes", expand_rate, "GB/s", "measured", "one thread"),
    ]
    for link in (0.5, 3.0):
        modelled = link_times(0.5, link, expand_rate)
        ratio = modelled["dense"] / modelled["bitmap"]
        results.append(
            Result(f"speed over dense, link of {link:g} GB/s", ratio, "x", "modelled", "half zeros, no overlap")
        )
    holds = (
        exact and file_ratio > 1.7 and link_times(0.5, 0.5, expand_rate)["bitmap"] < link_times(0.5, 0.5, 1)["dense"]
    )
    reason = (
        f"Shape only: at half zeros the bitmap moves {file_ratio:.2f} times fewer bytes, CSR none fewer, and expanding "
        "costs little beside a slow link. The 2.37 times need a GPU and 70 billion weights."
    )
    return Evidence(claim, results, bool(holds), reason)
