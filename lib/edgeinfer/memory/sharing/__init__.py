"""Weights that several parts of a model use: heads, central tensors, low-rank factors, whole blocks, sub-matrices.

`heads` matches attention heads, `mpo` shares a central tensor between layers, `factors` shares low-rank factors and
trains them, `blocks` runs blocks twice, `submatrix` derives tiles from source tiles. Imports none of them until asked.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeinfer.memory.sharing.blocks import RepeatedNetwork, block_order, bytes_per_token, train_small
    from edgeinfer.memory.sharing.factors import SharedFactors, share_factors, tune
    from edgeinfer.memory.sharing.heads import HeadPlan, match_heads, share_heads
    from edgeinfer.memory.sharing.submatrix import SubMatrixWeight, partition

_HOME = {
    "HeadPlan": "heads",
    "RepeatedNetwork": "blocks",
    "SharedFactors": "factors",
    "SharedMPO": "mpo",
    "SubMatrixWeight": "submatrix",
    "block_order": "blocks",
    "bytes_per_token": "blocks",
    "decompose": "mpo",
    "match_heads": "heads",
    "partition": "submatrix",
    "share_central": "mpo",
    "share_factors": "factors",
    "share_heads": "heads",
    "train_small": "blocks",
    "tune": "factors",
}

__all__ = [
    "HeadPlan",
    "RepeatedNetwork",
    "SharedFactors",
    "SharedMPO",
    "SubMatrixWeight",
    "block_order",
    "bytes_per_token",
    "decompose",
    "match_heads",
    "partition",
    "share_central",
    "share_factors",
    "share_heads",
    "train_small",
    "tune",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
