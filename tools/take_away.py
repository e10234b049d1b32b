"""Packs the built book to be read without a network: `make zip` (the site) and `make pdf` (one document to print).

The PDF is printed by Chromium page by page, in the order of the table of contents, and joined with bookmarks. A figure
shows the state it starts in. It knows the built site, not how it was built.
"""

import argparse
import io
import os
import shutil
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import serve
import yaml

ROOT = Path(__file__).resolve().parent.parent
NAME = "large-models-on-small-machines"
MARGIN = {"top": "18mm", "bottom": "18mm", "left": "16mm", "right": "16mm"}
SCALE = 0.8  # text of a screen is large on paper
# The reader of a printed page needs no menus; the theme hides most of them itself. What is folded is printed open, but
# the code behind a picture is left out. The hairline around a formula's letters, made for screens, is left out too.
PRINT_CSS = """
.bd-header, .bd-sidebar, .bd-header-article, .prev-next-footer, .bd-footer-content, .search-button__wrapper,
.copybtn, #pst-back-to-top, .skip-link, details.hide.above-input { display: none !important }
.bd-main, .bd-content, .bd-article-container, .bd-article { max-width: none !important; margin: 0 !important }
pre { white-space: pre-wrap !important; overflow-wrap: anywhere }
pre, div.highlight, div.cell_input, div.cell_output, div.cell {
  display: block !important; overflow: visible !important; break-inside: auto !important }
figure, .lmfig, .admonition, tr, .sd-card { break-inside: avoid-page }
h1, h2, h3, h4 { break-after: avoid-page }
table:not(.at-table) { width: auto !important; max-width: 100% !important; font-size: 0.85em }
th, td { padding: 0.2em 0.5em !important; overflow-wrap: anywhere; white-space: normal !important }
.pst-scrollable-table-container, .lm-scroll, .bd-content div.cell_output .text_html { overflow: visible !important }
div.math, div.math mjx-container { display: block !important; overflow: visible !important }
mjx-container > svg { max-width: 100% !important }
mjx-container use { stroke: none }
"""


def chapters(site: Path, toc: Path = ROOT / "_toc.yml") -> Iterator[tuple[str, str]]:
    """Yield (part, page) of every built page in reading order, such as ("Foundations", "book/roofline.html")."""
    contents = yaml.safe_load(toc.read_text(encoding="utf-8"))
    yield "", f"{contents['root']}.html"
    for part in contents["parts"]:
        for chapter in part["chapters"]:
            page = f"{chapter['file']}.html"
            if not (site / page).is_file():
                sys.exit(f"take away: {page} is not built yet; run `make book` first.")
            yield part["caption"], page


def write_zip(site: Path, target: Path) -> int:
    """Write the site as one archive that a browser can open from any folder; return its bytes."""
    part = target.with_suffix(".part")
    with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for path in sorted(site.rglob("*")):
            if path.is_file():
                archive.write(path, f"{NAME}/{path.relative_to(site)}")
    os.replace(part, target)
    return target.stat().st_size


def print_page(browser: Any, address: str) -> tuple[str, bytes]:
    """Return the title of a page and its PDF."""
    context = browser.new_context(color_scheme="light", reduced_motion="reduce")
    page = context.new_page()
    page.goto(address, wait_until="load", timeout=120_000)
    page.add_style_tag(content=PRINT_CSS)
    page.evaluate("() => document.querySelectorAll('details').forEach(d => { d.open = true; })")
    title = page.evaluate("() => (document.querySelector('h1') || {innerText: document.title}).innerText")
    printed = page.pdf(format="A4", margin=MARGIN, print_background=True, scale=SCALE)
    context.close()
    return title.strip().rstrip("#").strip(), printed


def write_pdf(site: Path, target: Path, toc: Path = ROOT / "_toc.yml") -> int:
    """Write the whole book as one PDF; return its number of pages.

    Raises:
        SystemExit: when Chromium is missing or a page is not built, with what to do.
    """
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("take away: Chromium prints the PDF and is not installed (on Debian: apt-get install chromium)")
    from playwright.sync_api import sync_playwright
    from pypdf import PdfReader, PdfWriter

    pages = list(chapters(site, toc))
    server = serve.open_server(0, site)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    book, parts = PdfWriter(), {}
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            for number, (part, page) in enumerate(pages, 1):
                print(f"take away: {number}/{len(pages)} {page}", flush=True)
                title, printed = print_page(browser, f"http://127.0.0.1:{server.server_address[1]}/{page}")
                first = len(book.pages)
                book.append(PdfReader(io.BytesIO(printed)), import_outline=False)
                if part and part not in parts:
                    parts[part] = book.add_outline_item(title=part, page_number=first)
                book.add_outline_item(title=title, page_number=first, parent=parts.get(part))
            browser.close()
    finally:
        server.shutdown()
        server.server_close()
    book.add_metadata({"/Title": "Large Models on Small Machines"})
    with open(target.with_suffix(".part"), "wb") as file:
        book.write(file)
    os.replace(target.with_suffix(".part"), target)
    return len(book.pages)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=["zip", "pdf"])
    what = parser.parse_args().what
    if not (serve.SITE / "index.html").is_file():
        sys.exit("take away: the book is not built yet (no _build/html/index.html); run `make book` first.")
    target = serve.SITE.parent / f"{NAME}.{what}"
    if what == "zip":
        size = write_zip(serve.SITE, target)
        print(f"take away: {target.relative_to(ROOT)} ({size / 1e6:.1f} MB); unpack it and open index.html")
    else:
        count = write_pdf(serve.SITE, target)
        print(f"take away: {target.relative_to(ROOT)} ({count} pages)")


if __name__ == "__main__":
    main()
