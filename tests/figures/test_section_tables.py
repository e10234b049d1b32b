"""Tables from the catalogue: every system of a section once, links relative to the page, every bottleneck in words."""

import re

import pytest
from edgeinfer.evidence.catalogue import SECTIONS, load_catalogue
from edgeinfer.figures.section_tables import BOTTLENECKS, BottleneckTable, SectionTables

ENTRIES = load_catalogue()


@pytest.mark.parametrize("section", SECTIONS)
def test_every_system_of_a_section_stands_there_once(section):
    shown = SectionTables([section], "book/va_kernels")._repr_html_()
    names = re.findall(r'<th scope="row">', shown)
    assert len(names) == sum(section in entry["sections"] for entry in ENTRIES)


def test_links_are_relative_to_the_page():
    shown = SectionTables(["V.C.2"], "book/vc_memory")._repr_html_()
    assert 'href="../va_kernels/lookup_tables.html#sys-t-mac"' in shown
    assert 'href="va_kernels/lookup_tables.html#sys-t-mac"' in BottleneckTable("book")._repr_html_()


def test_every_bottleneck_has_its_words_and_every_taught_system_a_place():
    table = BottleneckTable("book")
    assert set(table.groups) <= set(BOTTLENECKS)
    shown = {entry["id"] for group in table.groups.values() for entry in group}
    assert shown == {entry["id"] for entry in ENTRIES if entry["status"] == "taught"}
