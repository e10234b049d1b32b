"""Weights that stay in flash: predict which neurons fire, read only those, and place them so that reads are long.

`predictor` guesses, `contextual` skips what is not predicted (Deja Vu); `neuron_file`, `window` and `engine` read from
a file (LLM in a flash); `placement` and `link_cache` order the file (Ripple). Torch is met only where a decoder is.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from edgeinfer.memory.flash.link_cache import LinkAwareCache
from edgeinfer.memory.flash.placement import coactivation, greedy_path, path_weight
from edgeinfer.memory.flash.reads import Reads, cost_of_reads, merge_reads, time_of_reads
from edgeinfer.memory.flash.window import NeuronMemory, SlidingWindow

if TYPE_CHECKING:
    from edgeinfer.memory.flash.contextual import ContextualSparsity, fit_contextual
    from edgeinfer.memory.flash.engine import FlashNetwork
    from edgeinfer.memory.flash.gather import gathered_network
    from edgeinfer.memory.flash.neuron_file import NeuronFile, bundle_layer, write_neurons
    from edgeinfer.memory.flash.predictor import Predictor, fit_predictor
    from edgeinfer.memory.flash.traces import Trace, record_trace, training_tokens

_HOME = {
    "ContextualSparsity": "contextual",
    "FlashNetwork": "engine",
    "NeuronFile": "neuron_file",
    "Predictor": "predictor",
    "Trace": "traces",
    "bundle_layer": "neuron_file",
    "fit_contextual": "contextual",
    "fit_predictor": "predictor",
    "gathered_network": "gather",
    "record_trace": "traces",
    "training_tokens": "traces",
    "write_neurons": "neuron_file",
}

__all__ = [
    "ContextualSparsity",
    "FlashNetwork",
    "LinkAwareCache",
    "NeuronFile",
    "NeuronMemory",
    "Predictor",
    "Reads",
    "SlidingWindow",
    "Trace",
    "bundle_layer",
    "coactivation",
    "cost_of_reads",
    "fit_contextual",
    "fit_predictor",
    "gathered_network",
    "greedy_path",
    "merge_reads",
    "path_weight",
    "record_trace",
    "time_of_reads",
    "training_tokens",
    "write_neurons",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
