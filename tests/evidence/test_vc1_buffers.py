"""What must hold of the evidence for FlashDecoding++, EdgeLLM and planned buffers on any machine."""

import pytest

from .findings import value


def test_a_fixed_maximum_removes_every_wait_and_changes_no_token():
    assert value("flashdecoding-pp", "pieces that wait for a maximum, true maximum") == 8 * (4096 // 256 - 1)
    assert value("flashdecoding-pp", "multiplications to scale them anew, true maximum") == 8 * 15 * 33
    for name in (
        "pieces that wait for a maximum, fixed phi",
        "decoded tokens that differ",
        "rows computed again, range of float32",
        "waits in the decoded text",
    ):
        assert value("flashdecoding-pp", name) == 0, name
    assert value("flashdecoding-pp", "largest difference of the two") < 1e-5


def test_a_narrow_range_costs_this_model_many_rows():
    assert 0.1 < value("flashdecoding-pp", "rows computed again, range of float16") < 0.9


def test_padding_and_the_table_are_as_counted():
    assert value("flashdecoding-pp", "utilisation at one row, padded to 8") == 1 / 8
    assert value("flashdecoding-pp", "utilisation at one row, padded to 64") == 1 / 64
    assert value("flashdecoding-pp", "time of a single buffer over two") == pytest.approx(32 / 17)
    table = value("flashdecoding-pp", "mean loss, table")
    for kernel in ("row by row", "tiles of 8", "tiles of 64"):
        assert 0 <= table < value("flashdecoding-pp", f"mean loss, {kernel}")


def test_one_layout_copies_nothing_and_gives_the_same_logits():
    assert value("edgellm", "different layouts, one format") == 1
    assert value("edgellm", "largest difference of a logit, one format") < 1e-3
    rolls = 8 * 12 * 64 * 32 * 4  # layers, rotated heads, tokens, channels, bytes
    assert value("edgellm", "bytes copied only to lay them out anew, usual layouts") > rolls
    assert 0 < value("edgellm", "share of all bytes written") < 0.5


def test_bits_of_the_levels_are_the_formula_and_perplexity_grows():
    bits = [value("edgellm", f"bits per weight, {k} of 8") for k in (8, 4, 2, 1)]
    assert bits == [4.25, 3.25, 2.0, 1.125]
    rising = [value("edgellm", "perplexity, not quantized")]
    rising += [value("edgellm", f"perplexity, feed-forward {k} of 8") for k in (8, 4, 2, 1)]
    assert rising == sorted(rising)
    assert value("edgellm", "bytes of the chosen levels over 4 of 8") <= 1
    assert value("edgellm", "perplexity, levels chosen for each weight") < rising[2]


def test_one_stream_decodes_and_a_queue_helps():
    assert value("edgellm", "decoded tokens that differ") == 0
    fields = value("edgellm", "integers in them that change with the position")
    assert 0 < fields < value("edgellm", "instructions of a decode step") / 4
    busy = [value("edgellm", f"accelerator busy, {n} instructions ahead") for n in (0, 1, 8)]
    assert value("edgellm", "bytes of a decode step in the quick memory") > 4 * 5_000_000  # every weight once, float32
    assert 1 < value("edgellm", "time with one memory after the other over both at once") <= 2
    assert busy == sorted(busy) and busy[0] < busy[2] <= 1


def test_planned_buffers_meet_the_bound():
    names = ("naive", "whole buffers", "best fit, first written first", "best fit, largest first")
    naive, *_, best = (value("transformer-lite", f"bytes of activations, {n}") for n in names)
    assert best == value("transformer-lite", "lower bound of the bytes of activations") < naive / 10
    assert value("transformer-lite", "one symbolic plan over the bound, worst of six lengths") == 1
    assert value("transformer-lite", "logits equal to the bit, out of the arena") == 1
    beside = value("transformer-lite", "bytes a decode step allocates beside its arena")
    assert beside <= 64 < value("transformer-lite", "the same without an arena")
