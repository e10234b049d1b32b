"""The network as training sees it: differentiable, compiled as a whole, parameters under their Hugging Face names.

Inference has its own decoder (`edgeinfer.models.decoder`); the tests hold the two equal on the same weights. Attention
is matmul, mask, softmax: on processors the backward pass of the fused kernel is slower. Source: llama, mixtral,
bitnet-b158; the shared exits follow arXiv:2404.16710.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

Config = dict[str, Any]


class Norm(nn.Module):
    """Root-mean-square normalisation over the last axis."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x (..., size) in float32."""
        x = x.float()
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) * self.weight


def ternary_weight(weight: Tensor) -> Tensor:
    """Round each row of weight (N, K) to {-1, 0, 1} times the row's mean magnitude; exact in float32 and bfloat16."""
    scale = weight.abs().mean(1, keepdim=True).clamp(min=1e-5).bfloat16().to(weight.dtype)
    return (weight / scale).round().clamp(-1, 1) * scale


class Linear(nn.Module):
    """A product with weight (N, K); with `ternary` the weight is rounded forward, and gradients pass unchanged."""

    def __init__(self, inputs: int, outputs: int, ternary: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.ternary = ternary

    def forward(self, x: Tensor) -> Tensor:
        """Map x (..., K) to (..., N)."""
        weight: Tensor = self.weight
        if self.ternary:
            weight = weight + (ternary_weight(weight) - weight).detach()
        return functional.linear(x, weight)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)


class Attention(nn.Module):
    """Causal grouped-query attention with rotary positions."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.heads, self.kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
        self.head_dim, size = config["head_dim"], config["hidden_size"]
        ternary = bool(config.get("ternary"))
        self.q_proj = Linear(size, self.heads * self.head_dim, ternary)
        self.k_proj = Linear(size, self.kv_heads * self.head_dim, ternary)
        self.v_proj = Linear(size, self.kv_heads * self.head_dim, ternary)
        self.o_proj = Linear(self.heads * self.head_dim, size, ternary)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        """Attend over x (B, T, hidden_size) with cos, sin (T, head_dim / 2) and an additive mask (T, T)."""
        B, T, _ = x.shape
        groups = self.heads // self.kv_heads
        q = _rotate(self.q_proj(x).view(B, T, self.heads, self.head_dim).transpose(1, 2), cos, sin)
        k = _rotate(self.k_proj(x).view(B, T, self.kv_heads, self.head_dim).transpose(1, 2), cos, sin)
        v = self.v_proj(x).view(B, T, self.kv_heads, self.head_dim).transpose(1, 2)
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        scores = (q @ k.transpose(2, 3)).float() * self.head_dim**-0.5 + mask
        mixed = scores.softmax(-1).to(v.dtype) @ v
        return self.o_proj(mixed.transpose(1, 2).reshape(B, T, -1))


class Mlp(nn.Module):
    """Gated feed-forward network; also returns the mean magnitude of the activated gate, for the sparsity push."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        size, inner, ternary = config["hidden_size"], config["intermediate_size"], bool(config.get("ternary"))
        self.gate_proj, self.up_proj = Linear(size, inner, ternary), Linear(size, inner, ternary)
        self.down_proj = Linear(inner, size, ternary)
        self.relu = config["hidden_act"] == "relu"

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map x (B, T, hidden_size) to the same shape."""
        gate = self.gate_proj(x)
        gate = gate.relu() if self.relu else functional.silu(gate)
        return self.down_proj(gate * self.up_proj(x)), gate.float().abs().mean()


class Expert(nn.Module):
    """One expert under the names of Mixtral: w1 gate, w3 up, w2 down."""

    def __init__(self, size: int, inner: int) -> None:
        super().__init__()
        self.w1, self.w3 = Linear(size, inner, False), Linear(size, inner, False)
        self.w2 = Linear(inner, size, False)


class Experts(nn.Module):
    """Mixture of experts: the router's best `num_experts_per_tok`, weights renormalised; also the load-balance loss.

    All experts are computed for all tokens and weighted, most by zero: at this size that is quicker than sorting.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.count, self.chosen = config["num_local_experts"], config["num_experts_per_tok"]
        self.gate = Linear(config["hidden_size"], self.count, False)
        self.experts: Any = nn.ModuleList(
            Expert(config["hidden_size"], config["intermediate_size"]) for _ in range(self.count)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map x (B, T, hidden_size) to the same shape."""
        probabilities = self.gate(x).float().softmax(-1)
        best, index = probabilities.topk(self.chosen, -1)
        chosen = torch.zeros_like(probabilities).scatter(-1, index, 1.0)
        weights = probabilities * chosen / best.sum(-1, keepdim=True)
        w1, w3 = (torch.cat([getattr(e, n).weight for e in self.experts]) for n in ("w1", "w3"))
        w2 = torch.cat([e.w2.weight for e in self.experts], 1)
        inner = functional.silu(functional.linear(x, w1)) * functional.linear(x, w3)
        inner = (inner.unflatten(-1, (self.count, -1)) * weights.to(inner.dtype).unsqueeze(-1)).flatten(-2)
        share, mean = chosen.flatten(0, 1).mean(0) / self.chosen, probabilities.flatten(0, 1).mean(0)
        return functional.linear(inner, w2), self.count * (share * mean).sum()


class Layer(nn.Module):
    """One decoder layer."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        size, eps = config["hidden_size"], config["rms_norm_eps"]
        self.input_layernorm, self.post_attention_layernorm = Norm(size, eps), Norm(size, eps)
        self.self_attn = Attention(config)
        self.is_moe = "num_local_experts" in config
        if self.is_moe:
            self.block_sparse_moe = Experts(config)
        else:
            self.mlp = Mlp(config)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return the residual stream after this layer and the layer's auxiliary value."""
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, mask)
        out, aux = (self.block_sparse_moe if self.is_moe else self.mlp)(self.post_attention_layernorm(x))
        return x + out, aux


class Body(nn.Module):
    """Embedding, layers and norms, under the prefix `model.` of the Hugging Face names."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        size, eps = config["hidden_size"], config["rms_norm_eps"]
        self.embed_tokens = nn.Embedding(config["vocab_size"], size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config["num_hidden_layers"]))
        self.norm = Norm(size, eps)
        self.exit_norms = nn.ModuleDict({str(n): Norm(size, eps) for n in config.get("exit_layers", ())})


class Network(nn.Module):
    """Token ids to the logits of every exit; parameters are named as in the Hugging Face file, the head is tied."""

    cos: Tensor
    sin: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.exits = tuple(config.get("exit_layers", ()))
        self.model = Body(config)
        half = config["head_dim"] // 2
        frequency = config["rope_theta"] ** (-torch.arange(half, dtype=torch.float32) / half)
        angles = torch.outer(torch.arange(config["max_position_embeddings"], dtype=torch.float32), frequency)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)
        self.initialise()

    @torch.no_grad()
    def initialise(self) -> None:
        """Draw the starting weights: small embedding, matrices by fan-in, residual outputs shrunk with depth."""
        depth = 2 * self.config["num_hidden_layers"]
        for name, parameter in self.named_parameters():
            if "embed_tokens" in name:
                parameter.normal_(0, 0.05)
            elif parameter.dim() == 2:
                shrink = depth**-0.5 if name.endswith(("o_proj.weight", "down_proj.weight", "w2.weight")) else 1.0
                parameter.normal_(0, 0.5 * shrink * parameter.shape[1] ** -0.5)

    def forward(self, tokens: Tensor) -> tuple[dict[int, Tensor], Tensor]:
        """Return {layers passed: logits (B, T, V)} for the exits and the whole, and the auxiliary values (layers,)."""
        T = tokens.shape[1]
        cos, sin = self.cos[:T], self.sin[:T]
        mask = torch.full((T, T), float("-inf"), device=tokens.device).triu(1)
        head = self.model.embed_tokens.weight
        x = self.model.embed_tokens(tokens)
        logits, auxiliary = {}, []
        for number, layer in enumerate(self.model.layers, 1):
            x, aux = layer(x, cos, sin, mask)
            auxiliary.append(aux)
            if number in self.exits:
                logits[number] = functional.linear(self.model.exit_norms[str(number)](x), head)
        logits[len(self.model.layers)] = functional.linear(self.model.norm(x), head)
        return logits, torch.stack(auxiliary)
