"""Shared heads, centres, factors, blocks and sub-matrices: exact where they claim to be, sane at the edges."""

import numpy as np
import pytest
import torch
from edgeinfer import models
from edgeinfer.memory import sharing
from edgeinfer.memory.sharing import blocks, factors, heads, mpo, submatrix
from hypothesis import given, settings
from hypothesis import strategies as st

seeds = st.integers(0, 2**16)


@pytest.fixture(scope="module")
def target():
    return models.load("target", torch.float32)


def test_every_public_name_is_found_and_others_are_refused():
    assert all(getattr(sharing, name) is not None for name in sharing.__all__)
    with pytest.raises(AttributeError, match="nothing_such"):
        _ = sharing.nothing_such


# ---------------------------------------------------------------- heads


@given(seed=seeds, units=st.integers(2, 20), data=st.data())
@settings(max_examples=30, deadline=None)
def test_a_lender_never_borrows(seed, units, data):
    count = data.draw(st.integers(0, units - 1))
    c = np.random.default_rng(seed).normal(size=(units, units))
    borrows = heads.match_heads(c + c.T, count)
    assert len(borrows) <= count and not set(borrows) & set(borrows.values())
    drawn = heads.random_match(units, count, seed)
    assert len(drawn) == count and not set(drawn) & set(drawn.values())


def test_planted_twins_are_matched_first_and_scaling_does_not_hide_them():
    rng = np.random.default_rng(0)
    q, k = rng.normal(size=(2, 10, 32))
    for twin, of in ((7, 2), (9, 4)):
        q[twin], k[twin] = 3 * q[of], 0.1 * k[of]
    similarity = heads.head_similarity([q, k])
    assert np.allclose(np.diag(similarity), 1)
    assert heads.match_heads(similarity, 2) == {7: 2, 9: 4}


def test_a_part_of_large_numbers_does_not_drown_the_other():
    q, k = np.array([[1.0, 0], [1, 0], [0, 1]]), 1000 * np.array([[1.0, 0], [0, 1], [1, 0]])
    similarity = heads.head_similarity([q, k])
    assert similarity[0, 1] == similarity[0, 2] == 0.5


def test_sharing_copies_whole_units_of_the_decoder_and_nothing_else(target):
    model, before = target.clone(), heads.unit_weights(target)
    plan = heads.share_heads(model, 3)
    after = heads.unit_weights(model)
    for unit in range(plan.units):
        source = plan.borrows.get(unit, unit)
        assert torch.equal(after["q_proj"][unit], before["q_proj"][source])
        assert torch.equal(after["k_proj"][unit], before["k_proj"][source])
        assert torch.equal(after["v_proj"][unit], before["v_proj"][unit])
    assert plan.bytes_saved == 3 * 2 * (64 + 32) * 256


def test_twins_in_a_real_decoder_are_shared_without_a_trace(target):
    model = target.clone()
    for part, rows in (("q_proj", 64), ("k_proj", 32)):
        weight = model.linears()[f"layers.5.attention.{part}"]
        weight[:rows] = model.linears()[f"layers.2.attention.{part}"][rows : 2 * rows]
        model.set_weight(f"layers.5.attention.{part}", weight)
    tokens = models.held_out_tokens()[:64][None]
    before = model.prefill(tokens)[0]
    assert heads.share_heads(model, 1).borrows == {20: 9}
    assert torch.equal(model.prefill(tokens)[0], before)


def test_heads_refuse_what_cannot_be():
    with pytest.raises(ValueError, match="same number of units"):
        heads.head_similarity([np.ones((3, 2)), np.ones((2, 2))])
    with pytest.raises(ValueError, match="count must lie in"):
        heads.match_heads(np.eye(3), 3)


# ---------------------------------------------------------------- matrix product operators


@given(seed=seeds, rows=st.tuples(*[st.integers(1, 4)] * 3), columns=st.tuples(*[st.integers(1, 4)] * 3))
@settings(max_examples=30, deadline=None)
def test_a_chain_with_all_ranks_is_the_matrix(seed, rows, columns):
    w = np.random.default_rng(seed).normal(size=(np.prod(rows), np.prod(columns))).astype(np.float32)
    assert np.array_equal(mpo.matrix_order(mpo.chain_order(w, rows, columns), rows, columns), w)
    assert np.allclose(mpo.decompose(w, rows, columns).dense(), w, atol=1e-5)


def test_a_common_centre_is_fitted_closely_and_errors_never_rise():
    rng = np.random.default_rng(1)
    centre = rng.normal(size=(3, 16, 3))
    ws = [
        mpo.MPO(rng.normal(size=(4, 3)), centre, rng.normal(size=(3, 4)), (2, 4, 2), (2, 4, 2)).dense()
        for _ in range(4)
    ]
    shared = mpo.share_central(ws, (2, 4, 2), (2, 4, 2), (3, 3), rounds=60)
    assert all(b <= a + 1e-9 for a, b in zip(shared.error, shared.error[1:], strict=False))
    assert shared.error[-1] < 0.2
    assert shared.nbytes == 2 * (3 * 16 * 3 + 4 * (12 + 12))
    assert all(layer.centre is shared.layers[0].centre for layer in shared.layers)


def test_one_layer_alone_is_at_least_as_good_as_cutting_and_zeros_stay_zeros():
    w = np.random.default_rng(2).normal(size=(16, 16)).astype(np.float32)
    split = (2, 4, 2)
    cut = np.linalg.norm(mpo.decompose(w, split, split, (2, 2)).dense() - w) / np.linalg.norm(w)
    assert mpo.share_central([w], split, split, (2, 2), 30).error[-1] <= cut + 1e-3
    zeros = mpo.share_central([np.zeros((16, 16), np.float32)] * 2, split, split, (2, 2))
    assert not any(layer.dense().any() for layer in zeros.layers)


def test_chains_refuse_what_cannot_be():
    w = np.ones((4, 4), np.float32)
    with pytest.raises(ValueError, match="multiply to 8 x 4; the weight is 4 x 4"):
        mpo.decompose(w, (2, 2, 2), (1, 2, 2))
    with pytest.raises(ValueError, match="ranks must be positive"):
        mpo.decompose(w, (2, 2, 1), (1, 2, 2), (0, 1))
    with pytest.raises(ValueError, match="at least one weight"):
        mpo.share_central([], (1, 1, 1), (1, 1, 1), (1, 1))


# ---------------------------------------------------------------- factors


@given(seed=seeds, rank=st.integers(1, 8))
@settings(max_examples=15, deadline=None)
def test_the_common_factor_is_as_good_as_the_stacked_svd(seed, rank):
    ws = list(torch.randn(3, 6, 8, generator=torch.Generator().manual_seed(seed)))
    shared = factors.share_factors(ws, rank)
    lost = torch.linalg.svdvals(torch.cat(ws).double())[rank:].square().sum()
    assert float((shared.dense() - torch.stack(ws)).square().sum()) == pytest.approx(float(lost), abs=1e-4)
    assert shared.nbytes == 2 * (3 * 6 * rank + rank * 8)


def test_the_differentiable_network_and_full_rank_factors_compute_what_the_decoder_computes(target):
    tokens = models.held_out_tokens()[:32][None]
    want = target.prefill(tokens)[0]
    network = factors.differentiable(target)
    assert torch.allclose(network(tokens)[0][8], want, atol=2e-3)
    factors.compress(network, 256)
    assert torch.allclose(network(tokens)[0][8], want, atol=5e-3)
    shared = {id(layer.self_attn.q_proj.right) for layer in network.model.layers}
    assert len(shared) == 1


def test_factors_refuse_what_cannot_be(target):
    with pytest.raises(ValueError, match="rank must lie in"):
        factors.share_factors([torch.ones(8, 8)], 0)
    with pytest.raises(ValueError, match="'svd' or 'random'"):
        factors.compress(factors.differentiable(target), 8, "zeros")


# ---------------------------------------------------------------- blocks


@given(count=st.integers(1, 6), lines=st.integers(1, 9))
@settings(max_examples=30, deadline=None)
def test_an_immediate_repeat_is_free_once_a_block_fits_and_a_distant_one_only_when_all_fit(count, lines):
    block, line = 64 * lines, 64
    one_fits, all_fit = max(block, line), count * block
    immediate = blocks.bytes_per_token(blocks.block_order(count), block, one_fits)
    assert immediate == (count * block if count > 1 else 0)
    if count > 1:
        for cache in (one_fits, all_fit - line):
            if cache >= block:
                assert blocks.bytes_per_token(blocks.block_order(count, "all-over"), block, cache) == 2 * count * block
    assert blocks.bytes_per_token(blocks.block_order(count, "all-over"), block, all_fit) == 0


def test_orders_run_every_block_twice():
    assert blocks.block_order(3) == [0, 0, 1, 1, 2, 2]
    assert blocks.block_order(3, "all-over") == [0, 1, 2, 0, 1, 2]
    assert blocks.block_order(3, "reverse") == [0, 1, 2, 2, 1, 0]
    with pytest.raises(ValueError, match="immediate, all-over, reverse"):
        blocks.block_order(3, "twice")
    with pytest.raises(ValueError, match="cache hold a line"):
        blocks.bytes_per_token([0], 64, 32)


def test_repetition_adds_depth_but_no_parameters_and_training_lowers_the_loss():
    config, text = blocks.small_config(32, 64, 2), models.held_out_tokens("train")[:4000]
    plain = blocks.RepeatedNetwork(config, [0, 1])
    twice, curve, end = blocks.train_small(config, blocks.block_order(2), text, text, 8)
    assert blocks.parameters_in_blocks(plain) == blocks.parameters_in_blocks(twice)
    assert curve[-1] < curve[0] and end < curve[0]
    assert len(twice(text[None, :5])[1]) == 4


# ---------------------------------------------------------------- sub-matrices


@given(seed=seeds, h=st.integers(1, 3), w=st.integers(1, 3), across=st.integers(1, 4), down=st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_the_product_is_that_of_the_dense_matrix_and_enough_sources_are_exact(seed, h, w, across, down):
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(h * down, w * across)).astype(np.float32)
    x = rng.normal(size=(3, w * across)).astype(np.float32)
    few = submatrix.partition(weight, (h, w), 2, seed=seed)
    assert np.allclose(few.matmul(x), x @ few.dense().T, atol=1e-4)
    assert np.allclose(few.matmul(x[0]), x[0] @ few.dense().T, atol=1e-4)
    assert np.allclose(submatrix.partition(weight, (h, w), 10**6).dense(), weight, atol=1e-5)


def test_scalings_are_least_squares_and_may_be_negative():
    s = np.array([[1.0, 2.0], [1.0, 2.0], [0.0, 0.0]])
    t = np.array([[-2.0, -4.0], [2.0, -1.0], [1.0, 1.0]])
    assert submatrix.fit_scale(t, s).tolist() == [-2.0, 0.0, 0.0]
    signs = np.array([[1.0, 2, -1, -2], [3, 6, -0.5, -1]], np.float32)
    one = submatrix.partition(signs, (1, 2), 1)
    assert np.allclose(one.dense(), signs, atol=1e-6)


def test_bytes_and_operations_are_those_of_the_format():
    weight = np.random.default_rng(0).normal(size=(8, 12)).astype(np.float32)
    made = submatrix.partition(weight, (2, 4), 3)
    assert made.nbytes == 2 * 3 * 8 + 2 * 12 + 3  # sources, scalings, 12 indices of two bits
    assert made.multiplications == 3 * 8 * 3 + 12 * 2


def test_sub_matrices_refuse_what_cannot_be():
    with pytest.raises(ValueError, match="tiles of 3 x 4 do not divide a weight of 8 x 8"):
        submatrix.partition(np.ones((8, 8), np.float32), (3, 4))
    with pytest.raises(ValueError, match="at least 1, got 0"):
        submatrix.partition(np.ones((8, 8), np.float32), (4, 4), 0)
