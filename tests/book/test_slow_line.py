"""On a slow line nothing on a page moves while it comes, and what is read first does not wait for the rest."""

import sys

import pytest

from .site_tools import ROOT, built_pages

pytestmark = pytest.mark.browser
sys.path.insert(0, str(ROOT / "tools"))
# The landing page, one with many figures and formulas, the longest table, a lab: the others are made in the same way.
SAMPLE = [
    page
    for page in (
        "book/intro.html",
        "book/va_kernels/quantization.html",
        "book/atlas.html",
        "labs/lab01_quantization.html",
    )
    if page in built_pages()
]


@pytest.fixture(
    scope="module", params=[(page, screen) for page in SAMPLE for screen in ("phone", "laptop")], ids="-".join
)
def loaded(request, browser, address):
    import page_speed

    page, screen = request.param
    return page_speed.load(browser, f"{address}/{page}", page_speed.SCREENS[screen], processor=1)


def test_nothing_moves(loaded):
    assert loaded["shift"] < 0.01


def test_the_text_is_painted_before_the_page_is_complete(loaded):
    assert 0 < loaded["first"] < loaded["all"]


def test_a_page_with_all_it_loads_is_small(loaded):
    assert loaded["kB"] < 500
