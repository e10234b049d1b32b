"""Gates that decide a block early: the gate in block n - 1 chooses the experts of block n, which travel meanwhile.

Only the gates are trained, to say from the earlier hidden state what the original gate says from its own. The paper
trains whole models; this is the shortest training that shows why training is needed. Source: pre-gated-moe.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from edgeinfer.memory.experts.routing import gate_inputs, gate_weights
from edgeinfer.memory.experts.store import ExpertStore
from edgeinfer.models import Decoder

Mixing = Literal["own gate", "pre-gate"]


def fit_pregates(model: Decoder, tokens: Tensor, steps: int = 300, rate: float = 0.01, seed: int = 0) -> list[Tensor]:
    """Train pre-gates by distillation.

    Args:
        model: a mixture; it is not changed.
        tokens: (B, T) int64 training text.
        steps: steps of Adam with 512 rows each, per gate.
        rate: learning rate, falling to zero.
        seed: of the rows drawn.

    Returns:
        Gates (experts, hidden_size) for layers 0, 1, ...; the first is the model's own, as nothing comes before it.

    Source: pre-gated-moe.
    """
    inputs, gates = gate_inputs(model, tokens), gate_weights(model)
    generator = torch.Generator().manual_seed(seed)
    trained = [gates[0]]
    for n in range(1, len(gates)):
        below, target = inputs[n - 1].clone(), (inputs[n] @ gates[n].T).softmax(-1).clone()
        gate = gates[n].clone()
        mean, square = torch.zeros_like(gate), torch.zeros_like(gate)
        for step in range(steps):
            rows = torch.randint(len(below), (512,), generator=generator)
            x = below[rows]
            # The gradient of the cross entropy to the target's shares, and one step of Adam. Written out, because
            # torch.optim takes seconds to import and this is all that is needed of it.
            gradient = ((x @ gate.T).softmax(-1) - target[rows]).T @ x / len(rows)
            mean = 0.9 * mean + 0.1 * gradient
            square = 0.999 * square + 0.001 * gradient**2
            scale = (1 - 0.999 ** (step + 1)) ** 0.5 / (1 - 0.9 ** (step + 1))
            gate -= rate * (1 - step / steps) * scale * mean / (square.sqrt() + 1e-8)
        trained.append(gate)
    return trained


def install_pregates(
    model: Decoder, pregates: list[Tensor], mixing: Mixing = "own gate", store: ExpertStore | None = None
) -> None:
    """Let block n's experts be chosen from what block n - 1's gate sees.

    Args:
        model: the gates are replaced; `model.restore()` undoes it.
        pregates: one (experts, hidden_size) per layer; the model's own gates: the untrained shift.
        mixing: the shares of the chosen experts come from the block's "own gate", which by then can be asked, or from
            the "pre-gate" as well.
        store: fetches the chosen experts early.

    Raises:
        ValueError: "pregates must be one gate per layer, 8; came 7".
    """
    gates, k = gate_weights(model), model.config.num_experts_per_tok
    if len(pregates) != len(gates):
        raise ValueError(f"pregates must be one gate per layer, {len(gates)}; came {len(pregates)}")
    early: dict[int, Tensor] = {}

    def product(layer: int) -> None:
        def run(x: Tensor) -> Tensor:
            scores = functional.linear(x, gates[layer])
            if layer:
                foreseen = early.pop(layer)
                if mixing == "pre-gate":
                    scores = foreseen
                else:
                    chosen = torch.zeros_like(foreseen, dtype=torch.bool).scatter(
                        -1, foreseen.topk(k, -1).indices, True
                    )
                    scores = scores.masked_fill(~chosen, float("-inf"))
            if layer + 1 < len(gates):
                early[layer + 1] = functional.linear(x, pregates[layer + 1])
                if store is not None:
                    store.prefetch(layer + 1, early[layer + 1].topk(k, -1).indices.unique().tolist())
            return scores

        model.replace_linear(f"layers.{layer}.moe.router", run)

    for layer in range(len(gates)):
        product(layer)
