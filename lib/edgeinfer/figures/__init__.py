"""Pictures of the book: one style, plain plots, and figures that can be played with without a kernel.

It may use every room; no room uses it. Importing it imports neither torch nor numba nor matplotlib.
"""

from edgeinfer.figures.charts import Axis, Bars, Boxes, Chart, Frame, Line, Points, Rules, Table, number_text
from edgeinfer.figures.explore_bits import bit_width_explorer, granularity_name, quantize_with
from edgeinfer.figures.explore_lookup import lookup_table_walkthrough
from edgeinfer.figures.explore_roofline import roofline_chart, roofline_explorer
from edgeinfer.figures.interactive import Choice, PictureFigure, Slider, SliderFigure
from edgeinfer.figures.live import LiveFigure
from edgeinfer.figures.still import StillFigure, plot
from edgeinfer.figures.style import PALETTE, color, use_style

__all__ = [
    "PALETTE",
    "Axis",
    "Bars",
    "Boxes",
    "Chart",
    "Choice",
    "Frame",
    "Line",
    "LiveFigure",
    "PictureFigure",
    "Points",
    "Rules",
    "Slider",
    "SliderFigure",
    "StillFigure",
    "Table",
    "bit_width_explorer",
    "color",
    "granularity_name",
    "lookup_table_walkthrough",
    "number_text",
    "plot",
    "quantize_with",
    "roofline_chart",
    "roofline_explorer",
    "use_style",
]
