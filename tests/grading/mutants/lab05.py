"""Plausible wrong answers to lab 5, as students write them, and right ones in other styles."""

from itertools import pairwise

import numpy as np
from edgeinfer.grading.mutants import Mutants

mutants = Mutants("lab05_structured_sparsity")

# ---------------------------------------------------------------- prune_n_m


def keep_best(weight, n, m, key=np.abs):
    runs = weight.reshape(len(weight), -1, m)
    order = np.argsort(-key(runs), axis=2, kind="stable")
    out = np.zeros_like(runs)
    np.put_along_axis(out, order[..., :n], np.take_along_axis(runs, order[..., :n], 2), 2)
    return out.reshape(weight.shape)


@mutants.right("prune_n_m")
def with_put_along_axis(weight, n, m):
    return keep_best(weight, n, m)


@mutants.right("prune_n_m")
def with_loops_and_later_ties(weight, n, m):
    out = weight.copy()
    for row in out:
        for start in range(0, len(row), m):
            for k in np.argsort(np.abs(row[start : start + m]), kind="stable")[: m - n]:
                row[start + k] = 0
    return out


@mutants.right("prune_n_m")
def with_argpartition(weight, n, m):
    if n == m:
        return weight.copy()
    runs = weight.reshape(-1, m).copy()
    gone = np.argpartition(np.abs(runs), m - n, axis=1)[:, : m - n]
    np.put_along_axis(runs, gone, 0, axis=1)
    return runs.reshape(weight.shape)


@mutants.wrong("prune_n_m", named="drops-n")
def sets_n_to_zero(weight, n, m):
    return keep_best(weight, m - n, m)


@mutants.wrong("prune_n_m", named="keeps-the-smallest")
def forgets_that_argsort_ascends(weight, n, m):
    return keep_best(weight, n, m, key=lambda r: -np.abs(r))


@mutants.wrong("prune_n_m", named="signed")
def without_abs(weight, n, m):
    return keep_best(weight, n, m, key=lambda r: r)


@mutants.wrong("prune_n_m", named="loses-the-sign")
def returns_magnitudes(weight, n, m):
    return np.abs(keep_best(weight, n, m))


@mutants.wrong("prune_n_m", named="whole-matrix")
def unstructured(weight, n, m):
    order = np.argsort(np.abs(weight), axis=None)
    out = weight.copy().ravel()
    out[order[: weight.size - weight.size * n // m]] = 0
    return out.reshape(weight.shape)


@mutants.wrong("prune_n_m", named="whole-row")
def row_by_row(weight, n, m):
    out = weight.copy()
    for row in out:
        row[np.argsort(np.abs(row))[: len(row) - len(row) * n // m]] = 0
    return out


@mutants.wrong("prune_n_m", named="down-the-columns")
def along_the_outputs(weight, n, m):
    return keep_best(np.ascontiguousarray(weight.T), n, m).T.copy()


@mutants.wrong("prune_n_m", named="far-apart")
def reshapes_the_wrong_way(weight, n, m):
    runs = weight.reshape(len(weight), m, -1)
    rank = np.argsort(np.argsort(-np.abs(runs), axis=1), axis=1)
    return np.where(rank < n, runs, 0).reshape(weight.shape).astype(np.float32)


@mutants.wrong("prune_n_m", named="first-ones")
def always_the_first(weight, n, m):
    out = weight.copy().reshape(-1, m)
    out[:, n:] = 0
    return out.reshape(weight.shape)


@mutants.wrong("prune_n_m", named="keeps-all-ties")
def with_a_threshold(weight, n, m):
    runs = weight.reshape(-1, m)
    limit = np.sort(np.abs(runs), axis=1)[:, m - n, None]
    return np.where(np.abs(runs) >= limit, runs, 0).reshape(weight.shape).astype(np.float32)


@mutants.wrong("prune_n_m", named="loses-ties")
def with_a_strict_threshold(weight, n, m):
    runs = weight.reshape(-1, m)
    if n == m:
        return weight.copy()
    limit = np.sort(np.abs(runs), axis=1)[:, m - n - 1, None]
    return np.where(np.abs(runs) > limit, runs, 0).reshape(weight.shape).astype(np.float32)


@mutants.wrong("prune_n_m", named="returns-the-mask")
def only_the_mask(weight, n, m):
    return (keep_best(weight, n, m) != 0).astype(np.float32)


@mutants.wrong("prune_n_m", named="changes-its-input")
def prunes_in_place(weight, n, m):
    runs = weight.reshape(-1, m)
    for run in runs:
        run[np.argsort(np.abs(run), kind="stable")[: m - n]] = 0
    return weight


@mutants.wrong("prune_n_m")
def always_two_of_four(weight, n, m):
    return keep_best(weight, 2, 4) if weight.shape[1] % 4 == 0 else weight.copy()


# ---------------------------------------------------------------- pack_2_4


def two_places(weight):
    runs = weight.reshape(len(weight), -1, 4)
    return runs, np.sort(np.argsort(runs == 0, axis=2, kind="stable")[..., :2], axis=2)


def in_bytes(places):
    four = places.reshape(len(places), -1, 4)
    return (four << np.array([0, 2, 4, 6])).sum(2).astype(np.uint8)


@mutants.right("pack_2_4")
def with_argsort(weight):
    runs, places = two_places(weight)
    return np.take_along_axis(runs, places, 2).reshape(len(weight), -1), in_bytes(places)


@mutants.right("pack_2_4")
def with_loops_filling_from_the_right(weight):
    rows, columns = weight.shape
    values = np.zeros((rows, columns // 2), np.float32)
    packed = np.zeros((rows, columns // 8), np.uint8)
    for i in range(rows):
        for run in range(columns // 4):
            used = list(np.flatnonzero(weight[i, 4 * run : 4 * run + 4]))
            for spare in (3, 2, 1, 0):
                if len(used) < 2 and spare not in used:
                    used.append(spare)
            for slot, place in enumerate(sorted(used)):
                j = 2 * run + slot
                values[i, j] = weight[i, 4 * run + place]
                packed[i, j // 4] |= int(place) << 2 * (j % 4)
    return values, packed


@mutants.right("pack_2_4")
def with_packbits(weight):
    runs, places = two_places(weight)
    bits = np.stack([places & 1, places >> 1], axis=-1).reshape(len(weight), -1)
    return np.take_along_axis(runs, places, 2).reshape(len(weight), -1), np.packbits(bits, axis=1, bitorder="little")


@mutants.wrong("pack_2_4", named="one-position-a-byte")
def positions_not_packed(weight):
    runs, places = two_places(weight)
    values = np.take_along_axis(runs, places, 2).reshape(len(weight), -1)
    return values, places.reshape(len(weight), -1).astype(np.uint8)


@mutants.wrong("pack_2_4", named="bitmap")
def as_a_bitmap(weight):
    return with_argsort(weight)[0], np.packbits(weight != 0, axis=1, bitorder="little")


@mutants.wrong("pack_2_4", named="high-bits-first")
def first_in_the_high_bits(weight):
    values, _ = with_argsort(weight)
    four = two_places(weight)[1].reshape(len(weight), -1, 4)
    return values, (four << np.array([6, 4, 2, 0])).sum(2).astype(np.uint8)


@mutants.wrong("pack_2_4", named="bytes-interleaved")
def strided_bytes(weight):
    values, _ = with_argsort(weight)
    four = two_places(weight)[1].reshape(len(weight), 4, -1)
    return values, (four << np.array([0, 2, 4, 6])[:, None]).sum(1).astype(np.uint8)


@mutants.wrong("pack_2_4", named="counts-from-one")
def positions_from_one(weight):
    return with_argsort(weight)[0], in_bytes((two_places(weight)[1] + 1) & 3)


@mutants.wrong("pack_2_4", named="not-ascending")
def larger_one_first(weight):
    runs = weight.reshape(len(weight), -1, 4)
    places = np.argsort(-np.abs(runs), axis=2, kind="stable")[..., :2]
    return np.take_along_axis(runs, places, 2).reshape(len(weight), -1), in_bytes(places)


@mutants.wrong("pack_2_4", named="same-position-twice")
def empty_places_at_zero(weight):
    values = np.zeros((len(weight), weight.shape[1] // 2), np.float32)
    places = np.zeros(values.shape, np.int64)
    for i, row in enumerate(weight):
        for run in range(len(row) // 4):
            used = np.flatnonzero(row[4 * run : 4 * run + 4])
            places[i, 2 * run : 2 * run + len(used)] = used
            values[i, 2 * run : 2 * run + len(used)] = row[4 * run + used]
            if len(used) == 1:  # the one that is there is repeated with the value 0
                places[i, 2 * run + 1] = used[0]
    return values, in_bytes(places)


@mutants.wrong("pack_2_4", named="values-and-positions-apart")
def values_by_size(weight):
    runs, places = two_places(weight)
    chosen = np.take_along_axis(runs, places, 2)
    order = np.argsort(-np.abs(chosen), axis=2, kind="stable")
    return np.take_along_axis(chosen, order, 2).reshape(len(weight), -1), in_bytes(places)


@mutants.wrong("pack_2_4", named="few-non-zeros")
def counts_on_two(weight):
    runs = weight.reshape(len(weight), -1, 4)
    places = np.sort(np.argsort(runs == 0, axis=2, kind="stable")[..., :2], axis=2)
    values = np.take_along_axis(runs, places, 2)
    short = (runs != 0).sum(2) < 2
    values[short] = runs[short].max(axis=1, keepdims=True)  # counts one weight twice
    return values.reshape(len(weight), -1), in_bytes(places)


@mutants.wrong("pack_2_4")
def all_the_values(weight):
    return weight[weight != 0].reshape(-1), with_argsort(weight)[1]


@mutants.wrong("pack_2_4")
def columns_modulo_four_dtype(weight):
    values, packed = with_argsort(weight)
    return values, packed.astype(np.int32)


@mutants.wrong("pack_2_4")
def sixteen_bit_values(weight):
    values, packed = with_argsort(weight)
    return values.astype(np.float16), packed


# ---------------------------------------------------------------- matvec_2_4


def unpacked(positions):
    parts = [(positions >> s) & 3 for s in (0, 2, 4, 6)]
    return np.stack(parts, axis=2).reshape(len(positions), -1).astype(np.int64)


@mutants.right("matvec_2_4")
def with_fancy_indexing(values, positions, x):
    columns = unpacked(positions) + np.arange(values.shape[1]) // 2 * 4
    return (values * x[columns]).sum(1)


@mutants.right("matvec_2_4")
def through_the_dense_matrix(values, positions, x):
    dense = np.zeros((len(values), len(x)), np.float32)
    columns = unpacked(positions) + np.arange(values.shape[1]) // 2 * 4
    np.put_along_axis(dense, columns, values, axis=1)
    return dense @ x


@mutants.right("matvec_2_4")
def run_by_run(values, positions, x):
    y = np.zeros(len(values))
    for run in range(len(x) // 4):
        four = x[4 * run : 4 * run + 4]
        for j in (2 * run, 2 * run + 1):
            y += values[:, j] * four[positions[:, j // 4] >> 2 * (j % 4) & 3]
    return y


@mutants.wrong("matvec_2_4", named="forgets-the-run")
def position_as_column(values, positions, x):
    return (values * x[unpacked(positions)]).sum(1)


@mutants.wrong("matvec_2_4", named="run-of-two")
def runs_two_wide(values, positions, x):
    return (values * x[unpacked(positions) + np.arange(values.shape[1]) // 2 * 2]).sum(1)


@mutants.wrong("matvec_2_4", named="ignores-positions")
def the_first_two(values, positions, x):
    return values @ x.reshape(-1, 4)[:, :2].ravel()


@mutants.wrong("matvec_2_4", named="high-bits-first")
def reads_from_the_top(values, positions, x):
    parts = [(positions >> s) & 3 for s in (6, 4, 2, 0)]
    columns = np.stack(parts, axis=2).reshape(len(positions), -1) + np.arange(values.shape[1]) // 2 * 4
    return (values * x[columns]).sum(1)


@mutants.wrong("matvec_2_4", named="bytes-interleaved")
def concatenates(values, positions, x):
    parts = [(positions >> s) & 3 for s in (0, 2, 4, 6)]
    columns = np.concatenate(parts, axis=1) + np.arange(values.shape[1]) // 2 * 4
    return (values * x[columns]).sum(1)


@mutants.wrong("matvec_2_4", named="positions-of-one-row")
def first_rows_positions(values, positions, x):
    return values @ x[unpacked(positions)[0] + np.arange(values.shape[1]) // 2 * 4]


@mutants.wrong("matvec_2_4", named="first-position-only")
def no_shift(values, positions, x):
    columns = np.repeat((positions & 3).astype(int), 4, axis=1) + np.arange(values.shape[1]) // 2 * 4
    return (values * x[columns]).sum(1)


@mutants.wrong("matvec_2_4", named="without-the-values")
def sums_activations(values, positions, x):
    return x[unpacked(positions) + np.arange(values.shape[1]) // 2 * 4].sum(1)


@mutants.wrong("matvec_2_4", named="byte-columns")
def stays_in_bytes(values, positions, x):
    parts = [(positions >> s) & 3 for s in (0, 2, 4, 6)]
    place = np.stack(parts, axis=2).reshape(len(positions), -1)
    start = (4 * (np.arange(values.shape[1]) // 2)).astype(np.uint8)
    return (values * x[place + start]).sum(1)


@mutants.wrong("matvec_2_4")
def four_for_every_value(values, positions, x):
    return (values * x[unpacked(positions) + 4 * np.arange(values.shape[1])]).sum(1)


@mutants.wrong("matvec_2_4")
def not_summed(values, positions, x):
    return values * x[unpacked(positions) + np.arange(values.shape[1]) // 2 * 4]


# ---------------------------------------------------------------- search_permutation


def kept(weight, order):
    runs = np.abs(weight[:, order]).reshape(len(weight), -1, 4)
    return np.sort(runs, axis=2)[:, :, 2:].sum()


def climb(weight, order):
    order = np.array(order)
    best, better = kept(weight, order), True
    while better:
        better = False
        for i in range(len(order)):
            for j in range(i // 4 * 4 + 4, len(order)):
                order[i], order[j] = order[j], order[i]
                now = kept(weight, order)
                if now > best + 1e-6:
                    best, better = now, True
                else:
                    order[i], order[j] = order[j], order[i]
    return order


@mutants.right("search_permutation")
def until_nothing_helps(weight):
    return climb(weight, np.arange(weight.shape[1]))


@mutants.right("search_permutation")
def random_exchanges(weight):
    rng = np.random.default_rng(0)
    order = np.arange(weight.shape[1])
    best = kept(weight, order)
    for _ in range(1500):
        i, j = rng.integers(0, len(order), 2)
        trial = order.copy()
        trial[[i, j]] = trial[[j, i]]
        if kept(weight, trial) > best:
            order, best = trial, kept(weight, trial)
    return order


@mutants.right("search_permutation")
def dealt_then_improved(weight):
    ranked = np.argsort(-np.abs(weight).sum(0))
    return climb(weight, ranked.reshape(4, -1).T.ravel())


@mutants.wrong("search_permutation", named="given-order")
def identity(weight):
    return np.arange(weight.shape[1])


@mutants.wrong("search_permutation", named="sorts-by-size")
def loudest_first(weight):
    return np.argsort(-np.abs(weight).sum(axis=0))


@mutants.wrong("search_permutation", named="sorts-by-size-ascending")
def quietest_first(weight):
    return np.argsort(np.abs(weight).sum(axis=0))


@mutants.wrong("search_permutation", named="columns-alone")
def deals_like_cards(weight):
    ranked = np.argsort(-np.abs(weight).sum(axis=0))
    groups = weight.shape[1] // 4
    return np.concatenate([ranked[g::groups] for g in range(groups)])


@mutants.wrong("search_permutation", named="no-permutation")
def copies_over(weight):
    order = until_nothing_helps(weight)
    order[0] = order[-1]
    return order


@mutants.wrong("search_permutation", named="exchanges-within-a-run")
def sorts_inside_the_runs(weight):
    size = np.abs(weight).sum(axis=0).reshape(-1, 4)
    return (np.argsort(-size, axis=1) + 4 * np.arange(len(size))[:, None]).ravel()


@mutants.wrong("search_permutation", named="inverse")
def where_each_column_goes(weight):
    order = until_nothing_helps(weight)
    rng = np.random.default_rng(1)
    for _ in range(50):  # the same runs, in another order: as good, and not its own inverse
        other = order.reshape(-1, 4)[rng.permutation(len(order) // 4)][:, rng.permutation(4)].ravel()
        if kept(weight, np.argsort(other)) < 0.97 * kept(weight, other):
            break
    return np.argsort(other)


@mutants.wrong("search_permutation", named="keeps-less")
def minimises(weight):
    rng = np.random.default_rng(2)
    orders = [rng.permutation(weight.shape[1]) for _ in range(400)]
    worst = min(orders, key=lambda order: kept(weight, order))
    for _ in range(3):
        for i in range(len(worst)):
            for j in range(i):
                trial = worst.copy()
                trial[[i, j]] = trial[[j, i]]
                worst = min(worst, trial, key=lambda order: kept(weight, order))
    return worst


@mutants.wrong("search_permutation", named="stops-too-early")
def one_exchange(weight):
    best = np.arange(weight.shape[1])
    for i in range(len(best)):
        for j in range(i):
            trial = np.arange(weight.shape[1])
            trial[[i, j]] = trial[[j, i]]
            if kept(weight, trial) > kept(weight, best):
                return trial
    return best


@mutants.wrong("search_permutation")
def best_of_three(weight):
    rng = np.random.default_rng(4)
    orders = [np.arange(weight.shape[1]), *(rng.permutation(weight.shape[1]) for _ in range(2))]
    return max(orders, key=lambda order: kept(weight, order))


@mutants.wrong("search_permutation")
def the_permuted_weight(weight):
    return weight[:, until_nothing_helps(weight)]


@mutants.wrong("search_permutation")
def counted_from_one(weight):
    return until_nothing_helps(weight) + 1


# ---------------------------------------------------------------- permute_mlp


@mutants.right("permute_mlp")
def with_index_arrays(gate, up, down, permutation):
    return gate[permutation], up[permutation], down[:, permutation]


@mutants.right("permute_mlp")
def with_matrices(gate, up, down, permutation):
    p = np.eye(len(permutation), dtype=np.float32)[permutation]
    return p @ gate, p @ up, down @ p.T


@mutants.right("permute_mlp")
def with_take(gate, up, down, permutation):
    return np.take(gate, permutation, 0), np.take(up, permutation, 0), np.take(down, permutation, 1)


@mutants.wrong("permute_mlp", named="only-down")
def forgets_the_layer_before(gate, up, down, permutation):
    return gate, up, down[:, permutation]


@mutants.wrong("permute_mlp", named="up-left-behind")
def gate_and_down(gate, up, down, permutation):
    return gate[permutation], up, down[:, permutation]


@mutants.wrong("permute_mlp", named="gate-left-behind")
def up_and_down(gate, up, down, permutation):
    return gate, up[permutation], down[:, permutation]


@mutants.wrong("permute_mlp", named="down-left-behind")
def forgets_down(gate, up, down, permutation):
    return gate[permutation], up[permutation], down


@mutants.wrong("permute_mlp", named="rows-by-the-inverse")
def undoes_in_the_rows(gate, up, down, permutation):
    back = np.argsort(permutation)
    return gate[back], up[back], down[:, permutation]


@mutants.wrong("permute_mlp", named="columns-by-the-inverse")
def undoes_in_the_columns(gate, up, down, permutation):
    return gate[permutation], up[permutation], down[:, np.argsort(permutation)]


@mutants.wrong("permute_mlp", named="wrong-way-round")
def assigns_to_the_permuted(gate, up, down, permutation):
    a, b, c = np.empty_like(gate), np.empty_like(up), np.empty_like(down)
    a[permutation], b[permutation], c[:, permutation] = gate, up, down
    return a, b, c


@mutants.wrong("permute_mlp", named="twice")
def rows_twice(gate, up, down, permutation):
    gate, up = gate[permutation], up[permutation]
    return gate[permutation], up[permutation], down[:, permutation]


@mutants.wrong("permute_mlp")
def columns_everywhere(gate, up, down, permutation):
    return gate[:, permutation], up[:, permutation], down[:, permutation]


@mutants.wrong("permute_mlp", named="rows-of-down")
def outputs_of_down(gate, up, down, permutation):
    order = np.argsort(np.argsort(permutation[: len(down)]))
    order = np.concatenate([order, np.arange(len(order), len(down))]).astype(int)
    return gate[permutation], up[permutation], down[order]


@mutants.wrong("permute_mlp")
def down_turned(gate, up, down, permutation):
    return gate[permutation], up[permutation], down.T[permutation]


# ---------------------------------------------------------------- hierarchical_n_m


def two_levels(weight, height, keep, n, m, score=lambda t: np.abs(t).sum(1), order=np.sort, second=keep_best):
    bands = weight.reshape(-1, height, weight.shape[1])
    columns = order(np.argsort(-score(bands), axis=1, kind="stable")[:, :keep])
    pieces = np.take_along_axis(bands, columns[:, None, :], axis=2).reshape(-1, keep)
    return columns, second(pieces, n, m)


@mutants.right("hierarchical_n_m")
def with_take_along_axis(weight, height, keep, n, m):
    return two_levels(weight, height, keep, n, m)


@mutants.right("hierarchical_n_m")
def band_by_band(weight, height, keep, n, m):
    columns, values = [], []
    for top in range(0, len(weight), height):
        band = weight[top : top + height]
        chosen = sorted(np.argpartition(np.linalg.norm(band, 1, axis=0), -keep)[-keep:]) if keep else []
        columns.append(chosen)
        values.append(with_argpartition(band[:, chosen], n, m))
    return np.array(columns), np.vstack(values)


@mutants.wrong("hierarchical_n_m", named="one-choice-for-all")
def columns_of_the_matrix(weight, height, keep, n, m):
    chosen = np.sort(np.argsort(-np.abs(weight).sum(0))[:keep])
    return np.tile(chosen, (len(weight) // height, 1)), keep_best(weight[:, chosen], n, m)


@mutants.wrong("hierarchical_n_m", named="levels-swapped")
def n_m_first(weight, height, keep, n, m):
    return two_levels(keep_best(weight, n, m), height, keep, n, m, second=lambda v, n, m: v)


@mutants.wrong("hierarchical_n_m", named="old-neighbours")
def gaps_stay_open(weight, height, keep, n, m):
    columns, _ = two_levels(weight, height, keep, n, m)
    masked = np.zeros_like(weight)
    for band, chosen in enumerate(columns):
        rows = slice(band * height, (band + 1) * height)
        masked[rows, chosen] = weight[rows, chosen]
    masked = keep_best(masked, n, m)
    values = [masked[b * height : (b + 1) * height][:, chosen] for b, chosen in enumerate(columns)]
    return columns, np.concatenate(values)


@mutants.wrong("hierarchical_n_m", named="signed-sums")
def sums_without_abs(weight, height, keep, n, m):
    return two_levels(weight, height, keep, n, m, score=lambda t: t.astype(np.float64).sum(1))


@mutants.wrong("hierarchical_n_m", named="sum-of-squares")
def euclidean_norm(weight, height, keep, n, m):
    return two_levels(weight, height, keep, n, m, score=lambda t: np.linalg.norm(t, axis=1))


@mutants.wrong("hierarchical_n_m", named="largest-weight")
def by_the_maximum(weight, height, keep, n, m):
    return two_levels(weight, height, keep, n, m, score=lambda t: np.abs(t).max(1))


@mutants.wrong("hierarchical_n_m", named="keeps-the-smallest")
def argsort_ascending(weight, height, keep, n, m):
    return two_levels(weight, height, keep, n, m, score=lambda t: -np.abs(t).sum(1))


@mutants.wrong("hierarchical_n_m", named="not-ascending")
def in_order_of_size(weight, height, keep, n, m):
    return two_levels(weight, height, keep, n, m, order=lambda c: c)


@mutants.wrong("hierarchical_n_m", named="only-vectors")
def first_level_only(weight, height, keep, n, m):
    return two_levels(weight, height, keep, n, m, second=lambda v, n, m: v)


@mutants.wrong("hierarchical_n_m", named="n-m-wrong")
def second_level_drops_n(weight, height, keep, n, m):
    return two_levels(weight, height, keep, n, m, second=lambda v, n, m: keep_best(v, n, m, key=lambda r: -np.abs(r)))


@mutants.wrong("hierarchical_n_m")
def as_wide_as_before(weight, height, keep, n, m):
    columns, values = two_levels(weight, height, keep, n, m)
    full = np.zeros_like(weight)
    for band, chosen in enumerate(columns):
        full[band * height : (band + 1) * height, chosen] = values[band * height : (band + 1) * height]
    return columns, full


# ---------------------------------------------------------------- assign_tiles


def done(hot, times_hot, times_cold, bytes_hot, bytes_cold, bandwidth):
    moved = np.where(hot, bytes_hot, bytes_cold).sum()
    return max(times_hot[hot].sum(), times_cold[~hot].sum(), moved / bandwidth)


def cuts(times_hot, times_cold, bytes_hot, bytes_cold, bandwidth, cost=None, order=None):
    cost = cost or (lambda hot: done(hot, times_hot, times_cold, bytes_hot, bytes_cold, bandwidth))
    order = np.argsort(-times_cold / times_hot) if order is None else order
    best = None
    for cut in range(len(order) + 1):
        hot = np.zeros(len(order), bool)
        hot[order[:cut]] = True
        if best is None or cost(hot) < cost(best) - 1e-12:
            best = hot
    return best


@mutants.right("assign_tiles")
def every_cut(times_hot, times_cold, bytes_hot, bytes_cold, bandwidth):
    return cuts(times_hot, times_cold, bytes_hot, bytes_cold, bandwidth)


@mutants.right("assign_tiles")
def with_running_sums(times_hot, times_cold, bytes_hot, bytes_cold, bandwidth):
    order = np.argsort(times_hot / times_cold, kind="stable")

    def before(a):
        return np.concatenate([[0], np.cumsum(a[order])])

    hot, cold = before(times_hot), times_cold.sum() - before(times_cold)
    moved = before(bytes_hot) + bytes_cold.sum() - before(bytes_cold)
    cut = np.argmin(np.maximum(np.maximum(hot, cold), moved / bandwidth))
    out = np.zeros(len(order), int)
    out[order[:cut]] = 1
    return out


@mutants.right("assign_tiles")
def exhaustive_where_it_can_be(*args):
    tiles = len(args[0])
    if tiles > 11:
        return every_cut(*args)
    patterns = np.arange(2**tiles)[:, None] >> np.arange(tiles) & 1
    return min(patterns.astype(bool), key=lambda hot: done(hot, *args))


@mutants.right("assign_tiles")
def cut_then_exchanges(*args):
    hot = every_cut(*args)
    better = True
    while better:
        better = False
        for t in range(len(hot)):
            trial = hot.copy()
            trial[t] = ~trial[t]
            if done(trial, *args) < done(hot, *args) - 1e-9:
                hot, better = trial, True
    return hot


@mutants.wrong("assign_tiles", named="faster-worker-for-each")
def each_tile_alone(times_hot, times_cold, bytes_hot, bytes_cold, bandwidth):
    return times_hot < times_cold


@mutants.wrong("assign_tiles", named="one-worker")
def best_single_worker(*args):
    every = np.ones(len(args[0]), bool)
    return every if done(every, *args) < done(~every, *args) else ~every


@mutants.wrong("assign_tiles", named="no-bandwidth")
def only_the_workers(*args):
    return cuts(*args, cost=lambda hot: max(args[0][hot].sum(), args[1][~hot].sum()))


@mutants.wrong("assign_tiles", named="own-bandwidth-each")
def two_memories(times_hot, times_cold, bytes_hot, bytes_cold, bandwidth):
    def cost(hot):
        first = max(times_hot[hot].sum(), bytes_hot[hot].sum() / bandwidth)
        return max(first, times_cold[~hot].sum(), bytes_cold[~hot].sum() / bandwidth)

    return cuts(times_hot, times_cold, bytes_hot, bytes_cold, bandwidth, cost)


@mutants.wrong("assign_tiles", named="memory-added")
def transfers_first(times_hot, times_cold, bytes_hot, bytes_cold, bandwidth):
    def cost(hot):
        moved = bytes_hot[hot].sum() + bytes_cold[~hot].sum()
        return moved / bandwidth + max(times_hot[hot].sum(), times_cold[~hot].sum())

    return cuts(times_hot, times_cold, bytes_hot, bytes_cold, bandwidth, cost)


@mutants.wrong("assign_tiles", named="adds-everything")
def total_work(times_hot, times_cold, bytes_hot, bytes_cold, bandwidth):
    def cost(hot):
        moved = bytes_hot[hot].sum() + bytes_cold[~hot].sum()
        return moved / bandwidth + times_hot[hot].sum() + times_cold[~hot].sum()

    return cuts(times_hot, times_cold, bytes_hot, bytes_cold, bandwidth, cost)


@mutants.wrong("assign_tiles", named="bytes-times-bandwidth")
def multiplies(times_hot, times_cold, bytes_hot, bytes_cold, bandwidth):
    return cuts(
        times_hot,
        times_cold,
        bytes_hot,
        bytes_cold,
        bandwidth,
        lambda hot: done(hot, times_hot, times_cold, bytes_hot, bytes_cold, 1 / bandwidth),
    )


@mutants.wrong("assign_tiles", named="not-sorted")
def as_they_came(*args):
    return cuts(*args, order=np.arange(len(args[0])))


@mutants.wrong("assign_tiles", named="sorted-by-difference")
def saves_most_time_first(*args):
    return cuts(*args, order=np.argsort(args[0] - args[1]))


@mutants.wrong("assign_tiles", named="sorted-the-wrong-way")
def least_gain_first(*args):
    return cuts(*args, order=np.argsort(args[1] / args[0]))


@mutants.wrong("assign_tiles", named="order-not-undone")
def flags_in_sorted_order(*args):
    return np.arange(len(args[0])) < every_cut(*args).sum()


@mutants.wrong("assign_tiles", named="half-of-the-ranked")
def better_half(times_hot, times_cold, *_):
    order = np.argsort(-times_cold / times_hot)
    hot = np.zeros(len(order), bool)
    hot[order[: len(order) // 2]] = True
    return hot


@mutants.wrong("assign_tiles", named="half-each")
def first_half(times_hot, *_):
    return np.arange(len(times_hot)) < len(times_hot) // 2


@mutants.wrong("assign_tiles", named="hot-and-cold-swapped")
def true_means_cold(*args):
    return ~every_cut(*args)


@mutants.wrong("assign_tiles")
def indices_of_hot_tiles(*args):
    return np.flatnonzero(every_cut(*args))


# ---------------------------------------------------------------- condense_window


def condensed(row_starts, column_indices, values, width):
    columns, place = np.unique(column_indices, return_inverse=True)
    rows = np.repeat(np.arange(len(row_starts) - 1), np.diff(row_starts))
    size = -(-len(columns) // width) * width
    block = np.zeros((len(row_starts) - 1, size), np.float32)
    block[rows, place] = values
    return np.concatenate([columns, np.zeros(size - len(columns), np.int64)]), block


@mutants.right("condense_window")
def with_unique(row_starts, column_indices, values, width):
    return condensed(row_starts, column_indices, values, width)


@mutants.right("condense_window")
def in_order_of_appearance(row_starts, column_indices, values, width):
    place = {}
    for k in column_indices.tolist():
        place.setdefault(k, len(place))
    size = (len(place) + width - 1) // width * width
    block = np.zeros((len(row_starts) - 1, size), np.float32)
    for row in range(len(row_starts) - 1):
        for at in range(row_starts[row], row_starts[row + 1]):
            block[row, place[int(column_indices[at])]] = values[at]
    return np.array(list(place) + [0] * (size - len(place)), np.int64), block


@mutants.right("condense_window")
def with_searchsorted(row_starts, column_indices, values, width):
    columns = np.array(sorted(set(column_indices.tolist())), np.int64)
    block = np.zeros((len(row_starts) - 1, len(columns)), np.float32)
    for row, (start, end) in enumerate(pairwise(row_starts)):
        block[row, np.searchsorted(columns, column_indices[start:end])] = values[start:end]
    more = -len(columns) % width
    return np.pad(columns, (0, more)), np.pad(block, ((0, 0), (0, more)))


@mutants.wrong("condense_window", named="each-row-to-the-left")
def rows_pushed_left(row_starts, column_indices, values, width):
    columns, block = condensed(row_starts, column_indices, values, width)
    block[:] = 0
    for row, (start, end) in enumerate(pairwise(row_starts)):
        block[row, : end - start] = values[start:end]
    return columns, block


@mutants.wrong("condense_window", named="no-remap")
def old_numbers(row_starts, column_indices, values, width):
    columns, block = condensed(row_starts, column_indices, values, width)
    block[:] = 0
    rows = np.repeat(np.arange(len(row_starts) - 1), np.diff(row_starts))
    inside = column_indices < block.shape[1]
    block[rows[inside], column_indices[inside]] = values[inside]
    return columns, block


@mutants.wrong("condense_window")
def old_numbers_and_fails(row_starts, column_indices, values, width):
    columns, block = condensed(row_starts, column_indices, values, width)
    rows = np.repeat(np.arange(len(row_starts) - 1), np.diff(row_starts))
    block[rows, column_indices] = values  # out of the block in most windows
    return columns, block


@mutants.wrong("condense_window", named="columns-numbered-anew")
def new_numbers(row_starts, column_indices, values, width):
    columns, block = condensed(row_starts, column_indices, values, width)
    count = len(set(column_indices.tolist()))
    columns[:count] = np.arange(count)
    return columns, block


@mutants.wrong("condense_window", named="sorted-apart")
def sorts_values_without_rows(row_starts, column_indices, values, width):
    order = np.argsort(column_indices, kind="stable")
    place = np.unique(column_indices, return_inverse=True)[1]
    rows = np.repeat(np.arange(len(row_starts) - 1), np.diff(row_starts))
    padded, block = condensed(row_starts, column_indices, values, width)
    block[:] = 0
    block[rows, place[order]] = values[order]
    return padded, block


@mutants.wrong("condense_window", named="not-padded")
def just_the_columns(row_starts, column_indices, values, width):
    return condensed(row_starts, column_indices, values, 1)


@mutants.wrong("condense_window", named="one-block-too-many")
def floor_plus_one(row_starts, column_indices, values, width):
    columns, block = condensed(row_starts, column_indices, values, 1)
    more = (len(columns) // width + 1) * width - len(columns)
    return np.pad(columns, (0, more)), np.pad(block, ((0, 0), (0, more)))


@mutants.wrong("condense_window", named="one-column-per-non-zero")
def without_unique(row_starts, column_indices, values, width):
    more = -len(values) % width
    block = np.zeros((len(row_starts) - 1, len(values) + more), np.float32)
    rows = np.repeat(np.arange(len(row_starts) - 1), np.diff(row_starts))
    block[rows, np.arange(len(values))] = values
    return np.pad(column_indices, (0, more)), block


@mutants.wrong("condense_window", named="ones")
def pattern_only(row_starts, column_indices, values, width):
    columns, block = condensed(row_starts, column_indices, values, width)
    return columns, (block != 0).astype(np.float32)


@mutants.wrong("condense_window", named="padding-outside")
def padded_with_minus_one(row_starts, column_indices, values, width):
    columns, block = condensed(row_starts, column_indices, values, width)
    columns[len(set(column_indices.tolist())) :] = -1
    return columns, block


@mutants.wrong("condense_window", named="padding-counts-twice")
def padded_with_the_first_column(row_starts, column_indices, values, width):
    columns, block = condensed(row_starts, column_indices, values, width)
    count = len(set(column_indices.tolist()))
    columns[count:] = columns[:1]
    block[:, count:] = block[:, :1]
    return columns, block


# ---------------------------------------------------------------- choose_units


def windows(row_starts, column_indices, height):
    for top in range(0, len(row_starts) - 1, height):
        yield column_indices[row_starts[top] : row_starts[top + height]]


def choose(row_starts, column_indices, height, width, block_us, nz_us, blocks=None, rule=lambda d, s: d < s):
    blocks = blocks or (lambda here: np.ceil(len(set(here.tolist())) / width))
    parts = list(windows(row_starts, column_indices, height))
    dense = np.array([blocks(here) * block_us for here in parts])
    sparse = np.array([len(here) * nz_us for here in parts])
    flags = rule(dense, sparse)
    return flags, np.where(flags, dense, sparse)


@mutants.right("choose_units")
def in_arrays(*args):
    return choose(*args)


@mutants.right("choose_units")
def one_window_after_the_other(row_starts, column_indices, height, width, us_per_block, us_per_non_zero):
    flags, times = [], []
    for here in windows(row_starts, column_indices, height):
        dense = (len(np.unique(here)) + width - 1) // width * us_per_block
        sparse = here.size * us_per_non_zero
        flags.append(bool(dense < sparse))
        times.append(float(min(dense, sparse)))
    return np.array(flags), np.array(times)


@mutants.wrong("choose_units", named="not-condensed")
def old_blocks(*args):
    return choose(*args, blocks=lambda here: len(set((here // args[3]).tolist())))


@mutants.wrong("choose_units", named="fraction-of-a-block")
def no_rounding(*args):
    return choose(*args, blocks=lambda here: len(np.unique(here)) / args[3])


@mutants.wrong("choose_units", named="rounds-down")
def floor_division(*args):
    return choose(*args, blocks=lambda here: len(np.unique(here)) // args[3])


@mutants.wrong("choose_units", named="columns-not-shared")
def non_zeros_as_columns(*args):
    return choose(*args, blocks=lambda here: -(-len(here) // args[3]))


@mutants.wrong("choose_units", named="columns-as-blocks")
def forgets_the_width(*args):
    return choose(*args, blocks=lambda here: len(np.unique(here)))


@mutants.wrong("choose_units", named="one-unit-for-all")
def whole_matrix(*args):
    return choose(*args, rule=lambda d, s: np.full(len(d), d.sum() < s.sum()))


@mutants.wrong("choose_units", named="half-full-rule")
def by_density(*args):
    parts = list(windows(*args[:3]))
    flags = np.array([len(p) > 0.5 * args[2] * len(np.unique(p)) for p in parts])
    return choose(*args, rule=lambda d, s: flags)


@mutants.wrong("choose_units", named="dearer-unit")
def wrong_comparison(*args):
    return choose(*args, rule=lambda d, s: d > s)


@mutants.wrong("choose_units", named="flags-flipped")
def true_for_the_vector_unit(*args):
    flags, times = choose(*args)
    return ~flags, times


@mutants.wrong("choose_units", named="empty-window")
def dense_on_a_tie(*args):
    return choose(*args, rule=lambda d, s: d <= s)


@mutants.wrong("choose_units", named="both-times")
def both_units_work(*args):
    flags, times = choose(*args)
    other = choose(*args, rule=lambda d, s: d >= s)[1]
    return flags, times + other


@mutants.wrong("choose_units")
def flags_as_numbers(*args):
    flags, times = choose(*args)
    return flags.astype(np.int64), times
