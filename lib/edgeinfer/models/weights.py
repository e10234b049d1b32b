"""Where a decoder's weights live and how a checkpoint's tensors become the decoder's: names, shapes, fused storage.

The names used here, such as `layers.0.attention.q_proj`, are the ones every technique room uses. It does not compute.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

import torch
from torch import Tensor

from edgeinfer.models.config import CheckpointError, Config

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")
_EXPERT_FILE_NAMES = {"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}


class WeightStore(Protocol):
    """Gives a linear layer's weight at the moment it is needed: the hook for offloading, paging and prefetching.

    Example: count the bytes that one token needs::

        class Counting:
            def __init__(self, inner): self.inner, self.bytes = inner, 0
            def fetch(self, name):
                weight = self.inner.fetch(name)
                self.bytes += weight.nbytes
                return weight

        model.weight_store = Counting(model.weight_store)
    """

    def fetch(self, name: str) -> Tensor:
        """Return the weight (N, K) of the linear layer `name`, ready for a product."""


class MemoryStore:
    """Keeps every weight in memory."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors

    def fetch(self, name: str) -> Tensor:
        """Return the weight of `name`."""
        return self._tensors[name]


def mlp_names(config: Config, layer: int) -> list[str]:
    """Return the prefixes of a layer's feed-forward networks: one, or one per expert."""
    if not config.is_moe:
        return [f"layers.{layer}.mlp"]
    return [f"layers.{layer}.moe.experts.{e}" for e in range(config.num_local_experts)]


def linear_shapes(config: Config) -> dict[str, tuple[int, int]]:
    """Return {name: (N, K)} of every linear layer, in the order of computation (the head is not among them)."""
    queries, keys = (n * config.head_dim for n in (config.num_attention_heads, config.num_key_value_heads))
    size, inner = config.hidden_size, config.intermediate_size
    shapes: dict[str, tuple[int, int]] = {}
    for layer in range(config.num_hidden_layers):
        rows = (queries, keys, keys)
        shapes |= {f"layers.{layer}.attention.{n}": (r, size) for n, r in zip(ATTENTION, rows, strict=False)}
        shapes[f"layers.{layer}.attention.o_proj"] = (size, queries)
        if config.is_moe:
            shapes[f"layers.{layer}.moe.router"] = (config.num_local_experts, size)
        for prefix in mlp_names(config, layer):
            shapes |= {f"{prefix}.gate_proj": (inner, size), f"{prefix}.up_proj": (inner, size)}
            shapes[f"{prefix}.down_proj"] = (size, inner)
    return shapes


def file_name(name: str) -> str:
    """Return the name that a linear layer's weight has in a Hugging Face file (without `.weight`)."""
    if ".moe.experts." in name:
        prefix, last = name.rsplit(".", 1)
        return f"model.{prefix.replace('.moe.', '.block_sparse_moe.')}.{_EXPERT_FILE_NAMES[last]}"
    return "model." + name.replace(".attention.", ".self_attn.").replace(".moe.router", ".block_sparse_moe.gate")


def column_major(weight: Tensor) -> Tensor:
    """Return weight (N, K) laid out column by column: a product with one row then streams it, which is quicker."""
    return weight.t().contiguous().t()


class Weights:
    """All tensors of a decoder. Products that share an input are stored as one matrix; the parts are views of it.

    Attributes:
        linears: {name: (N, K)}, views where fused.
        biases: {name: (N,)} for those layers that have one.
        fused: {prefix: (sum of N, K)} of q, k, v (`layers.0.attention`) and of gate, up (`layers.0.mlp`).
        norms: {name: (hidden_size,)}; embedding, head: (vocab_size, hidden_size).
    """

    def __init__(self, config: Config, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> None:
        self.config, self._tensors, self._dtype = config, tensors, dtype
        self.linears: dict[str, Tensor] = {}
        self.biases: dict[str, Tensor] = {}
        self.fused: dict[str, Tensor] = {}
        self.fused_biases: dict[str, Tensor] = {}
        self._shapes = linear_shapes(config)
        size = config.hidden_size
        self.embedding = self._take("model.embed_tokens.weight", (config.vocab_size, size))
        if config.tie_word_embeddings:
            self.head = self.embedding
        else:
            self.head = self._take("lm_head.weight", (config.vocab_size, size))
        self.norms = {"norm": self._take("model.norm.weight", (size,))}
        for n in config.exit_layers:
            self.norms[f"exit_norms.{n}"] = self._take(f"model.exit_norms.{n}.weight", (size,))
        for layer in range(config.num_hidden_layers):
            for norm in ("input_layernorm", "post_attention_layernorm"):
                self.norms[f"layers.{layer}.{norm}"] = self._take(f"model.layers.{layer}.{norm}.weight", (size,))
            self._fuse(f"layers.{layer}.attention", ATTENTION[:3])
            self._single(f"layers.{layer}.attention.o_proj")
            if config.is_moe:
                self._single(f"layers.{layer}.moe.router")
            for prefix in mlp_names(config, layer):
                self._fuse(prefix, MLP[:2])
                self._single(f"{prefix}.down_proj")
        self._tensors = {}

    def _take(self, name: str, shape: tuple[int, ...]) -> Tensor:
        if name not in self._tensors:
            hint = "; the configuration says that the head is not tied" if name == "lm_head.weight" else ""
            raise CheckpointError(f"the checkpoint has no tensor {name}, which its configuration needs{hint}")
        tensor = self._tensors[name]
        if tuple(tensor.shape) != shape:
            raise CheckpointError(f"tensor {name} has shape {tuple(tensor.shape)}; its configuration says {shape}")
        return tensor.to(self._dtype)

    def _single(self, name: str) -> None:
        file = file_name(name)
        self.linears[name] = column_major(self._take(f"{file}.weight", self._shapes[name]))
        if f"{file}.bias" in self._tensors:
            self.biases[name] = self._take(f"{file}.bias", self._shapes[name][:1])

    def _fuse(self, prefix: str, parts: Iterable[str]) -> None:
        names = [f"{prefix}.{part}" for part in parts]
        for name in names:
            self._single(name)
        rows = [self._shapes[name][0] for name in names]
        self.fused[prefix] = column_major(torch.cat([self.linears[name] for name in names]))
        self.linears |= dict(zip(names, self.fused[prefix].split(rows), strict=True))
        if any(name in self.biases for name in names):
            zeros = {name: torch.zeros(r, dtype=self._dtype) for name, r in zip(names, rows, strict=True)}
            self.fused_biases[prefix] = torch.cat([self.biases.get(name, zeros[name]) for name in names])
