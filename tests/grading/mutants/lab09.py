"""Right and wrong answers of lab 9."""

import itertools

import numpy as np
from edgeinfer.grading.mutants import Mutants

mutants = Mutants("lab09_locality")


def add(exercise, function, name, named="", right=False):
    """Register a short answer; a lambda gets its name here."""
    function.__name__ = name
    (mutants.right(exercise) if right else mutants.wrong(exercise, named))(function)


# ---------------------------------------------------------------- bundle_neurons


@mutants.right("bundle_neurons")
def with_hstack(gate, up, down):
    return np.hstack([gate, up, np.asarray(down).T])


@mutants.right("bundle_neurons")
def neuron_by_neuron(gate, up, down):
    return np.array([np.r_[gate[i], up[i], down[:, i]] for i in range(len(gate))], np.float64)


for name, function, named in (
    ("reshapes_down", lambda g, u, d: np.hstack([g, u, d.reshape(g.shape)]), "down-by-rows"),
    ("one_matrix_after_another", lambda g, u, d: np.vstack([g, u, d.T]).reshape(len(g), -1), "matrices-not-neurons"),
    ("shuffled", lambda g, u, d: np.stack([g, u, d.T], -1).reshape(len(g), -1), "interleaved"),
    ("up_first", lambda g, u, d: np.hstack([u, g, d.T]), "other-order"),
    ("down_first", lambda g, u, d: np.hstack([d.T, g, u]), "other-order"),
    ("backwards", lambda g, u, d: np.hstack([g, u, d.T])[::-1], ""),
    ("transposed", lambda g, u, d: np.hstack([g, u, d.T]).T, ""),
    ("stacked", lambda g, u, d: np.stack([g, u, d.T]), ""),
    ("without_down", lambda g, u, d: np.hstack([g, u]), ""),
    ("gate_twice", lambda g, u, d: np.hstack([g, g, d.T]), ""),
    ("down_turned_round", lambda g, u, d: np.hstack([g, u, d[::-1].T]), "other-order"),
):
    add("bundle_neurons", function, name, named)

# ---------------------------------------------------------------- neurons_to_load


def loads(active, window, held):
    return np.array([active[t] & ~held(t) for t in range(len(active))])


@mutants.right("neurons_to_load")
def slices(active, window):
    return loads(active, window, lambda t: active[max(0, t - window) : t].any(0))


@mutants.right("neurons_to_load")
def last_use(active, window):
    last = np.full(active.shape[1], -(10**6))
    out = []
    for t, used in enumerate(active):
        out.append([bool(u and t - before > window) for u, before in zip(used, last, strict=True)])
        last[used] = t
    return out


@mutants.right("neurons_to_load")
def with_counters(active, window):
    uses, out = np.zeros(active.shape[1], int), np.zeros(active.shape, np.uint8)
    for t in range(len(active)):
        if t > window:
            uses -= active[t - window - 1]
        out[t] = active[t] & (uses == 0)
        uses += active[t]
    return out


@mutants.wrong("neurons_to_load", named="counted-from-the-load")
def timer_not_reset(active, window):
    left, out = np.zeros(active.shape[1], int), np.zeros(active.shape, bool)
    for t, used in enumerate(active):
        out[t] = used & (left == 0)
        left = np.maximum(left - 1, 0)
        left[out[t]] = window
    return out


def rolled(active, window):
    held = np.zeros_like(active)
    for back in range(1, window + 1):
        held |= np.roll(active, back, axis=0)
    return active & ~held


def future(active, window):
    return loads(active, window, lambda t: active[t + 1 : t + 1 + window].any(0))


for name, function, named in (
    ("window_plus_one", lambda a, w: loads(a, w, lambda t: a[max(0, t - w - 1) : t].any(0)), "one-token-too-many"),
    ("window_minus_one", lambda a, w: loads(a, w, lambda t: a[max(0, t - w + 1) : t].any(0)), "one-token-too-few"),
    ("previous_only", lambda a, w: loads(a, w, lambda t: a[max(0, t - min(w, 1)) : t].any(0)), "only-the-token-before"),
    ("keeps_all", lambda a, w: loads(a, w, lambda t: a[:t].any(0)), "never-dropped"),
    ("wraps", rolled, "wraps-around"),
    ("reads_all_used", lambda a, w: a.copy(), "loads-everything-used"),
    (
        "what_is_dropped",
        lambda a, w: np.array([a[max(0, t - w) : t].any(0) & ~a[t] for t in range(len(a))]),
        "drops-instead",
    ),
    (
        "negative_slice",
        lambda a, w: loads(a, w, lambda t: a[t - w : t].any(0)),
        "window-before-the-first-token",
    ),
    ("looks_ahead", future, ""),
    ("this_token_included", lambda a, w: loads(a, w, lambda t: a[max(0, t - w) : t + 1].any(0)), "counts-itself"),
    ("all_not_any", lambda a, w: loads(a, w, lambda t: a[max(0, t - w) : t].all(0)), ""),
):
    add("neurons_to_load", function, name, named)

# ---------------------------------------------------------------- path_of_neurons


def pair_counts(active):
    fired = np.asarray(active).astype(float)
    return fired.T @ fired


def greedy(active, key=lambda count: -count, count=pair_counts):
    counts = count(active)
    beside = {n: [] for n in range(len(counts))}
    root = list(range(len(counts)))

    def find(n):
        while root[n] != n:
            n = root[n]
        return n

    for a, b in sorted(itertools.combinations(range(len(counts)), 2), key=lambda p: key(counts[p])):
        if len(beside[a]) < 2 and len(beside[b]) < 2 and find(a) != find(b):
            root[find(a)] = find(b)
            beside[a].append(b)
            beside[b].append(a)
    at = next(n for n in beside if len(beside[n]) < 2)
    order = [at]
    while len(order) < len(counts):
        order.append(next(n for n in beside[order[-1]] if n not in order[-2:]))
    return np.array(order)


@mutants.right("path_of_neurons")
def greedy_edges(active):
    return greedy(active)


@mutants.right("path_of_neurons")
def from_the_other_end(active):
    return greedy(active)[::-1].tolist()


@mutants.right("path_of_neurons")
def improved_by_reversals(active):
    counts, order = pair_counts(active), greedy(active)
    for i, j in itertools.combinations(range(1, len(order) - 1), 2):
        gain = counts[order[i - 1], order[j]] + counts[order[i], order[j + 1]]
        if gain > counts[order[i - 1], order[i]] + counts[order[j], order[j + 1]]:
            order[i : j + 1] = order[i : j + 1][::-1].copy()
    return order


@mutants.wrong("path_of_neurons", named="neurons-lost-or-doubled")
def best_partner_of_each(active):
    counts = pair_counts(active)
    np.fill_diagonal(counts, -1)
    return counts.argmax(0)


@mutants.wrong("path_of_neurons", named="compared-with-one-neuron")
def sorted_by_the_first(active):
    counts = pair_counts(active)
    others = np.arange(1, len(counts))
    return np.concatenate(([0], others[np.argsort(-counts[0, 1:], kind="stable")]))


@mutants.wrong("path_of_neurons")
def chain_of_the_least(active):
    counts, order = pair_counts(active), [0]
    while len(order) < len(counts):
        left = [n for n in range(len(counts)) if n not in order]
        order.append(min(left, key=lambda n: counts[order[-1], n]))
    return np.array(order)


@mutants.wrong("path_of_neurons")
def by_first_token(active):
    return np.argsort(np.asarray(active).argmax(0), kind="stable")


for name, function, named in (
    ("as_it_was", lambda a: np.arange(a.shape[1]), "nothing-moved"),
    ("turned_round", lambda a: np.arange(a.shape[1])[::-1], "nothing-moved"),
    ("by_frequency", lambda a: np.argsort(-a.sum(0), kind="stable"), "sorted-by-frequency"),
    ("rarest_first", lambda a: np.argsort(a.sum(0), kind="stable"), "sorted-by-frequency"),
    ("places", lambda a: np.argsort(greedy(a)), "place-instead-of-neuron"),
    ("weakest_pairs", lambda a: greedy(a, key=lambda count: count), "weakest-first"),
    ("halves_exchanged", lambda a: np.r_[greedy(a)[::2], greedy(a)[1::2]], ""),
    ("counted_in_8_bits", lambda a: greedy(a, lambda n: -int(n), lambda a: a.astype("u1").T @ a.astype("u1")), ""),
    ("whether_not_how_often", lambda a: greedy(a, lambda n: -int(n), lambda a: a.T @ a), ""),
    ("one_short", lambda a: greedy(a)[:-1], ""),
    ("random", lambda a: np.random.default_rng(0).permutation(a.shape[1]), ""),
):
    add("path_of_neurons", function, name, named)

# ---------------------------------------------------------------- merge_reads


def merged(places, limit):
    places = np.sort(places)
    if not len(places):
        return places, places
    cut = np.flatnonzero(np.diff(places) > limit) + 1
    pieces = np.split(places, cut)
    return np.array([p[0] for p in pieces]), np.array([p[-1] - p[0] + 1 for p in pieces])


@mutants.right("merge_reads")
def by_differences(places, gap):
    return merged(places, gap + 1)


@mutants.right("merge_reads")
def one_by_one(places, gap):
    starts, ends = [], []
    for place in sorted(int(p) for p in places):
        if ends and place <= ends[-1] + gap + 1:
            ends[-1] = place
        else:
            starts.append(place)
            ends.append(place)
    return np.array(starts, np.int32), np.array([e - s + 1 for s, e in zip(starts, ends, strict=True)], np.int32)


def change(function):
    """The right reads, changed afterwards."""

    def wrong(places, gap):
        starts, counts = (np.array(part) for part in merged(places, gap + 1))
        return function(starts, counts, places, gap)

    return wrong


def unsorted(places, gap):
    places = np.asarray(places)
    if not len(places):
        return places, places
    pieces = np.split(places, np.flatnonzero(np.abs(np.diff(places)) > gap + 1) + 1)
    return np.array([p.min() for p in pieces]), np.array([p.max() - p.min() + 1 for p in pieces])


def differences(places, gap):
    starts, counts = [], []
    for place in places.tolist():
        if starts and place <= starts[-1] + counts[-1] + gap:
            counts[-1] = place - starts[-1] + 1
        else:
            starts.append(place)
            counts.append(1)
    return np.array(starts, int), np.array(counts, int)


def wanted_inside(starts, counts, places, gap):
    return starts, np.array(
        [((places >= s) & (places < s + c)).sum() for s, c in zip(starts, counts, strict=True)], int
    )


for name, function, named in (
    ("gap_plus_one", lambda p, g: merged(p, g + 2), "gap-too-wide"),
    ("larger_or_equal", lambda p, g: merged(p, g), "gap-too-narrow"),
    ("neighbours_only", lambda p, g: merged(p, 1), "gap-ignored"),
    ("last_places", change(lambda s, c, p, g: (s, s + c - 1)), "last-place-instead-of-count"),
    ("counts_wanted", change(wanted_inside), "wanted-only"),
    ("difference_without_one", change(lambda s, c, p, g: (s, c - 1)), "one-too-short"),
    ("reads_the_gap_too", change(lambda s, c, p, g: (s, c + g)), "reads-past-the-end"),
    ("everything", lambda p, g: merged(p, 10**9), "one-big-read"),
    ("as_they_came", unsorted, ""),
    ("differences_as_they_came", differences, "places-not-sorted"),
    ("last_read_lost", change(lambda s, c, p, g: (s[:-1], c[:-1])), ""),
    ("falling", change(lambda s, c, p, g: (s[::-1], c[::-1])), ""),
    ("a_place_early", change(lambda s, c, p, g: (s - 1, c + 1)), ""),
    ("never_merged", lambda p, g: (np.sort(p), np.ones(len(p), int)), ""),
    ("fails_on_nothing", lambda p, g: merged(p, g + 1) if len(p) else (np.zeros(1, int), np.zeros(1, int)), ""),
):
    add("merge_reads", function, name, named)

# ---------------------------------------------------------------- merge_path_split


@mutants.right("merge_path_split")
def binary_search(row_offsets, parts):
    ends, entries = row_offsets[1:], int(row_offsets[-1])
    points = []
    for p in range(parts + 1):
        steps = p * (len(ends) + entries) // parts
        low, high = max(0, steps - entries), min(steps, len(ends))
        while low < high:
            middle = (low + high) // 2
            if ends[middle] <= steps - middle - 1:
                low = middle + 1
            else:
                high = middle
        points.append((low, steps - low))
    return points


def split(row_offsets, parts, steps=None, side="left"):
    offsets = np.asarray(row_offsets)
    when = offsets[1:] + np.arange(len(offsets) - 1)
    total = len(when) + int(offsets[-1])
    at = (
        np.arange(parts + 1) * total // parts
        if steps is None
        else np.array([steps(p, total) for p in range(parts + 1)])
    )
    rows = np.searchsorted(when, at, side=side)
    return np.stack([rows, at - rows], 1)


@mutants.right("merge_path_split")
def numbers_of_the_last_steps(row_offsets, parts):
    return split(row_offsets, parts)


def equal_rows(row_offsets, parts):
    rows = [p * (len(row_offsets) - 1) // parts for p in range(parts + 1)]
    return [(i, int(row_offsets[i])) for i in rows]


def equal_entries(row_offsets, parts):
    entries = [p * int(row_offsets[-1]) // parts for p in range(parts + 1)]
    return [(int(np.searchsorted(row_offsets[1:], j, side="right")), j) for j in entries]


for name, function, named in (
    ("same_rows", equal_rows, "rows-only"),
    ("same_entries", equal_entries, "entries-only"),
    ("snapped", lambda r, n: [(int(i), int(r[i])) for i, _ in split(r, n)], "whole-rows"),
    ("exchanged", lambda r, n: split(r, n)[:, ::-1], "entry-first"),
    ("rest_in_the_last", lambda r, n: split(r, n, lambda p, t: t if p == n else p * (t // n)), "remainder-last"),
    ("ceiling", lambda r, n: split(r, n, lambda p, t: -(-p * t // n)), "rounded-up"),
    ("right_side", lambda r, n: split(r, n, side="right"), "next-step-counted"),
    (
        "from_the_row",
        lambda r, n: split(r, n) - np.c_[0 * split(r, n)[:, 0], r[split(r, n)[:, 0]]],
        "entry-within-its-row",
    ),
    ("no_last_point", lambda r, n: split(r, n)[:-1], ""),
    ("rounded", lambda r, n: split(r, n, lambda p, t: round(p * t / n)), ""),
    ("steps_not_entries", lambda r, n: np.stack([split(r, n)[:, 0], split(r, n).sum(1)], 1), ""),
):
    add("merge_path_split", function, name, named)


@mutants.wrong("merge_path_split", named="row-ends-late")
def entry_before_end(row_offsets, parts):
    ends, entries = row_offsets[1:], int(row_offsets[-1])
    points = []
    for p in range(parts + 1):
        steps = p * (len(ends) + entries) // parts
        low, high = max(0, steps - entries), min(steps, len(ends))
        while low < high:
            middle = (low + high) // 2
            if ends[middle] < steps - middle - 1:
                low = middle + 1
            else:
                high = middle
        points.append((low, steps - low))
    return points


# ---------------------------------------------------------------- tiled_matmul_traffic


def up(a, b):
    return (a + b - 1) // b


def held(M, N, K, m, n, k):
    m, n, k = min(m, M), min(n, N), min(k, K)
    return m * k + k * n + m * n


@mutants.right("tiled_matmul_traffic")
def formula(M, N, K, tile_m, tile_n, tile_k):
    return M * K * up(N, tile_n) + K * N * up(M, tile_m) + M * N, held(M, N, K, tile_m, tile_n, tile_k)


@mutants.right("tiled_matmul_traffic")
def three_loops(M, N, K, tile_m, tile_n, tile_k):
    moved = most = 0
    for i in range(0, M, tile_m):
        for j in range(0, N, tile_n):
            m, n = min(tile_m, M - i), min(tile_n, N - j)
            for p in range(0, K, tile_k):
                k = min(tile_k, K - p)
                moved += (m + n) * k
                most = max(most, (m + n) * k + m * n)
            moved += m * n
    return np.int64(moved), np.int64(most)


for name, moved, named in (
    ("floor", lambda M, N, K, m, n, k: M * K * (N // n) + K * N * (M // m) + M * N, "edge-tiles-forgotten"),
    (
        "c_again_and_again",
        lambda M, N, K, m, n, k: M * K * up(N, n) + K * N * up(M, m) + M * N * up(K, k),
        "c-every-step",
    ),
    ("swapped", lambda M, N, K, m, n, k: M * K * up(M, m) + K * N * up(N, n) + M * N, "a-and-b-exchanged"),
    ("no_c", lambda M, N, K, m, n, k: M * K * up(N, n) + K * N * up(M, m), "c-left-out"),
    ("c_twice", lambda M, N, K, m, n, k: M * K * up(N, n) + K * N * up(M, m) + 2 * M * N, "c-read-and-written"),
    ("once", lambda M, N, K, m, n, k: M * K + K * N + M * N, "each-matrix-once"),
    ("no_tiles", lambda M, N, K, m, n, k: 2 * M * N * K + M * N, "untiled"),
    ("bytes", lambda M, N, K, m, n, k: 4 * formula(M, N, K, m, n, k)[0], ""),
):
    add("tiled_matmul_traffic", lambda *a, moved=moved: (moved(*a), held(*a)), name, named)

for name, most, named in (
    ("not_cut", lambda M, N, K, m, n, k: m * k + k * n + m * n, "held-not-cut"),
    ("tiles_of_a_and_b", lambda M, N, K, m, n, k: min(m, M) * min(k, K) + min(k, K) * min(n, N), "held-without-c"),
    (
        "the_largest",
        lambda M, N, K, m, n, k: max(min(m, M) * min(k, K), min(k, K) * min(n, N), min(m, M) * min(n, N)),
        "held-largest",
    ),
):
    add("tiled_matmul_traffic", lambda *a, most=most: (formula(*a)[0], most(*a)), name, named)


# ---------------------------------------------------------------- handed in by readers


@mutants.wrong("neurons_to_load", named="all-instead-of-any")
def used_by_all_of_them(active, window):
    out = active.copy()
    for t in range(1, len(active) if window else 0):
        out[t] &= ~active[max(0, t - window) : t].all(0)
    return out


@mutants.wrong("neurons_to_load", named="only-the-oldest")
def window_steps_back(active, window):
    return np.array([now & ~active[t - window] if t >= window else now for t, now in enumerate(active)])


@mutants.wrong("neurons_to_load", named="emptied-at-intervals")
def starts_anew(active, window):
    if not window:
        return active.copy()
    blocks = [active[s : s + window] for s in range(0, len(active), window)]
    return np.concatenate([np.array([b[t] & ~b[:t].any(0) for t in range(len(b))]) for b in blocks])


def collect(places, joins):
    reads = []
    for p in sorted(int(p) for p in places):
        if reads and joins(reads[-1], p):
            reads[-1].append(p)
        else:
            reads.append([p])
    return np.array([r[0] for r in reads], int), np.array([r[-1] - r[0] + 1 for r in reads], int)


@mutants.wrong("merge_reads", named="measured-from-the-start")
def near_the_first(places, gap):
    return collect(places, lambda read, p: p - read[0] <= gap + 1)


@mutants.wrong("merge_reads", named="gap-in-all")
def one_allowance(places, gap):
    return collect(places, lambda read, p: p - read[0] - len(read) <= gap)


@mutants.wrong("merge_reads", named="last-read-lost")
def never_closed(places, gap):
    starts, counts = collect(places, lambda read, p: p - read[-1] <= gap + 1)
    return starts[:-1], counts[:-1]


@mutants.wrong("merge_path_split", named="each-list-alone")
def two_even_lists(row_offsets, parts):
    p = np.arange(parts + 1)
    return np.stack((p * (len(row_offsets) - 1) // parts, p * row_offsets[-1] // parts), 1)


@mutants.wrong("tiled_matmul_traffic", named="fractions-of-tiles")
def divides_exactly(M, N, K, tile_m, tile_n, tile_k):
    m, n, k = min(M, tile_m), min(N, tile_n), min(K, tile_k)
    return int(M * K * N / tile_n + K * N * M / tile_m + M * N), m * k + k * n + m * n


@mutants.wrong("tiled_matmul_traffic", named="results-exchanged")
def held_first(M, N, K, tile_m, tile_n, tile_k):
    m, n, k = min(M, tile_m), min(N, tile_n), min(K, tile_k)
    return m * k + k * n + m * n, M * K * -(-N // tile_n) + K * N * -(-M // tile_m) + M * N
