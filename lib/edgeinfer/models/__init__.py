"""Language models small enough to be taken apart: a lean decoder, a loader, and a family trained for this book.

Start with `model = load("target")`; `shipped()` lists the family. The public names are imported on first use, so that
parts which need no torch (`corpus`) stay quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeinfer.models.cache import KVCache, PlainCache
    from edgeinfer.models.checkpoint import load_tokenizer, shipped
    from edgeinfer.models.config import CheckpointError, Config
    from edgeinfer.models.decoder import Decoder, attend
    from edgeinfer.models.generation import generate, generate_stream, held_out_tokens, load, perplexity
    from edgeinfer.models.weights import MemoryStore, WeightStore

_HOME = {
    "CheckpointError": "config",
    "Config": "config",
    "Decoder": "decoder",
    "KVCache": "cache",
    "MemoryStore": "weights",
    "PlainCache": "cache",
    "WeightStore": "weights",
    "attend": "decoder",
    "generate": "generation",
    "generate_stream": "generation",
    "held_out_tokens": "generation",
    "load": "generation",
    "load_tokenizer": "checkpoint",
    "perplexity": "generation",
    "shipped": "checkpoint",
}
_ROOMS = ("corpus", "tasks")

__all__ = [
    "CheckpointError",
    "Config",
    "Decoder",
    "KVCache",
    "MemoryStore",
    "PlainCache",
    "WeightStore",
    "attend",
    "corpus",
    "generate",
    "generate_stream",
    "held_out_tokens",
    "load",
    "load_tokenizer",
    "perplexity",
    "shipped",
    "tasks",
]


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return import_module(f"{__name__}.{name}")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
