"""What must hold of the evidence for MiniCache, Energon and SpAtten on any machine: bytes, orders, honest verdicts."""

import pytest
from edgeinfer.evidence import va1_kv

from .findings import value


def test_merging_half_the_layers_saves_the_bytes_of_a_quarter_less_lengths():
    model_bytes = 8 * 2 * 4 * 32 * 2  # layers, keys and values, heads, channels, float16
    assert value("minicache", "bytes per token, full cache") == model_bytes
    merged = 4 * 2 * 4 * 64 + 2 * 2 * 4 * (64 + 2 * 2)  # four layers alone; two pairs: a direction and two lengths
    compression = value("minicache", "compression, upper half merged, 0% of tokens kept")
    assert compression == pytest.approx(model_bytes / merged)


def test_keeping_more_tokens_unmerged_costs_bytes_and_never_much_quality():
    by_keep = {k: f"upper half merged, {k} of tokens kept" for k in ("0%", "5%", "20%")}
    compression = [value("minicache", f"compression, {name}") for name in by_keep.values()]
    perplexity = [value("minicache", f"perplexity, {name}") for name in by_keep.values()]
    assert compression == sorted(compression, reverse=True)
    assert perplexity[2] < perplexity[0]
    assert perplexity[2] > value("minicache", "perplexity, full cache")


def test_a_model_merged_with_itself_would_be_similar():
    keys, _ = va1_kv.cached_layers(16)
    assert va1_kv.neighbour_similarity(keys[[0, 0]]) == pytest.approx(1, abs=1e-6)
    assert keys.shape == (8, 4, 16, 32)


def test_higher_thresholds_keep_fewer_keys_and_read_fewer_bits():
    for what in ("keys kept", "bits read", "largest scores found"):
        series = [value("energon", f"{what}, alpha {a}") for a in ("-0.2", "0", "0.1")]
        assert series == sorted(series, reverse=True)
    assert value("energon", "perplexity, alpha 0") < value("energon", "perplexity, as many keys at random") / 2
    assert value("energon", "keys kept, alpha 0") < value("energon", "keys kept, 2 bits only, alpha 0")


def test_attention_of_all_queries_prunes_the_wrong_tokens_of_a_causal_model():
    own = value("spatten", "perplexity, tokens to 75 %")
    assert value("spatten", "perplexity, tokens to 75 %, attention of all queries") > 2 * own


def test_traffic_saved_follows_the_shares():
    few, fewer = (value("spatten", f"traffic saved, tokens to {share} %") for share in (75, 25))
    assert 1 < few < fewer
    # eight layers, shares from 1 to 1/2 in equal steps of 8 heads, rounded up
    assert value("spatten", "traffic saved, heads to 50 %") == pytest.approx(64 / (8 + 8 + 7 + 7 + 6 + 6 + 5 + 4))
    assert 1 < value("spatten", "traffic saved, high bits first") < 4 / 3
