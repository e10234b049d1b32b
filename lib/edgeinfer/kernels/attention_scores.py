"""The first half of low-bit attention: scores of all tokens from key codes and int8 queries.

A query is folded with the key scales of a group of tokens and rounded to int8, once per group; then a score is a sum of
bytes times bytes, and no key becomes a float. All query heads of a key-value head share each unpacked key. A work
item is one key-value head and one split of the tokens. Knows the order of the bytes (`attention_layout`), no cache.
H key-value heads, G query heads of each, S tokens, D channels (padded), P codes in a byte. Source: kivi.
"""

import numpy as np

from edgeinfer.kernels.simd import (
    and_i8,
    broadcast_4_bytes,
    compiled,
    dot_u8_i8,
    load_i8x64,
    prefetch,
    shift_right,
    splat_i8,
    splat_i32,
    store_i32x16,
)

KEY_BLOCK = 32  # tokens of a block: two vectors of sixteen 32-bit lanes
AHEAD = 4096
REASSOCIATE = {"reassoc", "nsz", "nnan", "ninf", "contract"}  # sums in any order, so that they vectorise


@compiled(forceinline=True)
def _halves(halves, pattern, out):
    """float16 -> float32 by moving bits; `pattern` is `out` seen as integers. Finite numbers only."""
    for i in range(out.size):
        h = np.int32(halves[i])
        pattern[i] = ((h & np.int32(0x8000)) << np.int32(16)) | ((h & np.int32(0x7FFF)) << np.int32(13))
    for i in range(out.size):
        out[i] = out[i] * np.float32(2.0**112)


@compiled(forceinline=True, fastmath=REASSOCIATE)
def _fold(query, scale, offset, center, folded, codes):
    """Round query * scale to int8; returns its unit, the sum of its codes and the constant part of every score."""
    largest = np.float32(0)  # one thing per loop: so LLVM makes vectors of all of them
    constant = np.float32(0)
    for d in range(query.size):
        folded[d] = query[d] * scale[d]
    for d in range(query.size):
        constant += query[d] * offset[d] + center * folded[d]
    for d in range(query.size):
        largest = max(largest, abs(folded[d]))
    unit = largest / np.float32(127)
    inverse = np.float32(1) / unit if unit > np.float32(1e-38) else np.float32(0)
    total = np.int32(0)
    for d in range(query.size):
        codes[d] = np.int8(np.rint(folded[d] * inverse))
    for d in range(query.size):
        total += np.int32(codes[d])
    return unit, total, constant


@compiled(forceinline=True)
def _dots_vector(bits, keys, codes, first, last, base, total):
    """total[i, t] = sum over d of key code * query code, blocks first to last of 32 tokens; a lane is a token."""
    per_byte = 8 // bits
    heads, channels = codes.shape
    step = 4 * per_byte
    low = splat_i8(np.int8((1 << bits) - 1))
    nothing = splat_i32(np.int32(0))
    flat, out, room = codes.reshape(-1), total.reshape(-1), total.shape[1]
    for block in range(first, last):
        start = block * (channels // step) * 128
        to = (block - base) * KEY_BLOCK
        for i in range(0, heads - heads % 4, 4):  # four query heads share every key that is unpacked
            a0, a1, a2, a3 = nothing, nothing, nothing, nothing
            b0, b1, b2, b3 = nothing, nothing, nothing, nothing
            at = start
            for k in range(0, channels, step):
                v0 = load_i8x64(keys, at)
                v1 = load_i8x64(keys, at + 64)
                prefetch(keys, at + AHEAD)
                prefetch(keys, at + AHEAD + 64)
                at += 128
                for s in range(per_byte):
                    u0 = and_i8(shift_right(v0, s * bits), low) if bits < 8 else v0
                    u1 = and_i8(shift_right(v1, s * bits), low) if bits < 8 else v1
                    x = i * channels + k + 4 * s
                    q0 = broadcast_4_bytes(flat, x)
                    q1 = broadcast_4_bytes(flat, x + channels)
                    q2 = broadcast_4_bytes(flat, x + 2 * channels)
                    q3 = broadcast_4_bytes(flat, x + 3 * channels)
                    a0, b0 = dot_u8_i8(a0, u0, q0), dot_u8_i8(b0, u1, q0)
                    a1, b1 = dot_u8_i8(a1, u0, q1), dot_u8_i8(b1, u1, q1)
                    a2, b2 = dot_u8_i8(a2, u0, q2), dot_u8_i8(b2, u1, q2)
                    a3, b3 = dot_u8_i8(a3, u0, q3), dot_u8_i8(b3, u1, q3)
            p = i * room + to
            store_i32x16(out, p, a0)
            store_i32x16(out, p + 16, b0)
            store_i32x16(out, p + room, a1)
            store_i32x16(out, p + room + 16, b1)
            store_i32x16(out, p + 2 * room, a2)
            store_i32x16(out, p + 2 * room + 16, b2)
            store_i32x16(out, p + 3 * room, a3)
            store_i32x16(out, p + 3 * room + 16, b3)
        for i in range(heads - heads % 4, heads):
            a0, b0 = nothing, nothing
            at = start
            for k in range(0, channels, step):
                v0 = load_i8x64(keys, at)
                v1 = load_i8x64(keys, at + 64)
                prefetch(keys, at + AHEAD)
                prefetch(keys, at + AHEAD + 64)
                at += 128
                for s in range(per_byte):
                    q0 = broadcast_4_bytes(flat, i * channels + k + 4 * s)
                    a0 = dot_u8_i8(a0, and_i8(shift_right(v0, s * bits), low), q0)
                    b0 = dot_u8_i8(b0, and_i8(shift_right(v1, s * bits), low), q0)
            store_i32x16(out, i * room + to, a0)
            store_i32x16(out, i * room + to + 16, b0)


@compiled()
def _dots_simd(bits, keys, codes, first, last, base, total):
    if bits == 8:
        _dots_vector(8, keys, codes, first, last, base, total)
    elif bits == 4:
        _dots_vector(4, keys, codes, first, last, base, total)
    else:
        _dots_vector(2, keys, codes, first, last, base, total)


@compiled()
def _dots_portable(bits, keys, codes, first, last, base, total):
    """The same integers by plain loops over the 32 tokens of a block, which LLVM vectorises for any machine."""
    heads, channels = codes.shape
    step = 4 * (8 // bits)
    mask = np.int32((1 << bits) - 1)
    words = keys.view(np.int32)  # four bytes of a token
    unpacked, sums = np.empty(KEY_BLOCK, np.int32), np.empty((heads, KEY_BLOCK), np.int32)
    for block in range(first, last):
        sums[:] = 0
        for d in range(channels):
            shift = np.int32(8 * (d % 4) + d % step // 4 * bits)
            at = (block * (channels // step) + d // step) * KEY_BLOCK
            row = words[at : at + KEY_BLOCK]
            for t in range(KEY_BLOCK):
                unpacked[t] = (row[t] >> shift) & mask
            for i in range(heads):
                x, out = np.int32(codes[i, d]), sums[i]
                for t in range(KEY_BLOCK):
                    out[t] += np.int32(unpacked[t] * x)
        total[:, (block - base) * KEY_BLOCK : (block - base + 1) * KEY_BLOCK] = sums


@compiled()
def _fold_all(query, scale, offset, center, first, last):
    """The queries (G, D) of a head, folded with the scales of the groups first to last: codes and what undoes them."""
    heads, channels = query.shape
    codes = np.empty((last - first, heads, channels), np.int8)
    units, constants = np.empty((last - first, heads), np.float32), np.empty((last - first, heads), np.float32)
    minus = np.empty((last - first, heads), np.int32)
    wide, folded = np.empty((2, channels), np.float32), np.empty(channels, np.float32)
    for j in range(last - first):
        _halves(scale[first + j], wide[0].view(np.int32), wide[0])
        _halves(offset[first + j], wide[1].view(np.int32), wide[1])
        for i in range(heads):
            unit, total, constant = _fold(query[i], wide[0], wide[1], np.float32(center), folded, codes[j, i])
            units[j, i], minus[j, i], constants[j, i] = unit, center * total, constant
    return codes, units, minus, constants


@compiled()
def _unfold(total, unit, minus, constant, row):
    for t in range(row.size):
        row[t] = unit * np.float32(total[t] - minus) + constant


@compiled(forceinline=True)
def _score(vectors, packed, scale, offset, bits, group_size, query, split, scores, first, last):
    tokens = scores.shape[2]
    splits = (tokens + split - 1) // split
    center = np.int32(1 << (bits - 1))  # codes minus this are small on average, and so is what int8 queries lose
    total = np.empty((query.shape[1], split), np.int32)
    for item in range(first, last):
        h, start = item // splits, item % splits * split
        end = min(start + split, tokens)
        low, high = start // group_size, (end + group_size - 1) // group_size
        codes, units, minus, constants = _fold_all(query[h], scale[h], offset[h], center, low, high)
        for g in range(low, high):
            j, at, stop = g - low, max(start, g * group_size), min(end, (g + 1) * group_size)
            if vectors is None:
                _dots_portable(bits, packed[h], codes[j], at // KEY_BLOCK, stop // KEY_BLOCK, start // KEY_BLOCK, total)
            else:
                _dots_simd(bits, packed[h], codes[j], at // KEY_BLOCK, stop // KEY_BLOCK, start // KEY_BLOCK, total)
            for i in range(query.shape[1]):
                part = total[i, at - start : stop - start]
                _unfold(part, units[j, i], minus[j, i], constants[j, i], scores[h, i, at:stop])


@compiled()
def score_simd(packed, scale, offset, bits, group_size, query, split, scores, first, last):
    """scores (H, G, S) of work items first to last; item = head * splits + split."""
    _score(True, packed, scale, offset, bits, group_size, query, split, scores, first, last)


@compiled()
def score_portable(packed, scale, offset, bits, group_size, query, split, scores, first, last):
    """The same without vector registers. Numba drops a branch on `None` before it compiles what stands in it."""
    _score(None, packed, scale, offset, bits, group_size, query, split, scores, first, last)
