"""Pictures of the book: one style, plain plots, and figures that can be played with without a kernel.

It may use every room; no room uses it. Importing it imports neither torch nor numba nor matplotlib.
"""

from edgeinfer.figures.charts import Axis, Bars, Chart, Frame, Line, Points, Rules, Table, number_text
from edgeinfer.figures.interactive import Choice, PictureFigure, Slider, SliderFigure
from edgeinfer.figures.paper import plot
from edgeinfer.figures.style import PALETTE, color, use_style

__all__ = [
    "PALETTE",
    "Axis",
    "Bars",
    "Chart",
    "Choice",
    "Frame",
    "Line",
    "PictureFigure",
    "Points",
    "Rules",
    "Slider",
    "SliderFigure",
    "Table",
    "color",
    "number_text",
    "plot",
    "use_style",
]
