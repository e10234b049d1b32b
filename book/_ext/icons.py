"""Spares the reader 1.8 MB of icons: pages show them from fonts cut down to what this book uses, without a script.

The theme ships Font Awesome as a script that draws every icon there is, and again as fonts with a style sheet; the
second way is enough. It knows the theme's files, not the book.
"""

import base64
import hashlib
import io
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

SHEET = "styles/pydata-sphinx-theme.css"
FONT_FOLDER = "vendor/fontawesome/webfonts"
# Icons that the theme's own scripts add when they run.
ADDED_LATER = ("xmark", "check", "copy")
# The place of an icon does not change when its font is there.
PLACES = """.article-header-buttons :is(i, .fa-solid), .search-button__button i { width: 1em; text-align: center; }
"""
FONTS = {
    "fa-solid-900": ("Font Awesome 6 Free", 900),
    "fa-regular-400": ("Font Awesome 6 Free", 400),
    "fa-brands-400": ("Font Awesome 6 Brands", 400),
}


def code_points(sheet: str, pages: Iterable[str]) -> set[int]:
    """Return the characters of the icons in `pages`, and of those that the style sheet itself puts beside text."""
    names = set(ADDED_LATER)
    for page in pages:
        names |= set(re.findall(r"\bfa-([a-z0-9-]+)", page))
    points = {ord(character) for character in re.findall("[\uf000-\uf8ff]", sheet)}
    for selectors, point in re.findall(r'(?<![^{}])([^{}]*){content:"\\([0-9a-f]{2,4})\s?"}', sheet):
        if names & set(re.findall(r"\.fa-([a-z0-9-]+):+before", selectors)):
            points.add(int(point, 16))
    return points


def write_fonts(static: Path, points: set[int]) -> None:
    """Write icons.css with the small fonts in it, to go before the theme's own; no icon comes after its page."""
    # Cut again only when something else is asked for: watching an author write, every part of a second counts.
    asked = hashlib.sha256(repr((sorted(points), FONTS, PLACES)).encode()).hexdigest()[:16]
    faces, sheet = f"/* {asked} */\n", static / "icons.css"
    if sheet.is_file() and sheet.read_text(encoding="utf-8").startswith(faces):
        return
    from fontTools import subset

    for file, (family, weight) in FONTS.items():
        options = subset.Options(flavor="woff", ignore_missing_unicodes=True, layout_features=[], drop_tables=["FFTM"])
        font = subset.load_font(str(static / FONT_FOLDER / f"{file}.ttf"), options)
        subsetter = subset.Subsetter(options)
        subsetter.populate(unicodes=sorted(points))
        subsetter.subset(font)
        with io.BytesIO() as small:
            subset.save_font(font, small, options)
            data = base64.b64encode(small.getvalue()).decode()
        faces += (
            f'@font-face{{font-family:"{family}";font-style:normal;font-weight:{weight};font-display:block;'
            f'src:url(data:font/woff;base64,{data}) format("woff")}}\n'
        )
    sheet.write_text(faces + PLACES, encoding="utf-8")


def without_other_icons(sheet: str, points: set[int]) -> str:
    """Return the style sheet without the rules of icons that are not among `points`."""

    def kept(rule: re.Match[str]) -> str:
        return rule.group(0) if int(rule.group(1), 16) in points else ""

    return re.sub(r'(?:\.fa-[a-z0-9-]+:+before,?)+{content:"\\([0-9a-f]{2,4})\s?"}', kept, sheet)


def use_style_sheet(page: str) -> str:
    """Let a page load icons.css instead of the script; it must stand after the theme's sheets to go before them."""
    return re.sub(
        r'<script[^>]*src="([^"]*_static/)scripts/fontawesome\.js[^"]*"[^>]*></script>',
        r'<link rel="stylesheet" href="\1icons.css">',
        page,
    )


def lighten(app: Any, error: Exception | None) -> None:
    """After the build: write the fonts, and let every page use them."""
    static = Path(app.outdir) / "_static"
    if error is not None or app.builder.name not in ("html", "dirhtml") or not (static / SHEET).is_file():
        return
    pages = {path: path.read_text(encoding="utf-8") for path in Path(app.outdir).rglob("*.html")}
    sheet = (static / SHEET).read_text(encoding="utf-8")
    points = code_points(sheet, pages.values())
    write_fonts(static, points)
    (static / SHEET).write_text(without_other_icons(sheet, points), encoding="utf-8")
    for path, page in pages.items():
        lighter = use_style_sheet(page)
        if lighter != page:
            path.write_text(lighter, encoding="utf-8")


def setup(app: Any) -> dict[str, bool]:
    app.connect("build-finished", lighten)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
