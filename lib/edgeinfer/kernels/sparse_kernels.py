"""Products of a bitmap weight: non-zeros expanded against their mask in registers, or visited one by one.

One column: a mask spreads 32 packed bfloat16 values over a register (`vpexpandw`), zeros between them, and the tile's
256 activations stay in sixteen registers for 64 rows. Several columns: the mask squeezes a register of column numbers
instead (`vpcompressb`), and each non-zero meets a row of sixteen activations, so only non-zeros are multiplied.
Knows layouts, checks nothing. Source: flash-llm, spinfer, moved from tensor cores to vector registers.
"""

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from edgeinfer.kernels import simd
from edgeinfer.kernels.simd import (
    F32,
    I8,
    I32,
    _address,
    _declare,
    _lanes,
    _make_store,
    _splat,
    add_f32,
    compiled,
    f32x16,
    fma_f32,
    i8x64,
    i16x32,
    i32x16,
    load_f32x16,
    prefetch,
    splat_f32,
    store_f32x16,
)
from edgeinfer.kernels.sparse_bitmap import STRIP, TILE, WORD

NEEDED_FEATURES = ("avx512vbmi2",)
AHEAD = 2048  # values that the prefetch runs ahead of the loads
I64, BIT = ir.IntType(64), ir.IntType(1)
llvm.initialize_native_asmparser()  # for the one instruction that is written out below
store_i16x32 = _make_store(i16x32)
_AVAILABLE = simd.available() and not simd.missing_features(NEEDED_FEATURES)


def choose(path: str) -> bool:
    """`simd.choose` for kernels that also need AVX-512 VBMI2.

    Raises:
        RuntimeError: "path='simd' cannot run: this processor has no avx512vbmi2. Use path='auto' or 'portable'."
    """
    if path == "auto":
        return _AVAILABLE
    if not simd.choose(path):
        return False
    if missing := simd.missing_features(NEEDED_FEATURES):
        raise RuntimeError(
            f"path='simd' cannot run: this processor has no {', '.join(missing)}. Use path='auto' or 'portable'."
        )
    return True


@intrinsic
def count_ones(typing, word):
    """How many bits of a 64-bit word are set."""

    def generate(context, builder, signature, args):
        return builder.call(_declare(builder, "llvm.ctpop.i64", I64, [I64]), args)

    return types.int64(types.uint64), generate


@intrinsic
def row_of_x(typing, columns, index, x, base):
    """The sixteen activations of column columns[index], where those of column 0 begin at x[base]."""

    def generate(context, builder, signature, args):
        width = ir.IntType(signature.args[0].dtype.bitwidth)
        column = builder.load(_address(context, builder, signature.args[0], args[0], args[1], width), align=1)
        wide = column if width.width == 64 else builder.zext(column, I64)
        at = builder.add(args[3], builder.shl(wide, I64(4)))
        return builder.load(_address(context, builder, signature.args[2], args[2], at, f32x16.llvm), align=1)

    return f32x16(columns, types.intp, x, types.intp), generate


def _make_expand(half: int):
    @intrinsic
    def expand(typing, array, index, mask):
        def generate(context, builder, signature, args):
            packed = builder.load(_address(context, builder, signature.args[0], args[0], args[1], i16x32.llvm), align=1)
            bits = builder.trunc(builder.lshr(args[2], I64(32 * half)), I32)
            # Written out with a register: LLVM would fold the load into the instruction, which is slower (Zen 4).
            kind = ir.FunctionType(i16x32.llvm, [i16x32.llvm, I32])
            return builder.asm(kind, "vpexpandw $1, $0 {$2} {z}", "=v,v,^Yk", [packed, bits], False)

        return i16x32(array, types.intp, types.uint64), generate

    return expand


# vpexpandw: the values from array[index] on, spread over the lanes whose bit of the mask's lower or upper half is set.
# Reads 64 bytes whatever the mask says.
expand_low, expand_high = _make_expand(0), _make_expand(1)


@intrinsic
def load_mask(typing, array, index):
    """array[index] of 64 bits, without Python's meaning of a negative index."""

    def generate(context, builder, signature, args):
        return builder.load(_address(context, builder, signature.args[0], args[0], args[1], I64), align=8)

    return types.uint64(array, types.intp), generate


@intrinsic
def squeeze_columns(typing, array, index, mask, first):
    """vpcompressb: store first, first + 1, ... of the set bits of a mask at array[index]; writes 64 bytes."""

    def generate(context, builder, signature, args):
        numbers = ir.Constant(i8x64.llvm, list(range(64)))
        numbers = builder.add(numbers, _splat(builder, builder.trunc(args[3], I8), i8x64.llvm))
        lanes = builder.bitcast(args[2], ir.VectorType(BIT, 64))
        name = "llvm.x86.avx512.mask.compress.v64i8"
        call = _declare(builder, name, i8x64.llvm, [i8x64.llvm, i8x64.llvm, lanes.type])
        packed = builder.call(call, [numbers, ir.Constant(i8x64.llvm, [0] * 64), lanes])
        where = _address(context, builder, signature.args[0], args[0], args[1], i8x64.llvm)
        builder.store(packed, where, align=1)
        return context.get_dummy_value()

    return types.void(array, types.intp, types.uint64, types.int64), generate


@intrinsic
def even_values(typing, pairs):
    """Lanes 0, 2, 4, ... of 32 bfloat16 numbers as float32."""

    def generate(context, builder, signature, args):
        words = builder.bitcast(args[0], i32x16.llvm)
        return builder.bitcast(builder.shl(words, ir.Constant(i32x16.llvm, [16] * 16)), f32x16.llvm)

    return f32x16(i16x32), generate


@intrinsic
def odd_values(typing, pairs):
    """Lanes 1, 3, 5, ... of 32 bfloat16 numbers as float32."""

    def generate(context, builder, signature, args):
        words = builder.bitcast(args[0], i32x16.llvm)
        return builder.bitcast(builder.and_(words, ir.Constant(i32x16.llvm, [0xFFFF0000] * 16)), f32x16.llvm)

    return f32x16(i16x32), generate


def _make_every_other(first: int):
    @intrinsic
    def pick(typing, a, b):
        def generate(context, builder, signature, args):
            return builder.shuffle_vector(args[0], args[1], _lanes(range(first, 32, 2)))

        return f32x16(f32x16, f32x16), generate

    return pick


evens, odds = _make_every_other(0), _make_every_other(1)  # of 32 float32 numbers in two registers


@intrinsic
def broadcast_value(typing, array, index):
    """One bfloat16 number in all sixteen lanes as float32. Reads four bytes."""

    def generate(context, builder, signature, args):
        two = builder.load(_address(context, builder, signature.args[0], args[0], args[1], I32), align=1)
        words = _splat(builder, two, i32x16.llvm)
        return builder.bitcast(builder.shl(words, ir.Constant(i32x16.llvm, [16] * 16)), f32x16.llvm)

    return f32x16(array, types.intp), generate


@intrinsic
def sum_lanes(typing, a):
    """The sum of sixteen lanes, in any order."""

    def generate(context, builder, signature, args):
        call = _declare(builder, "llvm.vector.reduce.fadd.v16f32", F32, [F32, f32x16.llvm])
        return builder.call(call, [ir.Constant(F32, 0.0), args[0]], fastmath=("reassoc",))

    return types.float32(f32x16), generate


@compiled(forceinline=True)
def _word(values, p, m, x0, x1, x2, x3, a0, a1, a2, a3):
    """Sixty-four columns of a row: two registers of expanded values against four of activations."""
    low = expand_low(values, p, m)
    high = expand_high(values, p + count_ones(m & np.uint64(0xFFFFFFFF)), m)
    a0 = fma_f32(even_values(low), x0, a0)
    a1 = fma_f32(odd_values(low), x1, a1)
    a2 = fma_f32(even_values(high), x2, a2)
    a3 = fma_f32(odd_values(high), x3, a3)
    return p + count_ones(m), a0, a1, a2, a3


@compiled(forceinline=True)
def _activations(x, at):
    """Sixty-four activations, even columns apart from odd ones."""
    v0 = load_f32x16(x, at)
    v1 = load_f32x16(x, at + 16)
    v2 = load_f32x16(x, at + 32)
    v3 = load_f32x16(x, at + 48)
    return evens(v0, v1), odds(v0, v1), evens(v2, v3), odds(v2, v3)


@compiled(forceinline=True)
def _tile_one(masks, at, values, p, x, column, total, tall):
    """A tile of four masks a row: its activations stay in registers for all rows."""
    x00, x01, x02, x03 = _activations(x, column)
    x10, x11, x12, x13 = _activations(x, column + WORD)
    x20, x21, x22, x23 = _activations(x, column + 2 * WORD)
    x30, x31, x32, x33 = _activations(x, column + 3 * WORD)
    nothing = splat_f32(np.float32(0))
    for r in range(tall):
        prefetch(values, p + AHEAD)
        prefetch(values, p + AHEAD + 32)
        a0 = load_f32x16(total, 16 * r)
        a1 = a2 = a3 = nothing
        p, a0, a1, a2, a3 = _word(values, p, load_mask(masks, at), x00, x01, x02, x03, a0, a1, a2, a3)
        p, a0, a1, a2, a3 = _word(values, p, load_mask(masks, at + 1), x10, x11, x12, x13, a0, a1, a2, a3)
        p, a0, a1, a2, a3 = _word(values, p, load_mask(masks, at + 2), x20, x21, x22, x23, a0, a1, a2, a3)
        p, a0, a1, a2, a3 = _word(values, p, load_mask(masks, at + 3), x30, x31, x32, x33, a0, a1, a2, a3)
        store_f32x16(total, 16 * r, add_f32(add_f32(a0, a1), add_f32(a2, a3)))
        at += TILE
    return p


@compiled(forceinline=True)
def _tile_rest(masks, at, values, p, x, column, total, tall, wide):
    """The last tile of a row of tiles, one to three masks wide."""
    nothing = splat_f32(np.float32(0))
    for r in range(tall):
        a0 = load_f32x16(total, 16 * r)
        a1 = a2 = a3 = nothing
        for w in range(wide):
            x0, x1, x2, x3 = _activations(x, column + w * WORD)
            p, a0, a1, a2, a3 = _word(values, p, load_mask(masks, at), x0, x1, x2, x3, a0, a1, a2, a3)
            at += 1
        store_f32x16(total, 16 * r, add_f32(add_f32(a0, a1), add_f32(a2, a3)))
    return p


@compiled(forceinline=True)
def _aligned(count):
    """Float32 zeros that begin at a cache line."""
    space = np.zeros(count + 16, np.float32)
    start = (-space.ctypes.data % 64) // 4
    return space[start : start + count]


@compiled()
def bitmap_to_dense(masks, values, starts, words, dense, first, last):
    """Strips first..last of the matrix itself. dense (N, 64 * words) uint16; no arithmetic, only expansion."""
    rows = dense.shape[0]
    tiles = -(-words // TILE)
    flat = dense.reshape(-1)
    for strip in range(first, last):
        at = strip * STRIP * words
        p = starts[strip * tiles]
        for t in range(tiles):
            for r in range(strip * STRIP, min((strip + 1) * STRIP, rows)):
                for w in range(t * TILE, min((t + 1) * TILE, words)):
                    m = load_mask(masks, at)
                    to = (r * words + w) * WORD
                    store_i16x32(flat, to, expand_low(values, p, m))
                    p += count_ones(m & np.uint64(0xFFFFFFFF))
                    store_i16x32(flat, to + 32, expand_high(values, p, m))
                    p += count_ones(m >> np.uint64(32))
                    at += 1


@compiled()
def bitmap_expand(masks, values, starts, words, x, y, first, last):
    """Strips first..last by expanding. x (B, 64 * words), y (B, N); values readable 64 bytes beyond the end."""
    rows = y.shape[1]
    tiles = -(-words // TILE)
    total = _aligned(STRIP * 16)
    for strip in range(first, last):
        tall = min(STRIP, rows - strip * STRIP)
        for b in range(y.shape[0]):
            total[:] = np.float32(0)
            at = strip * STRIP * words
            p = starts[strip * tiles]
            for t in range(words // TILE):
                p = _tile_one(masks, at, values, p, x[b], t * TILE * WORD, total, tall)
                at += tall * TILE
            if words % TILE:
                _tile_rest(masks, at, values, p, x[b], words // TILE * TILE * WORD, total, tall, words % TILE)
            for r in range(tall):
                y[b, strip * STRIP + r] = sum_lanes(load_f32x16(total, 16 * r))


@compiled(forceinline=True)
def _row_many(values, p, count, columns, c, x, base, y, at):
    """y[16 columns from at on] += a row's non-zeros times their rows of x; four sums, lest each wait for the last."""
    a0 = load_f32x16(y, at)
    a1 = a2 = a3 = splat_f32(np.float32(0))
    whole = count // 4 * 4
    for j in range(0, whole, 4):
        a0 = fma_f32(broadcast_value(values, p + j), row_of_x(columns, c + j, x, base), a0)
        a1 = fma_f32(broadcast_value(values, p + j + 1), row_of_x(columns, c + j + 1, x, base), a1)
        a2 = fma_f32(broadcast_value(values, p + j + 2), row_of_x(columns, c + j + 2, x, base), a2)
        a3 = fma_f32(broadcast_value(values, p + j + 3), row_of_x(columns, c + j + 3, x, base), a3)
    for j in range(whole, count):
        a0 = fma_f32(broadcast_value(values, p + j), row_of_x(columns, c + j, x, base), a0)
    store_f32x16(y, at, add_f32(add_f32(a0, a1), add_f32(a2, a3)))


@compiled()
def bitmap_visit(masks, values, starts, words, x, y, first, last):
    """Strips first..last by visiting non-zeros. x (chunks, 64 * words, 16), y (N, chunks, 16)."""
    chunks, rows = x.shape[0], y.shape[0]
    tiles = -(-words // TILE)
    columns = np.empty(STRIP * TILE * WORD + WORD, np.uint8)
    counts = np.empty(STRIP, np.int64)
    flat_y = y.reshape(-1)
    for strip in range(first, last):
        tall = min(STRIP, rows - strip * STRIP)
        at = strip * STRIP * words
        y[strip * STRIP : strip * STRIP + tall] = np.float32(0)
        for t in range(tiles):
            wide = min(TILE, words - t * TILE)
            p = starts[strip * tiles + t]
            c = 0
            for r in range(tall):
                before = c
                for w in range(wide):
                    m = load_mask(masks, at)
                    squeeze_columns(columns, c, m, w * WORD)
                    c += count_ones(m)
                    at += 1
                counts[r] = c - before
            for chunk in range(chunks):
                flat_x = x[chunk].reshape(-1)
                base = t * TILE * WORD * 16
                c = 0
                for r in range(tall):
                    if chunk == 0:
                        prefetch(values, p + c + AHEAD)
                        prefetch(values, p + c + AHEAD + 32)
                    to = ((strip * STRIP + r) * chunks + chunk) * 16
                    _row_many(values, p + c, counts[r], columns, c, flat_x, base, flat_y, to)
                    c += counts[r]


@compiled()
def csr_visit(values, columns, starts, x, y, first, last):
    """Rows first..last of a CSR weight. x (chunks, K, 16), y (N, chunks, 16); a value more is readable."""
    chunks = x.shape[0]
    flat_y = y.reshape(-1)
    y[first:last] = np.float32(0)
    for r in range(first, last):
        p = np.int64(starts[r])
        count = np.int64(starts[r + 1]) - p
        for chunk in range(chunks):
            flat_x = x[chunk].reshape(-1)
            _row_many(values, p, count, columns, p, flat_x, 0, flat_y, (r * chunks + chunk) * 16)
