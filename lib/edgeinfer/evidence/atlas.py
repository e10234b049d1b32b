"""The Atlas: every system of the catalogue on one page, with what was found for it.

Reads the catalogue, the bibliography and the evidence; knows nothing else of the systems. The page works without a
script (everything is visible); a small inline script adds search and filters.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from typing import Any

from edgeinfer.evidence.catalogue import (
    BOTTLENECKS,
    KINDS,
    SECTIONS,
    STATUSES,
    UNVERIFIED,
    book_folder,
    load_bibliography,
    load_catalogue,
)
from edgeinfer.evidence.protocol import METHODS, Evidence, all_ids, format_value, function_of, no_break, recall

LETTERS = {
    "{\\~a}": "ã", '{\\"u}': "ü", "{\\'a}": "á", "{\\'o}": "ó", "{\\'e}": "é", "{\\L}": "Ł", "\\&": "&",
}  # fmt: skip
MACHINES = {  # words of an entry's `hardware` -> what a reader looks for
    "gpu": ("GPU", r"GPU"),
    "cpu": ("processor (CPU)", r"CPU|laptop"),
    "npu": ("neural unit (NPU)", r"NPU"),
    "phone": ("phone", r"phone|mobile"),
    "fpga": ("FPGA", r"FPGA"),
    "chip": ("chip of its own", r"ASIC|accelerator|resistive"),
    "pim": ("computing in or near memory", r"PIM|PNM|in memory|in-memory|near-|memory modules"),
    "cxl": ("CXL", r"CXL"),
    "flash": ("flash or SSD", r"flash|SSD|NVMe"),
    "network": ("several machines", r"cloud|edge|end device|devices|servers|cluster|terminals|nodes"),
    "any": ("any", r"^any$"),
}
BADGES = {True: ("holds", "holds"), False: ("fails", "not at this scale"), None: ("open", "not tested here")}


def run_all(system_ids: Iterable[str] | None = None) -> dict[str, Evidence]:
    """Evidence of the given systems (default: all that have some), recalled where it is known; id -> evidence."""
    return {system_id: recall(system_id) for system_id in (all_ids() if system_ids is None else system_ids)}


def machines(hardware: str) -> list[str]:
    """The keys of `MACHINES` that an entry's hardware names."""
    return [key for key, (_, words) in MACHINES.items() if re.search(words, hardware)]


def plain(text: str) -> str:
    """BibTeX markup to Unicode, as far as this bibliography uses it."""
    for mark, letter in LETTERS.items():
        text = text.replace(mark, letter)
    return text.replace("{", "").replace("}", "")


def citation_text(fields: Mapping[str, str]) -> str:
    """Short form of a citation: `Wei et al. 2025`; the organisation's name where one stands as the author."""
    raw = fields.get("author", "")
    names = [name.strip() for name in raw.split(" and ")]
    first = plain(names[0]) if raw.startswith("{") else plain(names[0].split(",")[0])
    if len(names) == 2 and names[1] != "others":
        first += f" and {plain(names[1].split(',')[0])}"
    elif len(names) > 1:
        first += " et al."
    return f"{first} {fields.get('year', '')}".strip()


def _repository() -> str:
    """Address of the source on the web, from the book's settings; empty where there are none."""
    import yaml

    settings = book_folder().parent / "_config.yml"
    if not settings.is_file():
        return ""
    repository = (yaml.safe_load(settings.read_text(encoding="utf-8")) or {}).get("repository", {})
    url = str(repository.get("url", "")).rstrip("/")
    return f"{url}/blob/{repository.get('branch', 'main')}" if url else ""


def _link(url: str, text: str, label: str = "") -> str:
    aria = f' aria-label="{escape(label, quote=True)}"' if label else ""
    return f'<a href="{escape(url, quote=True)}"{aria}>{escape(text)}</a>'


class Atlas:
    """The Atlas page as an object: HTML in a notebook, `summary()` for prose, `not_reproduced()` for its own section.

    Args:
        entries: the catalogue.
        evidence: id -> evidence for the systems that have some.
        bibliography: key -> fields.
        repository: address under which `labs/...` and `lib/...` are found on the web; empty leaves those links out.
    """

    def __init__(
        self,
        entries: list[dict[str, Any]],
        evidence: Mapping[str, Evidence],
        bibliography: Mapping[str, Mapping[str, str]],
        repository: str = "",
    ) -> None:
        order = list(SECTIONS)
        # By section; within one, what can be read already stands first.
        self.entries = sorted(
            entries, key=lambda e: (min(order.index(section) for section in e["sections"]), e["status"] != "taught")
        )
        self.evidence = dict(evidence)
        self.bibliography = bibliography
        self.repository = repository

    def summary(self) -> dict[str, int]:
        """Counts for the page: systems, taught, claims and author lists checked, verdicts, findings by method."""
        cited = [self.bibliography.get(entry["citation"], {}) for entry in self.entries]
        checked = [fields for fields in cited if fields and UNVERIFIED not in fields.get("note", "")]
        found = list(self.evidence.values())
        counts = {
            "systems": len(self.entries),
            "taught": sum(entry["status"] == "taught" for entry in self.entries),
            "claims_verified": sum(bool(entry["claim"]["verified"]) for entry in self.entries),
            "authors_verified": len(checked),
            "authors_shortened": sum(fields.get("author", "").endswith(" and others") for fields in checked),
            "evidence": len(found),
            "hold": sum(e.holds is True for e in found),
            "fail": sum(e.holds is False for e in found),
            "untested": sum(e.holds is None for e in found),
        }
        return counts | {method: sum(r.method == method for e in found for r in e.results) for method in METHODS}

    def _verdict(self, entry: dict[str, Any]) -> str:
        found = self.evidence.get(entry["id"])
        return "" if found is None else BADGES[found.holds][0]

    def _badges(self, entry: dict[str, Any]) -> str:
        found = self.evidence.get(entry["id"])
        if found is None:
            return f'<span class="ev-badge at-{entry["status"]}">{entry["status"]}</span>'
        css, words = BADGES[found.holds]
        marks = [f'<span class="ev-badge ev-{css}">{words}</span>']
        marks += [f'<span class="ev-badge ev-{method}">{method}</span>' for method in found.methods]
        return " ".join(marks)

    def _links(self, entry: dict[str, Any]) -> str:
        name, links = entry["short"], []
        if entry["chapter"] and (book_folder().parent / entry["chapter"]["page"]).is_file():
            page = Path(entry["chapter"]["page"]).relative_to("book").with_suffix(".html").as_posix()
            links.append(_link(f"{page}#{entry['chapter']['anchor']}", "chapter", f"Chapter on {name}"))
        if entry["lab"] and self.repository:
            lab = f"labs/{Path(entry['lab']).stem}.ipynb"
            links.append(_link(f"{self.repository}/{lab}", "lab", f"Lab with {name}"))
        if entry["id"] in self.evidence and self.repository and entry["id"] in all_ids():
            module = inspect.getmodule(function_of(entry["id"]))
            if module is not None:
                path = "lib/" + module.__name__.replace(".", "/") + ".py"
                links.append(_link(f"{self.repository}/{path}", "evidence code", f"Evidence code of {name}"))
        fields = self.bibliography.get(entry["citation"], {})
        text = citation_text(fields) or "paper"
        links.append(_link(entry["links"][0]["url"], text, f"{text}: paper of {name}"))
        return " · ".join(links)

    def _claim(self, entry: dict[str, Any]) -> str:
        claim, found = entry["claim"], self.evidence.get(entry["id"])
        parts = []
        if claim["text"] and claim["verified"]:
            parts.append(
                f"<p><b>Claim.</b> {escape(no_break(claim['text']))} <small>({escape(claim['source'])})</small></p>"
            )
        if found is not None:
            items = "; ".join(f"{escape(r.name)}: {escape(format_value(r.value, r.unit))}" for r in found.results)
            reason = f" {escape(no_break(found.reason))}" if found.reason else ""
            parts.append(f"<p><b>Found here.</b> {items or 'Nothing.'}{reason}</p>")
        if entry.get("note"):
            parts.append(f"<p><small>{escape(entry['note'])}</small></p>")
        return "".join(parts)

    def _row(self, entry: dict[str, Any]) -> str:
        # The lists are matched as whole words by the script, so they carry no commas.
        data = {
            "section": " ".join(entry["sections"]),
            "kind": entry["kind"],
            "status": entry["status"],
            "bottleneck": " ".join(entry["bottleneck"]),
            "year": str(entry["year"]),
            "machine": " ".join(machines(entry["hardware"])),
            "verdict": self._verdict(entry),
        }
        attributes = " ".join(f'data-{key}="{escape(value, quote=True)}"' for key, value in data.items())
        more = self._claim(entry)
        claimed = bool(entry["claim"]["text"] and entry["claim"]["verified"])
        words = "Claim and finding" if entry["id"] in self.evidence else "Claim" if claimed else "Note"
        details = f"<details><summary>{words}</summary>{more}</details>" if more else ""
        return (
            f'<tr role="row" id="atlas-{entry["id"]}" {attributes}>'
            f'<th role="rowheader" scope="row"><b>{escape(entry["short"])}</b>'
            f'<span class="at-title">{escape(entry["title"])}</span></th>'
            f'<td role="cell" data-label="Idea">{escape(entry["idea"])}{details}</td>'
            f'<td role="cell" data-label="Section">{escape(", ".join(entry["sections"]))}</td>'
            f'<td role="cell" data-label="Kind">{entry["kind"]}'
            f'<small class="at-hw">{escape(entry["hardware"])}</small></td>'
            f'<td role="cell" data-label="Eases">{escape(", ".join(entry["bottleneck"]))}</td>'
            f'<td role="cell" data-label="Year">{entry["year"]}</td>'
            f'<td role="cell" data-label="Here">{self._badges(entry)}</td>'
            f'<td role="cell" data-label="Links">{self._links(entry)}</td></tr>'
        )

    def _filters(self) -> str:
        years = sorted({entry["year"] for entry in self.entries}, reverse=True)
        present = {key for entry in self.entries for key in machines(entry["hardware"])}
        verdicts = {self._verdict(entry) for entry in self.entries}
        choices: list[tuple[str, str, list[tuple[str, str]]]] = [
            ("section", "Section", [(key, f"{key} {title}") for key, title in SECTIONS.items()]),
            ("kind", "Kind", [(kind, kind) for kind in KINDS]),
            ("status", "Status", [(status, status) for status in STATUSES]),
            ("bottleneck", "Eases", [(name, name) for name in BOTTLENECKS]),
            ("machine", "Hardware", [(key, label) for key, (label, _) in MACHINES.items() if key in present]),
            ("verdict", "Found here", [badge for badge in BADGES.values() if badge[0] in verdicts]),
            ("year", "Year", [(str(year), str(year)) for year in years]),
        ]
        fields = [
            '<label>Search <input type="search" name="text" autocomplete="off" '
            'placeholder="name, idea, hardware"></label>'
        ]
        for name, label, options in choices:
            items = "".join(f'<option value="{value}">{escape(text)}</option>' for value, text in options)
            fields.append(f'<label>{label} <select name="{name}"><option value="">all</option>{items}</select></label>')
        return (
            '<form class="at-filters" hidden role="search" aria-label="Filter the Atlas">'
            + "".join(fields)
            + '<button type="reset">Show all</button>'
            + f'<output aria-live="polite">All {len(self.entries)} systems</output>'
            # Shown as soon as it is read: were it shown by the script at the end, the table would jump.
            + "</form><script>document.currentScript.previousElementSibling.hidden = false</script>"
        )

    def _repr_html_(self) -> str:
        columns = ("System", "Idea", "Section", "Kind", "Eases", "Year", "Here", "Links")
        head = "".join(f'<th role="columnheader" scope="col">{column}</th>' for column in columns)
        rows = "".join(self._row(entry) for entry in self.entries)
        return (
            f'<div class="atlas">{CSS}{self._filters()}<table class="at-table" role="table">'
            f"<caption>{len(self.entries)} systems, in the order of the book's sections</caption>"
            f'<thead role="rowgroup"><tr role="row">{head}</tr></thead>'
            f'<tbody role="rowgroup">{rows}</tbody></table>{SCRIPT}</div>'
        )

    def not_reproduced(self) -> NotReproduced:
        """The claims that did not hold here or could not be tested, with the reasons."""
        names = {entry["id"]: entry["short"] for entry in self.entries}
        return NotReproduced([(names.get(i, i), e) for i, e in sorted(self.evidence.items()) if e.holds is not True])


def _sentence(text: str) -> str:
    """Begins with a capital and ends with a full stop, as a sentence of its own does."""
    text = no_break(text.strip())
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


class NotReproduced:
    """List of claims that did not reproduce, each with the verdict and the reason."""

    def __init__(self, rows: list[tuple[str, Evidence]]) -> None:
        self.rows = rows

    def markdown(self) -> str:
        """The list as Markdown; one sentence when there is nothing to list."""
        if not self.rows:
            return "Every claim that this book has put to the test so far held in its shape."
        return "\n".join(f"- **{name}** ({e.verdict}). {e.claim.text} — {e.reason}" for name, e in self.rows)

    def _repr_html_(self) -> str:
        if not self.rows:
            return f"<p>{self.markdown()}</p>"
        items = "".join(
            f'<li><b>{escape(name)}</b> <span class="ev-badge ev-{BADGES[e.holds][0]}">{e.verdict}</span>'
            f"<p><b>The paper:</b> {escape(_sentence(e.claim.text))}</p>"
            f"<p><b>Here:</b> {escape(_sentence(e.reason))}</p></li>"
            for name, e in self.rows
        )
        return f'<ul class="found-differently">{items}</ul>'


def build_atlas(evidence: Mapping[str, Evidence] | None = None) -> Atlas:
    """Atlas of the book at hand, with all evidence unless some is given.

    Args:
        evidence: id -> evidence; None recalls or runs every registered one (see `protocol.recall`).
    """
    found = run_all() if evidence is None else evidence
    return Atlas(load_catalogue(), found, load_bibliography(), _repository())


# Colours come from the theme (light and dark). Where the text column is narrow every row is a card; roles keep the
# table a table for screen readers although its display changes. Print shows everything.
CSS = """<style>
.atlas{font-size:.88rem;container-type:inline-size}
.at-filters{display:flex;flex-wrap:wrap;gap:.5rem 1rem;align-items:end;margin:0 0 1rem}
.at-filters[hidden]{display:none}
.at-filters label{display:flex;flex-direction:column;font-weight:600;font-size:.85em}
.at-filters input,.at-filters select,.at-filters button{font:inherit;padding:.3em .5em;height:2.4em;max-width:16em;
color:inherit;background:transparent;border:1px solid #8889;border-radius:.3em}
.at-filters option{color:#111;background:#fff}
.at-filters output{font-weight:600;flex-basis:100%}
.at-table{width:100%;border-collapse:collapse;table-layout:auto}
.at-table caption{caption-side:top;text-align:left;font-weight:600}
.at-table th,.at-table td{text-align:left!important;vertical-align:top;padding:.45em .5em;border-bottom:1px solid #8886;
white-space:normal;max-width:none}
.at-table tr[hidden]{display:none!important}
.at-title{display:block;font-weight:400;font-size:.88em;opacity:.85;max-width:15em}
.at-hw{display:block;opacity:.85}
@container (min-width:861px){.at-table td:nth-child(2){min-width:17em}}
.at-table details{margin-top:.3em}.at-table details p{margin:.3em 0}
.atlas .ev-badge{display:inline-block;padding:0 .5em;margin:.1em 0;border:1px solid currentColor;border-radius:.8em;
font-size:.85em;white-space:nowrap}
.atlas .ev-holds{font-weight:700}.atlas .ev-fails{font-weight:700;border-style:dashed}
.atlas .ev-open,.atlas .at-planned{border-style:dotted}
@container (max-width:860px){.at-table thead{position:absolute;left:-9999px}
.at-table,.at-table tbody,.at-table th,.at-table td,.at-table caption{display:block;width:auto}
.at-table tr{display:flex;flex-wrap:wrap;gap:0 .9em;border:1px solid #8888;border-radius:.5em;
margin:.7em 0;padding:.4em}
.at-table th,.at-table td{border:0;padding:.2em .3em}
.at-table th,.at-table td:nth-child(2),.at-table td:last-child{flex:1 0 100%}
.at-title{max-width:none}.at-hw{display:inline}.at-hw::before{content:", "}
.at-table td:not(:nth-child(2))::before{content:attr(data-label) ": ";font-weight:600}}
@container (max-width:600px){.at-filters label{flex:1 1 45%}
.at-filters input,.at-filters select{width:100%;max-width:none}}
@media print{.at-filters{display:none}.at-table tr[hidden]{display:table-row!important}}
</style>"""

SCRIPT = """<script>
(() => {
  const box = document.currentScript.parentElement;
  const form = box.querySelector("form"), say = form.querySelector("output");
  const rows = [...box.querySelectorAll("tbody tr")].map(row => [row, row.textContent.toLowerCase()]);
  const fields = [...form.querySelectorAll("select")];
  const apply = () => {
    const words = form.elements.text.value.toLowerCase().split(/\\s+/).filter(Boolean);
    let shown = 0;
    for (const [row, text] of rows) {
      const keep = fields.every(f => !f.value || row.dataset[f.name].split(" ").includes(f.value))
        && words.every(word => text.includes(word));
      row.hidden = !keep;
      shown += keep;
    }
    say.textContent = shown === rows.length ? `All ${shown} systems` : `${shown} of ${rows.length} systems`;
  };
  for (const [key, value] of new URLSearchParams(location.hash.slice(1)))
    if (form.elements[key]) form.elements[key].value = value;
  form.addEventListener("input", apply);
  form.addEventListener("reset", () => setTimeout(apply));
  form.addEventListener("submit", event => event.preventDefault());
  form.hidden = false;
  apply();
})();
</script>"""
