"""Boxes: what occupies what, and for how long, in the page, on paper and on the axes."""

import pytest
from edgeinfer.figures import Axis, Boxes, Chart, Choice, Frame, SliderFigure
from edgeinfer.figures.charts import with_ranges


def chart(top=3.0):
    boxes = [Boxes([0, 1], [1, 4], [0, 2], [2, top], "buffers"), Boxes([2], [3], [0], [1], style=2)]
    return Chart(boxes, Axis("step"), Axis("offset", "KiB"))


def test_axes_hold_both_corners_of_every_box():
    done = with_ranges([chart()])[0]
    assert done.x.range[0] <= 0 and done.x.range[1] >= 4
    assert done.y.range[0] <= 0 and done.y.range[1] >= 3


def test_the_page_gets_the_four_edges():
    figure = SliderFigure("Boxes", [Choice("top", "Top", (3.0, 5.0))], lambda top: Frame([chart(top)], f"up to {top}"))
    kinds = [part for part in figure.data()["pool"] if isinstance(part, dict) and part.get("kind") == "boxes"]
    assert [part["x1"] for part in kinds] == [[1, 4], [3], [1, 4]]
    assert {tuple(part["y1"]) for part in kinds} == {(2, 3), (1,), (2, 5)}


def test_paper_draws_one_rectangle_for_each_box():
    pytest.importorskip("matplotlib")
    figure = SliderFigure("Boxes", [Choice("top", "Top", (3.0,))], lambda top: Frame([chart(top)], "boxes"))
    drawn = figure.static().axes[0].patches
    assert sorted(p.get_width() for p in drawn) == [1, 1, 3]
