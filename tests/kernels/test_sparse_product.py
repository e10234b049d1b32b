"""Products of all sparse formats against dense arithmetic in float64, on both paths and any batch."""

import numpy as np
import pytest
from edgeinfer.kernels import pack_bitmap, pack_csr, pack_tiled, simd, sparse_kernels, sparse_matmul, sparse_product
from edgeinfer.kernels import sparse_patterns as patterns
from hypothesis import given, settings
from hypothesis import strategies as st

from .conftest import PATHS
from .test_sparse_formats import PACKERS, some


@pytest.fixture(autouse=True, scope="module")
def small_products_use_threads_too():
    """Here the threads that are asked for do run, however short the product."""
    kept, sparse_product.ALONE = sparse_product.ALONE, 0
    yield
    sparse_product.ALONE = kept


def assert_is_dense_product(packed, x, y):
    """Equal to the product of the stored matrix, up to float32 rounding of sums of this size."""
    stored = packed.unpack().astype(np.float64)
    exact, size = x.astype(np.float64) @ stored.T, np.abs(x).astype(np.float64) @ np.abs(stored).T
    assert y.dtype == np.float32 and y.shape == exact.shape
    assert (np.abs(y - exact) <= 1e-6 * size + 1e-30).all()


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 150),
    columns=st.integers(1, 600),
    batch=st.integers(0, 33),
    density=st.sampled_from([0.0, 0.02, 0.3, 0.7, 1.0]),
    kind=st.sampled_from(list(PACKERS)),
    threads=st.integers(1, 3),
    seed=st.integers(0, 2**32 - 1),
)
def test_product_is_the_dense_one_on_any_shape(rows, columns, batch, density, kind, threads, seed):
    packed = PACKERS[kind](some(rows, columns, density, seed))
    x = np.random.default_rng(seed + 1).standard_normal((batch, columns)).astype(np.float32)
    for path in PATHS:
        assert_is_dense_product(packed, x, sparse_matmul(packed, x, path, threads))
        if batch:
            assert_is_dense_product(packed, x[0], sparse_matmul(packed, x[0], path, threads))


@pytest.mark.parametrize("batch", [1, 2, 5, 16, 17])
def test_expanding_and_visiting_agree(batch, monkeypatch):
    packed = pack_bitmap(some(130, 700, 0.3, 3))
    x = np.random.default_rng(4).standard_normal((batch, 700)).astype(np.float32)
    for cost in (0.0, 1e9):  # always expand, never expand
        monkeypatch.setattr(sparse_product, "EXPAND", cost)
        for path in PATHS:
            assert_is_dense_product(packed, x, sparse_matmul(packed, x, path))


@pytest.mark.parametrize("kind", ["csr", "bitmap", "tiled"])
@pytest.mark.parametrize("name", list(patterns.gallery(256)))
def test_other_patterns_than_random_ones(kind, name, path):
    weight = patterns.gallery(256)[name].to_dense()
    packed = PACKERS[kind](weight)
    for batch in (1, 9):
        x = np.random.default_rng(5).standard_normal((batch, weight.shape[1])).astype(np.float32)
        assert_is_dense_product(packed, x, sparse_matmul(packed, x, path))


def test_activations_need_not_be_contiguous_nor_float32(path):
    weight = some(20, 100, 0.5, 6)
    wide = np.random.default_rng(7).standard_normal((200, 6))
    for kind in ("csr", "bitmap", "tiled"):
        packed = PACKERS[kind](weight)
        for x in (wide[::2].T, wide[::2, 0], wide[::2].T.astype(np.float16)):
            y = sparse_matmul(packed, x, path)
            np.testing.assert_allclose(y, x.astype(np.float64) @ packed.unpack().T, rtol=1e-4, atol=1e-4)


def test_large_values_keep_their_range(path):
    weight = np.zeros((2, 130), np.float32)
    weight[0, 129], weight[1, 64] = 2.0**120, 2.0**-120
    x = np.full(130, 2.0, np.float32)
    for pack in (pack_csr, pack_bitmap, pack_tiled):
        np.testing.assert_array_equal(sparse_matmul(pack(weight), x, path), [2.0**121, 2.0**-119])


@pytest.mark.parametrize("kind", ["csr", "bitmap", "tiled"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("batch", [1, 3, 20])
def test_activations_that_are_not_finite_get_one_sentence(kind, bad, batch, path):
    x = np.zeros((batch, 70), np.float32)
    x[-1, -1] = bad
    with pytest.raises(ValueError, match="x contains NaN or infinite values; a product with them means nothing"):
        sparse_matmul(PACKERS[kind](np.zeros((4, 70), np.float32)), x, path)


ONE = pack_bitmap(np.ones((3, 7), np.float32))


@pytest.mark.parametrize(
    ("call", "error", "sentence"),
    [
        (lambda: sparse_matmul(ONE, np.ones(8, np.float32)), ValueError, r"x must have shape \(7,\) or \(batch, 7\)"),
        (lambda: sparse_matmul(ONE, np.ones((2, 2, 7), np.float32)), ValueError, "x must have shape"),
        (lambda: sparse_matmul(ONE, np.ones(7, np.int32)), TypeError, "x must hold float32 numbers, got dtype int32"),
        (lambda: sparse_matmul(np.ones((3, 7)), np.ones(7, np.float32)), TypeError, "got ndarray"),
        (lambda: sparse_matmul(ONE, np.ones(7, np.float32), "avx"), ValueError, "path 'avx' is unknown"),
        (lambda: sparse_matmul(ONE, np.ones(7, np.float32), threads=0), ValueError, "threads must be a positive"),
    ],
)
def test_a_wrong_call_gets_one_clear_sentence(call, error, sentence):
    with pytest.raises(error, match=sentence):
        call()


def test_a_processor_without_the_expand_instruction_takes_the_portable_path(monkeypatch):
    missing = lambda needed=(): [n for n in needed if n == "avx512vbmi2"]  # noqa: E731
    monkeypatch.setattr(simd, "missing_features", missing)
    monkeypatch.setattr(simd, "choose", lambda path: True)
    with pytest.raises(RuntimeError, match="path='simd' cannot run: this processor has no avx512vbmi2"):
        sparse_kernels.choose("simd")
