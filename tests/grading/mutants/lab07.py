"""Plausible wrong answers to lab 7, as students write them, and right ones in other styles."""

import numpy as np
from edgeinfer.grading.mutants import Mutants

mutants = Mutants("lab07_activation_buffers")

# ---------------------------------------------------------------- lifetimes


def uses(reads, writes, step, skip=-1):
    return [*(int(b) for b in reads[step] if b != skip), int(writes[step])]


@mutants.right("lifetimes")
def with_lists_of_steps(reads, writes, result):
    steps = {}
    for s in range(len(writes)):
        for b in uses(reads, writes, s):
            steps.setdefault(b, []).append(s)
    steps[result].append(len(writes) - 1)
    return np.array([min(steps[b]) for b in range(len(steps))]), np.array([max(steps[b]) for b in range(len(steps))])


@mutants.right("lifetimes")
def backwards_and_forwards(reads, writes, result):
    count, steps = writes.max() + 1, len(writes)
    used = np.zeros((steps, count), bool)
    used[np.arange(steps), writes] = True
    for column in reads.T:
        there = column >= 0
        used[np.flatnonzero(there), column[there]] = True
    used[-1, result] = True
    first = used.argmax(0)
    # the result may be used in the last step only by the caller: its first step is that of its writing
    first[result] = np.flatnonzero(writes == result)[0]
    return first.astype(np.int32), (steps - 1 - used[::-1].argmax(0)).astype(np.int32)


def life(reads, writes, result, *, skip=-1, end=None, begin_again=False, write_counts=True, first_only=False):
    count = int(writes.max()) + 1
    first, last = np.full(count, -1), np.full(count, -1)
    for s in range(len(writes)):
        for b in reads[s]:
            if b != skip and not (first_only and last[b] > first[b]):
                last[b] = s
        b = writes[s]
        if begin_again or first[b] == -1:
            first[b] = s
        if write_counts or last[b] == -1:
            last[b] = s
    last[result] = len(writes) - 1 if end is None else last[result]
    return first, last


@mutants.wrong("lifetimes", named="padding-is-a-buffer")
def reads_the_padding(reads, writes, result):
    return life(reads, writes, result, skip=None)


@mutants.wrong("lifetimes", named="result-dies")
def forgets_the_result(reads, writes, result):
    return life(reads, writes, result, end="as read")


@mutants.wrong("lifetimes", named="end-excluded")
def as_python_ranges(reads, writes, result):
    first, last = life(reads, writes, result)
    return first, last + 1


@mutants.wrong("lifetimes", named="begins-a-step-late")
def alive_after_the_write(reads, writes, result):
    first, last = life(reads, writes, result)
    return first + 1, last


@mutants.wrong("lifetimes", named="in-place-is-a-birth")
def each_write_begins(reads, writes, result):
    return life(reads, writes, result, begin_again=True)


@mutants.wrong("lifetimes", named="in-place-is-no-use")
def only_reads_count(reads, writes, result):
    return life(reads, writes, result, write_counts=False)


@mutants.wrong("lifetimes", named="first-read-ends-it")
def dies_at_its_first_read(reads, writes, result):
    return life(reads, writes, result, first_only=True)


@mutants.wrong("lifetimes", named="unread-has-no-life")
def minus_one_for_unread(reads, writes, result):
    first, last = life(reads, writes, result)
    for b in range(len(first)):
        if b not in reads and b != result:
            last[b] = -1
    return first, last


@mutants.wrong("lifetimes")
def result_lives_one_too_long(reads, writes, result):
    first, last = life(reads, writes, result)
    last[result] = len(writes)
    return first, last


@mutants.wrong("lifetimes")
def everything_lives_from_the_start(reads, writes, result):
    first, last = life(reads, writes, result)
    return np.zeros_like(first), last


@mutants.wrong("lifetimes")
def in_the_order_of_writing(reads, writes, result):
    first, last = life(reads, writes, result)
    order = np.argsort(first)
    return first[order], last[order]


# ---------------------------------------------------------------- live_bytes


@mutants.right("live_bytes")
def with_changes(size, first, last):
    change = np.zeros(last.max() + 2, np.int64)
    for s, a, b in zip(size, first, last, strict=True):
        change[a] += s
        change[b + 1] -= s
    return change.cumsum()[:-1]


@mutants.right("live_bytes")
def with_a_mask(size, first, last):
    step = np.arange(last.max() + 1)[:, None]
    return ((first <= step) & (step <= last)) @ size.astype(np.int64)


def masked(size, first, last, low=0, high=0):
    step = np.arange(last.max() + 1)[:, None]
    return ((first + low <= step) & (step <= last + high)) @ size.astype(np.int64)


@mutants.wrong("live_bytes", named="frees-too-early")
def slice_without_the_end(size, first, last):
    return masked(size, first, last, high=-1)


@mutants.wrong("live_bytes", named="begins-too-late")
def after_the_first(size, first, last):
    return masked(size, first, last, low=1)


@mutants.wrong("live_bytes", named="frees-too-late")
def one_step_more(size, first, last):
    return masked(size, first, last, high=1)


@mutants.wrong("live_bytes", named="never-frees")
def only_adds(size, first, last):
    return masked(size, first, last, high=int(last.max()))


@mutants.wrong("live_bytes", named="counts-buffers")
def how_many(size, first, last):
    return masked(np.ones_like(size), first, last)


@mutants.wrong("live_bytes", named="changes-not-sums")
def without_cumsum(size, first, last):
    change = np.zeros(last.max() + 2, np.int64)
    np.add.at(change, first, size)
    np.subtract.at(change, last + 1, size)
    return change[:-1]


@mutants.wrong("live_bytes", named="births-only")
def written_in_the_step(size, first, last):
    return np.array([size[first == s].sum() for s in range(last.max() + 1)])


@mutants.wrong("live_bytes", named="repeated-index")
def fancy_plus_equals(size, first, last):
    change = np.zeros(last.max() + 2, np.int64)
    change[first] += size
    change[last + 1] -= size
    return change.cumsum()[:-1]


@mutants.wrong("live_bytes", named="thirty-two-bits")
def in_int32(size, first, last):
    step = np.arange(last.max() + 1)[:, None]
    alive = ((first <= step) & (step <= last)).astype(np.int32) @ (size % 2**32).astype(np.uint32).view(np.int32)
    return alive.astype(np.int32)


@mutants.wrong("live_bytes")
def a_step_too_many(size, first, last):
    return np.append(masked(size, first, last), 0)


@mutants.wrong("live_bytes")
def only_the_largest(size, first, last):
    step = np.arange(last.max() + 1)[:, None]
    return np.where((first <= step) & (step <= last), size, 0).max(1)


# ---------------------------------------------------------------- place


def fit(size, first, last, *, order=None, touch=True, gaps="best", ends=True):
    offsets = np.zeros(len(size), np.int64)
    placed = []
    key = order or (lambda i: (-size[i], first[i]))
    for i in sorted(range(len(size)), key=key):
        near = sorted(
            (int(offsets[j]), int(offsets[j] + (size[j] if ends else 1)))
            for j in placed
            if (first[i] <= last[j] and first[j] <= last[i])
            and (touch or min(last[i], last[j]) > max(first[i], first[j]))
        )
        end, found = 0, []
        for a, b in near:
            if a - end >= size[i]:
                found.append((a - end, end))
            end = max(end, b)
        if gaps == "none" or not found:
            offsets[i] = end
        else:
            offsets[i] = {"best": min, "largest": max}.get(gaps, lambda all_of_them: all_of_them[0])(found)[1]
        placed.append(i)
    return offsets


@mutants.right("place")
def best_of_two_orders(size, first, last):
    plans = [fit(size, first, last), fit(size, first, last, order=lambda i: (first[i], -size[i]))]
    return min(plans, key=lambda p: (p + size).max())


@mutants.right("place")
def byte_by_byte_candidates(size, first, last):
    offsets = {}
    for i in sorted(range(len(size)), key=lambda i: (-size[i], first[i], i)):
        near = sorted(
            (offsets[j], offsets[j] + size[j]) for j in offsets if not (last[j] < first[i] or last[i] < first[j])
        )
        tops = [0]
        for _, b in near:
            tops.append(max(tops[-1], b))
        rooms = [(a - top, top) for (a, _), top in zip(near, tops, strict=False) if a - top >= size[i]]
        offsets[i] = min(rooms)[1] if rooms else tops[-1]
    return np.array([offsets[i] for i in range(len(size))], dtype=np.int32)


@mutants.right("place")
def from_the_top_down(size, first, last):
    offsets = fit(size, first, last)
    total = (offsets + size).max()
    return total - offsets - size  # a plan upside down is a plan


@mutants.wrong("place", named="all-at-zero")
def everybody_at_zero(size, first, last):
    return np.zeros(len(size), int)


@mutants.wrong("place", named="touching-lives")
def free_in_the_step_of_the_last_read(size, first, last):
    return fit(size, first, last, touch=False)


@mutants.wrong("place", named="never-shares")
def one_behind_the_other(size, first, last):
    return np.cumsum(size) - size


@mutants.wrong("place", named="only-on-top")
def no_gaps(size, first, last):
    return fit(size, first, last, gaps="none", order=lambda i: -size[i])


@mutants.wrong("place", named="negative")
def downwards(size, first, last):
    return -fit(size, first, last) - size


@mutants.wrong("place", named="too-large")
def smallest_first(size, first, last):
    return fit(size, first, last, order=lambda i: (size[i], first[i]))


@mutants.wrong("place", named="too-large")
def in_order_of_time(size, first, last):
    return fit(size, first, last, order=lambda i: first[i], gaps="none")


@mutants.wrong("place", named="too-large")
def first_gap_that_holds_it(size, first, last):
    return fit(size, first, last, gaps="first")


@mutants.wrong("place", named="too-large")
def largest_gap(size, first, last):
    return fit(size, first, last, gaps="largest")


@mutants.wrong("place", named="shares-bytes")
def ends_without_sizes(size, first, last):
    return fit(size, first, last, ends=False)


@mutants.wrong("place", named="shares-bytes")
def looks_at_the_last_placed_only(size, first, last):
    offsets, before = np.zeros(len(size), int), None
    for i in np.argsort(-size, kind="stable"):
        if before is not None and first[i] <= last[before] and first[before] <= last[i]:
            offsets[i] = offsets[before] + size[before]
        before = i
    return offsets


@mutants.wrong("place")
def overlap_by_beginnings_only(size, first, last):
    offsets = np.zeros(len(size), int)
    for i in np.argsort(-size, kind="stable"):
        same = [j for j in range(len(size)) if first[j] == first[i] and j != i and size[j] >= size[i]]
        offsets[i] = sum(size[j] for j in same if (size[j], -j) > (size[i], -i))
    return offsets


# ---------------------------------------------------------------- fields


@mutants.right("fields")
def with_loops(n, values):
    a, b, line = [], [], []
    n = [int(k) for k in n]
    for u, v, w in values.T:
        u, v, w = int(u), int(v), int(w)
        good = (v - u) % (n[1] - n[0]) == 0
        slope = (v - u) // (n[1] - n[0]) if good else 0
        good = good and u - slope * n[0] + slope * n[2] == w
        a.append(u - slope * n[0] if good else 0)
        b.append(slope if good else 0)
        line.append(good)
    return np.array(a), np.array(b), np.array(line)


@mutants.right("fields")
def by_cross_products(n, values):
    d, e = values[1] - values[0], values[2] - values[0]
    line = d * (n[2] - n[0]) == e * (n[1] - n[0])
    line &= d % (n[1] - n[0]) == 0
    b = np.where(line, d // (n[1] - n[0]), 0)
    return np.where(line, values[0] - b * n[0], 0), b, line.astype(np.int64)


def lines(n, values, third=True, steps=None, zero=True, fixed=True, close=0):
    k = n if steps is None else steps
    b = (values[1] - values[0]) // (k[1] - k[0])
    a = values[0] - b * k[0]
    line = (a + b * k[1] == values[1]) if third else np.ones(len(a), bool)
    if third:
        line = line & (np.abs(a + b * k[2] - values[2]) <= close)
    if not fixed:
        line = line & (b != 0)
    return (np.where(line, a, 0), np.where(line, b, 0), line) if zero else (a, b, line)


@mutants.wrong("fields", named="third-recording-unused")
def two_points_are_a_line(n, values):
    return lines(n, values, third=False)


@mutants.wrong("fields", named="first-and-last-only")
def ends_only(n, values):
    b, rest = np.divmod(values[2] - values[0], n[2] - n[0])
    a = values[0] - b * n[0]
    line = rest == 0
    line[: min(7, len(line))] &= (a + b * n[1] == values[1])[:7]
    return np.where(line, a, 0), np.where(line, b, 0), line


@mutants.wrong("fields", named="spacing-ignored")
def steps_of_one(n, values):
    return lines(n, values, steps=np.arange(3))


@mutants.wrong("fields", named="value-for-intercept")
def first_value_as_a(n, values):
    _, b, line = lines(n, values)
    return np.where(line, values[0], 0), b, line


@mutants.wrong("fields", named="fixed-is-no-line")
def constants_apart(n, values):
    return lines(n, values, fixed=False)


@mutants.wrong("fields", named="fixed-is-no-line")
def constants_apart_with_leftovers(n, values):
    a, b, line = lines(n, values)
    return a, b, line & (b != 0)


@mutants.wrong("fields", named="leftovers")
def without_zeros(n, values):
    return lines(n, values, zero=False)


@mutants.wrong("fields", named="fractions")
def with_floats(n, values):
    b = (values[1] - values[0]) / (n[1] - n[0])
    a = values[0] - b * n[0]
    line = np.isclose(a + b * n[2], values[2])
    return np.where(line, a, 0).astype(int), np.where(line, b, 0).astype(int), line


@mutants.wrong("fields", named="fractions")
def with_floats_rounded(n, values):
    b = (values[1] - values[0]) / (n[1] - n[0])
    a = values[0] - b * n[0]
    line = np.isclose(a + b * n[2], values[2], rtol=1e-12)
    return np.where(line, a, 0).round().astype(int), np.where(line, b, 0).round().astype(int), line


@mutants.wrong("fields", named="rounded")
def in_float32(n, values):
    n, values = n.astype(np.float32), values.astype(np.float32)
    b = (values[1] - values[0]) / (n[1] - n[0])
    a = values[0] - b * n[0]
    line = (a + b * n[2] == values[2]) & (b == np.rint(b))
    return np.where(line, a, 0).astype(int), np.where(line, b, 0).astype(int), line


@mutants.wrong("fields", named="nearly")
def off_by_one_is_fine(n, values):
    return lines(n, values, close=1)


@mutants.wrong("fields")
def least_squares(n, values):
    b, a = np.polyfit(n.astype(float), values.astype(float), 1)
    return np.rint(a).astype(int), np.rint(b).astype(int), np.ones(values.shape[1], bool)


@mutants.wrong("fields", named="exchanged")
def a_and_b_swapped(n, values):
    a, b, line = lines(n, values)
    return b, a, line


@mutants.wrong("fields")
def everything_fixed(n, values):
    same = (values == values[0]).all(0)
    return np.where(same, values[0], 0), np.zeros(values.shape[1], int), same


# ---------------------------------------------------------------- unified_softmax


@mutants.right("unified_softmax")
def piece_by_piece(scores, values, phi, low, high, split):
    x = scores.astype(np.float64)
    again = not all(low <= s - phi <= high for s in x)
    shift = max(x) if again else phi
    top, sums = np.zeros(values.shape[1]), []
    for p in range(0, len(x), split):
        w = np.exp(x[p : p + split] - shift)
        sums.append(w.sum())
        top += w @ values[p : p + split]
    return top / sum(sums), np.array(sums), again


@mutants.right("unified_softmax")
def padded_to_whole_pieces(scores, values, phi, low, high, split):
    again = bool(scores.max() - phi > high or scores.min() - phi < low)
    w = np.exp(scores.astype(float) - (scores.max() if again else phi))
    pieces = -(-len(w) // split)
    sums = np.concatenate([w, np.zeros(pieces * split - len(w))]).reshape(pieces, split).sum(1)
    return (w[:, None] * values).sum(0) / sums.sum(), sums, np.bool_(again)


def pieces(x, values, shift, split, again):
    with np.errstate(all="ignore"):
        w = np.exp(x.astype(np.float64) - shift)
        sums = np.array([w[p : p + split].sum() for p in range(0, len(w), split)])
        return w @ values / w.sum(), sums, again


@mutants.wrong("unified_softmax", named="checks-the-top-only")
def overflow_only(scores, values, phi, low, high, split):
    again = bool((scores - phi > high).any())
    return pieces(scores, values, scores.max() if again else phi, split, again)


@mutants.wrong("unified_softmax", named="checks-the-bottom-only")
def underflow_only(scores, values, phi, low, high, split):
    again = bool((scores - phi < low).any())
    return pieces(scores, values, scores.max() if again else phi, split, again)


@mutants.wrong("unified_softmax", named="border-is-outside")
def strictly_inside(scores, values, phi, low, high, split):
    again = not bool(((low < scores - phi) & (scores - phi < high)).all())
    return pieces(scores, values, scores.max() if again else phi, split, again)


@mutants.wrong("unified_softmax", named="clips")
def clip_into_range(scores, values, phi, low, high, split):
    again = bool(((scores - phi > high) | (scores - phi < low)).any())
    return pieces(np.clip(scores, phi + low, phi + high), values, phi, split, again)


@mutants.wrong("unified_softmax", named="leaves-out")
def drop_them(scores, values, phi, low, high, split):
    out = (scores - phi > high) | (scores - phi < low)
    return pieces(np.where(out, -np.inf, scores), values, phi, split, bool(out.any()))


@mutants.wrong("unified_softmax", named="repairs-the-piece-only")
def own_maximum_for_the_bad_piece(scores, values, phi, low, high, split):
    x, bad = scores.astype(float), (scores - phi > high) | (scores - phi < low)
    shift = np.full(len(x), phi)
    for p in range(0, len(x), split):
        if bad[p : p + split].any():
            shift[p : p + split] = x[p : p + split].max()
    return pieces(x - shift, values, 0.0, split, bool(bad.any()))


@mutants.wrong("unified_softmax", named="flag-without-repair")
def says_so_and_goes_on(scores, values, phi, low, high, split):
    return pieces(scores, values, phi, split, bool(((scores - phi > high) | (scores - phi < low)).any()))


@mutants.wrong("unified_softmax", named="averages-pieces")
def mean_of_softmaxes(scores, values, phi, low, high, split):
    again = bool(((scores - phi > high) | (scores - phi < low)).any())
    _, sums, _ = pieces(scores, values, scores.max() if again else phi, split, again)
    each = []
    with np.errstate(all="ignore"):
        for p in range(0, len(scores), split):
            w = np.exp(scores[p : p + split].astype(float) - (scores.max() if again else phi))
            each.append(w @ values[p : p + split] / w.sum())
    return np.mean(each, axis=0), sums, again


@mutants.wrong("unified_softmax", named="always-the-maximum")
def the_old_way(scores, values, phi, low, high, split):
    again = bool(((scores - phi > high) | (scores - phi < low)).any())
    return pieces(scores, values, scores.max(), split, again)


@mutants.wrong("unified_softmax", named="adds-phi")
def wrong_sign(scores, values, phi, low, high, split):
    again = bool(((scores - phi > high) | (scores - phi < low)).any())
    return pieces(scores, values, scores.max() if again else -phi, split, again)


@mutants.wrong("unified_softmax")
def whole_pieces_only(scores, values, phi, low, high, split):
    again = bool(((scores - phi > high) | (scores - phi < low)).any())
    out, sums, _ = pieces(scores, values, scores.max() if again else phi, split, again)
    return out, sums[: max(1, len(scores) // split)], again


@mutants.wrong("unified_softmax", named="maximum-of-each-piece")
def own_maximum_for_every_piece(scores, values, phi, low, high, split):
    x, again = scores.astype(float), bool(((scores - phi > high) | (scores - phi < low)).any())
    shift = np.repeat([x[p : p + split].max() for p in range(0, len(x), split)], split)[: len(x)]
    return pieces(x - shift, values, 0.0, split, True) if again else pieces(x, values, phi, split, False)


@mutants.wrong("unified_softmax", named="single-precision")
def in_float32_throughout(scores, values, phi, low, high, split):
    again = bool(((scores - phi > high) | (scores - phi < low)).any())
    with np.errstate(all="ignore"):
        w = np.exp(scores - np.float32(scores.max() if again else phi))
        return w @ values / w.sum(), np.array([w[p : p + split].sum() for p in range(0, len(w), split)]), again


@mutants.wrong("unified_softmax", named="score-for-difference")
def checks_the_score_not_the_difference(scores, values, phi, low, high, split):
    again = bool(((scores > high) | (scores < low)).any())
    return pieces(scores, values, scores.max() if again else phi, split, again)


# ---------------------------------------------------------------- handed in by readers


@mutants.wrong("lifetimes", named="zero-is-padding")
def reads_above_zero(reads, writes, result):
    return life(np.where(reads == 0, -1, reads), writes, result)


@mutants.wrong("lifetimes", named="length-for-last")
def steps_of_a_life(reads, writes, result):
    first, last = life(reads, writes, result)
    return first, last - first + 1


@mutants.wrong("live_bytes", named="ends-only")
def first_and_last(size, first, last):
    out = np.zeros(int(last.max()) + 1, np.int64)
    np.add.at(out, first, size)
    np.add.at(out, last[last > first], size[last > first])
    return out


@mutants.wrong("live_bytes", named="one-of-them")
def overwritten(size, first, last):
    out = np.zeros(int(last.max()) + 1, np.int64)
    for s, a, b in zip(size, first, last, strict=True):
        out[a : b + 1] = s
    return out


def exact_lines(n, values):
    b = (values[1] - values[0]) // (n[1] - n[0])
    a = values[0] - b * n[0]
    return a, b, (a + b * n[:, None] == values).all(0)


@mutants.wrong("fields", named="rising-only")
def refuses_to_fall(n, values):
    a, b, line = exact_lines(n, values)
    line &= b >= 0
    return np.where(line, a, 0), np.where(line, b, 0), line


@mutants.wrong("fields", named="through-zero")
def multiples_of_n(n, values):
    b = values[0] // n[0]
    line = (b * n[:, None] == values).all(0)
    return np.zeros_like(b), np.where(line, b, 0), line


@mutants.wrong("unified_softmax", named="all-must-be-out")
def again_if_all_are_out(scores, values, phi, low, high, split):
    again = bool(((scores - phi > high) | (scores - phi < low)).all())
    return pieces(scores, values, scores.max() if again else phi, split, again)


@mutants.wrong("unified_softmax", named="not-divided")
def numerator_only(scores, values, phi, low, high, split):
    again = bool(((scores - phi > high) | (scores - phi < low)).any())
    w = np.exp(scores.astype(float) - (scores.max() if again else phi))
    return w @ values, pieces(scores, values, scores.max() if again else phi, split, again)[1], again


@mutants.wrong("unified_softmax", named="sums-divided")
def shares_of_the_whole(scores, values, phi, low, high, split):
    again = bool(((scores - phi > high) | (scores - phi < low)).any())
    out, sums, _ = pieces(scores, values, scores.max() if again else phi, split, again)
    return out, sums / sums.sum(), again
