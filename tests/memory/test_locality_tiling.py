"""Tiles: the formula equals the loops, the simulated cache a naive one, and every tile gives the same product."""

from collections import OrderedDict

import numpy as np
import pytest
from edgeinfer.memory.locality.lru import LAYOUTS, replay, simulate_matmul
from edgeinfer.memory.locality.tiled import prepare, tiled_matmul
from edgeinfer.memory.locality.tiles import choose_tile, least_traffic, tile_held, tiled_traffic
from hypothesis import given, settings
from hypothesis import strategies as st

SIZE = st.integers(1, 12)


def naive_cache(lines, writes, capacity, ways):
    sets = [OrderedDict() for _ in range(capacity // ways)]
    fetched = written = 0
    for line, write in zip(lines, writes, strict=True):
        mine = sets[line % len(sets)]
        if line not in mine:
            fetched += 1
            if len(mine) == ways:
                written += mine.popitem(last=False)[1]
            mine[line] = False
        mine.move_to_end(line)
        mine[line] = mine[line] or write
    return fetched, written + sum(sum(s.values()) for s in sets)


@given(
    st.lists(st.tuples(st.integers(0, 15), st.booleans()), max_size=120),
    st.sampled_from([(1, 1), (4, 4), (4, 2), (4, 1)]),
)
@settings(max_examples=150, deadline=None)
def test_cache_equals_a_naive_one(accesses, shape):
    lines, writes = [a for a, _ in accesses], [w for _, w in accesses]
    found = replay(lines, shape[0], writes, shape[1])
    assert (found.fetched, found.written) == naive_cache(lines, writes, *shape)


def trace(M, N, K, tile, line, layouts):
    """Every access of the tiled loops, in pure Python."""
    m, n, k = tile
    places = []
    for (rows, columns, tr, tc), layout in zip(((M, K, m, k), (K, N, k, n), (M, N, m, n)), layouts, strict=True):
        table = np.arange(rows * columns).reshape(rows, columns)
        if layout == "column":
            table = np.arange(rows * columns).reshape(columns, rows).T
        elif layout == "blocked":
            blocks = [(i, j) for i in range(0, rows, tr) for j in range(0, columns, tc)]
            table, at = table.copy(), 0
            for i, j in blocks:
                part = table[i : i + tr, j : j + tc]
                table[i : i + tr, j : j + tc] = at + np.arange(part.size).reshape(part.shape)
                at += part.size
        places.append(table)
    base = [0, -(-M * K // line), -(-M * K // line) + -(-K * N // line)]
    out = []
    for i0 in range(0, M, m):
        for j0 in range(0, N, n):
            for p0 in range(0, K, k):
                for i in range(i0, min(i0 + m, M)):
                    for p in range(p0, min(p0 + k, K)):
                        out.append((base[0] + places[0][i, p] // line, False))
                        for j in range(j0, min(j0 + n, N)):
                            out.append((base[1] + places[1][p, j] // line, False))
                            out.append((base[2] + places[2][i, j] // line, True))
    return [int(a) for a, _ in out], [w for _, w in out]


@given(SIZE, SIZE, SIZE, st.tuples(SIZE, SIZE, SIZE), st.tuples(*[st.sampled_from(LAYOUTS)] * 3), st.integers(2, 9))
@settings(max_examples=60, deadline=None)
def test_simulated_product_equals_its_trace(M, N, K, tile, layouts, capacity):
    lines, writes = trace(M, N, K, tile, 4, layouts)
    found = simulate_matmul(M, N, K, tile, capacity * 16, 16, layouts)
    assert (found.fetched, found.written) == naive_cache(lines, writes, capacity, capacity)


@given(SIZE, SIZE, SIZE, st.tuples(SIZE, SIZE, SIZE))
@settings(max_examples=150, deadline=None)
def test_formula_counts_what_the_loops_move(M, N, K, tile):
    m, n, k = tile
    moved, held = 0, 0
    for i in range(0, M, m):
        for j in range(0, N, n):
            a, b = min(m, M - i), min(n, N - j)
            for p in range(0, K, k):
                c = min(k, K - p)
                moved, held = moved + a * c + c * b, max(held, a * c + c * b + a * b)
            moved += a * b
    assert tiled_traffic(M, N, K, tile) == (moved, held)
    assert moved >= least_traffic(M, N, K, held) - 1e-9


@given(SIZE, SIZE, SIZE, st.integers(3, 200))
@settings(max_examples=40, deadline=None)
def test_chosen_tile_fits_and_no_other_moves_less(M, N, K, capacity):
    sizes = (1, 2, 4, 8, 12)
    best = choose_tile(M, N, K, capacity, sizes)
    assert tiled_traffic(M, N, K, best).held <= capacity
    for m in sizes:
        for n in sizes:
            for k in sizes:
                other = tiled_traffic(M, N, K, (m, n, k))
                assert other.held > capacity or other.moved >= tiled_traffic(M, N, K, best).moved


def test_chosen_tile_is_near_the_best_of_all_in_the_simulated_cache():
    sizes = (4, 8, 16, 32, 64)
    every = {(m, n, k): simulate_matmul(64, 64, 64, (m, n, k), 4096).bytes for m in sizes for n in sizes for k in sizes}
    chosen = every[choose_tile(64, 64, 64, 1024, sizes, line=16)]
    assert chosen <= 1.25 * min(every.values()) and 3 * chosen < every[64, 64, 64]


@given(SIZE, SIZE, SIZE, st.tuples(SIZE, SIZE, SIZE), st.sampled_from(LAYOUTS), st.integers(0, 99))
@settings(max_examples=80, deadline=None)
def test_every_tile_and_layout_gives_the_product(M, N, K, tile, layout, seed):
    rng = np.random.default_rng(seed)
    a, b = (rng.integers(-4, 5, shape).astype(np.float32) for shape in ((M, K), (K, N)))
    assert np.array_equal(tiled_matmul(a, b, tile, layout), a @ b)
    assert np.array_equal(tiled_matmul(a, prepare(b, layout, tile), tile, layout, prepared=True), a @ b)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: tiled_traffic(4, 4, 4, (0, 1, 1)), "tile_m must be a positive integer, got 0"),
        (lambda: choose_tile(4, 4, 4, 2, (1, 2)), "no tile of these sizes fits into 2"),
        (
            lambda: simulate_matmul(2, 2, 2, (1, 1, 1), layouts=("row", "row", "diagonal")),
            "layout 'diagonal' is unknown",
        ),
        (lambda: simulate_matmul(2, 2, 2, (1, 1, 1), 64, 6), "multiple of 4"),
        (lambda: simulate_matmul(2, 2, 2, (1, 1, 1), 192, 64, ways=2), "cannot be divided into sets"),
        (lambda: simulate_matmul(2, 0, 2, (1, 1, 1)), "must be positive"),
        (lambda: replay([-1], 2), "numbers from 0"),
        (lambda: tiled_matmul(np.ones((2, 3)), np.ones((4, 2))), "inner sizes differ"),
        (lambda: tiled_matmul(np.ones((2, 3)), np.ones((3, 2)), (1, 0, 1)), "positive sizes"),
        (lambda: tiled_matmul(np.ones((2, 3)), np.full((3, 2), np.nan)), "NaN"),
    ],
)
def test_refusals_are_one_sentence(call, says):
    with pytest.raises(ValueError, match=says):
        call()


def test_held_counts_whole_lines():
    assert tile_held((2, 3, 5)) == 10 + 15 + 6
    assert tile_held((2, 3, 5), line=16) == 32 + 80 + 32
