"""A lean decoder of Llama-style models with an explicit cache of keys and values, and the hooks of the technique rooms.

Runs dense, mixture-of-experts, ReLU and early-exit models from their configuration. It knows no technique: what
replaces a product, the attention, the cache or the weight store is given to it. B batch, T new tokens, S tokens
attended to, N x K weights. Source: llama, rope, gqa, swiglu, mixtral.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from edgeinfer.models import few_rows
from edgeinfer.models import plan as planning
from edgeinfer.models.cache import CacheFactory, KVCache, PlainCache
from edgeinfer.models.config import Config, rotary_frequencies
from edgeinfer.models.weights import MemoryStore, Weights, WeightStore, file_name

Product = Callable[[Tensor], Tensor]
Attention = Callable[[Tensor, Tensor, Tensor, Tensor | None, int], Tensor]
Router = Callable[[Tensor, int], tuple[Tensor, Tensor]]


def attend(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, layer: int) -> Tensor:
    """Scaled dot-product attention, the decoder's default `attention`.

    Args:
        query: (B, heads, T, head_dim), rotated.
        keys: (B, key-value heads, S, head_dim), rotated; values likewise.
        mask: bool, broadcastable to (B, heads, T, S), True where a token may look; None: everywhere.
        layer: number of the layer.

    Returns:
        (B, heads, T, head_dim).
    """
    return functional.scaled_dot_product_attention(query, keys, values, mask, enable_gqa=True)


class Decoder:
    """A causal language model.

    Attributes that may be set:
        attention: function with the signature of `attend`.
        cache_factory: called as (config, batch, dtype), returns a `KVCache`; see there for an example.
        weight_store: see `WeightStore` for an example.
        router: (scores (M, experts), layer) -> (index (M, k) int64, weights (M, k)); chooses the experts of M tokens.

    Example: look at every attention (here: count the calls)::

        calls = []
        def counting(query, keys, values, mask, layer):
            calls.append(layer)
            return attend(query, keys, values, mask, layer)
        model.attention = counting
    """

    def __init__(self, config: Config, weights: Weights) -> None:
        self.config = config
        self.dtype = weights.embedding.dtype
        self.attention: Attention = attend
        self.cache_factory: CacheFactory = PlainCache
        self.router: Router = self._best_experts
        self._weights = weights
        self._store: WeightStore = MemoryStore(weights.linears)
        self._replaced: dict[str, Product] = {}
        self._activation = {
            "silu": functional.silu,
            "relu": torch.relu,
            "gelu": functional.gelu,
            "gelu_pytorch_tanh": lambda x: functional.gelu(x, approximate="tanh"),
        }[config.hidden_act]
        self._half = config.head_dim // 2
        self._cos, self._sin = self._rotation_table(config.max_position_embeddings)
        self._head = few_rows.Linear(weights.head)
        self._plan = planning.build(config, weights, self._store, self._replaced)

    def rotation(self) -> tuple[Tensor, Tensor]:
        """Return the tables (cos, sin) by position, each (max_position_embeddings, head_dim).

        With them a head x is rotated as x * cos + roll(x, head_dim // 2) * sin.
        """
        return self._cos, self._sin

    def _rotation_table(self, positions: int) -> tuple[Tensor, Tensor]:
        angles = torch.outer(torch.arange(positions, dtype=torch.float32), rotary_frequencies(self.config))
        cos, sin = angles.cos(), angles.sin()
        # With the first half of the sine negated, x * cos + roll(x) * sin is the rotation of both halves.
        return torch.cat((cos, cos), -1).to(self.dtype), torch.cat((-sin, sin), -1).to(self.dtype)

    # ---- running -------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def prefill(
        self,
        tokens: Tensor,
        kv_cache: KVCache | None = None,
        *,
        padding: Tensor | None = None,
        exit_layer: int | None = None,
        last_only: bool = False,
    ) -> tuple[Tensor, KVCache]:
        """Run a prompt, or the next part of one.

        Args:
            tokens: (B, T) int64; rows of different lengths are padded on the left with any valid token.
            kv_cache: what an earlier part returned; None starts a new cache from `cache_factory`.
            padding: (B,) int64, how many tokens of each row are padding (first part only).
            exit_layer: stop after so many layers and use that exit's norm.
            last_only: compute the logits of the last token only.

        Returns:
            logits (B, T, vocab_size), or (B, 1, vocab_size) with `last_only`; and the cache.

        Raises:
            ValueError: "tokens must be (batch, tokens) int64 ..." or "... exceed max_position_embeddings".
        """
        if tokens.dim() != 2 or tokens.shape[1] == 0 or tokens.is_floating_point():
            raise ValueError(
                f"tokens must be (batch, tokens) int64 with at least one token; came {tuple(tokens.shape)}"
            )
        if kv_cache is None:
            kv_cache = self.cache_factory(self.config, tokens.shape[0], self.dtype)
            kv_cache.padding = padding
        elif padding is not None:
            raise ValueError("padding belongs to the first part of a prompt; the cache given already has tokens")
        hidden = self.forward_layers(self.embed(tokens), kv_cache, 0, exit_layer)
        kv_cache.advance(tokens.shape[1])
        return self.head(hidden[:, -1:] if last_only else hidden, exit_layer), kv_cache

    @torch.inference_mode()
    def decode(self, tokens: Tensor, kv_cache: KVCache, exit_layer: int | None = None) -> Tensor:
        """Run the next token of each row (or the next few), appending to the cache.

        Args:
            tokens: (B, T) int64, mostly T = 1.
            kv_cache: from `prefill`; it is changed.
            exit_layer: stop after so many layers and use that exit's norm.

        Returns:
            logits (B, T, vocab_size).
        """
        hidden = self.forward_layers(self.embed(tokens), kv_cache, 0, exit_layer)
        kv_cache.advance(tokens.shape[1])
        return self.head(hidden, exit_layer)

    def embed(self, tokens: Tensor) -> Tensor:
        """Return the first hidden states (B, T, hidden_size) of tokens (B, T)."""
        return functional.embedding(tokens, self._weights.embedding)

    def head(self, hidden: Tensor, exit_layer: int | None = None) -> Tensor:
        """Return the logits (B, T, vocab_size) of hidden states after the last layer, or after `exit_layer` layers.

        Raises:
            ValueError: "no exit after layer 3; this model has exits after 2, 4, 6 and 8".
        """
        name = "norm" if exit_layer in (None, self.config.num_hidden_layers) else f"exit_norms.{exit_layer}"
        if name not in self._weights.norms:
            known = ", ".join(str(n) for n in (*self.config.exit_layers, self.config.num_hidden_layers))
            raise ValueError(f"no exit after layer {exit_layer}; this model has exits after layers {known}")
        hidden = few_rows.rms_norm(hidden, self._weights.norms[name], self.config.rms_norm_eps)
        replaced = self._replaced.get("lm_head")
        return replaced(hidden) if replaced else self._head(hidden)

    def forward_layers(self, hidden: Tensor, kv_cache: KVCache, first: int = 0, last: int | None = None) -> Tensor:
        """Run layers `first` to `last` (not included), as one part of a model that is split between machines does.

        Args:
            hidden: (B, T, hidden_size) before layer `first`.
            kv_cache: a cache of this part; the caller calls `advance(T)` when its layers are done.
            first: first layer to run.
            last: first layer not to run; None: to the end.

        Returns:
            (B, T, hidden_size).
        """
        config, (B, T, _) = self.config, hidden.shape
        heads, kv_heads, eps = config.num_attention_heads, config.num_key_value_heads, config.rms_norm_eps
        rotated = heads + kv_heads
        cos, sin = self._rotation(kv_cache, T)
        masks: dict[int, Tensor | None] = {}
        for layer in self._plan[first:last]:
            normed = few_rows.rms_norm(hidden, layer.input_norm, eps)
            qkv = layer.qkv(normed).view(B, T, rotated + kv_heads, config.head_dim).transpose(1, 2)
            turned = qkv[:, :rotated]
            turned = torch.addcmul(turned * cos, turned.roll(self._half, -1), sin)
            keys, values = kv_cache.update(layer.number, turned[:, heads:], qkv[:, rotated:])
            if keys.shape[2] not in masks:
                masks[keys.shape[2]] = self._mask(kv_cache, T, keys.shape[2])
            mixed = self.attention(turned[:, :heads], keys, values, masks[keys.shape[2]], layer.number)
            hidden = hidden + layer.output(mixed.transpose(1, 2).reshape(B, T, -1))
            normed = few_rows.rms_norm(hidden, layer.post_norm, eps)
            hidden = hidden + (layer.replaced_mlp or self._feed_forward)(layer, normed)
        return hidden

    def _feed_forward(self, layer: planning.Layer, x: Tensor) -> Tensor:
        if layer.router is not None:
            return self._mixture(layer, x)
        gate, up = layer.experts[0].gate_up(x).chunk(2, -1)
        return layer.experts[0].down(self._activation(gate) * up)

    def _best_experts(self, scores: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        best, index = scores.float().softmax(-1).topk(self.config.num_experts_per_tok, -1)
        return index, best / best.sum(-1, keepdim=True)

    def _mixture(self, layer: planning.Layer, x: Tensor) -> Tensor:
        assert layer.router is not None
        rows = x.flatten(0, 1)
        index, weights = self.router(layer.router(rows), layer.number)
        out = torch.zeros_like(rows)
        for number in index.unique().tolist():
            token, place = (index == number).nonzero(as_tuple=True)
            expert = layer.experts[number]
            gate, up = expert.gate_up(rows[token]).chunk(2, -1)
            share = expert.down(self._activation(gate) * up) * weights[token, place, None].to(rows.dtype)
            out.index_add_(0, token, share)
        return out.view_as(x)

    def _rotation(self, kv_cache: KVCache, count: int) -> tuple[Tensor, Tensor]:
        packed = getattr(kv_cache, "positions", None)
        start, end = kv_cache.length, kv_cache.length + count
        if packed is not None:
            end = int(packed.max()) + 1
        limit = self.config.max_position_embeddings
        if end > limit:
            raise ValueError(f"{end} tokens exceed max_position_embeddings {limit}; shorten the prompt or the answer")
        if packed is not None:
            return self._cos[packed], self._sin[packed]
        if kv_cache.padding is None:
            return self._cos[start:end], self._sin[start:end]
        positions = (torch.arange(start, end) - kv_cache.padding[:, None]).clamp(min=0)
        return self._cos[positions].unsqueeze(1), self._sin[positions].unsqueeze(1)

    def _mask(self, kv_cache: KVCache, count: int, kept: int) -> Tensor | None:
        if getattr(kv_cache, "positions", None) is not None or (count == 1 and kv_cache.padding is None):
            return None
        places = torch.arange(kept)
        mask = places <= torch.arange(kept - count, kept)[:, None]
        if kv_cache.padding is None:
            return mask
        if kept != kv_cache.length + count:
            raise ValueError("rows of different lengths need a cache that keeps all tokens; run them one by one")
        # A padded row may look at itself, so that no row of the softmax is empty.
        real = (places >= kv_cache.padding[:, None])[:, None] | torch.eye(kept, dtype=torch.bool)[kept - count :]
        return (mask & real)[:, None]

    # ---- hooks ---------------------------------------------------------------------------------------------------

    def linears(self) -> dict[str, Tensor]:
        """Return {name: weight (N, K)} of every linear layer but the head: copies, row by row; see `set_weight`."""
        stored = self._weights.linears
        return {name: weight.clone(memory_format=torch.contiguous_format) for name, weight in stored.items()}

    def set_weight(self, name: str, weight: Tensor) -> None:
        """Overwrite the weight (N, K) of a linear layer, rounding to the decoder's type.

        Raises:
            KeyError: "no linear layer is called 'x'; names look like 'layers.0.attention.q_proj'".
            ValueError: "weight of ... must be (N, K); came ...".
        """
        mine = self._weight(name)
        if weight.shape != mine.shape:
            raise ValueError(f"weight of {name} must be {tuple(mine.shape)}; came {tuple(weight.shape)}")
        mine.copy_(weight)

    def replace_linear(self, name: str, product: Product | None) -> None:
        """Let `product` (x (..., K) -> (..., N)) stand for a linear layer, bias included; None puts the layer back.

        `name` may also be "lm_head". Example: run one layer with weights of eight bits::

            weight = model.linears()["layers.0.mlp.down_proj"]
            scale = weight.abs().amax(1, keepdim=True) / 127
            codes = (weight / scale).round().to(torch.int8)
            model.replace_linear("layers.0.mlp.down_proj", lambda x: x @ (codes * scale).T)

        Raises:
            KeyError: "no linear layer is called 'x'; names look like 'layers.0.attention.q_proj'".
        """
        if name != "lm_head":
            self._weight(name)
        self._replaced.pop(name, None)
        if product is not None:
            self._replaced[name] = product
        self._rebuild()

    def replace_mlp(self, layer: int, network: Product | None) -> None:
        """Let `network` (x (B, T, hidden_size) -> same) stand for a layer's whole feed-forward network; None undoes it.

        Example: skip the network of the last layer::

            model.replace_mlp(7, torch.zeros_like)
        """
        if not 0 <= layer < self.config.num_hidden_layers:
            raise ValueError(
                f"there is no layer {layer}; this model has layers 0 to {self.config.num_hidden_layers - 1}"
            )
        self._plan[layer].replaced_mlp = None if network is None else lambda _, x: network(x)

    def restore(self) -> None:
        """Undo every replacement: products, networks, attention, router, cache and weight store."""
        self._replaced.clear()
        self.attention, self.cache_factory, self.router = attend, PlainCache, self._best_experts
        self.weight_store = MemoryStore(self._weights.linears)
        for layer in self._plan:
            layer.replaced_mlp = None

    @property
    def weight_store(self) -> WeightStore:
        """Where the weights of linear layers come from at the moment of use."""
        return self._store

    @weight_store.setter
    def weight_store(self, store: WeightStore) -> None:
        self._store = store
        self._rebuild()

    @torch.inference_mode()
    def capture_inputs(self, tokens: Tensor, names: Iterable[str] | None = None) -> dict[str, Tensor]:
        """Run tokens (B, T) and return the inputs that linear layers saw: the calibration data of quantization.

        Args:
            tokens: (B, T) int64.
            names: which layers; None: all.

        Returns:
            {name: (rows, K)}; rows is B * T, or fewer for an expert (those tokens that chose it).
        """
        wanted = set(self._weights.linears if names is None else names)
        for name in wanted:
            self._weight(name)
        seen: dict[str, list[Tensor]] = {name: [] for name in wanted}
        mlps = [layer.replaced_mlp for layer in self._plan]
        try:
            self._rebuild(seen)
            self.prefill(tokens)
        finally:
            self._rebuild()
            for layer, mlp in zip(self._plan, mlps, strict=True):
                layer.replaced_mlp = mlp
        empty = {name: weight.new_empty(0, weight.shape[1]) for name, weight in self._weights.linears.items()}
        return {name: torch.cat(parts) if parts else empty[name] for name, parts in seen.items()}

    def _weight(self, name: str) -> Tensor:
        if name not in self._weights.linears:
            raise KeyError(f"no linear layer is called {name!r}; names look like 'layers.0.attention.q_proj'")
        return self._weights.linears[name]

    def _rebuild(self, seen: dict[str, list[Tensor]] | None = None) -> None:
        mlps = [layer.replaced_mlp for layer in self._plan]
        self._plan = planning.build(self.config, self._weights, self._store, self._replaced, seen)
        for layer, mlp in zip(self._plan, mlps, strict=True):
            layer.replaced_mlp = mlp

    # ---- tensors -------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Tensor]:
        """Return every tensor under its Hugging Face name, as a checkpoint file holds them."""
        weights = self._weights
        tensors = {"model.embed_tokens.weight": weights.embedding}
        tensors |= {f"model.{name}.weight": tensor for name, tensor in weights.norms.items()}
        tensors |= {f"{file_name(name)}.weight": tensor for name, tensor in self.linears().items()}
        tensors |= {f"{file_name(name)}.bias": tensor for name, tensor in weights.biases.items()}
        if not self.config.tie_word_embeddings:
            tensors["lm_head.weight"] = weights.head
        return tensors

    def clone(self, dtype: torch.dtype | None = None) -> Decoder:
        """Return an independent decoder with the same weights and no replacements, in another type if wanted."""
        copies = {name: tensor.clone() for name, tensor in self.state_dict().items()}
        return Decoder(self.config, Weights(self.config, copies, dtype or self.dtype))

    def num_parameters(self, names: Sequence[str] | None = None) -> int:
        """Count the weights, or those of some tensors of `state_dict()`; a tied head counts once."""
        tensors = self.state_dict()
        return sum(tensors[name].numel() for name in names or tensors)
