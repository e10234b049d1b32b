"""Plausible wrong answers to lab 11, as students write them, and right ones in other styles."""

from collections import Counter, OrderedDict

import numpy as np
from edgeinfer.grading.mutants import Mutants

mutants = Mutants("lab11_experts_and_contexts")

# ---------------------------------------------------------------- lru_hits


@mutants.right("lru_hits")
def with_an_ordered_dict(uses, capacity):
    kept, found = OrderedDict(), 0
    for expert in map(int, uses):
        if expert in kept:
            found += 1
            kept.move_to_end(expert)
        elif capacity > 0:
            if len(kept) == capacity:
                kept.popitem(last=False)
            kept[expert] = True
    return found


@mutants.right("lru_hits")
def with_times_of_use(uses, capacity):
    last, found = {}, np.int64(0)
    for now, expert in enumerate(uses.tolist()):
        if expert in last:
            found += 1
        elif capacity == 0:
            continue
        elif len(last) >= capacity:
            del last[min(last, key=last.get)]
        last[expert] = now
    return found


@mutants.right("lru_hits")
def with_a_list(uses, capacity):
    kept, found = [], 0
    for expert in uses:
        if expert in kept:
            found += 1
            kept.remove(expert)
        kept.append(expert)
        while len(kept) > capacity:
            kept.pop(0)
    return float(found)


def cache_with(uses, capacity, move=True, drop=0, grow=0, limit=True):
    kept, found = [], 0
    for expert in uses:
        if expert in kept:
            found += 1
            if move:
                kept.remove(expert)
                kept.append(expert)
        else:
            if limit and len(kept) >= capacity + grow and kept:
                kept.pop(drop)
            if not limit or len(kept) < capacity + grow:
                kept.append(expert)
    return found


@mutants.wrong("lru_hits", named="first-in-first-out")
def hit_changes_nothing(uses, capacity):
    return cache_with(uses, capacity, move=False)


@mutants.wrong("lru_hits", named="drops-the-newest")
def pops_the_end(uses, capacity):
    return cache_with(uses, capacity, drop=-1)


@mutants.wrong("lru_hits", named="never-drops")
def set_of_all(uses, capacity):
    return len(uses) - len(set(uses.tolist()))


@mutants.wrong("lru_hits", named="one-too-many")
def drops_too_late(uses, capacity):
    return cache_with(uses, capacity, grow=1)


@mutants.wrong("lru_hits", named="one-too-few")
def drops_too_early(uses, capacity):
    return cache_with(uses, capacity, grow=-1)


@mutants.wrong("lru_hits", named="counts-misses")
def counts_fetches(uses, capacity):
    return len(uses) - cache_with(uses, capacity)


@mutants.wrong("lru_hits", named="share-instead-of-count")
def hit_rate(uses, capacity):
    return cache_with(uses, capacity) / max(1, len(uses))


@mutants.wrong("lru_hits", named="full-means-closed")
def only_the_first_ones(uses, capacity):
    kept, found = set(), 0
    for expert in uses.tolist():
        found += expert in kept
        if len(kept) < capacity:
            kept.add(expert)
    return found


@mutants.wrong("lru_hits", named="least-often")
def counts_uses(uses, capacity):
    kept, times, found = [], Counter(), 0
    for expert in uses.tolist():
        if expert in kept:
            found += 1
            kept.remove(expert)
        elif len(kept) == capacity:
            if not capacity:
                continue
            kept.remove(min(kept, key=times.__getitem__))
        kept.append(expert)
        times[expert] += 1
    return found


@mutants.wrong("lru_hits", named="nothing-is-something")
def keeps_one_always(uses, capacity):
    return cache_with(uses, capacity or 1)


@mutants.wrong("lru_hits")
def fails_at_capacity_zero(uses, capacity):
    kept, found = [], 0
    for expert in uses:
        if expert in kept:
            found += 1
            kept.remove(expert)
        elif len(kept) == capacity:
            kept.pop(0)
        kept.append(expert)
    return found


# ---------------------------------------------------------------- belady_hits


def knowing(uses, capacity, worst):
    sequence, kept, found = uses.tolist(), set(), 0
    for now, expert in enumerate(sequence):
        if expert in kept:
            found += 1
        elif capacity:
            if len(kept) == capacity:
                kept.remove(worst(sorted(kept), sequence, now))
            kept.add(expert)
    return found


def next_use(expert, sequence, now, never=np.inf):
    return next((t for t in range(now + 1, len(sequence)) if sequence[t] == expert), never)


@mutants.right("belady_hits")
def farthest_next_use(uses, capacity):
    return knowing(uses, capacity, lambda kept, s, now: max(kept, key=lambda e: next_use(e, s, now)))


@mutants.right("belady_hits")
def with_a_table_of_next_uses(uses, capacity):
    following, later = [], {}
    for now in range(len(uses) - 1, -1, -1):
        following.append(later.get(int(uses[now]), 10**9))
        later[int(uses[now])] = now
    following.reverse()
    kept, found = {}, 0
    for now, expert in enumerate(uses.tolist()):
        found += expert in kept
        if expert not in kept and len(kept) == capacity:
            if not kept:
                continue
            kept.pop(max(kept, key=kept.get))
        kept[expert] = following[now]
    return found


@mutants.right("belady_hits")
def other_choice_among_equals(uses, capacity):
    return np.int32(knowing(uses, capacity, lambda kept, s, now: max(kept[::-1], key=lambda e: next_use(e, s, now))))


@mutants.wrong("belady_hits", named="looks-back")
def least_recently_used(uses, capacity):
    return with_times_of_use(uses, capacity)


@mutants.wrong("belady_hits", named="drops-the-nearest")
def minimum_instead_of_maximum(uses, capacity):
    return knowing(uses, capacity, lambda kept, s, now: min(kept, key=lambda e: next_use(e, s, now)))


@mutants.wrong("belady_hits", named="never-again-is-kept")
def never_is_minus_one(uses, capacity):
    return knowing(uses, capacity, lambda kept, s, now: max(kept, key=lambda e: next_use(e, s, now, -1)))


@mutants.wrong("belady_hits")
def fewest_later(uses, capacity):
    return knowing(uses, capacity, lambda kept, s, now: min(kept, key=lambda e: s[now:].count(e)))


@mutants.wrong("belady_hits")
def index_from_the_start(uses, capacity):
    return knowing(uses, capacity, lambda kept, s, now: max(kept, key=s.index))


@mutants.wrong("belady_hits", named="counts-misses")
def fetches_of_the_best(uses, capacity):
    return len(uses) - farthest_next_use(uses, capacity)


@mutants.wrong("belady_hits", named="share-instead-of-count")
def share_of_the_best(uses, capacity):
    return farthest_next_use(uses, capacity) / max(1, len(uses))


@mutants.wrong("belady_hits", named="never-drops")
def keeps_everything(uses, capacity):
    return len(uses) - len(np.unique(uses))


@mutants.wrong("belady_hits", named="full-means-closed")
def first_ones_only(uses, capacity):
    return only_the_first_ones(uses, capacity)


@mutants.wrong("belady_hits", named="does-not-come-in")
def bypasses_the_cache(uses, capacity):
    sequence, kept, found = uses.tolist(), set(), 0
    for now, expert in enumerate(sequence):
        if expert in kept:
            found += 1
        elif capacity:
            kept.add(expert)
            if len(kept) > capacity:
                kept.remove(max(sorted(kept, key=lambda e: e != expert), key=lambda e: next_use(e, sequence, now)))
    return found


# ---------------------------------------------------------------- end_of_blocks


@mutants.right("end_of_blocks")
def step_by_step(compute, load, ahead):
    known = link = done = 0.0
    for c, t in zip(compute, load, strict=True):
        link = max(known, link) + t
        start = max(link, done)
        done = start + c
        known = start if ahead else done
    return done


@mutants.right("end_of_blocks")
def by_formula(compute, load, ahead):
    if len(compute) == 0:
        return 0
    if not ahead:
        return sum(compute) + sum(load)
    return load[0] + np.maximum(compute[:-1], load[1:]).sum() + compute[-1]


@mutants.wrong("end_of_blocks", named="swapped")
def not_ahead(compute, load, ahead):
    return step_by_step(compute, load, not ahead)


@mutants.wrong("end_of_blocks", named="nothing-overlaps")
def ignores_ahead(compute, load, ahead):
    return float(np.sum(compute) + np.sum(load))


@mutants.wrong("end_of_blocks", named="always-overlaps")
def overlaps_always(compute, load, ahead):
    return step_by_step(compute, load, True)


@mutants.wrong("end_of_blocks", named="own-block")
def maximum_of_pairs(compute, load, ahead):
    return float(np.maximum(compute, load).sum()) if ahead else float(np.sum(compute) + np.sum(load))


@mutants.wrong("end_of_blocks", named="first-is-free")
def first_is_there(compute, load, ahead):
    load = np.array(load)
    if ahead and len(load):
        load[0] = 0
    return step_by_step(compute, load, ahead)


@mutants.wrong("end_of_blocks", named="last-is-forgotten")
def stops_before_the_last(compute, load, ahead):
    compute = np.array(compute)
    if ahead and len(compute):
        compute[-1] = 0
    return step_by_step(compute, load, ahead)


@mutants.wrong("end_of_blocks", named="perfect-overlap")
def larger_sum(compute, load, ahead):
    return max(sum(compute), sum(load)) if ahead else sum(compute) + sum(load)


@mutants.wrong("end_of_blocks", named="all-known-at-once")
def queue_from_zero(compute, load, ahead):
    if not ahead:
        return sum(compute) + sum(load)
    arrived = done = 0.0
    for c, t in zip(compute, load, strict=True):
        arrived += t
        done = max(done, arrived) + c
    return done


@mutants.wrong("end_of_blocks", named="transfers-are-free")
def computation_only(compute, load, ahead):
    return float(np.sum(compute))


@mutants.wrong("end_of_blocks")
def no_empty_model(compute, load, ahead):
    if not ahead:
        return sum(compute) + sum(load)
    return load[0] + np.maximum(compute[:-1], load[1:]).sum() + compute[-1]


# ---------------------------------------------------------------- split_point


def ends_of(read, compute):
    return [max(sum(compute[:n]), sum(read[n:])) for n in range(len(read) + 1)]


@mutants.right("split_point")
def with_argmin(read, compute):
    return np.argmin(ends_of(read, compute))


@mutants.right("split_point")
def with_running_sums(read, compute):
    used = np.concatenate([[0], np.cumsum(compute)])
    left = np.sum(read) - np.concatenate([[0], np.cumsum(read)])
    return int(np.maximum(used, left).argmin())


@mutants.wrong("split_point", named="computes-the-last")
def from_behind(read, compute):
    count = len(read)
    return int(np.argmin([max(sum(read[: count - n]), sum(compute[count - n :])) for n in range(count + 1)]))


@mutants.wrong("split_point", named="one-after-the-other")
def adds_both(read, compute):
    return int(np.argmin([sum(compute[:n]) + sum(read[n:]) for n in range(len(read) + 1)]))


@mutants.wrong("split_point", named="times-swapped")
def reads_the_first(read, compute):
    return with_argmin(compute, read)


@mutants.wrong("split_point", named="never-all")
def range_too_short(read, compute):
    return int(np.argmin(ends_of(read, compute)[:-1] or [0]))


@mutants.wrong("split_point", named="never-none")
def range_from_one(read, compute):
    return 1 + int(np.argmin(ends_of(read, compute)[1:])) if len(read) else 0


@mutants.wrong("split_point", named="largest-of-equals")
def keeps_the_later(read, compute):
    best, found = np.inf, 0
    for n, end in enumerate(ends_of(read, compute)):
        if end <= best:
            best, found = end, n
    return found


@mutants.wrong("split_point", named="time-instead-of-number")
def least_end(read, compute):
    return float(min(ends_of(read, compute)))


@mutants.wrong("split_point", named="number-of-reads")
def reads_instead(read, compute):
    return len(read) - with_argmin(read, compute)


@mutants.wrong("split_point", named="each-for-itself")
def cheaper_chunks(read, compute):
    return int((compute < read).sum())


@mutants.wrong("split_point", named="most-even")
def smallest_difference(read, compute):
    return int(np.argmin([abs(sum(compute[:n]) - sum(read[n:])) for n in range(len(read) + 1)]))


# ---------------------------------------------------------------- handed in by readers


@mutants.wrong("lru_hits", named="uses-for-experts")
def among_the_last_uses(uses, capacity):
    return sum(e in uses[max(0, now - capacity) : now] for now, e in enumerate(uses))


@mutants.wrong("belady_hits", named="short-sight")
def looks_a_little_ahead(uses, capacity):
    kept, found, sequence = [], 0, uses.tolist()
    for now, e in enumerate(sequence):
        near = sequence[now + 1 : now + 1 + capacity]
        found += e in kept
        if e in kept or not capacity:
            continue
        if len(kept) == capacity:
            kept.remove(max(kept, key=lambda x, near=near: near.index(x) if x in near else 10**6))
        kept.append(e)
    return found


@mutants.wrong("end_of_blocks", named="wrong-neighbour")
def waits_beside_its_own_block(compute, load, ahead):
    if not len(compute):
        return 0.0
    waits = np.maximum(0, load[1:] - compute[1:]).sum() if ahead else load[1:].sum()
    return float(load[0] + compute.sum() + waits)


@mutants.wrong("split_point", named="gives-up")
def until_it_gains_nothing(read, compute):
    ends = ends_of(read, compute)
    n = 0
    while n + 1 < len(ends) and ends[n + 1] < ends[n]:
        n += 1
    return n


@mutants.wrong("split_point", named="first-crossing")
def where_the_lines_cross(read, compute):
    return next((n for n in range(len(read)) if sum(compute[:n]) >= sum(read[n:])), len(read))


@mutants.wrong("split_point")
def by_the_ratio_of_the_sums(read, compute):
    return round(len(read) * read.sum() / max(1e-9, read.sum() + compute.sum()))
