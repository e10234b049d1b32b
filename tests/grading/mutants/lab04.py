"""Plausible wrong answers to lab 4, as students write them, and right ones in other styles."""

from itertools import pairwise

import numpy as np
from edgeinfer.grading.mutants import Mutants

mutants = Mutants("lab04_sparse_products")

# ---------------------------------------------------------------- csr_from_dense


def compressed(weight, keep=None):
    keep = weight != 0 if keep is None else keep
    rows, columns = np.nonzero(keep)
    starts = np.concatenate([[0], np.cumsum(keep.sum(axis=1))])
    return weight[rows, columns], columns, starts


@mutants.right("csr_from_dense")
def with_nonzero(weight):
    return compressed(weight)


@mutants.right("csr_from_dense")
def row_by_row(weight):
    values, columns, starts = [], [], [0]
    for row in weight:
        for k in range(len(row)):
            if row[k] != 0:
                values.append(row[k])
                columns.append(k)
        starts.append(len(values))
    return np.array(values, np.float32), np.array(columns, np.int64), np.array(starts)


@mutants.right("csr_from_dense")
def with_divmod(weight):
    flat = np.flatnonzero(weight)
    starts = np.searchsorted(flat, np.arange(weight.shape[0] + 1) * weight.shape[1])
    return weight.ravel()[flat], (flat % weight.shape[1]).astype(np.uint32), starts


@mutants.wrong("csr_from_dense", named="counts-instead-of-starts")
def counts(weight):
    values, columns, _ = compressed(weight)
    return values, columns, np.count_nonzero(weight, axis=1)


@mutants.wrong("csr_from_dense", named="no-leading-zero")
def ends_only(weight):
    values, columns, _ = compressed(weight)
    return values, columns, np.cumsum(np.count_nonzero(weight, axis=1))


@mutants.wrong("csr_from_dense", named="no-end")
def starts_only(weight):
    starts, values, columns = [], [], []
    for row in weight:
        starts.append(len(values))
        for k in np.nonzero(row)[0]:
            values.append(row[k])
            columns.append(k)
    return np.array(values, np.float32), np.array(columns, int), np.array(starts)


@mutants.wrong("csr_from_dense", named="starts-skip-empty-rows")
def starts_where_the_row_changes(weight):
    rows, columns = np.nonzero(weight)
    first = np.flatnonzero(np.diff(rows, prepend=-1))
    return weight[rows, columns], columns, np.append(first, len(rows))


@mutants.wrong("csr_from_dense", named="compressed-by-columns")
def by_columns(weight):
    return compressed(np.ascontiguousarray(weight.T))


@mutants.wrong("csr_from_dense", named="rows-for-columns")
def takes_the_first_of_nonzero(weight):
    values, _, starts = compressed(weight)
    return values, np.nonzero(weight)[0], starts


@mutants.wrong("csr_from_dense", named="flat-positions")
def flat_positions(weight):
    values, _, starts = compressed(weight)
    return values, np.flatnonzero(weight), starts


@mutants.wrong("csr_from_dense", named="loses-nan")
def larger_than_zero(weight):
    return compressed(weight, np.abs(weight) > 0)


@mutants.wrong("csr_from_dense", named="drops-small-numbers")
def with_a_threshold(weight):
    return compressed(weight, ~(np.abs(weight) <= 1e-8))


@mutants.wrong("csr_from_dense", named="drops-small-numbers")
def with_isclose(weight):
    return compressed(weight, ~np.isclose(weight, 0))


@mutants.wrong("csr_from_dense", named="keeps-zeros")
def everything(weight):
    return compressed(weight, np.full(weight.shape, True))


@mutants.wrong("csr_from_dense", named="positive-only")
def negative_numbers_lost(weight):
    return compressed(weight, weight > 0)


@mutants.wrong("csr_from_dense", named="numbers-run-over")
def columns_in_a_byte(weight):
    values, columns, starts = compressed(weight)
    return values, columns.astype(np.uint8), starts


@mutants.wrong("csr_from_dense", named="numbers-run-over")
def columns_in_16_bits(weight):
    values, columns, starts = compressed(weight)
    return values, columns.astype(np.uint16), starts


@mutants.wrong("csr_from_dense", named="only-the-starts-are-wrong")
def ends_moved_up(weight):
    values, columns, starts = compressed(weight)
    return values, columns, np.append(starts[1:], 0)


@mutants.wrong("csr_from_dense")
def float_columns(weight):
    values, columns, starts = compressed(weight)
    return values, columns.astype(np.float32), starts


# ---------------------------------------------------------------- csr_matvec


@mutants.right("csr_matvec")
def slices(values, columns, row_starts, x):
    return np.array(
        [np.dot(values[a:b], x[columns[a:b]]) for a, b in pairwise(row_starts)],
        np.float32,
    )


@mutants.right("csr_matvec")
def difference_of_totals(values, columns, row_starts, x):
    total = np.concatenate([[0.0], np.cumsum(values.astype(np.float64) * x[columns])])
    return total[row_starts[1:]] - total[row_starts[:-1]]


@mutants.right("csr_matvec")
def add_at(values, columns, row_starts, x):
    y = np.zeros(len(row_starts) - 1)
    np.add.at(y, np.repeat(np.arange(len(y)), np.diff(row_starts)), values * x[columns])
    return y


@mutants.wrong("csr_matvec", named="fancy-index-keeps-the-last")
def fancy_addition(values, columns, row_starts, x):
    n = len(row_starts) - 1
    y = np.zeros(n, np.float32)
    rows = np.concatenate([np.full(row_starts[i + 1] - row_starts[i], i) for i in range(n)]).astype(int)
    y[rows] += values * x[columns]
    return y


@mutants.wrong("csr_matvec", named="fancy-index-keeps-the-last")
def assigns_in_a_loop(values, columns, row_starts, x):
    y = np.zeros(len(row_starts) - 1, np.float32)
    for n in range(len(y)):
        for i in range(row_starts[n], row_starts[n + 1]):
            y[n] = values[i] * x[columns[i]]
    return y


@mutants.wrong("csr_matvec", named="reduceat-beyond-the-end")
def reduceat_that_stops(values, columns, row_starts, x):
    return np.add.reduceat(values * x[columns], row_starts[:-1])


@mutants.wrong("csr_matvec", named="reduceat-empty-rows")
def reduceat_with_a_zero_behind(values, columns, row_starts, x):
    products = np.concatenate([values * x[columns], np.zeros(1, np.float32)])
    return np.add.reduceat(products, row_starts)[:-1]


@mutants.wrong("csr_matvec", named="position-instead-of-column")
def forgets_the_columns(values, columns, row_starts, x):
    y = np.zeros(len(row_starts) - 1, np.float32)
    for n in range(len(y)):
        row = values[row_starts[n] : row_starts[n + 1]]
        y[n] = row @ x[: len(row)]
    return y


@mutants.wrong("csr_matvec", named="loses-the-last-of-a-row")
def end_minus_one(values, columns, row_starts, x):
    y = np.zeros(len(row_starts) - 1, np.float32)
    for n in range(len(y)):
        for i in range(row_starts[n], row_starts[n + 1] - 1):
            y[n] += values[i] * x[columns[i]]
    return y


@mutants.wrong("csr_matvec", named="runs-into-the-next-row")
def end_included(values, columns, row_starts, x):
    y = np.zeros(len(row_starts) - 1, np.float32)
    for n in range(len(y)):
        for i in range(row_starts[n], min(row_starts[n + 1] + 1, len(values))):
            y[n] += values[i] * x[columns[i]]
    return y


@mutants.wrong("csr_matvec", named="loses-the-first-of-a-row")
def from_the_second(values, columns, row_starts, x):
    y = np.zeros(len(row_starts) - 1, np.float32)
    for n in range(len(y)):
        for i in range(row_starts[n] + 1, row_starts[n + 1]):
            y[n] += values[i] * x[columns[i]]
    return y


@mutants.wrong("csr_matvec", named="skips-the-last-row")
def one_row_short(values, columns, row_starts, x):
    y = np.zeros(len(row_starts) - 1, np.float32)
    for n in range(len(row_starts) - 2):
        part = slice(row_starts[n], row_starts[n + 1])
        y[n] = values[part] @ x[columns[part]]
    return y


@mutants.wrong("csr_matvec", named="sums-run-on")
def never_set_back(values, columns, row_starts, x):
    y, total = np.zeros(len(row_starts) - 1), 0.0
    for n in range(len(y)):
        for i in range(row_starts[n], row_starts[n + 1]):
            total += values[i] * x[columns[i]]
        y[n] = total
    return y


@mutants.wrong("csr_matvec", named="transposed-product")
def scatters(values, columns, row_starts, x):
    y = np.zeros(len(x))
    for n in range(len(row_starts) - 1):
        for i in range(row_starts[n], row_starts[n + 1]):
            y[columns[i]] += values[i] * x[min(n, len(x) - 1)]
    return y


@mutants.wrong("csr_matvec")
def whole_numbers(values, columns, row_starts, x):
    return np.bincount(
        np.repeat(np.arange(len(row_starts) - 1), np.diff(row_starts)), values * x[columns], len(row_starts) - 1
    ).astype(np.int32)


@mutants.wrong("csr_matvec", named="values-forgotten")
def forgets_the_values(values, columns, row_starts, x):
    total = np.concatenate([[0.0], np.cumsum(x[columns])])
    return total[row_starts[1:]] - total[row_starts[:-1]]


# ---------------------------------------------------------------- bitmap_pack


def padded_bits(weight):
    n, k = weight.shape
    bits = np.zeros((n, -(-k // 64) * 64), bool)
    bits[:, :k] = weight != 0
    return bits


def shifted(bits):
    """(N, W, 64) -> (N, W) by shifting."""
    return np.bitwise_or.reduce(bits.astype(np.uint64) << np.arange(64, dtype=np.uint64), axis=-1)


@mutants.right("bitmap_pack")
def with_shifts(weight):
    bits = padded_bits(weight)
    return shifted(bits.reshape(len(bits), -1, 64)), weight[weight != 0]


@mutants.right("bitmap_pack")
def with_packbits(weight):
    return np.packbits(padded_bits(weight), axis=1, bitorder="little").view(np.uint64), weight[weight != 0]


@mutants.right("bitmap_pack")
def with_python_numbers(weight):
    n, k = weight.shape
    masks = np.zeros((n, (k + 63) // 64), np.uint64)
    values = []
    for i in range(n):
        for w in range(masks.shape[1]):
            word = 0
            for j in range(64 * w, min(64 * w + 64, k)):
                if weight[i, j] != 0:
                    word += 2 ** (j - 64 * w)
                    values.append(weight[i, j])
            masks[i, w] = word
    return masks, np.array(values, np.float32)


@mutants.wrong("bitmap_pack", named="mask-reversed")
def first_column_on_top(weight):
    bits = padded_bits(weight).reshape(len(weight), -1, 64)
    return shifted(bits[:, :, ::-1]), weight[weight != 0]


@mutants.wrong("bitmap_pack", named="bytes-reversed")
def packbits_as_it_comes(weight):
    return np.packbits(padded_bits(weight), axis=1).view(np.uint64), weight[weight != 0]


@mutants.wrong("bitmap_pack", named="rows-run-together")
def one_long_row(weight):
    flat = (weight != 0).ravel()
    flat = np.concatenate([flat, np.zeros(-len(flat) % 64, bool)])
    return np.packbits(flat, bitorder="little").view(np.uint64), weight[weight != 0]


@mutants.wrong("bitmap_pack", named="last-columns-dropped")
def full_words_only(weight):
    full = weight.shape[1] // 64
    bits = (weight != 0)[:, : full * 64].reshape(len(weight), full, 64)
    return shifted(bits), weight[weight != 0]


@mutants.wrong("bitmap_pack", named="upper-half-lost")
def shifts_in_32_bits(weight):
    bits = padded_bits(weight).reshape(len(weight), -1, 64)
    parts = bits.astype(np.uint32) << np.arange(64, dtype=np.uint32)
    return np.bitwise_or.reduce(parts, axis=-1).astype(np.uint64), weight[weight != 0]


@mutants.wrong("bitmap_pack", named="two-columns-one-bit")
def modulo_32(weight):
    n, k = weight.shape
    masks = np.zeros((n, -(-k // 64)), np.uint64)
    for i, j in zip(*np.nonzero(weight), strict=True):
        masks[i, j // 64] |= np.uint64(1 << (j % 32))
    return masks, weight[weight != 0]


@mutants.wrong("bitmap_pack", named="mask-of-zeros")
def marks_the_zeros(weight):
    n, k = weight.shape
    bits = np.zeros((n, -(-k // 64) * 64), bool)
    bits[:, :k] = weight == 0
    return shifted(bits.reshape(n, -1, 64)), weight[weight != 0]


@mutants.wrong("bitmap_pack", named="values-by-columns")
def values_down_the_columns(weight):
    return with_packbits(weight)[0], np.concatenate([column[column != 0] for column in weight.T])


@mutants.wrong("bitmap_pack", named="zeros-stored")
def all_values(weight):
    return with_packbits(weight)[0], weight.flatten()


@mutants.wrong("bitmap_pack", named="loses-nan")
def above_zero(weight):
    keep = np.abs(weight) > 0
    return with_packbits(keep.astype(np.float32))[0], weight[keep]


@mutants.wrong("bitmap_pack", named="masks-through-floats")
def powers_of_two_as_floats(weight):
    bits = padded_bits(weight).reshape(len(weight), -1, 64)
    with np.errstate(all="ignore"):
        return (bits * 2.0 ** np.arange(64)).sum(axis=-1).astype(np.uint64), weight[weight != 0]


@mutants.wrong("bitmap_pack")
def signed_masks(weight):
    return with_packbits(weight)[0].view(np.int64), weight[weight != 0]


@mutants.wrong("bitmap_pack")
def words_of_32(weight):
    return np.packbits(padded_bits(weight), axis=1, bitorder="little").view(np.uint32), weight[weight != 0]


# ---------------------------------------------------------------- bitmap_unpack


def bits_of(masks):
    """(N, W, 64) of 0 and 1."""
    return (masks[..., None] >> np.arange(64, dtype=np.uint64)) & np.uint64(1)


@mutants.right("bitmap_unpack")
def by_boolean_mask(masks, values, columns):
    weight = np.zeros((len(masks), columns), np.float32)
    weight[bits_of(masks).reshape(len(masks), -1)[:, :columns].astype(bool)] = values
    return weight


@mutants.right("bitmap_unpack")
def with_a_counter(masks, values, columns):
    weight, place = np.zeros((len(masks), columns), np.float32), 0
    for n in range(len(masks)):
        for k in range(columns):
            if int(masks[n, k // 64]) >> (k % 64) & 1:
                weight[n, k] = values[place]
                place += 1
    return weight


@mutants.right("bitmap_unpack")
def word_by_word(masks, values, columns):
    n, words = masks.shape
    out = np.zeros((n, words * 64), np.float32)
    first = np.cumsum(np.bitwise_count(masks).astype(np.int64)).reshape(n, words) - np.bitwise_count(masks)
    for i in range(n):
        for w in range(words):
            ones = np.flatnonzero(bits_of(masks[i, w]))
            out[i, 64 * w + ones] = values[first[i, w] : first[i, w] + len(ones)]
    return out[:, :columns]


def counted(masks, values, columns, axis_shape):
    bits = bits_of(masks).astype(np.int64)
    flat = bits.reshape(axis_shape(masks))
    place = (np.cumsum(flat, axis=-1) - flat).reshape(len(masks), -1)
    stored = np.append(values, 0)
    return np.where(bits.reshape(len(masks), -1) > 0, stored[place], 0)[:, :columns].astype(np.float32)


@mutants.wrong("bitmap_unpack", named="count-restarts-in-each-word")
def restarts_in_words(masks, values, columns):
    return counted(masks, values, columns, lambda m: (m.size, 64))


@mutants.wrong("bitmap_unpack", named="count-restarts-in-each-row")
def restarts_in_rows(masks, values, columns):
    return counted(masks, values, columns, lambda m: (len(m), -1))


@mutants.wrong("bitmap_unpack", named="counts-itself")
def inclusive_count(masks, values, columns):
    bits = bits_of(masks).reshape(len(masks), -1).astype(np.int64)
    place = np.minimum(np.cumsum(bits).reshape(bits.shape), max(0, len(values) - 1))
    return np.where(bits, values[place] if len(values) else 0, 0)[:, :columns].astype(np.float32)


@mutants.wrong("bitmap_unpack", named="counts-itself-beyond-the-end")
def inclusive_count_that_stops(masks, values, columns):
    bits = bits_of(masks).reshape(len(masks), -1).astype(np.int64)
    return np.where(bits, values[np.cumsum(bits).reshape(bits.shape)], 0)[:, :columns].astype(np.float32)


@mutants.wrong("bitmap_unpack", named="mask-reversed")
def reads_from_the_top(masks, values, columns):
    weight = np.zeros((len(masks), masks.shape[1] * 64), np.float32)
    weight[bits_of(masks)[..., ::-1].reshape(len(masks), -1).astype(bool)] = values
    return weight[:, :columns].copy()


@mutants.wrong("bitmap_unpack", named="bytes-reversed")
def unpackbits_as_it_comes(masks, values, columns):
    bits = np.unpackbits(masks.view(np.uint8), axis=1).astype(bool)
    weight = np.zeros(bits.shape, np.float32)
    weight[bits] = values
    return weight[:, :columns].copy()


@mutants.wrong("bitmap_unpack", named="words-in-wrong-order")
def reshapes_the_wrong_way(masks, values, columns):
    bits = bits_of(masks).reshape(masks.shape[1], len(masks), 64).swapaxes(0, 1).reshape(len(masks), -1)
    weight = np.zeros(bits.shape, np.float32)
    weight[bits.astype(bool)] = values
    return weight[:, :columns].copy()


@mutants.wrong("bitmap_unpack", named="padding-not-cut")
def leaves_the_padding(masks, values, columns):
    bits = bits_of(masks).reshape(len(masks), -1).astype(bool)
    weight = np.zeros(bits.shape, np.float32)
    weight[bits] = values
    return weight


@mutants.wrong("bitmap_unpack", named="values-by-columns")
def fills_down_the_columns(masks, values, columns):
    bits = bits_of(masks).reshape(len(masks), -1)[:, :columns].astype(bool)
    turned = np.zeros((columns, len(masks)), np.float32)
    place = 0
    for k in range(columns):
        for n in range(len(masks)):
            if bits[n, k]:
                turned[k, n] = values[place]
                place += 1
    return turned.T.copy()


@mutants.wrong("bitmap_unpack", named="bits-instead-of-values")
def pattern_only(masks, values, columns):
    return bits_of(masks).reshape(len(masks), -1)[:, :columns].astype(np.float32)


@mutants.wrong("bitmap_unpack")
def doubles(masks, values, columns):
    return by_boolean_mask(masks, values, columns).astype(np.float64)


@mutants.wrong("bitmap_unpack", named="pushed-to-the-left")
def values_to_the_left(masks, values, columns):
    weight = np.zeros((len(masks), columns), np.float32)
    counts = np.bitwise_count(masks).sum(axis=1).astype(int)
    place = 0
    for n in range(len(masks)):
        weight[n, : counts[n]] = values[place : place + counts[n]]
        place += counts[n]
    return weight


@mutants.wrong("bitmap_unpack", named="later-words-ignored")
def first_words_only(masks, values, columns):
    weight = np.zeros((len(masks), columns), np.float32)
    place = 0
    for n in range(len(masks)):
        for k in range(min(columns, 64)):
            if int(masks[n, 0]) >> k & 1:
                weight[n, k] = values[place]
                place += 1
    return weight


# ---------------------------------------------------------------- format_bytes


def size(rows, columns, density, layout, value=2, csr32=4, csr16=2, place=2, word=8, start=4, power=16, block=16):
    n = density * rows * columns
    if layout == "dense":
        return value * rows * columns
    if layout == "csr32":
        return n * (value + csr32) + start * (rows + 1)
    if layout == "csr16":
        return n * (value + csr16) + start * (rows + 1)
    if layout == "tiled":
        return n * (value + place) + start * (np.ceil(rows / 64) * np.ceil(columns / 64) + 1)
    if layout == "bitmap":
        return n * value + word * rows * np.ceil(columns / 64) + start * (rows + 1)
    blocks = (rows / 4) * (columns / 4) * (1 - (1 - density) ** power)
    return blocks * (block * value + (4 if csr32 else 0)) + start * (rows / 4 + 1)


@mutants.right("format_bytes")
def with_branches(rows, columns, density, layout):
    return size(rows, columns, density, layout)


@mutants.right("format_bytes")
def with_a_table(rows, columns, density, layout):
    per_number = {"csr32": 6, "csr16": 4, "tiled": 4, "bitmap": 2}
    starts = {"blocked": rows // 4 + 1, "tiled": ((rows + 63) // 64) * ((columns + 63) // 64) + 1}
    total = 4 * starts.get(layout, rows + 1) + density * rows * columns * per_number.get(layout, 0)
    if layout == "dense":
        return float(2 * rows * columns)
    if layout == "bitmap":
        total += 8 * rows * ((columns + 63) // 64)
    if layout == "blocked":
        total += 36 * (rows // 4) * (columns // 4) * (1 - (1 - density) ** 16)
    return total


@mutants.wrong("format_bytes", named="values-only")
def without_places(rows, columns, density, layout):
    return size(rows, columns, density, layout, csr32=0, csr16=0, place=0, word=0)


@mutants.wrong("format_bytes", named="density-is-sparsity")
def counts_the_zeros(rows, columns, density, layout):
    return size(rows, columns, 1 - density, layout)


@mutants.wrong("format_bytes", named="float32-values")
def four_bytes_a_value(rows, columns, density, layout):
    return size(rows, columns, density, layout, value=4)


@mutants.wrong("format_bytes", named="forgets-starts")
def without_starts(rows, columns, density, layout):
    return size(rows, columns, density, layout, start=0)


@mutants.wrong("format_bytes", named="starts-without-end")
def as_many_starts_as_rows(rows, columns, density, layout):
    return size(rows, columns, density, layout) - 4 * (layout != "dense")


@mutants.wrong("format_bytes", named="mask-in-bits")
def sixty_four_for_a_word(rows, columns, density, layout):
    return size(rows, columns, density, layout, word=64)


@mutants.wrong("format_bytes", named="mask-one-byte-a-column")
def a_byte_for_a_word(rows, columns, density, layout):
    return size(rows, columns, density, layout, word=1)


@mutants.wrong("format_bytes", named="not-rounded-up")
def exact_bits(rows, columns, density, layout):
    if layout == "bitmap":
        return density * rows * columns * 2 + rows * columns / 8 + 4 * (rows + 1)
    return size(rows, columns, density, layout)


@mutants.wrong("format_bytes", named="not-rounded-up")
def whole_words_and_tiles_only(rows, columns, density, layout):
    n = density * rows * columns
    if layout == "bitmap":
        return n * 2 + 8 * rows * (columns // 64) + 4 * (rows + 1)
    if layout == "tiled":
        return n * 4 + 4 * ((rows // 64) * (columns // 64) + 1)
    return size(rows, columns, density, layout)


@mutants.wrong("format_bytes", named="rows-share-words")
def one_long_mask(rows, columns, density, layout):
    if layout == "bitmap":
        return density * rows * columns * 2 + 8 * ((rows * columns + 63) // 64) + 4 * (rows + 1)
    return size(rows, columns, density, layout)


@mutants.wrong("format_bytes", named="blocks-as-full-as-weights")
def a_block_like_a_weight(rows, columns, density, layout):
    return size(rows, columns, density, layout, power=1)


@mutants.wrong("format_bytes", named="block-has-four-weights")
def power_four(rows, columns, density, layout):
    return size(rows, columns, density, layout, power=4)


@mutants.wrong("format_bytes", named="block-stores-non-zeros-only")
def blocks_without_their_zeros(rows, columns, density, layout):
    if layout == "blocked":
        blocks = rows // 4 * (columns // 4) * (1 - (1 - density) ** 16)
        return 2 * density * rows * columns + 4 * blocks + 4 * (rows // 4 + 1)
    return size(rows, columns, density, layout)


@mutants.wrong("format_bytes", named="starts-for-every-row-of-a-block")
def a_start_for_each_row(rows, columns, density, layout):
    if layout == "blocked":
        return size(rows, columns, density, layout) + 4 * (rows - rows // 4)
    return size(rows, columns, density, layout)


@mutants.wrong("format_bytes", named="not-in-bytes")
def in_kilobytes(rows, columns, density, layout):
    return size(rows, columns, density, layout) / 1024


@mutants.wrong("format_bytes", named="places-in-tiles-are-free")
def tiles_without_places(rows, columns, density, layout):
    return size(rows, columns, density, layout, place=0)


# ---------------------------------------------------------------- crossover_density


def between(densities, cost, dense_cost, i):
    share = (dense_cost - cost[i - 1]) / (cost[i] - cost[i - 1])
    return densities[i - 1] + share * (densities[i] - densities[i - 1])


def first_above(cost, dense_cost):
    return int(np.argmax(cost >= dense_cost)) if (cost >= dense_cost).any() else None


@mutants.right("crossover_density")
def with_argmax(densities, cost, dense_cost):
    i = first_above(cost, dense_cost)
    if i is None:
        return densities[-1]
    return 0.0 if i == 0 else between(densities, cost, dense_cost, i)


@mutants.right("crossover_density")
def walking(densities, cost, dense_cost):
    if cost[0] >= dense_cost:
        return 0.0
    for (d0, c0), (d1, c1) in zip(
        zip(densities, cost, strict=True), zip(densities[1:], cost[1:], strict=True), strict=False
    ):
        if c1 >= dense_cost:
            return (d0 * (c1 - dense_cost) + d1 * (dense_cost - c0)) / (c1 - c0)
    return float(densities[-1])


def with_ends(densities, cost, dense_cost, inside):
    i = first_above(cost, dense_cost)
    return float(densities[-1]) if i is None else 0.0 if i == 0 else float(inside(i))


@mutants.wrong("crossover_density", named="equal-counts-as-cheaper")
def only_when_passed(densities, cost, dense_cost):
    above = cost > dense_cost
    if not above.any():
        return float(densities[-1])
    i = int(np.argmax(above))
    return 0.0 if i == 0 else between(densities, cost, dense_cost, i)


@mutants.wrong("crossover_density", named="index-instead-of-density")
def number_of_the_point(densities, cost, dense_cost):
    i = first_above(cost, dense_cost)
    return len(cost) - 1 if i is None else i


@mutants.wrong("crossover_density", named="last-point-that-pays")
def last_cheaper(densities, cost, dense_cost):
    return with_ends(densities, cost, dense_cost, lambda i: densities[i - 1])


@mutants.wrong("crossover_density", named="first-point-that-loses")
def first_dearer(densities, cost, dense_cost):
    return with_ends(densities, cost, dense_cost, lambda i: densities[i])


@mutants.wrong("crossover_density", named="middle-of-the-step")
def in_the_middle(densities, cost, dense_cost):
    return with_ends(densities, cost, dense_cost, lambda i: densities[i - 1 : i + 1].mean())


@mutants.wrong("crossover_density", named="nearest-point")
def nearest(densities, cost, dense_cost):
    return densities[np.argmin(np.abs(cost - dense_cost))]


@mutants.wrong("crossover_density", named="weights-swapped")
def share_from_the_top(densities, cost, dense_cost):
    def inside(i):
        share = (cost[i] - dense_cost) / (cost[i] - cost[i - 1])
        return densities[i - 1] + share * (densities[i] - densities[i - 1])

    return with_ends(densities, cost, dense_cost, inside)


@mutants.wrong("crossover_density", named="density-is-sparsity")
def share_of_zeros(densities, cost, dense_cost):
    return 1 - with_argmax(densities, cost, dense_cost)


@mutants.wrong("crossover_density", named="cost-at-a-density")
def interp_the_wrong_way(densities, cost, dense_cost):
    return np.interp(dense_cost, densities, cost)


@mutants.wrong("crossover_density", named="pays-nowhere-forgotten")
def starts_at_the_first_point(densities, cost, dense_cost):
    return max(densities[0], with_argmax(densities, cost, dense_cost))


@mutants.wrong("crossover_density", named="pays-everywhere-forgotten")
def pays_up_to_one(densities, cost, dense_cost):
    return 1.0 if (cost < dense_cost).all() else with_argmax(densities, cost, dense_cost)


@mutants.wrong("crossover_density", named="last-crossing")
def the_last_one(densities, cost, dense_cost):
    cheaper = np.flatnonzero(cost < dense_cost)
    if not len(cheaper):
        return 0.0
    i = cheaper[-1] + 1
    return densities[-1] if i == len(cost) else between(densities, cost, dense_cost, i)


@mutants.wrong("crossover_density", named="believes-costs-rise")
def sorts_first(densities, cost, dense_cost):
    if cost[0] >= dense_cost:
        return 0.0
    return np.interp(dense_cost, np.sort(cost), densities)


@mutants.wrong("crossover_density", named="last-crossing")
def interp_with_a_guard(densities, cost, dense_cost):
    return 0.0 if cost[0] >= dense_cost else np.interp(dense_cost, cost, densities)


@mutants.wrong("crossover_density", named="plain-interp")
def plain_interp(densities, cost, dense_cost):
    return np.interp(dense_cost, cost, densities)


@mutants.wrong("crossover_density", named="one-line-through-all-points")
def a_line_through_all(densities, cost, dense_cost):
    slope, start = np.polyfit(densities, cost, 1)
    return float(np.clip((dense_cost - start) / slope, 0, densities[-1]))


# ---------------------------------------------------------------- tile_and_expand_matmul


def expanded(values, places, tile_starts, rows, tile, x, scatter=None, order=None, transposed=True, add=True):
    """Tile by tile, with what a student may get wrong as switches."""
    batch, columns = x.shape
    across, down = -(-columns // tile), -(-rows // tile)
    x = np.pad(x, ((0, 0), (0, across * tile - columns)))
    y = np.zeros((batch, down * tile), np.float32)
    for t in range(len(tile_starts) - 1):
        i, j = divmod(t, across) if order is None else order(t, down, across)
        here = slice(tile_starts[t], tile_starts[t + 1])
        dense = np.zeros((tile, tile), np.float32)
        if scatter is None:
            dense[places[here] // tile, places[here] % tile] = values[here]
        else:
            scatter(dense, places[here], values[here], tile)
        product = x[:, j * tile : (j + 1) * tile] @ (dense.T if transposed else dense)
        if add:
            y[:, i * tile : (i + 1) * tile] += product
        else:
            y[:, i * tile : (i + 1) * tile] = product
    return y[:, :rows]


@mutants.right("tile_and_expand_matmul")
def buffer_per_tile(values, places, tile_starts, rows, tile, x):
    return expanded(values, places, tile_starts, rows, tile, x)


@mutants.right("tile_and_expand_matmul")
def flat_buffer_cleared(values, places, tile_starts, rows, tile, x):
    across = (x.shape[1] + tile - 1) // tile
    y = np.zeros((rows, len(x)))
    buffer = np.zeros(tile * tile)
    for t in range(len(tile_starts) - 1):
        a, b = tile_starts[t], tile_starts[t + 1]
        if a == b:
            continue  # an empty tile adds nothing
        top, left = t // across * tile, t % across * tile
        high, wide = min(tile, rows - top), min(tile, x.shape[1] - left)
        buffer[places[a:b]] = values[a:b]
        y[top : top + high] += buffer.reshape(tile, tile)[:high, :wide] @ x[:, left : left + wide].T
        buffer[places[a:b]] = 0
    return y.T.copy()


@mutants.right("tile_and_expand_matmul")
def one_number_after_the_other(values, places, tile_starts, rows, tile, x):
    across = -(-x.shape[1] // tile)
    y = np.zeros((len(x), rows), np.float32)
    for t in range(len(tile_starts) - 1):
        for i in range(tile_starts[t], tile_starts[t + 1]):
            r, c = divmod(int(places[i]), tile)
            y[:, t // across * tile + r] += values[i] * x[:, t % across * tile + c]
    return y


@mutants.wrong("tile_and_expand_matmul", named="tile-turned-round")
def column_first(values, places, tile_starts, rows, tile, x):
    def scatter(dense, p, v, side):
        dense[p % side, p // side] = v

    return expanded(values, places, tile_starts, rows, tile, x, scatter)


@mutants.wrong("tile_and_expand_matmul", named="overwrites-earlier-tiles")
def assigns(values, places, tile_starts, rows, tile, x):
    return expanded(values, places, tile_starts, rows, tile, x, add=False)


@mutants.wrong("tile_and_expand_matmul", named="buffer-not-cleared")
def reuses_the_buffer(values, places, tile_starts, rows, tile, x):
    buffer = np.zeros((tile, tile), np.float32)

    def scatter(dense, p, v, side):
        buffer[p // side, p % side] = v
        dense[:] = buffer

    return expanded(values, places, tile_starts, rows, tile, x, scatter)


@mutants.wrong("tile_and_expand_matmul", named="edge-tiles-dropped")
def full_tiles_only(values, places, tile_starts, rows, tile, x):
    across = -(-x.shape[1] // tile)
    y = np.zeros((len(x), rows))
    for i in range(rows // tile):
        for j in range(x.shape[1] // tile):
            a, b = tile_starts[i * across + j], tile_starts[i * across + j + 1]
            dense = np.zeros(tile * tile)
            dense[places[a:b]] = values[a:b]
            y[:, i * tile : (i + 1) * tile] += x[:, j * tile : (j + 1) * tile] @ dense.reshape(tile, tile).T
    return y


@mutants.wrong("tile_and_expand_matmul", named="tiles-down-first")
def counts_tiles_down(values, places, tile_starts, rows, tile, x):
    across, down = -(-x.shape[1] // tile), -(-rows // tile)
    wide = np.pad(x, ((0, 0), (0, across * tile - x.shape[1])))
    y = np.zeros((len(x), down * tile))
    t = 0
    for j in range(across):
        for i in range(down):
            dense = np.zeros((tile, tile))
            here = slice(tile_starts[t], tile_starts[t + 1])
            dense[places[here] // tile, places[here] % tile] = values[here]
            y[:, i * tile : (i + 1) * tile] += wide[:, j * tile : (j + 1) * tile] @ dense.T
            t += 1
    return y[:, :rows]


@mutants.wrong("tile_and_expand_matmul", named="tile-turned-round")
def without_transposing(values, places, tile_starts, rows, tile, x):
    return expanded(values, places, tile_starts, rows, tile, x, transposed=False)


@mutants.wrong("tile_and_expand_matmul", named="always-the-first-columns")
def x_does_not_move(values, places, tile_starts, rows, tile, x):
    across = -(-x.shape[1] // tile)
    first = np.pad(x, ((0, 0), (0, across * tile - x.shape[1])))[:, :tile]
    return expanded(values, places, tile_starts, rows, tile, np.tile(first, (1, across)))


@mutants.wrong("tile_and_expand_matmul", named="overhang-not-cut")
def keeps_the_overhang(values, places, tile_starts, rows, tile, x):
    return expanded(values, places, tile_starts, -(-rows // tile) * tile, tile, x)


@mutants.wrong("tile_and_expand_matmul", named="places-run-over")
def sixteen_bit_places(values, places, tile_starts, rows, tile, x):
    across, down = -(-x.shape[1] // tile), -(-rows // tile)
    flat = np.zeros(down * tile * across * tile, np.float32)
    for t in range(len(tile_starts) - 1):
        p = places[tile_starts[t] : tile_starts[t + 1]]
        row = p // np.uint16(tile) + np.uint16(t // across * tile)
        at = row * np.uint16(across * tile) + np.uint16(t % across * tile) + p % np.uint16(tile)
        flat[at] = values[tile_starts[t] : tile_starts[t + 1]]
    return x @ flat.reshape(down * tile, -1)[:rows, : x.shape[1]].T


@mutants.wrong("tile_and_expand_matmul", named="first-token-for-all")
def one_token(values, places, tile_starts, rows, tile, x):
    y = np.zeros((len(x), rows), np.float32)
    y[:] = expanded(values, places, tile_starts, rows, tile, x[:1])
    return y


@mutants.wrong("tile_and_expand_matmul")
def outputs_first(values, places, tile_starts, rows, tile, x):
    return expanded(values, places, tile_starts, rows, tile, x).T.copy()


@mutants.wrong("tile_and_expand_matmul", named="later-tiles-ignored")
def first_tile_of_each_row_only(values, places, tile_starts, rows, tile, x):
    across = -(-x.shape[1] // tile)
    y = np.zeros((len(x), rows))
    for t in range(0, len(tile_starts) - 1, across):
        for i in range(tile_starts[t], tile_starts[t + 1]):
            r, c = divmod(int(places[i]), tile)
            y[:, t // across * tile + r] += values[i] * x[:, c]
    return y


# ---------------------------------------------------------------- permute_rows


def blocks_of(pattern, width):
    n, k = pattern.shape
    wide = np.zeros((n, -(-k // width) * width), bool)
    wide[:, :k] = pattern
    return wide.reshape(n, -1, width).any(axis=2)


def chain(blocks, start=0, best=max):
    order, left = [start], set(range(len(blocks))) - {start}
    while left:
        last = blocks[order[-1]]
        likeness = {r: (last & blocks[r]).sum() / max(1, (last | blocks[r]).sum()) for r in sorted(left)}
        order.append(best(likeness, key=likeness.get))
        left.remove(order[-1])
    return np.array(order)


@mutants.right("permute_rows")
def nearest_neighbours(pattern, block_rows, block_columns):
    order = chain(blocks_of(pattern, block_columns))
    return order, np.argsort(order)


@mutants.right("permute_rows")
def fills_groups(pattern, block_rows, block_columns):
    blocks = blocks_of(pattern, block_columns)
    left, order = list(range(len(blocks))), []
    while left:
        union = blocks[left[0]].copy()
        order.append(left.pop(0))
        for _ in range(min(block_rows - 1, len(left))):
            r = max(left, key=lambda r: (union & blocks[r]).sum() / max(1, (union | blocks[r]).sum()))
            left.remove(r)
            order.append(r)
            union |= blocks[r]
    undo = np.empty(len(order), int)
    undo[order] = np.arange(len(order))
    return np.array(order), undo


@mutants.right("permute_rows")
def starts_with_the_fullest(pattern, block_rows, block_columns):
    blocks = blocks_of(pattern, block_columns)
    order = chain(blocks, int(blocks.sum(axis=1).argmax()))
    return order, np.argsort(order)


@mutants.wrong("permute_rows", named="rows-lost-or-doubled")
def chosen_again_and_again(pattern, block_rows, block_columns):
    blocks = blocks_of(pattern, block_columns).astype(int)
    order = [0]
    for _ in range(len(blocks) - 1):
        shared = blocks @ blocks[order[-1]]
        shared[order[-1]] = -1
        order.append(int(shared.argmax()))
    return np.array(order), np.arange(len(order))


@mutants.wrong("permute_rows", named="undo-is-order")
def goes_the_same_way_twice(pattern, block_rows, block_columns):
    order = chain(blocks_of(pattern, block_columns))
    return order, order


@mutants.wrong("permute_rows", named="undo-does-nothing")
def stays_in_the_new_order(pattern, block_rows, block_columns):
    order = chain(blocks_of(pattern, block_columns))
    return order, np.arange(len(order))


@mutants.wrong("permute_rows", named="undo-reversed")
def reads_backwards(pattern, block_rows, block_columns):
    order = chain(blocks_of(pattern, block_columns))
    return order, order[::-1].copy()


@mutants.wrong("permute_rows", named="nothing-moved")
def leaves_all_as_it_is(pattern, block_rows, block_columns):
    return np.arange(len(pattern)), np.arange(len(pattern))


@mutants.wrong("permute_rows", named="order-reversed-only")
def upside_down(pattern, block_rows, block_columns):
    order = np.arange(len(pattern))[::-1].copy()
    return order, np.argsort(order)


@mutants.wrong("permute_rows", named="sorted-by-count")
def fullest_first(pattern, block_rows, block_columns):
    order = np.argsort(-pattern.sum(axis=1))
    return order, np.argsort(order)


@mutants.wrong("permute_rows", named="sorted-by-count")
def most_blocks_first(pattern, block_rows, block_columns):
    order = np.argsort(blocks_of(pattern, block_columns).sum(axis=1), kind="stable")
    return order, np.argsort(order)


@mutants.wrong("permute_rows", named="compared-with-the-first-row-only")
def like_row_zero(pattern, block_rows, block_columns):
    blocks = blocks_of(pattern, block_columns)
    likeness = (blocks & blocks[0]).sum(axis=1) / np.maximum(1, (blocks | blocks[0]).sum(axis=1))
    order = np.argsort(-likeness, kind="stable")
    return order, np.argsort(order)


@mutants.wrong("permute_rows", named="sorted-by-first-column")
def by_first_number(pattern, block_rows, block_columns):
    order = np.argsort(pattern.argmax(axis=1), kind="stable")
    return order, np.argsort(order)


@mutants.wrong("permute_rows", named="sorted-like-words")
def as_binary_numbers(pattern, block_rows, block_columns):
    order = np.lexsort(blocks_of(pattern, block_columns).T[::-1])
    return order, np.argsort(order)


@mutants.wrong("permute_rows", named="least-similar-first")
def farthest_neighbours(pattern, block_rows, block_columns):
    order = chain(blocks_of(pattern, block_columns), best=min)
    return order, np.argsort(order)


@mutants.wrong("permute_rows", named="empty-rows-forgotten")
def divides_by_nothing(pattern, block_rows, block_columns):
    sets = [set(np.flatnonzero(row) // block_columns) for row in pattern]
    order, left = [0], list(range(1, len(sets)))
    while left:
        last = sets[order[-1]]
        order.append(max(left, key=lambda r: len(last & sets[r]) / len(last | sets[r])))
        left.remove(order[-1])
    return np.array(order), np.argsort(order)


@mutants.wrong("permute_rows")
def shuffles_the_rows(pattern, block_rows, block_columns):
    order = np.random.default_rng(0).permutation(len(pattern))
    return order, np.argsort(order)


@mutants.wrong("permute_rows")
def only_the_order(pattern, block_rows, block_columns):
    return chain(blocks_of(pattern, block_columns))


@mutants.wrong("permute_rows")
def orders_the_columns(pattern, block_rows, block_columns):
    order = chain(blocks_of(pattern.T, block_rows))
    return order, np.argsort(order)
