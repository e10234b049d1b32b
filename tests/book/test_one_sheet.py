"""One style sheet for all pages: rules that can match stay in their order, others go, addresses stay right."""

import importlib.util
import types

import pytest
import tinycss2

from .site_tools import ROOT

spec = importlib.util.spec_from_file_location("one_sheet", ROOT / "book" / "_ext" / "one_sheet.py")
one_sheet = importlib.util.module_from_spec(spec)
spec.loader.exec_module(one_sheet)

KEPT = [
    ".seen{a:b}",
    "p{a:b}",
    "#here .seen>p{a:b}",
    ".seen:not(.unseen){a:b}",
    ":is(.unseen,.seen){a:b}",
    '[data-x="y"]{a:b}',
    ".tip-top{a:b}",
    "@media print{.seen{a:b}}",
    "@keyframes turn{to{a:b}}",
    ":root{--x:#123456}",
]
GONE = [
    ".unseen{a:b}",
    "#nowhere{a:b}",
    ".seen .unseen{a:b}",
    "@media print{.unseen{a:b}}",
    ".seen.unseen::before{a:b}",
]


@pytest.fixture
def known():
    return one_sheet.knows(
        one_sheet.names_in(['<p class="seen other" id="here">'], ['x.classList.add("tip-" + place)'])
    )


def used(sheet, known):
    return one_sheet.used_rules(tinycss2.parse_stylesheet(sheet, skip_comments=True, skip_whitespace=True), known)


@pytest.mark.parametrize("rule", KEPT)
def test_a_rule_that_can_match_stays(rule, known):
    assert used(rule, known) == rule


@pytest.mark.parametrize("rule", GONE)
def test_a_rule_that_cannot_match_goes(rule, known):
    assert used(rule, known) == ""


def test_of_several_selectors_those_stay_that_can_match_and_the_order_stays(known):
    assert used(".unseen,.seen,p{a:b} p{c:d}", known) == ".seen,p{a:b}\np{c:d}"


def test_of_two_fonts_with_one_name_the_later_stays():
    old, new = (
        '@font-face{font-family:"F";font-weight:400;src:url(a)}',
        "@font-face{font-family:F;font-weight:400;src:url(b)}",
    )
    other = "@font-face{font-family:F;font-weight:900;src:url(c)}"
    assert one_sheet.without_older_fonts(old + other + new) == other + new


@pytest.fixture
def site(tmp_path):
    static = tmp_path / "_static"
    (static / "styles").mkdir(parents=True)
    (static / "styles" / "a.css").write_text('@import "../b.css";.seen{background:url(../pictures/x.png)}')
    (static / "b.css").write_text('.seen{c:url("data:x,y")}.unseen{d:e}')
    (static / "code.js").write_text("")
    for name, up in (("one", ""), ("in/two", "../")):
        (tmp_path / f"{name}.html").parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.html").write_text(
            f'<head><link href="{up}_static/styles/a.css?v=1" rel="stylesheet" />\n</head><p class="seen">'
        )
    return tmp_path


def lighten(site):
    app = types.SimpleNamespace(outdir=str(site), builder=types.SimpleNamespace(name="html"))
    one_sheet.lighten(app, None)


def test_every_page_loads_one_sheet_with_what_it_imported(site):
    lighten(site)
    (sheet,) = (site / "_static").glob("book-*.css")
    text = sheet.read_text()
    assert text.index("data:x,y") < text.index("url(pictures/x.png)") and "@import" not in text and "unseen" not in text
    assert f'<link rel="stylesheet" href="_static/{sheet.name}">' in (site / "one.html").read_text()
    assert f'<link rel="stylesheet" href="../_static/{sheet.name}">' in (site / "in/two.html").read_text()


def test_a_page_that_is_written_again_brings_its_new_rules(site):
    lighten(site)
    before = (site / "one.html").read_text()
    lighten(site)
    assert (site / "one.html").read_text() == before
    (site / "in/two.html").write_text(
        '<head><link href="../_static/styles/a.css" rel="stylesheet" /></head><p class="unseen">'
    )
    lighten(site)
    (sheet,) = (site / "_static").glob("book-*.css")
    assert "unseen" in sheet.read_text() and "seen{c" in sheet.read_text().replace("unseen", "")
    assert all(sheet.name in (site / page).read_text() for page in ("one.html", "in/two.html"))
