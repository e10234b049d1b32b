"""The shards of a shipped model: each layer's attention and feed-forward network, stored in several fidelities.

Importance is measured, not assumed: how much the loss on profiling text grows when one shard alone is at its lowest
fidelity. At the others the loss is taken to shrink as the square of the rounding error does. Source: sti.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from edgeinfer.kernels.quantize import QuantizedWeight, quantize_groupwise
from edgeinfer.models.decoder import Decoder

FIDELITIES = (2, 3, 4, 6, 8)


@dataclass(frozen=True)
class Shards:
    """What a planner needs to know of a model.

    Attributes:
        names: of the shards, in the order of computation, such as "layers.0.attention".
        bits: the fidelities.
        sizes: (shards, fidelities) bytes.
        losses: (shards, fidelities) growth of the loss, measured at the lowest and scaled for the others.
    """

    names: tuple[str, ...]
    bits: tuple[int, ...]
    sizes: np.ndarray
    losses: np.ndarray


def mean_loss(model: Decoder, tokens: Tensor) -> float:
    """Mean of -log p(next token) over windows (B, T + 1)."""
    logits, _ = model.prefill(tokens[:, :-1])
    return functional.cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten()).item()


class ShardedModel:
    """A decoder whose shards can be set to any fidelity.

    Args:
        model: its own copy is changed, the given one is not.
        bits: fidelities to store.
        group_size: weights that share a scale.
    """

    def __init__(self, model: Decoder, bits: Sequence[int] = FIDELITIES, group_size: int = 32) -> None:
        self.model = model.clone()
        self.bits, self.group_size = tuple(bits), group_size
        self._exact = model.linears()
        self.names = tuple(dict.fromkeys(name.rsplit(".", 1)[0] for name in self._exact))
        self.stored: dict[tuple[str, int], QuantizedWeight] = {
            (name, b): quantize_groupwise(weight.float().numpy(), b, group_size, symmetric=False)
            for name, weight in self._exact.items()
            for b in self.bits
        }

    def inside(self, shard: str) -> list[str]:
        """The linear layers of a shard."""
        return [name for name in self._exact if name.rsplit(".", 1)[0] == shard]

    def set(self, shard: str, bits: int | None) -> None:
        """Set one shard to a fidelity; None: as it was trained."""
        for name in self.inside(shard):
            exact = self._exact[name]
            self.model.set_weight(
                name, exact if bits is None else torch.from_numpy(self.stored[name, bits].dequantize()).to(exact.dtype)
            )

    def apply(self, kinds: Sequence[int]) -> None:
        """Set every shard to the fidelity with that index, as `elastic.plan` gives them."""
        for shard, kind in zip(self.names, kinds, strict=True):
            self.set(shard, self.bits[kind])

    def bytes_of(self, kinds: Sequence[int]) -> int:
        """Bytes that are read for a plan."""
        return sum(
            self.stored[name, self.bits[kind]].nbytes
            for shard, kind in zip(self.names, kinds, strict=True)
            for name in self.inside(shard)
        )

    def profile(self, tokens: Tensor) -> Shards:
        """Measure what each shard is worth.

        Args:
            tokens: (B, T + 1) profiling text; the plan must be judged on other text.
        """
        for shard in self.names:
            self.set(shard, None)
        base = mean_loss(self.model, tokens)
        sizes, losses = [], []
        for shard in self.names:
            inside = self.inside(shard)
            sizes.append([sum(self.stored[n, b].nbytes for n in inside) for b in self.bits])
            error = [
                sum(
                    float(((self.stored[n, b].dequantize() - self._exact[n].float().numpy()) ** 2).sum())
                    for n in inside
                )
                for b in self.bits
            ]
            self.set(shard, self.bits[0])
            # Chance may make a coarser shard look better; a plan must not spend bytes to lose them.
            worst = max(mean_loss(self.model, tokens) - base, 1e-6)
            self.set(shard, None)
            losses.append([worst * e / error[0] for e in error])
        return Shards(self.names, self.bits, np.array(sizes), np.array(losses))
