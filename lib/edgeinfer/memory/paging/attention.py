"""Attention of one query token per row over keys and values that lie in blocks anywhere in a pool.

A block holds its keys channel by channel, so that sixteen tokens fill a vector, and its values token by token. All
query heads of a key-value head share each load. A work item is one row and one key-value head; rows may have any
lengths, and nothing is padded. N blocks, H key-value heads, G query heads of each, D channels, B tokens of a block.
Sources: pagedattention (blocks), flashattention (scores never leave the cache).
"""

import numpy as np
from numpy.typing import NDArray

from edgeinfer.kernels import attention_values
from edgeinfer.kernels.attention_values import exponentials, largest_of, sum_of
from edgeinfer.kernels.simd import (
    add_f32,
    broadcast_f32,
    choose,
    compiled,
    fma_f32,
    load_bf16x16,
    load_f32x16,
    prefetch_second_level,
    splat_f32,
    store_f32x16,
)
from edgeinfer.kernels.threads import over_blocks

LANES = 16
CHUNK = 128  # tokens whose scores are taken at a time: these, and what is fetched meanwhile, fit the second cache
FAST = {"reassoc", "nsz", "contract"}  # sums in any order; but what is no number stays none


@compiled(forceinline=True)
def _load(wide, flat, at):
    return load_f32x16(flat, at) if wide is None else load_bf16x16(flat, at)


@compiled(forceinline=True)
def _scores_block(wide, query, heads, channels, keys, at, later, ahead, size, scores, to, room):
    """scores[g, to : to + size] = query[g] . key of each token of the block at `at`; asks for the lines of `later`."""
    zero = np.float32(0)
    for lane in range(0, size, LANES):
        for g in range(0, heads - heads % 4, 4):
            a, b, c, d = splat_f32(zero), splat_f32(zero), splat_f32(zero), splat_f32(zero)
            p, u, q = at + lane, ahead + lane, g * channels
            for _ in range(channels):
                k = _load(wide, keys, p)
                prefetch_second_level(later, u)
                a = fma_f32(broadcast_f32(query, q), k, a)
                b = fma_f32(broadcast_f32(query, q + channels), k, b)
                c = fma_f32(broadcast_f32(query, q + 2 * channels), k, c)
                d = fma_f32(broadcast_f32(query, q + 3 * channels), k, d)
                p += size
                u += size
                q += 1
            t = g * room + to + lane
            store_f32x16(scores, t, a)
            store_f32x16(scores, t + room, b)
            store_f32x16(scores, t + 2 * room, c)
            store_f32x16(scores, t + 3 * room, d)
        for g in range(heads - heads % 4, heads - heads % 2, 2):
            a, b, c, d = splat_f32(zero), splat_f32(zero), splat_f32(zero), splat_f32(zero)
            p, u, q = at + lane, ahead + lane, g * channels
            for _ in range(channels // 2):
                k, m = _load(wide, keys, p), _load(wide, keys, p + size)
                prefetch_second_level(later, u)
                prefetch_second_level(later, u + size)
                a = fma_f32(broadcast_f32(query, q), k, a)
                b = fma_f32(broadcast_f32(query, q + channels), k, b)
                c = fma_f32(broadcast_f32(query, q + 1), m, c)
                d = fma_f32(broadcast_f32(query, q + channels + 1), m, d)
                p += 2 * size
                u += 2 * size
                q += 2
            t = g * room + to + lane
            store_f32x16(scores, t, add_f32(a, c))
            store_f32x16(scores, t + room, add_f32(b, d))
        for g in range(heads - heads % 2, heads):
            a, b = splat_f32(zero), splat_f32(zero)
            p, u, q = at + lane, ahead + lane, g * channels
            for _ in range(channels // 2):
                prefetch_second_level(later, u)
                prefetch_second_level(later, u + size)
                a = fma_f32(broadcast_f32(query, q), _load(wide, keys, p), a)
                b = fma_f32(broadcast_f32(query, q + 1), _load(wide, keys, p + size), b)
                p += 2 * size
                u += 2 * size
                q += 2
            store_f32x16(scores, g * room + to + lane, add_f32(a, b))


@compiled(forceinline=True)
def _values_block(wide, weights, start, room, count, heads, channels, values, at, later, ahead, out):
    """out[g] += sum over the block's first `count` tokens of weight * value; asks for the lines of `later`."""
    for c in range(0, channels, LANES):
        for g in range(0, heads - heads % 4, 4):
            o = g * channels + c
            w, x = load_f32x16(out, o), load_f32x16(out, o + channels)
            y, z = load_f32x16(out, o + 2 * channels), load_f32x16(out, o + 3 * channels)
            q, u, t = at + c, ahead + c, g * room + start
            for _ in range(count):
                v = _load(wide, values, q)
                prefetch_second_level(later, u)
                w = fma_f32(broadcast_f32(weights, t), v, w)
                x = fma_f32(broadcast_f32(weights, t + room), v, x)
                y = fma_f32(broadcast_f32(weights, t + 2 * room), v, y)
                z = fma_f32(broadcast_f32(weights, t + 3 * room), v, z)
                q += channels
                u += channels
                t += 1
            store_f32x16(out, o, w)
            store_f32x16(out, o + channels, x)
            store_f32x16(out, o + 2 * channels, y)
            store_f32x16(out, o + 3 * channels, z)
        for g in range(heads - heads % 4, heads - heads % 2, 2):
            o = g * channels + c
            w, x = load_f32x16(out, o), load_f32x16(out, o + channels)
            q, u, t = at + c, ahead + c, g * room + start
            for _ in range(count):
                v = _load(wide, values, q)
                prefetch_second_level(later, u)
                w = fma_f32(broadcast_f32(weights, t), v, w)
                x = fma_f32(broadcast_f32(weights, t + room), v, x)
                q += channels
                u += channels
                t += 1
            store_f32x16(out, o, w)
            store_f32x16(out, o + channels, x)
        for g in range(heads - heads % 2, heads):
            o = g * channels + c
            w = load_f32x16(out, o)
            q, u, t = at + c, ahead + c, g * room + start
            for _ in range(count):
                prefetch_second_level(later, u)
                w = fma_f32(broadcast_f32(weights, t), _load(wide, values, q), w)
                q += channels
                u += channels
                t += 1
            store_f32x16(out, o, w)


@compiled(forceinline=True)
def _attend(wide, query, keys, values, tables, starts, lengths, out, first, last):
    """Chunk by chunk: scores, a softmax that is corrected when a larger score comes, weighted values.

    Blocks lie anywhere: the processor cannot guess the next one, the table knows it. While the keys of a block are
    read, its values are asked for, and with the values the keys of the chunk after this one: into the second cache,
    for the first can wait for two dozen lines at a time only, half of this speed.
    """
    _, heads, size, channels = values.shape
    key_flat, value_flat = keys.reshape(-1), values.reshape(-1)
    groups, tile = query.shape[2], size * channels
    per_chunk = max(1, CHUNK // size)
    room = per_chunk * size
    scores = np.empty((groups, room), np.float32)
    flat, total, largest = scores.reshape(-1), np.empty(groups, np.float32), np.empty(groups, np.float32)
    for item in range(first, last):
        r, h = item // heads, item % heads
        length, table = lengths[r], tables[starts[r] :]
        blocks = -(-length // size)
        after = min(item + 1, last - 1)
        next_start, next_blocks = starts[after // heads], -(-lengths[after // heads] // size)
        tokens, result = query[r, h].reshape(-1), out[r, h].reshape(-1)
        result[:], total[:], largest[:] = np.float32(0), np.float32(0), np.float32(-np.inf)
        for begin in range(0, blocks, per_chunk):
            end = min(begin + per_chunk, blocks)
            for j in range(begin, end):
                at, to = (table[j] * heads + h) * tile, (j - begin) * size
                _scores_block(wide, tokens, groups, channels, key_flat, at, value_flat, at, size, flat, to, room)
            count = min(end * size, length) - begin * size
            for g in range(groups):
                row = scores[g]
                top = max(largest[g], largest_of(row, count))
                if top > largest[g]:
                    shrink = np.exp(largest[g] - top)
                    total[g] *= shrink
                    for i in range(g * channels, (g + 1) * channels):
                        result[i] *= shrink
                    largest[g] = top
                exponentials(row, count, top)
                total[g] += sum_of(row, count)
            for j in range(begin, end):
                at, to = (table[j] * heads + h) * tile, (j - begin) * size
                if j + per_chunk < blocks:
                    ahead = (table[j + per_chunk] * heads + h) * tile
                else:
                    ahead = (tables[next_start + min(j - begin, next_blocks - 1)] * heads + after % heads) * tile
                seen = min(size, length - j * size)
                _values_block(wide, flat, to, room, seen, groups, channels, value_flat, at, key_flat, ahead, result)
        for g in range(groups):
            scale = np.float32(1) / total[g]
            for i in range(g * channels, (g + 1) * channels):
                result[i] *= scale


@compiled([attention_values.__file__])
def _attend_f32(query, keys, values, tables, starts, lengths, out, first, last):
    _attend(None, query, keys, values, tables, starts, lengths, out, first, last)


@compiled([attention_values.__file__])
def _attend_bf16(query, keys, values, tables, starts, lengths, out, first, last):
    _attend(True, query, keys, values, tables, starts, lengths, out, first, last)


@compiled(forceinline=True)
def _widen(wide, x):
    return x if wide is None else np.uint32(np.uint32(x) << np.uint32(16)).view(np.float32)


@compiled(forceinline=True)
def _attend_plain(wide, query, keys, values, tables, starts, lengths, out, first, last):
    """The same by plain loops, for any block size and number of channels; bfloat16 comes as 16-bit integers."""
    _, heads, size, channels = values.shape
    groups = query.shape[2]
    for item in range(first, last):
        r, h = item // heads, item % heads
        length, table = lengths[r], tables[starts[r] :]
        scores = np.empty((groups, -(-length // size) * size), np.float32)
        wide_k, wide_v = np.empty((channels, size), np.float32), np.empty((size, channels), np.float32)
        for j in range(-(-length // size)):
            block = table[j]
            for i in range(channels):
                for t in range(size):
                    wide_k[i, t] = _widen(wide, keys[block, h, i, t])
            for g in range(groups):
                part = scores[g, j * size : (j + 1) * size]
                part[:] = np.float32(0)
                for i in range(channels):
                    for t in range(size):
                        part[t] += query[r, h, g, i] * wide_k[i, t]
        for g in range(groups):
            row = scores[g]
            largest = row[0]
            for t in range(length):
                largest = max(largest, row[t])
            total = np.float32(0)
            for t in range(length):
                row[t] = np.exp(row[t] - largest)
                total += row[t]
            for t in range(length):
                row[t] /= total
        result = out[r, h]
        result[:] = np.float32(0)
        for j in range(-(-length // size)):
            count = min(size, length - j * size)
            for t in range(count):
                for i in range(channels):
                    wide_v[t, i] = _widen(wide, values[table[j], h, t, i])
            for g in range(groups):
                for t in range(count):
                    weight = scores[g, j * size + t]
                    for i in range(channels):
                        result[g, i] += weight * wide_v[t, i]


@compiled(fastmath=FAST)
def _plain_f32(query, keys, values, tables, starts, lengths, out, first, last):
    _attend_plain(None, query, keys, values, tables, starts, lengths, out, first, last)


@compiled(fastmath=FAST)
def _plain_bf16(query, keys, values, tables, starts, lengths, out, first, last):
    _attend_plain(True, query, keys, values, tables, starts, lengths, out, first, last)


def paged_attention(
    query: NDArray[np.float32],
    keys: NDArray[np.generic],
    values: NDArray[np.generic],
    block_tables: list[list[int]] | tuple[NDArray[np.int64], NDArray[np.int64]],
    lengths: NDArray[np.int64],
    scale: float | None = None,
    threads: int = 1,
    path: str = "auto",
) -> NDArray[np.float32]:
    """Attention of R query tokens, each over its own sequence.

    Args:
        query: (R, heads, D) float32, rotated; heads is a multiple of the key-value heads.
        keys: (N, H, D, B), float32 or bfloat16 as uint16: all blocks of the pool, channel by channel.
        values: (N, H, B, D), likewise, token by token.
        block_tables: for each row its blocks in order; or (all of them behind one another, (R,) where each row begins).
        lengths: (R,) int64, tokens that each row looks at, at least 1.
        scale: factor of the scores; None: 1 / sqrt(D).
        threads: at most so many.
        path: "auto", "simd" or "portable".

    Returns:
        (R, heads, D) float32.

    Raises:
        ValueError: on shapes that do not fit together, a length of 0, a block that does not exist, a table too short.

    Source: pagedattention.
    """
    rows, heads, channels = query.shape
    if keys.ndim != 4 or values.ndim != 4 or values.shape != (*keys.shape[:2], keys.shape[3], keys.shape[2]):
        raise ValueError(
            f"keys must be (blocks, heads, channels, tokens) and values (blocks, heads, tokens, channels); "
            f"came {keys.shape} and {values.shape}"
        )
    blocks, kv_heads, width, size = keys.shape
    if width != channels or heads % kv_heads or keys.dtype != values.dtype or keys.dtype not in (np.float32, np.uint16):
        raise ValueError(
            f"query {query.shape} does not fit keys {keys.shape} of {keys.dtype}: heads must be a multiple of theirs, "
            "channels the same, and the pool float32 or bfloat16 (as uint16)"
        )
    if isinstance(block_tables, tuple):
        tables, starts = block_tables
    else:
        tables = np.array([b for table in block_tables for b in table], np.int64)
        starts = np.cumsum([0, *(len(table) for table in block_tables[:-1])], dtype=np.int64)[:rows]
    if len(lengths) != rows or len(starts) != rows or (rows and lengths.min() < 1):
        raise ValueError(f"each of the {rows} rows needs a block table and a length of at least 1; came {lengths!r}")
    if rows == 0:
        return np.empty_like(query)
    ends = np.append(starts[1:], len(tables)) if not isinstance(block_tables, tuple) else np.full(rows, len(tables))
    if (starts + -(-lengths // size) > ends).any() or tables.min() < 0 or tables.max() >= blocks:
        raise ValueError(f"a block table is too short for its length, or names a block outside of 0 to {blocks - 1}")
    grouped = np.ascontiguousarray(query.reshape(rows, kv_heads, heads // kv_heads, channels), np.float32)
    grouped = grouped * np.float32(channels**-0.5 if scale is None else scale)
    out = np.empty_like(grouped)
    vectors = choose(path) and size % LANES == 0 and channels % LANES == 0
    if keys.dtype == np.float32:
        kernel = _attend_f32 if vectors else _plain_f32
    else:
        kernel = _attend_bf16 if vectors else _plain_bf16
    read = int(lengths.sum()) * kv_heads * channels * 2 * keys.itemsize
    over_blocks(kernel, (grouped, keys, values, tables, starts, lengths, out), rows * kv_heads, threads, read)
    return out.reshape(rows, heads, channels)
