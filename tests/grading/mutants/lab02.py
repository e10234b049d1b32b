"""Plausible wrong answers to lab 2, as students write them, and right ones in other styles."""

import numpy as np
from edgeinfer.grading.mutants import Mutants

mutants = Mutants("lab02_lookup_tables")

# ---------------------------------------------------------------- split_bit_planes


def pack(planes, g):
    bits, n, k = planes.shape
    grouped = planes.reshape(bits, n, k // g, g)
    return (grouped * (1 << np.arange(g))).sum(-1).astype(np.uint8)


@mutants.right("split_bit_planes")
def with_packbits(codes, bits, g):
    single = np.unpackbits(codes[..., None], axis=2, bitorder="little")
    planes = np.moveaxis(single, 2, 0)[:bits]
    n, k = codes.shape
    return np.packbits(planes.reshape(bits, n, k // g, g), axis=-1, bitorder="little")[..., 0]


@mutants.right("split_bit_planes")
def with_horner(codes, bits, g):
    out = []
    for b in range(bits):
        index = np.zeros((codes.shape[0], codes.shape[1] // g), np.uint8)
        for i in reversed(range(g)):
            index = 2 * index + (codes[:, i::g] // 2**b) % 2
        out.append(index)
    return np.stack(out).astype(np.uint8)


@mutants.wrong("split_bit_planes", named="planes-reversed")
def most_significant_plane_first(codes, bits, g):
    return pack(np.stack([(codes >> (bits - 1 - b)) & 1 for b in range(bits)]), g)


@mutants.wrong("split_bit_planes", named="group-bits-reversed")
def packbits_default_order(codes, bits, g):
    planes = np.stack([(codes >> b) & 1 for b in range(bits)])
    grouped = planes.reshape(bits, codes.shape[0], -1, g)
    return (grouped * (1 << np.arange(g)[::-1])).sum(-1).astype(np.uint8)


@mutants.wrong("split_bit_planes", named="groups-interleaved")
def reshapes_the_wrong_way(codes, bits, g):
    planes = np.stack([(codes >> b) & 1 for b in range(bits)])
    grouped = planes.reshape(bits, codes.shape[0], g, -1)
    return (grouped * (1 << np.arange(g))[:, None]).sum(2).astype(np.uint8)


@mutants.wrong("split_bit_planes", named="mask-without-shift")
def keeps_the_place(codes, bits, g):
    return pack(np.stack([codes & (1 << b) for b in range(bits)]), g)


@mutants.wrong("split_bit_planes", named="shift-without-mask")
def keeps_the_higher_bits(codes, bits, g):
    return pack(np.stack([codes >> b for b in range(bits)]), g)


@mutants.wrong("split_bit_planes", named="not-packed")
def one_bit_a_byte(codes, bits, g):
    return np.stack([(codes >> b) & 1 for b in range(bits)]).astype(np.uint8)


@mutants.wrong("split_bit_planes")
def planes_last(codes, bits, g):
    return np.moveaxis(with_packbits(codes, bits, g), 0, -1).copy()


@mutants.wrong("split_bit_planes")
def wrong_dtype(codes, bits, g):
    return with_packbits(codes, bits, g).astype(np.int64)


@mutants.wrong("split_bit_planes")
def signed_planes(codes, bits, g):
    planes = np.stack([2 * ((codes >> b) & 1).astype(int) - 1 for b in range(bits)])
    return pack(planes, g)


@mutants.wrong("split_bit_planes")
def eight_planes_always(codes, bits, g):
    return with_packbits(codes, 8, g) if bits < 8 else with_packbits(codes, 7, g)


@mutants.wrong("split_bit_planes", named="changes-its-input")
def shifts_in_place(codes, bits, g):
    planes = []
    for _ in range(bits):
        planes.append(codes & 1)
        codes >>= 1
    return pack(np.stack(planes), g)


# ---------------------------------------------------------------- build_tables


def signs(g):
    return 2.0 * (np.arange(2**g)[:, None] >> np.arange(g) & 1) - 1


@mutants.right("build_tables")
def by_matrix_product(x, g):
    return x.reshape(-1, g) @ signs(g).T


@mutants.right("build_tables")
def by_doubling(x, g):
    groups = x.reshape(-1, g)
    tables = -groups.sum(1, keepdims=True)
    for i in range(g):
        tables = np.concatenate([tables, tables + 2 * groups[:, i : i + 1]], axis=1)
    return tables


@mutants.right("build_tables")
def by_mirror(x, g):
    half = x.reshape(-1, g) @ signs(g)[: 2 ** (g - 1)].T
    return np.concatenate([half, -half[:, ::-1]], axis=1)


@mutants.wrong("build_tables", named="subset-sums")
def bit_zero_leaves_out(x, g):
    return x.reshape(-1, g) @ ((signs(g) + 1) / 2).T


@mutants.wrong("build_tables", named="signs-swapped")
def bit_one_is_minus(x, g):
    return x.reshape(-1, g) @ -signs(g).T


@mutants.wrong("build_tables", named="table-bits-reversed")
def reads_bits_from_the_top(x, g):
    return x.reshape(-1, g) @ signs(g)[:, ::-1].T


@mutants.wrong("build_tables", named="groups-interleaved")
def strided_groups(x, g):
    return x.reshape(g, -1).T @ signs(g).T


@mutants.wrong("build_tables", named="half-table")
def only_the_lower_half(x, g):
    return by_matrix_product(x, g)[:, : 2 ** (g - 1)]


@mutants.wrong("build_tables", named="mirror-flips-one-bit")
def mirror_without_reversal(x, g):
    half = by_matrix_product(x, g)[:, : 2 ** (g - 1)]
    return np.concatenate([half, -half], axis=1)


@mutants.wrong("build_tables", named="tables-run-on")
def sums_run_on(x, g):
    return np.cumsum(by_matrix_product(x, g), axis=0)


@mutants.wrong("build_tables")
def one_table_for_all(x, g):
    return np.repeat(by_matrix_product(x, g)[:1], len(x) // g, axis=0)


@mutants.wrong("build_tables")
def transposed(x, g):
    return by_matrix_product(x, g).T.copy()


@mutants.wrong("build_tables")
def integer_table(x, g):
    tables = np.zeros((len(x) // g, 2**g), np.int32)
    tables[:] = by_matrix_product(x, g)
    return tables


@mutants.wrong("build_tables")
def a_table_per_output_row(x, g):
    return np.repeat(by_matrix_product(x, g)[None], 4, axis=0)


@mutants.wrong("build_tables")
def twice_the_plus_terms(x, g):
    return x.reshape(-1, g) @ (signs(g) + 1).T


# ---------------------------------------------------------------- lut_matvec


def look_up(indices, tables, dtype=np.float64):
    return tables.astype(dtype)[np.arange(indices.shape[2]), indices]  # (bits, N, K // g)


def product(indices, tables, scales, zero_points, weights=None, centre=1.0, scale_zero=True):
    bits, n, _ = indices.shape
    groups = scales.shape[1]
    weights = 2.0 ** np.arange(bits) / 2 if weights is None else weights
    sums = np.tensordot(weights, look_up(indices, tables), 1).reshape(n, groups, -1).sum(-1)
    x_sums = tables[:, -1].astype(np.float64).reshape(groups, -1).sum(1)
    offset = (centre * (2**bits - 1) / 2 - zero_points.astype(np.float64)) * x_sums
    return (scales * (sums + offset)).sum(1) if scale_zero else (scales * sums + offset).sum(1)


@mutants.right("lut_matvec")
def with_loops(indices, tables, scales, zero_points):
    bits, n, blocks = indices.shape
    per = blocks // scales.shape[1]
    y = np.zeros(n, np.float32)
    for j in range(blocks):
        k = j // per
        for b in range(bits):
            y += scales[:, k] * np.float32(2.0 ** (b - 1)) * tables[j, indices[b, :, j]].astype(np.float32)
        y += scales[:, k] * ((2**bits - 1) / 2 - zero_points[:, k].astype(np.float32)) * np.float32(tables[j, -1])
    return y


@mutants.right("lut_matvec")
def vectorized(indices, tables, scales, zero_points):
    return product(indices, tables, scales, zero_points)


@mutants.right("lut_matvec")
def integers_first(indices, tables, scales, zero_points):
    wide = tables.astype(np.float64)
    total = sum(2**b * wide[np.arange(wide.shape[0]), indices[b]] for b in range(len(indices)))
    groups = scales.shape[1]
    twice = total.reshape(len(scales), groups, -1).sum(-1)
    sums = wide[:, -1].reshape(groups, -1).sum(-1)
    return (scales / 2 * (twice + (2 ** len(indices) - 1 - 2.0 * zero_points) * sums)).sum(1)


@mutants.wrong("lut_matvec", named="forgets-offset")
def no_offset(indices, tables, scales, zero_points):
    bits, n, _ = indices.shape
    sums = np.tensordot(2.0 ** np.arange(bits) / 2, look_up(indices, tables), 1)
    return (scales * sums.reshape(n, scales.shape[1], -1).sum(-1)).sum(1)


@mutants.wrong("lut_matvec", named="offset-without-centre")
def zero_point_only(indices, tables, scales, zero_points):
    return product(indices, tables, scales, zero_points, centre=0.0)


@mutants.wrong("lut_matvec", named="offset-wrong-sign")
def sum_from_entry_zero(indices, tables, scales, zero_points):
    bits, n, _ = indices.shape
    g = scales.shape[1]
    sums = np.tensordot(2.0 ** np.arange(bits) / 2, look_up(indices, tables), 1).reshape(n, g, -1).sum(-1)
    x_sums = tables[:, 0].astype(float).reshape(g, -1).sum(1)
    return (scales * (sums + ((2**bits - 1) / 2 - zero_points.astype(float)) * x_sums)).sum(1)


@mutants.wrong("lut_matvec", named="offset-not-scaled")
def offset_outside(indices, tables, scales, zero_points):
    return product(indices, tables, scales, zero_points, scale_zero=False)


@mutants.wrong("lut_matvec", named="planes-weigh-double")
def weights_of_unsigned_bits(indices, tables, scales, zero_points):
    return product(indices, tables, scales, zero_points, weights=2.0 ** np.arange(len(indices)))


@mutants.wrong("lut_matvec", named="planes-weigh-the-same")
def forgets_plane_weights(indices, tables, scales, zero_points):
    return product(indices, tables, scales, zero_points, weights=np.full(len(indices), 0.5))


@mutants.wrong("lut_matvec", named="planes-reversed")
def weights_reversed(indices, tables, scales, zero_points):
    return product(indices, tables, scales, zero_points, weights=2.0 ** np.arange(len(indices))[::-1] / 2)


@mutants.wrong("lut_matvec", named="one-scale-per-row")
def first_scale_for_all(indices, tables, scales, zero_points):
    return product(indices, tables, np.broadcast_to(scales[:, :1], scales.shape), zero_points)


@mutants.wrong("lut_matvec", named="mean-scale-per-row")
def mean_scale(indices, tables, scales, zero_points):
    return product(indices, tables, np.broadcast_to(scales.mean(1, keepdims=True), scales.shape), zero_points)


@mutants.wrong("lut_matvec", named="forgets-scales")
def no_scales(indices, tables, scales, zero_points):
    return product(indices, tables, np.ones_like(scales), zero_points)


@mutants.wrong("lut_matvec", named="byte-zero-points")
def zero_points_stay_bytes(indices, tables, scales, zero_points):
    bits, n, _ = indices.shape
    g = scales.shape[1]
    twice = np.tensordot(2.0 ** np.arange(bits), look_up(indices, tables), 1).reshape(n, g, -1).sum(-1)
    x_sums = tables[:, -1].astype(float).reshape(g, -1).sum(1)
    return (scales / 2 * (twice + (2**bits - 1 - 2 * zero_points) * x_sums)).sum(1)


@mutants.wrong("lut_matvec", named="int8-accumulator")
def accumulates_in_the_tables_dtype(indices, tables, scales, zero_points):
    bits, n, blocks = indices.shape
    groups = scales.shape[1]
    per = blocks // groups
    y = np.zeros(n)
    for k in range(groups):
        acc = np.zeros(n, tables.dtype)
        for j in range(k * per, (k + 1) * per):
            for b in range(bits):
                acc += 2**b * tables[j, indices[b, :, j]]
        x_sum = tables[k * per : (k + 1) * per, -1].astype(float).sum()
        y += scales[:, k] * (acc / 2 + ((2**bits - 1) / 2 - zero_points[:, k].astype(float)) * x_sum)
    return y


@mutants.wrong("lut_matvec", named="int8-accumulator")
def doubles_an_int8(indices, tables, scales, zero_points):
    bits, n, blocks = indices.shape
    twice = np.zeros((n, blocks))
    for b in range(bits):
        twice += 2**b * tables[np.arange(blocks), indices[b]]
    g = scales.shape[1]
    x_sums = tables[:, -1].astype(float).reshape(g, -1).sum(1)
    offset = ((2**bits - 1) / 2 - zero_points.astype(float)) * x_sums
    return (scales * (twice.reshape(n, g, -1).sum(-1) / 2 + offset)).sum(1)


@mutants.wrong("lut_matvec")
def wrong_table_for_the_block(indices, tables, scales, zero_points):
    return product(indices, np.roll(tables, 1, axis=0), scales, zero_points)


@mutants.wrong("lut_matvec")
def groups_not_added(indices, tables, scales, zero_points):
    bits, n, _ = indices.shape
    return scales * np.tensordot(2.0 ** np.arange(bits) / 2, look_up(indices, tables), 1).reshape(
        n, scales.shape[1], -1
    ).sum(-1)


@mutants.wrong("lut_matvec")
def reads_indices_as_signed(indices, tables, scales, zero_points):
    size = tables.shape[1]
    return product((indices + size // 2) % size, tables, scales, zero_points)


# ---------------------------------------------------------------- pack_ternary, unpack_ternary


def base_three(weights, powers=(81, 27, 9, 3, 1), shift=1, pad=0):
    n, k = weights.shape
    full = np.full((n, -(-k // 5) * 5), pad, np.int32)
    full[:, :k] = weights
    return ((full + shift).reshape(n, -1, 5) * np.array(powers)).sum(-1)


def stretch(codes):
    return ((256 * codes + 242) // 243).astype(np.uint8)


@mutants.right("pack_ternary")
def integer_ceiling(weights):
    return stretch(base_three(weights))


@mutants.right("pack_ternary")
def horner_with_float_ceiling(weights):
    n, k = weights.shape
    full = np.pad(weights, ((0, 0), (0, -k % 5))).astype(np.int64) + 1
    code = np.zeros((n, full.shape[1] // 5), np.int64)
    for i in range(5):
        code = code * 3 + full[:, i::5]
    return np.ceil(code * 256 / 243).astype(np.uint8)


@mutants.wrong("pack_ternary", named="stores-base-three-number")
def plain_base_three(weights):
    return base_three(weights).astype(np.uint8)


@mutants.wrong("pack_ternary", named="rounds-down")
def floor_division(weights):
    return (base_three(weights) * 256 // 243).astype(np.uint8)


@mutants.wrong("pack_ternary", named="rounds-to-nearest")
def rounds(weights):
    return np.round(base_three(weights) * 256 / 243).astype(np.uint8)


@mutants.wrong("pack_ternary", named="digits-reversed")
def least_significant_first(weights):
    return stretch(base_three(weights, (1, 3, 9, 27, 81)))


@mutants.wrong("pack_ternary", named="padded-with-minus-one")
def pads_after_the_shift(weights):
    return stretch(base_three(weights, pad=-1))


@mutants.wrong("pack_ternary", named="forgets-plus-one")
def no_shift(weights):
    return stretch(base_three(weights, shift=0))


@mutants.wrong("pack_ternary", named="int8-overflow")
def powers_as_int8(weights):
    n, k = weights.shape
    digits = np.pad(weights, ((0, 0), (0, -k % 5))) + np.int8(1)
    return stretch((digits.reshape(n, -1, 5) * np.array([81, 27, 9, 3, 1], np.int8)).sum(-1))


@mutants.wrong("pack_ternary")
def four_a_byte(weights):
    n, k = weights.shape
    codes = np.pad(weights, ((0, 0), (0, -k % 4))).astype(int).reshape(n, -1, 4) + 1
    return (codes * 4 ** np.arange(4)).sum(-1).astype(np.uint8)


@mutants.wrong("pack_ternary")
def stretches_to_255(weights):
    return np.ceil(base_three(weights) * 255 / 242).astype(np.uint8)


@mutants.wrong("pack_ternary")
def drops_the_rest(weights):
    k = weights.shape[1] // 5 * 5
    return stretch(base_three(weights[:, :k]))


@mutants.right("unpack_ternary")
def by_multiplication(packed, columns):
    value, out = packed.astype(np.uint16), []
    for _ in range(5):
        value = value * 3
        out.append((value >> 8).astype(np.int8) - 1)
        value &= 255
    return np.stack(out, -1).reshape(len(packed), -1)[:, :columns].astype(np.int8)


@mutants.right("unpack_ternary")
def by_table(packed, columns):
    table = np.zeros((256, 5), np.int8)
    for byte in range(256):
        table[byte] = [byte * 3 ** (i + 1) // 256 % 3 - 1 for i in range(5)]
    return table[packed].reshape(len(packed), -1)[:, :columns]


@mutants.right("unpack_ternary")
def back_to_base_three(packed, columns):
    code = packed.astype(np.int64) * 243 // 256
    digits = code[..., None] // np.array([81, 27, 9, 3, 1]) % 3 - 1
    return digits.reshape(len(packed), -1)[:, :columns].astype(np.int8)


@mutants.wrong("unpack_ternary", named="divides-the-byte")
def divides(packed, columns):
    digits = packed.astype(np.int64)[..., None] // np.array([81, 27, 9, 3, 1]) % 3 - 1
    return digits.reshape(len(packed), -1)[:, :columns].astype(np.int8)


@mutants.wrong("unpack_ternary", named="digits-reversed")
def last_first(packed, columns):
    whole = by_multiplication(packed, packed.shape[1] * 5).reshape(len(packed), -1, 5)
    return whole[..., ::-1].reshape(len(packed), -1)[:, :columns].copy()


@mutants.wrong("unpack_ternary", named="forgets-minus-one")
def digits_only(packed, columns):
    return by_multiplication(packed, columns) + np.int8(1)


@mutants.wrong("unpack_ternary", named="byte-overflow")
def stays_a_byte(packed, columns):
    value, out = packed.copy(), []
    for _ in range(5):
        value = value * np.uint8(3)
        out.append((value >> 8).astype(np.int8) - 1)
    return np.stack(out, -1).reshape(len(packed), -1)[:, :columns].astype(np.int8)


@mutants.wrong("unpack_ternary", named="one-digit-late")
def reads_before_multiplying(packed, columns):
    value, out = packed.astype(np.uint16), []
    for _ in range(5):
        out.append((value >> 8).astype(np.int8) - 1)
        value = (value & 255) * 3
    return np.stack(out, -1).reshape(len(packed), -1)[:, :columns].astype(np.int8)


@mutants.wrong("unpack_ternary", named="keeps-the-digit")
def never_masks(packed, columns):
    value, out = packed.astype(np.int64), []
    for _ in range(5):
        value = value * 3
        out.append((value >> 8) - 1)
    return np.stack(out, -1).reshape(len(packed), -1)[:, :columns].astype(np.int8)


@mutants.wrong("unpack_ternary")
def keeps_the_padding(packed, columns):
    return by_multiplication(packed, packed.shape[1] * 5 + 0)[:, : columns + 5 - columns % 5]


@mutants.wrong("unpack_ternary")
def all_first_digits_first(packed, columns):
    whole = by_multiplication(packed, packed.shape[1] * 5).reshape(len(packed), -1, 5)
    return whole.swapaxes(1, 2).reshape(len(packed), -1)[:, :columns].copy()


@mutants.wrong("unpack_ternary")
def two_bits_each(packed, columns):
    digits = packed[..., None] >> np.array([0, 2, 4, 6, 0], np.uint8) & 3
    return digits.reshape(len(packed), -1)[:, :columns].astype(np.int8) - np.int8(1)


@mutants.wrong("unpack_ternary")
def shifts_by_seven(packed, columns):
    value, out = packed.astype(np.uint16), []
    for _ in range(5):
        value = value * 3
        out.append((value >> 7).astype(np.int8) - 1)
        value &= 127
    return np.stack(out, -1).reshape(len(packed), -1)[:, :columns].astype(np.int8)


# ---------------------------------------------------------------- binary_coding


def greedy(w, bits, magnitude=np.abs, keep=0.0):
    rest, alphas, planes = w.astype(np.float64), [], []
    for _ in range(bits):
        planes.append(np.where(rest >= 0, 1, -1))
        alphas.append(magnitude(rest).mean(1))
        rest = rest - (1 - keep) * alphas[-1][:, None] * planes[-1]
    return np.stack(alphas, 1), np.stack(planes, 1).astype(np.int8)


def refit(w, planes):
    return np.array([np.linalg.lstsq(p.T.astype(float), row, rcond=None)[0] for row, p in zip(w, planes, strict=True)])


def nearest(w, alphas):
    bits = alphas.shape[1]
    every = 2 * (np.arange(2**bits)[:, None] >> np.arange(bits) & 1) - 1
    best = np.abs(w[:, :, None] - (alphas @ every.T)[:, None, :]).argmin(-1)
    return every[best].swapaxes(1, 2).astype(np.int8)


@mutants.right("binary_coding")
def alternating(w, bits, rounds):
    alphas, planes = greedy(w, bits)
    for _ in range(rounds):
        alphas = refit(w, planes)
        planes = nearest(w, alphas)
    return alphas, planes


@mutants.right("binary_coding")
def ends_with_a_refit(w, bits, rounds):
    _, planes = alternating(w, bits, rounds)
    return refit(w, planes).astype(np.float32), planes


@mutants.right("binary_coding")
def normal_equations_with_a_little_ridge(w, bits, rounds):
    alphas, planes = greedy(w, bits)
    for _ in range(rounds):
        b = planes.astype(np.float64)
        gram = np.einsum("gbl,gcl->gbc", b, b) + 1e-6 * np.eye(bits)
        alphas = np.linalg.solve(gram, np.einsum("gbl,gl->gb", b, w)[..., None])[..., 0]
        planes = nearest(w, alphas)
    return alphas, planes


@mutants.wrong("binary_coding", named="greedy-only")
def greedy_start_only(w, bits, rounds):
    return greedy(w, bits)


@mutants.wrong("binary_coding", named="refit-without-reassign")
def never_reassigns(w, bits, rounds):
    _, planes = greedy(w, bits)
    return refit(w, planes), planes


@mutants.wrong("binary_coding", named="reassign-without-refit")
def never_refits(w, bits, rounds):
    alphas, _ = greedy(w, bits)
    return alphas, nearest(w, alphas)


@mutants.wrong("binary_coding", named="scales-shared-by-groups")
def one_set_of_scales(w, bits, rounds):
    alphas, planes = alternating(w.reshape(1, -1), bits, rounds)
    return np.repeat(alphas, len(w), 0), planes.reshape(bits, *w.shape).swapaxes(0, 1).copy()


@mutants.wrong("binary_coding", named="scales-off-by-two")
def half_steps(w, bits, rounds):
    alphas, planes = alternating(w, bits, rounds)
    return alphas / 2, planes


@mutants.wrong("binary_coding", named="scales-off-by-two")
def double_steps(w, bits, rounds):
    alphas, planes = alternating(w, bits, rounds)
    return alphas * 2, planes


@mutants.wrong("binary_coding", named="planes-of-zero-and-one")
def zero_one_planes(w, bits, rounds):
    alphas, planes = alternating(w, bits, rounds)
    return alphas, ((planes + 1) // 2).astype(np.int8)


@mutants.wrong("binary_coding", named="sign-of-zero")
def zero_weights_get_zero_planes(w, bits, rounds):
    alphas, planes = alternating(w, bits, rounds)
    return alphas, (planes * (w != 0)[:, None]).astype(np.int8)


@mutants.wrong("binary_coding")
def sign_of_zero(w, bits, rounds):
    rest, alphas, planes = w.astype(np.float64), [], []
    for _ in range(bits):
        planes.append(np.sign(rest))
        alphas.append(np.abs(rest).mean(1))
        rest = rest - alphas[-1][:, None] * planes[-1]
    return np.stack(alphas, 1), np.stack(planes, 1).astype(np.int8)


@mutants.wrong("binary_coding", named="mean-without-magnitude")
def mean_of_the_rest(w, bits, rounds):
    return greedy(w, bits, magnitude=np.asarray)


@mutants.wrong("binary_coding", named="planes-of-the-weight")
def forgets_to_subtract(w, bits, rounds):
    planes = np.repeat(np.where(w >= 0, 1, -1)[:, None], bits, 1).astype(np.int8)
    return np.repeat(np.abs(w).mean(1)[:, None] / bits, bits, 1), planes


@mutants.wrong("binary_coding")
def planes_before_rows(w, bits, rounds):
    alphas, planes = alternating(w, bits, rounds)
    return alphas, planes.swapaxes(0, 1).copy()


@mutants.wrong("binary_coding")
def uniform_instead(w, bits, rounds):
    step = (w.max(1) - w.min(1)) / (2**bits - 1)
    codes = np.rint((w - w.min(1, keepdims=True)) / np.where(step > 0, step, 1)[:, None]).astype(int)
    planes = np.stack([2 * (codes >> b & 1) - 1 for b in range(bits)], 1).astype(np.int8)
    return step[:, None] * 2.0 ** (np.arange(bits) - 1), planes
