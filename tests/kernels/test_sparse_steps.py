"""The readable sparse steps agree with dense arithmetic and with each other, whatever the shape and the pattern."""

import numpy as np
import pytest
from edgeinfer.kernels import sparse_steps as steps
from hypothesis import given, settings
from hypothesis import strategies as st

SHAPES = (st.integers(1, 40), st.integers(1, 150), st.sampled_from([0.0, 0.1, 0.5, 1.0]), st.integers(0, 2**31))


def sparse(rows, columns, density, seed):
    rng = np.random.default_rng(seed)
    return np.where(rng.random((rows, columns)) < density, rng.normal(size=(rows, columns)), 0).astype(np.float32), rng


@given(*SHAPES)
@settings(max_examples=40, deadline=None)
def test_every_format_gives_the_matrix_and_its_product(rows, columns, density, seed):
    weight, rng = sparse(rows, columns, density, seed)
    x = rng.normal(size=(3, columns)).astype(np.float32)
    want = x @ weight.T
    assert np.allclose(steps.csr_matvec(*steps.csr_from_dense(weight), x[0]), want[0], atol=1e-4)
    assert np.array_equal(steps.bitmap_unpack(*steps.bitmap_pack(weight), columns), weight)
    for tile in (4, 64):
        tiles = steps.tiles_from_dense(weight, tile)
        assert np.allclose(steps.tile_and_expand_matmul(*tiles, rows, tile, x), want, atol=1e-4)


@given(*SHAPES)
@settings(max_examples=30, deadline=None)
def test_permuted_rows_come_back_and_blocks_are_counted_one_by_one(rows, columns, density, seed):
    weight, _ = sparse(rows, columns, density, seed)
    order, undo = steps.permute_rows(weight != 0, 4, 4)
    assert sorted(order) == list(range(rows)) and np.array_equal(weight[order][undo], weight)
    slow = sum(weight[r : r + 4, c : c + 4].any() for r in range(0, rows, 4) for c in range(0, columns, 4))
    assert steps.touched_blocks(weight != 0, 4, 4) == slow


@given(st.integers(1, 30), st.integers(1, 40), st.floats(0, 1))
@settings(max_examples=40, deadline=None)
def test_bytes_grow_with_the_density_and_the_bitmap_beats_rows_from_a_sixteenth_on(rows, columns, density):
    rows, columns = 4 * rows, 64 * columns
    for layout in ("csr32", "csr16", "blocked", "tiled", "bitmap"):
        assert (
            steps.format_bytes(rows, columns, density, layout) <= steps.format_bytes(rows, columns, 1.0, layout) + 1e-6
        )
    bitmap, by_rows = (steps.format_bytes(rows, columns, density, layout) for layout in ("bitmap", "csr16"))
    assert (bitmap <= by_rows + 1e-6) == (density >= 1 / 16 - 1e-9)


def test_the_same_crossover_lies_between_the_points_at_none_and_beyond_all():
    densities, cost = np.array([0.1, 0.3, 0.5]), np.array([1.0, 2.0, 3.0])
    assert steps.crossover_density(densities, cost, 2.5) == pytest.approx(0.4)
    assert steps.crossover_density(densities, cost, 0.5) == 0
    assert steps.crossover_density(densities, cost, 9.0) == 0.5


def test_wrong_requests_get_a_sentence():
    with pytest.raises(ValueError, match="layout 'coo' is unknown; choose one of dense, csr32"):
        steps.format_bytes(8, 8, 0.5, "coo")
    with pytest.raises(ValueError, match="side 300 does not fit into 16 bits"):
        steps.tiles_from_dense(np.ones((4, 4), np.float32), 300)
