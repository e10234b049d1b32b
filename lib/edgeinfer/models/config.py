"""The decoder's configuration, read from a Hugging Face `config.json`: Llama, Mistral, Mixtral, Qwen2.

It knows no weights. What the decoder cannot do (sliding windows, other rotary scalings, other activations) is refused
here in one sentence instead of running wrongly. Source: llama, mistral, mixtral, rope, llama3.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ARCHITECTURES = ("LlamaForCausalLM", "MistralForCausalLM", "MixtralForCausalLM", "Qwen2ForCausalLM")
ACTIVATIONS = ("silu", "relu", "gelu", "gelu_pytorch_tanh")
SCALINGS = ("default", "linear", "llama3")


class CheckpointError(ValueError):
    """A checkpoint folder that cannot be opened; the message says in one sentence what is wrong with it."""


@dataclass(frozen=True)
class Config:
    """Shape of a decoder; the fields carry the names of Hugging Face's configuration."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope_theta: float
    hidden_act: str = "silu"
    tie_word_embeddings: bool = True
    rope_scaling: dict[str, Any] | None = None
    num_local_experts: int = 0
    num_experts_per_tok: int = 0
    exit_layers: tuple[int, ...] = ()
    bos_token_id: int | None = None
    eos_token_id: int | None = None

    @property
    def is_moe(self) -> bool:
        """Whether the feed-forward networks are mixtures of experts."""
        return self.num_local_experts > 0


def read_config(folder: Path) -> Config:
    """Read `config.json` of a checkpoint folder.

    Raises:
        CheckpointError: one sentence about a missing or broken file, another architecture, or an unsupported setting.
    """
    path = folder / "config.json"
    if not path.exists():
        raise CheckpointError(f"{folder} holds no config.json; expected a Hugging Face checkpoint folder")
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is not valid JSON ({error}); download the file again") from error
    return parse_config(raw, str(path))


def parse_config(raw: dict[str, Any], where: str = "config.json") -> Config:
    """Turn the contents of a `config.json` into a `Config`; see `read_config` for what is raised."""
    named = raw.get("architectures") or ["(none)"]
    if named[0] not in ARCHITECTURES:
        raise CheckpointError(f"{where} describes {named[0]}; this decoder runs {', '.join(ARCHITECTURES)}")
    try:
        heads = int(raw["num_attention_heads"])
        rope = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
        config = Config(
            vocab_size=int(raw["vocab_size"]),
            hidden_size=int(raw["hidden_size"]),
            intermediate_size=int(raw["intermediate_size"]),
            num_hidden_layers=int(raw["num_hidden_layers"]),
            num_attention_heads=heads,
            num_key_value_heads=int(raw.get("num_key_value_heads") or heads),
            head_dim=int(raw.get("head_dim") or raw["hidden_size"] // heads),
            max_position_embeddings=int(raw.get("max_position_embeddings", 2048)),
            rms_norm_eps=float(raw.get("rms_norm_eps", 1e-6)),
            rope_theta=float(rope.get("rope_theta") or raw.get("rope_theta") or 10000.0),
            hidden_act=raw.get("hidden_act", "silu"),
            tie_word_embeddings=bool(raw.get("tie_word_embeddings", False)),
            rope_scaling=dict(rope) if _scaling(rope) != "default" else None,
            num_local_experts=int(raw["num_local_experts"]) if named[0].startswith("Mixtral") else 0,
            num_experts_per_tok=int(raw["num_experts_per_tok"]) if named[0].startswith("Mixtral") else 0,
            exit_layers=tuple(raw.get("exit_layers") or ()),
            bos_token_id=_first(raw.get("bos_token_id")),
            eos_token_id=_first(raw.get("eos_token_id")),
        )
    except KeyError as error:
        raise CheckpointError(f"{where} lacks the entry {error}, which a {named[0]} must have") from error
    window = raw.get("sliding_window")
    uses_window = window and raw.get("use_sliding_window", True) and window < config.max_position_embeddings
    for wrong, what in (
        (
            config.hidden_act not in ACTIVATIONS,
            f"hidden_act {config.hidden_act!r}; supported: {', '.join(ACTIVATIONS)}",
        ),
        (_scaling(rope) not in SCALINGS, f"rope_scaling {_scaling(rope)!r}; supported: {', '.join(SCALINGS)}"),
        (uses_window, f"sliding_window {window}; this decoder attends to the whole context"),
        (heads % config.num_key_value_heads, f"{heads} heads over {config.num_key_value_heads} key-value heads"),
        (config.head_dim % 2, f"head_dim {config.head_dim}; rotary positions need an even number"),
    ):
        if wrong:
            raise CheckpointError(f"{where} asks for {what}")
    return config


def _scaling(rope: dict[str, Any]) -> str:
    return str(rope.get("rope_type") or rope.get("type") or "default")


def _first(value: int | list[int] | None) -> int | None:
    return value[0] if isinstance(value, list) else value


def rotary_frequencies(config: Config) -> Tensor:
    """Return the angle per position of each pair of coordinates, (head_dim / 2,) float32 radians."""
    half = config.head_dim // 2
    frequency = 1.0 / config.rope_theta ** (torch.arange(half, dtype=torch.float32) / half)
    scaling = config.rope_scaling
    if scaling is None:
        return frequency
    factor = float(scaling["factor"])
    if _scaling(scaling) == "linear":
        return frequency / factor
    # llama3: long waves are stretched by `factor`, short ones kept, those between blended.
    low, high = float(scaling["low_freq_factor"]), float(scaling["high_freq_factor"])
    turns = float(scaling["original_max_position_embeddings"]) * frequency / (2 * math.pi)
    blend = ((turns - low) / (high - low)).clamp(0, 1)
    return frequency / factor * (1 - blend) + frequency * blend
