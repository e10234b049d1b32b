"""Low-rank factors shared between layers, started from the singular vectors of trained weights or from noise.

One input factor V (r, K) serves all layers of a kind; each layer keeps its output factor U (N, r). `tune` trains either
start on real text for a few steps. Knows the training network and no other technique. Source: lightformer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgeinfer.models import Decoder
from edgeinfer.models.training.network import Network

KINDS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj")


@dataclass(frozen=True)
class SharedFactors:
    """W_l is approximated by left[l] @ right.

    Attributes:
        left: (layers, N, r).
        right: (r, K), one for all layers.
    """

    left: Tensor
    right: Tensor

    @property
    def nbytes(self) -> int:
        """Bytes at 16 bits a number."""
        return 2 * (self.left.numel() + self.right.numel())

    def dense(self) -> Tensor:
        """(layers, N, K)."""
        return self.left @ self.right


def share_factors(weights: Sequence[Tensor], rank: int) -> SharedFactors:
    """The best common input factor in the least squares sense: the singular vectors of the stacked weights.

    Args:
        weights: (N, K) each, one a layer.
        rank: directions kept, 1..K.

    Raises:
        ValueError: "rank must lie in 1..256, got 0."
    """
    stacked = torch.cat(list(weights)).double()
    most = min(stacked.shape)
    if not 1 <= rank <= most:
        raise ValueError(f"rank must lie in 1..{most}, got {rank}.")
    right = torch.linalg.svd(stacked, full_matrices=False)[2][:rank]
    left = torch.stack([w.double() @ right.T for w in weights])
    return SharedFactors(left.float(), right.float())


class _Product(nn.Module):
    """x -> x V^T U^T with a V that other layers hold, too."""

    def __init__(self, left: Tensor, right: nn.Parameter) -> None:
        super().__init__()
        self.left, self.right = nn.Parameter(left.clone()), right

    def forward(self, x: Tensor) -> Tensor:
        """Map x (..., K) to (..., N)."""
        return functional.linear(functional.linear(x, self.right), self.left)


def differentiable(model: Decoder) -> Network:
    """The training network with a dense decoder's weights, float32."""
    c = model.config
    names = (
        "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads head_dim "
        "max_position_embeddings rms_norm_eps rope_theta hidden_act"
    )
    network = Network({name: getattr(c, name) for name in names.split()})
    network.load_state_dict({name: tensor.float() for name, tensor in model.state_dict().items()})
    return network


def compress(network: Network, rank: int, start: str = "svd", seed: int = 0) -> int:
    """Replace every kind in `KINDS` by shared factors, in place.

    Args:
        network: a dense training network with trained weights.
        rank: directions kept.
        start: "svd" transfers the trained weights; "random" draws factors whose product is as large.
        seed: of the random start.

    Returns:
        Bytes of these weights at 16 bits.

    Raises:
        ValueError: "start must be 'svd' or 'random', got 'zeros'."
    """
    if start not in ("svd", "random"):
        raise ValueError(f"start must be 'svd' or 'random', got {start!r}.")
    draw, total = torch.Generator().manual_seed(seed), 0
    layers = list(network.model.layers)
    for kind in KINDS:
        part, name = kind.split(".")
        weights = [getattr(getattr(layer, part), name).weight.detach() for layer in layers]
        if start == "svd":
            factors = share_factors(weights, rank)
        else:
            (rows, columns), size = weights[0].shape, float(torch.stack(weights).std())
            left = torch.randn(len(layers), rows, rank, generator=draw) * size
            factors = SharedFactors(left, torch.randn(rank, columns, generator=draw) * rank**-0.5)
        shared = nn.Parameter(factors.right.clone())
        for layer, own in zip(layers, factors.left, strict=True):
            setattr(getattr(layer, part), name, _Product(own, shared))
        total += factors.nbytes
    return total


def batches(tokens: Tensor, steps: int, rows: int = 4, length: int = 64, seed: int = 0) -> list[Tensor]:
    """Draw `steps` batches (rows, length + 1) of real text."""
    draw = torch.Generator().manual_seed(seed)
    starts = torch.randint(len(tokens) - length, (steps, rows), generator=draw)
    return [torch.stack([tokens[s : s + length + 1] for s in row.tolist()]) for row in starts]


def loss(network: nn.Module, batch: Tensor) -> Tensor:
    """Mean -log p of each next token of the batch (rows, length + 1)."""
    logits = list(network(batch[:, :-1])[0].values())[-1]
    return functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())


def tune(network: nn.Module, data: Iterable[Tensor], rate: float = 1e-3) -> list[float]:
    """Train all parameters on the batches, one step each, with Adam; return the loss before each step."""
    optimizer = torch.optim.Adam(network.parameters(), lr=rate, betas=(0.9, 0.95))
    curve = []
    for batch in data:
        value = loss(network, batch)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        optimizer.step()
        curve.append(float(value.detach()))
    return curve


@torch.no_grad()
def held_out_loss(network: nn.Module, data: Sequence[Tensor]) -> float:
    """Mean loss over batches that are not trained on."""
    return sum(float(loss(network, batch)) for batch in data) / len(data)
