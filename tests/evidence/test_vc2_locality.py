"""What must hold of the evidence for locality on any machine: steps, bytes, equal results, simulated ratios."""

import pytest
from edgeinfer.evidence import vc2_shared_loads

from .findings import found, value

SYSTEMS = ("gpu-merge-path", "loop-tiling", "heterollm", "speedloader")


@pytest.mark.parametrize("system", SYSTEMS)
def test_measured_times_are_ratios(system):
    for result in found(system).results:
        if "time" in result.name or "speed" in result.name:
            assert result.unit == "x" and result.value > 0


def test_path_is_even_where_rows_are_not():
    for parts in (8, 64):
        assert value("gpu-merge-path", f"longest part over the mean, {parts} parts, by the path") < 1.001
    assert value("gpu-merge-path", "longest part over the mean, 64 parts, by rows") > 2
    assert value("gpu-merge-path", "largest difference between parts, 64 parts") <= 1
    assert found("gpu-merge-path").holds is True


def test_formula_picks_a_tile_near_the_best_of_all():
    for kib in (2, 4, 8):
        assert 1 <= value("loop-tiling", f"bytes of the formula's tile over the best of all, cache of {kib} KiB") < 1.5
        assert value("loop-tiling", f"bytes untiled over the best tile, cache of {kib} KiB") > 1.5
        assert value("loop-tiling", f"bytes of the best tile over the bound, cache of {kib} KiB") > 1
    assert found("loop-tiling").holds is True


def test_divisions_never_lose_on_the_simulated_pair_and_are_exact_on_the_real_one():
    for rows in (1, 64, 100, 300, 700):
        assert value("heterollm", f"speed over the better device alone, {rows} rows") >= 1
    assert value("heterollm", "speed over the better device alone, 1 rows") > 1.2
    assert value("heterollm", "wrong numbers on the real pair") == 0
    assert value("heterollm", "share of the static device's work that is padding, 1 rows") == 31 / 32
    assert found("heterollm").holds is None
    assert (
        vc2_shared_loads.simulated_plan(1).kind == "weight"
        and vc2_shared_loads.simulated_plan(300).kind == "activation"
    )


def test_bytes_fall_by_the_number_of_sub_batches():
    one = value("speedloader", "bytes read for a token, 1 sub-batches a layer")
    for count in (2, 4):
        assert one / value("speedloader", f"bytes read for a token, {count} sub-batches a layer") == pytest.approx(
            count
        )
    assert value("speedloader", "runs with tokens other than in memory") == 0
    assert found("speedloader").holds is True
