"""Decides once, not per token, which callable each layer uses: fused products, or single ones where one is replaced.

It knows where weights come from and what is replaced, not what is computed with them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from edgeinfer.models import few_rows
from edgeinfer.models.config import Config
from edgeinfer.models.weights import ATTENTION, MLP, MemoryStore, Weights, WeightStore, mlp_names

Product = Callable[[Tensor], Tensor]


@dataclass(slots=True)
class Network:
    """A feed-forward network, or one expert: gate and up side by side, then down."""

    gate_up: Product
    down: Product


@dataclass(slots=True)
class Layer:
    """The callables and norms of one layer."""

    number: int
    input_norm: Tensor
    post_norm: Tensor
    qkv: Product
    output: Product
    router: Product | None
    experts: list[Network]
    replaced_mlp: Callable[[Layer, Tensor], Tensor] | None = None


def build(
    config: Config,
    weights: Weights,
    store: WeightStore,
    replaced: dict[str, Product],
    seen: dict[str, list[Tensor]] | None = None,
) -> list[Layer]:
    """Return the layers' callables.

    Args:
        config: shape of the model.
        weights: its tensors.
        store: where single products fetch their weight; with a store of one's own nothing is fused.
        replaced: {name: product} that stand for a linear layer.
        seen: {name: list} to which the inputs of these layers are appended.
    """
    seen = seen or {}
    in_memory = isinstance(store, MemoryStore)

    def single(name: str) -> Product:
        bias = weights.biases.get(name)
        if name in replaced:
            product = replaced[name]
        elif in_memory:
            product = few_rows.Linear(weights.linears[name], bias)
        else:
            product = partial(_fetched, store=store, name=name, bias=bias)
        return partial(_recorded, product=product, rows=seen[name]) if name in seen else product

    def together(prefix: str, parts: tuple[str, ...]) -> Product:
        names = [f"{prefix}.{part}" for part in parts]
        if in_memory and not any(name in replaced or name in seen for name in names):
            return few_rows.Linear(weights.fused[prefix], weights.fused_biases.get(prefix))
        return partial(_side_by_side, products=[single(name) for name in names])

    return [
        Layer(
            number=n,
            input_norm=weights.norms[f"layers.{n}.input_layernorm"],
            post_norm=weights.norms[f"layers.{n}.post_attention_layernorm"],
            qkv=together(f"layers.{n}.attention", ATTENTION[:3]),
            output=single(f"layers.{n}.attention.o_proj"),
            router=single(f"layers.{n}.moe.router") if config.is_moe else None,
            experts=[Network(together(p, MLP[:2]), single(f"{p}.down_proj")) for p in mlp_names(config, n)],
        )
        for n in range(config.num_hidden_layers)
    ]


def _fetched(x: Tensor, store: WeightStore, name: str, bias: Tensor | None) -> Tensor:
    return functional.linear(x, store.fetch(name), bias)


def _recorded(x: Tensor, product: Product, rows: list[Tensor]) -> Tensor:
    rows.append(x.reshape(-1, x.shape[-1]).clone())
    return product(x)


def _side_by_side(x: Tensor, products: list[Product]) -> Tensor:
    return torch.cat([product(x) for product in products], -1)
