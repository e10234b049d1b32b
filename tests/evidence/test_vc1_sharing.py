"""What must hold of the evidence for shared weights on any machine: bytes, errors, and which start is ahead."""

import pytest

from .findings import found, value


def test_borrowed_heads_save_bytes_and_cost_quality_here():
    for count in (2, 8):
        assert value("head-wise-sharing", f"bytes saved, {count} of 32 heads") == count * 2 * 96 * 256
        assert value("head-wise-sharing", f"perplexity, {count} of 32 heads borrow by similarity") > value(
            "head-wise-sharing", "perplexity, nothing shared"
        )
    assert value("head-wise-sharing", "largest cosine between two heads") < 0.1
    assert found("head-wise-sharing").holds is False and "alike" in found("head-wise-sharing").reason


def test_an_uncut_chain_is_exact_and_a_shared_centre_is_compared_at_equal_bytes():
    assert value("mpo-parameter-sharing", "largest deviation of an uncut chain") < 1e-4
    assert value("mpo-parameter-sharing", "bytes, all layers over shared centre") > 7
    shared = value("mpo-parameter-sharing", "relative error, shared centre")
    assert value("mpo-parameter-sharing", "relative error, plain SVD at equal bytes") < shared < 1
    assert found("mpo-parameter-sharing").holds is None


def test_the_start_from_singular_vectors_is_ahead_before_and_after_training():
    for when in ("before", "after 8 steps"):
        assert value("lightformer", f"held-out loss {when}, start svd") < value(
            "lightformer", f"held-out loss {when}, start random"
        )
    assert value("lightformer", "bytes, own weights over shared factors") > 3
    assert found("lightformer").holds is True


def test_repeats_in_a_row_load_each_block_once_and_nets_are_of_one_size():
    load = {o: value("mobilellm", f"bytes a token, 8 blocks twice, {o}") for o in ("immediate", "all-over", "reverse")}
    assert load["immediate"] == 8 * 16 * 1024 and load["all-over"] == 2 * load["immediate"]
    assert load["immediate"] < load["reverse"] < load["all-over"]
    wide, thin = (value("mobilellm", f"parameters in blocks, {n}") for n in ("shallow and wide", "deep and thin"))
    assert thin == pytest.approx(wide, rel=0.01) and thin == value("mobilellm", "parameters in blocks, run twice")


def test_derived_tiles_trade_bytes_for_error():
    small, large = (
        [value("mecla", f"{what}, tiles of {tile}") for what in ("share of bytes", "relative error", "perplexity")]
        for tile in ("1 x 4", "4 x 4")
    )
    assert small[0] > large[0] and small[1] < large[1] and small[2] < large[2]
    assert value("mecla", "share of multiplications, tiles of 1 x 4") < 0.5
