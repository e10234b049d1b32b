"""Sparse weights on slow links: written as they are packed, read back whole, expanded only after the transfer.

Knows files (safetensors) and the packed formats; does no arithmetic. Source: endor.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeinfer.kernels import sparse_kernels
from edgeinfer.kernels.memory import aligned_empty
from edgeinfer.kernels.sparse_bitmap import ROOM, STRIP, TILE, WORD, BitmapWeight
from edgeinfer.kernels.sparse_csr import CSRWeight
from edgeinfer.kernels.threads import over_blocks

KINDS = {"bitmap": BitmapWeight, "csr": CSRWeight}


def expand_bitmap(packed: BitmapWeight, path: str = "auto", threads: int = 1) -> NDArray[np.uint16]:
    """The dense matrix in bfloat16, at the speed of a copy where the vector kernel runs.

    Args:
        packed: of `pack_bitmap`.
        path: "auto", "simd" or "portable"; both give the same bits.
        threads: strips of 64 rows are divided among so many threads.

    Returns:
        (N, K) uint16, the upper halves of float32 numbers.
    """
    if not sparse_kernels.choose(path):
        return packed.unpack_bits()
    rows, columns = packed.shape
    words = -(-columns // WORD)
    dense = aligned_empty((rows, words * WORD), np.uint16)
    arguments = (packed.masks, packed.values, packed.starts, words, dense)
    over_blocks(sparse_kernels.bitmap_to_dense, arguments, -(-rows // STRIP), threads)
    return dense[:, :columns]


def save_sparse(packed: BitmapWeight | CSRWeight, file: str | Path) -> int:
    """Write a packed weight, whole or not at all.

    Returns:
        Bytes of the file.

    Raises:
        TypeError: "save_sparse takes a weight of pack_bitmap or pack_csr, got ndarray."
    """
    from safetensors.numpy import save_file

    kind = next((name for name, of in KINDS.items() if isinstance(packed, of)), None)
    if kind is None:
        raise TypeError(f"save_sparse takes a weight of pack_bitmap or pack_csr, got {type(packed).__name__}.")
    arrays = {f.name: getattr(packed, f.name) for f in dataclasses.fields(packed) if f.name != "shape"}
    part = Path(file).with_name(Path(file).name + ".part")
    save_file(arrays, part, {"format": kind, "shape": json.dumps(packed.shape)})
    part.replace(file)
    return Path(file).stat().st_size


def load_sparse(file: str | Path) -> BitmapWeight | CSRWeight:
    """Read what `save_sparse` wrote, and check that masks, starts and values belong together.

    Raises:
        FileNotFoundError: as `open`.
        ValueError: "weight.safetensors is not a sparse weight written by save_sparse: ..."
    """
    from safetensors import SafetensorError, safe_open

    path = Path(file)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; write it with save_sparse.")
    try:
        with safe_open(path, "np") as stored:
            about = stored.metadata() or {}
            arrays = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 (not a dict)
        rows, columns = (int(n) for n in json.loads(about["shape"]))
        packed = KINDS[about["format"]](**arrays, shape=(rows, columns))
        _check(packed)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path.name} is not a sparse weight written by save_sparse: {error}") from error
    return packed


def _check(packed: BitmapWeight | CSRWeight) -> None:
    """A kernel trusts its arrays; a damaged file must not make it read elsewhere."""
    rows, columns = packed.shape
    steps = packed.starts[1:].astype(np.int64) - packed.starts[:-1].astype(np.int64)
    if rows < 1 or columns < 1 or packed.starts.size < 2 or packed.starts[0] != 0 or (steps < 0).any():
        raise ValueError("its starts do not rise from 0")
    if isinstance(packed, CSRWeight):
        fits = packed.starts.size == rows + 1 and packed.values.size == packed.columns.size + 1
        fits = fits and int(packed.starts[-1]) == packed.columns.size
        if not fits or (packed.columns.size and int(packed.columns.max()) >= columns):
            raise ValueError("its columns do not fit its shape")
        return
    words = -(-columns // WORD)
    tiles = -(-rows // STRIP) * -(-words // TILE)
    if packed.masks.size != rows * words or packed.starts.size != tiles + 1:
        raise ValueError("its masks do not fit its shape")
    if packed.values.size != packed.nnz + ROOM or packed.values.dtype != np.uint16:
        raise ValueError("its masks and its values do not fit together")
    for number, r, c, first in packed.tiles():
        count = (r.stop - r.start) * (c.stop - c.start) // WORD
        if int(np.bitwise_count(packed.masks[first : first + count]).sum()) != steps[number]:
            raise ValueError("its masks and its starts do not fit together")
