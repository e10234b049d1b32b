"""Merged layers: lengths stay, directions lie between, the most different tokens are exact, bytes are counted."""

import numpy as np
import pytest
import torch
from edgeinfer import models
from edgeinfer.kernels import minicache
from edgeinfer.kernels.kv_cache import perplexity_in_parts
from hypothesis import given, settings
from hypothesis import strategies as st


def drawn(seed, heads, tokens, channels, noise=1.0):
    rng = np.random.default_rng(seed)
    lower = rng.standard_normal((heads, tokens, channels)).astype(np.float32)
    upper = (rng.uniform(0.5, 2) * lower + noise * rng.standard_normal(lower.shape)).astype(np.float32)
    return lower, upper


@settings(max_examples=50, deadline=None)
@given(
    st.integers(1, 3), st.integers(0, 30), st.integers(1, 33), st.floats(0, 1), st.floats(0, 1), st.integers(0, 2**31)
)
def test_lengths_stay_and_kept_tokens_are_exact_on_any_shape(heads, tokens, channels, keep, t, seed):
    lower, upper = drawn(seed, heads, tokens, channels)
    merged = minicache.merge_layers(lower, upper, keep, t)
    for restored, original in zip(merged.restore(), (lower, upper), strict=True):
        assert restored.shape == original.shape
        lengths = np.linalg.norm(original, axis=-1)
        np.testing.assert_allclose(np.linalg.norm(restored, axis=-1), lengths, rtol=5e-3, atol=1e-4)
        kept = merged.kept[..., None].astype(int)
        np.testing.assert_allclose(
            np.take_along_axis(restored, kept, -2), np.take_along_axis(original, kept, -2), rtol=1e-3, atol=1e-6
        )
    assert merged.kept.shape[-1] == int(np.ceil(keep * tokens - 1e-9))


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 40), st.floats(0, 1), st.integers(0, 2**31))
def test_shared_direction_divides_the_angle(channels, t, seed):
    lower, upper = (x.astype(np.float64) for x in drawn(seed, 1, 5, channels))
    middle = minicache.interpolate(lower, upper, t)

    def angle(a, b):
        return np.arccos(np.clip((a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1), -1, 1))

    np.testing.assert_allclose(np.linalg.norm(middle, axis=-1), 1, rtol=1e-9)
    np.testing.assert_allclose(angle(lower, middle), t * angle(lower, upper), atol=1e-4)


def test_the_most_different_tokens_are_kept():
    lower, upper = drawn(0, 1, 40, 16, noise=0.1)
    upper[0, [3, 17]] = -lower[0, [3, 17]] + 0.01
    merged = minicache.merge_layers(lower, upper, keep=0.05)
    assert sorted(merged.kept[0].tolist()) == [3, 17]


@pytest.mark.parametrize("t", [0.2, 0.5, 0.8])
def test_equal_opposite_and_zero_vectors_give_finite_directions(t):
    a = np.float32([[[1, 2, 3], [1, 2, 3], [0, 0, 0], [0, 0, 0], [1, 0, 0]]])
    b = np.float32([[[1, 2, 3], [-1, -2, -3], [0, 0, 0], [0, 5, 0], [0, 0, 0]]])
    lower, upper = minicache.merge_layers(a, b, keep=0, t=t).restore()
    np.testing.assert_allclose(lower[0, [0, 2, 4]], a[0, [0, 2, 4]], rtol=1e-3)
    np.testing.assert_allclose(upper[0, [0, 2, 3]], b[0, [0, 2, 3]], rtol=1e-3)
    assert np.isfinite(lower).all() and np.isfinite(upper).all()


def test_similar_layers_merge_with_less_error_than_different_ones():
    errors = []
    for noise in (0.1, 3.0):
        lower, upper = drawn(1, 2, 50, 32, noise)
        restored = minicache.merge_layers(lower, upper, keep=0).restore()[1]
        errors.append(np.linalg.norm(restored - upper) / np.linalg.norm(upper))
        assert minicache.cosine_similarity(lower, upper).shape == (2, 50)
    assert errors[0] < 0.1 < errors[1]


def test_bytes_are_counted_exactly():
    lower, upper = drawn(0, 4, 100, 32)
    merged = minicache.merge_layers(lower, upper, keep=0.1)
    assert merged.nbytes == 4 * 100 * 32 * 2 + 2 * 4 * 100 * 2 + 4 * 10 * 4 + 2 * 4 * 10 * 32 * 2


def test_wrong_input_gets_one_sentence():
    x = np.zeros((1, 4, 8), np.float32)
    for arguments, words in (
        ((x, x[:, :3]), "same shape"),
        ((x * np.nan, x), "NaN or infinite"),
        ((x, x, 1.5), "share between 0 and 1"),
        ((x, x, 0.1, -1), "t must lie between"),
    ):
        with pytest.raises(ValueError, match=words):
            minicache.merge_layers(*arguments)


@pytest.fixture(scope="module")
def model():
    torch.set_num_threads(1)
    return models.load("target")


def test_a_cache_that_keeps_everything_changes_little_and_merging_saves_bytes(model):
    tokens = models.held_out_tokens()
    plain, _ = perplexity_in_parts(model, tokens, 64, 128, part=16)
    found = {}
    for keep in (0.0, 1.0):
        model.cache_factory = minicache.MergedCache.factory(start=4, keep=keep)
        found[keep] = perplexity_in_parts(model, tokens, 64, 128, part=16)
    model.restore()
    assert abs(found[1.0][0] - plain) < 0.01 * plain
    assert found[0.0][0] > found[1.0][0] and found[0.0][1] < 0.8 * 8 * 2 * 4 * 32 * 2


def test_a_step_that_ends_between_two_merged_layers_is_refused(model):
    model.cache_factory = minicache.MergedCache.factory(start=4)
    tokens = models.held_out_tokens()[:8].view(1, -1)
    kv_cache = minicache.MergedCache(model.config, 1, torch.float32, start=4)
    model.forward_layers(model.embed(tokens), kv_cache, 0, 5)
    with pytest.raises(ValueError, match="layers 4 and 5 are merged"):
        kv_cache.advance(8)
    model.restore()
    with pytest.raises(ValueError, match="start must be a layer"):
        minicache.MergedCache(model.config, 1, torch.float32, start=9)
