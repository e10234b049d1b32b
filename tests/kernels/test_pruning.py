"""Pruning sets to zero what its criterion says, in exactly the share that was asked for."""

import numpy as np
import pytest
from edgeinfer import models
from edgeinfer.kernels import prune_activation_aware, prune_magnitude, prune_model, pruning
from hypothesis import given, settings
from hypothesis import strategies as st


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 20), st.integers(1, 60), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_share_is_exact_and_what_stays_is_larger(rows, columns, sparsity, seed):
    weight = np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32)
    kept = weight.copy()
    pruned = prune_magnitude(weight, sparsity)
    np.testing.assert_array_equal(weight, kept)  # the input is left alone
    gone = pruned == 0
    assert gone.sum() == round(sparsity * weight.size)
    np.testing.assert_array_equal(pruned[~gone], weight[~gone])
    if gone.any() and not gone.all():
        assert np.abs(weight[gone]).max() <= np.abs(weight[~gone]).min()


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 20), st.integers(1, 60), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_activation_aware_ranks_each_row_by_weight_times_norm(rows, columns, sparsity, seed):
    rng = np.random.default_rng(seed)
    weight, norm = rng.standard_normal((rows, columns)).astype(np.float32), rng.random(columns).astype(np.float32)
    pruned = prune_activation_aware(weight, norm, sparsity)
    score = np.abs(weight) * norm
    for row in range(rows):
        gone = pruned[row] == 0
        assert gone.sum() == round(sparsity * columns)
        if gone.any() and not gone.all():
            assert score[row, gone].max() <= score[row, ~gone].min()


def test_equal_norms_make_it_magnitude_by_row():
    weight = np.random.default_rng(0).standard_normal((8, 64)).astype(np.float32)
    by_row = prune_magnitude(weight, 0.5, per="row")
    np.testing.assert_array_equal(prune_activation_aware(weight, np.ones(64), 0.5), by_row)


def test_a_loud_input_saves_its_small_weights():
    weight = np.ones((4, 8), np.float32)
    weight[:, 3] = 0.1
    norm = np.where(np.arange(8) == 3, 100.0, 1.0)
    assert (prune_magnitude(weight, 0.5)[:, 3] == 0).all()
    assert (prune_activation_aware(weight, norm, 0.5)[:, 3] != 0).all()


def test_among_equal_weights_the_first_go():
    np.testing.assert_array_equal(prune_magnitude(np.ones((1, 4), np.float32), 0.5), [[0, 0, 1, 1]])


def test_norm_is_that_of_the_columns():
    inputs = np.array([[3, 0], [4, 1]], np.float32)
    np.testing.assert_allclose(pruning.input_norm(inputs), [5, 1])


@pytest.fixture(scope="module")
def model():
    return models.load("target")


def test_a_model_is_pruned_layer_by_layer_and_its_head_is_left_alone(model):
    tokens = models.held_out_tokens("text")[:512].reshape(2, 256)
    norms = pruning.calibrate(model, tokens)
    for method in pruning.METHODS:
        copy = model.clone()
        pruned = prune_model(copy, 0.5, method, norms)
        assert set(pruned) == set(norms)
        for name, weight in copy.linears().items():
            share = float((weight == 0).float().mean())
            assert share == pytest.approx(0.5, abs=0.01) if name in pruned else share < 0.01
    assert all((w != 0).float().mean() > 0.99 for w in model.linears().values())


W = np.ones((4, 8), np.float32)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: prune_magnitude(W, 50), "sparsity must be a share of zeros between 0 and 1, got 50"),
        (lambda: prune_magnitude(W, float("nan")), "sparsity must be a share of zeros"),
        (lambda: prune_magnitude(W, 0.5, per="group"), "per must be 'matrix' or 'row', got 'group'"),
        (lambda: prune_magnitude(W * np.nan, 0.5), "weight contains 32 NaN or infinite values; which of them is small"),
        (lambda: prune_activation_aware(W, np.ones(4), 0.5), r"input_norm must have shape \(8,\), one norm for each"),
        (lambda: prune_activation_aware(W, -np.ones(8), 0.5), "input_norm must hold norms"),
        (lambda: pruning.input_norm(W[:0]), "inputs is empty"),
    ],
)
def test_a_wrong_call_gets_one_clear_sentence(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


def test_a_wrong_method_gets_one_clear_sentence(model):
    with pytest.raises(ValueError, match="method 'random' is unknown; choose one of magnitude, activation-aware"):
        prune_model(model, 0.5, "random")
    with pytest.raises(ValueError, match="method 'activation-aware' needs the norms of calibrate"):
        prune_model(model, 0.5, "activation-aware")
