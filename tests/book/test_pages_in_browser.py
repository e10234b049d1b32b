"""Every page in a real browser with the network cut: quiet, complete, usable with keys and on a phone, accessible.

Pictures of every page, wide and on a phone, light and dark, are left in reports/screenshots.
"""

import pytest

from .reader import Opened, open_page
from .site_tools import built_pages

pytestmark = pytest.mark.browser


@pytest.fixture(
    scope="module", params=[(p, s) for p in built_pages() if p != "index.html" for s in ("light", "dark")], ids="-".join
)
def opened(request, browser, address) -> Opened:
    page, scheme = request.param
    return open_page(browser, f"{address}/{page}", scheme, page.removesuffix(".html").replace("/", "-"))


def test_no_script_fails_and_nothing_is_missing(opened):
    assert opened.errors == [] and opened.failed == []


def test_nothing_is_asked_outside(opened):
    assert opened.outside == []


def test_every_figure_answers_to_a_key(opened):
    assert opened.still == []


def test_tab_reaches_everything_that_takes_a_key(opened):
    assert opened.unreached == []


def test_the_place_of_the_focus_is_seen(opened):
    assert opened.unseen == []


def test_nothing_jumps_while_the_page_loads(opened):
    assert sum(value for value, _ in opened.shifts) < 0.05, opened.shifts


def test_a_phone_needs_no_sideways_scrolling(opened):
    """Neither for the page, nor for a table, a formula or code in it."""
    assert opened.width <= 390, opened.wide
    assert opened.boxes == []


def test_a_page_with_all_it_needs_weighs_less_than_a_megabyte(opened):
    assert 0 < opened.weight < 1_000_000


def test_axe_finds_no_violation(opened):
    assert opened.violations == []
