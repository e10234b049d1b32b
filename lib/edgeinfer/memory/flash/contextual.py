"""Contextual sparsity: a predictor, one layer ahead, says which neurons and heads the next layer computes.

It sits in the decoder's hooks and counts what it saved; here the skipped parts are masked, `gather` really skips them.
Source: deja-vu.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from edgeinfer.memory.flash.predictor import Predictor, fit_predictor
from edgeinfer.memory.flash.traces import Trace
from edgeinfer.models.decoder import Decoder


def fit_contextual(trace: Trace, rank: int, recall: float = 0.95, ahead: bool = True) -> list[Predictor]:
    """Fit one predictor of neurons per layer on a trace of training text.

    Args:
        trace: see `record_trace`.
        rank: of each predictor.
        recall: share of firings that each must catch on that text.
        ahead: from the layer before (the prediction runs beside it); False: from the layer's own input.
    """
    layers = range(len(trace.active))
    sources = [trace.ahead(n) if ahead else trace.inputs[n] for n in layers]
    return [fit_predictor(x, fired, rank, recall) for x, fired in zip(sources, trace.active, strict=True)]


def fit_heads(trace: Trace, rank: int, keep: int) -> list[Predictor]:
    """Fit one predictor of heads per layer: which `keep` of them add most to the hidden state."""
    fitted = []
    for number, norms in enumerate(trace.heads):
        ranks = np.argsort(np.argsort(-norms, 1), 1)
        fitted.append(fit_predictor(trace.ahead(number), ranks < keep, min(rank, norms.shape[1])))
    return fitted


def _top(scores: np.ndarray, keep: int) -> np.ndarray:
    best = np.argpartition(-scores, keep - 1, -1)[..., :keep]
    chosen = np.zeros(scores.shape, bool)
    np.put_along_axis(chosen, best, True, -1)
    return chosen


@dataclass
class ContextualSparsity:
    """Lets a decoder compute predicted neurons and heads only, and counts them.

    Args:
        model: a dense decoder with ReLU.
        neurons: a predictor per layer; empty: all neurons.
        heads: a predictor per layer; empty: all heads. The first layer keeps all heads: nothing runs before it.
        keep_heads: heads that stay in each other layer.

    Attributes:
        tokens, chosen, fired, caught: sums over tokens and layers: neurons predicted, firing, and both.

    Raises:
        ValueError: "8 layers need 8 predictors; came 7".
    """

    model: Decoder
    neurons: list[Predictor] = field(default_factory=list)
    heads: list[Predictor] = field(default_factory=list)
    keep_heads: int = 0
    tokens: int = 0
    chosen: int = 0
    fired: int = 0
    caught: int = 0

    def __post_init__(self) -> None:
        config = self.model.config
        for given in (self.neurons, self.heads):
            if given and len(given) != config.num_hidden_layers:
                raise ValueError(f"{config.num_hidden_layers} layers need as many predictors; came {len(given)}")
        if self.heads and not 1 <= self.keep_heads <= config.num_attention_heads:
            raise ValueError(f"keep_heads must be from 1 to {config.num_attention_heads}; came {self.keep_heads}")
        self._weights = self.model.linears()
        self._next_neurons: np.ndarray | None = None
        self._next_heads: np.ndarray | None = None

    @property
    def recall(self) -> float:
        """Share of firing neurons that were predicted."""
        return self.caught / max(1, self.fired)

    @property
    def density(self) -> float:
        """Share of neurons that were predicted."""
        config = self.model.config
        return self.chosen / max(1, self.tokens * config.num_hidden_layers * config.intermediate_size)

    @property
    def work(self) -> float:
        """Multiplications of predicted neurons and predictors together, as a share of the dense networks'."""
        config = self.model.config
        dense = 3 * config.hidden_size * config.intermediate_size * config.num_hidden_layers
        return self.density + sum(p.operations for p in self.neurons) / dense

    def install(self) -> ContextualSparsity:
        """Put the hooks in; `model.restore()` takes them out."""
        for number in range(self.model.config.num_hidden_layers):
            name = f"layers.{number}.attention.o_proj"
            if self.heads:
                self.model.replace_linear(name, partial(self._output, number, self._weights[name]))
            self.model.replace_mlp(number, partial(self._network, number))
        if self.neurons:
            # The first layer's guess comes from the input of its attention, which the query product sees.
            name = "layers.0.attention.q_proj"
            self.model.replace_linear(name, partial(self._begin, self._weights[name]))
        return self

    def _begin(self, weight: Tensor, x: Tensor) -> Tensor:
        self._next_neurons = self.neurons[0].choose(x.float().numpy())
        return functional.linear(x, weight)

    def _output(self, number: int, weight: Tensor, mixed: Tensor) -> Tensor:
        if number and self._next_heads is not None:
            mask = torch.from_numpy(self._next_heads).to(mixed.dtype)
            mixed = (mixed.unflatten(-1, (mask.shape[-1], -1)) * mask[..., None]).flatten(-2)
        return functional.linear(mixed, weight)

    def _network(self, number: int, x: Tensor) -> Tensor:
        chosen = self._next_neurons if self.neurons else None
        known, following = x.float().numpy(), number + 1
        if following < self.model.config.num_hidden_layers:
            if self.neurons:
                self._next_neurons = self.neurons[following].choose(known)
            if self.heads:
                self._next_heads = _top(self.heads[following].scores(known), self.keep_heads)
        weight: Callable[[str], Tensor] = lambda part: self._weights[f"layers.{number}.mlp.{part}_proj"]  # noqa: E731
        gate = torch.relu(functional.linear(x, weight("gate")))
        self.tokens += x.shape[0] * x.shape[1] if number == 0 else 0
        if chosen is not None:
            fires, mask = (gate > 0).numpy(), torch.from_numpy(chosen)
            self.chosen += int(np.count_nonzero(chosen))
            self.fired += int(np.count_nonzero(fires))
            self.caught += int(np.count_nonzero(fires & chosen))
            gate = gate * mask
        return functional.linear(gate * functional.linear(x, weight("up")), weight("down"))
