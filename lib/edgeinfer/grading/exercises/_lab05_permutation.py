"""Lab 5, exercise 2: an order of columns that loses less under 2:4, and how a whole MLP follows it.

The search is judged by the magnitude that it keeps, compared with the best of all orders, which a dynamic programme
over sets of columns finds. Source: hierarchical-nm.
"""

from collections.abc import Callable
from functools import cache, lru_cache, partial
from itertools import combinations

import numpy as np

from edgeinfer.grading.exercise import Args, Arrays, Exercise, Misconception, Returns

# ---------------------------------------------------------------- 2a. search_permutation

SHARE = 0.85  # of the way from the given order to the best one


def _search_cases(rng: np.random.Generator) -> list[Args]:
    cases: list[Args] = []
    for rows, columns in ((6, 8), (9, 12), (12, 16), (4, 4)):
        weight = _rows_differ(rng, rows, columns)
        while 4 < columns < 16 and kept_in_order(weight, _dealt(weight)) > _needed(weight, 0.6)[1]:
            weight = _rows_differ(rng, rows, columns)  # looking at columns alone must not do by luck
        if columns == 16:  # here the given order is not the worst one
            worst, _, best = _needed(weight)
            order = rng.permutation(columns)
            while not worst * 1.02 < kept_in_order(weight, order) < 0.6 * worst + 0.4 * best:
                order = rng.permutation(columns)
            weight = weight[:, order]
        cases.append((weight,))
    cases += [(_mixed(rng, rows, 12),) for rows in (6, 9, 9, 12, 12)]
    for rows, columns in ((5, 8), (5, 12)):  # some columns are loud everywhere, and they are neighbours
        loud = rng.exponential(0.15, size=(rows, columns))
        loud[:, : columns // 2] += rng.uniform(1, 3, size=columns // 2)
        cases.append((_signed(rng, loud),))
    return cases


def _rows_differ(rng: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """In each row another run of four is loud."""
    loud = rng.exponential(0.15, size=(rows, columns))
    loud += 2 * (np.arange(rows)[:, None] % (columns // 4) == np.arange(columns) // 4)
    return _signed(rng, loud)


def _mixed(rng: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """The same, shuffled: the given order is an accident, and the inverse of a good order another one."""
    while True:
        weight = _rows_differ(rng, rows, columns)[:, rng.permutation(columns)]
        given, needed, best = _needed(weight)
        inverse = kept_in_order(weight, np.argsort(best_order(weight)[1]))
        if best > 1.08 * given and inverse < needed:
            return weight


def _signed(rng: np.random.Generator, magnitude: np.ndarray) -> np.ndarray:
    return (magnitude * rng.choice([-1.0, 1.0], size=magnitude.shape)).astype(np.float32)


def kept_magnitude(weight: np.ndarray, columns: tuple[int, ...]) -> float:
    """What 2:4 keeps of the run made of these four columns."""
    return float(np.sort(np.abs(weight[:, columns].astype(np.float64)), axis=1)[:, 2:].sum())


def kept_in_order(weight: np.ndarray, order: np.ndarray) -> float:
    return sum(kept_magnitude(weight, tuple(order[i : i + 4])) for i in range(0, len(order), 4))


@lru_cache(maxsize=256)
def _best(data: bytes, shape: tuple[int, int]) -> tuple[float, tuple[int, ...]]:
    """The best magnitude of all ways to part the columns into fours, and one order that reaches it."""
    weight = np.frombuffer(data, np.float32).reshape(shape)
    value = {four: kept_magnitude(weight, four) for four in combinations(range(shape[1]), 4)}

    @cache
    def best_of(left: tuple[int, ...]) -> tuple[float, tuple[int, ...]]:
        if not left:
            return 0.0, ()
        first, rest = left[0], left[1:]  # the smallest column is in some run: try all its companions
        found: tuple[float, tuple[int, ...]] = (-1.0, ())
        for three in combinations(rest, 3):
            total, order = best_of(tuple(k for k in rest if k not in three))
            four = (first, *three)
            found = max(found, (total + value[four], (*four, *order)))
        return found

    return best_of(tuple(range(shape[1])))


def best_order(weight: np.ndarray) -> tuple[float, np.ndarray]:
    total, order = _best(np.ascontiguousarray(weight, np.float32).tobytes(), weight.shape)
    return total, np.array(order, np.int64)


def _search_oracle(weight: np.ndarray) -> np.ndarray:
    return best_order(weight)[1]


def _needed(weight: np.ndarray, share: float = SHARE) -> tuple[float, float, float]:
    """(magnitude in the given order, needed, best)."""
    given, best = kept_in_order(weight, np.arange(weight.shape[1])), best_order(weight)[0]
    return given, given + share * (best - given) - 1e-6, best


def _is_order(order: np.ndarray) -> bool:
    return bool(np.array_equal(np.sort(order), np.arange(len(order))))


def _search_accept(args: Args, got: Arrays) -> str:
    (weight,), (order,) = args, got
    if not _is_order(order):
        return (
            f"the permutation is {order.tolist()}; every column from 0 to {len(order) - 1} must be in it exactly once."
        )
    given, needed, best = _needed(weight)
    kept = kept_in_order(weight, order)
    if kept < needed:
        return (
            f"2:4 keeps {kept:.2f} in your order, {given:.2f} in the given one, {best:.2f} in the best; at least "
            f"{needed:.2f} is asked for."
        )
    return ""


def _runs(order: np.ndarray) -> set[frozenset[int]]:
    return {frozenset(order[i : i + 4].tolist()) for i in range(0, len(order), 4)}


def _norms(weight: np.ndarray) -> np.ndarray:
    return np.asarray(np.abs(weight).sum(0))


def _dealt(weight: np.ndarray) -> np.ndarray:
    """Loudest first, one to each run in turn, like cards."""
    ranked = np.argsort(-_norms(weight), kind="stable")
    return ranked.reshape(4, -1).T.ravel()


def _kept_is(compare: Callable[[float, float, float], bool]) -> Callable[[Args, Arrays, Arrays], bool]:
    def recognises(args: Args, got: Arrays, want: Arrays) -> bool:
        given, needed, _ = _needed(args[0])
        return _is_order(got[0]) and compare(kept_in_order(args[0], got[0]), given, needed)

    return recognises


SEARCH = Exercise(
    name="search_permutation",
    contract="weight float32 (N, K), 4 divides K, K at most 16 -> permutation integer (K,): the new order of the "
    "columns, weight[:, permutation]; 2:4 must keep at least as much magnitude there as in the given order, plus 0.85 "
    "of what the best of all orders would add",
    make_cases=_search_cases,
    oracle=_search_oracle,
    returns=(Returns("permutation", dtype="integer"),),
    accept=_search_accept,
    misconceptions=[
        Misconception(
            "no-permutation",
            "This is no permutation: a column is missing, and another one is there twice. EXCHANGE two columns; do not "
            "copy one over the other.",
            recognises=lambda args, got, want: not _is_order(got[0]),
        ),
        Misconception(
            "given-order",
            "The columns are left as they are. Some order keeps more: try exchanges, and keep those that help.",
            produces=lambda w: np.arange(w.shape[1]),
        ),
        Misconception(
            "sorts-by-size",
            "Sorting the columns by size puts the loud ones side by side, where two of each four are lost. They must "
            "be spread over different runs.",
            produces=lambda w: np.argsort(-_norms(w), kind="stable"),
        ),
        Misconception(
            "sorts-by-size-ascending",
            "Sorting the columns by size puts the loud ones side by side, where two of each four are lost. They must "
            "be spread over different runs.",
            produces=lambda w: np.argsort(_norms(w), kind="stable"),
        ),
        Misconception(
            "columns-alone",
            "Dealing columns out by their size looks at each column alone. What counts is which columns are loud in "
            "the SAME row: only those compete. Measure what 2:4 keeps, and exchange while it grows.",
            produces=_dealt,
        ),
        Misconception(
            "inverse",
            "The permutation is the wrong way round: new column j is old column permutation[j], as in "
            "weight[:, permutation]. Yours says where each old column goes (its argsort would be right).",
            recognises=lambda args, got, want: (
                _is_order(got[0]) and kept_in_order(args[0], np.argsort(got[0])) >= _needed(args[0])[1]
            ),
        ),
        Misconception(
            "exchanges-within-a-run",
            "The order has changed, but the runs hold the same columns as before. Exchanging two columns of ONE run "
            "changes nothing: only which four are together counts.",
            recognises=lambda args, got, want: _runs(got[0]) == _runs(np.arange(len(got[0]))),
        ),
        Misconception(
            "keeps-less",
            "2:4 keeps no more in your order than in the given one. Did you minimise what stays, or keep an exchange "
            "that did not help?",
            recognises=_kept_is(lambda kept, given, needed: kept < given + 1e-6),
        ),
        Misconception(
            "stops-too-early",
            "Better than the given order, but far from the best. Go on until no exchange of two columns of different "
            "runs helps: each one that helps makes new ones possible. Starting again from a few random orders also "
            "gets out of a dead end.",
            recognises=_kept_is(lambda kept, given, needed: given <= kept < needed),
        ),
    ],
    hint="How much magnitude does 2:4 keep before and after exchanging two columns? Does exchanging two columns of "
    "the SAME run change anything? When may the search stop?",
    points=4,
)

# ---------------------------------------------------------------- 2b. permute_mlp


def _mlp_cases(rng: np.random.Generator) -> list[Args]:
    cases: list[Args] = []
    for inner, outer in ((8, 5), (5, 8), (12, 12), (4, 3)):
        permutation = rng.permutation(inner)
        while np.array_equal(np.argsort(permutation), permutation):  # its own inverse would hide a mistake
            permutation = rng.permutation(inner)
        gate, up = (rng.normal(size=(inner, outer)).astype(np.float32) for _ in range(2))
        cases.append((gate, up, rng.normal(size=(outer, inner)).astype(np.float32), permutation))
    return cases


Three = tuple[np.ndarray, np.ndarray, np.ndarray]


def _moved(gate: np.ndarray, up: np.ndarray, down: np.ndarray, permutation: np.ndarray) -> Three:
    moved = np.zeros_like(gate), np.zeros_like(up), np.zeros_like(down)
    for new, old in enumerate(permutation):
        moved[0][new], moved[1][new], moved[2][:, new] = gate[old], up[old], down[:, old]
    return moved


def _partly(gate: np.ndarray, up: np.ndarray, down: np.ndarray, permutation: np.ndarray, how: str = "ppp") -> Three:
    """Each matrix its own way: p permuted, i by the inverse, 0 not at all, 2 twice."""
    orders = {
        "p": permutation,
        "i": np.argsort(permutation),
        "0": np.arange(len(permutation)),
        "2": permutation[permutation],
    }
    return gate[orders[how[0]]], up[orders[how[1]]], down[:, orders[how[2]]]


def _mlp_mistake(name: str, how: str, says: str) -> Misconception:
    return Misconception(name, says, produces=partial(_partly, how=how))


MLP = Exercise(
    name="permute_mlp",
    contract="gate float32 (M, H), up float32 (M, H), down float32 (H, M), permutation integer (M,) -> the three "
    "matrices, float32, same shapes: down with its columns in the new order (new column j is old column "
    "permutation[j]), and gate and up changed so that down @ (silu(gate @ x) * (up @ x)) is what it was for every x",
    make_cases=_mlp_cases,
    oracle=_moved,
    returns=tuple(Returns(name, dtype="float32") for name in ("gate", "up", "down")),
    misconceptions=[
        _mlp_mistake(
            "only-down",
            "00p",
            "Only `down` is permuted, so each of its columns meets another neuron's value: the model computes "
            "something else. The neurons themselves must move along: the rows of `gate` and `up`.",
        ),
        _mlp_mistake(
            "up-left-behind",
            "p0p",
            "`up` stays behind. A neuron is one row of `gate` AND one row of `up`; they are multiplied with each "
            "other.",
        ),
        _mlp_mistake(
            "gate-left-behind",
            "0pp",
            "`gate` stays behind. A neuron is one row of `gate` AND one row of `up`; they are multiplied with each "
            "other.",
        ),
        _mlp_mistake(
            "down-left-behind", "pp0", "The neurons have moved, but the columns of `down` stay: permute them."
        ),
        _mlp_mistake(
            "rows-by-the-inverse",
            "iip",
            "`gate` and `up` are permuted by the inverse, as if something had to be undone. Rows and columns move "
            "together: the same permutation for all three.",
        ),
        _mlp_mistake(
            "columns-by-the-inverse",
            "ppi",
            "`down` is permuted by the inverse. Rows and columns move together: the same permutation for all three.",
        ),
        _mlp_mistake(
            "wrong-way-round",
            "iii",
            "The function is kept, but the order is the inverse: new column j is old column permutation[j], "
            "down[:, permutation]. (Assigning new[:, permutation] = old does the opposite.)",
        ),
        _mlp_mistake("twice", "22p", "The rows are permuted twice: `gate` is overwritten before it is read again."),
        Misconception(
            "rows-of-down",
            "The rows of `down` are the outputs of the layer; they must stay. Permute its COLUMNS, which meet the "
            "neurons.",
            recognises=lambda args, got, want: bool(
                np.array_equal(got[0], want[0])
                and got[2].shape == want[2].shape
                and not np.array_equal(got[2], want[2])
            ),
        ),
    ],
    hint="Neuron j is row j of gate, row j of up and column j of down. All three move together.",
    points=2,
)
