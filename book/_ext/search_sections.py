"""Writes what the search page searches: every section with its words, every system of the catalogue, every term.

Sphinx's own index knows pages, not sections, and which words a page holds, not how often; it asks the server for every
page that it shows. This one is one script that also works from a folder. The searching is MiniSearch's (search.js).
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from docutils import nodes

FOLDER = "search_sections"
TARGET = "search_sections.js"
# What a newcomer would not look for, or what would fill an excerpt with signs.
SKIPPED = (nodes.raw, nodes.math_block, nodes.literal_block, nodes.comment, nodes.title, nodes.citation)
SKIPPED_CLASSES = {"cell_output", "glossary"}  # the terms have entries of their own


def words_of(node: nodes.Node) -> Iterator[str]:
    """Yield the texts of a node, without code, outputs and the sections inside it."""
    if isinstance(node, (*SKIPPED, nodes.section)):
        return
    if isinstance(node, nodes.Text):
        yield str(node)
        return
    if isinstance(node, nodes.math):
        yield f" {node.astext()} "
        return
    if isinstance(node, nodes.Element) and SKIPPED_CLASSES & set(node["classes"]):
        return
    for child in node.children:
        yield from words_of(child)
    if not isinstance(node, nodes.Inline):
        yield " "


def plain_math(text: str) -> str:
    """Return text in which formulas lost the signs of TeX."""
    return " ".join(re.sub(r"\\[a-zA-Z]+|[\\${}^_]", " ", text).split()) if "\\" in text else " ".join(text.split())


def names_in_code(section: nodes.section) -> str:
    """Return the names that the code of a section uses, each once."""
    found: dict[str, None] = {}
    for child in section.children:
        if not isinstance(child, nodes.section):
            for block in child.findall(nodes.literal_block):
                found.update(dict.fromkeys(re.findall(r"[A-Za-z_]{4,}", block.astext())))
    return " ".join(found)


def sections_of(doctree: nodes.document, page: str) -> list[dict[str, str]]:
    """Return the sections of a page: address, page title, section title, words, names in code."""
    found: list[dict[str, str]] = []
    for section in doctree.findall(nodes.section):
        title = next(iter(section.findall(nodes.title)), None)
        if title is None or not section["ids"]:
            continue
        first = not found
        found.append(
            {
                "url": f"{page}.html" + ("" if first else f"#{section['ids'][0]}"),
                "page": found[0]["title"] if found else "",
                "title": " ".join(title.astext().split()),
                "text": plain_math("".join(text for child in section.children for text in words_of(child))),
                "code": names_in_code(section),
            }
        )
    return found


def keep(app: Any, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None) -> None:
    """When a page is written: keep its sections beside its doctree, so that an incremental build has those of all."""
    if doctree is None or app.builder.name != "html":
        return
    path = Path(app.doctreedir) / FOLDER / f"{page}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(sections_of(doctree, page), ensure_ascii=False), encoding="utf-8")


def systems_of(catalogue: Path) -> Iterator[dict[str, str]]:
    """Yield an entry for every system: a taught one leads to its chapter, a planned one to the Atlas."""
    for entry in yaml.safe_load(catalogue.read_text(encoding="utf-8")):
        taught = entry["status"] == "taught"
        page = entry["chapter"]["page"].removesuffix(".md") if taught else "book/atlas"
        anchor = entry["chapter"]["anchor"] if taught else f"atlas-{entry['id']}"
        eases = ", ".join(entry["bottleneck"])
        claim = (entry.get("claim") or {}).get("text") or ""
        yield {
            "kind": "System",
            "url": f"{page}.html#{anchor}",
            "page": f"{entry['title']}" if entry["title"] != entry["short"] else "",
            "title": entry["short"],
            "text": " ".join(f"{entry['idea']} {claim} Eases: {eases}. Hardware: {entry['hardware']}.".split())
            + ("" if taught else " Planned: in the Atlas, not taught yet."),
            "atlas": f"book/atlas.html#atlas-{entry['id']}" if taught else "",
        }


def terms_of(env: Any) -> Iterator[dict[str, str]]:
    """Yield an entry for every term that the glossary extension knows."""
    for found in getattr(env, "glossary_terms", {}).values():
        for name, entry in found.items():
            if entry.anchor:
                url = f"{entry.page}.html#{entry.anchor}"
                yield {
                    "kind": "Word",
                    "url": url,
                    "page": ", ".join(entry.forms),
                    "title": name,
                    "text": entry.definition,
                }


def kind_of(page: str) -> str:
    return "Lab" if page.startswith("labs/") else "Page"


def write(app: Any, error: Exception | None) -> None:
    """After the build: write the script with all entries."""
    if error is not None or app.builder.name != "html":
        return
    entries = [*systems_of(Path(app.srcdir) / app.config.search_systems)] if app.config.search_systems else []
    entries += terms_of(app.env)
    for page in sorted(app.env.found_docs):
        path = Path(app.doctreedir) / FOLDER / f"{page}.json"
        if path.is_file():
            sections = json.loads(path.read_text(encoding="utf-8"))
            entries += [{"kind": kind_of(page), **section} for section in sections]
    body = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).replace("</", "<\\/")
    (Path(app.outdir) / TARGET).write_text(f"window.BOOK_SECTIONS={body};\n", encoding="utf-8")


def setup(app: Any) -> dict[str, Any]:
    app.add_config_value("search_systems", "", "html", str)
    app.connect("html-page-context", keep)
    app.connect("build-finished", write)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
