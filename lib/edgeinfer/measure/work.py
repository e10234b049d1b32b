"""The shape of a transformer's work: operations, weight bytes, key-value bytes and activations of prefill and decode.

Pure arithmetic on a configuration (Llama-style: GQA, gated feed-forward, optional experts); no weights, no numpy, no
machine. An operation is one multiply or one add. Counted are the matrix products and the bytes that they must move at
least once; norms, rotary positions and softmax are left out: they add less than a percent of the operations.
Source: llama, gqa.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class ModelShape:
    """What of a configuration decides the work; fields are named as in a Hugging Face `config.json`."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    tie_word_embeddings: bool = False
    num_local_experts: int = 0
    num_experts_per_tok: int = 0

    def __post_init__(self) -> None:
        for name in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected a whole number above 0")
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"{self.num_attention_heads} attention heads cannot share {self.num_key_value_heads} key-value heads "
                "evenly; choose a divisor"
            )

    @classmethod
    def from_config(cls, config: Any) -> ModelShape:
        """Take the shape from a configuration.

        Args:
            config: path of a `config.json` (or of its folder), its contents as a dict, or any object with such
                attributes, for example `Decoder.config`.

        Raises:
            ValueError: "the configuration lacks 'hidden_size'".
        """
        if isinstance(config, str | Path):
            path = Path(config)
            config = json.loads((path / "config.json" if path.is_dir() else path).read_text(encoding="utf-8"))
        raw = dict(config) if isinstance(config, Mapping) else None

        def get(name: str, default: Any = None) -> Any:
            value = raw.get(name) if raw is not None else getattr(config, name, None)
            if value is None and default is None:
                raise ValueError(f"the configuration lacks {name!r}; expected the fields of a Llama-style config.json")
            return default if value is None else value

        heads = int(get("num_attention_heads"))
        return cls(
            vocab_size=int(get("vocab_size")),
            hidden_size=int(get("hidden_size")),
            intermediate_size=int(get("intermediate_size")),
            num_hidden_layers=int(get("num_hidden_layers")),
            num_attention_heads=heads,
            num_key_value_heads=int(get("num_key_value_heads", heads)),
            head_dim=int(get("head_dim", int(get("hidden_size")) // heads)),
            tie_word_embeddings=bool(get("tie_word_embeddings", False)),
            num_local_experts=int(get("num_local_experts", 0)),
            num_experts_per_tok=int(get("num_experts_per_tok", 0)),
        )


@dataclass(frozen=True)
class StepWork:
    """The work of one step (a whole prefill, or one decode step of a batch). Operations and bytes.

    Attributes:
        flops_linear: products with the weights of all layers.
        flops_attention: scores and weighted sums of attention.
        flops_head: product with the output matrix (logits).
        weight_bytes: weights read, each matrix once per step.
        kv_read_bytes, kv_write_bytes: keys and values read from and written to the cache.
        activation_bytes: inputs read and outputs written by the products with weights, and the embedding rows.
        tokens: tokens that the step processes (batch included).
    """

    flops_linear: int
    flops_attention: int
    flops_head: int
    weight_bytes: float
    kv_read_bytes: float
    kv_write_bytes: float
    activation_bytes: float
    tokens: int

    @property
    def flops(self) -> int:
        """All operations."""
        return self.flops_linear + self.flops_attention + self.flops_head

    @property
    def bytes(self) -> float:
        """All bytes moved at least once."""
        return self.weight_bytes + self.kv_read_bytes + self.kv_write_bytes + self.activation_bytes

    @property
    def intensity(self) -> float:
        """Operations per byte."""
        return self.flops / self.bytes


def layer_linears(shape: ModelShape) -> dict[str, tuple[int, int]]:
    """Return the weight matrices (N, K) of one layer by name; of a mixture of experts, those of one expert.

    The router of a mixture is called `mlp.router`.
    """
    q, kv = shape.num_attention_heads * shape.head_dim, shape.num_key_value_heads * shape.head_dim
    size, inner = shape.hidden_size, shape.intermediate_size
    matrices = {
        "attention.q_proj": (q, size),
        "attention.k_proj": (kv, size),
        "attention.v_proj": (kv, size),
        "attention.o_proj": (size, q),
        "mlp.gate_proj": (inner, size),
        "mlp.up_proj": (inner, size),
        "mlp.down_proj": (size, inner),
    }
    if shape.num_local_experts:
        matrices["mlp.router"] = (shape.num_local_experts, size)
    return matrices


def _split(shape: ModelShape) -> tuple[int, int]:
    """Return the weights of one layer outside the feed-forward experts, and those of one expert."""
    experts = {"mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"}
    matrices = layer_linears(shape)
    inside = sum(n * k for name, (n, k) in matrices.items() if name in experts)
    return sum(n * k for n, k in matrices.values()) - inside, inside


def weight_count(shape: ModelShape) -> dict[str, int]:
    """Return the number of parameters by part: "embedding", "layers", "norms", "head" (0 when tied), "total"."""
    common, expert = _split(shape)
    parts = {
        "embedding": shape.vocab_size * shape.hidden_size,
        "layers": shape.num_hidden_layers * (common + max(1, shape.num_local_experts) * expert),
        "norms": (2 * shape.num_hidden_layers + 1) * shape.hidden_size,
        "head": 0 if shape.tie_word_embeddings else shape.vocab_size * shape.hidden_size,
    }
    return {**parts, "total": sum(parts.values())}


def bits_with_scales(bits: float, group_size: int, scale_bits: float = 16, zero_bits: float = 0) -> float:
    """Return the bits per weight of a group-wise format: the codes and the group's share of scale and zero point."""
    if group_size < 1:
        raise ValueError(f"group_size is {group_size}; expected a whole number above 0")
    return bits + (scale_bits + zero_bits) / group_size


def kv_bytes(shape: ModelShape, context: int, batch: int = 1, kv_bits: float = 16) -> float:
    """Return the bytes of keys and values of `batch` sequences of `context` tokens (2 for key and value)."""
    per_token = 2 * shape.num_hidden_layers * shape.num_key_value_heads * shape.head_dim
    return per_token * context * batch * kv_bits / 8


def active_weights(shape: ModelShape, tokens: int) -> float:
    """Return how many layer weights a step of `tokens` tokens must read.

    For a mixture this is an expectation: each token picks its experts evenly and independently of the others.
    """
    common, expert = _split(shape)
    if not shape.num_local_experts:
        return shape.num_hidden_layers * (common + expert)
    share = shape.num_experts_per_tok / shape.num_local_experts
    touched = shape.num_local_experts * (1 - (1 - share) ** tokens)
    return shape.num_hidden_layers * (common + touched * expert)


def _linear_flops(shape: ModelShape, tokens: int) -> int:
    common, expert = _split(shape)
    used = max(1, shape.num_experts_per_tok) if shape.num_local_experts else 1
    return 2 * tokens * shape.num_hidden_layers * (common + used * expert)


def _activation_values(shape: ModelShape, tokens: int, logit_tokens: int) -> int:
    used = max(1, shape.num_experts_per_tok) if shape.num_local_experts else 1
    per_layer = 0
    for name, (n, k) in layer_linears(shape).items():
        times = used if name in ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj") else 1
        per_layer += times * (n + k)
    embedding = tokens * shape.hidden_size
    head = logit_tokens * (shape.vocab_size + shape.hidden_size)
    return tokens * shape.num_hidden_layers * per_layer + embedding + head


def _step(
    shape: ModelShape, tokens: int, logit_tokens: int, pairs: int, kv_read: float, kv_write: float,
    weight_bits: float, activation_bits: float,
) -> StepWork:  # fmt: skip
    head = shape.vocab_size * shape.hidden_size
    return StepWork(
        flops_linear=_linear_flops(shape, tokens),
        flops_attention=4 * shape.num_hidden_layers * shape.num_attention_heads * shape.head_dim * pairs,
        flops_head=2 * logit_tokens * head,
        weight_bytes=(active_weights(shape, tokens) + head) * weight_bits / 8,
        kv_read_bytes=kv_read,
        kv_write_bytes=kv_write,
        activation_bytes=_activation_values(shape, tokens, logit_tokens) * activation_bits / 8,
        tokens=tokens,
    )


def prefill(
    shape: ModelShape,
    tokens: int,
    batch: int = 1,
    *,
    weight_bits: float = 16,
    kv_bits: float = 16,
    activation_bits: float = 16,
    causal: bool = False,
    all_logits: bool = False,
) -> StepWork:
    """Return the work of reading a prompt.

    Args:
        shape: the model.
        tokens: prompt length T of each sequence.
        batch: sequences B.
        weight_bits, kv_bits, activation_bits: bits per value as stored, scales included (`bits_with_scales`).
        causal: count only the T (T + 1) / 2 pairs that the causal mask keeps; False counts all T * T, which a dense
            attention computes.
        all_logits: the output matrix is applied to every token, not only to the last one of each sequence.
    """
    _refuse(tokens=tokens, batch=batch)
    pairs = batch * (tokens * (tokens + 1) // 2 if causal else tokens * tokens)
    written = kv_bytes(shape, tokens, batch, kv_bits)
    # The keys and values of the prompt are used while they are fresh; they are written once and read once.
    logit_tokens = batch * tokens if all_logits else batch
    return _step(shape, batch * tokens, logit_tokens, pairs, written, written, weight_bits, activation_bits)


def decode(
    shape: ModelShape,
    context: int,
    batch: int = 1,
    *,
    weight_bits: float = 16,
    kv_bits: float = 16,
    activation_bits: float = 16,
) -> StepWork:
    """Return the work of one decode step: one new token for each of `batch` sequences.

    Args:
        shape: the model.
        context: tokens that the new token attends to, itself included.
        batch: sequences B; they share the weights but not the cache.
        weight_bits, kv_bits, activation_bits: bits per value as stored.
    """
    _refuse(context=context, batch=batch)
    return _step(
        shape,
        batch,
        batch,
        batch * context,
        kv_bytes(shape, context, batch, kv_bits),
        kv_bytes(shape, 1, batch, kv_bits),
        weight_bits,
        activation_bits,
    )


def tokens_per_second_bound(work: StepWork, bandwidth: float, peak: float | None = None) -> float:
    """Return the most tokens per second that a bandwidth (GB/s) and a peak (GOP/s) allow."""
    seconds = work.bytes / (bandwidth * 1e9)
    if peak is not None:
        seconds = max(seconds, work.flops / (peak * 1e9))
    return work.tokens / seconds


def _refuse(**counts: int) -> None:
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"{name} is {value}; expected a whole number above 0")
