"""A chart without controls, drawn in the page like the figures that can be played with.

It follows the dark page and the width of a phone, answers to the pointer, and lists its numbers; on paper and without
scripts it is a matplotlib picture. It knows nothing of what is shown.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from edgeinfer.figures.charts import Bars, Boxes, Chart, Frame, Line, Points, Rules, Series, number_text, with_ranges
from edgeinfer.figures.interactive import SliderFigure

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class StillFigure(SliderFigure):
    """One chart as a figure of the page; show it by making it the last expression of a cell.

    Args:
        chart: axes and series; ranges that are None are taken from the data.
        words: what the picture shows, for those who do not see it; without them the numbers are told (`in_words`).
    """

    words_hidden = True

    def __init__(self, chart: Chart, words: str = "") -> None:
        self.title, self.controls, self.default, self.states = chart.title, [], {}, [{}]
        self.frames = [Frame([replace(chart, title="")], " ".join(words.split()) or in_words(chart))]
        self._check()


def plot(chart: Chart, axes: Axes | None = None, words: str = "") -> Axes | None:
    """Shows one `Chart` in a notebook or page; given `axes`, draws it there with matplotlib and returns them.

    Args:
        chart: axes and series; ranges that are None are taken from the data.
        axes: matplotlib axes to draw on, for pictures of several charts.
        words: what the picture shows, for those who do not see it; without them its numbers are told.
    """
    if axes is not None:
        from edgeinfer.figures.paper import draw_chart

        draw_chart(with_ranges([chart])[0], axes)
        return axes
    from IPython.display import display

    display(StillFigure(chart, words))
    return None


def in_words(chart: Chart) -> str:
    """Returns the chart as sentences: its axes, and where each series begins and ends."""
    across = "" if chart.x.scale == "category" else f" over {chart.x.title}"
    told = [f"{chart.y.title}{across}."] + [_series(series, chart) for series in chart.series]
    return " ".join(sentence[0].upper() + sentence[1:] for sentence in told if sentence)


def _series(series: Series, chart: Chart) -> str:
    name = (
        series.label
        or {Line: "a line", Points: "points", Bars: "bars", Boxes: "boxes", Rules: "a straight line"}[type(series)]
    )
    if isinstance(series, Rules):
        axis = chart.x if series.along == "x" else chart.y
        return f"{name}: at {', '.join(map(_number, series.values))} {axis.unit}".strip() + "."
    if isinstance(series, Bars) and not len(series.edges):
        pairs = zip(chart.x.categories, series.y, strict=False)
        return f"{name}: " + ", ".join(f"{category} {_number(value)}" for category, value in pairs) + "."
    if isinstance(series, Bars):
        return f"{name}: {len(series.y)} from {_number(series.edges[0])} to {_number(series.edges[-1])}."
    if isinstance(series, Boxes):
        return f"{name}: {len(series.x0)}, the first from {_number(series.x0[0])} to {_number(series.x1[0])}."
    if not len(series.x):
        return ""
    spots = list(zip(series.x, series.y, strict=True))
    if isinstance(series, Points) and len(series.names):
        return (
            f"{name}: " + ", ".join(f"{n} {_number(y)}" for n, (_, y) in zip(series.names, spots, strict=False)) + "."
        )
    if len(spots) == 1:
        return f"{name}: {_number(spots[0][1])} at {_number(spots[0][0])}."
    first, last = spots[0], spots[-1]
    return f"{name}: from {_number(first[1])} at {_number(first[0])} to {_number(last[1])} at {_number(last[0])}."


def _number(value: Any) -> str:
    return number_text(float(value), 4)
