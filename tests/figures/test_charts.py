"""Charts as data: ranges that hold all values, ticks inside their range, numbers as a reader wants them."""

import math

import pytest
from edgeinfer.figures.charts import (
    Axis,
    Bars,
    Chart,
    Line,
    Points,
    Rules,
    extent,
    number_text,
    rounded,
    ticks,
    with_ranges,
)
from hypothesis import given
from hypothesis import strategies as st

finite = st.floats(-1e9, 1e9, allow_nan=False)
positive = st.floats(1e-9, 1e9)


@given(st.lists(finite, min_size=1, max_size=20))
def test_a_linear_axis_holds_all_its_values(values):
    low, high = extent(Axis("a"), values)
    assert low < high and low <= min(values) and high >= max(values)


@given(st.lists(positive, min_size=1, max_size=20))
def test_a_log_axis_holds_all_its_values(values):
    low, high = extent(Axis("a", scale="log"), values)
    assert 0 < low < high and low <= min(values) and high >= max(values)


@given(finite, st.floats(1e-3, 1e6))
def test_linear_ticks_are_few_ascending_and_inside(low, width):
    marks = [v for v, _ in ticks(Axis("a"), low, low + width)]
    slack = 1e-6 * max(width, abs(low))
    assert 2 <= len(marks) <= 8 and marks == sorted(marks)
    assert all(low - slack <= v <= low + width + slack for v in marks)


@given(positive, st.floats(1.5, 1e12))
def test_log_ticks_are_few_ascending_and_inside(low, factor):
    marks = [v for v, _ in ticks(Axis("a", scale="log"), low, low * factor)]
    assert 1 <= len(marks) <= 8 and marks == sorted(set(marks))
    assert all(low * 0.99 <= v <= low * factor * 1.01 for v in marks)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (7, "7"), (1234.5, "1,234"), (0.0123456, "0.0123"), (-2.5, "−2.5"), (1e9, "10⁹"), (3.2e-7, "3.2×10⁻⁷")],
)
def test_numbers_are_written_for_readers(value, text):
    assert number_text(value) == text


@given(finite)
def test_rounding_keeps_five_digits(value):
    assert math.isclose(rounded(value), value, rel_tol=1e-4, abs_tol=1e-300)


def test_rounding_turns_what_json_cannot_hold_into_a_gap():
    assert [rounded(v) for v in (math.nan, math.inf, -math.inf)] == [None, None, None]


def test_all_states_of_a_panel_share_their_ranges():
    states = [Chart([Line([0, n], [0, n * n])], Axis("a"), Axis("b")) for n in (1, 5, 9)]
    assert len({(c.x.range, c.y.range) for c in with_ranges(states)}) == 1


def test_bars_stand_on_zero():
    chart = with_ranges([Chart([Bars([3, 5], edges=[0, 1, 2])], Axis("a"), Axis("b"))])[0]
    assert chart.y.range[0] == 0


def test_wrong_scales_and_missing_categories_are_refused():
    with pytest.raises(ValueError, match="'linear', 'log' or 'category'"):
        Axis("a", scale="cubic")
    with pytest.raises(ValueError, match="no categories"):
        Axis("a", scale="category")
    with pytest.raises(ValueError, match="must be above 0"):
        extent(Axis("a", scale="log", range=(0, 1)), [])


def test_paper_draws_every_kind_of_series():
    from edgeinfer.figures import plot
    from edgeinfer.figures.style import svg_text

    chart = Chart(
        [
            Line([1, 10], [1, 3], "line"),
            Points([2], [2], "point", names=["here"]),
            Rules([5], "rule"),
            Bars([1, 2], [1, 4, 9], "bar"),
        ],
        Axis("size", "MB", scale="log"),
        Axis("speed", "GB/s"),
        title="Everything",
    )
    import matplotlib.pyplot as plt

    text = svg_text(plot(chart, plt.subplots()[1]).figure, text_as="none")
    assert all(word in text for word in ("size (MB)", "speed (GB/s)", "here", "Everything"))


def test_what_is_counted_has_ticks_at_whole_numbers():
    assert [text for _, text in ticks(Axis("bits", whole=True), 1.9, 3.1)] == ["2", "3"]
    assert [text for _, text in ticks(Axis("layers", whole=True), 0, 14)] == ["0", "5", "10"]
