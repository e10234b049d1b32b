"""Right and wrong answers of lab 6."""

from collections import OrderedDict

import numpy as np
from edgeinfer.grading.mutants import Mutants

mutants = Mutants("lab06_sharing_weights")


def add(exercise, function, name, named="", right=False):
    """Register a short answer; a lambda gets its name here."""
    function.__name__ = name
    (mutants.right(exercise) if right else mutants.wrong(exercise, named))(function)


def unit(rows):
    rows = np.asarray(rows, np.float64).reshape(len(rows), -1)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


# ---------------------------------------------------------------- head_similarity


@mutants.right("head_similarity")
def stacked(q, k):
    both = np.concatenate([unit(q), unit(k)], 1) / np.sqrt(2)
    return both @ both.T


@mutants.right("head_similarity")
def with_einsum(q, k):
    out = np.float32(0)
    for p in (q, k):
        dots = np.einsum("iak,jak->ij", p, p)
        size = np.sqrt(np.diag(dots))
        out = out + dots / size[:, None] / size / 2
    return out.astype(np.float32)


def flat(p):
    return np.asarray(p, np.float64).reshape(len(p), -1)


def centred(p):
    return flat(p) - flat(p).mean(1, keepdims=True)


def mean_of_rows(p):
    return np.mean([unit(p[:, row]) @ unit(p[:, row]).T for row in range(p.shape[1])], axis=0)


for name, function, named in (
    ("products", lambda q, k: (flat(q) @ flat(q).T + flat(k) @ flat(k).T) / 2, "not-normalised"),
    (
        "one_piece",
        lambda q, k: unit(np.hstack([flat(q), flat(k)])) @ unit(np.hstack([flat(q), flat(k)])).T,
        "one-norm-for-both",
    ),
    ("queries", lambda q, k: unit(q) @ unit(q).T, "queries-only"),
    ("keys", lambda q, k: unit(k) @ unit(k).T, "keys-only"),
    ("magnitudes", lambda q, k: (abs(unit(q) @ unit(q).T) + abs(unit(k) @ unit(k).T)) / 2, "sign-lost"),
    ("sums", lambda q, k: unit(q) @ unit(q).T + unit(k) @ unit(k).T, "sum-not-mean"),
    (
        "correlates",
        lambda q, k: (unit(centred(q)) @ unit(centred(q)).T + unit(centred(k)) @ unit(centred(k)).T) / 2,
        "correlation",
    ),
    ("row_by_row", lambda q, k: (mean_of_rows(q) + mean_of_rows(k)) / 2, "row-by-row"),
    ("columns", lambda q, k: unit(q).T @ unit(q), ""),
    ("distances", lambda q, k: 1 - (unit(q) @ unit(q).T + unit(k) @ unit(k).T) / 2, ""),
    ("multiplied", lambda q, k: (unit(q) @ unit(q).T) * (unit(k) @ unit(k).T), ""),
):
    add("head_similarity", function, name, named)

# ---------------------------------------------------------------- common_factor


@mutants.right("common_factor")
def stacked_svd(weights, rank):
    v = np.linalg.svd(weights.reshape(-1, weights.shape[2]), full_matrices=False)[2][:rank]
    return weights @ v.T @ v


@mutants.right("common_factor")
def from_the_left(weights, rank):
    side = np.concatenate([w.T for w in weights.astype(np.float64)], 1)
    u, s, v = np.linalg.svd(side, full_matrices=False)
    close = (u[:, :rank] * s[:rank]) @ v[:rank]
    return np.stack([part.T for part in np.split(close, len(weights), 1)])


def onto(weights, source, kept):
    v = np.linalg.svd(source, full_matrices=False)[2][kept]
    return weights @ v.T @ v


def onto_first(weights, basis):
    return weights @ basis @ basis.T


def tall(weights):
    return weights.reshape(-1, weights.shape[2])


def of_one_size(weights):
    return weights / np.linalg.norm(weights, axis=(1, 2), keepdims=True)


def outputs(weights, rank):
    u = np.linalg.svd(np.hstack(list(weights)), full_matrices=False)[0][:, :rank]
    return u @ (u.T @ weights)


for name, function, named in (
    ("each_alone", lambda w, r: np.stack([onto(one, one, slice(r)) for one in w]), "own-factors"),
    ("first", lambda w, r: onto(w, w[0], slice(r)), "first-layer-decides"),
    ("mean", lambda w, r: onto(w, w.mean(0), slice(r)), "mean-decides"),
    ("last", lambda w, r: onto(w, w[-1], slice(r)), ""),
    ("on_the_left", lambda w, r: outputs(w, r), "output-side"),
    ("smallest", lambda w, r: onto_first(w, np.linalg.eigh(tall(w).T @ tall(w))[1][:, :r]), "smallest-kept"),
    ("normalised", lambda w, r: onto(w, tall(of_one_size(w)), slice(r)), "layers-normalised"),
    (
        "components",
        lambda w, r: onto(w - w.mean((0, 1)), tall(w - w.mean((0, 1))), slice(r)) + w.mean((0, 1)),
        "centred",
    ),
    ("more", lambda w, r: onto(w, tall(w), slice(r + 1)), "one-too-many"),
    ("fewer", lambda w, r: onto(w, tall(w), slice(r - 1)), "one-too-few"),
    ("untouched", lambda w, r: w.copy(), ""),
    ("nothing", lambda w, r: np.zeros_like(w), ""),
):
    add("common_factor", function, name, named)

# ---------------------------------------------------------------- count_loads


@mutants.right("count_loads")
def ordered(order, room):
    held, loads = OrderedDict(), 0
    for b in order.tolist():
        loads += b not in held
        held[b] = True
        held.move_to_end(b)
        if len(held) > room:
            held.popitem(last=False)
    return loads


@mutants.right("count_loads")
def by_distance(order, room):
    loads, seen = 0, {}
    for t, b in enumerate(order.tolist()):
        loads += b not in seen or len(set(order[seen[b] + 1 : t].tolist())) >= room
        seen[b] = t
    return np.int64(loads)


def simulate(order, room, out=0, young=True):
    """The list by age, with switches: which end is dropped, whether a use makes young."""
    held, loads = [], 0
    for b in order.tolist():
        if b in held:
            if young:
                held.remove(b)
                held.append(b)
            continue
        loads += 1
        if held and len(held) >= room:
            held.pop(out)
        if room > 0:
            held.append(b)
    return loads


def newest_dropped(order, room):
    held, loads = [], 0
    for b in order.tolist():
        if b in held:
            held.remove(b)
        else:
            loads += 1
            del held[room - 1 :]
        held.append(b)
    return loads


for name, function, named in (
    ("distinct", lambda o, r: len(np.unique(o)), "each-once"),
    ("all_runs", lambda o, r: len(o), "no-cache"),
    ("changes", lambda o, r: simulate(o, 1), "one-block-room"),
    ("hits", lambda o, r: len(o) - simulate(o, r), "hits-counted"),
    ("fifo", lambda o, r: simulate(o, r, young=False), "first-in-first-out"),
    ("mru_with_uses", lambda o, r: newest_dropped(o, r), "most-recent-dropped"),
    ("mru", lambda o, r: simulate(o, r, -1, young=False), "most-recent-dropped"),
    ("larger", lambda o, r: simulate(o, r + 1), "room-plus-one"),
    ("smaller", lambda o, r: simulate(o, r - 1), "room-minus-one"),
    ("repeats", lambda o, r: simulate(o, r) - len(np.unique(o)), "first-loads-free"),
    ("nothing_loaded", lambda o, r: 0, ""),
):
    add("count_loads", function, name, named)

# ---------------------------------------------------------------- derive_tiles


@mutants.right("derive_tiles")
def by_projection(tiles, sources):
    length = np.linalg.norm(sources, axis=1)
    along = tiles @ (sources / length[:, None]).T
    index = abs(along).argmax(1)
    return index, np.take_along_axis(along, index[:, None], 1)[:, 0] / length[index]


@mutants.right("derive_tiles")
def by_error(tiles, sources):
    scales = (tiles @ sources.T).astype(np.float64) / (sources.astype(np.float64) ** 2).sum(1)
    error = ((tiles[:, None] - scales[..., None] * sources) ** 2).sum(-1)
    index = error.argmin(1)
    return index.tolist(), scales[np.arange(len(tiles)), index].tolist()


def choose(tiles, sources, rule="error", scale="least"):
    t, s = tiles[:, None].astype(np.float64), sources[None].astype(np.float64)
    dot, power = (t * s).sum(-1), (s * s).sum(-1)
    best = dot / power
    if scale == "positive":
        best = np.maximum(best, 0)
    score = {
        "error": ((t - best[..., None] * s) ** 2).sum(-1),
        "distance": ((t - s) ** 2).sum(-1),
        "product": -abs(dot),
        "one way": -dot / np.sqrt(power),
    }[rule]
    length = (t * t).sum(-1)
    scales = {
        "least": best,
        "positive": best,
        "lengths": np.sqrt(length / power),
        "signed lengths": np.sign(dot) * np.sqrt(length / power),
        "undivided": dot,
        "half": dot / np.sqrt(power),
        "ratios": (t / s).mean(-1),
        "inverse": dot / np.maximum(length, 1e-30),
    }[scale]
    index = score.argmin(1)
    return index, scales[np.arange(len(index)), index]


for name, function, named in (
    ("nearest", lambda t, s: choose(t, s, "distance"), "nearest-unscaled"),
    ("longest", lambda t, s: choose(t, s, "product"), "longest-source"),
    ("one_way", lambda t, s: choose(t, s, "one way"), "negative-forgotten"),
    ("positive", lambda t, s: choose(t, s, scale="positive"), "never-negative"),
    ("lengths", lambda t, s: choose(t, s, scale="lengths"), "length-ratio"),
    ("signed_lengths", lambda t, s: choose(t, s, scale="signed lengths"), "length-ratio"),
    ("undivided", lambda t, s: choose(t, s, scale="undivided"), "not-divided"),
    ("half_divided", lambda t, s: choose(t, s, scale="half"), "divided-by-length"),
    ("ratios", lambda t, s: choose(t, s, scale="ratios"), "mean-ratio"),
    ("inverse", lambda t, s: choose(t, s, scale="inverse"), "wrong-way-round"),
    ("unscaled", lambda t, s: (choose(t, s)[0], np.ones(len(t))), ""),
    ("shifted", lambda t, s: (choose(t, s)[0] + 1, choose(t, s)[1]), ""),
):
    add("derive_tiles", function, name, named)


# ---------------------------------------------------------------- handed in by readers


@mutants.wrong("head_similarity", named="multiplied")
def product_of_cosines(q, k):
    return (unit(q) @ unit(q).T) * (unit(k) @ unit(k).T)


@mutants.wrong("head_similarity", named="weighted-by-rows")
def by_number_of_rows(q, k):
    rows = (q.shape[1], k.shape[1])
    return (rows[0] * unit(q) @ unit(q).T + rows[1] * unit(k) @ unit(k).T) / sum(rows)


@mutants.wrong("head_similarity")
def over_the_largest_product(q, k):
    dots = [p.reshape(len(p), -1) @ p.reshape(len(p), -1).T for p in (q, k)]
    return sum(d / d.max() for d in dots) / 2


@mutants.wrong("common_factor", named="size-lost")
def without_singular_values(weights, rank):
    u, _, v = np.linalg.svd(tall(weights), full_matrices=False)
    return (u[:, :rank] @ v[:rank]).reshape(weights.shape)


@mutants.wrong("count_loads", named="runs-for-blocks")
def among_the_last_runs(order, room):
    return sum(b not in order[max(0, i - room) : i] for i, b in enumerate(order))


@mutants.wrong("count_loads", named="rarest-dropped")
def rarest_goes(order, room):
    held, uses, loads = [], {}, 0
    for b in map(int, order):
        uses[b] = uses.get(b, 0) + 1
        if b not in held:
            loads += 1
            if len(held) >= room:
                held.remove(min(held, key=uses.get))
            held.append(b)
    return loads


@mutants.wrong("count_loads")
def emptied_when_full(order, room):
    held, loads = set(), 0
    for b in map(int, order):
        if b not in held:
            loads += 1
            if len(held) >= room:
                held.clear()
            held.add(b)
    return loads


@mutants.wrong("derive_tiles", named="largest-scale")
def source_with_the_largest_scale(tiles, sources):
    scale = tiles @ sources.T / (sources**2).sum(1)
    index = np.abs(scale).argmax(1)
    return index, scale[np.arange(len(tiles)), index]
