"""A chart without controls is part of the page: it has words, numbers and a picture for paper."""

import pytest
from edgeinfer.figures import Axis, Bars, Chart, Line, Points, Rules, StillFigure, plot
from edgeinfer.figures.still import in_words

SIZE, SPEED = Axis("size", "MB", scale="log"), Axis("speed", "GB/s")
LINE = Chart([Line([1, 10], [1, 3], "cached"), Points([2], [2], "here")], SIZE, SPEED, title="Two things")
BARS = Chart([Bars([1.5, 2])], Axis("", scale="category", categories=("a", "b")), SPEED)


def test_it_has_no_controls_and_one_chart():
    page = StillFigure(LINE, "It rises.").to_html()
    assert "<input" not in page and "<select" not in page
    assert 'class="lmfig lm-still"' in page and "It rises." in page and page.count("<script") == 2


def test_its_title_names_it_and_stands_once():
    page = StillFigure(LINE, "It rises.").to_html()
    assert 'class="lm-title"' in page and StillFigure(LINE).frames[0].panels[0].title == ""
    assert 'aria-label="Chart"' in StillFigure(BARS, "Two bars.").to_html()


@pytest.mark.parametrize(
    ("chart", "words"),
    [
        (LINE, "Speed (GB/s) over size (MB). Cached: from 1 at 1 to 3 at 10. Here: 2 at 2."),
        (BARS, "Speed (GB/s). Bars: a 1.5, b 2."),
        (Chart([Bars([1, 2], [1, 4, 9], "weights")], SIZE, SPEED), "Weights: 2 from 1 to 9."),
        (Chart([Rules([5], "roof", along="y")], SIZE, SPEED), "Roof: at 5 GB/s."),
        (Chart([Points([1, 2], [3, 4], names=["x", "y"]), Line([], [])], SIZE, SPEED), "Points: x 3, y 4."),
    ],
    ids=["line", "bars", "histogram", "rule", "names"],
)
def test_without_words_the_numbers_are_told(chart, words):
    assert in_words(chart).endswith(words) or in_words(chart) == words


def test_on_paper_it_is_a_picture_of_matplotlib():
    import matplotlib.pyplot as plt

    figure = StillFigure(LINE).static()
    assert figure.axes[0].get_xlabel() == "size (MB)"
    plt.close(figure)


def test_plot_draws_on_the_axes_it_is_given():
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots()
    assert plot(LINE, axes) is axes and axes.get_ylabel() == "speed (GB/s)"
    plt.close(figure)


def test_plot_shows_a_figure_where_it_is_called(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    assert plot(LINE, words="It  rises.") is None
    assert isinstance(shown[0], StillFigure) and shown[0].frame().text == "It rises."
