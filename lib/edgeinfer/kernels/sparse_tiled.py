"""Tiles that are loaded sparse and multiplied dense: every non-zero carries its place in the tile.

An entry is 32 bits, the bfloat16 value and a position of 16 bits in its tile. A tile is scattered into a dense scratch
that stays in the cache, and multiplied there with all columns as if nothing were missing. On a processor with a unit
for dense products that is a bargain; here it is shown what it costs without one. Source: flash-llm (Tiled-CSL).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeinfer.kernels.memory import in_huge_pages
from edgeinfer.kernels.simd import (
    compiled,
    fma_f32,
    load_f32x16,
    prefetch,
    splat_f32,
    store_f32x16,
)
from edgeinfer.kernels.sparse_common import checked, from_bfloat16

LARGEST_TILE = 65536  # positions that 16 bits can tell apart
AHEAD = 1024  # entries that the prefetch runs ahead


@dataclass(frozen=True)
class TiledWeight:
    """A sparse weight in tiles.

    Attributes:
        entries: (nnz,) uint32: value in the upper half, position row * tile_columns + column in the lower.
        starts: (row tiles * column tiles + 1,) int64, where a tile's entries begin; the tiles of a row of tiles follow
            each other.
        tile: (rows, columns) of a tile.
        shape: (N, K).
    """

    entries: NDArray[np.uint32]
    starts: NDArray[np.int64]
    tile: tuple[int, int]
    shape: tuple[int, int]

    @property
    def nnz(self) -> int:
        """Stored non-zeros."""
        return self.entries.size

    @property
    def nbytes(self) -> int:
        """Bytes that one product reads from memory."""
        return self.entries.nbytes + self.starts.nbytes

    def unpack(self) -> NDArray[np.float32]:
        """The matrix: (N, K) float32, exactly what was stored."""
        tall, wide = self.tile
        across = -(-self.shape[1] // wide)
        dense = np.zeros((-(-self.shape[0] // tall) * tall, across * wide), np.uint16)
        for number in range(self.starts.size - 1):
            entries = self.entries[self.starts[number] : self.starts[number + 1]]
            place = (entries & np.uint32(0xFFFF)).astype(np.int64)
            row, column = number // across * tall, number % across * wide
            dense[row + place // wide, column + place % wide] = (entries >> np.uint32(16)).astype(np.uint16)
        return from_bfloat16(dense[: self.shape[0], : self.shape[1]])


def pack_tiled(weight: NDArray[np.float32], tile_rows: int = 64, tile_columns: int = 256) -> TiledWeight:
    """Store the non-zeros of a weight tile by tile.

    Args:
        weight: (N, K) float32; values are rounded to bfloat16.
        tile_rows, tile_columns: of a tile; at most 65,536 elements together.

    Raises:
        ValueError: "a tile of 512 x 256 has 131072 positions, 16 bits hold 65536; choose a smaller tile."
    """
    for name, value in (("tile_rows", tile_rows), ("tile_columns", tile_columns)):
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a positive integer, got {value!r}.")
    if tile_rows * tile_columns > LARGEST_TILE:
        raise ValueError(
            f"a tile of {tile_rows} x {tile_columns} has {tile_rows * tile_columns} positions, "
            f"16 bits hold {LARGEST_TILE}; choose a smaller tile."
        )
    bits = checked(weight)
    row, column = np.nonzero(bits)
    across, down = -(-bits.shape[1] // tile_columns), -(-bits.shape[0] // tile_rows)
    number = row // tile_rows * across + column // tile_columns
    place = row % tile_rows * tile_columns + column % tile_columns
    entries = bits[row, column].astype(np.uint32) << np.uint32(16) | place.astype(np.uint32)
    order = np.argsort(number, kind="stable")  # within a tile the rows stay in order
    starts = np.zeros(down * across + 1, np.int64)
    np.cumsum(np.bincount(number, minlength=down * across), out=starts[1:])
    return TiledWeight(in_huge_pages(entries[order]), starts, (tile_rows, tile_columns), bits.shape)


@compiled(forceinline=True)
def _scatter(entries, start, stop, scratch):
    """A tile's entries into the dense scratch, which was all zero."""
    for j in range(start, stop):
        entry = entries[j]
        scratch[np.int64(entry & np.uint32(0xFFFF))] = np.uint32(entry & np.uint32(0xFFFF0000)).view(np.float32)


@compiled(forceinline=True)
def _clear(entries, start, stop, scratch):
    """Zeros again where the tile had its entries; cheaper than clearing the whole scratch when few are there."""
    for j in range(start, stop):
        scratch[np.int64(entries[j] & np.uint32(0xFFFF))] = np.float32(0)


@compiled(forceinline=True)
def _dense_rows(scratch, wide, r, x, x_at, count, y, y_at):
    """y[four rows, 16 columns] += scratch[four rows] x[count, 16]: four sums share each row of x."""
    a0 = load_f32x16(y, y_at)
    a1 = load_f32x16(y, y_at + 16)
    a2 = load_f32x16(y, y_at + 32)
    a3 = load_f32x16(y, y_at + 48)
    at = r * wide
    for k in range(count):
        row = load_f32x16(x, x_at + 16 * k)
        a0 = fma_f32(splat_f32(scratch[at + k]), row, a0)
        a1 = fma_f32(splat_f32(scratch[at + wide + k]), row, a1)
        a2 = fma_f32(splat_f32(scratch[at + 2 * wide + k]), row, a2)
        a3 = fma_f32(splat_f32(scratch[at + 3 * wide + k]), row, a3)
    store_f32x16(y, y_at, a0)
    store_f32x16(y, y_at + 16, a1)
    store_f32x16(y, y_at + 32, a2)
    store_f32x16(y, y_at + 48, a3)


@compiled()
def tiled_vector(entries, starts, tall, wide, x, y, first, last):
    """Rows of tiles first..last. x (chunks, K, 16) and y (chunks, row tiles * padded tall, 16), zero at the start."""
    chunks, columns = x.shape[0], x.shape[1]
    across = -(-columns // wide)
    padded = -(-tall // 4) * 4
    scratch = np.zeros(padded * wide, np.float32)
    for strip in range(first, last):
        for t in range(across):
            start, stop = starts[strip * across + t], starts[strip * across + t + 1]
            prefetch(entries, stop)
            prefetch(entries, stop + AHEAD)
            _scatter(entries, start, stop, scratch)
            count = min(wide, columns - t * wide)
            for chunk in range(chunks):
                flat_x = x[chunk].reshape(-1)
                flat_y = y[chunk].reshape(-1)
                for r in range(0, padded, 4):
                    _dense_rows(scratch, wide, r, flat_x, t * wide * 16, count, flat_y, (strip * padded + r) * 16)
            _clear(entries, start, stop, scratch)


@compiled()
def tiled_portable(entries, starts, tall, wide, x, y, first, last):
    """The same by plain loops over 16 columns."""
    chunks, columns = x.shape[0], x.shape[1]
    across = -(-columns // wide)
    padded = -(-tall // 4) * 4
    scratch = np.zeros(padded * wide, np.float32)
    for strip in range(first, last):
        for t in range(across):
            start, stop = starts[strip * across + t], starts[strip * across + t + 1]
            _scatter(entries, start, stop, scratch)
            for chunk in range(chunks):
                for r in range(tall):
                    out = y[chunk, strip * padded + r]
                    for k in range(min(wide, columns - t * wide)):
                        w = scratch[r * wide + k]
                        row = x[chunk, t * wide + k]
                        for b in range(16):
                            out[b] += w * row[b]
            _clear(entries, start, stop, scratch)
