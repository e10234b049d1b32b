"""Lab 10, exercises 2 and 3: what a policy holds on each tier, and how long its step takes. Source: flexgen.

The oracle lays the pieces of every layer down one by one and adds them up.
"""

from functools import partial

import numpy as np

from edgeinfer.grading.exercise import Args, Exercise, Misconception, Returns


def _shares(rng: np.random.Generator, count: int) -> np.ndarray:
    parts = rng.uniform(0.1, 1.0, count)
    return parts / parts.sum()


def _byte_cases(rng: np.random.Generator) -> list[Args]:
    cases: list[Args] = []
    for layers, batch, sub_batches in ((4, 2, 3), (6, 4, 2), (3, 1, 5), (8, 8, 1)):
        cases.append((layers, 1000.0, 40.0, batch, sub_batches, _shares(rng, 3), _shares(rng, 2)))
    cases += [
        (5, 800.0, 30.0, 2, 4, np.array([1.0, 0.0, 0.0]), np.array([1.0, 0.0])),  # everything near
        (5, 800.0, 30.0, 2, 4, np.array([0.0, 0.0, 1.0]), np.array([1.0, 0.0])),  # weights on the disk
        (5, 800.0, 30.0, 2, 4, np.array([0.25, 0.75, 0.0]), np.array([0.0, 1.0])),
        (1, 800.0, 0.0, 1, 1, np.array([0.5, 0.25, 0.25]), np.array([0.5, 0.5])),
    ]
    return cases


def _bytes(
    layers: int,
    layer_bytes: float,
    kv_bytes: float,
    batch: int,
    sub_batches: int,
    weights: np.ndarray,
    kv: np.ndarray,
    buffers: int = 2,
    for_weights: str = "passing",
    kv_rows: str = "batch",
    kv_always: bool = False,
    rows: str = "block",
    depth: str = "all",
) -> tuple[float, float, float]:
    """Piece by piece; every switch is a mistake."""
    held = [0.0, 0.0, 0.0]
    for _ in range(layers if depth == "all" else 1):
        for tier in range(3):
            held[tier] += float(weights[tier]) * layer_bytes
        for _ in range(sub_batches if rows == "block" else 1):
            for _ in range(batch):
                for tier in range(2):
                    held[tier] += float(kv[tier]) * kv_bytes
    share = {"passing": 1 - float(weights[0]), "whole": 1.0, "disk": float(weights[2]), "none": 0.0}[for_weights]
    held[0] += buffers * share * layer_bytes
    if kv_always or float(kv[1]) > 0:
        held[0] += buffers * {"batch": batch, "block": batch * sub_batches, "none": 0}[kv_rows] * kv_bytes
    return held[0], held[1], held[2]


def _swapped(*args: object) -> tuple[float, float, float]:
    fast, slow, disk = _bytes(*args)  # type: ignore[arg-type]
    return fast, disk, slow


def _buffers_for_each_layer(
    layers: int, layer_bytes: float, kv_bytes: float, batch: int, sub_batches: int, weights: np.ndarray, kv: np.ndarray
) -> tuple[float, float, float]:
    args = (layers, layer_bytes, kv_bytes, batch, sub_batches, weights, kv)
    bare, full = _bytes(*args, for_weights="none", kv_rows="none"), _bytes(*args)
    return bare[0] + layers * (full[0] - bare[0]), full[1], full[2]


_BYTES_CONTRACT = (
    "layers int, layer_bytes float, kv_bytes float (of one row in one layer), batch int, sub_batches int, weights "
    "float64 (3,) shares fast, slow, disk, kv float64 (2,) shares fast, slow -> "
)

BYTES = Exercise(
    name="tier_bytes",
    contract=_BYTES_CONTRACT + "fast, slow, disk floating scalars: bytes held on each tier",
    make_cases=_byte_cases,
    oracle=_bytes,
    returns=tuple(Returns(name, dtype="any", rtol=1e-9, atol=1e-6) for name in ("fast", "slow", "disk")),
    misconceptions=[
        Misconception(
            "no-room-to-arrive",
            "What is not in fast memory must arrive there before it is used: buffers are missing.",
            produces=partial(_bytes, for_weights="none", kv_rows="none"),
        ),
        Misconception(
            "no-room-for-caches",
            "Caches from slow memory need buffers, too: two, each for one sub-batch.",
            produces=partial(_bytes, kv_rows="none"),
        ),
        Misconception(
            "no-room-for-weights",
            "Weights that pass through need two buffers in fast memory.",
            produces=partial(_bytes, for_weights="none"),
        ),
        Misconception(
            "one-buffer",
            "One buffer cannot be filled while it is used. Two are needed.",
            produces=partial(_bytes, buffers=1),
        ),
        Misconception(
            "buffer-for-a-whole-layer",
            "A buffer holds only what passes through; the share that stays in fast memory needs none.",
            produces=partial(_bytes, for_weights="whole"),
        ),
        Misconception(
            "buffer-for-the-disk-only",
            "What comes from slow memory arrives in a buffer as well, not only what comes from the disk.",
            produces=partial(_bytes, for_weights="disk"),
        ),
        Misconception(
            "caches-of-the-whole-block-arrive",
            "Sub-batches take turns, so a buffer for caches holds one sub-batch, not the block.",
            produces=partial(_bytes, kv_rows="block"),
        ),
        Misconception(
            "room-for-nothing",
            "When all caches lie in fast memory, nothing arrives, and no buffer for caches is needed.",
            produces=partial(_bytes, kv_always=True),
        ),
        Misconception(
            "one-sub-batch",
            "All sub-batches of the block keep their caches, not only the one that is computed.",
            produces=partial(_bytes, rows="batch"),
        ),
        Misconception(
            "one-layer", "Every layer has weights and caches; you counted one.", produces=partial(_bytes, depth="one")
        ),
        Misconception(
            "buffers-in-every-layer",
            "The buffers are shared: all layers pass through the same two.",
            produces=_buffers_for_each_layer,
        ),
        Misconception("slow-and-disk-swapped", "The order is fast, slow, disk.", produces=_swapped),
    ],
    hint="Add up what lies on each tier for all layers; then add to fast memory the buffers: two for the passing share "
    "of a layer, and two for a sub-batch's caches in one layer if any cache lies in slow memory.",
    points=3,
)


def _second_cases(rng: np.random.Generator) -> list[Args]:
    fixed = [
        (np.array([1.0, 0.0, 0.0]), np.array([1.0, 0.0]), (50.0, 20.0, 0.5, 0.1)),  # compute
        (np.array([0.0, 0.0, 1.0]), np.array([1.0, 0.0]), (500.0, 20.0, 0.5, 0.1)),  # disk
        (np.array([0.1, 0.8, 0.1]), np.array([0.3, 0.7]), (20.0, 100.0, 0.5, 0.1)),  # copies
        (np.array([0.0, 0.5, 0.5]), np.array([0.0, 1.0]), (60.0, 40.0, 0.05, 0.01)),
        (np.array([0.2, 0.4, 0.4]), np.array([0.5, 0.5]), (90.0, 30.0, 3.0, 0.8)),
    ]
    cases: list[Args] = [(4, 1000.0, 40.0, 2, 3, w, kv, np.array(r)) for w, kv, r in fixed]
    cases += [(6, 900.0, 25.0, 4, 2, w, kv, np.array(r)) for w, kv, r in fixed]
    cases.append((3, 700.0, 10.0, 1, 1, _shares(rng, 3), _shares(rng, 2), np.array([30.0, 25.0, 1.0, 0.2])))
    return cases


def _seconds(
    layers: int,
    layer_bytes: float,
    kv_bytes: float,
    batch: int,
    sub_batches: int,
    weights: np.ndarray,
    kv: np.ndarray,
    rates: np.ndarray,
    combine: str = "max",
    again: bool = False,
    rows: str = "block",
    computes: str = "each",
    depth: str = "all",
    kv_from: int = 1,
    counts: str = "rows",
) -> tuple[float, float]:
    copy_rate, disk_rate, start, row = (float(r) for r in rates)
    compute = sum(start + row * batch for _ in range(sub_batches))
    if computes == "once":
        compute = start + row * batch * sub_batches
    elif computes == "one":
        compute = start + row * batch
    loads = sub_batches if again else 1
    cached = sum(kv_bytes for _ in range(batch * (sub_batches if rows == "block" else 1 if rows == "batch" else 0)))
    copy = (loads * float(weights[1]) * layer_bytes + float(kv[kv_from]) * cached) / copy_rate
    disk = loads * float(weights[2]) * layer_bytes / disk_rate
    if combine == "one road":
        layer = max(compute, copy + disk)
    elif combine == "sum":
        layer = compute + copy + disk
    else:
        layer = max(compute, copy, disk)
    seconds = layer * (layers if depth == "all" else 1)
    tokens = {"rows": batch * sub_batches, "batch": batch, "one": 1, "layers": batch * sub_batches * layers}[counts]
    return seconds, tokens / seconds


SECONDS = Exercise(
    name="step_seconds",
    contract=_BYTES_CONTRACT.replace(" -> ", ", ") + "rates float64 (4,): copied bytes/s, read bytes/s, seconds of a "
    "layer per sub-batch, seconds of a layer per row -> seconds, tokens_per_second floating scalars",
    make_cases=_second_cases,
    oracle=_seconds,
    returns=tuple(Returns(name, dtype="any", rtol=1e-9, atol=1e-12) for name in ("seconds", "tokens_per_second")),
    misconceptions=[
        Misconception(
            "adds-what-overlaps",
            "The three times are added. Copying, reading and computing go on at once; a layer takes the longest "
            "of them.",
            produces=partial(_seconds, combine="sum"),
        ),
        Misconception(
            "one-road",
            "Slow memory and the disk are two roads that are used at once; their times are not added.",
            produces=partial(_seconds, combine="one road"),
        ),
        Misconception(
            "weights-for-each-sub-batch",
            "A layer is brought once for the whole block, not once for each sub-batch: that is what the block is for.",
            produces=partial(_seconds, again=True),
        ),
        Misconception(
            "caches-of-one-sub-batch",
            "Every row of the block has caches in this layer; you moved those of one sub-batch.",
            produces=partial(_seconds, rows="batch"),
        ),
        Misconception(
            "caches-do-not-move",
            "The caches in slow memory must be copied, too.",
            produces=partial(_seconds, rows="none"),
        ),
        Misconception(
            "near-caches-move",
            "Caches in fast memory are where they are used. Those in SLOW memory are copied.",
            produces=partial(_seconds, kv_from=0),
        ),
        Misconception(
            "computes-once",
            "Each sub-batch is a computation of its own and pays the fixed time of a layer anew.",
            produces=partial(_seconds, computes="once"),
        ),
        Misconception(
            "computes-one-sub-batch",
            "All sub-batches are computed in every layer; you computed one.",
            produces=partial(_seconds, computes="one"),
        ),
        Misconception("one-layer", "A step goes through all layers.", produces=partial(_seconds, depth="one")),
        Misconception(
            "one-token", "A step writes one token for every row of the block.", produces=partial(_seconds, counts="one")
        ),
        Misconception(
            "tokens-of-a-sub-batch",
            "A step serves all sub-batches, so it writes batch * sub_batches tokens.",
            produces=partial(_seconds, counts="batch"),
        ),
    ],
    hint="For one layer: seconds of computing all sub-batches, of copying, of reading. The longest counts, for "
    "every layer.",
    points=3,
)
