"""Right and wrong answers of lab 10."""

import itertools

import numpy as np
from edgeinfer.grading.mutants import Mutants

mutants = Mutants("lab10_offloading")


def add(exercise, function, name, named="", right=False):
    """Register a short answer; a lambda gets its name here."""
    function.__name__ = name
    (mutants.right(exercise) if right else mutants.wrong(exercise, named))(function)


# ---------------------------------------------------------------- streamed_finish


def stream(loads, computes, buffers, reader=True, order=True, arrives=True):
    loaded, done = [], []
    for i in range(len(loads)):
        begin = max(loaded[-1] if reader and loaded else 0.0, done[i - buffers] if i >= buffers else 0.0)
        loaded.append(begin + loads[i])
        begin = max(loaded[-1] if arrives else 0.0, done[-1] if order and done else 0.0)
        done.append(begin + computes[i])
    return np.array(done, float)


@mutants.right("streamed_finish")
def two_clocks(loads, computes, buffers):
    reader = processor = 0.0
    done = []
    for i, (load, compute) in enumerate(zip(loads, computes, strict=True)):
        free = done[i - buffers] if i >= buffers else 0.0
        reader = max(reader, free) + load
        processor = max(processor, reader) + compute
        done.append(processor)
    return np.array(done, dtype=np.float64)


@mutants.right("streamed_finish")
def with_a_queue(loads, computes, buffers):
    from collections import deque

    free, reader, out, last = deque([0.0] * buffers), 0.0, np.empty(len(loads)), 0.0
    for i in range(len(loads)):
        reader = max(reader, free.popleft()) + float(loads[i])
        last = out[i] = max(reader, last) + float(computes[i])
        free.append(last)
    return out


for name, function, named in (
    ("adds_all", lambda x, c, b: np.cumsum(x + c), "nothing-overlaps"),
    ("adds_longer", lambda x, c, b: np.cumsum(np.maximum(x, c)), "longer-of-both"),
    ("reader_never_waits", lambda x, c, b: stream(x, c, 10**6), "endless-memory"),
    ("one_buffer_fewer", lambda x, c, b: stream(x, c, max(1, b - 1)), "one-buffer-too-few"),
    ("one_buffer_more", lambda x, c, b: stream(x, c, b + 1), "one-buffer-too-many"),
    ("two_buffers", lambda x, c, b: stream(x, c, 2), "always-two-buffers"),
    ("many_readers", lambda x, c, b: stream(x, c, b, reader=False), "loads-at-once"),
    ("many_processors", lambda x, c, b: stream(x, c, b, order=False), "computes-at-once"),
    ("computes_nothing_loaded", lambda x, c, b: stream(x, c, b, arrives=False), "computes-before-it-is-there"),
    ("first_is_free", lambda x, c, b: stream(np.r_[0.0, x[1:]][: len(x)], c, b), "first-layer-for-nothing"),
    ("start_times", lambda x, c, b: stream(x, c, b) - c, "begins-not-ends"),
    ("total_only", lambda x, c, b: stream(x, c, b)[-1:].sum(), ""),
    ("durations", lambda x, c, b: np.diff(stream(x, c, b), prepend=0.0), ""),
    ("last_layer_missing", lambda x, c, b: stream(x, c, b)[:-1], ""),
    ("swapped", lambda x, c, b: stream(c, x, b), ""),
):
    add("streamed_finish", function, name, named)

# ---------------------------------------------------------------- tier_bytes


def held(layers, layer, kv_bytes, batch, subs, w, kv, passing=None, buffers=2, arriving=None, rows=None):
    rows = batch * subs if rows is None else rows
    lower = kv[1] > 0
    fast = layers * (w[0] * layer + kv[0] * rows * kv_bytes)
    fast += buffers * (1 - w[0] if passing is None else passing) * layer
    fast += buffers * (batch if arriving is None else arriving) * kv_bytes * lower
    return fast, layers * (w[1] * layer + kv[1] * rows * kv_bytes), layers * w[2] * layer


@mutants.right("tier_bytes")
def by_formula(layers, layer_bytes, kv_bytes, batch, sub_batches, weights, kv):
    return held(layers, layer_bytes, kv_bytes, batch, sub_batches, weights, kv)


@mutants.right("tier_bytes")
def by_arrays(layers, layer_bytes, kv_bytes, batch, sub_batches, weights, kv):
    tiers = layers * (np.asarray(weights) * layer_bytes + np.append(kv, 0) * kv_bytes * batch * sub_batches)
    tiers[0] += 2 * (weights[1] + weights[2]) * layer_bytes
    if kv[1]:
        tiers[0] += 2 * batch * kv_bytes
    return tuple(float(t) for t in tiers)


for name, function, named in (
    ("no_buffers", lambda *a: held(*a, buffers=0), "no-room-to-arrive"),
    ("no_kv_buffer", lambda *a: held(*a, arriving=0), "no-room-for-caches"),
    ("no_weight_buffer", lambda *a: held(*a, passing=0), "no-room-for-weights"),
    ("single_buffer", lambda *a: held(*a, buffers=1), "one-buffer"),
    ("whole_layers_arrive", lambda *a: held(*a, passing=1), "buffer-for-a-whole-layer"),
    ("disk_arrives", lambda *a: held(*a, passing=a[5][2]), "buffer-for-the-disk-only"),
    ("whole_block_arrives", lambda *a: held(*a, arriving=a[3] * a[4]), "caches-of-the-whole-block-arrive"),
    ("only_one_sub_batch", lambda *a: held(*a, rows=a[3]), "one-sub-batch"),
    ("three_buffers", lambda *a: held(*a, buffers=3), ""),
    ("one_layer", lambda *a: held(1, *a[1:]), "one-layer"),
    ("tiers_swapped", lambda *a: (held(*a)[0], held(*a)[2], held(*a)[1]), "slow-and-disk-swapped"),
    ("one_row", lambda *a: held(*a, rows=1), ""),
    ("resident_share_arrives", lambda *a: held(*a, passing=a[5][0]), ""),
):
    add("tier_bytes", function, name, named)


@mutants.wrong("tier_bytes", named="room-for-nothing")
def always_reserves(layers, layer_bytes, kv_bytes, batch, sub_batches, weights, kv):
    fast, slow, disk = held(layers, layer_bytes, kv_bytes, batch, sub_batches, weights, kv)
    return fast + (0 if kv[1] > 0 else 2 * batch * kv_bytes), slow, disk


@mutants.wrong("tier_bytes", named="buffers-in-every-layer")
def buffers_everywhere(layers, layer_bytes, kv_bytes, batch, sub_batches, weights, kv):
    fast, slow, disk = held(layers, layer_bytes, kv_bytes, batch, sub_batches, weights, kv)
    bare = held(layers, layer_bytes, kv_bytes, batch, sub_batches, weights, kv, buffers=0)[0]
    return bare + layers * (fast - bare), slow, disk


# ---------------------------------------------------------------- step_seconds


def step(layers, layer, kv_bytes, batch, subs, w, kv, rates, join=max, times=1, rows=None, compute=None, tokens=None):
    copy_rate, disk_rate, start, row = rates
    rows = batch * subs if rows is None else rows
    work = subs * (start + batch * row) if compute is None else compute
    copied = (times * w[1] * layer + kv[1] * rows * kv_bytes) / copy_rate
    seconds = layers * join(work, copied, times * w[2] * layer / disk_rate)
    return seconds, (batch * subs if tokens is None else tokens) / max(seconds, 1e-30)


@mutants.right("step_seconds")
def longest_of_three(layers, layer_bytes, kv_bytes, batch, sub_batches, weights, kv, rates):
    return step(layers, layer_bytes, kv_bytes, batch, sub_batches, weights, kv, rates)


@mutants.right("step_seconds")
def an_array_of_times(layers, layer_bytes, kv_bytes, batch, sub_batches, weights, kv, rates):
    moved = np.array([weights[1] * layer_bytes + kv[1] * batch * sub_batches * kv_bytes, weights[2] * layer_bytes])
    times = np.append(moved / rates[:2], sub_batches * rates[2] + batch * sub_batches * rates[3])
    seconds = layers * times.max()
    return np.float64(seconds), np.float64(batch * sub_batches / seconds)


for name, function, named in (
    ("adds", lambda *a: step(*a, join=lambda *t: sum(t)), "adds-what-overlaps"),
    ("shortest", lambda *a: step(*a, join=min), ""),
    ("same_road", lambda *a: step(*a, join=lambda c, s, d: max(c, s + d)), "one-road"),
    ("again_and_again", lambda *a: step(*a, times=a[4]), "weights-for-each-sub-batch"),
    ("caches_of_one", lambda *a: step(*a, rows=a[3]), "caches-of-one-sub-batch"),
    ("no_caches", lambda *a: step(*a, rows=0), "caches-do-not-move"),
    ("fast_caches", lambda *a: step(*a[:6], a[6][::-1], a[7]), "near-caches-move"),
    ("start_once", lambda *a: step(*a, compute=a[7][2] + a[3] * a[4] * a[7][3]), "computes-once"),
    ("one_computed", lambda *a: step(*a, compute=a[7][2] + a[3] * a[7][3]), "computes-one-sub-batch"),
    ("a_layer", lambda *a: step(1, *a[1:]), "one-layer"),
    ("a_token", lambda *a: step(*a, tokens=1), "one-token"),
    ("a_sub_batch", lambda *a: step(*a, tokens=a[3]), "tokens-of-a-sub-batch"),
    ("seconds_per_token", lambda *a: (step(*a)[0], 1 / step(*a)[1]), ""),
    ("rates_swapped", lambda *a: step(*a[:7], a[7][[1, 0, 2, 3]]), ""),
):
    add("step_seconds", function, name, named)

# ---------------------------------------------------------------- balance_roads


def ratio(passing, copy_rate, disk_rate, room):
    return passing * copy_rate / (copy_rate + disk_rate)


@mutants.right("balance_roads")
def in_the_ratio(passing, copy_rate, disk_rate, slow_room):
    part = min(ratio(passing, copy_rate, disk_rate, slow_room), slow_room)
    return part, passing - part


@mutants.right("balance_roads")
def by_the_common_end(passing, copy_rate, disk_rate, slow_room):
    seconds = max(passing / (copy_rate + disk_rate), (passing - slow_room) / disk_rate)
    from_disk = seconds * disk_rate
    return np.float64(passing - from_disk), np.float64(from_disk)


for name, function, named in (
    ("fills_memory", lambda p, c, d, r: (min(p, r), p - min(p, r)), "slow-memory-first"),
    ("halves_it", lambda p, c, d, r: (min(p / 2, r), p - min(p / 2, r)), "halves"),
    ("wrong_way_round", lambda p, c, d, r: (min(ratio(p, d, c, r), r), p - min(ratio(p, d, c, r), r)), "inverse-rates"),
    ("endless_room", lambda p, c, d, r: (ratio(p, c, d, r), p - ratio(p, c, d, r)), "no-limit"),
    ("drops_the_rest", lambda p, c, d, r: (min(ratio(p, c, d, r), r), ratio(p, d, c, r)), "bytes-lost"),
    (
        "divides_room",
        lambda p, c, d, r: (ratio(min(p, r), c, d, r), p - ratio(min(p, r), c, d, r)),
        "share-of-the-room",
    ),
    ("all_from_disk", lambda p, c, d, r: (0.0, p), ""),
    ("disk_named_first", lambda p, c, d, r: by_the_common_end(p, c, d, r)[::-1], ""),
    ("seconds", lambda p, c, d, r: tuple(np.divide(by_the_common_end(p, c, d, r), (c, d))), ""),
    ("only_quick_road", lambda p, c, d, r: (min(p, r), p - min(p, r)) if c >= d else (0.0, p), "only-the-faster"),
    (
        "all_or_nothing",
        lambda p, c, d, r: (ratio(p, c, d, r), ratio(p, d, c, r)) if ratio(p, c, d, r) <= r else (0, p),
        "",
    ),
):
    add("balance_roads", function, name, named)

# ---------------------------------------------------------------- plan_shards


def read(sizes, choice):
    return np.cumsum([sizes[i, k] for i, k in enumerate(choice)])


def in_time(sizes, limits, choice):
    return bool(np.all(read(sizes, choice) <= limits))


def cheapest(sizes, losses, fine):
    plans = (p for p in itertools.product(range(sizes.shape[1]), repeat=len(sizes)) if fine(p))
    return np.array(min(plans, key=lambda p: sum(losses[i, k] for i, k in enumerate(p))), int)


@mutants.right("plan_shards")
def tries_all(sizes, losses, limits):
    return cheapest(sizes, losses, lambda p: in_time(sizes, limits, p))


@mutants.right("plan_shards")
def keeps_the_best(sizes, losses, limits):
    best = {0: (0.0, ())}
    for i, limit in enumerate(limits):
        following = {}
        for used, (loss, plan) in best.items():
            for k in range(sizes.shape[1]):
                now = used + int(sizes[i, k])
                found = loss + float(losses[i, k]), (*plan, k)
                if now <= limit and (now not in following or found < following[now]):
                    following[now] = found
        best = following
    return np.array(min(best.values())[1], np.int32)


def per_byte(sizes, losses, k):
    return (losses[k] - losses[k + 1]) / (sizes[k + 1] - sizes[k])


def ends_in_time(sizes, limits, choice):
    return not len(choice) or read(sizes, choice)[-1] <= limits[-1]


def each_alone(sizes, losses, limits):
    return np.where(sizes <= limits[:, None], losses, np.inf).argmin(1)


def climbs(sizes, losses, limits, gain):
    choice = [0] * len(sizes)
    while True:
        moves = []
        for i, k in enumerate(choice):
            better = [*choice[:i], k + 1, *choice[i + 1 :]]
            if k + 1 < sizes.shape[1] and in_time(sizes, limits, better):
                moves.append((gain(sizes[i], losses[i], k), better))
        moves = [move for move in moves if move[0] > 0]
        if not moves:
            return np.array(choice, int)
        choice = max(moves)[1]


for name, function, named in (
    ("lowest", lambda s, x, m: np.zeros(len(s), int), "all-lowest"),
    ("greedy_by_loss", lambda s, x, m: climbs(s, x, m, lambda z, y, k: y[k] - y[k + 1]), ""),
    ("greedy_per_byte", lambda s, x, m: climbs(s, x, m, lambda z, y, k: per_byte(z, y, k)), "greedy"),
    ("end_only", lambda s, x, m: cheapest(s, x, lambda p: ends_in_time(s, m, p)), "only-the-last-limit"),
    ("best_of_all", lambda s, x, m: x.argmin(1), ""),
    ("strictly_less", lambda s, x, m: cheapest(s, x, lambda p: bool(np.all(read(s, p)[:-1] <= m[:-1] - 1))), ""),
    ("most_loss", lambda s, x, m: cheapest(s, -x, lambda p: in_time(s, m, p)), ""),
    ("most_bytes", lambda s, x, m: cheapest(s, -s.astype(float), lambda p: in_time(s, m, p)), ""),
    ("counts_from_one", lambda s, x, m: tries_all(s, x, m) + 1, ""),
    ("bytes_not_choices", lambda s, x, m: s[np.arange(len(s)), tries_all(s, x, m)], ""),
    ("limit_each", each_alone, ""),
    ("itself_not_counted", lambda s, x, m: cheapest(s, x, lambda p: bool(np.all(read(s, p)[:-1] <= m[1:]))), ""),
    ("first_half_only", lambda s, x, m: tries_all(s, x, m)[: len(s) // 2], ""),
):  # fmt: skip
    add("plan_shards", function, name, named)


@mutants.wrong("plan_shards")
def same_for_all(sizes, losses, limits):
    fit = [k for k in range(sizes.shape[1]) if in_time(sizes, limits, [k] * len(sizes))]
    return np.full(len(sizes), max(fit, default=0))
