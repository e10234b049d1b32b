"""A decoder whose feed-forward weights stay in a file: predicted neurons that no recent token has left here are read.

Memory is fixed at the start: a table of kept neurons per layer and one layer's worth of room for what passes through.
Source: llm-in-a-flash.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeinfer.memory.flash.gather import gathered_network
from edgeinfer.memory.flash.neuron_file import NeuronFile
from edgeinfer.memory.flash.window import NeuronMemory, SlidingWindow

if TYPE_CHECKING:
    from torch import Tensor

    from edgeinfer.models.decoder import Decoder

Choose = Callable[[int, np.ndarray], np.ndarray]


@dataclass
class Ledger:
    """What the tokens cost: `tokens` seen, neurons `used`, neurons `loaded`; bytes and requests are the file's."""

    tokens: int = 0
    used: int = 0
    loaded: int = 0


class FlashNetwork:
    """Feed-forward networks of all layers over a `NeuronFile`.

    Args:
        file: the neurons.
        choose: (layer, x float32 (H,)) -> bool (M,), which neurons to compute; None: all of them.
        window: tokens whose neurons are kept.
        budget_bytes: for kept neurons and the room that reads pass through; None: enough for all layers.
        gap: unwanted neurons read along between two wanted ones, see `merge_reads`.

    Attributes:
        ledger: counts; `file.cold` has bytes and requests.
        memory_bytes: what the tables and the room hold.

    Raises:
        ValueError: "a budget of 1000 bytes is smaller than one layer (983040 bytes) ...".
    """

    def __init__(
        self,
        file: NeuronFile,
        choose: Choose | None = None,
        window: int = 4,
        budget_bytes: int | None = None,
        gap: int = 0,
    ) -> None:
        self.file, self.choose, self.gap = file, choose, gap
        width, row = 3 * file.hidden, 6 * file.hidden
        layer = file.neurons * row
        if budget_bytes is None:
            budget_bytes = (file.layers + 1) * layer
        if budget_bytes < layer:
            raise ValueError(
                f"a budget of {budget_bytes} bytes is smaller than one layer ({layer} bytes), which one token may need "
                f"whole; give at least that, and more to keep neurons between tokens"
            )
        capacity = min(file.neurons, (budget_bytes - layer) // (file.layers * row))
        self.windows = [SlidingWindow(file.neurons, window if capacity else 0, capacity) for _ in range(file.layers)]
        self.memories = [NeuronMemory(file.neurons, capacity, width) for _ in range(file.layers)]
        self.room = np.zeros((file.neurons, width), np.uint16)
        self.memory_bytes = self.room.nbytes + sum(m.rows.nbytes for m in self.memories)
        self.ledger = Ledger()

    def network(self, layer: int, x: np.ndarray) -> np.ndarray:
        """Compute a layer's network for one token.

        Args:
            layer: number of the layer.
            x: float32 (H,).

        Returns:
            float32 (H,), the same bits whatever was kept and wherever it lies.
        """
        M = self.file.neurons
        active = np.arange(M) if self.choose is None else np.flatnonzero(self.choose(layer, x))
        memory = self.memories[layer]
        load, keep, drop = self.windows[layer].advance(active)
        here = active[memory.slot_of[active] >= 0]
        # Everything of this token is brought together in the room, ordered by neuron, before old rows are overwritten.
        place = np.empty(M, np.int64)
        place[active] = np.arange(len(active))
        self.room[place[here]] = memory.rows[memory.slot_of[here]]
        if len(load):
            self.room[place[load]] = self.file.fetch(layer, load, self.gap)
        memory.remove(drop)
        memory.append(keep, self.room[place[keep]])
        self.ledger.tokens += layer == 0
        self.ledger.used += len(active)
        self.ledger.loaded += len(load)
        return gathered_network(x, self.room, np.arange(len(active)))

    def install(self, model: Decoder) -> FlashNetwork:
        """Let a decoder use these networks; `model.restore()` undoes it.

        Raises:
            ValueError: "the file holds 8 layers of 640 neurons for inputs of 256, the model needs ...".
        """
        config = model.config
        mine = (self.file.layers, self.file.neurons, self.file.hidden)
        theirs = (config.num_hidden_layers, config.intermediate_size, config.hidden_size)
        if mine != theirs:
            raise ValueError(
                f"the file holds {mine[0]} layers of {mine[1]} neurons for inputs of {mine[2]}, the model needs "
                f"{theirs[0]}, {theirs[1]} and {theirs[2]}; write a file for this model"
            )
        for layer in range(self.file.layers):
            model.replace_mlp(layer, partial(self._rows, layer))
        return self

    def _rows(self, layer: int, x: Tensor) -> Tensor:
        import torch

        rows = x.float().reshape(-1, x.shape[-1]).numpy()
        out = np.stack([self.network(layer, row) for row in rows])
        return torch.from_numpy(out).to(x.dtype).view_as(x)

    def per_token(self) -> dict[str, float]:
        """Return bytes, requests and loaded neurons per token, and the bytes of one request."""
        tokens, cold = max(1, self.ledger.tokens), self.file.cold
        return {
            "bytes": cold.bytes_read / tokens,
            "requests": cold.requests / tokens,
            "loaded": self.ledger.loaded / tokens,
            "bytes per request": cold.bytes_read / max(1, cold.requests),
        }


def exact_gates(layers: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> Choose:
    """Return a chooser that keeps the gates in memory: it never errs, and holds a third of the weights."""
    gates = [np.asarray(gate, np.float32) for gate, _, _ in layers]

    def choose(layer: int, x: np.ndarray) -> np.ndarray:
        # A little below zero: another order of the sum may end above it.
        return gates[layer] @ x > -1e-5 * float(np.abs(x).sum())

    return choose


def own_input(predictors: list[Any]) -> Choose:
    """Return a chooser from predictors that were fitted on each layer's own input (`ahead=False`)."""
    return lambda layer, x: predictors[layer].choose(x)
