"""Formulas are set while the book is built: each once, with words for a screen reader, and a wrong one is an error."""

import importlib.util
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from .site_tools import ROOT

spec = importlib.util.spec_from_file_location("formulas", ROOT / "book" / "_ext" / "formulas.py")
formulas = importlib.util.module_from_spec(spec)
spec.loader.exec_module(formulas)


@pytest.fixture(scope="module")
def setter():
    return formulas.Setter()


def test_a_formula_is_a_drawing_and_mathml(setter):
    drawn = setter.set(r"\frac{a}{b}", False)
    assert "<svg" in drawn and 'aria-hidden="true"' in drawn
    assert "<math><mfrac><mi>a</mi><mi>b</mi></mfrac></math>" in drawn.replace(' data-mjx-texclass="ORD"', "")


def test_a_formula_on_its_own_line_is_marked_so(setter):
    assert '<mjx-container display="true"' in setter.set("x", True)
    assert "<mjx-container>" in setter.set("x", False)


@pytest.mark.parametrize(
    "wrong, words",
    [
        (r"\nosuchcommand{x}", r"Undefined control sequence \nosuchcommand"),
        (r"\frac{a}", "Missing argument"),
        ("{x", "missing close brace"),
    ],
)
def test_a_formula_that_cannot_be_set_says_why(setter, wrong, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        setter.set(wrong, False)


def test_after_a_wrong_formula_the_next_one_is_set(setter):
    with pytest.raises(ValueError):
        setter.set(r"\frac{a}", False)
    assert "<svg" in setter.set("a", False)


def test_a_page_holds_each_glyph_once_and_every_one_that_it_shows(setter):
    page = f"<body>{setter.set('x+y', False)}<p>{setter.set('x-z', True)}</p></body>"
    shared = formulas.share_glyphs(page)
    defined = re.findall(r'<path id="(MJX-[^"]+)"', shared)
    assert len(defined) == len(set(defined))
    assert set(re.findall(r'href="#(MJX-[^"]+)"', shared)) == set(defined)
    assert shared == formulas.share_glyphs(shared) and shared.endswith("</body>") and len(shared) < len(page)


def test_a_page_without_formulas_stays_as_it_is():
    assert formulas.share_glyphs("<body><p>text</p></body>") == "<body><p>text</p></body>"


@settings(max_examples=20, deadline=None)
@given(st.text(alphabet=st.characters(exclude_categories=("Cs",)), max_size=12))
def test_no_text_in_a_formula_becomes_markup(text):
    try:
        drawn = shared_setter.set(r"\text{" + text + "}", False)
    except ValueError:
        return
    assert set(re.findall(r"<(\w[\w-]*)", drawn)) <= {
        "mjx-container", "svg", "defs", "path", "g", "use", "text", "rect", "line", "mjx-assistive-mml",
        "math", "mtext", "mrow", "mi", "mn", "mo", "mspace", "mstyle", "msup", "mtable", "mtr", "mtd",
    }  # fmt: skip


shared_setter = formulas.Setter()
