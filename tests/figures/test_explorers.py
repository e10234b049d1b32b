"""The finished figures: their numbers are those of the library, in every state."""

import numpy as np
import pytest
from edgeinfer.figures import bit_width_explorer, lookup_table_walkthrough, quantize_with, roofline_explorer
from hypothesis import given, settings
from hypothesis import strategies as st

BITS, GRANULARITIES = (2, 4, 8), ("tensor", "channel", 16)


def bits_figure():
    weight = np.random.default_rng(0).normal(size=(32, 64)).astype(np.float32)
    perplexity = {(g, b): 5 + 10 / b for g in GRANULARITIES for b in BITS}
    return weight, bit_width_explorer(weight, perplexity, 5.0, BITS, GRANULARITIES)


def test_bit_widths_show_the_error_of_the_librarys_quantizer():
    weight, figure = bits_figure()
    for bits in BITS:
        for granularity in GRANULARITIES:
            approximation = quantize_with(weight, bits, granularity).dequantize()
            error = np.linalg.norm(weight - approximation) / np.linalg.norm(weight)
            frame = figure.frame(bits_now=bits, granularity=granularity)
            assert frame.readouts["relative error of the weights"] == f"{100 * error:.2g} %"
            assert len(frame.panels[0].series[1].values) == 2**bits - 1


def test_a_missing_perplexity_is_named():
    with pytest.raises(ValueError, match=r"no value for \('tensor', 2\)"):
        bit_width_explorer(np.ones((4, 16), np.float32), {}, 1.0)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([2, 3, 4]), st.sampled_from([(8, 4), (6, 3), (4, 2), (12, 4)]))
def test_the_walk_through_ends_at_the_ordinary_product(seed, bits, shape):
    rng = np.random.default_rng(seed)
    weight, x = rng.normal(size=shape[0]).astype(np.float32), rng.normal(size=shape[0]).astype(np.float32)
    figure = lookup_table_walkthrough(weight, x, bits=bits, width=shape[1])
    last = figure.frames[-1]
    assert last.readouts["result"] == last.readouts["ordinary product"]
    assert last.readouts["look-ups"] == str(bits * shape[0] // shape[1])


def test_a_row_that_groups_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="10 weights, which groups of 4 do not divide"):
        lookup_table_walkthrough(np.ones(10, np.float32), np.ones(10, np.float32))


class Device:
    def __init__(self, bandwidth, peak):
        self.name, self.bandwidth, self.peak = "device", bandwidth, peak

    def bandwidths(self, threads=None):
        return {"DRAM": self.bandwidth} if self.bandwidth else {}

    def peaks(self, threads=None):
        return {"bfloat16": self.peak}


def test_both_points_lie_on_the_roof_of_the_chosen_device():
    from edgeinfer.measure import ModelShape
    from edgeinfer.measure.roofline import attainable

    shape = ModelShape(1024, 256, 640, 8, 8, 4, 32)
    devices = {"slow": Device(10, 100), "fast": Device(1000, 9000)}
    figure = roofline_explorer(devices, shape, "the model")
    for state, frame in zip(figure.states, figure.frames, strict=True):
        device = devices[state["device"]]
        for points in frame.panels[0].series[1:]:
            assert points.y[0] == pytest.approx(attainable(points.x[0], device.peak, device.bandwidth))


def test_a_device_without_bandwidth_is_refused():
    from edgeinfer.measure import ModelShape

    with pytest.raises(ValueError, match="device 'x' has no memory bandwidth"):
        roofline_explorer({"x": Device(None, 1)}, ModelShape(1024, 256, 640, 8, 8, 4, 32), "m")
