"""Offloading: what was counted is what the techniques promise."""

from .findings import value


def test_flexgen_runs_where_the_model_does_not_fit():
    assert value("flexgen", "the policy ran in less memory than the weights take") == 1
    assert value("flexgen", "all weights in memory, under the same limit") == 0
    assert value("flexgen", "best policy on a grid over the one that was found") <= 1 + 1e-6


def test_four_bits_move_a_seventh_and_change_little():
    assert value("flexgen", "tokens are those of the unpacked reference") == 1
    assert 1 / 7.2 < value("flexgen", "bytes from the disk, four bits over floats") < 1 / 6
    assert value("flexgen", "bytes from the slow tier, four bits over floats") < 1 / 5
    assert 1 <= value("flexgen", "perplexity with caches in four bits over exact") < 1.02
    assert 1 < value("flexgen", "perplexity with weights and caches in four bits over exact") < 1.05


def test_a_batch_shares_what_is_streamed():
    assert abs(value("zero-inference", "bytes read for each token, batch of 16 against 1") - 1 / 16) < 1e-9
    assert value("zero-inference", "tokens are those of the model in memory") == 1
