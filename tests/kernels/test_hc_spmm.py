"""CSR and its product, condensed windows with translated columns, the fitted rule, and the product of both units."""

import numpy as np
import pytest
from edgeinfer.kernels import csr_matmul, from_dense, hc_spmm, sparse_patterns
from edgeinfer.kernels.hc_spmm import choose_units, condense, features, fit_rule, hc_matmul, prepare
from edgeinfer.kernels.spmm import from_coordinates
from hypothesis import given, settings
from hypothesis import strategies as st

from .conftest import PATHS

matrices = st.tuples(st.integers(1, 50), st.integers(1, 50), st.floats(0, 1), st.integers(0, 2**32 - 1))


def random_matrix(rows, columns, density, seed):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((rows, columns)).astype(np.float32) * (rng.random((rows, columns)) < density), rng


@settings(max_examples=50, deadline=None)
@given(matrices, st.sampled_from([0, 1, 5, 16, 64, 83, 150]), st.integers(1, 3))
def test_csr_product_equals_the_dense_one_and_both_paths_agree_to_the_bit(matrix, width, threads):
    dense, rng = random_matrix(*matrix)
    x = rng.standard_normal((dense.shape[1], width) if width else dense.shape[1]).astype(np.float32)
    sparse = from_dense(dense)
    np.testing.assert_array_equal(sparse.to_dense(), dense)
    results = [csr_matmul(sparse, x, threads, path) for path in PATHS]
    np.testing.assert_allclose(results[0], dense @ x, rtol=1e-3, atol=1e-3)
    for other in results[1:]:
        np.testing.assert_array_equal(results[0], other)


@settings(max_examples=50, deadline=None)
@given(matrices, st.integers(1, 20))
def test_condensed_windows_hold_the_matrix_with_their_columns_translated(matrix, height):
    dense, rng = random_matrix(*matrix)
    sparse = from_dense(dense)
    windows = condense(sparse, height)
    for w in range(len(windows)):
        mine = windows.columns[windows.starts[w] : windows.starts[w + 1]]
        part = dense[w * height : (w + 1) * height]
        np.testing.assert_array_equal(mine, np.flatnonzero((part != 0).any(0)))
        assert windows.entries[w] == np.count_nonzero(part)
    np.testing.assert_array_equal(
        windows.columns[windows.starts[sparse.row_numbers // height] + windows.local], sparse.indices
    )
    assert ((windows.density >= 0) & (windows.density <= 1)).all()
    x = rng.standard_normal((dense.shape[1], 4)).astype(np.float32)
    for choice in (np.zeros(len(windows), bool), np.ones(len(windows), bool), rng.random(len(windows)) < 0.5):
        stored = prepare(sparse, windows, choice)
        np.testing.assert_allclose(hc_matmul(stored, x), dense @ x, rtol=1e-3, atol=1e-3)
    assert hc_matmul(stored, x[:, 0]).shape == (len(dense),)


def test_forgetting_to_translate_the_columns_reads_wrong_rows():
    dense = np.zeros((4, 10), np.float32)
    dense[:, [3, 7]] = 1
    sparse = from_dense(dense)
    _, columns, block = prepare(sparse, condense(sparse, 4), np.ones(1, bool)).blocks[0]
    x = np.arange(10, dtype=np.float32)[:, None]
    np.testing.assert_array_equal(block @ x[columns], dense @ x)
    assert not np.array_equal(block @ x[: block.shape[1]], dense @ x)


def test_rule_finds_the_line_that_separates_the_windows(rng):
    values = np.column_stack([rng.random(400), rng.uniform(0, 8, 400)])
    label = 3 * values[:, 0] + 0.2 * values[:, 1] > 2.2
    rule = fit_rule(values[:200], label[:200])
    assert ((rule.score(values[200:]) > 0) == label[200:]).mean() > 0.95


@pytest.mark.parametrize("label", [True, False])
def test_rule_of_one_kind_only_says_always_the_same(label, rng):
    values = rng.random((20, 2))
    assert ((fit_rule(values, np.full(20, label)).score(values) > 0) == label).all()


def test_units_follow_density_and_empty_windows_are_skipped():
    dense = np.zeros((64, 64), np.float32)
    dense[:16, :40] = 1  # full
    dense[16:32, ::7] = np.eye(16, 10)  # sparse
    windows = condense(from_dense(dense), 16)
    rule = hc_spmm.Rule(np.array([10.0, 0.0]), -5.0, np.zeros(2), np.ones(2))  # dense unit above a density of one half
    assert list(choose_units(windows, rule)) == [True, False, False, False]
    assert features(windows).shape == (4, 2) and windows.density[3] == 0


def test_times_of_units_are_given_for_every_window():
    matrix = hc_spmm.training_windows(6, 8, 128)
    windows = condense(matrix, 8)
    dense, sparse = hc_spmm.time_units(matrix, windows, np.ones((128, 16), np.float32), repeats=1)
    assert dense.shape == sparse.shape == (6,) and (dense > 0).all() and (sparse > 0).all()


@pytest.mark.parametrize("name", sorted(sparse_patterns.gallery(64)))
def test_patterns_are_seeded_and_their_rows_can_be_permuted(name):
    matrix, again = sparse_patterns.gallery(64)[name], sparse_patterns.gallery(64)[name]
    np.testing.assert_array_equal(matrix.to_dense(), again.to_dense())
    assert matrix.entries > 0 and 0 < matrix.density < 1
    order = np.random.default_rng(1).permutation(64)
    np.testing.assert_array_equal(matrix.permute_rows(order).to_dense(), matrix.to_dense()[order])
    keep = matrix.data > 0
    np.testing.assert_array_equal(matrix.select(keep).to_dense(), np.maximum(matrix.to_dense(), 0))


EYE = from_dense(np.eye(4, dtype=np.float32))
ONE = np.zeros(1, np.int64)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: condense(EYE, 0), "height must be at least one row, got 0"),
        (lambda: csr_matmul(EYE, np.ones((3, 2), np.float32)), r"x must have 4 rows .* got shape \(3, 2\)"),
        (lambda: csr_matmul(EYE, np.full((4, 1), np.nan, np.float32)), "x contains NaN or infinite"),
        (lambda: from_dense(np.full((2, 2), np.nan, np.float32)), "matrix contains 4 NaN"),
        (lambda: from_coordinates(ONE + 7, ONE, ONE, (4, 4)), r"an entry lies at \(7, 0\), outside"),
        (lambda: from_coordinates(ONE, ONE, np.full(1, np.inf), (4, 4)), "values contain NaN"),
        (lambda: from_coordinates(ONE, ONE, ONE, (0, 4)), "at least one row and one column"),
        (lambda: EYE.permute_rows(np.zeros(4, int)), "order must name each of the 4 rows once"),
        (lambda: fit_rule(np.zeros((0, 2)), np.zeros(0, bool)), "at least one window"),
        (lambda: fit_rule(np.zeros((3, 2)), np.zeros(2, bool)), "values and labels must belong together"),
    ],
)
def test_wrong_input_gets_one_sentence(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


def test_zeros_ones_and_one_row():
    for dense in (np.zeros((5, 7)), np.ones((5, 7)), np.ones((1, 7))):
        dense = dense.astype(np.float32)
        sparse = from_dense(dense)
        stored = prepare(sparse, condense(sparse, 16), np.ones(1, bool))
        np.testing.assert_array_equal(hc_matmul(stored, np.ones((7, 2), np.float32)), dense @ np.ones((7, 2)))
