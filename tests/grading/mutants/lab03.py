"""Plausible wrong answers to lab 3, as students write them, and right ones in other styles."""

import numpy as np
from edgeinfer.grading.mutants import Mutants

mutants = Mutants("lab03_kv_and_attention")

# ---------------------------------------------------------------- quantize_keys


def finish(grouped, low, scale, shape, rounding=np.round):
    codes = rounding((grouped - low[:, None]) / scale[:, None])
    return codes.reshape(shape).astype(np.uint8), scale, low


def spread(keys, bits, group_size, levels=None):
    grouped = keys.reshape(-1, group_size, keys.shape[1])
    low, high = grouped.min(axis=1), grouped.max(axis=1)
    scale = (high - low) / (levels or 2**bits - 1)
    return grouped, low, np.where(scale == 0, 1, scale).astype(np.float32)


@mutants.right("quantize_keys")
def group_by_group(keys, bits, group_size):
    codes, scales, lows = [], [], []
    for start in range(0, len(keys), group_size):
        part = keys[start : start + group_size]
        low = part.min(0)
        scale = np.ptp(part, axis=0) / (2**bits - 1)
        scale[scale == 0] = 1.0
        codes.append(np.rint((part - low) / scale))
        scales.append(scale)
        lows.append(low)
    return np.concatenate(codes).astype(np.uint8), np.array(scales), np.array(lows)


@mutants.right("quantize_keys")
def channels_first_and_inverse(keys, bits, group_size):
    t, d = keys.shape
    columns = keys.T.reshape(d, t // group_size, group_size).astype(np.float64)
    low, high = columns.min(-1), columns.max(-1)
    still = high == low
    inverse = np.where(still, 1, (2**bits - 1) / np.where(still, 1, high - low))
    codes = np.floor((columns - low[..., None]) * inverse[..., None] + 0.5)
    return codes.reshape(d, t).T.astype("uint8"), (1 / inverse).T, low.T


@mutants.right("quantize_keys")
def with_levels(keys, bits, group_size):
    grouped, low, scale = spread(keys.astype(np.float64), bits, group_size)
    levels = low[..., None] + np.arange(2**bits) * scale[..., None].astype(np.float64)
    codes = np.abs(grouped[..., None] - levels[:, None]).argmin(-1)
    return codes.reshape(keys.shape).astype(np.uint8), scale, low.astype(np.float32)


@mutants.wrong("quantize_keys", named="per-token")
def one_grid_per_token(keys, bits, group_size):
    low, high = keys.min(axis=1), keys.max(axis=1)
    scale = (high - low) / (2**bits - 1)
    return np.round((keys - low[:, None]) / scale[:, None]).astype(np.uint8), scale, low


@mutants.wrong("quantize_keys", named="per-token-column")
def keeps_dimensions(keys, bits, group_size):
    low, high = keys.min(axis=1, keepdims=True), keys.max(axis=1, keepdims=True)
    scale = (high - low) / (2**bits - 1)
    return np.round((keys - low) / scale).astype(np.uint8), scale, low


@mutants.wrong("quantize_keys", named="groups-of-channels")
def groups_as_in_lab_1(keys, bits, group_size):
    grouped = keys.reshape(len(keys), -1, group_size)
    low, high = grouped.min(2), grouped.max(2)
    scale = (high - low) / (2**bits - 1)
    scale[scale == 0] = 1
    codes = np.round((grouped - low[..., None]) / scale[..., None])
    return codes.reshape(keys.shape).astype(np.uint8), scale, low


@mutants.wrong("quantize_keys", named="one-number-per-group")
def both_axes(keys, bits, group_size):
    grouped = keys.reshape(-1, group_size, keys.shape[1])
    low, high = grouped.min(axis=(1, 2)), grouped.max(axis=(1, 2))
    scale = (high - low) / (2**bits - 1)
    codes = np.round((grouped - low[:, None, None]) / scale[:, None, None])
    return codes.reshape(keys.shape).astype(np.uint8), scale, low


@mutants.wrong("quantize_keys", named="one-grid-per-group")
def both_axes_spread_out(keys, bits, group_size):
    codes, scale, low = both_axes(keys, bits, group_size)
    wide = np.ones((1, keys.shape[1]), np.float32)
    return codes, scale[:, None] * wide, low[:, None] * wide


@mutants.wrong("quantize_keys", named="one-grid-per-channel")
def whole_context(keys, bits, group_size):
    low, high = keys.min(0), keys.max(0)
    scale = (high - low) / (2**bits - 1)
    groups = len(keys) // group_size
    codes = np.round((keys - low) / scale).astype(np.uint8)
    return codes, np.tile(scale, (groups, 1)), np.tile(low, (groups, 1))


@mutants.wrong("quantize_keys", named="groups-interleaved")
def reshapes_the_wrong_way(keys, bits, group_size):
    parts = keys.reshape(group_size, -1, keys.shape[1])
    low, high = parts.min(0), parts.max(0)
    scale = (high - low) / (2**bits - 1)
    scale[scale == 0] = 1
    return np.round((parts - low) / scale).reshape(keys.shape).astype(np.uint8), scale, low


@mutants.wrong("quantize_keys", named="divides-by-number-of-codes")
def two_to_the_bits(keys, bits, group_size):
    grouped, low, scale = spread(keys, bits, group_size, levels=2**bits)
    return finish(np.minimum(grouped, low[:, None] + (2**bits - 1) * scale[:, None]), low, scale, keys.shape)


@mutants.wrong("quantize_keys", named="divides-by-number-of-codes")
def two_to_the_bits_that_wrap(keys, bits, group_size):
    grouped, low, scale = spread(keys, bits, group_size, levels=2**bits)
    return finish(grouped, low, scale, keys.shape)


@mutants.wrong("quantize_keys", named="range-holds-zero")
def grid_of_lab_1(keys, bits, group_size):
    grouped = keys.reshape(-1, group_size, keys.shape[1])
    low, high = np.minimum(grouped.min(1), 0), np.maximum(grouped.max(1), 0)
    return finish(grouped, low, (high - low) / (2**bits - 1), keys.shape)


@mutants.wrong("quantize_keys", named="symmetric-grid")
def around_zero(keys, bits, group_size):
    grouped = keys.reshape(-1, group_size, keys.shape[1])
    top = np.abs(grouped).max(1)
    return finish(grouped, -top, 2 * top / (2**bits - 1), keys.shape)


@mutants.wrong("quantize_keys", named="truncates")
def astype_only(keys, bits, group_size):
    grouped, low, scale = spread(keys.astype(np.float64), bits, group_size)
    return finish(grouped, low, scale.astype(np.float64), keys.shape, rounding=lambda v: v)


@mutants.wrong("quantize_keys", named="integer-zero-point")
def zero_point_of_lab_1(keys, bits, group_size):
    grouped, low, scale = spread(keys, bits, group_size)
    codes, _, _ = finish(grouped, low, scale, keys.shape)
    return codes, scale, np.round(-low / scale)


@mutants.wrong("quantize_keys", named="zero-division")
def no_guard(keys, bits, group_size):
    grouped = keys.reshape(-1, group_size, keys.shape[1])
    low, high = grouped.min(1), grouped.max(1)
    with np.errstate(all="ignore"):
        codes, scale, low = finish(
            grouped, low, (high - low) / (2**bits - 1), keys.shape, lambda v: np.round(np.nan_to_num(v))
        )
    return codes, scale, low


@mutants.wrong("quantize_keys", named="middle-instead-of-low")
def middle_instead_of_low(keys, bits, group_size):
    grouped, low, scale = spread(keys, bits, group_size)
    codes, _, _ = finish(grouped, low, scale, keys.shape)
    return codes, scale, low + scale * (2**bits - 1) / 2


@mutants.wrong("quantize_keys", named="inverse-scale")
def inverse_scale(keys, bits, group_size):
    grouped, low, scale = spread(keys, bits, group_size)
    codes, _, _ = finish(grouped, low, scale, keys.shape)
    return codes, 1 / scale, low


@mutants.wrong("quantize_keys", named="decoded-keys")
def decoded_instead_of_codes(keys, bits, group_size):
    grouped, low, scale = spread(keys, bits, group_size)
    codes, _, _ = finish(grouped, low, scale, keys.shape)
    return (codes.reshape(grouped.shape) * scale[:, None] + low[:, None]).reshape(keys.shape), scale, low


@mutants.wrong("quantize_keys", named="changes-its-input")
def subtracts_in_place(keys, bits, group_size):
    grouped, low, scale = spread(keys, bits, group_size)
    grouped -= low[:, None]
    return np.round(grouped / scale[:, None]).reshape(keys.shape).astype(np.uint8), scale, low


# ---------------------------------------------------------------- append_token


@mutants.right("append_token")
def as_in_the_text(codes, scale, low, recent, key, bits, group_size):
    recent = np.concatenate([recent, key[None]])
    if len(recent) < group_size:
        return codes, scale, low, recent
    fresh = group_by_group(recent, bits, group_size)
    return *(np.concatenate([o, n]) for o, n in zip((codes, scale, low), fresh, strict=True)), recent[:0]


@mutants.right("append_token")
def with_room_made_first(codes, scale, low, recent, key, bits, group_size):
    waiting, channels = len(recent) + 1, len(key)
    if waiting != group_size:
        out = np.empty((waiting, channels), np.float32)
        out[:-1], out[-1] = recent, key
        return codes, scale, low, out
    group = np.vstack([recent, key])
    smallest, largest = group.min(0), group.max(0)
    step = np.where(largest > smallest, (largest - smallest) / (2**bits - 1), 1)
    new = np.rint((group - smallest) / step).astype(np.uint8)
    empty = np.zeros((0, channels))
    return np.vstack([codes, new]), np.vstack([scale, step]), np.vstack([low, smallest]), empty


@mutants.wrong("append_token", named="codes-each-token")
def a_group_of_one(codes, scale, low, recent, key, bits, group_size):
    fresh = group_by_group(key[None], bits, 1)
    return *(np.concatenate([o, n]) for o, n in zip((codes, scale, low), fresh, strict=True)), recent


@mutants.wrong("append_token", named="waits-one-too-long")
def tests_before_adding(codes, scale, low, recent, key, bits, group_size):
    if len(recent) < group_size:
        return codes, scale, low, np.concatenate([recent, key[None]])
    return as_in_the_text(codes, scale, low, recent[:0], key, bits, group_size)


@mutants.wrong("append_token", named="codes-without-the-new-token")
def codes_the_old_ones_only(codes, scale, low, recent, key, bits, group_size):
    if len(recent) + 1 < group_size:
        return codes, scale, low, np.concatenate([recent, key[None]])
    fresh = group_by_group(recent, bits, len(recent))
    return *(np.concatenate([o, n]) for o, n in zip((codes, scale, low), fresh, strict=True)), key[None]


@mutants.wrong("append_token", named="new-token-first")
def in_front(codes, scale, low, recent, key, bits, group_size):
    recent = np.concatenate([key[None], recent])
    return as_in_the_text(codes, scale, low, recent[:-1], recent[-1], bits, group_size)


@mutants.wrong("append_token", named="new-group-first")
def group_in_front(codes, scale, low, recent, key, bits, group_size):
    recent = np.concatenate([recent, key[None]])
    if len(recent) < group_size:
        return codes, scale, low, recent
    fresh = group_by_group(recent, bits, group_size)
    return *(np.concatenate([n, o]) for o, n in zip((codes, scale, low), fresh, strict=True)), recent[:0]


@mutants.wrong("append_token", named="recent-not-emptied")
def keeps_recent(codes, scale, low, recent, key, bits, group_size):
    both = np.concatenate([recent, key[None]])
    out = as_in_the_text(codes, scale, low, recent, key, bits, group_size)
    return out[0], out[1], out[2], both


@mutants.wrong("append_token", named="old-grid-for-new-tokens")
def grid_of_the_last_group(codes, scale, low, recent, key, bits, group_size):
    recent = np.concatenate([recent, key[None]])
    if len(recent) < group_size:
        return codes, scale, low, recent
    if len(scale) == 0:
        return as_in_the_text(codes, scale, low, recent[:-1], key, bits, group_size)
    new = np.clip(np.round((recent - low[-1]) / scale[-1]), 0, 2**bits - 1).astype(np.uint8)
    return (
        np.concatenate([codes, new]),
        np.concatenate([scale, scale[-1:]]),
        np.concatenate([low, low[-1:]]),
        recent[:0],
    )


@mutants.wrong("append_token", named="touches-old-codes")
def codes_everything_again(codes, scale, low, recent, key, bits, group_size):
    recent = np.concatenate([recent, key[None]])
    if len(recent) < group_size:
        return codes, scale, low, recent
    which = np.arange(len(codes)) // group_size
    decoded = codes * scale[which] + low[which]
    return *group_by_group(np.concatenate([decoded, recent]).astype(np.float32), bits, group_size), recent[:0]


@mutants.wrong("append_token", named="touches-old-codes")
def one_scale_for_the_channel(codes, scale, low, recent, key, bits, group_size):
    codes, scale, low, recent = as_in_the_text(codes, scale, low, recent, key, bits, group_size)
    if len(scale):
        scale = np.maximum(scale, scale[-1])
    return codes, scale, low, recent


@mutants.wrong("append_token", named="zero-division")
def no_guard_for_the_group(codes, scale, low, recent, key, bits, group_size):
    recent = np.concatenate([recent, key[None]])
    if len(recent) < group_size:
        return codes, scale, low, recent
    start = recent.min(0)
    step = (recent.max(0) - start) / (2**bits - 1)
    with np.errstate(all="ignore"):
        new = np.nan_to_num(np.round((recent - start) / step)).astype(np.uint8)
    return np.vstack([codes, new]), np.vstack([scale, step]), np.vstack([low, start]), recent[:0]


@mutants.wrong("append_token", named="loses-the-new-token")
def loses_the_new_token(codes, scale, low, recent, key, bits, group_size):
    if len(recent) + 1 < group_size:
        return codes, scale, low, np.concatenate([recent, key[None]])
    return codes, scale, low, recent


@mutants.wrong("append_token", named="flat-recent")
def flat_empty_recent(codes, scale, low, recent, key, bits, group_size):
    out = as_in_the_text(codes, scale, low, recent, key, bits, group_size)
    return out[0], out[1], out[2], out[3] if len(out[3]) else np.array([])


@mutants.wrong("append_token", named="grid-per-token")
def grid_per_token_in_the_group(codes, scale, low, recent, key, bits, group_size):
    recent = np.concatenate([recent, key[None]])
    if len(recent) < group_size:
        return codes, scale, low, recent
    new, step, start = (np.broadcast_to(part, recent.shape) for part in keeps_dimensions(recent, bits, group_size))
    return np.vstack([codes, new]), np.vstack([scale, step]), np.vstack([low, start]), recent[:0]


# ---------------------------------------------------------------- merge_layers


def unit_rows(v):
    return v / np.sqrt((v**2).sum(1, keepdims=True))


def angles(lower, upper):
    return np.arccos(np.clip((unit_rows(lower) * unit_rows(upper)).sum(1), -1, 1))


def arc(lower, upper, t):
    a, b, angle = unit_rows(lower), unit_rows(upper), angles(lower, upper)[:, None]
    sine = np.maximum(np.sin(angle), 1e-9)
    first, second = np.sin((1 - t) * angle) / sine, np.sin(t * angle) / sine
    straight = angle < 1e-3
    return np.where(straight, 1 - t, first) * a + np.where(straight, t, second) * b


def norms(lower, upper):
    return np.stack([np.linalg.norm(lower, axis=1), np.linalg.norm(upper, axis=1)])


def farthest(lower, upper, keep):
    return np.sort(np.argsort(angles(lower, upper))[len(lower) - keep :])


@mutants.right("merge_layers")
def with_loops(lower, upper, t, keep):
    direction, lengths, all_angles = np.zeros(lower.shape), np.zeros((2, len(lower))), []
    for i in range(len(lower)):
        p, q = np.linalg.norm(lower[i]), np.linalg.norm(upper[i])
        a, b = lower[i] / p, upper[i] / q
        cosine = min(1.0, max(-1.0, float(a @ b)))
        angle = np.arccos(cosine)
        if np.sin(angle) < 1e-6:
            direction[i] = a
        else:
            direction[i] = (np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle)
        lengths[:, i] = p, q
        all_angles.append(cosine)
    kept = sorted(sorted(range(len(lower)), key=all_angles.__getitem__)[:keep])
    return direction, lengths, np.array(kept, int)


@mutants.right("merge_layers")
def turned_in_the_plane(lower, upper, t, keep):
    a, b = unit_rows(lower.astype(np.float64)), unit_rows(upper.astype(np.float64))
    cosine = (a * b).sum(1, keepdims=True)
    side = b - cosine * a
    sine = np.linalg.norm(side, axis=1, keepdims=True)
    angle = np.arctan2(sine, cosine)
    turned = np.cos(t * angle) * a + np.sin(t * angle) * side / np.maximum(sine, 1e-12)
    mask = np.zeros(len(a), bool)
    mask[np.argpartition(-angle[:, 0], keep - 1)[:keep] if keep else []] = True
    return turned, norms(lower, upper), np.flatnonzero(mask).astype(np.int32)


@mutants.wrong("merge_layers", named="averages-the-vectors")
def weighted_mean(lower, upper, t, keep):
    return (1 - t) * lower + t * upper, norms(lower, upper), farthest(lower, upper, keep)


@mutants.wrong("merge_layers", named="averages-then-makes-unit")
def weighted_mean_made_unit(lower, upper, t, keep):
    return unit_rows((1 - t) * lower + t * upper), norms(lower, upper), farthest(lower, upper, keep)


@mutants.wrong("merge_layers", named="inside-the-sphere")
def linear_interpolation(lower, upper, t, keep):
    direction = (1 - t) * unit_rows(lower) + t * unit_rows(upper)
    return direction, norms(lower, upper), farthest(lower, upper, keep)


@mutants.wrong("merge_layers", named="chord-instead-of-arc")
def normalised_interpolation(lower, upper, t, keep):
    direction = unit_rows((1 - t) * unit_rows(lower) + t * unit_rows(upper))
    return direction, norms(lower, upper), farthest(lower, upper, keep)


@mutants.wrong("merge_layers", named="arc-of-raw-vectors")
def forgets_to_normalise(lower, upper, t, keep):
    angle = angles(lower, upper)[:, None]
    sine = np.where(np.sin(angle) < 1e-3, 1, np.sin(angle))
    first = np.where(np.sin(angle) < 1e-3, 1 - t, np.sin((1 - t) * angle) / sine)
    second = np.where(np.sin(angle) < 1e-3, t, np.sin(t * angle) / sine)
    return first * lower + second * upper, norms(lower, upper), farthest(lower, upper, keep)


@mutants.wrong("merge_layers", named="forgets-the-sine")
def no_division(lower, upper, t, keep):
    angle = angles(lower.astype(np.float64), upper.astype(np.float64))[:, None]
    direction = np.sin((1 - t) * angle) * unit_rows(lower) + np.sin(t * angle) * unit_rows(upper)
    return direction, norms(lower, upper), farthest(lower, upper, keep)


@mutants.wrong("merge_layers", named="t-from-the-wrong-end")
def t_swapped(lower, upper, t, keep):
    return arc(lower, upper, 1 - t), norms(lower, upper), farthest(lower, upper, keep)


@mutants.wrong("merge_layers", named="one-length-for-both")
def mean_length(lower, upper, t, keep):
    both = norms(lower, upper)
    return arc(lower, upper, t), np.stack([both.mean(0)] * 2), farthest(lower, upper, keep)


@mutants.wrong("merge_layers", named="one-row-of-lengths")
def mean_length_once(lower, upper, t, keep):
    return arc(lower, upper, t), norms(lower, upper).mean(0), farthest(lower, upper, keep)


@mutants.wrong("merge_layers", named="lengths-in-columns")
def lengths_side_by_side(lower, upper, t, keep):
    return arc(lower, upper, t), norms(lower, upper).T, farthest(lower, upper, keep)


@mutants.wrong("merge_layers", named="squared-lengths")
def no_root(lower, upper, t, keep):
    return arc(lower, upper, t), norms(lower, upper) ** 2, farthest(lower, upper, keep)


@mutants.wrong("merge_layers", named="keeps-the-most-similar")
def smallest_angles(lower, upper, t, keep):
    kept = np.sort(np.argsort(angles(lower, upper))[:keep])
    return arc(lower, upper, t), norms(lower, upper), kept


@mutants.wrong("merge_layers", named="keeps-by-distance")
def largest_differences(lower, upper, t, keep):
    kept = np.sort(np.argsort(-np.linalg.norm(lower - upper, axis=1))[:keep])
    return arc(lower, upper, t), norms(lower, upper), kept


@mutants.wrong("merge_layers", named="kept-in-order-of-angle")
def not_sorted(lower, upper, t, keep):
    return arc(lower, upper, t), norms(lower, upper), np.argsort(-angles(lower, upper))[:keep]


@mutants.wrong("merge_layers", named="kept-as-mask")
def a_mask(lower, upper, t, keep):
    mask = np.zeros(len(lower), bool)
    mask[farthest(lower, upper, keep)] = True
    return arc(lower, upper, t), norms(lower, upper), mask


@mutants.wrong("merge_layers", named="parallel-rows")
def divides_by_zero(lower, upper, t, keep):
    a, b = unit_rows(lower.astype(np.float64)), unit_rows(upper.astype(np.float64))
    angle = np.arccos(np.clip((a * b).sum(1), -1, 1))[:, None]
    angle[angle < 1e-6] = 0
    with np.errstate(all="ignore"):
        direction = (np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle)
    return direction, norms(lower, upper), np.sort(np.argsort(-angle[:, 0])[:keep])


@mutants.wrong("merge_layers", named="cosine-taken-for-the-angle")
def cosine_taken_for_the_angle(lower, upper, t, keep):
    cosine = (unit_rows(lower) * unit_rows(upper)).sum(1, keepdims=True)
    direction = (np.sin((1 - t) * cosine) * unit_rows(lower) + np.sin(t * cosine) * unit_rows(upper)) / np.sin(cosine)
    return direction, norms(lower, upper), farthest(lower, upper, keep)


@mutants.wrong("merge_layers", named="channels-instead-of-tokens")
def channels_instead_of_tokens(lower, upper, t, keep):
    return arc(lower.T, upper.T, t).T, norms(lower, upper), farthest(lower, upper, keep)


# ---------------------------------------------------------------- filter_keys


def threshold(scores, alpha):
    return scores.mean() + alpha * (scores.max() - scores.mean())


@mutants.right("filter_keys")
def rounds_as_written(query, keys, alpha):
    q = query.astype(np.int32)
    rough = 4 * ((keys >> 2) @ q)
    first = rough >= threshold(rough, alpha)
    exact = rough + (keys & 3) @ q
    return first, first & (exact >= threshold(exact[first], alpha))


@mutants.right("filter_keys")
def by_numbers(query, keys, alpha):
    wide = keys.astype(np.float32)
    scores = np.floor(wide / 4) @ query.astype(np.float32)
    bar = alpha * scores.max() + (1 - alpha) * scores.mean()
    alive = np.flatnonzero(scores >= bar)
    exact = wide[alive] @ query.astype(np.float32)
    bar = alpha * exact.max() + (1 - alpha) * exact.mean()
    first, second = np.zeros(len(keys), bool), np.zeros(len(keys), bool)
    first[alive] = True
    second[alive[exact >= bar]] = True
    return first, second


@mutants.right("filter_keys")
def in_plain_python(query, keys, alpha):
    alive, out = range(len(keys)), []
    for shift in (2, 0):
        scores = {i: sum(int(a) * (int(b) >> shift) for a, b in zip(query, keys[i], strict=True)) for i in alive}
        mean = sum(scores.values()) / len(scores)
        alive = [i for i in alive if scores[i] >= mean + alpha * (max(scores.values()) - mean)]
        out.append(np.isin(np.arange(len(keys)), alive))
    return tuple(out)


def two_rounds(query, keys, rough, exact, alpha, again=True, bar=threshold):
    first = rough >= bar(rough, alpha)
    second = exact >= bar(exact[first] if again else exact, alpha)
    return first, first & second


def scores(query, keys):
    q = query.astype(np.int32)
    return (keys >> 2) @ q, keys @ q


@mutants.wrong("filter_keys", named="int8-accumulator")
def in_eight_bits(query, keys, alpha):
    return two_rounds(query, keys, (keys >> 2) @ query, keys @ query, alpha)


@mutants.wrong("filter_keys", named="takes-the-low-bits")
def masks_the_low_bits(query, keys, alpha):
    return two_rounds(query, keys, (keys & 3) @ query.astype(int), scores(query, keys)[1], alpha)


@mutants.wrong("filter_keys", named="cuts-towards-zero")
def astype_after_division(query, keys, alpha):
    return two_rounds(query, keys, (keys / 4).astype(int) @ query.astype(int), scores(query, keys)[1], alpha)


@mutants.wrong("filter_keys", named="rounds-to-two-bits")
def rounds_codes(query, keys, alpha):
    return two_rounds(query, keys, np.round(keys / 4).astype(int) @ query.astype(int), scores(query, keys)[1], alpha)


@mutants.wrong("filter_keys", named="shifts-by-one")
def three_bits(query, keys, alpha):
    return two_rounds(query, keys, (keys >> 1) @ query.astype(int), scores(query, keys)[1], alpha)


@mutants.wrong("filter_keys", named="cuts-the-query-too")
def both_cut(query, keys, alpha):
    return two_rounds(query, keys, (keys >> 2) @ (query >> 2).astype(int), scores(query, keys)[1], alpha)


@mutants.wrong("filter_keys", named="threshold-on-probabilities")
def softmax_first(query, keys, alpha):
    rough, exact = (s / np.sqrt(len(query)) for s in scores(query, keys))
    e = np.exp(rough - rough.max())
    p = e / e.sum()
    first = p >= threshold(p, alpha)
    e = np.where(first, np.exp(exact - exact[first].max()), 0)
    p = e / e.sum()
    return first, first & (p >= threshold(p[first], alpha))


@mutants.wrong("filter_keys", named="brings-keys-back")
def second_without_first(query, keys, alpha):
    rough, exact = scores(query, keys)
    first = rough >= threshold(rough, alpha)
    return first, exact >= threshold(exact[first], alpha)


@mutants.wrong("filter_keys", named="brings-keys-back-by-all")
def two_separate_filters(query, keys, alpha):
    rough, exact = scores(query, keys)
    return rough >= threshold(rough, alpha), exact >= threshold(exact, alpha)


@mutants.wrong("filter_keys", named="mean-of-all-keys")
def threshold_of_all(query, keys, alpha):
    return two_rounds(query, keys, *scores(query, keys), alpha, again=False)


@mutants.wrong("filter_keys", named="forgets-the-high-bits")
def low_bits_alone(query, keys, alpha):
    return two_rounds(query, keys, scores(query, keys)[0], (keys & 3) @ query.astype(int), alpha)


@mutants.wrong("filter_keys", named="high-bits-weigh-one")
def adds_the_parts(query, keys, alpha):
    rough = scores(query, keys)[0]
    return two_rounds(query, keys, rough, rough + (keys & 3) @ query.astype(int), alpha)


@mutants.wrong("filter_keys", named="second-round-learns-nothing")
def same_scores_twice(query, keys, alpha):
    rough = scores(query, keys)[0]
    return two_rounds(query, keys, rough, rough, alpha)


@mutants.wrong("filter_keys", named="share-of-the-maximum")
def part_of_the_maximum(query, keys, alpha):
    return two_rounds(query, keys, *scores(query, keys), alpha, bar=lambda s, a: a * s.max())


@mutants.wrong("filter_keys", named="starts-at-the-minimum")
def part_of_the_range(query, keys, alpha):
    return two_rounds(query, keys, *scores(query, keys), alpha, bar=lambda s, a: s.min() + a * np.ptp(s))


@mutants.wrong("filter_keys", named="alpha-from-the-wrong-end")
def alpha_times_mean(query, keys, alpha):
    return two_rounds(query, keys, *scores(query, keys), alpha, bar=lambda s, a: a * s.mean() + (1 - a) * s.max())


@mutants.wrong("filter_keys", named="ignores-alpha")
def plain_mean(query, keys, alpha):
    return two_rounds(query, keys, *scores(query, keys), 0.0)


@mutants.wrong("filter_keys", named="median-instead-of-mean")
def with_median(query, keys, alpha):
    def bar(s, a):
        return np.median(s) + a * (s.max() - np.median(s))

    return two_rounds(query, keys, *scores(query, keys), alpha, bar=bar)


@mutants.wrong("filter_keys", named="drops-equals")
def above_only(query, keys, alpha):
    rough, exact = scores(query, keys)
    first = rough > threshold(rough, alpha)
    return first, first & (exact > threshold(exact[first], alpha))


@mutants.wrong("filter_keys", named="second-round-only")
def one_number_too_few(query, keys, alpha):
    return rounds_as_written(query, keys, alpha)[1]


@mutants.wrong("filter_keys", named="numbers-instead-of-masks")
def numbers_instead_of_masks(query, keys, alpha):
    first, second = rounds_as_written(query, keys, alpha)
    return np.flatnonzero(first), np.flatnonzero(second)


@mutants.wrong("filter_keys", named="by-magnitude")
def by_magnitude(query, keys, alpha):
    rough, exact = (np.abs(s) for s in scores(query, keys))
    return two_rounds(query, keys, rough, exact, alpha)


# ---------------------------------------------------------------- cascade_prune


@mutants.right("cascade_prune")
def with_add_at(importance, alive, probabilities, keep):
    total = importance.astype(np.float64)
    np.add.at(total, alive, probabilities.reshape(-1, len(alive)).sum(0))
    ranked = alive[np.argsort(total[alive])[::-1]]
    return total, np.sort(ranked[:keep])


@mutants.right("cascade_prune")
def with_a_mask(importance, alive, probabilities, keep):
    total = importance.copy()
    for head in probabilities.astype(np.float64):
        total[alive] = total[alive] + head.sum(0)
    hidden = np.full(len(total), -np.inf)
    hidden[alive] = total[alive]
    bar = np.sort(hidden)[-keep]
    return total, np.flatnonzero(hidden >= bar).astype(np.int32)


def add(importance, alive, probabilities):
    total = importance.copy()
    total[alive] += probabilities.sum((0, 1))
    return total


def best(alive, by, keep):
    return np.sort(alive[np.argsort(-by)[:keep]])


@mutants.wrong("cascade_prune", named="this-layer-only")
def ranks_by_this_layer(importance, alive, probabilities, keep):
    return add(importance, alive, probabilities), best(alive, probabilities.sum((0, 1)), keep)


@mutants.wrong("cascade_prune", named="this-layer-replaces")
def assigns(importance, alive, probabilities, keep):
    total = importance.copy()
    total[alive] = probabilities.sum((0, 1))
    return total, best(alive, total[alive], keep)


@mutants.wrong("cascade_prune", named="earlier-layers-only")
def ranks_too_early(importance, alive, probabilities, keep):
    return add(importance, alive, probabilities), best(alive, importance[alive], keep)


@mutants.wrong("cascade_prune", named="brings-tokens-back")
def top_of_all(importance, alive, probabilities, keep):
    total = add(importance, alive, probabilities)
    return total, np.sort(np.argsort(-total)[:keep])


@mutants.wrong("cascade_prune", named="wrong-places")
def adds_at_the_front(importance, alive, probabilities, keep):
    total = importance.copy()
    total[: len(alive)] += probabilities.sum((0, 1))
    return total, best(alive, total[alive], keep)


@mutants.wrong("cascade_prune", named="places-instead-of-tokens")
def forgets_to_look_up(importance, alive, probabilities, keep):
    total = add(importance, alive, probabilities)
    return total, np.sort(np.argsort(-total[alive])[:keep])


@mutants.wrong("cascade_prune", named="keeps-the-worst")
def argsort_ascending(importance, alive, probabilities, keep):
    total = add(importance, alive, probabilities)
    return total, best(alive, -total[alive], keep)


@mutants.wrong("cascade_prune", named="keep-is-not-drop")
def drops_so_many(importance, alive, probabilities, keep):
    total = add(importance, alive, probabilities)
    return total, np.sort(alive[np.argsort(total[alive])[keep:]])


@mutants.wrong("cascade_prune", named="alive-in-order-of-importance")
def ranked(importance, alive, probabilities, keep):
    total = add(importance, alive, probabilities)
    return total, alive[np.argsort(-total[alive])[:keep]]


@mutants.wrong("cascade_prune", named="mean-instead-of-sum")
def takes_the_mean(importance, alive, probabilities, keep):
    total = importance.copy()
    total[alive] += probabilities.mean((0, 1))
    return total, best(alive, total[alive], keep)


@mutants.wrong("cascade_prune", named="maximum-instead-of-sum")
def takes_the_maximum(importance, alive, probabilities, keep):
    total = importance.copy()
    total[alive] += probabilities.max((0, 1))
    return total, best(alive, total[alive], keep)


@mutants.wrong("cascade_prune", named="one-head-only")
def first_head(importance, alive, probabilities, keep):
    total = importance.copy()
    total[alive] += probabilities[0].sum(0)
    return total, best(alive, total[alive], keep)


@mutants.wrong("cascade_prune", named="last-query-only")
def newest_query(importance, alive, probabilities, keep):
    total = importance.copy()
    total[alive] += probabilities[:, -1].sum(0)
    return total, best(alive, total[alive], keep)


@mutants.wrong("cascade_prune", named="forgets-the-pruned")
def starts_from_zero_elsewhere(importance, alive, probabilities, keep):
    total = np.zeros(len(importance))
    total[alive] = importance[alive] + probabilities.sum((0, 1))
    return total, best(alive, total[alive], keep)


@mutants.wrong("cascade_prune", named="importance-of-the-living-only")
def importance_of_the_living_only(importance, alive, probabilities, keep):
    total = importance[alive] + probabilities.sum((0, 1))
    return total, best(alive, total, keep)


@mutants.wrong("cascade_prune", named="changes-its-input")
def adds_in_place(importance, alive, probabilities, keep):
    importance[alive] += probabilities.sum((0, 1))
    return importance, best(alive, importance[alive], keep)
