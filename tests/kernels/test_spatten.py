"""Cascade pruning and progressive bits: nothing pruned comes back, no query looks ahead, bits are counted."""

import itertools

import pytest
import torch
from edgeinfer import models
from edgeinfer.kernels.spatten import CascadePruning, Progressive, best, high_bits, progressive_probabilities
from hypothesis import given, settings
from hypothesis import strategies as st


@pytest.fixture(scope="module")
def model():
    torch.set_num_threads(1)
    return models.load("target")


@pytest.fixture(autouse=True)
def _restored(request):
    yield
    if "model" in request.fixturenames:
        request.getfixturevalue("model").restore()


def test_pruning_nothing_changes_nothing(model):
    tokens = models.held_out_tokens()[:60].view(2, 30)
    expected = model.prefill(tokens)[0]
    model.attention = pruning = CascadePruning(8, 1.0, 1.0)
    torch.testing.assert_close(model.prefill(tokens)[0], expected, rtol=1e-3, atol=1e-3)
    assert pruning.traffic == 1


@pytest.mark.parametrize("gather", ["query", "mean", "sum"])
@pytest.mark.parametrize("keep", [0.75, 0.2])
def test_what_is_pruned_stays_pruned_and_the_share_is_kept(model, gather, keep):
    tokens = models.held_out_tokens()[:80].view(2, 40)
    model.attention = pruning = CascadePruning(8, keep, gather=gather)
    model.prefill(tokens)
    visible = pruning.alive[0].sum(-1)
    for before, after in itertools.pairwise(pruning.alive):
        assert not bool((after & ~before).any())
    for layer, alive in enumerate(pruning.alive):
        wanted = (pruning.share(layer, keep) * visible - 1e-4).ceil()
        assert bool((alive.sum(-1) <= wanted + 1).all()) and bool((alive.sum(-1) >= 1).all())
        assert bool(alive[:, torch.arange(40), torch.arange(40)].all())  # a query's own token


@pytest.mark.parametrize("gather", ["query", "mean", "sum"])
def test_no_query_learns_from_later_tokens(model, gather):
    tokens = models.held_out_tokens()[:40].view(1, 40)
    outputs = []
    for end in (40, 25):
        model.attention = CascadePruning(8, 0.4, 0.6, Progressive(4, 0.3), gather)
        outputs.append(model.prefill(tokens[:, :end])[0][:, :25])
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("gather", ["query", "mean", "sum"])
def test_decoding_goes_on_with_what_was_gathered(model, gather):
    tokens = models.held_out_tokens()[:30].view(1, 30)
    model.attention = CascadePruning(8, 0.5, 1.0, gather=gather)
    whole = model.prefill(tokens)[0][:, -1]
    model.attention = CascadePruning(8, 0.5, 1.0, gather=gather)
    _, kv_cache = model.prefill(tokens[:, :-1])
    last = model.decode(tokens[:, -1:], kv_cache)[:, -1]
    if gather == "query":
        torch.testing.assert_close(last, whole, rtol=1e-3, atol=1e-3)
    else:  # what was gathered at the last layer counts from the first one on: near, not equal
        assert last.shape == whole.shape and bool(last.isfinite().all())


def test_heads_are_pruned_for_good_and_traffic_falls(model):
    tokens = models.held_out_tokens()[:64].view(1, 64)
    model.attention = few = CascadePruning(8, 1.0, 0.25)
    model.prefill(tokens)
    # 8 heads, shares from 1 to 1/4 in equal steps, rounded up: 8 8 7 6 5 4 3 2 of 64
    assert few.traffic == pytest.approx(sum((8, 8, 7, 6, 5, 4, 3, 2)) / 64)


def test_progressive_bits_are_counted(model):
    tokens = models.held_out_tokens()[:32].view(1, 32)
    for threshold, fetched in ((0.0, 0.0), (1.0, 1.0)):
        model.attention = pruning = CascadePruning(8, 1.0, progressive=Progressive(4, threshold))
        model.prefill(tokens)
        share = pruning.fetched / pruning.queries
        assert abs(share - fetched) < 0.1
        first_bits = (4 + 8) / 16
        assert first_bits <= pruning.traffic <= 1 and (threshold or pruning.traffic == first_bits)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 6), st.integers(1, 30), st.integers(1, 40), st.integers(1, 8), st.floats(0, 1), st.integers(0, 2**31)
)
def test_flat_softmax_fetches_the_low_bits_and_only_that(queries, tokens, channels, bits, threshold, seed):
    rng = torch.Generator().manual_seed(seed)
    query, keys = torch.randn(queries, channels, generator=rng), torch.randn(tokens, channels, generator=rng)
    found, fetched = progressive_probabilities(query, keys, None, Progressive(bits, threshold))
    torch.testing.assert_close(found.sum(-1), torch.ones(queries))
    for row in range(queries):
        scores = [(query[row] @ high_bits(keys, b).T / channels**0.5).softmax(-1) for b in (bits, 8)]
        if abs(float(scores[0].max()) - threshold) > 1e-5:
            assert bool(fetched[row]) == (float(scores[0].max()) < threshold)
            torch.testing.assert_close(found[row], scores[int(fetched[row])], rtol=1e-4, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 8), st.integers(0, 2**31))
def test_high_bits_are_half_a_step_away(tokens, channels, bits, seed):
    x = torch.randn(tokens, channels, generator=torch.Generator().manual_seed(seed))
    step = x.abs().amax(-1, keepdim=True) / 127.5 * 2 ** (8 - bits)
    assert bool(((high_bits(x, bits) - x).abs() <= step * 0.501 + 1e-6).all())


def test_best_takes_the_largest_and_the_earlier_of_equals():
    importance = torch.tensor([[1.0, 3.0, 3.0, 2.0], [0.0, 0.0, 0.0, 0.0]])
    chosen = best(importance, torch.tensor([2, 1]))
    assert chosen.tolist() == [[False, True, True, False], [True, False, False, False]]


def test_wrong_input_gets_one_sentence():
    x = torch.ones(2, 4)
    for call, words in (
        (lambda: CascadePruning(8, 0), "keep_tokens must be a share"),
        (lambda: CascadePruning(8, 0.5, 1.5), "keep_heads must be a share"),
        (lambda: CascadePruning(8, gather="all"), "gather must be"),
        (lambda: Progressive(0), "high_bits must be 1 to 8"),
        (lambda: Progressive(4, 2), "probability from 0 to 1"),
        (lambda: progressive_probabilities(x * float("nan"), x, None, Progressive()), "contain NaN"),
    ):
        with pytest.raises(ValueError, match=words):
            call()
