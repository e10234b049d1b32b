"""Experts of a mixture that do not fit into memory: which to keep, which to fetch early, and how to decide early.

Source: mixtral-offloading, pre-gated-moe. The names are imported on first use; the replacement policies need no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

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

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
