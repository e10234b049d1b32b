"""The product of N:M weights: sixteen rows a vector, every lane picks its activation out of the group by a permutation.

Knows the layout of `n_m.NMWeight`; knows nothing of how weights were chosen. A position of two bits selects one of four
activations inside a 128-bit lane (vpermilps); wider groups, up to sixteen, are permuted across the register (vpermps).
No gather from memory takes place. Lanes add slots of even and of odd number apart, in every path, so that all paths
return the same bits.
"""

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from edgeinfer.kernels.simd import (
    I32,
    _address,
    _declare,
    _lanes,
    _make_binary,
    _splat,
    add_f32,
    compiled,
    f32x16,
    i32x16,
    load_f32x16,
    load_i32x16,
    mul_f32,
    splat_f32,
    splat_i32,
    store_f32x16,
)

LANES = 16  # rows of a block
VECTOR_GROUP = 16  # widest group that one register of activations holds
_F32X4 = ir.VectorType(ir.FloatType(), 4)
and_i32 = _make_binary(i32x16, "and_")


@intrinsic
def broadcast_4_floats(typing, array, index):
    """array[index : index + 4] in each 128-bit lane."""

    def generate(context, builder, signature, args):
        four = builder.load(_address(context, builder, signature.args[0], args[0], args[1], _F32X4), align=1)
        return builder.shuffle_vector(four, ir.Constant(_F32X4, ir.Undefined), _lanes([i % 4 for i in range(16)]))

    return f32x16(array, types.intp), generate


def _make_pick(instruction: str):
    @intrinsic
    def pick(typing, values, index):
        def generate(context, builder, signature, args):
            vectors = [f32x16.llvm, i32x16.llvm]
            return builder.call(_declare(builder, "llvm.x86.avx512." + instruction, f32x16.llvm, vectors), args)

        return f32x16(f32x16, i32x16), generate

    return pick


pick_of_4 = _make_pick("vpermilvar.ps.512")  # vpermilps: in each 128-bit lane values[index & 3]
pick_of_16 = _make_pick("permvar.sf.512")  # vpermps: values[index & 15]


@intrinsic
def shift_right_i32(typing, a, amount):
    """Shift every 32-bit lane right, zeros come in."""

    def generate(context, builder, signature, args):
        by = _splat(builder, builder.trunc(args[1], I32), i32x16.llvm)
        return builder.lshr(args[0], by)

    return i32x16(i32x16, types.int64), generate


@compiled(forceinline=True)
def _store_four(y, block, b, y0, y1, y2, y3):
    stride = y.shape[1]
    at = b * stride + block * LANES
    store_f32x16(y, at, y0)
    store_f32x16(y, at + stride, y1)
    store_f32x16(y, at + 2 * stride, y2)
    store_f32x16(y, at + 3 * stride, y3)


@compiled(forceinline=True)
def _two_of_four_once(values, positions, x, y, block, b):
    """One block of rows, one row of x, 2:4."""
    slots = values.shape[1]
    words = positions.shape[1]
    even = odd = splat_f32(np.float32(0))
    for w in range(words):
        where = load_i32x16(positions, (block * words + w) * LANES)
        for g in range(min(8, (slots - w * 16) // 2)):  # eight groups: sixteen slots, sixteen positions of two bits
            v = (block * slots + w * 16 + 2 * g) * LANES
            four = broadcast_4_floats(x, b * x.shape[1] + w * 32 + 4 * g)
            even = add_f32(even, mul_f32(load_f32x16(values, v), pick_of_4(four, where)))
            where = shift_right_i32(where, 2)
            odd = add_f32(odd, mul_f32(load_f32x16(values, v + 16), pick_of_4(four, where)))
            where = shift_right_i32(where, 2)
    store_f32x16(y, (b * (y.shape[1] // LANES) + block) * LANES, add_f32(even, odd))


@compiled(forceinline=True)
def _two_of_four_four_times(values, positions, x, y, block, b):
    """One block of rows, four rows of x, 2:4: weights and positions are loaded once for the four."""
    slots = values.shape[1]
    words = positions.shape[1]
    e0 = e1 = e2 = e3 = o0 = o1 = o2 = o3 = splat_f32(np.float32(0))
    width = x.shape[1]
    for w in range(words):
        where = load_i32x16(positions, (block * words + w) * LANES)
        for g in range(min(8, (slots - w * 16) // 2)):
            v = (block * slots + w * 16 + 2 * g) * LANES
            at = b * width + w * 32 + 4 * g
            x0 = broadcast_4_floats(x, at)
            x1 = broadcast_4_floats(x, at + width)
            x2 = broadcast_4_floats(x, at + 2 * width)
            x3 = broadcast_4_floats(x, at + 3 * width)
            one = load_f32x16(values, v)
            e0 = add_f32(e0, mul_f32(one, pick_of_4(x0, where)))
            e1 = add_f32(e1, mul_f32(one, pick_of_4(x1, where)))
            e2 = add_f32(e2, mul_f32(one, pick_of_4(x2, where)))
            e3 = add_f32(e3, mul_f32(one, pick_of_4(x3, where)))
            where = shift_right_i32(where, 2)
            two = load_f32x16(values, v + 16)
            o0 = add_f32(o0, mul_f32(two, pick_of_4(x0, where)))
            o1 = add_f32(o1, mul_f32(two, pick_of_4(x1, where)))
            o2 = add_f32(o2, mul_f32(two, pick_of_4(x2, where)))
            o3 = add_f32(o3, mul_f32(two, pick_of_4(x3, where)))
            where = shift_right_i32(where, 2)
    _store_four(y, block, b, add_f32(e0, o0), add_f32(e1, o1), add_f32(e2, o2), add_f32(e3, o3))


@compiled(forceinline=True)
def _any_once(values, positions, x, y, n, m, bits, block, b):
    """One block of rows, one row of x, any group up to sixteen."""
    slots = values.shape[1]
    words = positions.shape[1]
    per_word = 32 // bits
    mask = splat_i32(np.int32((1 << bits) - 1))
    even = odd = splat_f32(np.float32(0))
    where = splat_i32(np.int32(0))
    slot = 0
    for g in range(slots // n):
        group = load_f32x16(x, b * x.shape[1] + g * m)
        for _ in range(n):
            if slot % per_word == 0:
                where = load_i32x16(positions, (block * words + slot // per_word) * LANES)
            value = load_f32x16(values, (block * slots + slot) * LANES)
            product = mul_f32(value, pick_of_16(group, and_i32(where, mask)))
            if slot % 2 == 0:
                even = add_f32(even, product)
            else:
                odd = add_f32(odd, product)
            where = shift_right_i32(where, bits)
            slot += 1
    store_f32x16(y, (b * (y.shape[1] // LANES) + block) * LANES, add_f32(even, odd))


@compiled(forceinline=True)
def _any_four_times(values, positions, x, y, n, m, bits, block, b):
    """One block of rows, four rows of x, any group up to sixteen."""
    slots = values.shape[1]
    words = positions.shape[1]
    width = x.shape[1]
    per_word = 32 // bits
    mask = splat_i32(np.int32((1 << bits) - 1))
    e0 = e1 = e2 = e3 = o0 = o1 = o2 = o3 = splat_f32(np.float32(0))
    where = splat_i32(np.int32(0))
    slot = 0
    for g in range(slots // n):
        at = b * width + g * m
        x0, x1 = load_f32x16(x, at), load_f32x16(x, at + width)
        x2, x3 = load_f32x16(x, at + 2 * width), load_f32x16(x, at + 3 * width)
        for _ in range(n):
            if slot % per_word == 0:
                where = load_i32x16(positions, (block * words + slot // per_word) * LANES)
            value = load_f32x16(values, (block * slots + slot) * LANES)
            place = and_i32(where, mask)
            if slot % 2 == 0:
                e0 = add_f32(e0, mul_f32(value, pick_of_16(x0, place)))
                e1 = add_f32(e1, mul_f32(value, pick_of_16(x1, place)))
                e2 = add_f32(e2, mul_f32(value, pick_of_16(x2, place)))
                e3 = add_f32(e3, mul_f32(value, pick_of_16(x3, place)))
            else:
                o0 = add_f32(o0, mul_f32(value, pick_of_16(x0, place)))
                o1 = add_f32(o1, mul_f32(value, pick_of_16(x1, place)))
                o2 = add_f32(o2, mul_f32(value, pick_of_16(x2, place)))
                o3 = add_f32(o3, mul_f32(value, pick_of_16(x3, place)))
            where = shift_right_i32(where, bits)
            slot += 1
    _store_four(y, block, b, add_f32(e0, o0), add_f32(e1, o1), add_f32(e2, o2), add_f32(e3, o3))


@compiled()
def vector_product(values, positions, x, y, n, m, bits, first, last):
    """Blocks first..last. x: (B, K + 16) float32, zeros behind; y: (B, blocks * 16)."""
    batch = x.shape[0]
    for block in range(first, last):
        b = 0
        if n == 2 and bits == 2 and m == 4:
            while b + 4 <= batch:
                _two_of_four_four_times(values, positions, x, y, block, b)
                b += 4
            while b < batch:
                _two_of_four_once(values, positions, x, y, block, b)
                b += 1
        else:
            while b + 4 <= batch:
                _any_four_times(values, positions, x, y, n, m, bits, block, b)
                b += 4
            while b < batch:
                _any_once(values, positions, x, y, n, m, bits, block, b)
                b += 1


@compiled()
def portable_product(values, positions, x, y, n, m, bits, first, last):
    """The same sums, slot by slot; unsigned places, so that no index is checked for being negative."""
    slots = values.shape[1]
    per_word = 32 // bits
    mask = np.uint32((1 << bits) - 1)
    even = np.empty(LANES, np.float32)
    odd = np.empty(LANES, np.float32)
    for block in range(first, last):
        for b in range(x.shape[0]):
            even[:] = 0
            odd[:] = 0
            for slot in range(slots):
                group = x[b, slot // n * m :]
                word = positions[block, slot // per_word]
                value = values[block, slot]
                shift = np.uint32(slot % per_word * bits)
                sums = even if slot % 2 == 0 else odd
                for lane in range(LANES):
                    sums[lane] += value[lane] * group[np.uint64((word[lane] >> shift) & mask)]
            for lane in range(LANES):
                y[b, block * LANES + lane] = even[lane] + odd[lane]


@compiled()
def vector_tiles(values, positions, columns, x, y, n, m, bits, first, last):
    """Tiles first..last of a hierarchical weight: gather a tile's kept activations once, then multiply its blocks."""
    blocks = values.shape[0] // columns.shape[0]
    kept = columns.shape[1]
    gathered = np.zeros((x.shape[0], kept + LANES), np.float32)
    for tile in range(first, last):
        for b in range(x.shape[0]):
            for k in range(kept):
                gathered[b, k] = x[b, columns[tile, k]]
        vector_product(values, positions, gathered, y, n, m, bits, tile * blocks, (tile + 1) * blocks)


@compiled()
def portable_tiles(values, positions, columns, x, y, n, m, bits, first, last):
    """The same for the portable product."""
    blocks = values.shape[0] // columns.shape[0]
    kept = columns.shape[1]
    gathered = np.zeros((x.shape[0], kept + LANES), np.float32)
    for tile in range(first, last):
        for b in range(x.shape[0]):
            for k in range(kept):
                gathered[b, k] = x[b, columns[tile, k]]
        portable_product(values, positions, gathered, y, n, m, bits, tile * blocks, (tile + 1) * blocks)
