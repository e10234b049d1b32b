"""Runs in a process with little memory: the networks of a whole file, either loaded at once or read as they are needed.

It needs numpy and the compiled kernel, not torch, so that the limit is felt by the weights. Target of `run_limited`.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def run_networks(
    path: str, activity: str, budget_bytes: int, window: int = 4, gap: int = 0, whole: bool = False
) -> dict[str, Any]:
    """Compute the networks of all layers for the tokens of a recorded trace.

    Args:
        path: a file of `write_neurons`.
        activity: file (npz) with `active` bool (T, layers, M), which neurons each token uses.
        budget_bytes, window, gap: see `FlashNetwork`.
        whole: load every layer into memory first, as a program does that knows no flash.

    Returns:
        JSON: "sum" of all outputs, "bytes" and "requests" of the file.
    """
    from edgeinfer.memory.flash.engine import FlashNetwork
    from edgeinfer.memory.flash.gather import gathered_network
    from edgeinfer.memory.flash.neuron_file import NeuronFile

    with np.load(activity) as stored:
        active = stored["active"]
    rng = np.random.default_rng(0)
    with NeuronFile(path) as file:
        tokens = [(layer, used) for token in active for layer, used in enumerate(token)]
        total = 0.0
        if whole:
            layers = [file.read_layer(n) for n in range(file.layers)]
            for layer, used in tokens:
                x = rng.standard_normal(file.hidden, np.float32)
                total += float(gathered_network(x, layers[layer], np.flatnonzero(used)).sum())
        else:
            now = [np.zeros(file.neurons, bool)]
            flash = FlashNetwork(file, lambda layer, x: now[0], window, budget_bytes, gap)
            for layer, used in tokens:
                now[0] = used
                total += float(flash.network(layer, rng.standard_normal(file.hidden, np.float32)).sum())
        return {"sum": total, "bytes": file.cold.bytes_read, "requests": file.cold.requests}
