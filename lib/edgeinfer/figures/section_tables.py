"""The table of systems that opens a part of the book, made from the catalogue."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from html import escape
from pathlib import PurePosixPath
from typing import Any

from edgeinfer.evidence.catalogue import SECTIONS, load_catalogue

COLUMNS = ("System", "Idea", "Eases", "Status")


class SectionTables:
    """One table per section; taught systems come first and are links.

    Args:
        sections: such as ["V.A.1", "V.A.2"].
        folder: folder of the page that shows them, such as "book/va_kernels"; links are relative to it.

    Raises:
        KeyError: when a section does not exist.
    """

    def __init__(self, sections: Sequence[str], folder: str) -> None:
        self.folder = folder
        entries = load_catalogue()
        self.rows = {
            section: sorted(
                (e for e in entries if section in e["sections"]), key=lambda e: (e["status"] != "taught", e["short"])
            )
            for section in sections
        }
        self.titles = {section: SECTIONS[section] for section in sections}

    def _row(self, entry: dict[str, Any]) -> str:
        name = escape(entry["short"])
        if entry["status"] == "taught":
            page = PurePosixPath(os.path.relpath(entry["chapter"]["page"], self.folder)).with_suffix(".html")
            name = f'<a href="{page}#{entry["chapter"]["anchor"]}">{name}</a>'
        first = re.split(r"(?<=[.])\s", " ".join(entry["idea"].split()))[0]
        return (
            f'<tr><th scope="row">{name}</th><td>{escape(first)}</td>'
            f"<td>{escape(', '.join(entry['bottleneck']))}</td><td>{escape(entry['status'])}</td></tr>"
        )

    def _repr_html_(self) -> str:
        head = "".join(f'<th scope="col">{column}</th>' for column in COLUMNS)
        return "".join(
            f'<div style="overflow-x:auto"><table class="table"><caption>{section}: {escape(self.titles[section])} '
            f"({len(rows)} systems)</caption><thead><tr>{head}</tr></thead>"
            f"<tbody>{''.join(map(self._row, rows))}</tbody></table></div>"
            for section, rows in self.rows.items()
        )

    def __str__(self) -> str:
        return "\n".join(f"{s}: {', '.join(e['short'] for e in rows)}" for s, rows in self.rows.items())
