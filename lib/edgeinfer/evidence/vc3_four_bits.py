"""FlexGen's compression for the evidence: what four bits on every tier save, what they cost, and what they change.

Bytes and tokens are counted, times stand beside them. Source: flexgen.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from edgeinfer.evidence.protocol import Result

if TYPE_CHECKING:
    from edgeinfer.memory.offload.tiers import Moved

HIDDEN, LAYERS, ROWS, STEPS = 640, 4, 16, 4
EVALUATED = 2048  # tokens of held-out text


def quality() -> dict[str, float]:
    """Perplexity of the shipped model, exact and with what remains after four bits."""
    from edgeinfer import models
    from edgeinfer.memory.offload import packed
    from edgeinfer.memory.offload.caches import FourBitCache

    exact = models.load("target")
    rounded = packed.as_four_bits(exact)
    found = {}
    for name, model, factory in (
        ("exact", exact, None),
        ("weights", rounded, None),
        ("caches", exact, FourBitCache),
        ("both", rounded, FourBitCache),
    ):
        if factory is not None:
            model.cache_factory = factory
        found[name] = models.perplexity(model, models.held_out_tokens(), 128, max_tokens=EVALUATED)
        model.restore()
    return found


def same_tokens(folder: Path) -> tuple[bool, dict[bool, Moved]]:
    """Whether packed tiers write the tokens of the unpacked reference, and what floats and four bits moved.

    The shipped model answers with its weights on three tiers and its caches in the slow one, in floats and packed.
    """
    import torch

    from edgeinfer import models
    from edgeinfer.memory.offload import Policy, packed
    from edgeinfer.memory.offload.block import run_block
    from edgeinfer.memory.offload.caches import FourBitCache
    from edgeinfer.memory.offload.model_files import LAYERS as FLOATS
    from edgeinfer.memory.offload.model_files import PACKED, write_model
    from edgeinfer.memory.offload.tiers import SlowTier, TieredWeights

    model = models.load("target")
    write_model(model, folder)
    SlowTier.make(folder / "slow", 48 << 20)
    reference = packed.as_four_bits(model)
    reference.cache_factory = FourBitCache
    prompts = list(models.held_out_tokens()[:96].view(2, 2, 24))
    moved, same = {}, True
    for four_bits in (False, True):
        policy = Policy(2, 2, (0.2, 0.2, 0.6), (0.0, 1.0), four_bits, four_bits)
        slow = SlowTier(folder / "slow")
        with TieredWeights(folder / (PACKED if four_bits else FLOATS), policy.weights, slow) as weights:
            answers, moved[four_bits] = run_block(model, weights, prompts, 8, policy, slow)
        wanted = reference if four_bits else model
        same = same and all(
            torch.equal(a, models.generate(wanted, p, 8)[:, 24:]) for a, p in zip(answers, prompts, strict=True)
        )
    return same, moved


def step_ratio(folder: Path) -> tuple[float, float]:
    """Time of a streamed step in four bits over floats, and the part of it in which layers are unpacked."""
    import numpy as np

    from edgeinfer.memory.offload import Policy
    from edgeinfer.memory.offload.limited import run_here
    from edgeinfer.memory.offload.model_files import write_random_model
    from edgeinfer.memory.offload.tiers import SlowTier

    write_random_model(folder, HIDDEN, LAYERS, 32, four_bits=True)
    SlowTier.make(folder / "slow", 1 << 20)
    times: dict[bool, list[float]] = {False: [], True: []}
    unpacking = 0.0
    for _ in range(2):
        for four_bits, taken in times.items():
            policy = Policy(ROWS, 1, (0.0, 0.0, 1.0), (1.0, 0.0), four_bits)
            _, moved, _ = run_here(folder, folder / "slow", policy, 8, STEPS)
            taken += moved.steps[1:]
            unpacking = moved.seconds("unpack") / sum(moved.steps)
    return float(np.median(times[True]) / np.median(times[False])), unpacking


def four_bit_results() -> tuple[list[Result], bool]:
    """The rows of the evidence, and whether the compressed path is right."""
    with tempfile.TemporaryDirectory() as folder:
        same, moved = same_tokens(Path(folder, "target"))
        ratio, unpacking = step_ratio(Path(folder, "random"))
    found = quality()
    return [
        Result(
            "bytes from the disk, four bits over floats",
            moved[True].disk / moved[False].disk,
            "x",
            "measured",
            "shipped target model, three fifths of the weights on the disk; scales and offsets count",
        ),
        Result(
            "bytes from the slow tier, four bits over floats",
            moved[True].copied / moved[False].copied,
            "x",
            "measured",
            "a fifth of the weights and all keys and values",
        ),
        Result(
            "tokens are those of the unpacked reference",
            int(same),
            "yes",
            "measured",
            "weights and caches in four bits, as floats in a model in memory",
        ),
        Result(
            "time of a streamed step, four bits over floats",
            ratio,
            "x",
            "measured",
            f"random weights of width {HIDDEN}, all from the disk, {ROWS} rows; {100 * unpacking:.0f} % of the time "
            "unpacks",
        ),
        *(
            Result(
                f"perplexity with {name} in four bits over exact",
                found[key] / found["exact"],
                "x",
                "measured",
                f"shipped target model, {EVALUATED:,} tokens of held-out text",
            )
            for key, name in (("weights", "weights"), ("caches", "caches"), ("both", "weights and caches"))
        ),
    ], same and moved[True].disk < moved[False].disk / 6
