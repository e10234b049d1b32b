"""Tables of systems made from the catalogue: those of a part of the book, and those that ease a shortage."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from html import escape
from pathlib import PurePosixPath
from typing import Any

from edgeinfer.evidence.catalogue import SECTIONS, load_catalogue

COLUMNS = ("System", "Idea", "Eases", "Status")
# Below 600 px each system is a card, so that nothing has to be scrolled sideways.
STYLE = """<style>
.st-table caption{text-align:left;caption-side:top;font-weight:600}
@media (max-width:600px){.st-table thead{position:absolute;left:-9999px}
.st-table,.st-table :is(caption,tbody,tr,th,td){display:block;border:0;padding:.1em .5em}
.st-table tr{border:1px solid #8886;border-radius:.5em;margin:.5em 0;padding:.3em 0}
.st-table td[data-label]{font-size:.85em}
.st-table td[data-label]::before{content:attr(data-label) ": ";font-weight:600}}
</style>"""


BOTTLENECKS = {
    "bandwidth": "The memory is too slow: each token waits for the weights",
    "capacity": "The memory is too small: the model or its cache does not fit",
    "compute": "The processor is too slow: the prompt takes long",
    "latency": "The answer starts too late, or its tokens come too slowly",
    "energy": "The battery is empty too soon",
    "network": "The link to the next machine is too slow",
}


def link_to(entry: dict[str, Any], folder: str) -> str:
    """Return the HTML link from a page in `folder` to where a taught system stands."""
    page = PurePosixPath(os.path.relpath(entry["chapter"]["page"], folder)).with_suffix(".html")
    return f'<a href="{page}#{entry["chapter"]["anchor"]}">{escape(entry["short"])}</a>'


class BottleneckTable:
    """The taught systems by what they ease, each a link.

    Args:
        folder: folder of the page that shows it; links are relative to it.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.groups: dict[str, list[dict[str, Any]]] = {}
        for entry in sorted(load_catalogue(), key=lambda entry: entry["short"].lower()):
            if entry["status"] == "taught":
                for bottleneck in entry["bottleneck"]:
                    self.groups.setdefault(bottleneck, []).append(entry)

    def _repr_html_(self) -> str:
        rows = "".join(
            f'<tr><th scope="row">{escape(BOTTLENECKS.get(name, name))}</th>'
            f"<td>{', '.join(link_to(entry, self.folder) for entry in group)}</td></tr>"
            for name, group in sorted(self.groups.items(), key=lambda item: -len(item[1]))
        )
        return (
            '<table class="table"><thead><tr><th scope="col">What is short</th><th scope="col">What eases it</th></tr>'
            f"</thead><tbody>{rows}</tbody></table>"
        )

    def __str__(self) -> str:
        return "\n".join(f"{name}: {', '.join(e['short'] for e in group)}" for name, group in self.groups.items())


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
        # Where everything is taught, a column that says so in every row says nothing.
        done = all(entry["status"] == "taught" for rows in self.rows.values() for entry in rows)
        self.columns = COLUMNS[:-1] if done else COLUMNS

    def _row(self, entry: dict[str, Any]) -> str:
        name = escape(entry["short"])
        if entry["status"] == "taught":
            name = link_to(entry, self.folder)
        first = re.split(r"(?<=[.])\s", " ".join(entry["idea"].split()))[0]
        return (
            f'<tr><th scope="row">{name}</th><td>{escape(first)}</td>'
            f'<td data-label="Eases">{escape(", ".join(entry["bottleneck"]))}</td>'
            + (f'<td data-label="Status">{escape(entry["status"])}</td></tr>' if self.columns == COLUMNS else "</tr>")
        )

    def _repr_html_(self) -> str:
        head = "".join(f'<th role="columnheader" scope="col">{column}</th>' for column in self.columns)
        return STYLE + "".join(
            f'<table class="table st-table"><caption>{section}: {escape(self.titles[section])} '
            f"({len(rows)} systems)</caption><thead><tr>{head}</tr></thead>"
            f"<tbody>{''.join(map(self._row, rows))}</tbody></table>"
            for section, rows in self.rows.items()
        )

    def __str__(self) -> str:
        return "\n".join(f"{s}: {', '.join(e['short'] for e in rows)}" for s, rows in self.rows.items())
