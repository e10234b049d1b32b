"""The split of activations is exact, nothing is counted twice, and both paths together are the float product."""

import numpy as np
import pytest
from edgeinfer.kernels.shadow import shadow_linear, split_activations, static_scale
from hypothesis import given, settings
from hypothesis import strategies as st


def loud_inputs(rng, rows=32, columns=64, loud=(5, 40), strength=50.0):
    x = rng.normal(size=(rows, columns)).astype(np.float32)
    x[:, list(loud)] *= strength
    return x


@given(st.integers(1, 6), st.integers(1, 40), st.floats(0.001, 10), st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_codes_and_shadow_together_are_the_input_to_half_a_step(rows, columns, scale, seed):
    x = (np.random.default_rng(seed).normal(size=(rows, columns)) * 50).astype(np.float32)
    parts = split_activations(x, scale)
    together = parts.codes * np.float32(scale)
    assert not together[:, parts.columns].any()  # extracted before rounding: not counted twice
    together[:, parts.columns] += parts.shadow
    assert np.abs(together - x).max() <= 0.501 * scale + 1e-4
    assert np.array_equal(together[:, parts.columns], x[:, parts.columns])


def test_without_the_shadow_values_are_clipped(rng):
    x = loud_inputs(rng)
    parts = split_activations(x, 3 / 127, shadow=False)
    assert not parts.columns.size and np.abs(parts.codes).max() == 127


def test_scale_leaves_out_as_many_channels_as_asked(rng):
    x = loud_inputs(rng)
    assert static_scale(x) == np.abs(x).max() / np.float32(127)
    quiet = np.delete(x, [5, 40], 1)
    assert static_scale(x, 2 / 64) == pytest.approx(np.abs(quiet).max() / 127, rel=1e-6)
    assert static_scale(np.zeros((2, 3), np.float32)) == 1


def test_shadow_product_is_close_to_float_where_one_scale_is_not(rng, path):
    x = loud_inputs(rng)
    weight = rng.normal(size=(48, 64)).astype(np.float32)
    weight[:, [5, 40]] /= 50
    exact = x @ weight.T

    def error(layer):
        return float(np.linalg.norm(layer.matmul(x) - exact) / np.linalg.norm(exact))

    with_shadow = shadow_linear(weight, x, 2 / 64)
    assert error(with_shadow) < 0.02 < 0.1 < error(shadow_linear(weight, x, 0.0, shadow=False))
    assert with_shadow.channels == 2 and with_shadow.calls == 1 and sorted(with_shadow.kept) == [5, 40]


def test_a_channel_that_was_not_foreseen_takes_the_float_path_with_the_integer_weights(rng):
    calm = rng.normal(size=(32, 64)).astype(np.float32)
    weight = rng.normal(size=(48, 64)).astype(np.float32)
    layer = shadow_linear(weight, calm, 0.0)
    surprise = calm.copy()
    surprise[3, 17] = 1000
    assert not layer.kept
    difference = layer.matmul(surprise) - surprise @ weight.T
    assert np.abs(difference).max() < 1000 * np.abs(weight).max() / 127 + 1
    assert layer.channels == 1


def test_a_loud_channel_that_is_quiet_today_takes_the_integer_path(rng):
    x = loud_inputs(rng)
    weight = rng.normal(size=(48, 64)).astype(np.float32)
    layer = shadow_linear(weight, x, 2 / 64)
    quiet = (rng.normal(size=64) * 0.5).astype(np.float32)
    y = layer.matmul(quiet)
    assert y.shape == (48,) and layer.channels == 0
    assert np.allclose(y, quiet @ weight.T, atol=0.5)


def test_wrong_input_gets_one_sentence(rng):
    weight, x = rng.normal(size=(8, 16)).astype(np.float32), rng.normal(size=(4, 16)).astype(np.float32)
    with pytest.raises(ValueError, match="a share of channels, at least 0 and below 1, got 1"):
        static_scale(x, 1.0)
    with pytest.raises(ValueError, match=r"x must have shape \(16,\)"):
        shadow_linear(weight, x).matmul(x[:, :9])
    with pytest.raises(ValueError, match="NaN"):
        shadow_linear(weight, x).matmul(x * np.float32(np.nan))
