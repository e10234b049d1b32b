"""The notation page holds every letter that a formula of the book uses."""

import re

import pytest

from .site_tools import ROOT

GREEK = set(
    re.findall(r"\w+", "alpha beta gamma delta varepsilon epsilon kappa lambda mu phi pi rho sigma tau theta omega")
)
PAGES = sorted(
    p for folder in ("foundations", "va_kernels", "vc_memory") for p in (ROOT / "book" / folder).glob("*.md")
)
# Euler's number and the letters inside a differential or an operator's name need no entry.
KNOWN = {"e"}


def formulas(text: str) -> list[str]:
    """Returns the formulas of a page, without those that code holds."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.S | re.M)
    text = re.sub(r"`[^`\n]*`", "", text)
    found = re.findall(r"\$\$(.+?)\$\$|(?<![\\$])\$([^$\n]+?)\$(?!\$)", text, flags=re.S)
    return [double or single for double, single in found]


def letters(formula: str) -> set[str]:
    """Returns its letters; a bold one is "**X**", a Greek one "\\beta"; words are no letters."""
    formula = re.sub(r"\\(?:text|mathrm|operatorname|begin|end)\{[^{}]*\}|\[\d+pt\]", " ", formula)
    bold = {f"**{name}**" for name in re.findall(r"\\mathbf\{(\w)\}", formula)}
    formula = re.sub(r"\\mathbf\{\w\}", " ", formula)
    greek = {f"\\{name}" for name in GREEK if re.search(rf"\\{name}(?![a-z])", formula)}
    formula = re.sub(r"\\[A-Za-z]+", " ", formula)
    formula = re.sub(r"_\{?(?:kv|w|x)\b\}?", " ", formula)
    return bold | greek | set(re.findall(r"[A-Za-z]", formula))


def notation() -> tuple[set[str], dict[str, set[str]]]:
    """Returns the letters of the whole book, and those of single pages by the label of the page."""
    text = (ROOT / "book" / "notation.md").read_text(encoding="utf-8")
    everywhere, local = text.split("## Letters of one page")
    rows = re.findall(r"^\| \{ref\}`([\w-]+)` \| (.*) \|$", local, flags=re.M)
    own = {label: set().union(*map(letters, formulas(row))) for label, row in rows}
    first_cells = re.findall(r"^\| (\$.*?) \|", everywhere, flags=re.M)
    return set().union(*(letters(f) for cell in first_cells for f in formulas(cell))), own


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_every_letter_of_a_formula_stands_on_the_notation_page(page):
    everywhere, own = notation()
    text = page.read_text(encoding="utf-8")
    label = re.search(r"^\(([\w-]+)\)=$", text, flags=re.M).group(1)
    used = set().union(*map(letters, formulas(text))) if formulas(text) else set()
    # A bold letter names a matrix or a vector of its page.
    missing = {name for name in used - everywhere - own.get(label, set()) - KNOWN if not name.startswith("**")}
    assert missing == set()


def test_a_letter_of_one_page_has_no_other_meaning_in_the_book():
    everywhere, own = notation()
    clashes = {label: mine & everywhere for label, mine in own.items()}
    # Parts of N and K carry a number; T, M, N, K in an explanation are the book's own.
    allowed = {"k", "T", "M", "N", "K"}
    assert {label: found - allowed for label, found in clashes.items() if found - allowed} == {}


def test_no_row_belongs_to_a_page_that_does_not_use_its_letters():
    _, own = notation()
    labels = {}
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        labels[re.search(r"^\(([\w-]+)\)=$", text, flags=re.M).group(1)] = text
    unused = {label: mine - set().union(*map(letters, formulas(labels[label]))) for label, mine in own.items()}
    assert {label: found for label, found in unused.items() if found - {"T", "M", "N", "K"}} == {}


def test_the_names_in_code_are_those_of_the_library():
    shapes = (ROOT / "book" / "notation.md").read_text(encoding="utf-8").split("## Shapes")[1].split("\n## ")[0]
    code = "\n".join(p.read_text(encoding="utf-8") for p in (ROOT / "lib" / "edgeinfer").rglob("*.py"))
    assert [name for name in re.findall(r"`(\w+)`", shapes) if not re.search(rf"\b{name}\b", code)] == []
