"""The steps of lab 9 as plain functions of arrays: what an unsolved lab falls back on."""

from __future__ import annotations

import numpy as np

from edgeinfer.memory.flash import placement, reads
from edgeinfer.memory.flash.window import SlidingWindow
from edgeinfer.memory.locality.merge_path import merge_path_split
from edgeinfer.memory.locality.tiles import tiled_traffic

__all__ = [
    "bundle_neurons",
    "merge_path_split",
    "merge_reads",
    "neurons_to_load",
    "path_of_neurons",
    "tiled_matmul_traffic",
]


def bundle_neurons(gate: np.ndarray, up: np.ndarray, down: np.ndarray) -> np.ndarray:
    """Return float (M, 3 H): row of gate, row of up and column of down of each neuron; gate, up (M, H), down (H, M)."""
    return np.concatenate((gate, up, down.T), 1)


def neurons_to_load(active: np.ndarray, window: int) -> np.ndarray:
    """Return bool (T, M): used by a token, active (T, M), and by none of the `window` tokens before it."""
    sliding, load = SlidingWindow(active.shape[1], window), np.zeros(active.shape, bool)
    for number, used in enumerate(active):
        load[number, sliding.advance(np.flatnonzero(used))[0]] = True
    return load


def path_of_neurons(active: np.ndarray) -> np.ndarray:
    """Return int (M,): the greedy path through the co-activations of active, bool (T, M)."""
    return placement.greedy_path(placement.coactivation(active))


def merge_reads(places: np.ndarray, gap: int) -> tuple[np.ndarray, np.ndarray]:
    """Return starts and counts, see `reads.merge_reads`."""
    found = reads.merge_reads(places, gap)
    return found.starts, found.counts


def tiled_matmul_traffic(M: int, N: int, K: int, tile_m: int, tile_n: int, tile_k: int) -> tuple[int, int]:
    """Return (moved, held) in elements, see `locality.tiled_traffic`."""
    found = tiled_traffic(M, N, K, (tile_m, tile_n, tile_k))
    return found.moved, found.held
