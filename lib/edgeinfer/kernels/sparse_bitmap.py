"""The bitmap format: one bit says where a non-zero stands, so a position costs one bit and not an index.

Rows are cut into strips of 64, columns into tiles of 256. Tile by tile, row by row, come four masks of 64 bits and then
the non-zeros in the same order; how many bits stand before a place says where its value lies. Knows the format and its
plain product. Source: spinfer (nested tiles, positions by counting bits), endor (bitmap and packed non-zeros).
"""

from dataclasses import dataclass

import numpy as np
from numba.cpython.unsafe.numbers import trailing_zeros
from numpy.typing import NDArray

from edgeinfer.kernels.memory import in_huge_pages
from edgeinfer.kernels.simd import compiled
from edgeinfer.kernels.sparse_common import checked, from_bfloat16

WORD = 64  # columns of a mask
TILE = 4  # masks of a row in a tile: 256 activations, which sixteen vector registers hold
STRIP = 64  # rows of a strip
ROOM = 32  # values that a register holds


@dataclass(frozen=True)
class BitmapWeight:
    """A sparse weight as masks and packed non-zeros.

    Attributes:
        masks: uint64, N * ceil(K / 64) of them: for each strip, each tile, each row the tile's masks; bit i of a mask
            is column i of its 64.
        values: (nnz + 32,) uint16, the bfloat16 non-zeros in the order of the bits, and room for a register to be
            loaded at the last of them.
        starts: (strips * tiles + 1,) int64, where the values of a tile begin.
        shape: (N, K).
    """

    masks: NDArray[np.uint64]
    values: NDArray[np.uint16]
    starts: NDArray[np.int64]
    shape: tuple[int, int]

    @property
    def nnz(self) -> int:
        """Stored non-zeros."""
        return int(self.starts[-1])

    @property
    def nbytes(self) -> int:
        """Bytes that one product reads from memory."""
        return self.masks.nbytes + self.values.nbytes + self.starts.nbytes

    def tiles(self):
        """Yield (tile number, rows, columns, first mask): slices into the matrix, columns a multiple of 64 wide."""
        rows, words = self.shape[0], -(-self.shape[1] // WORD)
        number, first = 0, 0
        for row in range(0, rows, STRIP):
            tall = min(STRIP, rows - row)
            for word in range(0, words, TILE):
                wide = min(TILE, words - word)
                yield number, slice(row, row + tall), slice(word * WORD, (word + wide) * WORD), first
                number, first = number + 1, first + tall * wide

    def bits_of(self, rows: slice, columns: slice, first: int) -> NDArray[np.bool_]:
        """The bits of a tile as a matrix."""
        tall, wide = rows.stop - rows.start, columns.stop - columns.start
        octets = self.masks[first : first + tall * wide // WORD].astype("<u8", copy=False).view(np.uint8)
        return np.unpackbits(octets, bitorder="little").reshape(tall, wide).astype(bool)

    def unpack_bits(self) -> NDArray[np.uint16]:
        """The matrix as bfloat16: (N, K) uint16."""
        rows, columns = self.shape
        dense = np.zeros((rows, -(-columns // WORD) * WORD), np.uint16)
        for number, r, c, first in self.tiles():
            block = np.zeros((r.stop - r.start, c.stop - c.start), np.uint16)
            block[self.bits_of(r, c, first)] = self.values[self.starts[number] : self.starts[number + 1]]
            dense[r, c] = block
        return dense[:, :columns]

    def unpack(self) -> NDArray[np.float32]:
        """The matrix: (N, K) float32, exactly what was stored."""
        return from_bfloat16(self.unpack_bits())

    def locate(self, row: int, column: int) -> int:
        """Where the value of an element lies in `values`, found by counting bits; -1 for a zero.

        Raises:
            IndexError: "(4, 0) is not an element of a matrix of shape (4, 256)."
        """
        if not (0 <= row < self.shape[0] and 0 <= column < self.shape[1]):
            raise IndexError(f"({row}, {column}) is not an element of a matrix of shape {self.shape}.")
        words = -(-self.shape[1] // WORD)
        strip, tile = row // STRIP, column // (WORD * TILE)
        tall, wide = min(STRIP, self.shape[0] - strip * STRIP), min(TILE, words - tile * TILE)
        first = strip * STRIP * words + tile * TILE * tall
        at = first + (row - strip * STRIP) * wide + column // WORD - tile * TILE
        word, bit = int(self.masks[at]), column % WORD
        if not word >> bit & 1:
            return -1
        before = sum(int(m).bit_count() for m in self.masks[first:at]) + (word & ((1 << bit) - 1)).bit_count()
        return int(self.starts[strip * -(-words // TILE) + tile]) + before


def pack_bitmap(weight: NDArray[np.float32]) -> BitmapWeight:
    """Store a weight as masks and packed non-zeros; any density fits, below 6.25 % zeros dense storage is smaller.

    Args:
        weight: (N, K) float32; values are rounded to bfloat16.

    Raises:
        TypeError, ValueError: as `checked`.
    """
    bits = checked(weight)
    rows, columns = bits.shape
    words = -(-columns // WORD)
    padded = np.zeros((rows, words * WORD), np.uint16)
    padded[:, :columns] = bits
    there = padded != 0
    masks = np.packbits(there, axis=1, bitorder="little").view("<u8").astype(np.uint64, copy=False)
    frame = BitmapWeight(masks, bits, np.zeros(1, np.int64), bits.shape)  # for its tiles only
    ordered, values, counts = np.empty(masks.size, np.uint64), [], [0]
    for _, r, c, first in frame.tiles():
        block = masks[r, c.start // WORD : c.stop // WORD]
        ordered[first : first + block.size] = block.reshape(-1)
        values.append(padded[r, c][there[r, c]])
        counts.append(values[-1].size)
    values.append(np.zeros(ROOM, np.uint16))
    return BitmapWeight(
        in_huge_pages(ordered), in_huge_pages(np.concatenate(values)), np.cumsum(counts, dtype=np.int64), bits.shape
    )


@compiled()
def bitmap_portable(masks, values, starts, words, x, y, first, last):
    """Strips first..last of a product, bit by bit on any processor. x (64 * words, B), y (N, B), zero at the start."""
    rows = y.shape[0]
    tiles = -(-words // TILE)
    for strip in range(first, last):
        tall = min(STRIP, rows - strip * STRIP)
        at = strip * STRIP * words
        p = starts[strip * tiles]
        for t in range(tiles):
            for r in range(tall):
                out = y[strip * STRIP + r]
                for w in range(min(TILE, words - t * TILE)):
                    m = masks[at]
                    at += 1
                    while m != np.uint64(0):
                        row = x[(t * TILE + w) * WORD + trailing_zeros(m)]
                        value = np.uint32(np.uint32(values[p]) << np.uint32(16)).view(np.float32)
                        p += 1
                        m &= m - np.uint64(1)
                        for b in range(out.size):
                            out[b] += value * row[b]
