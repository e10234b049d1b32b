"""The order of a computation decides how often a byte is fetched, and how evenly the work is shared out.

`merge_path` divides merges and sparse products evenly (GPU Merge Path); `tiles`, `lru` and `tiled` choose and run tiles
(loop tiling); `split_plan`, `pair` and `signals` share one product between unlike devices (HeteroLLM); `layer_file` and
`sub_batches` use a loaded layer for several sub-batches (SpeedLoader); `lookup_order` holds the row order of bit-planes
against that of the shuffle (T-MAC). The package imports none of them until asked.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeinfer.memory.locality.layer_file import LayerFile, LayerStream, write_layers
    from edgeinfer.memory.locality.lookup_order import load_addresses, row_order, row_order_matmul
    from edgeinfer.memory.locality.lru import Traffic, simulate_matmul
    from edgeinfer.memory.locality.merge_path import merge_path_split, merge_sorted, merge_spmm, row_split
    from edgeinfer.memory.locality.pair import RealPair, measure_profile
    from edgeinfer.memory.locality.split_plan import FlexibleDevice, Plan, StaticDevice, best_plan
    from edgeinfer.memory.locality.sub_batches import SubBatchRunner, pipeline_seconds
    from edgeinfer.memory.locality.tiled import tiled_matmul
    from edgeinfer.memory.locality.tiles import Tile, choose_tile, tiled_traffic

_HOME = {
    "FlexibleDevice": "split_plan",
    "LayerFile": "layer_file",
    "LayerStream": "layer_file",
    "Plan": "split_plan",
    "RealPair": "pair",
    "StaticDevice": "split_plan",
    "SubBatchRunner": "sub_batches",
    "Tile": "tiles",
    "Traffic": "lru",
    "best_plan": "split_plan",
    "choose_tile": "tiles",
    "load_addresses": "lookup_order",
    "measure_profile": "pair",
    "merge_path_split": "merge_path",
    "merge_sorted": "merge_path",
    "merge_spmm": "merge_path",
    "pipeline_seconds": "sub_batches",
    "row_order": "lookup_order",
    "row_order_matmul": "lookup_order",
    "row_split": "merge_path",
    "simulate_matmul": "lru",
    "tiled_matmul": "tiled",
    "tiled_traffic": "tiles",
    "write_layers": "layer_file",
}

__all__ = [
    "FlexibleDevice",
    "LayerFile",
    "LayerStream",
    "Plan",
    "RealPair",
    "StaticDevice",
    "SubBatchRunner",
    "Tile",
    "Traffic",
    "best_plan",
    "choose_tile",
    "load_addresses",
    "measure_profile",
    "merge_path_split",
    "merge_sorted",
    "merge_spmm",
    "pipeline_seconds",
    "row_order",
    "row_order_matmul",
    "row_split",
    "simulate_matmul",
    "tiled_matmul",
    "tiled_traffic",
    "write_layers",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
