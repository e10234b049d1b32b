"""The readable look-up product equals the dense one; counts of work follow their laws."""

import numpy as np
import pytest
from edgeinfer.kernels import lookup_steps as steps
from hypothesis import given, settings
from hypothesis import strategies as st


@given(st.integers(1, 8), st.sampled_from([1, 2, 4, 8]), st.integers(1, 5), st.integers(1, 4), st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_lookup_product_equals_the_dense_product(bits, g, rows, groups, seed):
    rng = np.random.default_rng(seed)
    columns = 8 * groups
    codes = rng.integers(0, 2**bits, (rows, columns)).astype(np.uint8)
    scales = rng.uniform(0.1, 2, (rows, groups)).astype(np.float32)
    zeros = rng.integers(0, 2**bits, (rows, groups)).astype(np.uint8)
    x = rng.normal(size=columns).astype(np.float32)
    weight = np.repeat(scales, 8, 1) * (codes.astype(float) - np.repeat(zeros, 8, 1))
    got = steps.lookup_matvec(steps.plane_indices(codes, bits, g), steps.signed_sums(x, g), scales, zeros)
    assert np.allclose(got, weight @ x, rtol=1e-4, atol=1e-4 * 2**bits)


def test_tables_are_mirror_symmetric():
    tables = steps.signed_sums(np.random.default_rng(0).normal(size=24).astype(np.float32), 4)
    assert np.allclose(tables, -tables[:, ::-1], atol=1e-6)


@given(st.integers(1, 4), st.integers(1, 23), st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_ternary_bytes_come_back(rows, columns, seed):
    weights = np.random.default_rng(seed).integers(-1, 2, (rows, columns)).astype(np.int8)
    packed = steps.ternary_bytes(weights)
    assert packed.shape == (rows, -(-columns // 5))
    assert np.array_equal(steps.ternary_weights(packed, columns), weights)
    # and by multiplication alone: the digit is what passes 256
    value, digits = packed.astype(np.uint16), []
    for _ in range(5):
        value = value * 3
        digits.append(value >> 8)
        value = value & 255
    assert np.array_equal((np.stack(digits, -1).astype(int) - 1).reshape(rows, -1)[:, :columns], weights)


@given(st.sampled_from([1, 2, 3, 4, 5]), st.integers(1, 6), st.integers(0, 2**31))
@settings(max_examples=30, deadline=None)
def test_ternary_lookup_product_is_exact(g, blocks, seed):
    rng = np.random.default_rng(seed)
    weights = rng.integers(-1, 2, (3, g * blocks)).astype(np.int8)
    x = rng.integers(-127, 128, g * blocks)
    assert np.array_equal(steps.ternary_lookup_matvec(weights, x, g), weights.astype(int) @ x)


def test_lookups_and_plane_bytes_are_linear_in_the_bits_and_tables_do_not_depend_on_them():
    one, two, four = (steps.lookup_work(256, 512, bits) for bits in (1, 2, 4))
    assert two.lookups == 2 * one.lookups and four.lookups == 4 * one.lookups
    assert two.weight_bytes - one.weight_bytes == 256 * 512 // 8
    assert one.table_additions == four.table_additions and one.table_bytes == four.table_bytes


def test_the_mirror_halves_the_tables():
    whole, half = (steps.lookup_work(64, 128, 2, mirror=mirror) for mirror in (False, True))
    assert 2 * half.table_bytes == whole.table_bytes and half.table_additions < whole.table_additions


def test_sizes_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="must divide group_size=100"):
        steps.lookup_work(8, 400, 2, g=8, group_size=100)
