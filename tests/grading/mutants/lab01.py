"""Plausible wrong answers to lab 1, as students write them, and right ones in other styles."""

import numpy as np
from edgeinfer.grading.mutants import Mutants

mutants = Mutants("lab01_quantization")

# ---------------------------------------------------------------- quantize_symmetric


def top_of(bits):
    return 2 ** (bits - 1) - 1


@mutants.right("quantize_symmetric")
def with_searchsorted(weight, bits):
    scale = float(np.max(np.abs(weight))) / top_of(bits) or 1.0
    edges = (np.arange(-top_of(bits), top_of(bits)) + 0.5) * scale
    return (np.searchsorted(edges, weight.astype(np.float64)) - top_of(bits)).astype(np.int8), scale


@mutants.right("quantize_symmetric")
def half_up_and_inverse(weight, bits):
    largest = max(weight.max(), -weight.min())
    if largest == 0:
        return np.zeros(weight.shape, np.int8), 1.0
    inverse = top_of(bits) / largest
    return np.clip(np.floor(weight * inverse + 0.5), -top_of(bits), top_of(bits)).astype("int8"), np.float32(
        1 / inverse
    )


@mutants.wrong("quantize_symmetric", named="no-sign-bit")
def all_bits_for_magnitude(weight, bits):
    scale = np.abs(weight).max() / (2**bits - 1) or 1.0
    return np.round(weight / scale).astype(np.int8), scale


@mutants.wrong("quantize_symmetric", named="one-code-too-many")
def divides_by_half_the_codes(weight, bits):
    scale = float(np.abs(weight).max() / 2 ** (bits - 1)) or 1.0
    return np.round(weight.astype(np.float64) / scale).astype(np.int8), scale


@mutants.wrong("quantize_symmetric", named="truncates")
def astype_only(weight, bits):
    scale = float(np.abs(weight).max() / top_of(bits)) or 1.0
    return (weight.astype(np.float64) / scale).astype(np.int8), scale


@mutants.wrong("quantize_symmetric", named="rounds-down")
def floor_division(weight, bits):
    scale = float(np.abs(weight).max() / top_of(bits)) or 1.0
    return (weight.astype(np.float64) // scale).astype(np.int8), scale


@mutants.wrong("quantize_symmetric", named="forgets-negative-weights")
def plain_max(weight, bits):
    scale = float(weight.max() / top_of(bits)) or 1.0
    return np.round(weight / scale).astype(np.int8), scale


@mutants.wrong("quantize_symmetric", named="range-over-levels")
def asymmetric_step(weight, bits):
    scale = float((weight.max() - weight.min()) / (2**bits - 1)) or 1.0
    return np.round(weight / scale).astype(np.int8), scale


@mutants.wrong("quantize_symmetric", named="a-scale-per-row")
def keeps_dimensions(weight, bits):
    scale = np.abs(weight).max(axis=1, keepdims=True) / top_of(bits)
    scale[scale == 0] = 1
    return np.round(weight / scale).astype(np.int8), scale


@mutants.wrong("quantize_symmetric", named="inverse-scale")
def codes_per_weight(weight, bits):
    scale = top_of(bits) / (float(np.abs(weight).max()) or float(top_of(bits)))
    return np.round(weight * scale).astype(np.int8), scale


@mutants.wrong("quantize_symmetric", named="zero-division")
def no_guard(weight, bits):
    scale = float(np.abs(weight).max()) / top_of(bits)
    with np.errstate(all="ignore"):
        return np.nan_to_num(np.round(weight / np.float32(scale))).astype(np.int8), scale


@mutants.wrong("quantize_symmetric")
def dequantized_instead_of_codes(weight, bits):
    scale = float(np.abs(weight).max() / top_of(bits)) or 1.0
    return (np.round(weight / scale) * scale).astype(np.float32), scale


@mutants.wrong("quantize_symmetric")
def unsigned_codes(weight, bits):
    scale = float(np.abs(weight).max() / top_of(bits)) or 1.0
    return (np.round(weight / scale) + 2 ** (bits - 1)).astype(np.uint8), scale


@mutants.wrong("quantize_symmetric", named="changes-its-input")
def divides_in_place(weight, bits):
    scale = float(np.abs(weight).max() / top_of(bits)) or 1.0
    weight /= scale
    return np.round(weight).astype(np.int8), scale


# ---------------------------------------------------------------- quantize_groups


def split(weight, group_size):
    return weight.reshape(weight.shape[0], -1, group_size)


def grid(weight, bits, group_size, levels=None, hold=True):
    parts = split(weight, group_size)
    low, high = parts.min(-1), parts.max(-1)
    if hold:
        low, high = np.minimum(low, 0), np.maximum(high, 0)
    scale = (high - low) / (levels or 2**bits - 1)
    scale = np.where(scale == 0, 1, scale)
    return parts, scale, np.round(-low / scale)


def finish(codes, weight, scale, zero):
    return codes.reshape(weight.shape).astype(np.uint8), scale.astype(np.float32), zero.astype(int).astype(np.uint8)


@mutants.right("quantize_groups")
def with_loops(weight, bits, group_size):
    n, k = weight.shape
    codes = np.empty((n, k), np.uint8)
    scale, zero = np.ones((n, k // group_size)), np.zeros((n, k // group_size), np.uint8)
    for row in range(n):
        for j, start in enumerate(range(0, k, group_size)):
            group = weight[row, start : start + group_size]
            low, high = min(group.min(), 0.0), max(group.max(), 0.0)
            if high > low:
                scale[row, j] = (float(high) - float(low)) / (2**bits - 1)
            zero[row, j] = np.rint(-low / scale[row, j])
            shifted = group / scale[row, j] + zero[row, j]
            codes[row, start : start + group_size] = np.clip(np.rint(shifted), 0, 2**bits - 1)
    return codes, scale, zero


@mutants.right("quantize_groups")
def with_nearest_level(weight, bits, group_size):
    parts, scale, zero = grid(weight, bits, group_size)
    levels = (np.arange(2**bits) - zero[..., None]) * scale[..., None]
    codes = np.abs(parts[..., None] - levels[:, :, None, :]).argmin(-1)
    return finish(codes, weight, scale, zero)


@mutants.wrong("quantize_groups", named="zero-outside-the-range")
def plain_min_and_max(weight, bits, group_size):
    parts, scale, zero = grid(weight, bits, group_size, hold=False)
    return finish(np.clip(np.round(parts / scale[..., None]) + zero[..., None], 0, 2**bits - 1), weight, scale, zero)


@mutants.wrong("quantize_groups", named="divides-by-number-of-codes")
def divides_by_two_to_the_bits(weight, bits, group_size):
    parts, scale, zero = grid(weight, bits, group_size, levels=2**bits)
    return finish(np.clip(np.round(parts / scale[..., None]) + zero[..., None], 0, 2**bits - 1), weight, scale, zero)


@mutants.wrong("quantize_groups", named="symmetric-grid")
def zero_in_the_middle(weight, bits, group_size):
    parts = split(weight, group_size)
    scale = np.abs(parts).max(-1) / top_of(bits)
    scale[scale == 0] = 1
    zero = np.full(scale.shape, 2 ** (bits - 1))
    return finish(np.round(parts / scale[..., None]) + zero[..., None], weight, scale, zero)


@mutants.wrong("quantize_groups", named="one-grid-per-row")
def whole_row(weight, bits, group_size):
    _, scale, zero = grid(weight, bits, weight.shape[1])
    codes = np.clip(np.round(weight / scale) + zero, 0, 2**bits - 1)
    groups = weight.shape[1] // group_size
    return finish(codes, weight, np.repeat(scale, groups, 1), np.repeat(zero, groups, 1))


@mutants.wrong("quantize_groups", named="groups-interleaved")
def reshapes_the_wrong_way(weight, bits, group_size):
    n, k = weight.shape
    parts = weight.reshape(n, group_size, k // group_size)
    low, high = np.minimum(parts.min(1), 0), np.maximum(parts.max(1), 0)
    scale = (high - low) / (2**bits - 1)
    scale[scale == 0] = 1
    zero = np.round(-low / scale)
    return finish(np.clip(np.round(parts / scale[:, None]) + zero[:, None], 0, 2**bits - 1), weight, scale, zero)


@mutants.wrong("quantize_groups", named="truncates")
def cuts_off(weight, bits, group_size):
    parts, scale, zero = grid(weight, bits, group_size)
    codes = (parts / scale[..., None]).astype(int) + zero[..., None]
    return finish(np.clip(codes, 0, 2**bits - 1), weight, scale, zero)


@mutants.wrong("quantize_groups", named="rounds-down")
def floors(weight, bits, group_size):
    parts, scale, zero = grid(weight, bits, group_size)
    return finish(np.clip(parts // scale[..., None] + zero[..., None], 0, 2**bits - 1), weight, scale, zero)


@mutants.wrong("quantize_groups", named="zero-has-no-code")
def counts_from_the_lowest_weight(weight, bits, group_size):
    parts, scale, zero = grid(weight, bits, group_size)
    low = np.minimum(parts.min(-1, keepdims=True), 0)
    return finish(np.clip(np.round((parts - low) / scale[..., None]), 0, 2**bits - 1), weight, scale, zero)


@mutants.wrong("quantize_groups", named="zero-point-sign")
def zero_point_is_negative(weight, bits, group_size):
    parts, scale, zero = grid(weight, bits, group_size)
    codes = np.clip(np.round(parts / scale[..., None]) + zero[..., None], 0, 2**bits - 1)
    return finish(codes, weight, scale, -zero)


@mutants.wrong("quantize_groups", named="zero-division")
def no_guard_for_zeros(weight, bits, group_size):
    parts = split(weight, group_size)
    low, high = np.minimum(parts.min(-1), 0), np.maximum(parts.max(-1), 0)
    scale = (high - low) / (2**bits - 1)
    with np.errstate(all="ignore"):
        zero = np.nan_to_num(np.round(-low / scale))
        codes = np.nan_to_num(np.round(parts / scale[..., None])) + zero[..., None]
    return finish(np.clip(codes, 0, 2**bits - 1), weight, scale, zero)


@mutants.wrong("quantize_groups")
def codes_keep_the_groups(weight, bits, group_size):
    codes, scale, zero = with_loops(weight, bits, group_size)
    return codes.reshape(len(weight), -1, group_size), scale, zero


@mutants.wrong("quantize_groups")
def float_zero_point(weight, bits, group_size):
    codes, scale, zero = with_loops(weight, bits, group_size)
    return codes, scale, zero.astype(np.float32)


@mutants.wrong("quantize_groups", named="stores-low-not-zero-point")
def forgets_the_zero_point(weight, bits, group_size):
    codes, scale, zero = with_loops(weight, bits, group_size)
    return codes, scale, np.zeros_like(zero)


# ---------------------------------------------------------------- integer_matvec


def pieces(codes, scale, x_codes):
    n, groups = scale.shape
    parts, x = codes.reshape(n, groups, -1).astype(np.int64), x_codes.reshape(groups, -1).astype(np.int64)
    return (parts * x).sum(-1), x


@mutants.right("integer_matvec")
def group_after_group(codes, scale, zero_point, x_codes, x_scale):
    size = codes.shape[1] // scale.shape[1]
    y = np.zeros(len(codes), np.float32)
    for g in range(scale.shape[1]):
        x = x_codes[g * size : (g + 1) * size].astype(np.int32)
        dot = codes[:, g * size : (g + 1) * size].astype(np.int32) @ x
        y += scale[:, g] * np.float32(x_scale) * (dot - zero_point[:, g].astype(np.int32) * x.sum()).astype(np.float32)
    return y


@mutants.right("integer_matvec")
def subtracts_first(codes, scale, zero_point, x_codes, x_scale):
    n, groups = scale.shape
    centred = codes.reshape(n, groups, -1).astype(np.int32) - zero_point[..., None]
    return x_scale * np.einsum("ng,ngk,gk->n", scale, centred, x_codes.reshape(groups, -1).astype(np.int32))


@mutants.wrong("integer_matvec", named="forgets-zero-point")
def dot_only(codes, scale, zero_point, x_codes, x_scale):
    dot, _ = pieces(codes, scale, x_codes)
    return x_scale * (scale * dot).sum(1)


@mutants.wrong("integer_matvec", named="zero-point-times-count")
def times_number_of_columns(codes, scale, zero_point, x_codes, x_scale):
    dot, x = pieces(codes, scale, x_codes)
    return x_scale * (scale * (dot - zero_point.astype(int) * x.shape[1])).sum(1)


@mutants.wrong("integer_matvec", named="zero-point-once")
def subtracts_it_once(codes, scale, zero_point, x_codes, x_scale):
    dot, _ = pieces(codes, scale, x_codes)
    return x_scale * (scale * (dot - zero_point)).sum(1)


@mutants.wrong("integer_matvec", named="sum-of-the-whole-row")
def sum_over_all_columns(codes, scale, zero_point, x_codes, x_scale):
    dot, x = pieces(codes, scale, x_codes)
    return x_scale * (scale * (dot - zero_point.astype(int) * x.sum())).sum(1)


@mutants.wrong("integer_matvec", named="zero-point-sign")
def adds_the_correction(codes, scale, zero_point, x_codes, x_scale):
    dot, x = pieces(codes, scale, x_codes)
    return x_scale * (scale * (dot + zero_point.astype(int) * x.sum(-1))).sum(1)


@mutants.wrong("integer_matvec", named="zero-point-not-scaled")
def corrects_after_the_scale(codes, scale, zero_point, x_codes, x_scale):
    dot, x = pieces(codes, scale, x_codes)
    return x_scale * (scale * dot - zero_point.astype(int) * x.sum(-1)).sum(1)


@mutants.wrong("integer_matvec", named="forgets-activation-scale")
def no_x_scale(codes, scale, zero_point, x_codes, x_scale):
    dot, x = pieces(codes, scale, x_codes)
    return (scale * (dot - zero_point.astype(int) * x.sum(-1))).sum(1)


@mutants.wrong("integer_matvec", named="activation-scale-twice")
def x_scale_on_both_terms(codes, scale, zero_point, x_codes, x_scale):
    dot, x = pieces(codes, scale, x_codes)
    return x_scale * (scale * (dot * x_scale - zero_point.astype(int) * (x * x_scale).sum(-1))).sum(1)


@mutants.wrong("integer_matvec", named="forgets-weight-scales")
def no_scale(codes, scale, zero_point, x_codes, x_scale):
    dot, x = pieces(codes, scale, x_codes)
    return x_scale * (dot - zero_point.astype(int) * x.sum(-1)).sum(1)


@mutants.wrong("integer_matvec", named="one-scale-per-row")
def first_scale(codes, scale, zero_point, x_codes, x_scale):
    dot, x = pieces(codes, scale, x_codes)
    return x_scale * scale[:, 0] * (dot - zero_point.astype(int) * x.sum(-1)).sum(1)


@mutants.wrong("integer_matvec", named="mean-scale-per-row")
def mean_scale(codes, scale, zero_point, x_codes, x_scale):
    dot, x = pieces(codes, scale, x_codes)
    return x_scale * scale.mean(1) * (dot - zero_point.astype(int) * x.sum(-1)).sum(1)


@mutants.wrong("integer_matvec", named="subtracts-in-bytes")
def stays_in_bytes(codes, scale, zero_point, x_codes, x_scale):
    n, groups = scale.shape
    centred = codes.reshape(n, groups, -1) - zero_point[..., None]
    return x_scale * np.einsum("ng,ngk,gk->n", scale, centred.astype(int), x_codes.reshape(groups, -1).astype(int))


@mutants.wrong("integer_matvec", named="accumulator-16-bits")
def sums_in_int16(codes, scale, zero_point, x_codes, x_scale):
    dot, x = pieces(codes, scale, x_codes)
    dot = dot.astype(np.int16).astype(float)
    return x_scale * (scale * (dot - zero_point.astype(int) * x.sum(-1))).sum(1)


@mutants.wrong("integer_matvec", named="accumulator-8-bits")
def multiplies_in_8_bits(codes, scale, zero_point, x_codes, x_scale):
    n, groups = scale.shape
    x = x_codes.reshape(groups, -1)
    products = (codes.reshape(n, groups, -1).astype(np.int8) * x).astype(np.int64)
    return x_scale * (scale * (products.sum(-1) - zero_point.astype(int) * x.astype(int).sum(-1))).sum(1)


@mutants.wrong("integer_matvec")
def groups_not_added(codes, scale, zero_point, x_codes, x_scale):
    dot, x = pieces(codes, scale, x_codes)
    return x_scale * scale * (dot - zero_point.astype(int) * x.sum(-1))


# ---------------------------------------------------------------- second_order_step


def rounded_column(weight, column, scale, bits):
    return np.clip(np.round(weight[:, column] / scale), -top_of(bits), top_of(bits)) * scale


@mutants.right("second_order_step")
def column_by_column(weight, column, scale, bits, inverse_hessian):
    weight, inverse = weight.copy(), inverse_hessian.copy()
    rounded = rounded_column(weight, column, scale, bits)
    error = (weight[:, column] - rounded) / inverse[column, column]
    for j in range(column + 1, weight.shape[1]):
        weight[:, j] -= error * inverse[column, j]
    weight[:, column] = rounded
    pivot = inverse[column].copy()
    for i in range(column, len(inverse)):
        inverse[i] -= pivot * inverse_hessian[i, column] / pivot[column]
    return weight, inverse


@mutants.right("second_order_step")
def by_cholesky(weight, column, scale, bits, inverse_hessian):
    lower = np.linalg.cholesky(inverse_hessian[column:, column:])
    first = lower[:, 0]
    moved = weight.copy()
    rounded = rounded_column(weight, column, scale, bits)
    moved[:, column:] -= ((weight[:, column] - rounded) / first[0])[:, None] * first[None, :]
    moved[:, column] = rounded
    rest = np.zeros_like(inverse_hessian)
    rest[column + 1 :, column + 1 :] = lower[1:, 1:] @ lower[1:, 1:].T
    return moved, rest


def step(weight, column, scale, bits, inverse, error=None, pivot=None, sign=-1, rest=None):
    rounded = rounded_column(weight, column, scale, bits)
    error = weight[:, column] - rounded if error is None else error
    pivot = inverse[column, column] if pivot is None else pivot
    moved = weight + sign * np.outer(error, inverse[column]) / pivot
    moved[:, column] = rounded
    if rest is None:
        rest = inverse - np.outer(inverse[:, column], inverse[column]) / inverse[column, column]
    return moved, rest


@mutants.wrong("second_order_step", named="no-update")
def plain_rounding(weight, column, scale, bits, inverse_hessian):
    return step(weight, column, scale, bits, inverse_hessian, error=np.zeros(len(weight)))


@mutants.wrong("second_order_step", named="update-sign")
def moves_the_wrong_way(weight, column, scale, bits, inverse_hessian):
    return step(weight, column, scale, bits, inverse_hessian, sign=1)


@mutants.wrong("second_order_step", named="forgets-the-diagonal")
def no_diagonal(weight, column, scale, bits, inverse_hessian):
    return step(weight, column, scale, bits, inverse_hessian, pivot=1)


@mutants.wrong("second_order_step", named="root-of-the-diagonal")
def half_a_cholesky(weight, column, scale, bits, inverse_hessian):
    return step(weight, column, scale, bits, inverse_hessian, pivot=inverse_hessian[column, column] ** 0.5)


@mutants.wrong("second_order_step", named="error-in-codes")
def error_in_steps(weight, column, scale, bits, inverse_hessian):
    error = (weight[:, column] - rounded_column(weight, column, scale, bits)) / scale
    return step(weight, column, scale, bits, inverse_hessian, error=error)


@mutants.wrong("second_order_step", named="returns-codes")
def leaves_codes(weight, column, scale, bits, inverse_hessian):
    moved, rest = step(weight, column, scale, bits, inverse_hessian)
    moved[:, column] = np.round(moved[:, column] / scale)
    return moved, rest


@mutants.wrong("second_order_step", named="rounds-all-columns")
def rounds_everything(weight, column, scale, bits, inverse_hessian):
    moved, rest = step(weight, column, scale, bits, inverse_hessian)
    for j in range(column + 1, weight.shape[1]):
        moved[:, j] = rounded_column(moved, j, scale, bits)
    return moved, rest


@mutants.wrong("second_order_step", named="column-not-rounded")
def updates_only_the_rest(weight, column, scale, bits, inverse_hessian):
    moved, rest = step(weight, column, scale, bits, inverse_hessian)
    moved[:, column] = weight[:, column]
    return moved, rest


@mutants.wrong("second_order_step", named="no-elimination")
def keeps_the_inverse(weight, column, scale, bits, inverse_hessian):
    return step(weight, column, scale, bits, inverse_hessian, rest=inverse_hessian)


@mutants.wrong("second_order_step", named="crosses-out")
def zeroes_row_and_column(weight, column, scale, bits, inverse_hessian):
    rest = inverse_hessian.copy()
    rest[column] = 0
    rest[:, column] = 0
    return step(weight, column, scale, bits, inverse_hessian, rest=rest)


@mutants.wrong("second_order_step", named="elimination-without-pivot")
def outer_without_pivot(weight, column, scale, bits, inverse_hessian):
    rest = inverse_hessian - np.outer(inverse_hessian[:, column], inverse_hessian[column])
    return step(weight, column, scale, bits, inverse_hessian, rest=rest)


@mutants.wrong("second_order_step", named="elimination-sign")
def adds_the_outer_product(weight, column, scale, bits, inverse_hessian):
    h = inverse_hessian
    rest = h + np.outer(h[:, column], h[column]) / h[column, column]
    return step(weight, column, scale, bits, h, rest=rest)


@mutants.wrong("second_order_step", named="not-clipped")
def no_clip(weight, column, scale, bits, inverse_hessian):
    rounded = np.round(weight[:, column] / scale) * scale
    moved, rest = step(weight, column, scale, bits, inverse_hessian, error=weight[:, column] - rounded)
    moved[:, column] = rounded
    return moved, rest


@mutants.wrong("second_order_step")
def weight_only(weight, column, scale, bits, inverse_hessian):
    return step(weight, column, scale, bits, inverse_hessian)[0]


@mutants.wrong("second_order_step")
def cut_out_inverse(weight, column, scale, bits, inverse_hessian):
    moved, rest = step(weight, column, scale, bits, inverse_hessian)
    return moved, rest[1:, 1:]


@mutants.wrong("second_order_step", named="changes-its-input")
def works_in_place(weight, column, scale, bits, inverse_hessian):
    moved, rest = step(weight, column, scale, bits, inverse_hessian)
    weight[:] = moved
    return weight, rest


# ---------------------------------------------------------------- activation_scale


def middle(raw):
    return raw / np.sqrt(raw.max() * raw.min())


def magnitude(inputs):
    return np.maximum(np.abs(inputs).mean(0), 1e-5)


@mutants.right("activation_scale")
def by_logarithms(weight, inputs, alpha):
    logs = alpha * np.log(magnitude(inputs.astype(np.float64)))
    factor = np.exp(logs - (logs.max() + logs.min()) / 2)
    return weight @ np.diag(factor), factor


@mutants.right("activation_scale")
def row_by_row(weight, inputs, alpha):
    sizes = np.array([max(np.mean(np.abs(inputs[:, k])), 1e-5) for k in range(inputs.shape[1])])
    factor = middle(sizes**alpha)
    return np.array([row * factor for row in weight]), factor


@mutants.wrong("activation_scale", named="scales-down-the-important")
def divides_the_weights(weight, inputs, alpha):
    factor = middle(magnitude(inputs) ** alpha)
    return weight / factor, factor


@mutants.wrong("activation_scale", named="inverse-factor")
def upside_down(weight, inputs, alpha):
    factor = 1 / middle(magnitude(inputs) ** alpha)
    return weight * factor, factor


@mutants.wrong("activation_scale", named="signed-mean")
def abs_of_the_mean(weight, inputs, alpha):
    factor = middle(np.maximum(np.abs(inputs.astype(float).mean(0)), 1e-5) ** alpha)
    return weight * factor, factor


@mutants.wrong("activation_scale", named="signed-mean-floored")
def mean_without_abs(weight, inputs, alpha):
    factor = middle(np.maximum(inputs.astype(float).mean(0), 1e-5) ** alpha)
    return weight * factor, factor


@mutants.wrong("activation_scale", named="largest-activation")
def max_magnitude(weight, inputs, alpha):
    factor = middle(np.maximum(np.abs(inputs).max(0), 1e-5) ** alpha)
    return weight * factor, factor


@mutants.wrong("activation_scale", named="root-mean-square")
def rms(weight, inputs, alpha):
    factor = middle(np.maximum(np.sqrt((inputs.astype(float) ** 2).mean(0)), 1e-5) ** alpha)
    return weight * factor, factor


@mutants.wrong("activation_scale", named="weight-magnitude")
def looks_at_weights(weight, inputs, alpha):
    factor = middle(np.maximum(np.abs(weight).mean(0), 1e-5) ** alpha)
    return weight * factor, factor


@mutants.wrong("activation_scale", named="not-normalised")
def raw_power(weight, inputs, alpha):
    factor = magnitude(inputs) ** alpha
    return weight * factor, factor


@mutants.wrong("activation_scale", named="normalised-to-the-largest")
def largest_is_one(weight, inputs, alpha):
    factor = magnitude(inputs) ** alpha
    return weight * (factor / factor.max()), factor / factor.max()


@mutants.wrong("activation_scale", named="normalised-to-the-mean")
def mean_is_one(weight, inputs, alpha):
    factor = magnitude(inputs) ** alpha
    return weight * (factor / factor.mean()), factor / factor.mean()


@mutants.wrong("activation_scale", named="forgets-the-root")
def product_without_root(weight, inputs, alpha):
    factor = magnitude(inputs) ** alpha
    factor = factor / (factor.max() * factor.min())
    return weight * factor, factor


@mutants.wrong("activation_scale", named="ignores-alpha")
def no_alpha(weight, inputs, alpha):
    factor = middle(magnitude(inputs))
    return weight * factor, factor


@mutants.wrong("activation_scale", named="silent-channel")
def no_floor(weight, inputs, alpha):
    with np.errstate(all="ignore"):
        factor = middle(np.abs(inputs).mean(0) ** alpha)
        return np.nan_to_num(weight * factor), np.nan_to_num(factor)


@mutants.wrong("activation_scale")
def mean_over_the_wrong_axis(weight, inputs, alpha):
    factor = middle(np.maximum(np.abs(inputs).mean(1), 1e-5) ** alpha)
    return weight, factor


@mutants.wrong("activation_scale")
def scales_rows(weight, inputs, alpha):
    factor = middle(magnitude(inputs) ** alpha)
    rows = np.resize(factor, len(weight))
    return weight * rows[:, None], factor
