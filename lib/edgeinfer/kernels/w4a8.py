"""Fast W4A8: a 4-bit code in the high half of a byte is sixteen times itself as an int8, ready for an int8 product.

One symmetric scale per output row and one per token, so nothing interrupts the integer sum; the scale is divided by 16
instead of the codes being shifted down and their sign repaired. Because per-row scales are coarse, the range is clipped
where the squared error (weighted by the inputs) is least. Source: speed-odyssey.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeinfer.kernels import simd, validate
from edgeinfer.kernels.activations import quantize_activations
from edgeinfer.kernels.memory import in_huge_pages
from edgeinfer.kernels.packing import BLOCK, pack_int4
from edgeinfer.kernels.quantize import QuantizedWeight, from_codes, scale_and_zero_point
from edgeinfer.kernels.simd import (
    and_i8,
    broadcast_4_bytes,
    compiled,
    dot_u8_i8,
    load_i8x64,
    shift_left_4,
    splat_i8,
    splat_i32,
    store_i32x16,
)
from edgeinfer.kernels.threads import over_blocks

LARGEST_ROW = 65536  # 255 * 128 * 65536 < 2**31


@dataclass(frozen=True)
class W4A8Weight:
    """Signed 4-bit codes, two to a byte, one scale a row.

    Attributes:
        data: like `PackedWeight.data` for 4 bits, the nibbles in two's complement.
        correction: (blocks * 64,) int32, 128 * 16 * the sum of a row's codes: activations are stored as code + 128.
        scale: (N,) float32.
        shape: (N, K).
    """

    data: NDArray[np.uint8]
    correction: NDArray[np.int32]
    scale: NDArray[np.float32]
    shape: tuple[int, int]

    @property
    def nbytes(self) -> int:
        """Bytes that one product reads."""
        return self.data.nbytes + self.correction.nbytes + self.scale.nbytes


def clip_search(
    weight: NDArray[np.float32],
    bits: int = 4,
    group_size: int | None = None,
    importance: NDArray | None = None,
    ratios: NDArray | None = None,
) -> NDArray[np.float64]:
    """For each group the share of its range that makes the rounded weights best.

    Args:
        weight: (N, K) float32.
        bits: of the symmetric code.
        group_size: columns of a group; None is the whole row.
        importance: (K,) weights of the squared error (the diagonal of `second_moment`); None: all equal.
        ratios: candidates in (0, 1]; 1.0 down to 0.4 in steps of 0.025.

    Returns:
        (N, K // group_size) float64, to be given to `quantize_clipped` or `gptq_quantize`.
    """
    weight = validate.finite_matrix(weight, "weight")
    rows, columns = weight.shape
    size = group_size or columns
    grouped = weight.reshape(rows, -1, size)
    share = np.ones(columns) if importance is None else np.asarray(importance, np.float64)
    share = share.reshape(-1, size)
    best, error_of_best = np.ones(grouped.shape[:2]), np.full(grouped.shape[:2], np.inf)
    for ratio in np.arange(1.0, 0.39, -0.025) if ratios is None else np.asarray(ratios):
        back = quantize_clipped(weight, np.full(best.shape, ratio), bits, size).dequantize()
        error = ((back.reshape(grouped.shape) - grouped).astype(np.float64) ** 2 * share).sum(-1)
        better = error < error_of_best
        best[better], error_of_best[better] = ratio, error[better]
    return best


def quantize_clipped(
    weight: NDArray[np.float32], clip: NDArray, bits: int = 4, group_size: int | None = None
) -> QuantizedWeight:
    """Symmetric round-to-nearest with each group's range shrunk to a share of it (`clip_search`)."""
    weight = validate.finite_matrix(weight, "weight")
    rows, columns = weight.shape
    size = group_size or columns
    grouped = weight.reshape(rows, -1, size)
    reach = (np.abs(grouped).max(-1) * clip).astype(np.float32)
    scale, zero = scale_and_zero_point(-reach, reach, bits, True)
    codes = np.clip(np.rint(grouped / scale[..., None]) + zero[..., None], 1, 2**bits - 1)
    return from_codes(codes.reshape(rows, columns), scale, zero, bits, size, True)


def pack_w4a8(weight: QuantizedWeight) -> W4A8Weight:
    """Re-order a symmetric 4-bit weight with one scale per row.

    Raises:
        ValueError: "W4A8 takes a symmetric 4-bit weight with one scale per row; got 4 bits in groups of 64 ..."
    """
    rows, columns = weight.shape
    if weight.bits != 4 or weight.group_size != columns or not weight.symmetric:
        raise ValueError(
            "W4A8 takes a symmetric 4-bit weight with one scale per row; got "
            f"{weight.bits} bits in groups of {weight.group_size}, {'' if weight.symmetric else 'a'}symmetric; "
            "use quantize_per_channel(weight, 4)."
        )
    if columns > LARGEST_ROW:
        raise ValueError(f"{columns} columns are too many for 32-bit sums; at most {LARGEST_ROW}.")
    packed = pack_int4(weight)
    data = in_huge_pages(packed.data ^ np.uint8(0x88))  # flipping the top bit of code + 8 gives two's complement
    signed = weight.codes.astype(np.int32) - 8
    correction = np.zeros(-(-rows // BLOCK) * BLOCK, np.int32)
    correction[:rows] = 128 * 16 * signed.sum(1)
    return W4A8Weight(data, correction, np.ascontiguousarray(weight.scale[:, 0]), weight.shape)


@compiled()
def _vector(w, x, total, first, last):
    """total[b, row] += sum (x + 128) * 16 w: one mask per half of a byte, no shift down, no sign extension."""
    high = splat_i8(np.int8(-16))
    columns = x.shape[1]
    for block in range(first, last):
        for b in range(x.shape[0]):
            row = x[b]
            at = block * (columns // 8) * 256
            a0 = a1 = a2 = a3 = splat_i32(np.int32(0))
            for k in range(0, columns, 8):
                v0 = load_i8x64(w, at)
                v1 = load_i8x64(w, at + 64)
                v2 = load_i8x64(w, at + 128)
                v3 = load_i8x64(w, at + 192)
                at += 256
                low_x = broadcast_4_bytes(row, k)
                high_x = broadcast_4_bytes(row, k + 4)
                a0 = dot_u8_i8(a0, low_x, and_i8(shift_left_4(v0), high))
                a1 = dot_u8_i8(a1, low_x, and_i8(shift_left_4(v1), high))
                a2 = dot_u8_i8(a2, low_x, and_i8(shift_left_4(v2), high))
                a3 = dot_u8_i8(a3, low_x, and_i8(shift_left_4(v3), high))
                a0 = dot_u8_i8(a0, high_x, and_i8(v0, high))
                a1 = dot_u8_i8(a1, high_x, and_i8(v1, high))
                a2 = dot_u8_i8(a2, high_x, and_i8(v2, high))
                a3 = dot_u8_i8(a3, high_x, and_i8(v3, high))
            out = total[b]
            store_i32x16(out, block * BLOCK, a0)
            store_i32x16(out, block * BLOCK + 16, a1)
            store_i32x16(out, block * BLOCK + 32, a2)
            store_i32x16(out, block * BLOCK + 48, a3)


@compiled()
def _portable(w, x, total, first, last):
    columns = x.shape[1]
    words = w.view(np.int32)
    for block in range(first, last):
        for b in range(x.shape[0]):
            out = total[b, block * BLOCK : (block + 1) * BLOCK]
            out[:] = 0
            at = block * (columns // 8) * BLOCK
            for k in range(0, columns, 8):
                for i in range(8):  # the code to the top of the word, then back with its sign, times 16
                    up = np.int32(28 - 8 * (i % 4) - 4 * (i // 4))
                    value = np.int32(x[b, k + i])
                    for r in range(BLOCK):
                        code = np.int32(np.int32(words[at + r] << up) >> np.int32(24)) & np.int32(-16)
                        out[r] += np.int32(code * value)
                at += BLOCK


def w4a8_matmul(
    weight: W4A8Weight, x: NDArray[np.float32], threads: int = 1, path: str = "auto"
) -> NDArray[np.float32]:
    """y = x W^T with int8 activations, one scale per token and one per row.

    Args:
        weight: packed (N, K).
        x: (K,) or (B, K) float32.
        threads: row blocks are divided among so many threads.
        path: "auto", "simd" or "portable"; both return the same bits.

    Raises:
        ValueError: "x must have shape (256,) or (batch, 256) for this weight, ..." or "x contains NaN ..."
    """
    rows, columns = weight.shape
    quantized = quantize_activations(validate.activations(x, columns), columns)
    shifted = (quantized.codes.view(np.uint8) ^ np.uint8(128)).reshape(quantized.codes.shape)  # code + 128
    total = np.empty((len(shifted), weight.correction.size), np.int32)
    fast = simd.choose(path)
    arguments, blocks = (weight.data, shifted, total), weight.correction.size // BLOCK
    bytes_read = weight.nbytes * len(total) if fast else None
    over_blocks(_vector if fast else _portable, arguments, blocks, threads, bytes_read)
    sums = (total - weight.correction)[:, :rows]
    y = sums.astype(np.float32) * (quantized.scale * (weight.scale / np.float32(16)))
    return y[0] if np.ndim(x) == 1 else y
