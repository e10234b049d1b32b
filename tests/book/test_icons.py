"""The small icon fonts hold what pages and style sheets show, and pages use them instead of the script."""

import importlib.util

from .site_tools import ROOT

spec = importlib.util.spec_from_file_location("icons", ROOT / "book" / "_ext" / "icons.py")
icons = importlib.util.module_from_spec(spec)
spec.loader.exec_module(icons)

SHEET = (
    '.fa-navicon:before,.fa-bars:before{content:"\\f0c9"}.fa-xmark:before{content:"\\f00d"}'
    '.fa-9:before{content:"\\39 "}:root{--bell:"\uf0f3"}'
)


def test_named_icons_late_icons_and_those_of_the_style_sheet_are_kept():
    points = icons.code_points(SHEET, ['<i class="fa-solid fa-bars fa-lg"></i>'])
    assert points == {0xF0C9, 0xF00D, 0xF0F3}


def test_a_page_takes_the_style_sheet_instead_of_the_script_once():
    page = '<script defer src="../_static/scripts/fontawesome.js?digest=1"></script><p>text</p>'
    once = icons.use_style_sheet(page)
    assert once == '<link rel="stylesheet" href="../_static/icons.css"><p>text</p>' == icons.use_style_sheet(once)


def test_rules_of_icons_that_nobody_shows_are_left_out():
    kept = icons.without_other_icons(SHEET, {0xF0C9})
    assert "fa-bars" in kept and "fa-xmark" not in kept and "--bell" in kept
