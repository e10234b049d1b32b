"""Sparse formats hold exactly what was put in, in the bytes that theory says, and refuse what they cannot hold."""

import dataclasses

import numpy as np
import pytest
from edgeinfer.kernels import pack_bitmap, pack_csr, pack_tiled
from edgeinfer.kernels.sparse_common import from_bfloat16, to_bfloat16
from edgeinfer.kernels.sparse_storage import expand_bitmap, load_sparse, save_sparse
from hypothesis import given, settings
from hypothesis import strategies as st

from .conftest import PATHS

PACKERS = {
    "csr": pack_csr,
    "csr32": lambda w: pack_csr(w, 32),
    "bitmap": pack_bitmap,
    "tiled": pack_tiled,
    "tiled 5 x 7": lambda w: pack_tiled(w, 5, 7),
}


def some(rows, columns, density, seed):
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((rows, columns)).astype(np.float32)
    return np.where(rng.random((rows, columns)) < density, weight, np.float32(0))


def rounded(weight):
    return from_bfloat16(to_bfloat16(weight))


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 150),
    st.integers(1, 600),
    st.sampled_from([0.0, 0.03, 0.5, 1.0]),
    st.sampled_from(list(PACKERS)),
    st.integers(0, 2**32 - 1),
)
def test_unpacking_gives_back_every_bit(rows, columns, density, kind, seed):
    weight = some(rows, columns, density, seed)
    packed = PACKERS[kind](weight)
    np.testing.assert_array_equal(packed.unpack(), rounded(weight))
    assert packed.nnz == np.count_nonzero(rounded(weight))
    assert packed.shape == (rows, columns)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 140), st.integers(1, 600), st.sampled_from([0.0, 0.3, 1.0]), st.integers(0, 2**32 - 1))
def test_expanding_gives_the_same_bits_on_both_paths(rows, columns, density, seed):
    weight = some(rows, columns, density, seed)
    for path in PATHS:
        np.testing.assert_array_equal(expand_bitmap(pack_bitmap(weight), path), to_bfloat16(weight))


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 140), st.integers(1, 600), st.sampled_from([0.1, 0.6]), st.integers(0, 2**32 - 1))
def test_counting_bits_finds_the_place_of_every_value(rows, columns, density, seed):
    weight = some(rows, columns, density, seed)
    packed, bits = pack_bitmap(weight), to_bfloat16(weight)
    rng = np.random.default_rng(seed)
    for row, column in zip(rng.integers(0, rows, 20), rng.integers(0, columns, 20), strict=True):
        place = packed.locate(int(row), int(column))
        assert (place == -1) == (bits[row, column] == 0)
        assert place == -1 or packed.values[place] == bits[row, column]


@pytest.mark.parametrize("density", [0.05, 0.25, 0.5, 1.0])
def test_bytes_are_within_three_percent_of_theory(density):
    rows, columns = 512, 1024
    weight = some(rows, columns, density, 1)
    weights, nnz = rows * columns, np.count_nonzero(weight)
    theory = {
        "csr": 4 * nnz + 4 * rows,
        "csr32": 6 * nnz + 4 * rows,
        "bitmap": 2 * nnz + weights / 8,
        "tiled": 4 * nnz,
    }
    for kind, nbytes in theory.items():
        packed = PACKERS[kind](weight)
        assert nbytes <= packed.nbytes <= 1.03 * nbytes, kind
        arrays = [getattr(packed, f.name) for f in dataclasses.fields(packed)]
        assert packed.nbytes == sum(a.nbytes for a in arrays if isinstance(a, np.ndarray)), kind


def test_bfloat16_rounds_to_nearest_even():
    values = np.array([1.0, 1 + 2**-8, 1 + 3 * 2**-8, -2.5, 1e-45, 0.0], np.float32)
    np.testing.assert_array_equal(rounded(values), np.array([1, 1, 1 + 2**-6, -2.5, 0, 0], np.float32))


def test_negative_zero_and_what_rounds_to_zero_are_zeros():
    weight = np.array([[-0.0, 1e-45, 2.0]], np.float32)
    for pack in PACKERS.values():
        assert pack(weight).nnz == 1


@pytest.mark.parametrize("kind", ["bitmap", "csr"])
def test_a_file_gives_back_what_was_written(kind, tmp_path):
    weight, file = some(70, 300, 0.4, 2), tmp_path / "w.safetensors"
    packed = PACKERS[kind](weight)
    assert packed.nbytes <= save_sparse(packed, file) < packed.nbytes + 1000
    np.testing.assert_array_equal(load_sparse(file).unpack(), rounded(weight))
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]


@pytest.mark.parametrize("kind", ["bitmap", "csr"])
def test_a_damaged_file_gets_one_sentence(kind, tmp_path):
    packed, file = PACKERS[kind](some(70, 300, 0.4, 2)), tmp_path / "w.safetensors"
    save_sparse(packed, file)
    whole = file.read_bytes()
    with pytest.raises(FileNotFoundError, match="does not exist; write it with save_sparse"):
        load_sparse(tmp_path / "other")
    for damaged in (whole[:-7], b"", whole[:100]):
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match="not a sparse weight written by save_sparse"):
            load_sparse(file)


def test_arrays_that_do_not_belong_together_are_refused(tmp_path):
    packed, file = pack_bitmap(some(70, 300, 0.4, 2)), tmp_path / "w.safetensors"
    wrong = [
        dataclasses.replace(packed, shape=(70, 400)),
        dataclasses.replace(packed, values=packed.values[:-1]),
        dataclasses.replace(packed, masks=~packed.masks),
        dataclasses.replace(packed, starts=packed.starts[::-1].copy()),
    ]
    for one in wrong:
        save_sparse(one, file)
        with pytest.raises(ValueError, match="not a sparse weight written by save_sparse"):
            load_sparse(file)


W = np.ones((3, 7), np.float32)


@pytest.mark.parametrize("kind", list(PACKERS))
@pytest.mark.parametrize(
    ("weight", "error", "sentence"),
    [
        (np.where(np.eye(3) == 1, np.nan, 1).astype(np.float32), ValueError, "weight contains 3 NaN or infinite"),
        (np.full((2, 2), np.inf, np.float32), ValueError, "a sparse product skips zeros and could not pass them on"),
        (np.full((2, 2), 3.4e38, np.float32), ValueError, r"weight holds 3.4e\+38, which bfloat16 cannot"),
        (np.ones((0, 4), np.float32), ValueError, r"weight is empty: shape \(0, 4\)"),
        (np.ones(4, np.float32), ValueError, "weight must be a matrix"),
        (np.ones((2, 2), np.int8), TypeError, "weight must hold float32 numbers, got dtype int8"),
    ],
)
def test_a_weight_that_cannot_be_stored_gets_one_sentence(kind, weight, error, sentence):
    with pytest.raises(error, match=sentence):
        PACKERS[kind](weight)


@pytest.mark.parametrize(
    ("call", "error", "sentence"),
    [
        (lambda: pack_csr(np.ones((1, 65537), np.float32), 16), ValueError, "65537 columns need 32-bit indices"),
        (lambda: pack_csr(W, 8), ValueError, "index_bits must be 16 or 32, got 8"),
        (lambda: pack_tiled(W, 512, 256), ValueError, "a tile of 512 x 256 has 131072 positions, 16 bits hold 65536"),
        (lambda: pack_tiled(W, 0), ValueError, "tile_rows must be a positive integer, got 0"),
        (lambda: pack_bitmap(W).locate(3, 0), IndexError, r"\(3, 0\) is not an element of a matrix of shape \(3, 7\)"),
        (lambda: save_sparse(W, "x"), TypeError, "save_sparse takes a weight of pack_bitmap or pack_csr, got ndarray"),
    ],
)
def test_a_request_that_a_format_cannot_hold_gets_one_sentence(call, error, sentence):
    with pytest.raises(error, match=sentence):
        call()


def test_wide_matrices_take_32_bit_columns_by_themselves():
    weight = np.zeros((1, 65537), np.float32)
    weight[0, 65536] = 2
    packed = pack_csr(weight)
    assert packed.columns.dtype == np.uint32
    np.testing.assert_array_equal(packed.unpack(), weight)
