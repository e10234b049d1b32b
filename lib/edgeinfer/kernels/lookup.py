"""Look-up-table products at 1..4 bits, the T-MAC way: a weight is a row of bits, and four bits index a table of sums.

The tables hold all 16 signed sums of 4 activations, as bytes with one scale per group of columns; they are built once
per input, not per output row. Cost is linear in the bits. Two things differ from the paper: four tables lie in one
register (`vpermb`, 64 entries), and the dot-product instruction serves as the adder of the looked-up bytes, with the
weight 2**p of the bit-plane as its factor. Knows nothing of non-uniform planes (`bcq`). Source: t-mac.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeinfer.kernels import simd, validate
from edgeinfer.kernels.activations import ROUND, ROUND_BITS
from edgeinfer.kernels.memory import aligned_empty, in_huge_pages
from edgeinfer.kernels.packing import BLOCK, blocked_rows
from edgeinfer.kernels.quantize import QuantizedWeight, check_group_size
from edgeinfer.kernels.simd import (
    add_f32,
    and_i8,
    compiled,
    dot_u8_i8,
    load_f32x16,
    load_i8x64,
    lookup_64,
    mul_f32,
    or_i8,
    shift_right,
    splat_f32,
    splat_i8,
    splat_i32,
    store_f32x16,
    sub_i32,
    to_f32,
)
from edgeinfer.kernels.threads import over_blocks

STEP = 32  # columns of a step: eight tables of four columns, two registers
OFFSET = 128  # a table entry of 0 is the byte 128


@dataclass(frozen=True)
class LookupWeight:
    """Bit-planes in the order in which the product reads them: w = scale * (1/2 sum_p 2**p c_p + offset), c_p = ±1.

    Attributes:
        data: per block of 64 rows, step of 32 columns and plane 256 bytes: byte 64 v + 4 l + j belongs to row 16 v + l;
            its low four bits are the plane's bits of columns 4 j .. 4 j + 3, its high four those of 16 + 4 j ...
        scale: (blocks, K // group_size, 64) float32.
        offset: like scale; empty when it is `middle` everywhere.
        middle: the offset of a symmetric weight: -1/2, or 0 for one bit.
        bits, group_size, shape: as in `QuantizedWeight`.
    """

    data: NDArray[np.uint8]
    scale: NDArray[np.float32]
    offset: NDArray[np.float32]
    middle: float
    bits: int
    group_size: int
    shape: tuple[int, int]

    @property
    def nbytes(self) -> int:
        """Bytes that one product reads from memory."""
        return self.data.nbytes + self.scale.nbytes + self.offset.nbytes


@dataclass(frozen=True)
class LookupTables:
    """The tables of one input.

    Attributes:
        entries: (B, K // 4 * 16) uint8; entry j of a table is the sum of its activations, + where j has a bit, - where
            not, plus 128.
        scale: (B, K // group_size) float32, the value of one unit of an entry.
        sums: (B, K // group_size) float32, the sum of a group's activations, which the offset multiplies.
        group_size: columns that share a scale.
        one: whether x was a vector.
    """

    entries: NDArray[np.uint8]
    scale: NDArray[np.float32]
    sums: NDArray[np.float32]
    group_size: int
    one: bool


def pack_planes(codes: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """The `data` of a `LookupWeight` from codes (N, K), K a multiple of 32."""
    rows, columns = codes.shape
    blocks = -(-rows // BLOCK)
    full = np.zeros((blocks * BLOCK, columns), np.uint8)
    full[:rows] = codes
    # block, vector, lane, step, half of the byte, byte j, bit of the index
    parts = full.reshape(blocks, 4, 16, columns // STEP, 2, 4, 4)
    out = np.empty((blocks, columns // STEP, bits, 4, 16, 4), np.uint8)
    weights = np.array([1, 2, 4, 8], np.uint8)
    for p in range(bits):
        index = (((parts >> np.uint8(p)) & np.uint8(1)) * weights).sum(-1, dtype=np.uint8)
        out[:, :, p] = (index[:, :, :, :, 0] | (index[:, :, :, :, 1] << np.uint8(4))).transpose(0, 3, 1, 2, 4)
    return in_huge_pages(out).reshape(-1)


def pack_lookup(weight: QuantizedWeight) -> LookupWeight:
    """Split the codes of a quantized weight of 2..4 bits into bit-planes.

    Raises:
        ValueError: "look-up tables serve 1..4 bits, got 8; ..." or "group_size 16 is too short ..."
    """
    if weight.bits > 4:
        raise ValueError(f"look-up tables serve 1..4 bits, got {weight.bits}; use `pack` and `matmul` for wider codes.")
    _check_step(weight.group_size)
    levels = np.float32(2**weight.bits - 1)
    offset = np.empty((0, 0, BLOCK), np.float32)
    if not weight.symmetric:
        offset = blocked_rows(levels / 2 - weight.zero_point.astype(np.float32), 0)
    return LookupWeight(
        pack_planes(weight.codes, weight.bits),
        blocked_rows(weight.scale, 0),
        offset,
        -0.5,
        weight.bits,
        weight.group_size,
        weight.shape,
    )


def quantize_sign(weight: NDArray[np.float32], group_size: int) -> LookupWeight:
    """One bit a weight: the sign, and the mean magnitude of a group (the best scale for signs in the squared error).

    Args:
        weight: (N, K) float32.
        group_size: columns that share a scale; a multiple of 32 that divides K.
    """
    weight = validate.finite_matrix(weight, "weight")
    rows, columns = weight.shape
    group_size = check_group_size(group_size, columns)
    _check_step(group_size)
    alpha = np.abs(weight).reshape(rows, -1, group_size).mean(-1, dtype=np.float64).astype(np.float32)
    planes = pack_planes((weight >= 0).astype(np.uint8), 1)
    nothing = np.empty((0, 0, BLOCK), np.float32)
    return LookupWeight(planes, blocked_rows(2 * alpha, 0), nothing, 0.0, 1, group_size, (rows, columns))


def _check_step(group_size: int) -> None:
    if group_size % STEP:
        raise ValueError(
            f"group_size {group_size} cannot be looked up: a step takes {STEP} columns; choose a multiple of {STEP}."
        )


@compiled()
def _build(x, group_size, entries, scale, sums):
    """All signed sums of each four activations, as bytes; returns False when x holds NaN or infinity."""
    finite = True
    s0, s1, s2, s3 = (
        np.empty(16, np.float32),
        np.empty(16, np.float32),
        np.empty(16, np.float32),
        np.empty(16, np.float32),
    )
    for j in range(16):
        s0[j], s1[j] = np.float32(2 * (j & 1) - 1), np.float32((j & 2) - 1)
        s2[j], s3[j] = np.float32((j & 4) // 2 - 1), np.float32((j & 8) // 4 - 1)
    tables = group_size // 4
    shifted = np.empty(group_size * 4, np.float32)
    pattern = shifted.view(np.int32)
    for b in range(x.shape[0]):
        for g in range(scale.shape[1]):
            row = x[b, g * group_size : (g + 1) * group_size]
            out = entries[b, g * group_size * 4 : (g + 1) * group_size * 4]
            largest = np.float32(0)
            total = np.float32(0)
            for i in range(tables):
                x0, x1, x2, x3 = row[4 * i], row[4 * i + 1], row[4 * i + 2], row[4 * i + 3]
                reach = abs(x0) + abs(x1) + abs(x2) + abs(x3)
                largest = reach if reach > largest else largest
                total += (x0 + x1) + (x2 + x3)
            finite = finite and np.isfinite(total) and np.isfinite(largest)
            unit = largest / np.float32(127)
            inverse = np.float32(1) / unit if unit > np.float32(1e-37) else np.float32(0)
            for i in range(tables):
                x0, x1 = row[4 * i] * inverse, row[4 * i + 1] * inverse
                x2, x3 = row[4 * i + 2] * inverse, row[4 * i + 3] * inverse
                for j in range(16):  # one register: all 16 signed sums at once
                    shifted[16 * i + j] = ((x0 * s0[j] + x1 * s1[j]) + (x2 * s2[j] + x3 * s3[j])) + ROUND
            for i in range(group_size * 4):
                out[i] = np.uint8((pattern[i] - ROUND_BITS + OFFSET) & 255)
            scale[b, g] = unit
            sums[b, g] = total
    return finite


def build_tables(x: NDArray[np.float32], group_size: int) -> LookupTables:
    """Build the tables of an input once, for every product with it.

    Args:
        x: (K,) or (B, K) float32.
        group_size: that of the weights.

    Raises:
        ValueError: "x contains NaN or infinite values ..." or a shape that does not fit.
    """
    x = np.asarray(x)
    columns = x.shape[-1] if x.ndim else 0
    rows = validate.activations(x, columns)
    _check_step(group_size)
    if columns == 0 or columns % group_size:
        raise ValueError(f"group_size {group_size} does not divide the {columns} columns of x.")
    entries = aligned_empty((rows.shape[0], columns * 4), np.uint8)
    scale = np.empty((rows.shape[0], columns // group_size), np.float32)
    sums = np.empty_like(scale)
    if not _build(rows, group_size, entries, scale, sums):
        raise ValueError(
            "x contains NaN or infinite values (or sums beyond float32); a product with them means nothing."
        )
    return LookupTables(entries, scale, sums, group_size, x.ndim == 1)


@compiled(forceinline=True)
def look_up_block(bits, w, scale, offset, middle, table, unit, sums, group_size, y, block):
    """y[64 rows of the block] for one column."""
    nibble = splat_i8(np.int8(15))
    which = simd.table_of_byte()  # byte j of a lane looks into table j of the register
    nothing = splat_i32(np.int32(0))
    steps = group_size // STEP
    at = block * unit.size * steps * bits * 256
    side = block * unit.size * BLOCK
    shift = splat_i32(np.int32(OFFSET * 8 * ((1 << bits) - 1) * steps))
    f0 = splat_f32(np.float32(0))
    f1 = f0
    f2 = f0
    f3 = f0
    for g in range(unit.size):
        a0 = nothing
        a1 = nothing
        a2 = nothing
        a3 = nothing
        for c in range(g * steps, (g + 1) * steps):
            low = load_i8x64(table, c * 128)
            high = load_i8x64(table, c * 128 + 64)
            for p in range(bits):
                v0 = load_i8x64(w, at)
                v1 = load_i8x64(w, at + 64)
                v2 = load_i8x64(w, at + 128)
                v3 = load_i8x64(w, at + 192)
                at += 256
                factor = splat_i8(np.int8(1 << p))
                a0 = dot_u8_i8(a0, lookup_64(low, or_i8(and_i8(v0, nibble), which)), factor)
                a1 = dot_u8_i8(a1, lookup_64(low, or_i8(and_i8(v1, nibble), which)), factor)
                a2 = dot_u8_i8(a2, lookup_64(low, or_i8(and_i8(v2, nibble), which)), factor)
                a3 = dot_u8_i8(a3, lookup_64(low, or_i8(and_i8(v3, nibble), which)), factor)
                a0 = dot_u8_i8(a0, lookup_64(high, or_i8(and_i8(shift_right(v0, 4), nibble), which)), factor)
                a1 = dot_u8_i8(a1, lookup_64(high, or_i8(and_i8(shift_right(v1, 4), nibble), which)), factor)
                a2 = dot_u8_i8(a2, lookup_64(high, or_i8(and_i8(shift_right(v2, 4), nibble), which)), factor)
                a3 = dot_u8_i8(a3, lookup_64(high, or_i8(and_i8(shift_right(v3, 4), nibble), which)), factor)
        half = splat_f32(np.float32(0.5) * unit[g])
        total = splat_f32(sums[g])
        q = side + g * BLOCK
        f0 = _finish(f0, sub_i32(a0, shift), half, total, scale, offset, middle, q)
        f1 = _finish(f1, sub_i32(a1, shift), half, total, scale, offset, middle, q + 16)
        f2 = _finish(f2, sub_i32(a2, shift), half, total, scale, offset, middle, q + 32)
        f3 = _finish(f3, sub_i32(a3, shift), half, total, scale, offset, middle, q + 48)
    store_f32x16(y, block * BLOCK, f0)
    store_f32x16(y, block * BLOCK + 16, f1)
    store_f32x16(y, block * BLOCK + 32, f2)
    store_f32x16(y, block * BLOCK + 48, f3)


@compiled(forceinline=True)
def _finish(f, a, half, total, scale, offset, middle, q):
    o = load_f32x16(offset, q) if offset.size else splat_f32(middle)
    part = add_f32(mul_f32(half, to_f32(a)), mul_f32(o, total))
    return add_f32(f, mul_f32(load_f32x16(scale, q), part))


@compiled(forceinline=True)
def _blocks(bits, w, scale, offset, middle, table, unit, sums, group_size, y, first, last):
    for block in range(first, last):
        for b in range(unit.shape[0]):
            look_up_block(bits, w, scale, offset, middle, table[b], unit[b], sums[b], group_size, y[b], block)


@compiled()
def _vector(w, scale, offset, middle, bits, table, unit, sums, group_size, y, first, last):
    # one branch a call, so that `bits` is a constant in each loop and the loop over the planes unrolls
    if bits == 1:
        _blocks(1, w, scale, offset, middle, table, unit, sums, group_size, y, first, last)
    elif bits == 2:
        _blocks(2, w, scale, offset, middle, table, unit, sums, group_size, y, first, last)
    else:
        _blocks(bits, w, scale, offset, middle, table, unit, sums, group_size, y, first, last)


@compiled()
def look_up_block_portable(bits, w, scale, offset, middle, table, unit, sums, group_size, y, block):
    """The same integer and float operations by plain loops."""
    steps = group_size // STEP
    total = np.empty(BLOCK, np.int32)
    shift = np.int32(OFFSET * 8 * ((1 << bits) - 1) * steps)
    out = y[block * BLOCK : (block + 1) * BLOCK]
    out[:] = np.float32(0)
    at = block * unit.size * steps * bits * 256
    for g in range(unit.size):
        total[:] = -shift
        for c in range(g * steps, (g + 1) * steps):
            tables = table[c * 128 : (c + 1) * 128]
            for p in range(bits):
                for r in range(BLOCK):
                    looked_up = np.int32(0)
                    for j in range(4):
                        index = w[at + 4 * r + j]
                        looked_up += np.int32(tables[16 * j + (index & 15)])
                        looked_up += np.int32(tables[64 + 16 * j + (index >> 4)])
                    total[r] += looked_up << p
                at += 256
        q = (block * unit.size + g) * BLOCK
        half = np.float32(0.5) * unit[g]
        for r in range(BLOCK):
            o = offset[q + r] if offset.size else middle
            out[r] += scale[q + r] * (half * np.float32(total[r]) + o * sums[g])


@compiled()
def _portable(w, scale, offset, middle, bits, table, unit, sums, group_size, y, first, last):
    for block in range(first, last):
        for b in range(unit.shape[0]):
            look_up_block_portable(bits, w, scale, offset, middle, table[b], unit[b], sums[b], group_size, y[b], block)


def lookup_matmul(
    weight: LookupWeight, x: NDArray[np.float32] | LookupTables, threads: int = 1, path: str = "auto"
) -> NDArray[np.float32]:
    """y = x W^T by looking up sums instead of multiplying.

    Args:
        weight: packed bit-planes, (N, K), 1..4 bits.
        x: (K,) or (B, K) float32, or tables that were built before with the weight's group size.
        threads: row blocks are divided among so many threads.
        path: "auto", "simd" or "portable"; both return the same bits.

    Returns:
        (N,) or (B, N) float32.

    Raises:
        ValueError: what does not fit, in one sentence.
    """
    rows, columns = weight.shape
    if not isinstance(x, LookupTables):
        validate.activations(x, columns)
        x = build_tables(x, weight.group_size)
    if x.group_size != weight.group_size or x.entries.shape[1] != 4 * columns:
        raise ValueError(
            f"the tables were built for {x.entries.shape[1] // 4} columns in groups of {x.group_size}; "
            f"this weight has {columns} columns in groups of {weight.group_size}."
        )
    blocks = weight.scale.shape[0]
    y = np.empty((x.entries.shape[0], blocks * BLOCK), np.float32)
    fast = simd.choose(path)
    scale, offset = weight.scale.reshape(-1), weight.offset.reshape(-1)
    tables = (x.entries, x.scale, x.sums, weight.group_size, y)
    arguments = (weight.data, scale, offset, np.float32(weight.middle), weight.bits, *tables)
    over_blocks(_vector if fast else _portable, arguments, blocks, threads, weight.nbytes * len(y) if fast else None)
    y = y[:, :rows]
    return y[0] if x.one else y
