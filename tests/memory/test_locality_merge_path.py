"""Merge path: equal parts, the right order, and sparse products that do not depend on who does what."""

import numpy as np
import pytest
from edgeinfer.kernels.sparse_patterns import power_law
from edgeinfer.kernels.spmm import CSR, csr_matmul
from edgeinfer.memory.locality.merge_path import (
    imbalance,
    merge_path_split,
    merge_points,
    merge_sorted,
    merge_spmm,
    row_split,
    steps,
)
from hypothesis import given, settings
from hypothesis import strategies as st

NUMBERS = st.lists(st.integers(-5, 5), max_size=30).map(sorted)
LENGTHS = st.lists(st.integers(0, 9), max_size=20)


def walk(offsets):
    """The path step by step: the end of a row comes before the next row's entry."""
    i = j = 0
    at = [(0, 0)]
    while i + j < len(offsets) - 1 + offsets[-1]:
        if i < len(offsets) - 1 and offsets[i + 1] <= j:
            i += 1
        else:
            j += 1
        at.append((i, j))
    return at


@given(NUMBERS, NUMBERS, st.integers(1, 12))
@settings(max_examples=150, deadline=None)
def test_merged_lists_are_sorted_and_cuts_are_even(a, b, parts):
    assert merge_sorted(a, b, parts).tolist() == sorted(a + b)
    sizes = np.diff(merge_points(a, b, parts).sum(1))
    assert sizes.sum() == len(a) + len(b) and sizes.max() - sizes.min() <= 1


def test_at_equal_keys_the_first_list_goes_first():
    points = merge_points([1, 1, 2], [1, 2], 5)
    assert points[:, 0].tolist() == [0, 1, 2, 2, 3, 3]


def test_threads_change_nothing():
    rng = np.random.default_rng(0)
    a, b = np.sort(rng.standard_normal(999)), np.sort(rng.standard_normal(77))
    assert np.array_equal(merge_sorted(a, b, 5, threads=2), np.sort(np.concatenate([a, b])))


@given(LENGTHS, st.integers(1, 12))
@settings(max_examples=200, deadline=None)
def test_split_stands_where_the_walk_stands(lengths, parts):
    offsets = [0, *np.cumsum(lengths).astype(int).tolist()]
    path = walk(offsets)
    points = merge_path_split(offsets, parts)
    assert points == [path[p * (len(path) - 1) // parts] for p in range(parts + 1)]
    assert steps(points).max() - steps(points).min() <= 1


@given(LENGTHS.filter(bool), st.integers(1, 7), st.integers(1, 20), st.integers(0, 99))
@settings(max_examples=100, deadline=None)
def test_products_in_parts_equal_the_whole_product(lengths, parts, width, seed):
    rng = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    columns = np.concatenate([np.sort(rng.choice(9, n, replace=False)) for n in lengths]).astype(np.int32)
    values = rng.integers(-4, 5, int(offsets[-1])).astype(np.float32)  # whole numbers: sums are exact in any order
    matrix = CSR(offsets, columns, values, (len(lengths), 9))
    x = rng.integers(-4, 5, (9, width)).astype(np.float32)
    want = csr_matmul(matrix, x)
    assert np.array_equal(merge_spmm(matrix, x, parts), want)
    assert np.array_equal(merge_spmm(matrix, x, parts, path="portable"), want)
    assert np.array_equal(merge_spmm(matrix, x, points=row_split(offsets, parts)), want)


def test_long_rows_spoil_row_splitting_and_not_the_path():
    matrix = power_law(3000, 3000, 12)
    assert imbalance(merge_path_split(matrix.indptr, 64)) < 1.01 < 2 < imbalance(row_split(matrix.indptr, 64))
    x = np.random.default_rng(0).standard_normal(3000).astype(np.float32)
    one, two = (merge_spmm(matrix, x, 8, threads=t) for t in (1, 2))
    assert np.array_equal(one, two) and np.allclose(one, csr_matmul(matrix, x), atol=1e-3)


def test_one_row_is_shared_by_all_parts():
    points = merge_path_split([0, 100], 4)
    assert points == [(0, 0), (0, 25), (0, 50), (0, 75), (1, 100)]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: merge_sorted([2, 1], [1]), "a must be sorted"),
        (lambda: merge_sorted([1.0], [float("nan"), 1.0]), "b must be sorted"),
        (lambda: merge_sorted([[1]], [1]), "must be a list of numbers"),
        (lambda: merge_points([1], [2], 0), "parts must be a positive integer, got 0"),
        (lambda: merge_path_split([1, 2], 2), "start at 0 and never fall"),
        (lambda: merge_path_split([0, 3, 2], 2), "start at 0 and never fall"),
        (lambda: merge_path_split([], 2), "rows \\+ 1 integers"),
    ],
)
def test_refusals_are_one_sentence(call, says):
    with pytest.raises(ValueError, match=says):
        call()
