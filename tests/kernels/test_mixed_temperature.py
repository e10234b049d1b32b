"""Hot neurons keep more bits, every neuron keeps its place, and what is skipped changes nothing."""

import numpy as np
import pytest
from edgeinfer.kernels.mixed_temperature import activation_frequency, hottest, quantize_by_temperature
from hypothesis import given, settings
from hypothesis import strategies as st


def network(rng, neurons=24, hidden=32):
    return [rng.normal(size=s).astype(np.float32) for s in ((neurons, hidden), (neurons, hidden), (hidden, neurons))]


@given(st.integers(1, 40), st.floats(0, 1), st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_the_hottest_are_the_most_frequent(neurons, share, seed):
    frequency = np.random.default_rng(seed).integers(0, 5, neurons) / 5
    hot = hottest(frequency, share)
    assert len(hot) == round(share * neurons) and np.array_equal(hot, np.unique(hot))
    cold = np.setdiff1d(np.arange(neurons), hot)
    assert not len(hot) or not len(cold) or frequency[hot].min() >= frequency[cold].max()


def test_frequency_counts_tokens_that_are_not_zero():
    assert np.array_equal(activation_frequency(np.array([[0, 1, -2], [0, 0, 3]], np.float32)), [0, 0.5, 1])


@pytest.mark.parametrize("share", [0, 0.3, 1])
def test_every_neuron_is_quantized_to_the_width_of_its_temperature(rng, share):
    gate, up, down = network(rng)
    hot = hottest(rng.random(24), share)
    mixed = quantize_by_temperature(gate, up, down, hot, 8, 2, 32)
    found = mixed.dequantize()
    error = np.abs(found["gate"] - gate).max(1) + np.abs(found["up"] - up).max(1) + np.abs(found["down"] - down).max(0)
    is_hot = np.isin(np.arange(24), hot)
    assert (error[is_hot] < 0.1).all() and (error[~is_hot] > 0.3).all()


def test_bytes_lie_between_those_of_the_two_widths_in_proportion(rng):
    parts = network(rng)
    bytes_of = [quantize_by_temperature(*parts, hottest(np.arange(24), s), 8, 4, 32).nbytes for s in (0, 0.5, 1)]
    assert bytes_of[1] == (bytes_of[0] + bytes_of[2]) / 2
    assert bytes_of[2] - bytes_of[0] == 3 * 24 * 32 // 2


@given(st.integers(1, 20), st.floats(0, 1), st.integers(0, 2**31))
@settings(max_examples=25, deadline=None)
def test_skipping_what_the_gate_closes_gives_the_dense_result_and_reads_less(neurons, share, seed):
    rng = np.random.default_rng(seed)
    mixed = quantize_by_temperature(*network(rng, neurons, 16), hottest(rng.random(neurons), share), 8, 4, 16)
    whole, x = mixed.dequantize(), rng.normal(size=16).astype(np.float32)
    y, read = mixed.forward(x)
    dense = whole["down"] @ (np.maximum(whole["gate"] @ x, 0) * (whole["up"] @ x))
    assert np.allclose(y, dense, rtol=1e-4, atol=1e-4)
    assert mixed.hot.nbytes <= read <= mixed.nbytes


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda p: quantize_by_temperature(p[0], p[1], p[2].T, np.array([0])), r"down must have shape \(32, 24\)"),
        (lambda p: quantize_by_temperature(p[0], p[1][:9], p[2], np.array([0])), r"up must have shape \(24, 32\)"),
        (lambda p: quantize_by_temperature(*p, np.array([24])), "neuron 24 is not one of the 24 neurons"),
        (lambda p: quantize_by_temperature(*p, np.array([-1])), "neuron -1 is not one of the 24 neurons"),
        (lambda p: hottest(np.ones(3), 1.5), "share of hot neurons must lie in 0 to 1, got 1.5"),
        (lambda p: quantize_by_temperature(p[0] * np.nan, *p[1:], np.array([0])), "gate contains .* NaN"),
    ],
)
def test_wrong_input_gets_one_sentence(rng, call, says):
    with pytest.raises(ValueError, match=says):
        call(network(rng))
