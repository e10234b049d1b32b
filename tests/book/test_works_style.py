"""The list of works keeps the authors' capitals and names no address twice."""

import sys

from pybtex.backends.plaintext import Backend
from pybtex.database import Entry, Person

from .site_tools import ROOT

sys.path.insert(0, str(ROOT / "book" / "_ext"))
from works_style import WorksStyle


def written(**fields: str) -> str:
    entry = Entry("misc", fields={"title": "The Llama 3 Herd in English", "year": "2024", **fields})
    entry.persons["author"] = [Person("Ada Lovelace")]
    (formatted,) = WorksStyle().format_entries([_named(entry)])
    return formatted.text.render(Backend())


def _named(entry: Entry) -> Entry:
    entry.key = "work"
    return entry


def test_a_title_keeps_its_capitals():
    assert "The Llama 3 Herd in English." in written()


def test_a_work_with_a_number_shows_no_second_address():
    text = written(eprint="2407.21783", url="https://arxiv.org/abs/2407.21783")
    assert text.count("2407.21783") == 1 and "URL" not in text


def test_a_work_without_a_number_shows_its_address():
    assert "https://example.org/paper" in written(url="https://example.org/paper")
