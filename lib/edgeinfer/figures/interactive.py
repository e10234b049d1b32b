"""Figures that can be played with although no kernel runs: every state is computed in Python, the page only draws it.

An author writes one Python function from the values of the controls to a `Frame`; the result works live in Jupyter,
static in the built book, with the keyboard, without a network. It knows nothing of what is shown. The page part
(assets/figure.js) holds no library and computes nothing. Without scripts, a picture of the default state is shown.
"""

from __future__ import annotations

import hashlib
import html
import itertools
import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from edgeinfer.figures.charts import (
    Axis,
    Bars,
    Boxes,
    Chart,
    Frame,
    Line,
    Points,
    Rules,
    Table,
    rounded,
    ticks,
    with_ranges,
)
from edgeinfer.figures.style import svg_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_STATES = 4000
_counter = itertools.count(1)


@dataclass(frozen=True)
class Slider:
    """A slider over `values`: `name` is an argument of the drawing function, `label` and `unit` are for the reader.

    `play` adds a button that goes through the values by itself: for the steps of a process.
    """

    name: str
    label: str
    values: Sequence[Any]
    unit: str = ""
    default: Any = None
    show: Callable[[Any], str] = str
    play: bool = False

    kind = "slider"

    @property
    def labels(self) -> list[str]:
        return [f"{self.show(v)} {self.unit}".strip() for v in self.values]

    @property
    def start(self) -> int:
        """Returns the index of the default value (the first value when none is given)."""
        if not len(self.values):
            raise ValueError(f"control {self.name!r} has no values; pass at least one")
        if self.default is None:
            return 0
        if self.default not in list(self.values):
            raise ValueError(f"default {self.default!r} of control {self.name!r} is not one of {list(self.values)}")
        return list(self.values).index(self.default)


@dataclass(frozen=True)
class Choice(Slider):
    """A drop-down list over `values`: for things without an order, such as devices or methods."""

    kind = "choice"


class SliderFigure:
    """A figure with one to four controls; show it by making it the last expression of a cell.

    Args:
        title: stands above the figure and names it for a screen reader.
        controls: `Slider` and `Choice` objects; the figure computes every combination of their values once.
        draw: function of the controls' values, by name, that returns a `Frame`. All frames have the same panels.

    Raises:
        ValueError: "the controls make 9000 states ..." (thin them out), or a frame without a text.
    """

    words_hidden = False  # shown to those who do not see the picture only

    def __init__(self, title: str, controls: Sequence[Slider], draw: Callable[..., Frame]) -> None:
        self.title, self.controls = title, list(controls)
        if not 1 <= len(self.controls) <= 4:
            raise ValueError(f"a figure has one to four controls, not {len(self.controls)}")
        count = math.prod(len(c.values) for c in self.controls)
        if count > MOST_STATES:
            raise ValueError(f"the controls make {count} states, more than {MOST_STATES}; use fewer values per control")
        self.default = {c.name: c.values[c.start] for c in self.controls}
        self.states = [
            dict(zip(self.default, combination, strict=True))
            for combination in itertools.product(*(c.values for c in self.controls))
        ]
        self.frames = [draw(**state) for state in self.states]
        self._check()

    def _check(self) -> None:
        kinds = [type(panel) for panel in self.frames[0].panels]
        for state, frame in zip(self.states, self.frames, strict=True):
            if not frame.text.strip():
                raise ValueError(f"the frame for {state} has no text; say in a sentence what it shows")
            if [type(panel) for panel in frame.panels] != kinds:
                raise ValueError(
                    f"the frame for {state} has other panels than the first frame; keep their number and kind"
                )
        for position, kind in enumerate(kinds):
            if kind is Chart:
                charts = with_ranges([frame.panels[position] for frame in self.frames])  # type: ignore[misc]
                for number, chart in enumerate(charts):
                    panels = list(self.frames[number].panels)
                    panels[position] = chart
                    old = self.frames[number]
                    self.frames[number] = Frame(panels, old.text, old.readouts)

    def frame(self, **state: Any) -> Frame:
        """Returns the frame of a state; controls that are not named keep their default."""
        wanted = {**self.default, **state}
        if wanted not in self.states:
            raise ValueError(f"no such state: {state}; the controls are {[c.name for c in self.controls]}")
        return self.frames[self.states.index(wanted)]

    def static(self, **state: Any) -> Figure:
        """Returns a matplotlib figure of one state (the default one if no values are given): for paper."""
        from edgeinfer.figures.paper import draw_frame

        return draw_frame(self.frame(**state), self.title)

    def _fallback(self) -> tuple[str, str]:
        """Returns the source of a picture of the default state, and its text alternative."""
        from edgeinfer.figures.paper import draw_frame

        # The page shows the title itself.
        return _data_uri(svg_text(draw_frame(self.frame()), text_as="none")), self.frame().text

    def data(self) -> dict[str, Any]:
        """Returns everything the page needs as plain JSON values; equal parts of different states are stored once."""
        pool = _Pool()
        frames = [
            {"panels": [_panel(p, pool) for p in f.panels], "text": f.text, "readouts": list(f.readouts.items())}
            for f in self.frames
        ]
        controls = [{"labels": c.labels} for c in self.controls]
        return {"controls": controls, "pool": pool.entries, "frames": frames}

    def to_html(self) -> str:
        """Returns the figure as a self-contained piece of HTML."""
        payload = json.dumps(self.data(), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        # Inside a script element only these characters could end it or open a comment.
        payload = payload.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
        name = f"lm-{hashlib.sha256((self.title + payload).encode()).hexdigest()[:8]}-{next(_counter)}"
        source, alternative = self._fallback()
        title, text = html.escape(self.title), html.escape(self.frame().text)
        head = f'<div class="lm-title" id="{name}--t">{title}</div>' if title else ""
        naming = f'aria-labelledby="{name}--t"' if title else 'aria-label="Chart"'
        controls = "".join(_control_html(c, f"{name}-{c.name}") for c in self.controls)
        controls = f'<div class="lm-controls">{controls}</div>' if controls else ""
        has_chart = any(isinstance(p, Chart) for p in self.frames[0].panels)
        numbers = "<details><summary>The numbers behind the picture</summary><div></div></details>" if has_chart else ""
        return (
            f'<div class="lmfig{" lm-still" if self.words_hidden else ""}" id="{name}" role="group" {naming}>'
            # The data first, the picture for readers without scripts last: between what is seen and the script that
            # draws it nothing is left to load, so on a slow line no figure stands empty and pushes the text away later.
            f'<style>{_asset("figure.css")}</style><script type="application/json">{payload}</script>{head}{controls}'
            f'<div class="lm-panels"></div>'
            f'<dl class="lm-readouts"></dl><p class="lm-text" aria-live="polite">{text}</p>{numbers}'
            f"<script>{_asset('figure.js')}</script>"
            f'<noscript><img src="{source}" alt="{html.escape(alternative)}"></noscript></div>'
        )

    def _repr_html_(self) -> str:
        return self.to_html()

    def __repr__(self) -> str:
        names = ", ".join(f"{c.label}: {len(c.values)} values" for c in self.controls)
        return f"{type(self).__name__}({self.title!r}; {names}; {len(self.states)} states)"


@dataclass(frozen=True)
class Picture:
    """A panel that is a finished picture (SVG source); for what charts and tables cannot draw."""

    svg: str
    width: int
    height: int


class PictureFigure(SliderFigure):
    """Like `SliderFigure`, but `draw` returns a matplotlib figure for each state, and `describe` says it in words.

    One whole picture per state is stored in the page (10 to 40 KB each): keep it to a dozen states.
    """

    def __init__(
        self,
        title: str,
        controls: Sequence[Slider],
        draw: Callable[..., Figure],
        describe: Callable[..., str],
    ) -> None:
        def frame(**state: Any) -> Frame:
            drawn = draw(**state)
            width, height = (round(float(inches) * 100) for inches in drawn.get_size_inches())
            return Frame([Picture(svg_text(drawn), width, height)], describe(**state))  # type: ignore[list-item]

        super().__init__(title, controls, frame)

    def static(self, **state: Any) -> Figure:
        raise TypeError("the states of a PictureFigure are pictures already; call its draw function for a new one")

    def _fallback(self) -> tuple[str, str]:
        picture = self.frame().panels[0]
        return _data_uri(picture.svg), self.frame().text  # type: ignore[union-attr]


class _Pool:
    """Stores equal JSON values once and gives back their position."""

    def __init__(self) -> None:
        self.entries: list[Any] = []
        self._known: dict[str, int] = {}

    def add(self, entry: Any) -> int:
        key = json.dumps(entry, sort_keys=True)
        if key not in self._known:
            self._known[key] = len(self.entries)
            self.entries.append(entry)
        return self._known[key]


def _panel(panel: Any, pool: _Pool) -> int:
    if isinstance(panel, Picture):
        return pool.add({"kind": "picture", "src": _data_uri(panel.svg), "width": panel.width, "height": panel.height})
    if isinstance(panel, Table):
        return pool.add(
            {
                "kind": "table",
                "caption": panel.caption,
                "head": list(panel.head),
                "rows": [list(map(str, row)) for row in panel.rows],
                "strong": [list(m) for m in panel.strong],
                "soft": [list(m) for m in panel.soft],
            }
        )
    return pool.add(
        {
            "kind": "chart",
            "title": panel.title,
            "height": panel.height,
            "x": pool.add(_axis(panel.x)),
            "y": pool.add(_axis(panel.y)),
            "series": [pool.add(_series(s)) for s in panel.series],
        }
    )


def _axis(axis: Axis) -> dict[str, Any]:
    assert axis.range is not None  # with_ranges gave it one
    low, high = axis.range
    return {
        "label": axis.label,
        "unit": axis.unit,
        "title": axis.title,
        "scale": axis.scale,
        "range": [low, high],
        "ticks": [[rounded(v), text] for v, text in ticks(axis, low, high)],
    }


def _series(series: Line | Points | Bars | Rules | Boxes) -> dict[str, Any]:
    out: dict[str, Any] = {"kind": type(series).__name__.lower(), "label": series.label, "style": series.style}
    for name in ("x", "y", "edges", "values", "x0", "x1", "y0", "y1"):
        if hasattr(series, name):
            out[name] = [rounded(v) for v in getattr(series, name)]
    for name in ("dashed", "faint", "large", "along", "highlight"):
        if hasattr(series, name):
            out[name] = getattr(series, name)
    if isinstance(series, Points):
        out["names"] = list(series.names)
    return out


def _control_html(control: Slider, name: str) -> str:
    """A labelled native control. The data attribute keeps JupyterLab from taking the arrow keys away from it."""
    label, labels = html.escape(control.label), [html.escape(text) for text in control.labels]
    now = labels[control.start]
    if control.kind == "choice":
        options = "".join(
            f'<option value="{i}"{" selected" if i == control.start else ""}>{text}</option>'
            for i, text in enumerate(labels)
        )
        return (
            f'<div class="lm-control"><span><label for="{name}">{label}</label>'
            f'<output class="lm-print" for="{name}">{now}</output></span>'
            f'<select id="{name}" autocomplete="off" data-lm-suppress-shortcuts="true">{options}</select></div>'
        )
    button = f'<button type="button" aria-label="Play: {label}">Play</button>' if control.play else ""
    return (
        f'<div class="lm-control"><span><label for="{name}">{label}</label><output for="{name}">{now}</output></span>'
        f'<div class="lm-track">{button}<input type="range" id="{name}" min="0" max="{len(labels) - 1}" step="1" '
        f'value="{control.start}" '
        f'aria-valuetext="{now}" autocomplete="off" data-lm-suppress-shortcuts="true"></div></div>'
    )


def _data_uri(svg: str) -> str:
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    # Readable, not base64, for a server's compression; quoted is what would end it or may not stand in an address.
    return "data:image/svg+xml," + quote(re.sub(r"\s+", " ", svg), safe="/:=,;()[]'!*+?@$ ")


@cache
def _asset(name: str) -> str:
    """Returns a file of assets/ without its indentation: it stands in the page once per figure."""
    text = (files("edgeinfer.figures") / "assets" / name).read_text(encoding="utf-8")
    return "\n".join(line.strip() for line in text.splitlines() if line.strip())
