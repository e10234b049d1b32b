"""Repairs of the theme's pages: a screen reader, a keyboard and a phone can use them, and nothing is asked elsewhere.

It knows the markup of sphinx-book-theme, pydata-sphinx-theme and docutils, not this book. Every repair is a small
function on the page's text that does nothing the second time; tests/book proves that axe-core then finds no violation.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

Repair = Callable[[str], str]


def name_search_buttons(page: str) -> str:
    """The visible text is "Search Ctrl+K"; a label must contain it, or voice control cannot find the button."""
    return re.sub(
        r'(<button class="btn [^"]*search-button[^"]*"[^>]*) aria-label="Search"',
        r'\1 aria-label="Search Ctrl+K"',
        page,
    )


def name_colour_switch(page: str) -> str:
    """The switch shows one of three words; its label must hold them."""
    return page.replace(
        'theme-switch-button pst-js-only" aria-label="Color mode"',
        'theme-switch-button pst-js-only" aria-label="Color mode: Light Dark System Settings"',
    )


def name_sidebar_summaries(page: str) -> str:
    """The arrows that open a branch of the table of contents have no text."""
    return re.sub(
        r"<summary>(?=\s*<span class=\"toctree-toggle\")", '<summary aria-label="Open or close this section">', page
    )


def name_folded_cells_by_their_words(page: str) -> str:
    """The fold of a code cell says "Show code cell source"; a label beside it says something else."""
    return page.replace('<summary aria-label="Toggle hidden content">', "<summary>")


def leave_empty_corners_of_tables(page: str) -> str:
    """The empty first cell of a table's head is no header."""
    return re.sub(r'<th class="(head[^"]*)">(?:<p>\s*</p>)?</th>', r'<td class="\1"></td>', page)


def put_logo_in_a_region(page: str) -> str:
    """The logo stands outside every landmark."""
    return re.sub(
        r'<div class="sidebar-primary-items__start sidebar-primary__section">',
        '<div class="sidebar-primary-items__start sidebar-primary__section" role="navigation" aria-label="Book">',
        page,
    )


def use_plain_roles_in_bibliographies(page: str) -> str:
    """docutils writes deprecated roles, and list roles without list items."""
    page = page.replace('<div role="list" class="citation-list">', '<div class="citation-list">')
    page = re.sub(r'(<div class="citation" id="[^"]*") role="doc-biblioentry"', r"\1", page)
    return page.replace(' role="doc-backlink"', "")


def remove_thebe(page: str) -> str:
    """Thebe is switched off, but its set-up stays in every page (twice) and names an outside address."""
    page = re.sub(r"<script>\s*const THEBE_JS_URL.*?</script>", "", page, flags=re.S)
    page = re.sub(r'<script[^>]*src="[^"]*sphinx-thebe\.js[^"]*"[^>]*></script>', "", page)
    page = re.sub(r"<link[^>]*sphinx-thebe\.css[^>]*>", "", page)
    return re.sub(r'<script type="text/x-thebe-config">.*?</script>', "", page, flags=re.S)


def load_the_search_index_where_it_is_searched(page: str) -> str:
    """The theme lets every page load the whole index, for a search while typing that this book does not use."""
    if 'id="search-results"' in page:
        return page
    return re.sub(r'<script src="[^"]*(?:searchtools|language_data|searchindex)\.js[^"]*"></script>\s*', "", page)


REPAIRS: tuple[Repair, ...] = (
    name_search_buttons,
    name_colour_switch,
    name_sidebar_summaries,
    name_folded_cells_by_their_words,
    leave_empty_corners_of_tables,
    put_logo_in_a_region,
    use_plain_roles_in_bibliographies,
    remove_thebe,
    load_the_search_index_where_it_is_searched,
)


def repair(page: str) -> str:
    """Returns the text of a page after every repair."""
    for step in REPAIRS:
        page = step(page)
    return page


def repair_all(app: Any, error: Exception | None) -> None:
    """Repairs every page of a finished build, in place."""
    if error is not None or app.builder.name not in ("html", "dirhtml"):
        return
    for path in Path(app.outdir).rglob("*.html"):
        old = path.read_text(encoding="utf-8")
        new = repair(old)
        if new != old:
            path.write_text(new, encoding="utf-8")


def setup(app: Any) -> dict[str, bool]:
    app.connect("build-finished", repair_all)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
