"""A page is painted as soon as its text is there, and nothing in it moves afterwards.

The theme loads nine scripts before a page may be painted, chooses the colours in one of them, scrolls the menu in
another, and gives pictures no size. It knows the markup of sphinx-book-theme and pydata-sphinx-theme, not this book.
Every step is a small function on the page's text that does nothing the second time.
"""

import hashlib
import re
import struct
from pathlib import Path
from typing import Any

# An inline script of at least this many characters that a page repeats is kept once.
LONG = 500
# What the theme does when its scripts have come; done here before the first paint, it changes nothing any more then.
COLOURS = """<script data-cfasync="false">
    (function (page, kept) {
      page.mode = kept("mode") || "auto";
      var system = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
      page.theme = page.mode === "auto" ? system : page.mode;
    })(document.documentElement.dataset, function (name) { try { return localStorage.getItem(name); } catch (e) {} });
  </script>"""
SCROLL = """<script>(function (bar, kept) {
  var links = document.querySelectorAll(".bd-docs-nav .active"), here = links[links.length - 1];
  try { kept = parseInt(sessionStorage.getItem("sidebar-scroll-top"), 10); } catch (e) {}
  if (!isNaN(kept)) { bar.scrollTop = kept; return; }
  var at = here ? here.getBoundingClientRect().y : 0;
  if (at > 0.5 * innerHeight) bar.scrollTop = at - bar.getBoundingClientRect().y - 0.25 * bar.clientHeight;
})(document.querySelector("div.bd-sidebar"), NaN);</script>
"""


def choose_colours_at_once(page: str) -> str:
    """Light or dark is known before the first paint: without it half of the theme's rules are not in force."""
    return re.sub(
        r'<script data-cfasync="false">\s*document\.documentElement\.dataset\.mode.*?</script>',
        COLOURS,
        page,
        flags=re.S,
    )


def scroll_menu_at_once(page: str) -> str:
    """The menu shows the page that is open; it was scrolled there when the page had long been painted."""
    place = re.search(r'[ \t]*<main id="main-content"', page)
    if place is None or "div.bd-sidebar" in page or "bd-docs-nav" not in page:
        return page
    return page[: place.start()] + SCROLL + page[place.start() :]


def let_scripts_wait(page: str, options: str) -> str:
    """Scripts run in their order when the page is read; the few settings that they share stand in the page."""
    page = re.sub(
        r'<script src="[^"]*documentation_options\.js[^"]*"></script>', lambda _: f"<script>{options}</script>", page
    )
    page = re.sub(r'<link\b[^>]*rel="preload"[^>]*as="script"[^>]*>\s*', "", page)
    return re.sub(r"<script(?![^>]*\b(?:defer|async)\b)(?=[^>]*\bsrc=)", "<script defer", page)


def keep_repeated_code_once(page: str) -> str:
    """A page with five figures holds the script that draws them once and calls it five times."""
    for code in dict.fromkeys(re.findall(r"<script>(.*?)</script>", page, re.S)):
        whole = f"<script>{code}</script>"
        if len(code) >= LONG and page.count(whole) > 1:
            name = "again_" + hashlib.sha256(code.encode()).hexdigest()[:8]
            before, after = page.split(whole, 1)
            after = after.replace(whole, f"<script>{name}()</script>")
            page = f"{before}<script>function {name}() {{{code}\n}}\n{name}()</script>{after}"
    for style in dict.fromkeys(re.findall(r"<style>.*?</style>", page, re.S)):
        before, after = page.split(style, 1)
        page = before + style + after.replace(style, "")
    return page


def size_of(picture: Path) -> tuple[int, int] | None:
    """Return width and height of a PNG or SVG file in pixels, or None when it does not say."""
    if picture.suffix == ".png":
        start = picture.read_bytes()[:24]
        width, height = struct.unpack(">II", start[16:24]) if start[:8] == b"\x89PNG\r\n\x1a\n" else (0, 0)
        return (width, height) if width and height else None
    if picture.suffix != ".svg":
        return None
    tag = re.search(r"<svg\b[^>]*>", picture.read_text(encoding="utf-8")[:4000])
    box = re.search(r'viewBox="[\d.-]+[ ,]+[\d.-]+[ ,]+([\d.]+)[ ,]+([\d.]+)"', tag.group(0)) if tag else None
    return (round(float(box.group(1))), round(float(box.group(2)))) if box else None


def give_pictures_their_size(page: str, folder: Path) -> str:
    """The place of a picture is known before it has come, so the text below it does not jump."""

    text = page.find("<article")

    def sized(match: re.Match[str]) -> str:
        tag = match.group(0)
        if match.start() < text and "logo__image" not in tag:
            return tag  # in a menu that is closed; the theme knows its size
        if re.search(r"\s(?:width|height|style)=", tag):
            return tag
        picture = (folder / match.group(1).split("?")[0]).resolve()
        size = size_of(picture) if picture.is_file() else None
        return (
            tag.replace("<img", f'<img width="{size[0]}" height="{size[1]}" style="height: auto"', 1) if size else tag
        )

    return re.sub(r'<img\b[^>]*\bsrc="([^":]+)"[^>]*>', sized, page)


def improve(page: str, folder: Path, options: str) -> str:
    """Return the text of a page after every step; `folder` is where the page lies."""
    page = let_scripts_wait(scroll_menu_at_once(choose_colours_at_once(page)), options)
    return give_pictures_their_size(keep_repeated_code_once(page), folder)


def improve_all(app: Any, error: Exception | None) -> None:
    """After the build: every page, in place."""
    static = Path(app.outdir) / "_static"
    if error is not None or app.builder.name not in ("html", "dirhtml"):
        return
    options = (static / "documentation_options.js").read_text(encoding="utf-8").strip()
    for path in Path(app.outdir).rglob("*.html"):
        old = path.read_text(encoding="utf-8")
        new = improve(old, path.parent, options)
        if static not in path.parents and new != old:
            path.write_text(new, encoding="utf-8")


def setup(app: Any) -> dict[str, bool]:
    app.connect("build-finished", improve_all)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
