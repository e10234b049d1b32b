"""Catalogue, bibliography, pages, labs and evidence agree in the repository as it stands."""

from pathlib import Path

import catalogue_consistency as consistency
import pytest
from edgeinfer.evidence import all_ids
from edgeinfer.evidence.catalogue import UNVERIFIED, CatalogueError, load_bibliography, load_catalogue

ROOT = Path(__file__).resolve().parents[2]


def report(found: list[str]) -> None:
    assert not found, "\n" + "\n".join(found)


def test_every_entry_is_complete_and_there_are_103_of_them():
    report(consistency.schema_problems(ROOT))


def test_every_entry_and_every_page_cites_what_the_bibliography_has():
    report(consistency.citation_problems(ROOT))


def test_every_taught_system_has_its_label_in_a_chapter():
    report(consistency.chapter_problems(ROOT))


def test_every_taught_system_has_a_lab_that_speaks_of_it():
    report(consistency.lab_problems(ROOT))


def test_taught_systems_and_evidence_functions_are_the_same_set():
    report(consistency.evidence_problems(ROOT, all_ids()))


def test_ideas_are_two_sentences_of_readable_length():
    found = []
    for entry in load_catalogue():
        sentences = [part for part in entry["idea"].rstrip(".").split(". ") if part]
        if len(sentences) != 2 or not 20 <= len(entry["idea"].split()) <= 75:
            found.append(f"{entry['id']}: {len(sentences)} sentences, {len(entry['idea'].split())} words")
    report(found)


def test_entries_whose_authors_were_not_checked_are_none_or_named_here():
    # An author list that cannot be checked is marked in references.bib and added here, so that nobody adds one unseen.
    unchecked = {key for key, fields in load_bibliography().items() if UNVERIFIED in fields.get("note", "")}
    assert unchecked == set()


def test_every_reference_has_author_title_year_and_a_place_to_find_it():
    found = []
    for key, fields in load_bibliography().items():
        found += [f"{key}: no {name}" for name in ("author", "title", "year") if not fields.get(name)]
        if fields["entrytype"] == "misc" and not {"url", "doi", "eprint", "howpublished"} & set(fields):
            found.append(f"{key}: nowhere to find it")
    report(found)


def test_missing_and_malformed_catalogues_get_one_sentence(tmp_path):
    with pytest.raises(CatalogueError, match="no catalogue"):
        load_catalogue(tmp_path / "systems.yaml")
    (tmp_path / "systems.yaml").write_text("a: [", encoding="utf-8")
    with pytest.raises(CatalogueError, match="not valid YAML"):
        load_catalogue(tmp_path / "systems.yaml")
    (tmp_path / "systems.yaml").write_text("a: 1", encoding="utf-8")
    with pytest.raises(CatalogueError, match="expected a list"):
        load_catalogue(tmp_path / "systems.yaml")
