"""Evidence for structured sparsity: what N:M and hierarchical N:M keep, with and without a permutation.

Verdicts rest on retained importance and perplexity; a measured time is a ratio of two things timed in one run.
Source: hierarchical-nm.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeinfer.evidence.protocol import Claim, Evidence, Result, evidence
from edgeinfer.evidence.va1_lookup import best_ratio, trained_layer

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgeinfer.measure import Comparison

CASES = 12  # small matrices where every order is tried
ROUNDS = 6  # of the permutation search; more of them change little


def retained_shares(importance: NDArray[np.float32], height: int | None, keep: float) -> dict[str, float]:
    """Share of the importance that 2:4 keeps in the given, a random and a searched order, and without a pattern.

    Args:
        importance: (N, K) float32.
        height: rows of a tile; None: one tile.
        keep: share of a tile's columns that stay before 2:4.
    """
    from edgeinfer.kernels import search_permutation

    shares = {
        name: search_permutation(importance, 2, 4, height, keep, ROUNDS, method).retained
        for name, method in (("given order", "none"), ("random order", "random"), ("searched order", "gyro"))
    }
    count = round(importance.size * keep / 2)
    top = np.partition(importance.reshape(-1), importance.size - count)[importance.size - count :]
    return shares | {"no pattern": float(top.sum(dtype=np.float64) / importance.sum(dtype=np.float64))}


@cache
def pruned_perplexities(max_tokens: int = 1024) -> Mapping[str, float]:
    """Perplexity of the target model with many of every layer's weights removed; nothing is retrained.

    Returns:
        Way of pruning -> perplexity. "2:4" and what begins with it keeps half of the weights, as "half, no pattern"
        does; "hierarchical" keeps 2 of 4 in three quarters of the columns of each tile of 16 rows, 37.5 % in all.
    """
    import torch

    from edgeinfer import kernels, models
    from edgeinfer.kernels.n_m_permutation import permutation_mask

    model, held_out = models.load("target"), models.held_out_tokens()
    weights = {name: w.float().numpy() for name, w in model.linears().items() if name.startswith("layers.")}
    seen = model.capture_inputs(held_out[-512:].view(2, 256), list(weights))  # far behind the tokens that are judged

    def ordered(w: NDArray[np.float32], height: int | None, keep: float = 1.0, method: str = "gyro") -> NDArray:
        size = np.abs(w)
        return permutation_mask(size, 2, 4, kernels.search_permutation(size, 2, 4, height, keep, ROUNDS, method))

    def largest(w: NDArray[np.float32], share: float) -> NDArray[np.bool_]:
        size = np.abs(w)
        least = round((1 - share) * w.shape[1])
        return size >= np.partition(size, least, axis=1)[:, least : least + 1]

    ways: dict[str, Any] = {
        "dense": lambda name, w: np.ones(w.shape, bool),
        "2:4": lambda name, w: kernels.n_m_mask(np.abs(w), 2, 4),
        "2:4, activation-aware": lambda name, w: kernels.n_m_mask(
            kernels.activation_importance(w, seen[name].float().numpy()), 2, 4
        ),
        "2:4, one order for a layer": lambda name, w: ordered(w, None),
        "2:4, one order for 16 rows": lambda name, w: ordered(w, 16),
        "half, no pattern": lambda name, w: largest(w, 0.5),
        "hierarchical, given order": lambda name, w: ordered(w, 16, 0.75, "none"),
        "hierarchical, searched order": lambda name, w: ordered(w, 16, 0.75),
        "37.5 %, no pattern": lambda name, w: largest(w, 0.375),
    }
    found = {}
    for way, mask in ways.items():
        for name, weight in weights.items():
            model.set_weight(name, torch.from_numpy(np.where(mask(name, weight), weight, np.float32(0))))
        found[way] = models.perplexity(model, held_out, max_tokens=max_tokens)
    return found


def n_m_times(side: int = 2048, batch: int = 1, rounds: int = 21, max_seconds: float = 2.0) -> Comparison:
    """Time a dense product, its 2:4 form and its hierarchical form at a quarter of the weights, one thread.

    The dense product is the decoder's own: a compiled loop for up to four rows, torch's for more. All weights
    lie in huge pages where the system grants them.

    Args:
        side: rows and columns of the square weight.
        batch: rows of x.
        rounds: shuffled rounds.
        max_seconds: no new round starts later.

    Returns:
        The comparison; its baseline is "dense". Weights come from memory.
    """
    import torch

    from edgeinfer import kernels, measure
    from edgeinfer.kernels.memory import in_huge_pages
    from edgeinfer.models.few_rows import Linear

    rng = np.random.default_rng(0)
    weight = rng.standard_normal((side, side)).astype(np.float32)
    x = rng.standard_normal((batch, side)).astype(np.float32) if batch > 1 else rng.random(side, np.float32)
    packed = kernels.pack_n_m(kernels.prune_n_m(weight, 2, 4), 2, 4)
    small = kernels.hierarchical_n_m(weight, 2, 4, 64, 0.5)
    many = max(2, (96 << 20) // packed.nbytes)
    halves = [replace(packed, values=in_huge_pages(packed.values)) for _ in range(many)]
    quarters = [replace(small, values=in_huge_pages(small.values)) for _ in range(2 * many)]
    rows = torch.from_numpy(x)
    copies = [Linear(torch.from_numpy(in_huge_pages(weight))) for _ in range(max(2, many // 2))]
    contenders = {
        "dense": measure.rotating(lambda layer: layer(rows), copies),
        "2:4": measure.rotating(lambda w: kernels.n_m_matmul(w, x), halves),
        "hierarchical, a quarter": measure.rotating(lambda w: kernels.hierarchical_matmul(w, x), quarters),
    }
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        return measure.compare(contenders, "dense", rounds, max_seconds=max_seconds, sample_seconds=0.001)
    finally:
        torch.set_num_threads(threads)


def small_searches(cases: int = 20) -> tuple[int, float]:
    """How many of some small matrices the search orders as well as every order tried, and the largest loss of share."""
    from edgeinfer.kernels.n_m_permutation import exhaustive_grouping, search_permutation

    equal, worst = 0, 0.0
    for seed in range(cases):
        rng = np.random.default_rng(seed)
        uneven = np.exp(rng.standard_normal((16, 1)) + rng.standard_normal((1, 12))) * rng.random((16, 12))
        importance = uneven.astype(np.float32)
        best = exhaustive_grouping(importance, 2, 4).retained
        found = search_permutation(importance, 2, 4, rounds=300, seed=seed).retained
        equal, worst = equal + (found > best - 1e-6), max(worst, best - found)
    return equal, worst


@evidence("hierarchical-nm")
def hierarchical_nm() -> Evidence:
    """Importance kept and perplexity with and without a permutation; bytes and speed of the packed product."""
    from edgeinfer.kernels import hierarchical_n_m, n_m_bytes

    claim = Claim(
        "A permutation made for hierarchical N:M sparsity, by sampling, clustering and assignment, raises the accuracy "
        "of pruned networks to levels comparable to those of unstructured sparsity.",
        hardware="GPU with sparse tensor cores",
        citation="hierarchical-nm",
        verified=True,
    )
    size = np.abs(trained_layer())
    tile_bytes = hierarchical_n_m(size, 2, 4, 16, 1.0).nbytes / size.nbytes
    plain, tiled = retained_shares(size, 16, 1.0), retained_shares(size, 16, 0.75)
    equal, worst = small_searches(CASES)
    perplexity = pruned_perplexities()
    times = {batch: n_m_times(batch=batch, max_seconds=0.6) for batch in (1, 16)}
    note12 = f"{CASES} matrices of 12 columns, all groupings tried"
    layer = "16-row tiles, gate_proj of layer 3"
    results = [Result(f"share of magnitude kept, 2:4, {k}", v, "1", "measured", layer) for k, v in plain.items()]
    results += [
        Result(f"share of magnitude kept, 2:4 of 75 % of the columns, {k}", v, "1", "measured", layer)
        for k, v in tiled.items()
    ]
    results += [Result(f"perplexity, {k}", v, "1", "measured", "target, 1,024 tokens") for k, v in perplexity.items()]

    def closed(given: str, searched: str, free: str) -> float:
        """Share of the perplexity gap between a pattern in the given order and no pattern that the order closes."""
        return (perplexity[given] - perplexity[searched]) / (perplexity[given] - perplexity[free])

    halves = closed("2:4", "2:4, one order for 16 rows", "half, no pattern")
    levels = closed("hierarchical, given order", "hierarchical, searched order", "37.5 %, no pattern")
    note = "one thread, 2048 x 2048 float32 from memory; best of interleaved rounds"
    results += [
        Result("share of the gap to no pattern closed by the order, 2:4", halves, "1", "measured", "perplexity"),
        Result("share of the gap closed by the order, hierarchical", levels, "1", "measured", "perplexity"),
        Result("share of small cases where the search finds the best order", equal / CASES, "1", "measured", note12),
        Result("largest loss of share against the best order", worst, "1", "measured", note12),
        Result("bytes of 2:4 over dense, float32", n_m_bytes(4, 4, 2, 4) / 64, "x", "modelled", "2 bits a position"),
        Result("bytes of 2:4 with an order for every 16 rows over dense", tile_bytes, "x", "measured", "float32"),
        Result("bytes of 2:4 over dense, bfloat16", n_m_bytes(4, 4, 2, 4, 2) / 32, "x", "modelled"),
    ]
    for batch, taken in times.items():
        for name in ("2:4", "hierarchical, a quarter"):
            speed = best_ratio(taken, name, "dense")
            results.append(Result(f"speed of {name} over dense, batch {batch}", speed, "x", "measured", note))
    better = all(s["searched order"] > max(s["given order"], s["random order"]) for s in (plain, tiled))
    here, free = perplexity["hierarchical, searched order"], perplexity["37.5 %, no pattern"]
    near = here < 1.05 * free
    words = (
        f"The order {'helps' if better else 'does not help'} in every measure: it closes {100 * halves:.0f} % of the "
        "gap in perplexity between plain 2:4 and half of the weights without a pattern, and "
        f"{100 * levels:.0f} % of the gap between the pattern on two levels and as few weights without one. There the "
        f"perplexity is {here:.1f} and without a pattern {free:.1f}: {'within' if near else 'more than'} 5 % above it "
        f"{'counts' if near else 'does not count'} as comparable here. Nothing was retrained after pruning."
    )
    return Evidence(claim, results, bool(better and near), words)
