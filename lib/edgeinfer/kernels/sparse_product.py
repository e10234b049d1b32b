"""One product for all sparse formats: y = W x, the weight packed, the activations float32.

Chooses the kernel by format, batch and density; knows no format's inside. The vector and the portable path differ only
in the order of float32 additions.
"""

import numpy as np
from numpy.typing import NDArray

from edgeinfer.kernels import simd, sparse_csr, sparse_kernels, sparse_tiled, validate
from edgeinfer.kernels.memory import aligned_empty
from edgeinfer.kernels.sparse_bitmap import STRIP, WORD, BitmapWeight
from edgeinfer.kernels.sparse_csr import CSRWeight
from edgeinfer.kernels.sparse_tiled import TiledWeight
from edgeinfer.kernels.threads import over_blocks

LANES = 16  # columns that a vector register holds
# Nanoseconds of one core per mask of 64 columns, measured in the cache: to expand it, once for every column of x; to
# visit its non-zeros, once for sixteen columns. Only their ratio decides.
EXPAND, VISIT, VISIT_VALUE = 2.7, 2.3, 0.5
SparseWeight = CSRWeight | BitmapWeight | TiledWeight


def _in_chunks(x: NDArray[np.float32], columns: int) -> NDArray[np.float32]:
    """(B, K) -> (chunks, columns, 16), zeros where there is no column or no row."""
    chunks = -(-x.shape[0] // LANES)
    out = _zeros((chunks, columns, LANES))
    for i in range(chunks):
        part = x[i * LANES : (i + 1) * LANES]
        out[i, : x.shape[1], : part.shape[0]] = part.T
    return out


def _zeros(shape: tuple[int, ...]) -> NDArray[np.float32]:
    out = aligned_empty(shape, np.float32)  # a register that straddles two cache lines is loaded at half the speed
    out[...] = 0
    return out


def _from_chunks(y: NDArray[np.float32], batch: int, rows: int) -> NDArray[np.float32]:
    """(chunks, N, 16) -> (B, N)."""
    return np.ascontiguousarray(y[:, :rows].transpose(0, 2, 1)).reshape(-1, rows)[:batch]


def _csr(weight: CSRWeight, x: NDArray[np.float32], threads: int) -> NDArray[np.float32]:
    rows = weight.shape[0]
    parts = (weight.values, weight.columns, weight.starts)
    if x.shape[0] == 1:
        y = np.empty(rows, np.float32)
        over_blocks(sparse_csr.csr_one, (*parts, x[0], y), rows, threads)
        return y[None]
    y = np.empty((rows, x.shape[0]), np.float32)
    over_blocks(sparse_csr.csr_many, (*parts, np.ascontiguousarray(x.T), y), rows, threads)
    return np.ascontiguousarray(y.T)


def _bitmap(weight: BitmapWeight, x: NDArray[np.float32], threads: int, vector: bool) -> NDArray[np.float32]:
    rows, columns = weight.shape
    words, strips, batch = -(-columns // WORD), -(-rows // STRIP), x.shape[0]
    parts = (weight.masks, weight.values, weight.starts, words)
    if not vector:
        xt = np.zeros((words * WORD, batch), np.float32)
        xt[:columns] = x.T
        y = np.zeros((rows, batch), np.float32)
        over_blocks(sparse_kernels.bitmap_portable, (*parts, xt, y), strips, threads)
        return np.ascontiguousarray(y.T)
    if batch * EXPAND <= VISIT + VISIT_VALUE * weight.nnz / (rows * words):
        padded = np.zeros((batch, words * WORD), np.float32)
        padded[:, :columns] = x
        y = np.empty((batch, rows), np.float32)
        over_blocks(sparse_kernels.bitmap_expand, (*parts, padded, y), strips, threads)
        return y
    y = _zeros((-(-batch // LANES), rows, LANES))
    over_blocks(sparse_kernels.bitmap_visit, (*parts, _in_chunks(x, words * WORD), y), strips, threads)
    return _from_chunks(y, batch, rows)


def _tiled(weight: TiledWeight, x: NDArray[np.float32], threads: int, vector: bool) -> NDArray[np.float32]:
    (tall, wide), (rows, columns) = weight.tile, weight.shape
    strips, padded = -(-rows // tall), -(-tall // 4) * 4
    xc = _in_chunks(x, columns)
    y = _zeros((xc.shape[0], strips * padded, LANES))
    kernel = sparse_tiled.tiled_vector if vector else sparse_tiled.tiled_portable
    over_blocks(kernel, (weight.entries, weight.starts, tall, wide, xc, y), strips, threads)
    if padded != tall:
        y = np.ascontiguousarray(y.reshape(-1, strips, padded, LANES)[:, :, :tall]).reshape(-1, strips * tall, LANES)
    return _from_chunks(y, x.shape[0], rows)


def sparse_matmul(
    packed: SparseWeight, x: NDArray[np.float32], path: str = "auto", threads: int | None = None
) -> NDArray[np.float32]:
    """y = x W^T for a packed sparse weight.

    Args:
        packed: of `pack_csr`, `pack_bitmap` or `pack_tiled`; (N, K).
        x: (K,) or (B, K) float32, finite.
        path: "auto", "simd" or "portable"; CSR has only the portable one.
        threads: rows are divided among so many threads; None means 1.

    Returns:
        (N,) or (B, N) float32.

    Raises:
        TypeError: "sparse_matmul takes a weight of pack_csr, pack_bitmap or pack_tiled, got ndarray."
        ValueError: "x must have shape (256,) or (batch, 256) for this weight, got (128,)." and the like.
    """
    if not isinstance(packed, CSRWeight | BitmapWeight | TiledWeight):
        raise TypeError(
            f"sparse_matmul takes a weight of pack_csr, pack_bitmap or pack_tiled, got {type(packed).__name__}."
        )
    rows = validate.finite_activations(x, packed.shape[1])
    threads = 1 if threads is None else threads
    if not len(rows):
        return np.zeros((0, packed.shape[0]), np.float32)
    if isinstance(packed, CSRWeight):
        if simd.choose(path) and path == "simd":
            raise ValueError("CSR has no vector kernel; use path='auto' or 'portable'.")
        y = _csr(packed, rows, threads)
    elif isinstance(packed, BitmapWeight):
        y = _bitmap(packed, rows, threads, sparse_kernels.choose(path))
    else:
        y = _tiled(packed, rows, threads, simd.choose(path))
    return y[0] if np.ndim(x) == 1 else y
