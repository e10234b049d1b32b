"""One product for all sparse formats: y = W x, the weight packed, the activations float32.

Chooses the kernel by format, batch and density; knows no format's inside. The vector and the portable path differ only
in the order of float32 additions.
"""

import numpy as np
from numpy.typing import NDArray

from edgeinfer.kernels import simd, sparse_bitmap, sparse_common, sparse_csr, sparse_kernels, sparse_tiled, validate
from edgeinfer.kernels.sparse_bitmap import STRIP, WORD, BitmapWeight, pack_bitmap
from edgeinfer.kernels.sparse_csr import CSRWeight, pack_csr
from edgeinfer.kernels.sparse_tiled import TiledWeight
from edgeinfer.kernels.threads import over_blocks

LANES = 16  # columns that a vector register holds
# Nanoseconds of one core per mask of 64 columns, measured in the cache: to expand it, once for every column of x; to
# visit its non-zeros, once for sixteen columns. Only their ratio decides.
EXPAND, VISIT, VISIT_VALUE = 2.7, 2.3, 0.5
ALONE = 60_000  # nanoseconds that one core takes: a shorter product ends before a second thread has woken
SparseWeight = CSRWeight | BitmapWeight | TiledWeight


NOT_FINITE = "x contains NaN or infinite values; a product with them means nothing."


def _aligned(shape: tuple[int, int, int]) -> NDArray[np.float32]:
    """An uninitialised array at a cache line: loading a register that straddles two lines takes twice the time."""
    count = shape[0] * shape[1] * shape[2]
    space = np.empty(count + LANES, np.float32)
    start = -space.ctypes.data % 64 // 4
    return space[start : start + count].reshape(shape)


def _in_chunks(x: NDArray[np.float32], columns: int) -> NDArray[np.float32]:
    """(B, K) -> (chunks, columns, 16), zeros where there is no column or no row."""
    out = _aligned((-(-x.shape[0] // LANES), columns, LANES))
    if not sparse_common.spread_many(x, out):
        raise ValueError(NOT_FINITE)
    return out


def _in_rows(x: NDArray[np.float32], columns: int) -> NDArray[np.float32]:
    """(B, K) -> (B, columns), zeros behind."""
    if x.shape[1] == columns:
        out, finite = x, sparse_common.all_finite(x)
    else:
        out = np.empty((x.shape[0], columns), np.float32)
        finite = sparse_common.spread_one(x, out)
    if not finite:
        raise ValueError(NOT_FINITE)
    return out


def _worth(threads: int, nanoseconds: float) -> int:
    """The threads that such a product is worth; what is no number of threads is left for `over_blocks` to refuse."""
    return 1 if isinstance(threads, int) and threads > 1 and nanoseconds < ALONE else threads


def _turned(y: NDArray[np.float32], batch: int) -> NDArray[np.float32]:
    """(N, chunks, 16) -> (B, N) without moving a number."""
    return y.reshape(y.shape[0], -1)[:, :batch].T


def _csr(weight: CSRWeight, x: NDArray[np.float32], threads: int, vector: bool) -> NDArray[np.float32]:
    rows, columns = weight.shape
    batch, parts = x.shape[0], (weight.values, weight.columns, weight.starts)
    threads = _worth(threads, VISIT_VALUE * weight.nnz * -(-batch // LANES))
    if batch == 1:
        one = np.empty(rows, np.float32)
        over_blocks(sparse_csr.csr_one, (*parts, _in_rows(x, columns)[0], one), rows, threads)
        return one[None]
    if vector:
        xc = _in_chunks(x, columns)
        y = _aligned((rows, len(xc), LANES))
        over_blocks(sparse_kernels.csr_visit, (*parts, xc, y), rows, threads)
        return _turned(y, batch)
    out = np.empty((rows, batch), np.float32)
    over_blocks(sparse_csr.csr_many, (*parts, np.ascontiguousarray(_in_rows(x, columns).T), out), rows, threads)
    return out.T


def _bitmap(weight: BitmapWeight, x: NDArray[np.float32], threads: int, vector: bool) -> NDArray[np.float32]:
    rows, columns = weight.shape
    words, strips, batch = -(-columns // WORD), -(-rows // STRIP), x.shape[0]
    parts = (weight.masks, weight.values, weight.starts, words)
    if not vector:
        out = np.zeros((rows, batch), np.float32)
        xt = np.ascontiguousarray(_in_rows(x, words * WORD).T)
        over_blocks(sparse_bitmap.bitmap_portable, (*parts, xt, out), strips, threads)
        return out.T
    expand, visit = EXPAND * batch * weight.masks.size, VISIT * weight.masks.size + VISIT_VALUE * weight.nnz
    threads = _worth(threads, min(expand, visit * -(-batch // LANES)))
    if expand <= visit:
        y = np.empty((batch, rows), np.float32)
        over_blocks(sparse_kernels.bitmap_expand, (*parts, _in_rows(x, words * WORD), y), strips, threads)
        return y
    xc = _in_chunks(x, words * WORD)
    turned = _aligned((rows, len(xc), LANES))
    over_blocks(sparse_kernels.bitmap_visit, (*parts, xc, turned), strips, threads)
    return _turned(turned, batch)


def _tiled(weight: TiledWeight, x: NDArray[np.float32], threads: int, vector: bool) -> NDArray[np.float32]:
    (tall, wide), (rows, columns) = weight.tile, weight.shape
    strips, padded = -(-rows // tall), -(-tall // 4) * 4
    xc = _in_chunks(x, columns)
    y = _aligned((xc.shape[0], strips * padded, LANES))
    y[...] = 0
    kernel = sparse_tiled.tiled_vector if vector else sparse_tiled.tiled_portable
    over_blocks(kernel, (weight.entries, weight.starts, tall, wide, xc, y), strips, threads)
    y = y.reshape(-1, strips, padded, LANES)[:, :, :tall].reshape(-1, strips * tall, LANES)[:, :rows]
    return np.ascontiguousarray(y.transpose(0, 2, 1)).reshape(-1, rows)[: x.shape[0]]


def pack_sparse(weight: NDArray[np.float32]) -> BitmapWeight | CSRWeight:
    """The smaller of bitmap and CSR: one bit for every weight, or 16 bits for every non-zero.

    Args:
        weight: (N, K) float32; values are rounded to bfloat16.

    Returns:
        A bitmap, or CSR where about one weight in sixteen or fewer is left.
    """
    bitmap = pack_bitmap(weight)
    rows, columns = bitmap.shape
    index = 2 if columns <= sparse_csr.MOST_16_BIT else 4
    return pack_csr(weight) if index * bitmap.nnz + 4 * rows < bitmap.masks.nbytes else bitmap


def sparse_matmul(
    packed: SparseWeight, x: NDArray[np.float32], path: str = "auto", threads: int | None = None
) -> NDArray[np.float32]:
    """y = x W^T for a packed sparse weight.

    Args:
        packed: of `pack_csr`, `pack_bitmap` or `pack_tiled`; (N, K).
        x: (K,) or (B, K) float32, finite.
        path: "auto", "simd" or "portable"; for one column CSR has only the portable kernel.
        threads: rows are divided among so many threads; None means 1.

    Returns:
        (N,) or (B, N) float32; several columns may lie transposed in memory, as they were computed.

    Raises:
        TypeError: "sparse_matmul takes a weight of pack_csr, pack_bitmap or pack_tiled, got ndarray."
        ValueError: "x must have shape (256,) or (batch, 256) for this weight, got (128,)." and the like.
    """
    if not isinstance(packed, (CSRWeight, BitmapWeight, TiledWeight)):
        raise TypeError(
            f"sparse_matmul takes a weight of pack_csr, pack_bitmap or pack_tiled, got {type(packed).__name__}."
        )
    rows = validate.activations(x, packed.shape[1])
    threads = 1 if threads is None else threads
    if not len(rows):
        return np.zeros((0, packed.shape[0]), np.float32)
    if isinstance(packed, CSRWeight):
        y = _csr(packed, rows, threads, simd.choose(path))
    elif isinstance(packed, BitmapWeight):
        y = _bitmap(packed, rows, threads, sparse_kernels.choose(path))
    else:
        y = _tiled(packed, rows, threads, simd.choose(path))
    return y[0] if x.ndim == 1 else y
