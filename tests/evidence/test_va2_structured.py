"""What must hold of the evidence for structured sparsity and hybrids on any machine: shares, bytes, misses, ends."""

import numpy as np
import pytest
from edgeinfer.evidence import va2_hybrid, va2_structured

from .findings import found, value

SYSTEMS = ("hierarchical-nm", "hottiles", "hc-spmm", "spmm-row-permutation")


@pytest.mark.parametrize("system", SYSTEMS)
def test_measured_times_are_ratios(system):
    for result in found(system).results:
        if result.method == "measured" and ("time" in result.name or "speed" in result.name):
            assert result.unit == "x" and result.value > 0


@pytest.mark.parametrize("level", ["2:4", "2:4 of 75 % of the columns"])
def test_searched_order_keeps_more_than_the_given_and_a_random_one_and_less_than_no_pattern(level):
    orders = ("given order", "random order", "searched order", "no pattern")
    share = {order: value("hierarchical-nm", f"share of magnitude kept, {level}, {order}") for order in orders}
    assert max(share["given order"], share["random order"]) + 0.02 < share["searched order"] < share["no pattern"]


def test_perplexity_follows_what_is_kept():
    ways = {r.name.removeprefix("perplexity, "): r.value for r in found("hierarchical-nm").results}
    assert ways["dense"] < ways["half, no pattern"] < ways["2:4, one order for 16 rows"]
    assert ways["2:4, one order for 16 rows"] < ways["2:4, one order for a layer"] < ways["2:4"]
    assert ways["37.5 %, no pattern"] < ways["hierarchical, searched order"] < ways["hierarchical, given order"]
    assert value("hierarchical-nm", "share of the gap to no pattern closed by the order, 2:4") > 0.7


def test_search_finds_most_small_optima_and_two_of_four_takes_little_more_than_half():
    assert value("hierarchical-nm", "share of small cases where the search finds the best order") > 0.6
    assert value("hierarchical-nm", "largest loss of share against the best order") < 0.01
    assert value("hierarchical-nm", "bytes of 2:4 over dense, float32") == 17 / 32
    assert value("hierarchical-nm", "bytes of 2:4 over dense, bfloat16") == 9 / 16


def test_hottiles_gains_most_where_full_and_empty_regions_meet():
    gains = {r.name: r.value for r in found("hottiles").results if r.name.startswith("speed over the better worker")}
    assert max(gains, key=lambda n: gains[n]).endswith("blocks") and min(gains.values()) > 1
    assert value("hottiles", "finish over the best of all splits, worst") < 1.1
    assert 1 <= value("hottiles", "simulated end over predicted end, worst") < 1.5
    assert found("hottiles").holds is True


def test_condensing_raises_the_density_of_windows():
    for name in ("blocks", "R-MAT"):
        assert value("hc-spmm", f"density after condensing, {name}") > 5 * value("hc-spmm", f"density, {name}")
    assert value("hc-spmm", "unseen windows where the rule names the faster unit") > 0.7
    assert value("hc-spmm", "time by the rule over the oracle's") >= 1


def test_order_of_rows_nears_the_oracle_and_is_never_free():
    assert value("spmm-row-permutation", "share of the oracle's gain, logarithms") > 0.85
    assert value("spmm-row-permutation", "matrices that the choice makes worse") <= 2
    assert value("spmm-row-permutation", "products until the permutation is repaid, least") > 0
    runs = va2_hybrid.order_runs()
    assert all(run.cost_bytes > 0 and run.gain <= run.best_gain for run in runs.values())


def test_contenders_of_every_comparison_agree():
    small = va2_hybrid.mixed_matrix(3)
    assert set(va2_hybrid.real_pair_times(small, max_seconds=0.1).times) == {
        "BLAS alone",
        "vector code alone",
        "HotTiles",
    }
    rule = va2_hybrid.learned_rule().rule
    assert set(va2_hybrid.window_times(small, rule, max_seconds=0.1).times) >= {"by the rule"}
    assert va2_structured.n_m_times(side=64, rounds=3, max_seconds=0.1).baseline == "dense"


def test_pair_runs_end_after_the_shortest_possible_time():
    from edgeinfer.kernels.sparse_patterns import gallery

    run_ = va2_hybrid.simulate_pair(gallery(256)["blocks"], 32)
    assert all(np.isfinite(end) and end > 0 for end in run_.ends.values())
    assert run_.ends["HotTiles"] >= run_.predicted * (1 - 1e-6)
