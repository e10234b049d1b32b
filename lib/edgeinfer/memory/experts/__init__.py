"""Experts of a mixture that do not fit into memory: which to keep, which to fetch early, and how to decide early.

Source: mixtral-offloading, pre-gated-moe. The names are imported on first use; the replacement policies need no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeinfer.memory.experts.expert_file import ExpertFile, write_experts
    from edgeinfer.memory.experts.overlap import Schedule, schedule
    from edgeinfer.memory.experts.pregate import fit_pregates, install_pregates
    from edgeinfer.memory.experts.replacement import belady_hits, hits, lfu_hits, lru_hits
    from edgeinfer.memory.experts.routing import (
        choices,
        gate_inputs,
        gate_weights,
        speculation_recall,
        with_random_gates,
    )
    from edgeinfer.memory.experts.store import ExpertStore, decode_with, install_speculation

_HOME = {
    "ExpertFile": "expert_file",
    "ExpertStore": "store",
    "Schedule": "overlap",
    "belady_hits": "replacement",
    "choices": "routing",
    "decode_with": "store",
    "fit_pregates": "pregate",
    "gate_inputs": "routing",
    "gate_weights": "routing",
    "hits": "replacement",
    "install_pregates": "pregate",
    "install_speculation": "store",
    "lfu_hits": "replacement",
    "lru_hits": "replacement",
    "schedule": "overlap",
    "speculation_recall": "routing",
    "with_random_gates": "routing",
    "write_experts": "expert_file",
}

__all__ = [
    "ExpertFile",
    "ExpertStore",
    "Schedule",
    "belady_hits",
    "choices",
    "decode_with",
    "fit_pregates",
    "gate_inputs",
    "gate_weights",
    "hits",
    "install_pregates",
    "install_speculation",
    "lfu_hits",
    "lru_hits",
    "schedule",
    "speculation_recall",
    "with_random_gates",
    "write_experts",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
