"""Draws the charts of a figure with matplotlib: for paper and for readers without scripts.

It knows nothing of language models and computes nothing. See charts.py for the description that it draws.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgeinfer.figures import style
from edgeinfer.figures.charts import Axis, Boxes, Chart, Frame, Line, Points, Rules, Series, Table, ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw_frame(frame: Frame, title: str = "") -> Figure:
    """Returns a matplotlib figure with one panel of `frame` below the other."""
    import matplotlib.pyplot as plt

    style.use_style()
    # Words are shown as they are: a dollar sign in a label is a dollar sign, as in the page.
    with plt.rc_context({"text.parse_math": False}):
        return _draw_panels(frame, title)


def _draw_panels(frame: Frame, title: str) -> Figure:
    import matplotlib.pyplot as plt

    panels = [p for p in frame.panels if isinstance(p, Chart | Table)]
    heights = [p.height / 100 if isinstance(p, Chart) else 0.25 * (len(p.rows) + 2) for p in panels]
    figure, grid = plt.subplots(
        len(panels), 1, figsize=(7.2, sum(heights) + 0.4), squeeze=False, height_ratios=heights, layout="constrained"
    )
    for panel, axes in zip(panels, grid[:, 0], strict=True):
        if isinstance(panel, Chart):
            draw_chart(panel, axes)
        else:
            _draw_table(panel, axes)
    if title:
        figure.suptitle(title, fontsize=12, fontweight="bold")
    return figure


def draw_chart(chart: Chart, axes: Axes) -> None:
    """Draws `chart` (whose axes have ranges) on `axes`."""
    for axis, which in ((chart.x, "x"), (chart.y, "y")):
        _set_axis(axes, axis, which)
    axes.grid(chart.x.scale != "category", axis="x")
    for series in chart.series:
        _draw_series(axes, series, chart)
    named = sum(bool(series.label) for series in chart.series)
    if named:
        # Below the axes, where nothing is drawn.
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.6 / (chart.height / 100)), ncols=min(3, named))
    if chart.title:
        axes.set_title(chart.title)


def _set_axis(axes: Axes, axis: Axis, which: str) -> None:
    assert axis.range is not None
    if axis.scale == "log":
        getattr(axes, f"set_{which}scale")("log")
    getattr(axes, f"set_{which}lim")(*axis.range)
    marks = ticks(axis, *axis.range)
    getattr(axes, f"set_{which}ticks")([v for v, _ in marks], [text for _, text in marks])
    getattr(axes, f"set_{which}ticks")([], minor=True)
    getattr(axes, f"set_{which}label")(axis.title)


def _draw_series(axes: Axes, series: Series, chart: Chart) -> None:
    look: dict[str, Any] = {"color": style.color(series.style), "label": series.label or None}
    if isinstance(series, Line):
        width = 1.0 if series.faint else 2.0
        axes.plot(series.x, series.y, marker="", linewidth=width, linestyle="--" if series.dashed else "-", **look)
    elif isinstance(series, Points):
        marker = style.MARKERS[series.style % len(style.MARKERS)]
        axes.plot(series.x, series.y, linestyle="", marker=marker, markersize=9 if series.large else 5.5, **look)
        for x, y, name in zip(series.x, series.y, series.names, strict=False):
            axes.annotate(name, (x, y), xytext=(7, 3), textcoords="offset points", fontsize=9)
    elif isinstance(series, Rules):
        line = axes.axvline if series.along == "x" else axes.axhline
        for number, value in enumerate(series.values):
            label = look["label"] if number == 0 else None
            line(value, color=look["color"], label=label, linewidth=1.2, linestyle="--" if series.dashed else "-")
    elif isinstance(series, Boxes):
        x0, x1, y0, y1 = (np.asarray(v, dtype=float) for v in (series.x0, series.x1, series.y0, series.y1))
        axes.bar(x0, y1 - y0, width=x1 - x0, bottom=y0, align="edge", edgecolor="white", linewidth=0.5, **look)
    elif len(series.edges):
        edges = np.asarray(series.edges, dtype=float)
        axes.bar(edges[:-1], series.y, width=np.diff(edges), align="edge", **look)
    else:
        axes.bar(np.arange(len(series.y)) + 0.5, series.y, width=0.7, **look)


def _draw_table(table: Table, axes: Axes) -> None:
    axes.axis("off")
    axes.set_title(table.caption, fontsize=10)
    drawn = axes.table(cellText=[list(row) for row in table.rows], colLabels=list(table.head), loc="center")
    drawn.auto_set_font_size(False)
    drawn.set_fontsize(9)
    for row, column in table.strong:
        drawn[row + 1, column].set_edgecolor(style.color(1))
        drawn[row + 1, column].set_linewidth(2)
