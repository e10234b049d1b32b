"""A reader finds the way: chapters end with a summary and further reading, lead on, and are reached from the Atlas."""

import re

import nbformat
import pytest
import yaml

from .site_tools import ROOT

SECTIONS = sorted({p.parent.name for p in (ROOT / "book").glob("*/index.md")} - {"instructors"})
CHAPTERS = [p for name in SECTIONS for p in sorted((ROOT / "book" / name).glob("*.md")) if p.stem != "index"]
LABS = sorted((ROOT / "labs").glob("lab*.ipynb"))


def headings(page) -> list[str]:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)
    return re.findall(r"^## (.+)$", text, flags=re.M)


def label(page) -> str:
    return re.search(r"^\(([\w-]+)\)=$", page.read_text(encoding="utf-8"), flags=re.M).group(1)


def minutes(page) -> int:
    """Returns what a page or a lab says that it takes; "two sittings of 75" are 150."""
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".ipynb":
        text = nbformat.reads(text, as_version=4).cells[0].source
        sittings, each = re.search(r"\*\*Time\*\* (two sittings of )?(\d+) minutes", text).groups()
        return int(each) * (2 if sittings else 1)
    return int(re.search(r"^\*(\d+) minutes", text, flags=re.M).group(1))


@pytest.mark.parametrize("page", CHAPTERS, ids=lambda p: p.stem)
def test_a_chapter_ends_with_a_summary_and_further_reading(page):
    assert headings(page)[-2:] == ["What you should now be able to say", "Further reading"]
    summary, reading = page.read_text(encoding="utf-8").split("## What you should now be able to say")[1].split("\n## ")
    assert len(re.findall(r"^- ", summary, flags=re.M)) >= 3
    # The page on the labs leads to the catalogue instead of to papers.
    assert "{cite:" in reading or "{ref}" in reading


@pytest.mark.parametrize("page", CHAPTERS, ids=lambda p: p.stem)
def test_a_chapter_says_how_long_it_takes_and_what_it_needs(page):
    assert re.search(r"^\*\d+ minutes\. Needs: ", page.read_text(encoding="utf-8"), flags=re.M)


def built(site, page) -> str:
    return (site / page.relative_to(ROOT).with_suffix(".html")).read_text(encoding="utf-8")


@pytest.mark.parametrize("page", [*CHAPTERS, *LABS], ids=lambda p: p.stem)
def test_a_chapter_and_a_lab_lead_to_the_one_before_and_after(site, page):
    area = built(site, page).split('class="prev-next-area"')[1].split("</footer>")[0]
    assert re.search(r'class="left-prev"\s+href="[^"]+"', area) and re.search(
        r'class="right-next"\s+href="[^"]+"', area
    )


def test_every_chapter_on_systems_is_reached_from_the_atlas(site):
    catalogue = yaml.safe_load((ROOT / "book" / "systems.yaml").read_text(encoding="utf-8"))
    taught = [entry["chapter"] for entry in catalogue if entry["status"] == "taught"]
    atlas = (site / "book" / "atlas.html").read_text(encoding="utf-8")
    links = {f"{c['page'].removeprefix('book/').removesuffix('.md')}.html#{c['anchor']}" for c in taught}
    assert {link for link in links if f'href="{link}"' not in atlas} == set()
    pages = {c["page"] for c in taught}
    on_systems = {p.relative_to(ROOT).as_posix() for p in CHAPTERS if p.parent.name != "foundations"}
    assert on_systems - pages == set()


def course() -> list[tuple[str, int]]:
    """Returns every week's row of the course and the minutes that it states."""
    text = (ROOT / "book" / "reading_paths.md").read_text(encoding="utf-8")
    return [(row, int(time)) for row, time in re.findall(r"^\| \d+ \| (.*) \| (\d+) \|$", text, flags=re.M)]


def test_the_course_takes_every_chapter_and_every_lab_once():
    rows = " ".join(row for row, _ in course())
    assert [label(p) for p in CHAPTERS if rows.count(f"{{ref}}`{label(p)}`") != 1] == []
    assert [p.name for p in LABS if rows.count(f"(../labs/{p.name})") != 1] == []


def test_a_week_takes_as_long_as_its_pages_and_its_lab_say():
    wrong = {}
    for row, stated in course():
        pages = sum(minutes(p) for p in CHAPTERS if f"`{label(p)}`" in row)
        labs = [minutes(p) for p in LABS if f"(../labs/{p.name})" in row]  # of two to choose from, the longer one
        if stated != pages + max(labs, default=0):
            wrong[row] = (stated, pages + max(labs, default=0))
    assert wrong == {}


def test_the_landing_page_states_the_minutes_of_the_pages_it_names():
    text = (ROOT / "book" / "intro.md").read_text(encoding="utf-8")
    stated = {row: int(time) for row, time in re.findall(r"^\|[^|]+\|([^|]+)\| (\d+) min \|$", text, flags=re.M)}
    by_label = {label(p): minutes(p) for p in CHAPTERS}
    sums = {row: sum(by_label.get(name, 0) for name in re.findall(r"`([\w-]+)`", row)) for row in stated}
    assert {row: (stated[row], total) for row, total in sums.items() if total and total != stated[row]} == {}


def test_the_landing_page_has_a_figure_and_first_steps_before_its_first_heading():
    first = (ROOT / "book" / "intro.md").read_text(encoding="utf-8").split("\n## ")[0]
    words = re.sub(r"^```.*?^```|^---.*?^---|^:::.*$", "", first, flags=re.S | re.M).split()
    assert "SliderFigure(" in first and "first-steps" in first and len(words) < 160


def test_a_lab_that_a_page_names_as_its_own_is_one_click_away():
    named = {}
    for page in [p for p in (ROOT / "book").glob("v*/*.md")]:
        text = page.read_text(encoding="utf-8")
        lines = re.findall(r"^\*\d+ minutes\..*Goes with .*$|^\| \{ref\}.*Lab \d+.*$", text, flags=re.M)
        named[page.stem] = [line for line in lines if re.search(r"(?<!\[)Lab \d+", line)]
    assert {page: lines for page, lines in named.items() if lines} == {}
