"""What must hold of the evidence for the look-up systems, whatever the machine: counts, bytes, errors, exactness."""

import numpy as np
import pytest
from edgeinfer.evidence import va1_lookup

from .findings import found, value


def test_planes_and_lookups_are_linear_in_the_bits():
    assert value("t-mac", "bytes of the planes, 4 bits over 1 bit") == 4
    assert value("t-mac", "look-ups per weight at 4 bits") == 1


def test_int8_tables_cost_little_and_a_table_per_row_costs_more_than_the_product():
    assert 0 < value("t-mac", "relative error of int8 tables, worst of 2 to 4 bits") < 0.05
    assert value("t-mac", "table additions again for every row, over the ordinary product's operations") > 2


def test_times_are_ratios():
    for result in found("t-mac").results:
        if "time" in result.name or "speed" in result.name:
            assert result.unit == "x" and result.method == "measured" and result.value > 0


@pytest.mark.parametrize("bits", [2, 3])
def test_refitted_scales_err_less_than_greedy_and_than_uniform_codes(bits):
    error = {n: value("lut-gemm", f"relative error, {n}, {bits} bits") for n in ("uniform", "greedy", "alternating")}
    with_bias = value("lut-gemm", f"relative error, alternating with bias, {bits} bits")
    assert error["alternating"] < error["greedy"]
    assert with_bias < error["uniform"] and with_bias <= error["alternating"]


def test_lut_gemm_product_is_the_decoded_one_with_fewer_operations():
    assert value("lut-gemm", "relative difference of the look-up product from the decoded matrix") < 1e-5
    assert value("lut-gemm", "operations of the ordinary product over the look-up product, 3 bits") > 4


def test_ternary_table_product_is_exact_at_1_6_bits():
    assert value("tellme", "outputs that differ from the integer product") == 0
    assert value("tellme", "largest difference of the vector kernel") == 0
    assert np.log2(3) < value("tellme", "stored bits per weight") < 1.65
    assert found("tellme").holds is None  # tokens per second need the FPGA


def test_open_row_wins_at_8_bits_and_loses_at_1_bit():
    assert value("lut-based-pim", "outputs that differ from the integer product") == 0
    assert value("lut-based-pim", "speed over bit-serial, 8 bits") > 1
    assert value("lut-based-pim", "energy of bit-serial over it, 8 bits") > 5
    assert value("lut-based-pim", "row activations, open row, 8 bits") == 1
    assert value("lut-based-pim", "fewest bits at which it takes less energy") > 1


def test_the_comparison_holds_all_contenders_and_their_results_agree():
    times = va1_lookup.lookup_against_others(side=256, rounds=3, cold_bytes=1 << 16, max_seconds=1.0)
    assert {f"look-up, {b} bit{'s' * (b > 1)}" for b in (1, 2, 3, 4)} <= set(times.times)
    assert times.baseline == "dequantize, 4 bits" and len(times.times) == 8


def test_the_dequantizing_baseline_computes_the_same_product():
    from edgeinfer import kernels

    rng = np.random.default_rng(0)
    weight, x = rng.normal(size=(16, 256)).astype(np.float32), rng.normal(size=256).astype(np.float32)
    for bits in (2, 4):
        q = kernels.quantize_groupwise(weight, bits, 128, symmetric=False)
        assert np.allclose(va1_lookup.dequantized_product(q, x), q.dequantize() @ x, rtol=1e-4, atol=1e-3)
