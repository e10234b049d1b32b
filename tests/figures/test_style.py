"""The palette must be readable by everyone: contrast on both pages, differences under simulated colour blindness."""

import itertools
import re

import numpy as np
import pytest
from edgeinfer.figures import style

# Machado, Oliveira and Fernandes (2009), severity 1.0: what linear RGB looks like to the three kinds of dichromats.
BLINDNESS = {
    "none": np.eye(3),
    "protan": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deutan": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritan": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}


def linear(color: str) -> np.ndarray:
    value = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIE L*a*b* of linear RGB: distances in it are roughly distances for the eye."""
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ np.clip(rgb, 0, 1)
    f = np.cbrt(np.maximum(xyz / np.array([0.9505, 1.0, 1.089]), 1e-6))
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def contrast(a: str, b: str) -> float:
    light, dark = sorted((float(linear(c) @ [0.2126, 0.7152, 0.0722]) for c in (a, b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize(
    ("palette", "paper"), [(style.PALETTE, style.PAPER), (style.PALETTE_DARK, style.PAPER_DARK)], ids=["light", "dark"]
)
def test_every_colour_reaches_three_to_one_on_its_page(palette, paper):
    assert {c: round(contrast(c, paper), 2) for c in palette if contrast(c, paper) < 3} == {}


@pytest.mark.parametrize("kind", BLINDNESS)
@pytest.mark.parametrize("palette", [style.PALETTE, style.PALETTE_DARK], ids=["light", "dark"])
def test_colours_stay_apart_for_every_kind_of_eye(palette, kind):
    seen = {c: lab(BLINDNESS[kind] @ linear(c)) for c in palette}
    near = {(a, b): d for a, b in itertools.combinations(palette, 2) if (d := np.linalg.norm(seen[a] - seen[b])) < 12}
    assert near == {}


def test_page_and_paper_use_the_same_palette():
    from edgeinfer.figures.interactive import _asset

    css = _asset("figure.css")
    assert all(f"--c{i}:{c}" in css for palette in (style.PALETTE, style.PALETTE_DARK) for i, c in enumerate(palette))


def page_colours() -> dict[str, dict[str, str]]:
    """The custom properties of the page's figures; where the dark sets none, the light one holds."""
    from edgeinfer.figures.interactive import _asset

    css = _asset("figure.css")
    light, dark = (
        dict(re.findall(r"--(\w+):(#[0-9a-fA-F]+)", block))
        for block in (
            css[css.index(".lmfig{") : css.index("}")],
            css[css.index("html[data-theme=dark]") :].split("}")[0],
        )
    )
    full = {k: v if len(v) == 7 else "#" + "".join(2 * c for c in v[1:]) for k, v in (light | dark).items()}
    return {
        "light": {k: v if len(v) == 7 else "#" + "".join(2 * c for c in v[1:]) for k, v in light.items()},
        "dark": full,
    }


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_in_figures_reaches_four_and_a_half_to_one(theme):
    colours = page_colours()[theme]
    pairs = [(text, ground) for text in ("ink", "soft") for ground in ("card", "mark")]
    ratios = {pair: round(contrast(colours[pair[0]], colours[pair[1]]), 2) for pair in pairs}
    assert {pair: ratio for pair, ratio in ratios.items() if ratio < 4.5} == {}


def test_bars_are_full_or_keep_their_full_colour_as_an_edge():
    from edgeinfer.figures.interactive import _asset

    # The palette's own test then covers them: nothing that is meant is drawn paler than the palette.
    assert '"fill-opacity": s.highlight === null || s.highlight === i ? 1 : 0.35, stroke: ink(s.style)' in _asset(
        "figure.js"
    )


def turned_over(colour: str) -> str:
    """What book.css makes of a picture on white paper in the dark: invert(1) hue-rotate(180deg)."""
    red, green, blue = (255 - int(colour[i : i + 2], 16) for i in (1, 3, 5))
    turn = np.array([[-0.574, 1.43, 0.144], [0.426, 0.43, 0.144], [0.426, 1.43, -0.856]])
    return "#" + "".join(f"{round(v):02x}" for v in np.clip(turn @ [red, green, blue], 0, 255))


def test_pictures_turned_over_in_the_dark_keep_their_contrast_and_their_differences():
    paper = turned_over(style.PAPER)
    assert paper == "#000000" and contrast(turned_over(style.INK), paper) > 4.5
    colours = [turned_over(c) for c in style.PALETTE]
    assert {c: contrast(c, paper) for c in colours if contrast(c, paper) < 3} == {}
    for name, matrix in BLINDNESS.items():
        seen = [lab(matrix @ linear(c)) for c in colours]
        assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) > 10, name


def test_the_same_picture_is_the_same_file():
    import matplotlib.pyplot as plt

    def picture() -> str:
        style.use_style()
        figure, axes = plt.subplots()
        axes.plot([1, 2, 3])
        return style.svg_text(figure)

    assert picture() == picture()
