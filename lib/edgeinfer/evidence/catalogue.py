"""The catalogue of systems (`book/systems.yaml`) and the bibliography beside it, read and checked.

Knows the fields an entry must have, not what the systems do. The files belong to the book, so they are found in a
checkout; an installed library without the book gets one clear sentence.
"""

from __future__ import annotations

import os
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

from edgeinfer.evidence.protocol import SYSTEM_ID

SECTIONS: dict[str, str] = {
    "V.A.1": "Quantization and custom kernels",
    "V.A.2": "Sparse storage and computation",
    "V.B.1": "Operator fusion",
    "V.B.2": "Reuse and sharing of graphs",
    "V.B.3": "Automatic graph generation",
    "V.C.1": "Memory reuse",
    "V.C.2": "Data locality and access patterns",
    "V.C.3": "Storage hierarchy and offloading",
    "V.D.1": "Double buffering",
    "V.D.2": "Balancing work over cores",
    "V.E.1": "Heterogeneous platforms",
    "V.E.2": "Heterogeneous computing",
    "V.F.3.1": "Separate model deployment",
    "V.F.3.2": "Partitioned model deployment",
}
KINDS = ("system", "algorithm", "hardware", "survey", "specification", "vendor")
BOTTLENECKS = ("compute", "bandwidth", "capacity", "latency", "energy", "network")
STATUSES = ("planned", "taught")
LINK_KINDS = ("arxiv", "doi", "page", "code")
REQUIRED = (
    "id", "title", "short", "year", "citation", "sections", "kind", "bottleneck", "hardware", "status",
    "idea", "claim", "chapter", "lab", "links",
)  # fmt: skip
OPTIONAL = ("hidden_traps", "note")
CLAIM_FIELDS = {"text", "value", "unit", "hardware", "verified", "source"}
UNVERIFIED = "authors not verified"


class CatalogueError(ValueError):
    """The catalogue cannot be found or read; the message says where it was looked for and what to do."""


def book_folder() -> Path:
    """Folder `book/` of the checkout: EDGEINFER_BOOK, else beside `lib/`, else at or above the working directory.

    Raises:
        CatalogueError: when no folder holds `systems.yaml`.
    """
    candidates = [Path(os.environ["EDGEINFER_BOOK"])] if "EDGEINFER_BOOK" in os.environ else []
    candidates.append(Path(__file__).resolve().parents[3] / "book")
    candidates += [folder / "book" for folder in (Path.cwd(), *Path.cwd().parents)]
    for folder in candidates:
        if (folder / "systems.yaml").is_file():
            return folder
    raise CatalogueError(
        "book/systems.yaml was not found: the catalogue is part of the book, not of the installed library; "
        "run inside a checkout or set EDGEINFER_BOOK to its book folder"
    )


def load_catalogue(path: Path | None = None) -> list[dict[str, Any]]:
    """Read the catalogue.

    Args:
        path: a `systems.yaml`; by default the book's own.

    Returns:
        The entries in the file's order, as plain dictionaries.

    Raises:
        CatalogueError: when the file is missing or is not a YAML list.
    """
    import yaml

    path = path or book_folder() / "systems.yaml"
    # The C loader is some ten times as fast and just as safe; it is missing where PyYAML was built without libyaml.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        entries = yaml.load(path.read_text(encoding="utf-8"), loader)
    except FileNotFoundError as error:
        raise CatalogueError(f"no catalogue at {path.name}; expected a YAML list of systems there") from error
    except yaml.YAMLError as error:
        raise CatalogueError(f"{path.name} is not valid YAML: {error}") from error
    if not isinstance(entries, list):
        raise CatalogueError(f"{path.name} holds a {type(entries).__name__}; expected a list of systems")
    return entries


@lru_cache(maxsize=1)
def _short_names() -> dict[str, str]:
    return {entry["id"]: entry["short"] for entry in load_catalogue()}


def short_names() -> dict[str, str]:
    """Id -> name used in the field; empty where the book is not at hand (the id is then shown instead)."""
    try:
        return dict(_short_names())
    except CatalogueError:
        return {}


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _list_problem(value: object, allowed: tuple[str, ...], what: str) -> str | None:
    if not isinstance(value, list) or not value:
        return f"{what} must be a non-empty list, got {value!r}"
    unknown = [item for item in value if item not in allowed]
    if unknown:
        return f"{what} has {', '.join(map(repr, unknown))}; choose from {', '.join(allowed)}"
    return f"{what} names something twice: {value}" if len(set(value)) != len(value) else None


def _claim_problems(claim: object) -> list[str]:
    if not isinstance(claim, dict) or set(claim) != CLAIM_FIELDS:
        return [f"claim must have exactly the fields {', '.join(sorted(CLAIM_FIELDS))}"]
    found = []
    if not isinstance(claim["verified"], bool):
        found.append(f"claim.verified must be true or false, got {claim['verified']!r}")
    if claim["value"] is not None and (isinstance(claim["value"], bool) or not isinstance(claim["value"], int | float)):
        found.append(f"claim.value must be a number or null, got {claim['value']!r}")
    if claim["value"] is not None and not _is_text(claim["unit"]):
        found.append("claim.value stands without a unit ('x' for a ratio)")
    if claim["value"] is not None and claim["verified"] is not True:
        found.append("claim.value is a figure that was not verified; read it in the paper or set it to null")
    if claim["verified"] and not (_is_text(claim["source"]) and _is_text(claim["text"])):
        found.append("claim.verified is true but claim.text or claim.source (where the figure was read) is missing")
    return found


def entry_problems(entry: object) -> list[str]:
    """What is wrong with one entry, one sentence each; empty when it is in order."""
    if not isinstance(entry, dict):
        return [f"an entry must be a mapping, got {type(entry).__name__}"]
    found = [f"field `{name}` is missing" for name in REQUIRED if name not in entry]
    found += [f"unknown field `{name}`" for name in entry if name not in REQUIRED + OPTIONAL]
    if found:
        return found
    if not (isinstance(entry["id"], str) and SYSTEM_ID.match(entry["id"])):
        found.append(f"id {entry['id']!r} is not kebab-case")
    found += [
        f"`{k}` must be a non-empty text" for k in ("title", "short", "citation", "idea") if not _is_text(entry[k])
    ]
    if isinstance(entry["year"], bool) or not isinstance(entry["year"], int) or not 1990 <= entry["year"] <= 2100:
        found.append(f"year must be a whole number, got {entry['year']!r}")
    for value, allowed, what in (
        (entry["sections"], tuple(SECTIONS), "sections"),
        (entry["bottleneck"], BOTTLENECKS, "bottleneck"),
        ([entry["kind"]], KINDS, "kind"),
        ([entry["status"]], STATUSES, "status"),
    ):
        problem = _list_problem(value, allowed, what)
        found += [problem] if problem else []
    found += _claim_problems(entry["claim"])
    links = entry["links"]
    if not isinstance(links, list) or not links:
        found.append("links must name at least one place where the work can be read")
    else:
        found += [
            f"link {link!r} must be {{kind: {'|'.join(LINK_KINDS)}, url: https://...}}"
            for link in links
            if not isinstance(link, dict)
            or link.get("kind") not in LINK_KINDS
            or not str(link.get("url", "")).startswith("https://")
        ]
    if entry["status"] == "taught":
        chapter = entry["chapter"]
        if not isinstance(chapter, dict) or set(chapter) != {"page", "anchor"}:
            found.append("a taught system needs chapter: {page: book/..., anchor: sys-...}")
        if not _is_text(entry["lab"]):
            found.append("a taught system needs a lab (solutions/labNN_....py)")
        if not entry.get("hidden_traps"):
            found.append("a taught system needs hidden_traps (what a hasty implementation gets wrong)")
    return found


def catalogue_problems(entries: list[Any]) -> list[str]:
    """Problems of the whole catalogue, each opening with the entry's id (or its place when it has none)."""
    found, seen = [], set()
    for place, entry in enumerate(entries, start=1):
        name = entry.get("id", f"entry {place}") if isinstance(entry, dict) else f"entry {place}"
        found += [f"{name}: {problem}" for problem in entry_problems(entry)]
        if name in seen:
            found.append(f"{name}: the id stands twice; give each system one entry with several sections")
        seen.add(name)
    return found


def load_bibliography(path: Path | None = None) -> dict[str, dict[str, str]]:
    """Read `references.bib` far enough for checks: key -> fields (lower-case names, outer braces removed).

    Args:
        path: a BibTeX file; by default the book's own.

    Raises:
        CatalogueError: when a key stands twice or braces do not balance.
    """
    path = path or book_folder() / "references.bib"
    text = path.read_text(encoding="utf-8")
    entries: dict[str, dict[str, str]] = {}
    for match in re.finditer(r"^@(\w+)\s*\{\s*([^,\s]+)\s*,", text, re.MULTILINE):
        kind, key = match.group(1).lower(), match.group(2)
        depth, end = 1, match.end()
        while depth and end < len(text):
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            end += 1
        if depth:
            raise CatalogueError(f"{path.name}: braces of {key!r} do not balance")
        if key in entries:
            raise CatalogueError(f"{path.name}: key {key!r} stands twice")
        fields = {"entrytype": kind}
        for name, value in re.findall(
            r"(\w+)\s*=\s*\{((?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)\}", text[match.end() : end]
        ):
            fields[name.lower()] = " ".join(value.split())
        entries[key] = fields
    return entries
