"""The in-memory multipliers are exact whatever the operands, and their costs move as the counted commands say."""

import numpy as np
import pytest
from edgeinfer.devices import DramBank, bit_serial_multiply, matvec, open_row_multiply, sweep_multiply
from edgeinfer.devices.lut_pim import OpenTable, cost_table
from hypothesis import given, settings
from hypothesis import strategies as st


@st.composite
def operands(draw):
    bits = draw(st.integers(1, 8))
    numbers = st.integers(0, 2**bits - 1)
    return bits, draw(numbers), np.array(draw(st.lists(numbers, min_size=1, max_size=70)))


@given(operands())
@settings(max_examples=40, deadline=None)
def test_every_design_gives_exact_products(case):
    bits, scalar, vector = case
    for multiply in (open_row_multiply, sweep_multiply):
        assert np.array_equal(multiply(scalar, vector, bits)[0], scalar * vector)
    assert np.array_equal(bit_serial_multiply(np.array([scalar]), vector, bits)[0], scalar * vector)
    assert np.array_equal(bit_serial_multiply(vector[::-1], vector, bits)[0], vector[::-1] * vector)


def test_all_pairs_of_four_bit_operands_are_exact():
    left, right = (a.ravel() for a in np.meshgrid(np.arange(16), np.arange(16)))
    assert np.array_equal(bit_serial_multiply(left, right, 4)[0], left * right)
    for scalar in range(16):
        assert np.array_equal(open_row_multiply(scalar, np.arange(16), 4)[0], scalar * np.arange(16))


@given(st.integers(1, 5), st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**31))
@settings(max_examples=25, deadline=None)
def test_matvec_equals_the_integer_product_and_opens_one_row_per_activation(bits, rows, columns, seed):
    rng = np.random.default_rng(seed)
    weight, x = rng.integers(0, 2**bits, (rows, columns)), rng.integers(0, 2**bits, columns)
    y, cost = matvec(weight, x, bits)
    assert np.array_equal(y, weight @ x)
    assert cost.activations == columns and cost.products == rows * columns


def test_an_open_row_is_activated_once_however_long_the_vector():
    for length in (1, 16, 5000):
        assert open_row_multiply(3, np.zeros(length, int), 4)[1].activations == 1


def test_a_sweep_activates_every_row_of_the_table():
    bank = DramBank()
    per_row = bank.row_bits // 8
    assert sweep_multiply(3, np.zeros(per_row, int), 4, bank)[1].activations == 16
    assert sweep_multiply(3, np.zeros(per_row + 1, int), 4, bank)[1].activations == 32


def test_a_bigger_table_leaves_fewer_copies_in_the_row():
    copies = [OpenTable(1, bits, DramBank()).copies for bits in range(1, 9)]
    assert copies == sorted(copies, reverse=True) and copies[0] == 16 and copies[-1] == 2


def test_bit_serial_cost_grows_with_the_square_of_the_bits_and_open_row_energy_does_not():
    table = cost_table(length=8192)
    serial = [table["bit-serial"][bits].pj_per_product for bits in (2, 4, 8)]
    assert 3.5 < serial[1] / serial[0] < 5 and 3.5 < serial[2] / serial[1] < 5
    opened = [table["open row"][bits].pj_per_product for bits in (2, 4, 8)]
    assert max(opened) < 2.1 * min(opened)


def test_leaving_out_the_activation_energy_turns_the_order_round():
    # The trap: with free activations, bit-serial and sweep look free as well, for they do nothing else.
    free = cost_table(range(8, 9), bank=DramBank(activate_pj=0.0))
    assert free["bit-serial"][8].pj_per_product == 0 < free["open row"][8].pj_per_product
    paid = cost_table(range(8, 9))
    assert paid["open row"][8].pj_per_product < paid["bit-serial"][8].pj_per_product


def test_a_known_scalar_costs_bit_serial_what_the_simulation_of_all_scalars_costs():
    bank, bits = DramBank(), 3
    summed = sum(bit_serial_multiply(np.array([s]), np.arange(8), bits, bank)[1].activations for s in range(8))
    assert (
        cost_table(range(bits, bits + 1), length=bank.row_bits)["bit-serial, known scalar"][bits].activations == summed
    )


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: open_row_multiply(3, np.array([16]), 4), ValueError, "with 4 bits operands must lie in 0 to 15"),
        (lambda: open_row_multiply(-1, np.array([1]), 4), ValueError, "scalar holds -1"),
        (lambda: open_row_multiply(3, np.array([0.5]), 4), TypeError, "must hold integers"),
        (lambda: open_row_multiply(3, np.array([], int), 4), ValueError, "vector is empty"),
        (lambda: open_row_multiply(3, np.array([1]), 9), ValueError, "bits must be an integer from 1 to 8"),
        (lambda: open_row_multiply(3, np.array([1]), 8, DramBank(mats=4)), ValueError, "use fewer bits"),
        (lambda: bit_serial_multiply(np.arange(3), np.arange(5), 4), ValueError, "left has 3 elements, right has 5"),
        (lambda: matvec(np.ones((2, 8), int), np.ones(7, int), 4), ValueError, r"expected \(N, K\) and \(K,\)"),
    ],
)
def test_wrong_input_gets_one_sentence(call, error, says):
    with pytest.raises(error, match=says):
        call()
