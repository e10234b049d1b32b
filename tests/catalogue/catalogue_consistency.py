"""What must agree between the catalogue, the bibliography, the pages, the labs and the evidence, as one function.

`problems` takes the root of a tree, so the tests can point it at the repository and at a damaged copy alike. Every
sentence opens with the entry (or file) at fault.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from edgeinfer.evidence.catalogue import catalogue_problems, load_bibliography, load_catalogue

SYSTEMS = 103
CITE = re.compile(r"\{(?:foot)?cite(?::\w+)?\}`([^`]+)`")
ANCHOR = re.compile(r"^\((sys-[a-z0-9-]+)\)=\s*$", re.MULTILINE)


def _sources(root: Path) -> list[Path]:
    return sorted([*(root / "book").rglob("*.md"), *(root / "solutions").glob("*.py")])


def _name_in(text: str, entry: dict) -> bool:
    names = {entry["id"], entry["short"], entry["short"].split(" (")[0]}
    return any(name.lower() in text.lower() for name in names)


def schema_problems(root: Path) -> list[str]:
    """Fields of every entry, and the number of entries."""
    entries = load_catalogue(root / "book/systems.yaml")
    found = catalogue_problems(entries)
    if len(entries) != SYSTEMS:
        found.append(f"systems.yaml: {len(entries)} entries, the field's list has {SYSTEMS}; see the counting rule")
    return found


def citation_problems(root: Path) -> list[str]:
    """Every entry is cited, every citation used in a page or lab exists."""
    known = load_bibliography(root / "book/references.bib")
    found = [
        f"{entry['id']}: citation {entry['citation']!r} is not in references.bib"
        for entry in load_catalogue(root / "book/systems.yaml")
        if entry["citation"] not in known
    ]
    for path in _sources(root):
        for used in CITE.findall(path.read_text(encoding="utf-8")):
            for key in re.split(r"[,;]\s*", used):
                if key.strip() not in known:
                    found.append(f"{path.relative_to(root)}: cites {key.strip()!r}, which is not in references.bib")
    return found


def chapter_problems(root: Path) -> list[str]:
    """Every taught entry has its label in the page it names; every label of a system has an entry."""
    entries = load_catalogue(root / "book/systems.yaml")
    found = []
    for entry in entries:
        if entry["status"] != "taught":
            continue
        page, anchor = root / entry["chapter"]["page"], entry["chapter"]["anchor"]
        if not page.is_file():
            found.append(f"{entry['id']}: its page {entry['chapter']['page']} does not exist")
        elif anchor not in ANCHOR.findall(page.read_text(encoding="utf-8")):
            found.append(f"{entry['id']}: no label ({anchor})= in {entry['chapter']['page']}")
    anchors = {entry["chapter"]["anchor"] for entry in entries if entry["status"] == "taught"}
    for path in _sources(root):
        for anchor in ANCHOR.findall(path.read_text(encoding="utf-8")):
            if anchor not in anchors:
                found.append(f"{path.relative_to(root)}: label ({anchor})= belongs to no taught entry of systems.yaml")
    return found


def lab_problems(root: Path) -> list[str]:
    """Every taught entry has a lab that speaks of it."""
    found = []
    for entry in load_catalogue(root / "book/systems.yaml"):
        if entry["status"] != "taught":
            continue
        lab = root / entry["lab"]
        if not lab.is_file():
            found.append(f"{entry['id']}: its lab {entry['lab']} does not exist")
        elif not _name_in(lab.read_text(encoding="utf-8"), entry):
            found.append(f"{entry['id']}: no cell of {entry['lab']} mentions {entry['short']!r}")
    return found


def evidence_problems(root: Path, evidence_ids: Iterable[str]) -> list[str]:
    """Taught entries and evidence functions are the same set."""
    status = {entry["id"]: entry["status"] for entry in load_catalogue(root / "book/systems.yaml")}
    have = set(evidence_ids)
    found = [f"{i}: taught, but no evidence function" for i, s in status.items() if s == "taught" and i not in have]
    found += [f"{i}: has an evidence function but no entry in systems.yaml" for i in sorted(have - set(status))]
    found += [
        f"{i}: has an evidence function but is marked planned" for i in sorted(have) if status.get(i) == "planned"
    ]
    return found


def problems(root: Path, evidence_ids: Iterable[str]) -> list[str]:
    """All of the above. The schema comes first: the other checks rely on it."""
    return schema_problems(root) or [
        *citation_problems(root),
        *chapter_problems(root),
        *lab_problems(root),
        *evidence_problems(root, evidence_ids),
    ]
