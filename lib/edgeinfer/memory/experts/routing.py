"""What the gates of a mixture choose on real text, and how well a gate's choice can be foreseen a layer earlier.

It reads a decoder through its hooks and changes nothing in it. Source: mixtral-offloading.
"""

from __future__ import annotations

import torch
from torch import Tensor

from edgeinfer.models import Decoder


def _gates(model: Decoder) -> list[str]:
    if not model.config.is_moe:
        raise ValueError("this model has no experts; load a mixture, for instance models.load('moe')")
    return [f"layers.{n}.moe.router" for n in range(model.config.num_hidden_layers)]


def gate_weights(model: Decoder) -> list[Tensor]:
    """Return the gates, one (experts, hidden_size) per layer.

    Raises:
        ValueError: "this model has no experts; ...".
    """
    names, weights = _gates(model), model.linears()
    return [weights[name] for name in names]


def gate_inputs(model: Decoder, tokens: Tensor) -> list[Tensor]:
    """Return what each layer's gate sees, one (B * T, hidden_size) per layer, for tokens (B, T)."""
    names = _gates(model)
    seen = model.capture_inputs(tokens, names)
    return [seen[name] for name in names]


def choices(model: Decoder, inputs: list[Tensor], gates: list[Tensor] | None = None) -> list[Tensor]:
    """Return the experts chosen, one (rows, k) int64 per layer, each row in rising order as the decoder runs them.

    Args:
        model: says how many experts a token gets.
        inputs: from `gate_inputs`.
        gates: weights to use instead of the model's.
    """
    k = model.config.num_experts_per_tok
    gates = gate_weights(model) if gates is None else gates
    return [(x @ gate.T).topk(k, -1).indices.sort(-1).values for x, gate in zip(inputs, gates, strict=True)]


def speculation_recall(model: Decoder, inputs: list[Tensor], guesses: int, ahead: int = 1) -> list[float]:
    """Share of the experts really used that the gate of layer n + ahead names when it reads layer n's hidden state.

    Args:
        model: a mixture.
        inputs: from `gate_inputs`.
        guesses: experts fetched on suspicion, at least 1.
        ahead: layers between the hidden state and the gate.

    Returns:
        Recall, 0 to 1, for layers `ahead`, `ahead` + 1, ...

    Raises:
        ValueError: "guesses must be 1 to 8 experts, got 9".

    Source: mixtral-offloading.
    """
    experts = model.config.num_local_experts
    if not 1 <= guesses <= experts:
        raise ValueError(f"guesses must be 1 to {experts} experts, got {guesses}")
    gates, used = gate_weights(model), choices(model, inputs)
    recalls = []
    for n in range(len(gates) - ahead):
        guess = (inputs[n] @ gates[n + ahead].T).topk(guesses, -1).indices
        found = (used[n + ahead][:, :, None] == guess[:, None, :]).any(-1)
        recalls.append(float(found.float().mean()))
    return recalls


def with_random_gates(model: Decoder, seed: int = 0) -> Decoder:
    """Return a copy whose gates are replaced by random ones of the same size: what an untrained gate would choose."""
    copy, generator = model.clone(), torch.Generator().manual_seed(seed)
    for name, gate in zip(_gates(model), gate_weights(model), strict=True):
        copy.set_weight(name, torch.randn(gate.shape, generator=generator) * gate.std())
    return copy
