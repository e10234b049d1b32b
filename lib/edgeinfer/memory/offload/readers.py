"""One read divided among several readers, so that all roads to the weights are used at once.

It knows bytes, not weights. Source: zero-inference (each processor brings its part of a layer).
"""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from edgeinfer.memory.storage import ColdFile
from edgeinfer.memory.storage.cold_file import BLOCK


def parts(length: int, readers: int) -> list[tuple[int, int]]:
    """Divide `length` bytes into at most `readers` runs (start, end) that begin at whole blocks.

    Raises:
        ValueError: "readers must be at least 1; came 0".
    """
    if readers < 1:
        raise ValueError(f"readers must be at least 1; came {readers}")
    blocks = -(-length // BLOCK)
    edges = [min(length, blocks * i // readers * BLOCK) for i in range(readers + 1)]
    return [(a, b) for a, b in itertools.pairwise(edges) if b > a]


def read_together(file: ColdFile, offset: int, array: np.ndarray, readers: int) -> None:
    """Fill an array of bytes from a file with several reads at once.

    Args:
        file: to read from.
        offset: of the first byte.
        array: uint8, contiguous.
        readers: reads at the same time.

    Raises:
        ValueError: as `ColdFile.read_into`; the array is then filled in part.
    """
    runs = parts(array.nbytes, readers)
    if len(runs) <= 1:
        file.read_into(offset, array)
        return
    with ThreadPoolExecutor(len(runs)) as pool:
        for done in [pool.submit(file.read_into, offset + a, array[a:b]) for a, b in runs]:
            done.result()
