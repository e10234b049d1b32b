"""The roofline's arithmetic, its words and its picture."""

import sys

import pytest
from edgeinfer.measure import PRESETS, Limits, Point, attainable, describe, ridge, roofline, time_bound
from edgeinfer.measure.roofline import curve, log_range, place
from hypothesis import given
from hypothesis import strategies as st

positive = st.floats(1e-3, 1e6)
MACHINE = Limits(
    {"L2": {1: 100.0}, "DRAM": {1: 10.0}}, {"float32": {1: 200.0}, "int8": {1: 800.0}}, {}, processor="Example"
)


@given(positive, positive, positive)
def test_attainable_is_the_lower_ceiling_and_meets_at_the_ridge(intensity, peak, bandwidth):
    speed = attainable(intensity, peak, bandwidth)
    assert speed <= peak and speed <= intensity * bandwidth
    assert speed in (peak, intensity * bandwidth)
    assert attainable(ridge(peak, bandwidth), peak, bandwidth) == pytest.approx(peak)


@given(positive, positive, positive, positive)
def test_the_time_bound_agrees_with_the_roofline(operations, moved, peak, bandwidth):
    seconds = time_bound(operations, moved, peak, bandwidth)
    assert operations / seconds / 1e9 == pytest.approx(attainable(operations / moved, peak, bandwidth), rel=1e-9)


@given(positive, positive)
def test_a_roof_needs_its_two_ends_and_its_corner_only(peak, bandwidth):
    corner = ridge(peak, bandwidth)
    x, y = curve(peak, bandwidth, corner / 10, corner * 10)
    assert len(x) == 3 and x[1] == corner and y[1] == pytest.approx(peak) and y[2] == peak


def test_log_range_has_equal_factors():
    assert log_range(1, 100, 3) == pytest.approx([1, 10, 100])
    with pytest.raises(ValueError, match="0 < low < high"):
        log_range(2, 1, 3)


def test_a_sentence_says_which_ceiling_bounds_a_point():
    assert "bound by memory traffic at 10 GOP/s, reaches 5 GOP/s (50 %)" in place(Point("matvec", 1, 5), MACHINE)
    assert "bound by arithmetic at 200 GOP/s" in place(Point("matmul", 500), MACHINE)


def test_the_text_alternative_names_machine_ceilings_and_points():
    text = describe(MACHINE, [Point("matvec", 1, 5), Point("fp8", 1, 5, "float8")])
    for part in ("Example", "10 GB/s from DRAM", "200 GOP/s for float32", "matvec"):
        assert part in text


def test_points_come_from_operations_bytes_and_seconds():
    point = Point.measured("x", 4e9, 2e9, 0.5)
    assert (point.intensity, point.performance) == (2, 8)


@pytest.mark.parametrize("values", [(0, None), (-1, None), (float("nan"), None), (1, 0), (1, -2)])
def test_impossible_points_are_refused(values):
    with pytest.raises(ValueError, match="expected"):
        Point("x", *values)


def test_the_figure_has_units_on_both_axes_and_every_point():
    plt = pytest.importorskip("matplotlib.pyplot")
    figure = roofline(
        MACHINE, [Point("measured", 1, 5), Point("bound", 8), Point("fp8", 2, 3, "float8")], all_levels=True
    )
    axes = figure.axes[0]
    assert "operations per byte" in axes.get_xlabel() and "GOP/s" in axes.get_ylabel()
    texts = " ".join(t.get_text() for t in [*axes.texts, *axes.get_legend().get_texts()])
    for part in ("measured", "bound", "fp8", "DRAM: 10 GB/s", "L2: 100 GB/s", "int8: 800 GOP/s"):
        assert part in texts
    assert axes.get_xscale() == axes.get_yscale() == "log"
    plt.close(figure)


@pytest.mark.parametrize("name", [n for n, p in PRESETS.items() if p.peaks()])
def test_presets_can_be_drawn(name):
    plt = pytest.importorskip("matplotlib.pyplot")
    plt.close(roofline(PRESETS[name], [Point("x", 1, dtype=next(iter(PRESETS[name].peaks())))]))


def test_missing_levels_and_peaks_get_one_sentence():
    with pytest.raises(ValueError, match="no memory level 'HBM' on this machine; known: L2, DRAM"):
        roofline(MACHINE, level="HBM")
    with pytest.raises(ValueError, match="no peak is known"):
        roofline(PRESETS["raspberry-pi-5"])


@pytest.mark.parametrize("preset", PRESETS.values(), ids=lambda p: p.name)
def test_presets_name_their_source(preset):
    assert "https://" in preset.source and preset.memory_bandwidth > 0 and preset.note and preset.kind


def test_roofline_and_work_need_no_numpy():
    import subprocess

    code = (
        "import sys; sys.modules['numpy'] = sys.modules['torch'] = sys.modules['matplotlib'] = None; "
        "from edgeinfer.measure import attainable, ModelShape, Counter, compare, describe_machine; describe_machine()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
