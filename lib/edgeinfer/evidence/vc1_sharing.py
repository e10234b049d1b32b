"""Evidence for shared weights: heads, central tensors, factors, repeated blocks, derived sub-matrices.

Everything runs on the shipped target model or on small nets that are trained here for a few seconds; bytes are counted
and cache traffic is simulated. Sources: head-wise-sharing, mpo-parameter-sharing, lightformer, mobilellm, mecla.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeinfer.evidence.protocol import Claim, Evidence, Result, evidence

if TYPE_CHECKING:
    from edgeinfer.models import Decoder

SPLIT, RANKS = (4, 16, 4), (16, 16)  # of a matrix of 256 x 256
TILES = ((1, 4), (1, 8), (2, 4), (4, 4))


@cache
def target() -> Decoder:
    """The shipped target in float32; clone it before changing it."""
    import torch

    from edgeinfer import models

    return models.load("target", torch.float32)


def quality(model: Decoder, count: int = 1024) -> float:
    """Perplexity on the first held-out tokens."""
    from edgeinfer import models

    return models.perplexity(model, models.held_out_tokens(), context=256, max_tokens=count)


@cache
def plain() -> float:
    """Perplexity of the target as it is."""
    return quality(target())


@cache
def shared_heads(count: int, seed: int | None = None) -> tuple[float, int]:
    """Perplexity and bytes saved with `count` borrowers, matched by similarity or drawn."""
    from edgeinfer.memory.sharing.heads import share_heads

    model = target().clone()
    plan = share_heads(model, count, seed=seed)
    return quality(model), plan.bytes_saved


@cache
def most_similar() -> float:
    """The largest cosine between two units of the target (queries and keys)."""
    from edgeinfer.memory.sharing.heads import head_similarity, unit_weights

    weights = unit_weights(target())
    similarity = head_similarity([weights[p].numpy() for p in ("q_proj", "k_proj")])
    return float(similarity[np.triu_indices(len(similarity), 1)].max())


@evidence("head-wise-sharing")
def head_wise_sharing() -> Evidence:
    """Perplexity against bytes saved, matched heads beside drawn ones."""
    claim = Claim(
        "Heads whose query and key weights point the same way can share one copy without training, and the model keeps "
        "satisfactory abilities.",
        citation="head-wise-sharing",
        verified=True,
    )
    results = [
        Result("perplexity, nothing shared", plain(), "1", "measured", "target, 1024 held-out tokens"),
        Result("largest cosine between two heads", most_similar(), "1", "measured", "queries and keys, 32 units"),
    ]
    wins = []
    for count in (2, 8):
        matched, saved = shared_heads(count)
        drawn = [shared_heads(count, seed)[0] for seed in range(3)]
        wins.append(matched < float(np.mean(drawn)))
        results += [
            Result(f"perplexity, {count} of 32 heads borrow by similarity", matched, "1", "measured"),
            Result(
                f"perplexity, {count} of 32 heads borrow by chance", float(np.mean(drawn)), "1", "measured", "mean of 3"
            ),
            Result(f"bytes saved, {count} of 32 heads", saved, "B", "measured", "16 bits a weight"),
        ]
    holds = all(wins) and shared_heads(8)[0] < 1.2 * plain()
    reason = (
        ""
        if holds
        else "no two heads of this small model are alike (cosines near 0), so there is nothing to match; the "
        "paper shares heads of models with billions of weights"
    )
    return Evidence(claim, results, holds, reason)


def _kind(name: str) -> list[np.ndarray]:
    linears = target().linears()
    return [linears[f"layers.{i}.{name}"].numpy() for i in range(target().config.num_hidden_layers)]


@cache
def central(ranks: tuple[int, int] = RANKS, rounds: int = 4) -> Any:
    """One centre for the query projections of all layers."""
    from edgeinfer.memory.sharing.mpo import share_central

    return share_central(_kind("attention.q_proj"), SPLIT, SPLIT, ranks, rounds)


def svd_at(budget: int) -> tuple[float, list[np.ndarray], int]:
    """Error, matrices and bytes of a singular value decomposition of each query projection within `budget` bytes."""
    weights = _kind("attention.q_proj")
    rank = budget // (2 * len(weights) * sum(weights[0].shape))
    close, lost, norm = [], 0.0, 0.0
    for w in weights:
        u, s, v = np.linalg.svd(w, full_matrices=False)
        close.append((u[:, :rank] * s[:rank]) @ v[:rank])
        lost, norm = lost + float((s[rank:] ** 2).sum()), norm + float((s**2).sum())
    return float((lost / norm) ** 0.5), close, 2 * len(weights) * sum(weights[0].shape) * rank


def _with(name: str, matrices: list[np.ndarray]) -> float:
    import torch

    model = target().clone()
    for layer, matrix in enumerate(matrices):
        model.set_weight(f"layers.{layer}.{name}", torch.from_numpy(np.ascontiguousarray(matrix, np.float32)))
    return quality(model)


@evidence("mpo-parameter-sharing")
def mpo_parameter_sharing() -> Evidence:
    """Error and perplexity of a shared centre beside plain SVD at equal bytes; no training."""
    from edgeinfer.memory.sharing.mpo import decompose

    claim = Claim(
        "A central tensor shared by all layers and small tensors of each layer: with fewer parameters than BERT-base "
        "the model is 4 times as deep and 0.1 points better in GLUE than BERT-large.",
        value=4,
        unit="x",
        citation="mpo-parameter-sharing",
        verified=True,
    )
    weights = _kind("attention.q_proj")
    exact = decompose(weights[0], SPLIT, SPLIT).dense()
    shared = central()
    error, close, size = svd_at(shared.nbytes)
    full = 2 * sum(w.size for w in weights)
    results = [
        Result("largest deviation of an uncut chain", float(np.abs(exact - weights[0]).max()), "1", "measured"),
        Result("bytes, all layers over shared centre", full / shared.nbytes, "x", "measured", "query projections"),
        Result("relative error, shared centre", shared.error[-1], "1", "measured", "fitted, not trained"),
        Result(
            "relative error, plain SVD at equal bytes",
            error,
            "1",
            "measured",
            f"{size / shared.nbytes:.2f} of the bytes",
        ),
        Result("perplexity, nothing shared", plain(), "1", "measured"),
        Result(
            "perplexity, shared centre", _with("attention.q_proj", [m.dense() for m in shared.layers]), "1", "measured"
        ),
        Result("perplexity, plain SVD at equal bytes", _with("attention.q_proj", close), "1", "measured"),
    ]
    reason = (
        "the claim is about models trained with a shared centre; as a compression of a finished model, without "
        "training, a shared centre fits these layers worse than plain SVD of the same size"
    )
    return Evidence(claim, results, None, reason)


@cache
def factor_run(start: str, rank: int = 64, steps: int = 8) -> tuple[tuple[float, ...], float, float, int]:
    """Loss curve, held-out loss before and after, bytes; shared factors in the target, a few steps on real text."""
    import torch

    from edgeinfer import models
    from edgeinfer.memory.sharing import factors

    torch.manual_seed(0)
    network = factors.differentiable(target())
    size = factors.compress(network, rank, start)
    held_out = factors.batches(models.held_out_tokens(), 2, 4, 64, 1)
    before = factors.held_out_loss(network, held_out)
    curve = factors.tune(network, factors.batches(models.held_out_tokens("train"), steps, 2, 48))
    return tuple(curve), before, factors.held_out_loss(network, held_out), size


@evidence("lightformer")
def lightformer() -> Evidence:
    """Shared factors from singular vectors against noise, before and after the same few steps."""
    claim = Claim(
        "Low-rank factors that start from the singular vectors of trained weights and are shared converge sooner; "
        "similar translation quality with 3.8 times fewer parameters.",
        value=3.8,
        unit="x",
        citation="lightformer",
        verified=True,
    )
    runs = {start: factor_run(start) for start in ("svd", "random")}
    full = sum(
        2 * w.numel()
        for name, w in target().linears().items()
        if name.endswith(("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"))
    )
    results = [Result("bytes, own weights over shared factors", full / runs["svd"][3], "x", "measured", "rank 64")]
    for start, (_, before, after, _) in runs.items():
        results += [
            Result(f"held-out loss before, start {start}", before, "1", "measured", "nats a token"),
            Result(f"held-out loss after 8 steps, start {start}", after, "1", "measured", "same batches"),
        ]
    return Evidence(
        claim,
        results,
        runs["svd"][2] < runs["random"][2],
        "the quicker start is seen; a few seconds do not bring back the quality of the full model",
    )


SHAPES = {
    "shallow and wide": (128, 320, 1, False),
    "deep and thin": (64, 160, 4, False),
    "run twice": (64, 160, 4, True),
}


@cache
def small_run(name: str, steps: int = 24) -> tuple[int, tuple[float, ...], float]:
    """Parameters in blocks, loss curve, held-out loss of one of `SHAPES`, trained from nothing."""
    from edgeinfer import models
    from edgeinfer.memory.sharing import blocks

    hidden, inner, count, twice = SHAPES[name]
    order = blocks.block_order(count) if twice else list(range(count))
    network, curve, end = blocks.train_small(
        blocks.small_config(hidden, inner, count),
        order,
        models.held_out_tokens("train"),
        models.held_out_tokens(),
        steps,
    )
    return blocks.parameters_in_blocks(network), tuple(curve), end


@evidence("mobilellm")
def mobilellm() -> Evidence:
    """Bytes of immediate and distant repeats (simulated), and three nets that are trained for seconds."""
    from edgeinfer.memory.sharing.blocks import ORDERS, block_order, bytes_per_token

    claim = Claim(
        "Deep and thin models gain 2.7 percentage points of accuracy at 125M parameters; blocks that run twice in a "
        "row add depth without more weights to load.",
        value=2.7,
        unit="percentage points",
        citation="mobilellm",
        verified=True,
    )
    block = 16 * 1024
    moved = {o: bytes_per_token(block_order(8, o), block, block + 1024) for o in ORDERS}
    results = [
        Result(f"bytes a token, 8 blocks twice, {o}", n, "B", "simulated", "blocks of 16 KiB, cache of 17 KiB")
        for o, n in moved.items()
    ]
    for name in SHAPES:
        size, _, end = small_run(name)
        results += [
            Result(f"parameters in blocks, {name}", size, "1", "measured"),
            Result(f"held-out loss, {name}", end, "1", "measured", "24 steps of 512 tokens, nats a token"),
        ]
    reason = (
        "repeats in a row load as little as running once (simulated), later repeats twice as much; whether depth pays "
        "is not decided by nets that are trained for seconds: here it does not yet"
    )
    return Evidence(claim, results, None, reason)


@cache
def sub_matrices(tile: tuple[int, int], sources: int = 64) -> tuple[float, float, float, float]:
    """Share of bytes, of multiplications, relative error, perplexity: all up projections of the target."""
    from edgeinfer.memory.sharing.submatrix import partition

    weights = _kind("mlp.up_proj")
    made = [partition(w, tile, sources) for w in weights]
    dense = [m.dense() for m in made]
    count = sum(w.size for w in weights)
    lost = sum(float(((d - w) ** 2).sum()) for d, w in zip(dense, weights, strict=True))
    norm = sum(float((w**2).sum()) for w in weights)
    return (
        sum(m.nbytes for m in made) / (2 * count),
        sum(m.multiplications for m in made) / count,
        (lost / norm) ** 0.5,
        _with("mlp.up_proj", dense),
    )


@evidence("mecla")
def mecla() -> Evidence:
    """Bytes, multiplications, error and perplexity of derived tiles of several sizes."""
    claim = Claim(
        "Sub-matrices that are derived from a few sources by a scaling reduce memory access by 83.6 % and computation "
        "by 72.2 %.",
        value=83.6,
        unit="%",
        hardware="accelerator (ASIC)",
        citation="mecla",
        verified=True,
    )
    results = [Result("perplexity, nothing derived", plain(), "1", "measured")]
    for tile in TILES:
        size, work, error, ppl = sub_matrices(tile)
        name = f"tiles of {tile[0]} x {tile[1]}"
        results += [
            Result(f"share of bytes, {name}", size, "1", "measured", "64 sources a matrix, up projections, 16 bits"),
            Result(f"share of multiplications, {name}", work, "1", "measured", "counted for one token"),
            Result(f"relative error, {name}", error, "1", "measured"),
            Result(f"perplexity, {name}", ppl, "1", "measured", "no training"),
        ]
    found = {tile: sub_matrices(tile) for tile in TILES}
    holds = any(f[0] <= 0.2 and f[1] <= 0.5 and f[3] <= 1.1 * plain() for f in found.values())
    reason = (
        ""
        if holds
        else "both bytes and multiplications fall, but where bytes fall as far as in the paper the untrained "
        "perplexity suffers; energy is not modelled"
    )
    return Evidence(claim, results, holds, reason)
