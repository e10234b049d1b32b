"""Charts as plain data: what is drawn (axes, lines, points, bars, rules, boxes, tables), without saying how.

The same description is drawn by a small script in the page (with a kernel or without) and by matplotlib (on paper).
It knows nothing of language models. Axes carry their unit; ticks are chosen here so that both drawings agree.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Values = Sequence[float | int] | NDArray[Any]

SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Axis:
    """One axis: `label`, `unit` (in brackets), `scale` in linear | log | category, `range` (None: from the data).

    `whole` keeps the ticks of a linear axis at whole numbers: for bits, layers and other things that are counted.
    """

    label: str
    unit: str = ""
    scale: str = "linear"
    range: tuple[float, float] | None = None
    categories: tuple[str, ...] = ()
    whole: bool = False

    def __post_init__(self) -> None:
        if self.scale not in ("linear", "log", "category"):
            raise ValueError(f"axis scale must be 'linear', 'log' or 'category', not {self.scale!r}")
        if self.scale == "category" and not self.categories:
            raise ValueError(f"axis {self.label!r} has scale 'category' but no categories; pass categories=('a', 'b')")

    @property
    def title(self) -> str:
        return f"{self.label} ({self.unit})" if self.unit else self.label


@dataclass(frozen=True)
class Line:
    """A line through (x, y); `style` picks colour and dash from the palette, `faint` draws it thin."""

    x: Values
    y: Values
    label: str = ""
    style: int = 0
    dashed: bool = False
    faint: bool = False


@dataclass(frozen=True)
class Points:
    """Marks at (x, y); `names` are written beside them; `style`: colour and shape; `large` marks the current state."""

    x: Values
    y: Values
    label: str = ""
    style: int = 0
    names: Sequence[str] = ()
    large: bool = False


@dataclass(frozen=True)
class Bars:
    """Bars of height `y`: between `edges` (len(y) + 1 values: a histogram), or at the categories of the x axis."""

    y: Values
    edges: Values = ()
    label: str = ""
    style: int = 0
    highlight: int | None = None


@dataclass(frozen=True)
class Rules:
    """Straight lines across the whole chart at `values` of the x axis (`along="x"`) or of the y axis."""

    values: Values
    label: str = ""
    style: int = 1
    along: str = "x"
    dashed: bool = False


@dataclass(frozen=True)
class Boxes:
    """Rectangles from (x0, y0) to (x1, y1): what occupies what, and for how long. `style`: colour of all of them."""

    x0: Values
    x1: Values
    y0: Values
    y1: Values
    label: str = ""
    style: int = 0


Series = Line | Points | Bars | Rules | Boxes


@dataclass(frozen=True)
class Chart:
    """Axes and the series drawn on them; `height` in pixels; `title` stands above."""

    series: Sequence[Series]
    x: Axis
    y: Axis
    title: str = ""
    height: int = 280


@dataclass(frozen=True)
class Table:
    """A table: `head` (column titles), `rows` (cells as text, the first one names the row), marks by (row, column).

    `strong` marks what the state is about (by a frame, not by colour alone), `soft` what belongs to it.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    strong: Sequence[tuple[int, int]] = ()
    soft: Sequence[tuple[int, int]] = ()


Panel = Chart | Table


@dataclass(frozen=True)
class Frame:
    """What one position of the controls shows: panels, a sentence that says the same in words, and named values."""

    panels: Sequence[Panel]
    text: str
    readouts: dict[str, str] = field(default_factory=dict)


def rounded(value: Any) -> Any:
    """Five significant digits are enough for a screen and keep the page small; NaN and infinity become None (a gap)."""
    number = float(value)
    if not math.isfinite(number):
        return None
    number = float(f"{number:.5g}")
    return int(number) if number.is_integer() and abs(number) < 1e15 else number


def number_text(value: float, digits: int = 3) -> str:
    """Returns a number as a reader wants it: three significant digits, thousands apart, powers of ten where needed."""
    if not math.isfinite(value):
        return "not finite"
    if value == 0:
        return "0"
    size = abs(value)
    if 1e-3 <= size < 1e6:
        decimals = max(0, digits - 1 - math.floor(math.log10(size)))
        text = f"{value:,.{decimals}f}"
        text = text.rstrip("0").rstrip(".") if "." in text else text
        return text.replace("-", "−")
    exponent = math.floor(math.log10(size))
    mantissa = f"{value / 10**exponent:.{digits - 1}f}".rstrip("0").rstrip(".")
    power = "10" + str(exponent).translate(SUPERSCRIPT)
    return power if mantissa == "1" else f"{mantissa}×{power}".replace("-", "−")


def extent(axis: Axis, values: Iterable[Any], from_zero: bool = False) -> tuple[float, float]:
    """Returns the range of an axis that shows all `values`, with a little air (a factor on a log axis)."""
    if axis.scale == "category":
        return (0.0, float(len(axis.categories)))
    if axis.range is not None:
        low, high = map(float, axis.range)
        if axis.scale == "log" and low <= 0:
            raise ValueError(f"axis {axis.label!r} is logarithmic, so its range must be above 0, not {axis.range}")
        return low, high
    finite = [float(v) for v in values if v is not None and math.isfinite(float(v))]
    if axis.scale == "log":
        finite = [v for v in finite if v > 0]
    if not finite:
        return (1.0, 10.0) if axis.scale == "log" else (0.0, 1.0)
    low, high = min(finite), max(finite)
    if axis.scale == "log":
        spread = (high / low) ** 0.06 if high > low else 2.0
        return low / spread, high * spread
    if from_zero:
        low, high = min(low, 0.0), max(high, 0.0)
    pad = 0.06 * (high - low) or 1.0
    return (low if from_zero and low == 0 else low - pad), (high if from_zero and high == 0 else high + pad)


def ticks(axis: Axis, low: float, high: float, most: int = 6) -> list[tuple[float, str]]:
    """Returns (position, text) of the ticks: round numbers, powers on a log axis, names on a category axis."""
    if axis.scale == "category":
        return [(i + 0.5, name) for i, name in enumerate(axis.categories)]
    if axis.scale == "log":
        return [(v, number_text(v)) for v in _log_ticks(low, high, most)]
    raw = (high - low) / max(1, most - 1)
    power = 10 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)
    step = max(1.0, math.ceil(step)) if axis.whole else step
    first = math.ceil(low / step - 1e-9)
    return [
        (round(i * step, 12), number_text(round(i * step, 12), 6))
        for i in range(first, math.floor(high / step + 1e-9) + 1)
    ]


def _log_ticks(low: float, high: float, most: int) -> list[float]:
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    if last - first >= 2:
        every = max(1, math.ceil((last - first + 1) / most))
        return [10.0**e for e in range(first, last + 1, every)]
    steps = [m * 10.0**e for e in range(first - 1, last + 1) for m in (1, 2, 5)]
    inside = [v for v in steps if low * 0.999 <= v <= high * 1.001]
    return inside if len(inside) >= 2 else [v for v, _ in ticks(Axis("", ""), low, high, most) if v > 0]


def values_on(chart: Chart, which: str) -> list[Any]:
    """Returns every value that the series of `chart` put on the axis `which` ("x" or "y")."""
    found: list[Any] = []
    for series in chart.series:
        if isinstance(series, Line | Points):
            found += list(series.x if which == "x" else series.y)
        elif isinstance(series, Bars):
            found += list(series.edges if which == "x" else series.y)
        elif isinstance(series, Boxes):
            found += [*series.x0, *series.x1] if which == "x" else [*series.y0, *series.y1]
        elif series.along == which:
            found += list(series.values)
    return found


def with_ranges(charts: Sequence[Chart]) -> list[Chart]:
    """Gives the charts of one panel the same ranges, so that the picture does not jump when a control moves."""
    done = {}
    for which in ("x", "y"):
        axis: Axis = getattr(charts[0], which)
        values = [v for chart in charts for v in values_on(chart, which)]
        bars = which == "y" and any(isinstance(s, Bars) for s in charts[0].series) and axis.scale == "linear"
        done[which] = extent(axis, values, from_zero=bars)
    return [replace(c, x=replace(c.x, range=done["x"]), y=replace(c.y, range=done["y"])) for c in charts]
