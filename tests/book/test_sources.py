"""What the builder does not notice: a page in no table of contents, a picture described by its file name."""

import re

import yaml

from .site_tools import ROOT


def listed() -> set[str]:
    """Every file of _toc.yml, without its ending."""
    found: set[str] = set()

    def walk(node) -> None:
        if isinstance(node, dict):
            found.update(node[key] for key in ("file", "root") if key in node)
            for inside in node.values():
                walk(inside)
        elif isinstance(node, list):
            for inside in node:
                walk(inside)

    walk(yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8")))
    return found


def sources() -> set[str]:
    pages = [
        p for p in (ROOT / "book").rglob("*.md") if not any(part.startswith("_") for part in p.relative_to(ROOT).parts)
    ]
    labs = [p for p in (ROOT / "labs").glob("*.ipynb") if not p.name.startswith(".")]
    return {p.relative_to(ROOT).with_suffix("").as_posix() for p in pages + labs}


def test_every_page_and_every_lab_is_in_the_table_of_contents():
    assert sources() - listed() == set()


def test_the_table_of_contents_lists_only_what_exists():
    assert listed() - sources() == set()


def test_no_alternative_text_is_a_file_name():
    named = re.compile(r"(?:alt:\s*|!\[)[\"']?[\w./-]+\.(?:svg|png|jpe?g)\b", re.I)
    found = {p.name: m for p in (ROOT / "book").rglob("*.md") if (m := named.findall(p.read_text(encoding="utf-8")))}
    assert found == {}


def test_no_formula_shows_a_backslash():
    # MathJax takes \text{} literally: an underscore in a name belongs into \mathrm{a\_b}.
    pages = [*(ROOT / "book").rglob("*.md"), *(ROOT / "solutions").glob("*.py")]
    wrong = [p.name for p in pages if re.search(r"\\text\{[^}]*\\_[^}]*\}", p.read_text(encoding="utf-8"))]
    assert wrong == []
