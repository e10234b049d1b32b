"""A product on row-ordered planes gives the same bits; the permuted order loads one register at a time, in sequence."""

import numpy as np
import pytest
from edgeinfer.kernels import quantize_groupwise, simd
from edgeinfer.kernels.lookup import build_tables, lookup_matmul, pack_lookup, quantize_sign
from edgeinfer.memory.locality.lookup_order import load_addresses, row_order, row_order_matmul
from hypothesis import given, settings
from hypothesis import strategies as st

PATHS = ["portable", "simd"] if simd.available() else ["portable"]


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 150),
    groups=st.integers(1, 4),
    bits=st.integers(1, 4),
    batch=st.sampled_from([None, 0, 1, 3]),
    symmetric=st.booleans(),
    path=st.sampled_from(PATHS),
    seed=st.integers(0, 99),
)
def test_both_orders_give_the_same_bits(rows, groups, bits, batch, symmetric, path, seed):
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((rows, 32 * groups), np.float32)
    packed = (
        quantize_sign(weight, 32)
        if bits == 1
        else pack_lookup(quantize_groupwise(weight, bits, 32, symmetric=symmetric))
    )
    x = rng.standard_normal((32 * groups,) if batch is None else (batch, 32 * groups), np.float32)
    np.testing.assert_array_equal(
        row_order_matmul(row_order(packed), x, path), lookup_matmul(packed, x, path="portable")
    )


def test_permuted_loads_follow_one_another_and_row_ordered_ones_do_not():
    permuted, rowwise = (load_addresses((128, 256), 2, which) for which in (True, False))
    assert (np.diff(permuted[:, 0]) == 64).all()
    assert permuted.shape == (64, 1)
    assert rowwise.shape == (64, 16)
    assert (np.diff(rowwise, axis=1) == 256 // 8).all()
    # both read every byte of the block's planes once
    assert np.unique(rowwise).size == rowwise.size == permuted.size * 16


def test_the_addresses_are_those_of_the_planes():
    packed = pack_lookup(quantize_groupwise(np.random.default_rng(0).standard_normal((70, 64), np.float32), 3, 32))
    stored = row_order(packed)
    words = stored.data.reshape(-1)[load_addresses((70, 64), 3, False) // 4]
    np.testing.assert_array_equal(words.reshape(-1), packed.data.view(np.uint32)[: words.size])


def test_tables_of_another_width_are_refused():
    packed = row_order(quantize_sign(np.ones((64, 64), np.float32), 32))
    with pytest.raises(ValueError, match="this weight has 64 columns"):
        row_order_matmul(packed, build_tables(np.ones(32, np.float32), 32))
