"""The second half of low-bit attention: softmax of the scores and the weighted sum of value codes.

A probability times the scale of its token is rounded to two bytes, and the sum over tokens is again one of bytes times
bytes: no value becomes a float. A work item is one key-value head and one split of the tokens; each leaves its maximum,
its sum and its unfinished output, which `merge` puts together. Knows the order of the bytes (`attention_layout`).
H key-value heads, G query heads of each, S tokens, D channels (padded), P codes in a byte. Source: flashattention.
"""

import numpy as np

from edgeinfer.kernels.simd import (
    and_i8,
    broadcast_4_bytes,
    compiled,
    dot_u8_i8,
    load_i8x64,
    load_i32x16,
    prefetch,
    shift_right,
    splat_i8,
    store_i32x16,
)

VALUE_BLOCK, CHUNK = 64, 32  # tokens of a block; channels of a chunk: two vectors of sixteen 32-bit lanes
AHEAD = 4096
ROUND = np.float32(12582912.0)  # 1.5 * 2**23: adding it leaves the nearest integer in the low bits of the float
LOG2E, LN2_HIGH, LN2_LOW = np.float32(1.4426950408889634), np.float32(0.693359375), np.float32(-2.12194440e-4)
PLANES = np.float32(65535)
REASSOCIATE = {"reassoc", "nsz", "nnan", "ninf", "contract"}  # sums in any order, so that they vectorise


@compiled(forceinline=True)
def _halves(halves, pattern, out):
    """float16 -> float32 by moving bits; `pattern` is `out` seen as integers. Finite numbers only."""
    for i in range(halves.size):
        h = np.int32(halves[i])
        pattern[i] = ((h & np.int32(0x8000)) << np.int32(16)) | ((h & np.int32(0x7FFF)) << np.int32(13))
    for i in range(halves.size):
        out[i] = out[i] * np.float32(2.0**112)


@compiled(forceinline=True, fastmath=False)  # said aloud: a caller's fastmath is inherited, and would undo the rounding
def exponentials(row, count, largest):
    """row <- exp(row - largest), to about one unit in the last place of float32; arguments are never positive."""
    for t in range(count):
        x = row[t] - largest
        x = np.float32(-87) if x < np.float32(-87) else x  # in this order what is no number stays none
        shifted = x * LOG2E + ROUND  # the integer part, in the low bits
        n = shifted - ROUND
        r = x - n * LN2_HIGH - n * LN2_LOW
        y = np.float32(1.9875691500e-4)
        y = y * r + np.float32(1.3981999507e-3)
        y = y * r + np.float32(8.3334519073e-3)
        y = y * r + np.float32(4.1665795894e-2)
        y = y * r + np.float32(1.6666665459e-1)
        y = y * r + np.float32(5.0000001201e-1)
        y = y * r * r + r + np.float32(1)
        exponent = np.float32(shifted).view(np.int32) << np.int32(23)
        row[t] = np.int32(np.float32(y).view(np.int32) + exponent).view(np.float32)


@compiled(fastmath=REASSOCIATE)
def largest_of(row, count):
    best = row[0]
    for t in range(count):
        best = max(best, row[t])
    return best


@compiled(fastmath=REASSOCIATE)
def sum_of(row, count):
    total = np.float32(0)
    for t in range(count):
        total += row[t]
    return total


@compiled(fastmath=REASSOCIATE)
def _planes(row, count, scale, offset, center, weighted, high, low):
    """Round row * scale to 16 bits, one byte in each plane; returns the unit and the constant part of the sums."""
    constant = np.float32(0)
    for t in range(count):
        weighted[t] = row[t] * scale[t]
    for t in range(count):
        constant += row[t] * offset[t] + center * weighted[t]
    unit = largest_of(weighted, count) / PLANES
    inverse = np.float32(1) / unit if unit > np.float32(1e-38) else np.float32(0)
    for t in range(count):
        code = np.int32(min(weighted[t] * inverse + np.float32(0.5), PLANES))
        high[t] = np.uint8(code >> 8)
        low[t] = np.uint8(code & 255)
    return unit, constant


@compiled(forceinline=True)
def _dots_vector(bits, values, planes, group_size, first, last, sums):
    """sums[2 i + plane, d] += sum over t of byte of probability * value code; a lane is a channel."""
    per_byte = 8 // bits
    step = 4 * per_byte
    low = splat_i8(np.int8((1 << bits) - 1))
    flat, out = planes.reshape(-1), sums.reshape(-1)
    rows, channels = sums.shape
    count = planes.shape[2]
    for block in range(first, last):
        for c in range(channels // CHUNK):
            start = (block * (channels // CHUNK) + c) * (VALUE_BLOCK // step) * 128
            group = c * CHUNK // group_size * rows
            for i in range(0, rows - rows % 8, 8):  # four heads, two planes
                p = i * channels + c * CHUNK
                a0, b0 = load_i32x16(out, p), load_i32x16(out, p + 16)
                a1, b1 = load_i32x16(out, p + channels), load_i32x16(out, p + channels + 16)
                a2, b2 = load_i32x16(out, p + 2 * channels), load_i32x16(out, p + 2 * channels + 16)
                a3, b3 = load_i32x16(out, p + 3 * channels), load_i32x16(out, p + 3 * channels + 16)
                a4, b4 = load_i32x16(out, p + 4 * channels), load_i32x16(out, p + 4 * channels + 16)
                a5, b5 = load_i32x16(out, p + 5 * channels), load_i32x16(out, p + 5 * channels + 16)
                a6, b6 = load_i32x16(out, p + 6 * channels), load_i32x16(out, p + 6 * channels + 16)
                a7, b7 = load_i32x16(out, p + 7 * channels), load_i32x16(out, p + 7 * channels + 16)
                at = start
                x = (group + i) * count + (block - first) * VALUE_BLOCK
                for _ in range(VALUE_BLOCK // step):
                    v0 = load_i8x64(values, at)
                    v1 = load_i8x64(values, at + 64)
                    prefetch(values, at + AHEAD)
                    prefetch(values, at + AHEAD + 64)
                    at += 128
                    for s in range(per_byte):
                        u0 = and_i8(shift_right(v0, s * bits), low) if bits < 8 else v0
                        u1 = and_i8(shift_right(v1, s * bits), low) if bits < 8 else v1
                        w0, w1 = broadcast_4_bytes(flat, x), broadcast_4_bytes(flat, x + count)
                        w2, w3 = broadcast_4_bytes(flat, x + 2 * count), broadcast_4_bytes(flat, x + 3 * count)
                        a0, b0 = dot_u8_i8(a0, w0, u0), dot_u8_i8(b0, w0, u1)
                        a1, b1 = dot_u8_i8(a1, w1, u0), dot_u8_i8(b1, w1, u1)
                        a2, b2 = dot_u8_i8(a2, w2, u0), dot_u8_i8(b2, w2, u1)
                        a3, b3 = dot_u8_i8(a3, w3, u0), dot_u8_i8(b3, w3, u1)
                        w0, w1 = broadcast_4_bytes(flat, x + 4 * count), broadcast_4_bytes(flat, x + 5 * count)
                        w2, w3 = broadcast_4_bytes(flat, x + 6 * count), broadcast_4_bytes(flat, x + 7 * count)
                        a4, b4 = dot_u8_i8(a4, w0, u0), dot_u8_i8(b4, w0, u1)
                        a5, b5 = dot_u8_i8(a5, w1, u0), dot_u8_i8(b5, w1, u1)
                        a6, b6 = dot_u8_i8(a6, w2, u0), dot_u8_i8(b6, w2, u1)
                        a7, b7 = dot_u8_i8(a7, w3, u0), dot_u8_i8(b7, w3, u1)
                        x += 4
                store_i32x16(out, p, a0)
                store_i32x16(out, p + 16, b0)
                store_i32x16(out, p + channels, a1)
                store_i32x16(out, p + channels + 16, b1)
                store_i32x16(out, p + 2 * channels, a2)
                store_i32x16(out, p + 2 * channels + 16, b2)
                store_i32x16(out, p + 3 * channels, a3)
                store_i32x16(out, p + 3 * channels + 16, b3)
                store_i32x16(out, p + 4 * channels, a4)
                store_i32x16(out, p + 4 * channels + 16, b4)
                store_i32x16(out, p + 5 * channels, a5)
                store_i32x16(out, p + 5 * channels + 16, b5)
                store_i32x16(out, p + 6 * channels, a6)
                store_i32x16(out, p + 6 * channels + 16, b6)
                store_i32x16(out, p + 7 * channels, a7)
                store_i32x16(out, p + 7 * channels + 16, b7)
            for i in range(rows - rows % 8, rows, 2):  # one head, two planes
                p = i * channels + c * CHUNK
                a0, b0 = load_i32x16(out, p), load_i32x16(out, p + 16)
                a1, b1 = load_i32x16(out, p + channels), load_i32x16(out, p + channels + 16)
                at = start
                x = (group + i) * count + (block - first) * VALUE_BLOCK
                for _ in range(VALUE_BLOCK // step):
                    v0 = load_i8x64(values, at)
                    v1 = load_i8x64(values, at + 64)
                    prefetch(values, at + AHEAD)
                    prefetch(values, at + AHEAD + 64)
                    at += 128
                    for s in range(per_byte):
                        u0 = and_i8(shift_right(v0, s * bits), low)
                        u1 = and_i8(shift_right(v1, s * bits), low)
                        w0, w1 = broadcast_4_bytes(flat, x), broadcast_4_bytes(flat, x + count)
                        a0, b0 = dot_u8_i8(a0, w0, u0), dot_u8_i8(b0, w0, u1)
                        a1, b1 = dot_u8_i8(a1, w1, u0), dot_u8_i8(b1, w1, u1)
                        x += 4
                store_i32x16(out, p, a0)
                store_i32x16(out, p + 16, b0)
                store_i32x16(out, p + channels, a1)
                store_i32x16(out, p + channels + 16, b1)


@compiled()
def _dots_simd(bits, values, planes, group_size, first, last, sums):
    if bits == 8:
        _dots_vector(8, values, planes, group_size, first, last, sums)
    elif bits == 4:
        _dots_vector(4, values, planes, group_size, first, last, sums)
    else:
        _dots_vector(2, values, planes, group_size, first, last, sums)


@compiled()
def _dots_portable(bits, values, planes, group_size, first, last, sums):
    """The same integers by plain loops over the 32 channels of a chunk, which LLVM vectorises for any machine."""
    step = 4 * (8 // bits)
    mask = np.int32((1 << bits) - 1)
    middle = np.int32(128 if bits == 8 else 0)
    rows, channels = sums.shape
    words = values.view(np.int32)  # four bytes of a channel
    unpacked = np.empty(CHUNK, np.int32)
    for block in range(first, last):
        for c in range(channels // CHUNK):
            start = (block * (channels // CHUNK) + c) * (VALUE_BLOCK // step) * CHUNK
            weights = planes[c * CHUNK // group_size]
            for t in range(VALUE_BLOCK):
                shift = np.int32(8 * (t % 4) + t % step // 4 * bits)
                at = start + t // step * CHUNK
                row = words[at : at + CHUNK]
                for d in range(CHUNK):  # the top bit of a byte is a sign when there are eight
                    unpacked[d] = (((row[d] >> shift) & mask) ^ middle) - middle
                for i in range(rows):
                    w = np.int32(weights[i, (block - first) * VALUE_BLOCK + t])
                    out = sums[i, c * CHUNK : (c + 1) * CHUNK]
                    for d in range(CHUNK):
                        out[d] += np.int32(unpacked[d] * w)


@compiled(forceinline=True)
def _weigh(vectors, packed, scale, offset, bits, group_size, scores, split, largest, sums, out, first, last):
    heads, tokens, channels, groups = scores.shape[1], scores.shape[2], out.shape[3], scale.shape[1]
    splits = (tokens + split - 1) // split
    wide, weighted = np.empty((2, split), np.float32), np.empty(split, np.float32)
    units, constants = np.empty((groups, heads), np.float32), np.empty((groups, heads), np.float32)
    center = np.float32(128 if bits == 8 else 0)  # 8-bit codes are stored minus 128: the instruction wants signs
    for item in range(first, last):
        h, p = item // splits, item % splits
        start = p * split
        end = min(start + split, tokens)
        count = end - start
        planes = np.empty((groups, 2 * heads, count), np.uint8)
        for i in range(heads):
            row = scores[h, i, start:end]
            largest[h, p, i] = largest_of(row, count)
            exponentials(row, count, largest[h, p, i])
            sums[h, p, i] = sum_of(row, count)
        for g in range(groups):
            _halves(scale[h, g, start:end], wide[0].view(np.int32), wide[0])
            _halves(offset[h, g, start:end], wide[1].view(np.int32), wide[1])
            for i in range(heads):
                row = scores[h, i, start:end]
                high, low = planes[g, 2 * i], planes[g, 2 * i + 1]
                units[g, i], constants[g, i] = _planes(row, count, wide[0], wide[1], center, weighted, high, low)
        total = np.zeros((2 * heads, channels), np.int32)
        if vectors is None:
            _dots_portable(bits, packed[h], planes, group_size, start // VALUE_BLOCK, end // VALUE_BLOCK, total)
        else:
            _dots_simd(bits, packed[h], planes, group_size, start // VALUE_BLOCK, end // VALUE_BLOCK, total)
        for i in range(heads):
            for d in range(channels):
                g = d // group_size
                whole = np.float32(total[2 * i, d]) * np.float32(256) + np.float32(total[2 * i + 1, d])
                out[h, p, i, d] = units[g, i] * whole + constants[g, i]


@compiled()
def weigh_simd(packed, scale, offset, bits, group_size, scores, split, largest, sums, out, first, last):
    """Work items first to last; item = head * splits + split. largest, sums (H, parts, G), out (H, parts, G, D)."""
    _weigh(True, packed, scale, offset, bits, group_size, scores, split, largest, sums, out, first, last)


@compiled()
def weigh_portable(packed, scale, offset, bits, group_size, scores, split, largest, sums, out, first, last):
    """The same without vector registers. Numba drops a branch on `None` before it compiles what stands in it."""
    _weigh(None, packed, scale, offset, bits, group_size, scores, split, largest, sums, out, first, last)


@compiled(fastmath=REASSOCIATE)
def _dot(a, b):
    total = np.float32(0)
    for d in range(a.size):
        total += a[d] * b[d]
    return total


@compiled()
def attend_recent(keys, values, query, largest, sums, out):
    """The same for the tokens that are kept as float32, (tokens, H, D); they are the last part of each head."""
    last = largest.shape[1] - 1
    count, channels = keys.shape[0], keys.shape[2]
    row = np.empty(count, np.float32)
    for h in range(keys.shape[1]):
        for i in range(query.shape[1]):
            q, mixed = query[h, i], out[h, last, i]
            for t in range(count):
                row[t] = _dot(q, keys[t, h])
            largest[h, last, i] = largest_of(row, count)
            exponentials(row, count, largest[h, last, i])
            sums[h, last, i] = sum_of(row, count)
            mixed[:] = np.float32(0)
            for t in range(count):
                for d in range(channels):
                    mixed[d] += row[t] * values[t, h, d]


@compiled()
def merge(largest, sums, partial, out):
    """out (heads, G, D) <- the parts of every head (heads, parts, ...) weighted by exp(largest) and divided by sums."""
    for h in range(out.shape[0]):
        for i in range(out.shape[1]):
            top = largest[h, 0, i]
            for p in range(partial.shape[1]):
                top = max(top, largest[h, p, i])
            total = np.float32(0)
            out[h, i, :] = np.float32(0)
            for p in range(partial.shape[1]):
                weight = np.exp(largest[h, p, i] - top)
                total += weight * sums[h, p, i]
                for d in range(out.shape[2]):
                    out[h, i, d] += weight * partial[h, p, i, d]
            for d in range(out.shape[2]):
                out[h, i, d] /= total
