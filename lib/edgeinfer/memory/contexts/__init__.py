"""Contexts of several apps under one budget of memory, and a cache of keys and values whose old part lies on the disk.

Source: llms, mnn-llm, energon. The names are imported on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeinfer.memory.contexts.chunk import Chunk, compress
    from edgeinfer.memory.contexts.chunk_file import ContextFileError, pack_chunk, read_chunk, unpack_chunk, write_chunk
    from edgeinfer.memory.contexts.density import AttentionMass, allot_bits
    from edgeinfer.memory.contexts.eviction import eviction_order
    from edgeinfer.memory.contexts.filtered_fetch import FilteredFetch
    from edgeinfer.memory.contexts.kv_on_disk import FlashKVCache
    from edgeinfer.memory.contexts.loading import Costs, measure_costs, split_point
    from edgeinfer.memory.contexts.service import ContextService

_HOME = {
    "AttentionMass": "density",
    "Chunk": "chunk",
    "ContextFileError": "chunk_file",
    "ContextService": "service",
    "Costs": "loading",
    "FilteredFetch": "filtered_fetch",
    "FlashKVCache": "kv_on_disk",
    "allot_bits": "density",
    "compress": "chunk",
    "eviction_order": "eviction",
    "measure_costs": "loading",
    "pack_chunk": "chunk_file",
    "read_chunk": "chunk_file",
    "split_point": "loading",
    "unpack_chunk": "chunk_file",
    "write_chunk": "chunk_file",
}

__all__ = [
    "AttentionMass",
    "Chunk",
    "ContextFileError",
    "ContextService",
    "Costs",
    "FilteredFetch",
    "FlashKVCache",
    "allot_bits",
    "compress",
    "eviction_order",
    "measure_costs",
    "pack_chunk",
    "read_chunk",
    "split_point",
    "unpack_chunk",
    "write_chunk",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
