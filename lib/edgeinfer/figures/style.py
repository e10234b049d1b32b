"""One palette and one style for every picture of the book: readable with colour-blind eyes, on paper, in the dark.

It knows nothing of what is drawn. The first six colours are told apart under protan, deutan and tritan vision
(tests/figures holds this), and reach a contrast of 3:1 on their background. Source: the palette starts from Okabe and
Ito's eight colours; hue and lightness were then moved until every pair stayed apart for every kind of eye.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Order is the order of use. Never tell two things apart by colour alone: vary the marker or the dash as well.
PALETTE: tuple[str, ...] = ("#1568b3", "#e06910", "#009c7d", "#c13f8f", "#6b4a00", "#222222")
PALETTE_DARK: tuple[str, ...] = ("#5aa0e0", "#f08a4b", "#40d8b0", "#b9559f", "#ffe27a", "#dcdcdc")
NAMES: tuple[str, ...] = ("blue", "orange", "green", "purple", "brown", "black")
MARKERS: tuple[str, ...] = ("o", "s", "^", "D", "v", "P")
DASHES: tuple[tuple[float, ...], ...] = ((), (6, 3), (2, 2), (8, 3, 2, 3), (1, 2), (10, 4))
INK, INK_DARK = "#1f2328", "#e6e6e6"
PAPER, PAPER_DARK = "#ffffff", "#14181e"

WIDE = (7.2, 3.6)
"""Size of a figure that fills the text column, in inches."""
NARROW = (4.6, 3.2)
"""Size of a figure that stands alone in half a column, in inches."""


def color(index: int) -> str:
    """Returns the colour number `index` of the palette (it repeats after six)."""
    return PALETTE[index % len(PALETTE)]


def use_style() -> None:
    """Sets matplotlib to the book's style: palette, sizes, grid; SVG as output in a notebook.

    Call it once in the first cell of a page. The background is white: a dark page shows pictures on a light card.
    """
    import matplotlib as mpl
    from cycler import cycler

    mpl.rcParams.update(
        {
            "figure.figsize": WIDE,
            "figure.dpi": 100,
            "figure.constrained_layout.use": True,
            "figure.facecolor": PAPER,
            "savefig.facecolor": PAPER,
            "axes.facecolor": PAPER,
            "axes.edgecolor": "#6b7178",
            "axes.labelcolor": INK,
            "axes.titlesize": 12,
            "axes.titleweight": "bold",
            "axes.titlelocation": "left",
            "axes.labelsize": 11,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "axes.prop_cycle": cycler(color=PALETTE) + cycler(marker=MARKERS),
            "grid.color": "#d9dde2",
            "grid.linewidth": 0.7,
            "lines.linewidth": 2.0,
            "lines.markersize": 5.5,
            "xtick.color": INK,
            "ytick.color": INK,
            "xtick.labelsize": 10,
            "ytick.labelsize": 10,
            "text.color": INK,
            "legend.frameon": False,
            "legend.fontsize": 10,
            "font.size": 11,
            "font.family": "sans-serif",
            "font.sans-serif": ["DejaVu Sans", "Arial", "Helvetica", "sans-serif"],
            # A fixed salt makes the same picture the same file: the built book can be compared byte for byte.
            "svg.hashsalt": "edgeinfer",
            "svg.fonttype": "path",
        }
    )
    _svg_in_notebooks()


def _svg_in_notebooks() -> None:
    """In a notebook, pictures become SVG (sharp on every screen); outside one, nothing happens."""
    try:
        from IPython.core.getipython import get_ipython
    except ImportError:
        return
    if get_ipython() is None:
        return
    from matplotlib_inline.backend_inline import set_matplotlib_formats

    set_matplotlib_formats("svg", metadata={"Date": None})


def svg_text(figure: Figure, text_as: str = "path") -> str:
    """Returns the SVG source of a matplotlib figure (no date, no XML head) and closes the figure.

    Args:
        figure: what to save.
        text_as: "path" looks the same everywhere; "none" keeps real text: a third of the size, in the reader's font.
    """
    import io

    import matplotlib.pyplot as plt

    buffer = io.StringIO()
    with plt.rc_context({"svg.fonttype": text_as}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    plt.close(figure)
    text = buffer.getvalue()
    return text[text.index("<svg") :]
