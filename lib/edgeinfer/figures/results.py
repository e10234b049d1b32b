"""The benchmark page: every comparison that `make bench` has written, with the machine that it ran on.

It knows the two JSON formats of `measure` (a comparison, a machine) and finds them wherever a file holds them.
It measures nothing. Without files it says how to make them.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeinfer.figures.charts import number_text
from edgeinfer.measure.comparison import FORMAT as COMPARISON
from edgeinfer.measure.comparison import Comparison, Row

MACHINE = "edgeinfer.machine/1"
TIE = 0.02  # two programs whose speeds differ by less are as fast as each other


@dataclass(frozen=True)
class Section:
    """One piece of the page as HTML, and the same in plain text."""

    html: str
    text: str

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return self.text


def results_folder() -> Path:
    """Returns `benchmarks/results` of the checkout that this library belongs to."""
    return Path(__file__).resolve().parents[3] / "benchmarks" / "results"


def find(value: Any, wanted: str, path: tuple[str, ...] = ()) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields (name, dictionary) of everything inside `value` whose "format" is `wanted`."""
    if isinstance(value, dict):
        if value.get("format") == wanted:
            yield " ".join(path), value
            return
        for key, inside in value.items():
            yield from find(inside, wanted, (*path, str(key)) if key != "comparisons" else path)
    elif isinstance(value, list):
        for number, inside in enumerate(value):
            name = (
                inside.get("title", inside.get("name", str(number + 1)))
                if isinstance(inside, dict)
                else str(number + 1)
            )
            yield from find(inside, wanted, (*path, str(name)))


def benchmark_sections(folder: Path | None = None) -> list[Section]:
    """Returns the sections of the page, one for each file, in the order of their names.

    Args:
        folder: where the JSON files are (default: `benchmarks/results`).

    Raises:
        ValueError: "kernels.json is no JSON file ...; run make bench again".
    """
    files = sorted((folder or results_folder()).glob("*.json"))
    if not files:
        sentence = "No benchmark has been run in this copy yet; make bench measures and writes the results."
        return [Section(f"<p>{html.escape(sentence)}</p>", sentence)]
    return [_section(path) for path in files]


def benchmark_comparison(benchmark: str, title: str, folder: Path | None = None) -> Comparison:
    """Returns one table of the page, so that a chapter can quote it instead of retyping it.

    Args:
        benchmark: name of the file without `.json`, for example "gemv".
        title: how the table's title begins.
        folder: where the JSON files are (default: `benchmarks/results`).

    Raises:
        KeyError: "gemv has no table 'x'; it has ...".
        ValueError: "gemv.json is no JSON file ...; run make bench again".
    """
    found = dict(find(_read((folder or results_folder()) / f"{benchmark}.json"), COMPARISON))
    for name, comparison in found.items():
        if name.startswith(title):
            return Comparison.from_json(json.dumps(comparison))
    raise KeyError(f"{benchmark} has no table {title!r}; it has {', '.join(found)}")


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path.name} is no JSON file ({error}); run make bench again") from error


def _section(path: Path) -> Section:
    raw = _read(path)
    title = str(raw.get("title", path.stem.replace("_", " "))) if isinstance(raw, dict) else path.stem
    parts, words = [f"<h2>{html.escape(title)}</h2>"], [title]
    for _, machine in find(raw, MACHINE):
        line = describe_machine(machine)
        parts.append(f"<p>{html.escape(line)}</p>")
        words.append(line)
        break
    for name, comparison in find(raw, COMPARISON):
        result = Comparison.from_json(json.dumps(comparison))
        head = f"<h3>{html.escape(name.replace('_', ' '))}</h3>" if name else "The times"
        parts.append(
            f'<details class="bench"><summary>{head}<span>{html.escape(in_short(result))}</span></summary>'
            f"{result._repr_html_()}</details>"
        )
        words += [name, result.table()]
    for note in raw.get("notes", []) if isinstance(raw, dict) else []:
        parts.append(f"<p>{html.escape(str(note))}</p>")
        words.append(str(note))
    return Section("\n".join(parts), "\n".join(words))


def in_short(result: Comparison) -> str:
    """Returns the line above a table: the fastest contender by the table's speed-up, and that of the other side."""
    rows = sorted((row for row in result.rows() if row.name != result.baseline), key=lambda row: -row.ratio)
    ours = {row.name: row.name.startswith(("this book", "edgeinfer")) for row in result.rows()}
    first = rows[0].name if rows and rows[0].ratio >= 1 - TIE else result.baseline
    if first == result.baseline:
        told = [f"Fastest: the baseline ({first})."]
    elif _tied(rows[0]):
        told = [f"A tie: {first} is {_equal(result.baseline)}."]
    else:
        told = [f"Fastest: {first}, {number_text(rows[0].ratio)} times as fast as {result.baseline}."]
    other = next((row for row in rows if ours[row.name] != ours[first]), None)
    # Where the baseline is the fastest of the other side, the ratio to it has said so.
    if other is not None and (other.ratio > 1 or ours[result.baseline] == ours[first]):
        whose = "of others" if ours[first] else "of this book"
        name = other.name.removeprefix("this book: ")
        speed = f"{number_text(other.ratio)} times"
        told.append(f"Fastest {whose}: {name}, {_equal('the baseline') if _tied(other) else speed}.")
    return " ".join(told)


def _tied(row: Row) -> bool:
    return abs(row.ratio - 1) <= TIE


def _equal(baseline: str) -> str:
    return f"as fast as {baseline}, within {100 * TIE:.0f}\u00a0%"


def describe_machine(machine: dict[str, Any]) -> str:
    """Returns one sentence about the machine from what its description holds; unknown parts are left out."""
    known = [str(machine[key]) for key in ("processor", "architecture") if machine.get(key)][:1]
    if machine.get("cores_usable"):
        known.append(f"{machine['cores_usable']} usable cores")
    if machine.get("vector_extensions"):
        known.append(f"{machine['vector_extensions'][-1]}")
    return "Measured on: " + (", ".join(known) or "a machine that could not describe itself") + "."
