"""Makes slides from the built chapters: `make slides` writes one file per chapter into _build/slides.

A section gives a slide with its first sentences and formulas, and one for each of its figures and tables; the text
stands below as notes (press N). Figures stay alive. It knows the built pages, not their sources.
"""

import argparse
import base64
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bs4 import BeautifulSoup, Tag

ROOT = Path(__file__).resolve().parent.parent
SITE = ROOT / "_build" / "html"
SENTENCES = 4  # on one slide; the rest is in the notes
STYLE = """
:root { color-scheme: light dark; --ink: light-dark(#1b1f24, #e8eaed); --paper: light-dark(#fff, #16181c) }
html { scroll-snap-type: y mandatory; font: 400 calc(14px + 0.7vw)/1.45 system-ui, sans-serif }
body { margin: 0; color: var(--ink); background: var(--paper) }
section { box-sizing: border-box; min-height: 100vh; padding: 5vh 7vw 7vh; scroll-snap-align: start; position: relative;
  display: flex; flex-direction: column; justify-content: center; overflow-x: auto }
h1 { font-size: 2.2em; margin: 0 0 .4em } h2 { font-size: 1.5em; margin: 0 0 .6em }
li { margin: .45em 0 } img { max-width: 100%; max-height: 66vh; object-fit: contain }
table { border-collapse: collapse; font-size: .8em }
td, th { padding: .25em .7em; border-bottom: 1px solid #8886; text-align: left }
.number { position: absolute; right: 2vw; bottom: 2vh; opacity: .7; font-size: .7em }
.notes { display: none; border-top: 1px solid #8886; margin-top: 1.5em; font-size: .75em }
.with-notes .notes { display: block }
.content { max-height: 76vh; overflow: auto } .with-notes .content { max-height: none }
a { color: inherit } pre { white-space: pre-wrap; font-size: .7em } .lmfig { font-size: .85em; max-width: 60em }
@media print { @page { size: A4 landscape; margin: 10mm } .content { max-height: none }
  section { break-after: page; min-height: 0; height: auto }
  .notes { display: none !important } }
"""
# As book/_ext/formulas.py sets them.
FORMULAS = """mjx-container { position: relative } mjx-container > svg { overflow: visible }
mjx-container[display="true"] { display: block; text-align: center; margin: 1em 0 }
mjx-container use { stroke-width: 3 }
mjx-assistive-mml { position: absolute; clip: rect(1px, 1px, 1px, 1px); overflow: hidden }
"""
KEYS = """
addEventListener('keydown', function (event) {
  if (/^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
  var slides = Array.from(document.querySelectorAll('section')), top = window.scrollY + 5;
  var now = slides.findIndex(function (s) { return s.offsetTop + s.offsetHeight > top; });
  var step = {ArrowRight: 1, PageDown: 1, ' ': 1, ArrowLeft: -1, PageUp: -1}[event.key];
  if (step && slides[now + step]) { slides[now + step].scrollIntoView(); event.preventDefault(); }
  if (event.key === 'n' || event.key === 'N') document.body.classList.toggle('with-notes');
});
"""


def first_sentence(paragraph: Tag) -> str:
    """HTML of the first sentence of a paragraph; a formula or an emphasis is never cut."""
    inner = paragraph.decode_contents().strip()
    for match in re.finditer(r"[.!?:](?=\s)", inner):
        start = inner[: match.end()]
        opened = len(re.findall(r"<(?!/|br|img)\w+", start)) - len(re.findall(r"</\w+", start))
        if opened == 0:
            return start.rstrip(":") + ("." if start.endswith(":") else "")
    return inner


def is_picture(node: Tag) -> bool:
    return node.name in ("figure", "table", "img") or "lmfig" in node.get("class", [])


def pictures(node: Tag) -> Iterator[Tag]:
    """The figures and tables in a node, outermost first, code left out."""
    if is_picture(node):
        yield node
        return
    for child in node.find_all(True, recursive=False):
        if "cell_input" not in child.get("class", []):
            yield from pictures(child)


def slides_of(section: Tag) -> Iterator[tuple[str, str, str]]:
    """Yield (heading, body, notes) of a section and of those inside it."""
    title = section.find(["h1", "h2", "h3", "h4"], recursive=False)
    heading = title.get_text().rstrip("#").strip() if title else ""
    points, shown, notes, inner = [], [], [], []
    for child in section.find_all(True, recursive=False):
        classes = child.get("class", [])
        if child.name == "section":
            inner.append(child)
        elif child.name == "p":
            points.append(f"<li>{first_sentence(child)}</li>")
            notes.append(str(child))
        elif child.name in ("ul", "ol", "dl") or "math" in classes:
            points.append(f"<li>{child}</li>" if child.name != "ul" else child.decode_contents())
        elif child is not title:
            for picture in pictures(child):
                shown.append((picture, points[-1] if points else ""))
    if points or title:
        yield heading, f"<ul>{''.join(points[:SENTENCES])}</ul>", "".join(notes)
    for picture, words in shown:
        yield heading, str(picture), f"<ul>{words}</ul>"
    for child in inner:
        yield from slides_of(child)


def embed_images(html: str, page: Path) -> str:
    """Put every image of the page into the text itself."""
    kinds = {".svg": "svg+xml", ".png": "png", ".jpg": "jpeg"}

    def inside(match: re.Match[str]) -> str:
        file = (page.parent / match.group(1)).resolve()
        if file.suffix not in kinds or not file.is_file():
            return match.group(0)
        return f'src="data:image/{kinds[file.suffix]};base64,{base64.b64encode(file.read_bytes()).decode()}"'

    return re.sub(r'src="([^":]+)"', inside, html)


def make(page: Path, target: Path) -> int:
    """Write the slides of one built page; return how many there are."""
    soup = BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")
    article: Any = soup.find("article")
    for link in article.select("a.headerlink, .copybtn"):
        link.decompose()
    # What draws the figures stands once in the page, beside the first of them.
    drawing = "".join(
        str(node) for node in article.find_all(["script", "style"]) if not node.find_parent(class_="lmfig")
    )
    made = list(slides_of(article.find("section")))
    body = "".join(
        f'<section aria-label="{number}"><h{1 if number == 1 else 2}>{heading}</h{1 if number == 1 else 2}>'
        f'<div class="content">{content}</div>'
        f'<div class="notes">{notes}</div><span class="number">{number} / {len(made)}</span></section>'
        for number, (heading, content, notes) in enumerate(made, 1)
    )
    title = soup.title.get_text() if soup.title else page.stem
    # The shapes that the formulas of a page share stand at its end, outside of the text.
    glyphs = "".join(str(node) for node in soup.find_all("svg") if node.find("path", id=re.compile("^MJX-")))
    target.write_text(
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}{FORMULAS}</style></head><body>'
        f"{embed_images(body, page)}{drawing}{glyphs}<script>{KEYS}</script></body></html>",
        encoding="utf-8",
    )
    return len(made)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--site", type=Path, default=SITE, help=argparse.SUPPRESS)
    site = parser.parse_args().site
    pages = [
        p for p in sorted((site / "book").glob("*/*.html")) if p.parent.name != "instructors" and p.stem != "index"
    ]
    if not pages:
        sys.exit("slides: the book is not built yet (no chapters in _build/html); run `make book` first.")
    folder = site.parent / "slides"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for page in pages:
        print(f"{page.stem:32} {make(page, folder / page.name):4} slides", flush=True)
    print("slides: _build/slides (arrow keys turn, N shows the notes)")


if __name__ == "__main__":
    main()
