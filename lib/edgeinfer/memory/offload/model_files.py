"""A decoder as files to be streamed: its layers as floats and in four bits, what stays resident, and its shape.

It writes and opens them; what a policy makes of them is not its business.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from edgeinfer.memory.locality.layer_file import LayerFile, write_layers
from edgeinfer.memory.offload.packed import packed_bytes, write_packed_layers
from edgeinfer.memory.offload.policy import Workload
from edgeinfer.memory.offload.tiers import skeleton
from edgeinfer.models.config import Config
from edgeinfer.models.decoder import Decoder
from edgeinfer.models.weights import Weights, file_name, linear_shapes

LAYERS, PACKED, RESIDENT, CONFIG = (
    "layers.safetensors",
    "layers-4bit.safetensors",
    "resident.safetensors",
    "shape.json",
)


def write_model(model: Decoder, folder: str | Path, four_bits: bool = True) -> None:
    """Write a decoder so that policies can run it.

    Args:
        model: any decoder.
        folder: made if needed.
        four_bits: write its layers in four bits as well.

    Raises:
        OSError: "could not write layers.safetensors: No space left on device; ...".
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_layers(model, folder / LAYERS)
    if four_bits:
        write_packed_layers(model, folder / PACKED)
    streamed = {f"{file_name(name)}.weight" for name in model.linears()}
    kept = {name: tensor.contiguous() for name, tensor in model.state_dict().items() if name not in streamed}
    save_file(kept, folder / RESIDENT)
    shape = {**dataclasses.asdict(model.config), "dtype": str(model.dtype).removeprefix("torch.")}
    (folder / CONFIG).write_text(json.dumps(shape), encoding="utf-8")


def write_random_model(
    folder: str | Path, hidden: int, layers: int, tokens: int, seed: int = 0, four_bits: bool = False
) -> None:
    """Write a decoder of random weights as files to be streamed; what it says means nothing, how long it takes does.

    Args:
        folder: made if needed.
        hidden: width; the feed-forward network is 2.5 times as wide, heads are 64 wide, four queries share a key.
        layers: how many.
        tokens: the longest text.
        seed: of the weights.
        four_bits: write its layers in four bits as well.
    """
    heads = hidden // 64
    config = Config(
        vocab_size=1024,
        hidden_size=hidden,
        intermediate_size=hidden * 5 // 2,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=max(1, heads // 4),
        head_dim=64,
        max_position_embeddings=tokens,
        rms_norm_eps=1e-5,
        rope_theta=10000.0,
    )
    generator = torch.Generator().manual_seed(seed)
    tensors = {"model.embed_tokens.weight": torch.randn(1024, hidden, generator=generator)}
    for name in ("input_layernorm", "post_attention_layernorm"):
        tensors |= {f"model.layers.{n}.{name}.weight": torch.ones(hidden) for n in range(layers)}
    tensors["model.norm.weight"] = torch.ones(hidden)
    for name, shape in linear_shapes(config).items():
        tensors[f"{file_name(name)}.weight"] = torch.randn(shape, generator=generator) * shape[1] ** -0.5
    write_model(Decoder(config, Weights(config, tensors, torch.float32)), folder, four_bits)


def open_shape(folder: str | Path) -> tuple[Config, torch.dtype]:
    """The shape of a written model, and its type.

    Raises:
        FileNotFoundError: "there is no model in ...; write one with write_model".
        ValueError: "... is no shape of a model ...; write the model again".
    """
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"there is no model in {Path(folder).name} (no {CONFIG}); write one with write_model")
    try:
        shape = json.loads(path.read_text(encoding="utf-8"))
        dtype = getattr(torch, shape.pop("dtype"))
        shape["exit_layers"] = tuple(shape["exit_layers"])
        return Config(**shape), dtype
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{CONFIG} is no shape of a model ({error}); write the model again with write_model"
        ) from error


def open_skeleton(folder: str | Path) -> Decoder:
    """The decoder of a written model without its linear layers.

    Raises:
        FileNotFoundError, ValueError: as `open_shape`, or "resident.safetensors cannot be read ...".
    """
    config, dtype = open_shape(folder)
    try:
        resident = load_file(Path(folder) / RESIDENT)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{RESIDENT} cannot be read ({error}); write the model again with write_model") from error
    return skeleton(config, resident, dtype)


def workload(folder: str | Path, length: int, prompt: int | None = None) -> Workload:
    """The `Workload` of a written model.

    Args:
        folder: of the model; packed forms are offered when it was written in four bits.
        length: tokens of a text at its end.
        prompt: tokens of a text at its beginning; None: all of them.
    """
    folder = Path(folder)
    config, dtype = open_shape(folder)
    prompt, rows = length if prompt is None else prompt, 2 * config.num_key_value_heads
    kv = rows * config.head_dim * length * dtype.itemsize
    four = (folder / PACKED).exists()
    # Normed and turned inputs, both halves of the network and their product, and the scores of attention.
    widths = 6 * config.hidden_size + 3 * config.intermediate_size + config.num_attention_heads * length
    return Workload(
        layers=config.num_hidden_layers,
        layer_bytes=LayerFile(folder / LAYERS).ranges[0][1],
        kv_bytes=kv,
        hidden_bytes=2 * prompt * config.hidden_size * dtype.itemsize,
        fixed_bytes=(folder / RESIDENT).stat().st_size,
        packed_layer_bytes=LayerFile(folder / PACKED).ranges[0][1] if four else None,
        packed_kv_bytes=rows * length * packed_bytes(1, config.head_dim) if four else None,
        mean_kv_bytes=kv * (prompt + length) / (2 * length),
        working_bytes=prompt * widths * dtype.itemsize,
    )
