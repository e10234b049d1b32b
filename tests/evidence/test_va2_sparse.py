"""What must hold of the evidence for the sparse formats, whatever the machine: bytes, exactness, decline with zeros."""

import pytest
from edgeinfer.evidence import va2_sparse

from .findings import found, value

SYSTEMS = ("spinfer", "flash-llm", "endor")


@pytest.mark.parametrize("system", SYSTEMS)
def test_times_are_ratios(system):
    for result in found(system).results:
        if "speed" in result.name or "time" in result.name:
            assert result.unit == "x" and result.value > 0


def test_counting_bits_finds_every_value():
    assert value("spinfer", "values that counting bits does not find") == 0


def test_bits_pay_from_7_percent_zeros_on_and_indices_of_32_bits_from_two_thirds():
    assert value("spinfer", "smaller than dense from, bitmap") == pytest.approx(7, abs=1)
    assert value("spinfer", "smaller than dense from, tiles") == pytest.approx(50, abs=2)
    assert value("spinfer", "smaller than dense from, CSR, 32-bit columns") == pytest.approx(67, abs=2)
    assert value("spinfer", "bytes per weight, bitmap, half zeros") == pytest.approx(1.125, rel=0.03)


def test_tiled_product_is_the_dense_one():
    assert value("flash-llm", "relative error of the tiled product") < 1e-5


def test_at_half_zeros_the_bitmap_travels_lighter_and_csr_does_not():
    assert value("endor", "a file gives back every bit") == 1
    assert value("endor", "dense file over bitmap file") == pytest.approx(2 / 1.125, rel=0.01)
    assert value("endor", "dense bytes over CSR bytes, 16-bit columns, 50 % zeros") < 1.01
    assert value("endor", "dense bytes over CSR bytes, 32-bit columns, 50 % zeros") < 0.7
    assert value("endor", "dense bytes over CSR bytes, 32-bit columns, 90 % zeros") > 3


def test_the_slower_the_link_the_nearer_the_gain_to_the_bytes():
    gains = [va2_sparse.link_times(0.5, link, 10) for link in (0.1, 1, 10)]
    ratios = [g["dense"] / g["bitmap"] for g in gains]
    assert ratios == sorted(ratios, reverse=True)
    assert ratios[0] == pytest.approx(2 / 1.125, rel=0.02)


def test_the_model_gets_worse_with_every_zero():
    curves = va2_sparse.perplexity_against_sparsity((0.0, 0.5, 0.8), tokens=512)
    for way in curves.values():
        assert way == sorted(way)
        assert way[0] == curves["magnitude"][0]  # nothing pruned is the same for all
