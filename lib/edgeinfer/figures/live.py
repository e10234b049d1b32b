"""A figure that is computed anew whenever a control moves: for a lab, where the kernel runs and the function is yours.

It takes what `SliderFigure` takes, but draws one state at a time with ipywidgets, so a state may be slow, and a
function that was changed is called as it is now. Where nobody moves anything (the book, a report) it shows one state.
"""

from __future__ import annotations

import base64
import html
import os
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from edgeinfer.figures.charts import Chart, Frame, with_ranges
from edgeinfer.figures.interactive import Slider, SliderFigure
from edgeinfer.figures.style import svg_text

if TYPE_CHECKING:
    from ipywidgets import VBox

PICTURE = "max-width:720px;width:100%;height:auto;background:#fff"


STILL = "<p><small>A picture of the first state; the controls are there where the notebook runs.</small></p>"


class _State(SliderFigure):
    """One state as a figure of the page: it follows the dark page and a phone's width."""

    def __init__(self, title: str, frame: Frame) -> None:
        self.title, self.controls, self.default, self.states, self.frames = title, [], {}, [{}], [frame]
        self._check()


class LiveFigure:
    """Show it by making it the last expression of a cell.

    Args:
        title: stands above the figure.
        controls: one to four `Slider` and `Choice` objects.
        draw: function of the controls' values, by name, that returns a `Frame`.

    Example::

        def draw(bits):
            error = np.abs(weight - mine(weight, bits))
            return Frame([Chart([Line(x, error)], Axis("weight"), Axis("error"))], f"{bits} bits: {error.max():.3f}")

        LiveFigure("My rounding", [Slider("bits", "Bits", range(2, 9), default=4)], draw)

    Raises:
        ValueError: "a figure has one to four controls, not 5", or a control without values or with a foreign default.
    """

    def __init__(self, title: str, controls: Sequence[Slider], draw: Callable[..., Frame]) -> None:
        if not 1 <= len(controls) <= 4:
            raise ValueError(f"a figure has one to four controls, not {len(controls)}")
        self.title, self.controls, self.draw = title, list(controls), draw
        self.default = {control.name: control.values[control.start] for control in self.controls}

    def render(self, **state: Any) -> str:
        """Return one state as HTML: picture, readouts and words; or, when `draw` fails, the reason in one sentence."""
        try:
            frame = self.draw(**{**self.default, **state})
            return _as_html(frame, self.title)
        except Exception as error:
            chosen = ", ".join(f"{name} = {value}" for name, value in {**self.default, **state}.items())
            reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            return (
                f'<p role="alert"><b>{html.escape(self.title)}</b> could not be drawn for {html.escape(chosen)}: '
                f"{html.escape(reason)}. "
                "Mend the function, run its cell, and move a control.</p>"
            )

    def _first_state(self) -> str:
        try:
            return _State(self.title, self.draw(**self.default)).to_html()
        except Exception:
            return self.render()  # which says what failed

    def widget(self) -> VBox:
        """Return the controls above the picture; moving a control draws again."""
        import ipywidgets

        shown = ipywidgets.HTML(self.render())
        parts = {}
        for control in self.controls:
            how = ipywidgets.Dropdown if control.kind == "choice" else ipywidgets.SelectionSlider
            options = list(zip(control.labels, control.values, strict=True))
            more = {} if control.kind == "choice" else {"continuous_update": False}
            parts[control.name] = how(
                options=options,
                value=self.default[control.name],
                description=control.label,
                style={"description_width": "initial"},
                layout={"width": "min(420px, 95%)"},
                **more,
            )

        def moved(_: Any) -> None:
            shown.value = self.render(**{name: part.value for name, part in parts.items()})

        for part in parts.values():
            part.observe(moved, names="value")
        return ipywidgets.VBox([*parts.values(), shown])

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        # One state stands beside the controls: for the book's pages and other readers that run no widgets.
        bundle: dict[str, Any] = {"text/plain": repr(self), "text/html": self._first_state() + STILL}
        if os.environ.get("EDGEINFER_STRICT") == "1":  # nobody is there to move anything
            return bundle
        try:
            model = self.widget().model_id
        except ImportError:  # a service without ipywidgets still shows the picture
            return bundle
        view = {"version_major": 2, "version_minor": 0, "model_id": model}
        return bundle | {"application/vnd.jupyter.widget-view+json": view}

    def __repr__(self) -> str:
        names = ", ".join(f"{control.label}: {len(control.values)} values" for control in self.controls)
        return f"{type(self).__name__}({self.title!r}; {names})"


def _as_html(frame: Frame, title: str) -> str:
    import matplotlib.pyplot as plt

    from edgeinfer.figures.paper import draw_frame

    if not frame.text.strip():
        raise ValueError("the frame has no text; say in a sentence what it shows")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")
        panels = [with_ranges([panel])[0] if isinstance(panel, Chart) else panel for panel in frame.panels]
        figure = draw_frame(Frame(panels, frame.text, frame.readouts), title)
        svg = svg_text(figure, text_as="none")
    plt.close(figure)
    source = "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()
    numbers = "".join(
        f"<span style='margin-right:24px'>{html.escape(name)}: <b>{html.escape(str(text))}</b></span>"
        for name, text in frame.readouts.items()
    )
    words = html.escape(frame.text)
    return f'<img src="{source}" alt="{words}" style="{PICTURE}"><div>{numbers}</div><p>{words}</p>'
