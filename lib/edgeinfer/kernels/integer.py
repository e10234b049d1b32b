"""Integer products y = W x for packed 2-, 4- and 8-bit weights and int8 activations, one to sixteen columns at a time.

Per group: integer dot product, minus zero point times the sum of the activation codes, and only then one float
multiplication by both scales. Vector path: `vpdpbusd` on bytes that were masked and shifted in registers. The portable
path does the same integer and float operations in the same order, so both return the same bits.
Source: int8 activations and group scales as in llama.cpp's Q4_0 and onnxruntime's MatMulNBits (accuracy level 4).
"""

import numpy as np
from numpy.typing import NDArray

from edgeinfer.kernels import simd, validate
from edgeinfer.kernels.activations import QuantizedActivations, quantize_activations
from edgeinfer.kernels.packing import BLOCK, PackedWeight
from edgeinfer.kernels.simd import (
    add_f32,
    and_i8,
    broadcast_4_bytes,
    compiled,
    dot_u8_i8,
    load_f32x16,
    load_i8x64,
    load_u8_as_i32,
    mul_f32,
    mul_i32,
    shift_right,
    splat_f32,
    splat_i8,
    splat_i32,
    store_f32x16,
    sub_i32,
    to_f32,
)
from edgeinfer.kernels.threads import over_blocks

MAX_GROUP = 65536  # 255 * 127 * 65536 < 2**31: no sum of a group leaves 32 bits


@compiled()
def _zero_points(zero, middle, at):
    """The zero points of sixteen rows."""
    return load_u8_as_i32(zero, at) if zero.size else splat_i32(np.int32(middle))


@compiled(forceinline=True)
def _one_column(bits, w, scale, zero, middle, xq, xs, xsum, group_size, y, block):
    """y[64 rows of the block] for one column; 4 vectors of 16 rows."""
    per_byte = 8 // bits
    step = 4 * per_byte
    low = splat_i8(np.int8((1 << bits) - 1))
    nothing = splat_i32(np.int32(0))
    at = block * (xq.size // step) * 256
    side = block * xs.size * BLOCK
    f0 = splat_f32(np.float32(0))
    f1 = f0
    f2 = f0
    f3 = f0
    for g in range(xs.size):
        a0 = nothing
        a1 = nothing
        a2 = nothing
        a3 = nothing
        for k in range(g * group_size, (g + 1) * group_size, step):
            v0 = load_i8x64(w, at)
            v1 = load_i8x64(w, at + 64)
            v2 = load_i8x64(w, at + 128)
            v3 = load_i8x64(w, at + 192)
            at += 256
            for s in range(per_byte):
                x = broadcast_4_bytes(xq, k + 4 * s)
                a0 = dot_u8_i8(a0, and_i8(shift_right(v0, s * bits), low), x)
                a1 = dot_u8_i8(a1, and_i8(shift_right(v1, s * bits), low), x)
                a2 = dot_u8_i8(a2, and_i8(shift_right(v2, s * bits), low), x)
                a3 = dot_u8_i8(a3, and_i8(shift_right(v3, s * bits), low), x)
        s = splat_f32(xs[g])
        total = splat_i32(xsum[g])
        p = side + g * BLOCK
        a0 = sub_i32(a0, mul_i32(_zero_points(zero, middle, p), total))
        a1 = sub_i32(a1, mul_i32(_zero_points(zero, middle, p + 16), total))
        a2 = sub_i32(a2, mul_i32(_zero_points(zero, middle, p + 32), total))
        a3 = sub_i32(a3, mul_i32(_zero_points(zero, middle, p + 48), total))
        f0 = add_f32(f0, mul_f32(to_f32(a0), mul_f32(s, load_f32x16(scale, p))))
        f1 = add_f32(f1, mul_f32(to_f32(a1), mul_f32(s, load_f32x16(scale, p + 16))))
        f2 = add_f32(f2, mul_f32(to_f32(a2), mul_f32(s, load_f32x16(scale, p + 32))))
        f3 = add_f32(f3, mul_f32(to_f32(a3), mul_f32(s, load_f32x16(scale, p + 48))))
    store_f32x16(y, block * BLOCK, f0)
    store_f32x16(y, block * BLOCK + 16, f1)
    store_f32x16(y, block * BLOCK + 32, f2)
    store_f32x16(y, block * BLOCK + 48, f3)


@compiled(forceinline=True)
def _finish(a, y, at, scale, zero, middle, p, xs, xsum):
    a = sub_i32(a, mul_i32(_zero_points(zero, middle, p), splat_i32(xsum)))
    part = mul_f32(to_f32(a), mul_f32(splat_f32(xs), load_f32x16(scale, p)))
    store_f32x16(y, at, add_f32(load_f32x16(y, at), part))


@compiled(forceinline=True)
def _four_columns(bits, w, scale, zero, middle, xq, xs, xsum, group_size, y, block, b):
    """y[b : b + 4, 64 rows of the block] in two passes of 32 rows: a code is unpacked once for four columns."""
    per_byte = 8 // bits
    step = 4 * per_byte
    low = splat_i8(np.int8((1 << bits) - 1))
    nothing = splat_i32(np.int32(0))
    columns = xq.shape[1]
    groups = xs.shape[1]
    rows = y.shape[1]
    flat_x = xq.reshape(-1)
    flat_y = y.reshape(-1)
    x0 = b * columns
    for i in range(4):
        y[b + i, block * BLOCK : (block + 1) * BLOCK] = np.float32(0)
    for half in range(2):
        at = block * (columns // step) * 256 + half * 128
        for g in range(groups):
            a0 = nothing
            a1 = nothing
            a2 = nothing
            a3 = nothing
            b0 = nothing
            b1 = nothing
            b2 = nothing
            b3 = nothing
            for k in range(g * group_size, (g + 1) * group_size, step):
                v0 = load_i8x64(w, at)
                v1 = load_i8x64(w, at + 64)
                at += 256
                for s in range(per_byte):
                    u0 = and_i8(shift_right(v0, s * bits), low)
                    u1 = and_i8(shift_right(v1, s * bits), low)
                    x = x0 + k + 4 * s
                    a0 = dot_u8_i8(a0, u0, broadcast_4_bytes(flat_x, x))
                    b0 = dot_u8_i8(b0, u1, broadcast_4_bytes(flat_x, x))
                    a1 = dot_u8_i8(a1, u0, broadcast_4_bytes(flat_x, x + columns))
                    b1 = dot_u8_i8(b1, u1, broadcast_4_bytes(flat_x, x + columns))
                    a2 = dot_u8_i8(a2, u0, broadcast_4_bytes(flat_x, x + 2 * columns))
                    b2 = dot_u8_i8(b2, u1, broadcast_4_bytes(flat_x, x + 2 * columns))
                    a3 = dot_u8_i8(a3, u0, broadcast_4_bytes(flat_x, x + 3 * columns))
                    b3 = dot_u8_i8(b3, u1, broadcast_4_bytes(flat_x, x + 3 * columns))
            p = (block * groups + g) * BLOCK + half * 32
            r = block * BLOCK + half * 32
            for i, first, second in ((0, a0, b0), (1, a1, b1), (2, a2, b2), (3, a3, b3)):
                to = (b + i) * rows + r
                _finish(first, flat_y, to, scale, zero, middle, p, xs[b + i, g], xsum[b + i, g])
                _finish(second, flat_y, to + 16, scale, zero, middle, p + 16, xs[b + i, g], xsum[b + i, g])


@compiled(forceinline=True)
def _blocks(bits, w, scale, zero, middle, xq, xs, xsum, group_size, y, first, last):
    batch = xq.shape[0]
    for block in range(first, last):  # the block's weights stay in the second-level cache for all columns
        for b in range(0, batch - batch % 4, 4):
            _four_columns(bits, w, scale, zero, middle, xq, xs, xsum, group_size, y, block, b)
        for b in range(batch - batch % 4, batch):
            _one_column(bits, w, scale, zero, middle, xq[b], xs[b], xsum[b], group_size, y[b], block)


# `bits` is a constant in each of these three: everything above is inlined into them and the loops over a byte unroll.
@compiled()
def _vector_2(w, scale, zero, middle, xq, xs, xsum, group_size, y, first, last):
    _blocks(2, w, scale, zero, middle, xq, xs, xsum, group_size, y, first, last)


@compiled()
def _vector_4(w, scale, zero, middle, xq, xs, xsum, group_size, y, first, last):
    _blocks(4, w, scale, zero, middle, xq, xs, xsum, group_size, y, first, last)


@compiled()
def _vector_8(w, scale, zero, middle, xq, xs, xsum, group_size, y, first, last):
    _blocks(8, w, scale, zero, middle, xq, xs, xsum, group_size, y, first, last)


_VECTOR = {2: _vector_2, 4: _vector_4, 8: _vector_8}


@compiled()
def _portable(w, scale, zero, middle, bits, xq, xs, xsum, group_size, y, first, last):
    """The same sums by plain loops over the 64 rows of a block, which LLVM vectorises for whatever it compiles for."""
    per_byte = 8 // bits
    step = 4 * per_byte
    mask = np.int32(2**bits - 1)
    groups = xs.shape[1]
    words = w.view(np.int32)  # one row's four bytes of a step
    total = np.empty(BLOCK, np.int32)
    for block in range(first, last):
        for b in range(xq.shape[0]):
            out = y[b, block * BLOCK : (block + 1) * BLOCK]
            out[:] = np.float32(0)
            at = block * (xq.shape[1] // step) * BLOCK
            for g in range(groups):
                total[:] = 0
                for k in range(g * group_size, (g + 1) * group_size, step):
                    for i in range(step):  # column k + i: byte i % 4 of the word, code i // 4 of the byte
                        shift = np.int32(8 * (i % 4) + bits * (i // 4))
                        x = np.int32(xq[b, k + i])
                        for r in range(BLOCK):
                            total[r] += np.int32((words[at + r] >> shift) & mask) * x
                    at += BLOCK
                p = (block * groups + g) * BLOCK
                for r in range(BLOCK):
                    z = np.int32(zero[p + r]) if zero.size else np.int32(middle)
                    out[r] += np.float32(total[r] - z * xsum[b, g]) * (xs[b, g] * scale[p + r])


def matmul(
    weight: PackedWeight,
    x: NDArray[np.float32] | QuantizedActivations,
    threads: int = 1,
    path: str = "auto",
) -> NDArray[np.float32]:
    """y = x W^T with int8 activations, for a vector or a small batch.

    Args:
        weight: packed (N, K) weight of 2, 4 or 8 bits.
        x: (K,) or (B, K) float32, or activations that were quantized before with the weight's group size.
        threads: row blocks are divided among so many threads.
        path: "auto", "simd" or "portable"; both return the same bits.

    Returns:
        (N,) or (B, N) float32.

    Raises:
        ValueError: what does not fit, in one sentence.
    """
    rows, columns = weight.shape
    if weight.group_size > MAX_GROUP:
        raise ValueError(f"group_size {weight.group_size} is too long for 32-bit sums; at most {MAX_GROUP}.")
    if not isinstance(x, QuantizedActivations):
        if x.__class__ is not np.ndarray or x.ndim not in (1, 2) or x.shape[-1] != columns:
            validate.activations(x, columns)
        x = quantize_activations(x, weight.group_size)
    if x.group_size != weight.group_size or x.codes.shape[1] != columns:
        raise ValueError(
            f"the activations were quantized as {x.codes.shape[1]} columns in groups of {x.group_size}; "
            f"this weight has {columns} columns in groups of {weight.group_size}."
        )
    blocks = weight.scale.shape[0]
    y = np.empty((x.codes.shape[0], blocks * BLOCK), np.float32)
    scale, zero = weight.scale.reshape(-1), weight.zero_point.reshape(-1)
    tail = (x.codes, x.scale, x.sums, weight.group_size, y)
    if simd.choose(path):
        arguments = (weight.data, scale, zero, weight.middle, *tail)
        over_blocks(_VECTOR[weight.bits], arguments, blocks, threads, weight.nbytes * len(y))
    else:
        over_blocks(_portable, (weight.data, scale, zero, weight.middle, weight.bits, *tail), blocks, threads)
    y = y[:, :rows]
    return y[0] if x.one else y


def _of_width(bits: int, weight: PackedWeight, x, threads: int, path: str) -> NDArray[np.float32]:
    if weight.bits != bits:
        raise ValueError(f"int{bits}_matvec takes weights packed in {bits} bits, got {weight.bits}; use `matmul`.")
    return matmul(weight, x, threads, path)


def int8_matvec(packed: PackedWeight, x, threads: int = 1, path: str = "auto") -> NDArray[np.float32]:
    """`matmul` that insists on 8-bit storage."""
    return _of_width(8, packed, x, threads, path)


def int4_matvec(packed: PackedWeight, x, threads: int = 1, path: str = "auto") -> NDArray[np.float32]:
    """`matmul` that insists on 4-bit storage."""
    return _of_width(4, packed, x, threads, path)


def int2_matvec(packed: PackedWeight, x, threads: int = 1, path: str = "auto") -> NDArray[np.float32]:
    """`matmul` that insists on 2-bit storage."""
    return _of_width(2, packed, x, threads, path)
