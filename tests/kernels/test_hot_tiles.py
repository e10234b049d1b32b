"""HotTiles: costs of tiles by hand, splits against all splits, the simulated pair against the model, the real pair."""

import numpy as np
import pytest
from edgeinfer.kernels import hot_tiles, hybrid, sparse_patterns
from edgeinfer.kernels.hot_tiles import BANDWIDTH, COLD, HOT, Worker, assign, cut, exhaustive, simulate, split
from edgeinfer.kernels.spmm import from_dense
from hypothesis import given, settings
from hypothesis import strategies as st

TOGETHER = ("parallel", "one after the other")


def costs(rng, count):
    return [rng.random(count) ** 2 for _ in range(4)]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 9), st.sampled_from(TOGETHER), st.floats(0.2, 20), st.integers(0, 2**32 - 1))
def test_split_comes_close_to_the_best_of_all(count, together, bandwidth, seed):
    rng = np.random.default_rng(seed)
    given_costs = costs(rng, count)
    found = assign(*given_costs, bandwidth, together)
    best = exhaustive(*given_costs, bandwidth, together)
    assert best.finish <= found.finish + 1e-12
    assert found.finish <= 1.15 * best.finish + 1e-12
    for mask in (np.zeros(count, bool), np.ones(count, bool)):  # never worse than one worker alone
        alone = hot_tiles._Costs(*given_costs, bandwidth, together).of(mask)
        assert found.finish <= alone.finish + 1e-12


def test_split_equals_the_best_in_most_small_cases():
    same = 0
    for seed in range(40):
        given_costs = costs(np.random.default_rng(seed), 10)
        same += assign(*given_costs, 4.0).finish <= exhaustive(*given_costs, 4.0).finish * (1 + 1e-9)
    assert same >= 30


def test_finish_is_the_latest_of_both_workers_and_the_memory():
    found = assign([1.0, 9.0], [9.0, 1.0], [6.0, 6.0], [6.0, 6.0], bandwidth=3.0)
    assert list(found.hot) == [True, False]
    assert (found.hot_seconds, found.cold_seconds, found.memory_seconds, found.finish) == (1.0, 1.0, 4.0, 4.0)
    assert assign([1.0, 9.0], [9.0, 1.0], together="one after the other").finish == 2.0


def test_one_core_gives_every_tile_to_its_faster_worker(rng):
    hot, cold = rng.random(50), rng.random(50)
    found = assign(hot, cold, together="one after the other")
    assert found.finish == pytest.approx(np.minimum(hot, cold).sum())


def test_tiles_count_entries_rows_and_columns():
    dense = np.zeros((5, 6), np.float32)
    dense[0, [0, 1]] = dense[1, 1] = dense[4, 5] = 1
    tiles = cut(from_dense(dense), 2, 4)
    assert list(zip(tiles.row, tiles.column, strict=True)) == [(0, 0), (4, 4)]
    assert list(tiles.entries) == [3, 1] and list(tiles.used_rows) == [2, 1] and list(tiles.used_columns) == [2, 1]
    assert list(tiles.rows) == [2, 1] and list(tiles.columns) == [4, 2]
    assert list(tiles.density) == [3 / 8, 1 / 2]


def test_a_streaming_worker_reads_whole_tiles_and_a_fetching_one_a_row_for_each_entry():
    tiles = cut(from_dense(np.eye(4, dtype=np.float32)), 4, 4)
    entries, results = 4 * 8, 2 * 4 * 4 * 10
    fetch = {"tile": 4 * 4 * 10, "columns": 4 * 4 * 10, "entries": 4 * 4 * 10}
    for reads, wanted in fetch.items():
        assert Worker("w", 1.0, 1.0, reads=reads).bytes(tiles, 10)[0] == entries + wanted + results
    full = cut(from_dense(np.ones((4, 4), np.float32)), 4, 4)
    assert COLD.bytes(full, 10)[0] - HOT.bytes(full, 10)[0] == 12 * 4 * 10  # 16 rows instead of 4
    assert Worker("w", 1.0, 1.0, "places").operations(tiles, 10)[0] == 2 * 16 * 10


@pytest.mark.parametrize("name", sorted(sparse_patterns.gallery(64)))
def test_split_is_never_later_than_one_worker_and_the_simulated_pair_is_near(name):
    matrix = sparse_patterns.gallery(256)[name]
    tiles, found = split(matrix, 32, 32, HOT, COLD, BANDWIDTH)
    assert len(found.hot) == len(tiles) and tiles.entries.sum() == matrix.entries
    alone = [w.seconds(tiles, 32).sum() for w in (HOT, COLD)]
    memory = [w.bytes(tiles, 32).sum() / BANDWIDTH for w in (HOT, COLD)]
    assert found.finish <= min(max(pair) for pair in zip(alone, memory, strict=True)) + 1e-15
    end = max(simulate(tiles, HOT, COLD, found.hot, 32, BANDWIDTH))
    # the prediction is a lower bound of any schedule; sharing the memory unevenly in time can only delay
    assert found.finish * (1 - 1e-6) <= end <= 1.6 * found.finish


def test_simulated_workers_that_do_not_meet_end_when_predicted():
    matrix = sparse_patterns.uniform(64, 64, 0.2)
    tiles = cut(matrix, 16, 16)
    mask = np.arange(len(tiles)) % 2 == 0
    ends = simulate(tiles, HOT, COLD, mask, 8, 1e15)
    assert ends[0] == pytest.approx(HOT.seconds(tiles, 8)[mask].sum(), rel=1e-9)
    assert ends[1] == pytest.approx(COLD.seconds(tiles, 8)[~mask].sum(), rel=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 17), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_real_pair_computes_the_dense_product_for_any_split(rows, columns, tile, density, seed):
    rng = np.random.default_rng(seed)
    dense = rng.standard_normal((rows, columns)).astype(np.float32) * (rng.random((rows, columns)) < density)
    matrix = from_dense(dense)
    tiles = cut(matrix, tile, max(1, tile - 3))
    stored = hybrid.store(matrix, tiles, rng.random(len(tiles)) < 0.5)
    x = rng.standard_normal((columns, 3)).astype(np.float32)
    for parallel in (False, True):
        np.testing.assert_allclose(hybrid.hybrid_matmul(stored, x, parallel), dense @ x, rtol=1e-3, atol=1e-3)
    assert hybrid.hybrid_matmul(stored, x[:, 0]).shape == (rows,)


def test_measured_costs_are_those_of_tiles():
    pair = hybrid.MeasuredPair(8.0, 0.5, 0.25)
    tiles = cut(from_dense(np.ones((4, 6), np.float32)), 4, 4)
    hot, cold = pair.costs(tiles)
    assert list(hot) == [8.0, 4.0] and list(cold) == [9.0, 5.0] and pair.even == 16


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: cut(from_dense(np.ones((2, 2), np.float32)), 0, 4), "at least one row and one column, got 0 x 4"),
        (lambda: assign([1.0], [1.0, 2.0]), "vectors of one length"),
        (lambda: assign([np.nan], [1.0]), "finite and not negative"),
        (lambda: assign([1.0], [-1.0]), "finite and not negative"),
        (lambda: assign([1.0], [1.0], bandwidth=0.0), "bandwidth must be above 0"),
        (lambda: assign([1.0], [1.0], together="sometimes"), "together must be"),
        (lambda: exhaustive(np.ones(30), np.ones(30)), "take at most 20"),
    ],
)
def test_wrong_input_gets_one_sentence(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


def test_a_matrix_of_zeros_has_no_tiles_and_takes_no_time():
    tiles, found = split(from_dense(np.zeros((8, 8), np.float32)), 4, 4, HOT, COLD, BANDWIDTH)
    assert len(tiles) == 0 and found.finish == 0.0
    assert simulate(tiles, HOT, COLD, found.hot, 4, BANDWIDTH) == (0.0, 0.0)
