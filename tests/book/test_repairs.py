"""The repairs of the theme's pages: each does what it says, none does anything twice."""

import importlib.util

import pytest

from .site_tools import ROOT

spec = importlib.util.spec_from_file_location("reader_page", ROOT / "book" / "_ext" / "reader_page.py")
reader_page = importlib.util.module_from_spec(spec)
spec.loader.exec_module(reader_page)

BEFORE_AND_AFTER = {
    "search button": (
        '<button class="btn btn-sm search-button" title="Search" aria-label="Search">',
        'aria-label="Search Ctrl+K"',
    ),
    "colour switch": (
        '<button class="btn theme-switch-button pst-js-only" aria-label="Color mode">',
        "Color mode: Light Dark System Settings",
    ),
    "sidebar summary": ('<summary><span class="toctree-toggle">', '<summary aria-label="Open or close this section">'),
    "folded cell": ('<summary aria-label="Toggle hidden content"><p>Show code</p>', "<summary><p>Show code</p>"),
    "empty corner": ('<tr><th class="head"><p></p></th>', '<td class="head"></td>'),
    "logo": ('<div class="sidebar-primary-items__start sidebar-primary__section">', 'role="navigation"'),
    "bibliography": ('<div role="list" class="citation-list">', '<div class="citation-list">'),
}


@pytest.mark.parametrize("name", BEFORE_AND_AFTER)
def test_a_repair_does_what_it_says_once(name):
    before, after = BEFORE_AND_AFTER[name]
    once = reader_page.repair(before)
    assert after in once and reader_page.repair(once) == once


def test_thebe_leaves_no_trace():
    page = (
        '<head><script>const THEBE_JS_URL = "https://x/y"; const a = 1</script><script async src="../_static/'
        'sphinx-thebe.js?v=1"></script></head><script>const THEBE_JS_URL = "https://x/y"</script><p>text</p>'
    )
    assert reader_page.repair(page) == "<head></head><p>text</p>"


def test_a_header_with_words_stays_a_header():
    assert reader_page.repair('<th class="head"><p>Time</p></th>') == '<th class="head"><p>Time</p></th>'


def test_only_the_search_page_loads_the_search_index():
    scripts = '<script src="../_static/searchtools.js"></script>\n<script src="../searchindex.js"></script><p>text</p>'
    assert reader_page.repair(scripts) == "<p>text</p>"
    searching = '<div id="search-results"></div>' + scripts
    assert reader_page.repair(searching) == searching
