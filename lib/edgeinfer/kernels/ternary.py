"""Ternary weights at 1.6 bits: five weights a byte, and a product that looks the five up as one, exact in integers.

A byte is a sign and the number of one of the 122 five-tuples whose first non-zero is +1 (3**5 = 243 = 2 * 121 + 1): the
table of signed sums needs half its entries, the other half is its mirror, and nothing is divided in the loop.
Activations are int8 with one scale per token; their sums of five need eleven bits, so a table is two registers of low
bytes and two of high bytes. Source: tellme (tables of 3**g sums with symmetry); absmean and the scale per token are
those of BitNet b1.58 (Ma et al., 2024).
"""

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeinfer.kernels import simd, validate
from edgeinfer.kernels.activations import quantize_activations
from edgeinfer.kernels.memory import aligned_empty, in_huge_pages
from edgeinfer.kernels.packing import BLOCK, PackedWeight, pack
from edgeinfer.kernels.quantize import from_codes
from edgeinfer.kernels.simd import (
    add_i8,
    add_i16,
    add_i32,
    and_i16,
    as_i16,
    compiled,
    high_half_i16,
    high_half_u16,
    invert_where_negative,
    load_i8x64,
    load_i32x16,
    lookup_128,
    low_half_i16,
    low_half_u16,
    prefetch_second_level,
    shift_left_8,
    shift_right,
    splat_i8,
    splat_i16,
    store_i32x16,
    sub_i16,
)
from edgeinfer.kernels.threads import over_blocks

TRITS = 5  # weights in a byte
CANONICAL = np.array(
    [t for t in itertools.product((0, 1, -1), repeat=TRITS) if next((v for v in t if v), 1) > 0], np.int8
)  # (122, 5): the tuples that have an entry of their own
TUPLES = np.zeros((TRITS, 128), np.int16)
TUPLES[:, : len(CANONICAL)] = CANONICAL.T
AHEAD = 8192  # bytes that the prefetch runs ahead of the loads
RUN = 42  # steps between two flushes: high bytes lie in -3..2, and 42 of them still fit into a byte


def _codes() -> NDArray[np.uint8]:
    """The byte of every five-tuple, by its number in base 3 (digits t + 1, first weight lowest)."""
    place = 3 ** np.arange(TRITS)
    codes = np.zeros(3**TRITS, np.uint8)
    codes[((-CANONICAL + 1) * place).sum(1)] = np.arange(len(CANONICAL)) | 128
    codes[((CANONICAL + 1) * place).sum(1)] = np.arange(len(CANONICAL))  # last: (0, 0, 0, 0, 0) keeps sign +
    return codes


CODES = _codes()


@dataclass(frozen=True)
class TernaryWeight:
    """Ternary weights five to a byte: w = scale * t, t in -1, 0, 1.

    Attributes:
        data: (blocks * steps * 64,) uint8: for each block of 64 rows and each five columns one byte a row; byte 2 i
            belongs to row i, byte 2 i + 1 to row 32 + i.
        negatives: (blocks * 64,) int32, how many bytes of a row carry a sign (the mirror of v is -v - 1).
        scale: (N,) float32.
        shape: (N, K).
    """

    data: NDArray[np.uint8]
    negatives: NDArray[np.int32]
    scale: NDArray[np.float32]
    shape: tuple[int, int]

    @property
    def nbytes(self) -> int:
        """Bytes that one product reads from memory."""
        return self.data.nbytes + self.negatives.nbytes + self.scale.nbytes

    def unpack(self) -> NDArray[np.int8]:
        """The ternary weights, (N, K) int8."""
        rows, columns = self.shape
        bytes_ = self.data.reshape(-1, -(-columns // TRITS), BLOCK // 2, 2).transpose(0, 3, 2, 1)
        tuples = CANONICAL[bytes_ & 127] * np.where(bytes_ & 128, -1, 1).astype(np.int8)[..., None]
        return np.ascontiguousarray(tuples.reshape(bytes_.shape[0] * BLOCK, -1)[:rows, :columns])

    def dequantize(self) -> NDArray[np.float32]:
        """(N, K) float32."""
        return self.unpack() * self.scale[:, None]


def ternarize(weight: NDArray[np.float32], per: str = "tensor") -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Absmean: divide by the mean magnitude and round to -1, 0 or 1.

    Args:
        weight: (N, K) float32.
        per: "tensor" (one mean for the matrix, as BitNet b1.58 is trained) or "channel" (one per row).

    Returns:
        ternary weights (N, K) int8 and scale (N,) float32.
    """
    weight = validate.finite_matrix(weight, "weight")
    if per not in ("tensor", "channel"):
        raise ValueError(f"per must be 'tensor' or 'channel', got {per!r}.")
    mean = np.abs(weight).mean(axis=None if per == "tensor" else 1, dtype=np.float64)
    scale = np.broadcast_to(np.maximum(mean, 1e-30), weight.shape[:1]).astype(np.float32)
    return np.clip(np.rint(weight / scale[:, None]), -1, 1).astype(np.int8), scale


def _checked(ternary: NDArray) -> NDArray:
    ternary = np.asarray(ternary)
    if ternary.ndim != 2 or ternary.size == 0 or ternary.dtype.kind not in "iu":
        raise ValueError(
            f"ternary weights must be a non-empty matrix of integers, got shape {ternary.shape}, {ternary.dtype}."
        )
    if not np.isin(ternary, (-1, 0, 1)).all():
        raise ValueError(f"ternary weights must be -1, 0 or 1, got {ternary[~np.isin(ternary, (-1, 0, 1))][0]}.")
    return ternary


def pack_ternary(ternary: NDArray[np.int8], scale: NDArray[np.float32]) -> TernaryWeight:
    """Pack ternary weights five to a byte; K need not be a multiple of five.

    Args:
        ternary: (N, K) integers in -1, 0, 1.
        scale: (N,) float32, or one number.

    Raises:
        ValueError: "ternary weights must be -1, 0 or 1, got 2." and the like.
    """
    ternary = _checked(ternary)
    rows, columns = ternary.shape
    blocks, steps = -(-rows // BLOCK), -(-columns // TRITS)
    full = np.zeros((blocks * BLOCK, steps * TRITS), np.int16)
    full[:rows, :columns] = ternary
    number = ((full.reshape(-1, steps, TRITS) + 1) * 3 ** np.arange(TRITS)).sum(-1)
    codes = CODES[number]
    data = codes.reshape(blocks, 2, BLOCK // 2, steps).transpose(0, 3, 2, 1)
    negatives = (codes >> 7).sum(1, dtype=np.int32)
    scale = np.ascontiguousarray(np.broadcast_to(np.asarray(scale, np.float32), (rows,)))
    return TernaryWeight(in_huge_pages(data).reshape(-1), negatives, scale, (rows, columns))


def pack_ternary_int2(ternary: NDArray, scale: NDArray | float = 1.0) -> PackedWeight:
    """Pack ternary weights four to a byte, for `matmul`: a quarter more bytes than `pack_ternary`, less work.

    Args:
        ternary: (N, K) integers in -1, 0, 1; K a multiple of 16.
        scale: (N,) float32, or one number.

    Raises:
        ValueError: "2-bit ternary weights need a multiple of 16 columns, got 100; pack_ternary takes any number."
    """
    ternary = _checked(ternary)
    rows, columns = ternary.shape
    if columns % 16:
        raise ValueError(
            f"2-bit ternary weights need a multiple of 16 columns, got {columns}; pack_ternary takes any number."
        )
    per_row = np.broadcast_to(np.asarray(scale, np.float32).reshape(-1, 1), (rows, 1))
    return pack(from_codes(ternary + 2, per_row, np.full((rows, 1), 2), 2, columns, symmetric=True))


@compiled()
def _tables(x, canonical, low, high):
    """For each five activations the sums of all tuples, split into bytes. canonical: (5, 128) int16, zero-filled."""
    sums = np.empty(128, np.int16)
    for b in range(x.shape[0]):
        for c in range(x.shape[1] // 5):
            x0, x1, x2 = np.int16(x[b, 5 * c]), np.int16(x[b, 5 * c + 1]), np.int16(x[b, 5 * c + 2])
            x3, x4 = np.int16(x[b, 5 * c + 3]), np.int16(x[b, 5 * c + 4])
            for j in range(128):
                part = np.int16(x0 * canonical[0, j]) + np.int16(x1 * canonical[1, j]) + np.int16(x2 * canonical[2, j])
                sums[j] = np.int16(part + np.int16(x3 * canonical[3, j]) + np.int16(x4 * canonical[4, j]))
            for j in range(128):
                low[b, c, j] = np.uint8(sums[j] & 255)
                high[b, c, j] = np.uint8((sums[j] >> 8) & 255)


@compiled(forceinline=True)
def _look_up(v, t0, t1, h0, h1, both, odd, top):
    """Add the sums of 64 rows: low bytes of even and odd rows in 16-bit lanes, high bytes as they are."""
    low = as_i16(invert_where_negative(lookup_128(t0, v, t1), v))
    high = invert_where_negative(lookup_128(h0, v, h1), v)
    return add_i16(both, low), add_i16(odd, shift_right(low, 8)), add_i8(top, high)


@compiled(forceinline=True)
def _flush(total, at, both, odd, top):
    """Add the lanes of 64 rows to total[at : at + 64]."""
    even = sub_i16(both, shift_left_8(odd))
    high_odd = and_i16(as_i16(top), splat_i16(np.int16(-256)))  # 256 * high byte of the odd rows, signed
    high_even = shift_left_8(as_i16(top))
    _add(total, at, low_half_u16(even), low_half_i16(high_even))
    _add(total, at + 16, high_half_u16(even), high_half_i16(high_even))
    _add(total, at + 32, low_half_u16(odd), low_half_i16(high_odd))
    _add(total, at + 48, high_half_u16(odd), high_half_i16(high_odd))


@compiled(forceinline=True)
def _add(total, at, low, high):
    store_i32x16(total, at, add_i32(load_i32x16(total, at), add_i32(low, high)))


@compiled(forceinline=True)
def _four_blocks(w, low, high, total, block):
    """Sums of 256 rows: four streams of weights share each table."""
    steps = low.size // 128
    w0 = block * steps * BLOCK
    w1 = w0 + steps * BLOCK
    w2 = w1 + steps * BLOCK
    w3 = w2 + steps * BLOCK
    for start in range(0, steps, RUN):
        b0 = b1 = b2 = b3 = splat_i16(np.int16(0))
        o0 = o1 = o2 = o3 = b0
        p0 = p1 = p2 = p3 = splat_i8(np.int8(0))
        for c in range(start, min(start + RUN, steps)):
            t0 = load_i8x64(low, c * 128)
            t1 = load_i8x64(low, c * 128 + 64)
            h0 = load_i8x64(high, c * 128)
            h1 = load_i8x64(high, c * 128 + 64)
            at = c * BLOCK
            prefetch_second_level(w, w0 + at + AHEAD)
            prefetch_second_level(w, w1 + at + AHEAD)
            prefetch_second_level(w, w2 + at + AHEAD)
            prefetch_second_level(w, w3 + at + AHEAD)
            b0, o0, p0 = _look_up(load_i8x64(w, w0 + at), t0, t1, h0, h1, b0, o0, p0)
            b1, o1, p1 = _look_up(load_i8x64(w, w1 + at), t0, t1, h0, h1, b1, o1, p1)
            b2, o2, p2 = _look_up(load_i8x64(w, w2 + at), t0, t1, h0, h1, b2, o2, p2)
            b3, o3, p3 = _look_up(load_i8x64(w, w3 + at), t0, t1, h0, h1, b3, o3, p3)
        _flush(total, 0, b0, o0, p0)
        _flush(total, 64, b1, o1, p1)
        _flush(total, 128, b2, o2, p2)
        _flush(total, 192, b3, o3, p3)


@compiled(forceinline=True)
def _one_block(w, low, high, total, block):
    """Sums of 64 rows: what four blocks at a time leave over."""
    steps = low.size // 128
    for start in range(0, steps, RUN):
        b0 = splat_i16(np.int16(0))
        o0 = b0
        p0 = splat_i8(np.int8(0))
        for c in range(start, min(start + RUN, steps)):
            t0 = load_i8x64(low, c * 128)
            t1 = load_i8x64(low, c * 128 + 64)
            h0 = load_i8x64(high, c * 128)
            h1 = load_i8x64(high, c * 128 + 64)
            b0, o0, p0 = _look_up(load_i8x64(w, (block * steps + c) * BLOCK), t0, t1, h0, h1, b0, o0, p0)
        _flush(total, 0, b0, o0, p0)


@compiled(forceinline=True)
def _finish(total, negatives, scale, unit, y, first_row):
    for r in range(first_row, min(first_row + total.size, y.size)):
        y[r] = np.float32(total[r - first_row] + negatives[r]) * (unit * scale[r])


@compiled()
def _vector(w, negatives, scale, low, high, unit, y, first, last):
    total = np.empty(4 * BLOCK, np.int32)
    fours = first + (last - first) // 4 * 4
    for block in range(first, fours, 4):
        for b in range(y.shape[0]):
            total[:] = 0
            _four_blocks(w, low[b].reshape(-1), high[b].reshape(-1), total, block)
            _finish(total, negatives, scale, unit[b], y[b], block * BLOCK)
    for block in range(fours, last):
        for b in range(y.shape[0]):
            total[:] = 0
            _one_block(w, low[b].reshape(-1), high[b].reshape(-1), total[:BLOCK], block)
            _finish(total[:BLOCK], negatives, scale, unit[b], y[b], block * BLOCK)


@compiled()
def _portable(w, negatives, scale, low, high, unit, y, first, last):
    """The same sums by plain look-ups in a table of whole sums."""
    steps = low.shape[1]
    total = np.empty(BLOCK, np.int32)
    sums = np.empty(256, np.int32)
    for b in range(y.shape[0]):
        for block in range(first, last):
            total[:] = 0
            for c in range(steps):
                for j in range(128):
                    value = np.int32(low[b, c, j]) + (np.int32(np.int8(high[b, c, j])) << 8)
                    sums[j] = value
                    sums[128 + j] = -value - 1
                at = (block * steps + c) * BLOCK
                for i in range(BLOCK // 2):
                    total[i] += sums[w[at + 2 * i]]
                    total[BLOCK // 2 + i] += sums[w[at + 2 * i + 1]]
            _finish(total, negatives, scale, unit[b], y[b], block * BLOCK)


def ternary_matmul(
    weight: TernaryWeight, x: NDArray[np.float32], threads: int = 1, path: str = "auto"
) -> NDArray[np.float32]:
    """y = x W^T with int8 activations (one scale per token); the integer part is exact.

    Args:
        weight: packed (N, K) ternary weight.
        x: (K,) or (B, K) float32.
        threads: row blocks are divided among so many threads.
        path: "auto", "simd" or "portable"; both return the same bits.

    Returns:
        (N,) or (B, N) float32.

    Raises:
        ValueError: "x must have shape (256,) or (batch, 256) for this weight, ..." or "x contains NaN ..."
    """
    rows, columns = weight.shape
    quantized = quantize_activations(validate.activations(x, columns), columns)
    batch, steps = quantized.codes.shape[0], -(-columns // TRITS)
    codes = quantized.codes
    if columns % TRITS:
        codes = np.zeros((batch, steps * TRITS), np.int8)
        codes[:, :columns] = quantized.codes
    low, high = aligned_empty((2, batch, steps, 128), np.uint8)
    _tables(codes, TUPLES, low, high)
    y = np.empty((batch, rows), np.float32)
    fast = simd.choose(path)
    arguments = (weight.data, weight.negatives, weight.scale, low, high, quantized.scale.reshape(-1), y)
    bytes_read = weight.nbytes * batch if fast else None
    over_blocks(_vector if fast else _portable, arguments, weight.negatives.size // BLOCK, threads, bytes_read)
    return y[0] if np.ndim(x) == 1 else y
