"""Measures a machine of three tiers and runs policies on it, in processes whose memory is really limited.

The functions named `in_child_...` are targets of `run_limited`; the others prepare files and start them.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgeinfer.measure.memory_limit import LimitedRun, run_limited
from edgeinfer.memory.offload.policy import Machine, Policy, Workload

LAYERS, RESIDENT, CONFIG = "layers.safetensors", "resident.safetensors", "shape.json"


def write_random_model(folder: str | Path, hidden: int, layers: int, tokens: int, seed: int = 0) -> None:
    """Write a decoder of random weights as files to be streamed; what it says means nothing, how long it takes does.

    Args:
        folder: made if needed.
        hidden: width; the feed-forward network is 2.5 times as wide, heads are 64 wide, four queries share a key.
        layers: how many.
        tokens: the longest text.
        seed: of the weights.
    """
    import torch
    from safetensors.torch import save_file

    from edgeinfer.memory.locality.layer_file import write_layers
    from edgeinfer.models.config import Config
    from edgeinfer.models.decoder import Decoder
    from edgeinfer.models.weights import Weights, file_name, linear_shapes

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    heads = hidden // 64
    shape = {
        "vocab_size": 1024,
        "hidden_size": hidden,
        "intermediate_size": hidden * 5 // 2,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": max(1, heads // 4),
        "head_dim": 64,
        "max_position_embeddings": tokens,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
    }
    config = Config(**shape)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(seed)
    resident = {"model.embed_tokens.weight": torch.randn(1024, hidden, generator=generator)}
    for name in ("input_layernorm", "post_attention_layernorm"):
        resident |= {f"model.layers.{n}.{name}.weight": torch.ones(hidden) for n in range(layers)}
    resident["model.norm.weight"] = torch.ones(hidden)
    linear = {
        f"{file_name(name)}.weight": torch.randn(s, generator=generator) * s[1] ** -0.5
        for name, s in linear_shapes(config).items()
    }
    write_layers(Decoder(config, Weights(config, {**linear, **resident}, torch.float32)), folder / LAYERS)
    save_file(resident, folder / RESIDENT)
    (folder / CONFIG).write_text(json.dumps(shape), encoding="utf-8")


def open_skeleton(folder: str | Path) -> Any:
    """The decoder of `write_random_model` without its linear layers."""
    from safetensors.torch import load_file

    from edgeinfer.memory.offload.tiers import skeleton
    from edgeinfer.models.config import Config

    folder = Path(folder)
    config = Config(**json.loads((folder / CONFIG).read_text(encoding="utf-8")))
    return skeleton(config, load_file(folder / RESIDENT))


def workload(folder: str | Path, length: int) -> Workload:
    """The `Workload` of a model and texts of `length` tokens."""
    from edgeinfer.memory.locality.layer_file import LayerFile
    from edgeinfer.models.config import Config

    folder = Path(folder)
    config = Config(**json.loads((folder / CONFIG).read_text(encoding="utf-8")))
    file = LayerFile(folder / LAYERS)
    kv = 2 * config.num_key_value_heads * config.head_dim * length * 4
    return Workload(
        config.num_hidden_layers, file.ranges[0][1], kv, 8 * config.hidden_size * 4, (folder / RESIDENT).stat().st_size
    )


def in_child_measure(folder: str, slow: str, batches: list[int], length: int, repeat: int = 5) -> dict[str, float]:
    """Measure the rates of a `Machine`: copies, cold reads while a layer is computed, and layers of several batches."""
    from concurrent.futures import ThreadPoolExecutor

    import torch

    from edgeinfer.memory.offload.tiers import SlowTier, TieredWeights
    from edgeinfer.models.cache import PlainCache

    torch.set_num_threads(1)
    model = open_skeleton(folder)
    config = model.config
    with TieredWeights(Path(folder) / LAYERS, (0.0, 0.0, 1.0)) as weights:
        size = weights._file.ranges[0][1]
        source, target = SlowTier(slow).take(size), np.empty(size, np.uint8)
        weights.enter(0, None)
        model.weight_store = weights
        buffers = weights._buffers[1]
        caches = {b: PlainCache(config, b, model.dtype, length + 1) for b in batches}
        hidden = {b: torch.randn(b, 1, config.hidden_size) for b in batches}
        for cache in caches.values():
            cache.length = length // 2

        def copy() -> None:
            target[:] = source

        def read() -> None:
            weights._bring(1 % weights.layers, buffers, "disk")

        def compute(b: int) -> float:
            start = time.perf_counter()
            with torch.inference_mode():
                model.forward_layers(hidden[b], caches[b], 0, 1)
            return time.perf_counter() - start

        def beside(job: Any) -> float:
            """Seconds of a job while the other processor computes, as in a run."""
            with ThreadPoolExecutor(1) as pool:
                start = time.perf_counter()
                future = pool.submit(job)
                while not future.done():
                    compute(batches[-1])
                return time.perf_counter() - start

        for b in batches:
            compute(b)
        alone = {b: float(np.median([compute(b) for _ in range(repeat)])) for b in batches}
        copying, reading = (float(np.median([beside(job) for _ in range(repeat)])) for job in (copy, read))
    slope, start = np.polyfit(batches, [alone[b] for b in batches], 1)
    return {
        "copy_rate": size / copying,
        "disk_rate": size / reading,
        "layer_seconds": float(max(start, 0.0)),
        "row_seconds": float(max(slope, 0.0)),
    }


def in_child_run(
    folder: str, slow: str, policy: dict[str, Any], prompt: int, new_tokens: int, ahead: bool = True
) -> dict[str, Any]:
    """Run a policy; returns the shares that were possible, the seconds of each step and the bytes moved."""
    import torch

    from edgeinfer.memory.offload.tiers import SlowTier, TieredWeights, run_block

    torch.set_num_threads(1)
    chosen = Policy(policy["batch"], policy["sub_batches"], tuple(policy["weights"]), tuple(policy["kv"]))
    model = open_skeleton(folder)
    lower = SlowTier(slow)
    tokens = torch.arange(prompt).repeat(chosen.batch, 1) % model.config.vocab_size
    with TieredWeights(Path(folder) / LAYERS, chosen.weights, lower, ahead) as weights:
        answers, moved = run_block(model, weights, [tokens] * chosen.sub_batches, new_tokens, chosen, lower)
        return {
            "weights": weights.shares,
            "steps": moved.steps,
            "disk": moved.disk,
            "copied": moved.copied,
            "waited": moved.waited,
            "timeline": moved.timeline,
            "answer": answers[0][0].tolist(),
            "how": weights.how,
        }


def measure(folder: str | Path, slow: str | Path, length: int, fast_bytes: float, slow_bytes: float) -> Machine:
    """The machine's rates, measured in a process of its own.

    Raises:
        RuntimeError: when the process did not finish, with its message.
    """
    arguments = {"folder": str(folder), "slow": str(slow), "batches": [1, 8, 16], "length": length}
    run = run_limited("edgeinfer.memory.offload.limited:in_child_measure", arguments, 1 << 32, timeout_s=300)
    if run.outcome != "finished":
        raise RuntimeError(f"the machine could not be measured: {run.message}")
    return Machine(fast_bytes, slow_bytes, **run.result)


def run(
    folder: str | Path,
    slow: str | Path,
    policy: Policy,
    memory_bytes: int,
    prompt: int = 16,
    new_tokens: int = 8,
    ahead: bool = True,
) -> LimitedRun:
    """Run a policy in a process of at most `memory_bytes`, interpreter and libraries included."""
    return run_limited(
        "edgeinfer.memory.offload.limited:in_child_run",
        {
            "folder": str(folder),
            "slow": str(slow),
            "policy": asdict(policy),
            "prompt": prompt,
            "new_tokens": new_tokens,
            "ahead": ahead,
        },
        memory_bytes,
        timeout_s=300,
    )


def possible(policy: Policy, run_: LimitedRun) -> Policy:
    """The policy as it was really laid out: whole tensors, whole sub-batches."""
    below = round(policy.kv[1] * policy.sub_batches) / policy.sub_batches
    return replace(policy, weights=tuple(run_.result["weights"]), kv=(1 - below, below))
