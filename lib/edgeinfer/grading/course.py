"""What an instructor wants to know of the labs, read from the notebooks that students get: times, objectives, rubrics.

Nothing is typed twice: a lab says it once, in its own text. It does not know the answers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
SCORE = ROOT / "book" / "instructors" / "mutation_score.json"


@dataclass(frozen=True)
class LabFacts:
    """One lab as its notebook describes it.

    Attributes:
        name: such as "lab01_quantization".
        title, time, needs: from its first cell.
        objectives: what a student will be able to do.
        questions: the written questions, without their numbers.
        rubric: (points, what for), one for each row of the table below the questions.
    """

    name: str
    title: str
    time: str
    needs: str
    objectives: tuple[str, ...]
    questions: tuple[str, ...]
    rubric: tuple[tuple[int, str], ...]


def _items(text: str, mark: str) -> tuple[str, ...]:
    """Items of a Markdown list, continuation lines joined."""
    found: list[str] = []
    for line in text.splitlines():
        if re.match(mark, line):
            found.append(re.sub(mark, "", line).strip())
        elif found and line.startswith("  ") and line.strip():
            found[-1] += " " + line.strip()
        elif found and not line.strip():
            break
    return tuple(found)


def read_lab(notebook: Path) -> LabFacts:
    """Read one lab.

    Raises:
        ValueError: "... has no line **Time** ...": which part of the text is missing.
    """
    cells = [
        "".join(c["source"])
        for c in json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        if c["cell_type"] == "markdown"
    ]
    first = cells[0]
    title = re.search(r"^# (.+)$", first, re.M)
    time = re.search(r"\*\*Time\*\* ([^.]+)\.", first)
    needs = re.search(r"\*\*Needs\*\* (.+?)\.(?:\s+\*\*|\s*$|\s+The )", first, re.S)
    explain = next((c for c in cells if c.startswith("## Explain")), "")
    rubric = tuple((int(p), what.strip()) for p, what in re.findall(r"^\| (\d+) \| (.+) \|$", explain, re.M))
    for part, what in ((title, "title"), (time, "line **Time**"), (needs, "**Needs**"), (rubric, "table of points")):
        if not part:
            raise ValueError(f"{notebook.name} has no {what}; write it as the other labs do")
    assert title and time and needs
    return LabFacts(
        notebook.stem,
        title.group(1),
        " ".join(time.group(1).split()),
        " ".join(needs.group(1).split()),
        _items(first[first.find("able to") :], r"^- "),
        _items(explain, r"^\d+\. "),
        rubric,
    )


def all_labs(folder: Path = ROOT / "labs") -> list[LabFacts]:
    """Read every lab in `folder`, in their order."""
    return [read_lab(path) for path in sorted(folder.glob("lab*.ipynb"))]


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]], caption: str = "") -> str:
    columns = "".join(f'<th scope="col">{h}</th>' for h in head)
    body = "".join(
        f'<tr><th scope="row">{row[0]}</th>{"".join(f"<td>{cell}</td>" for cell in row[1:])}</tr>' for row in rows
    )
    top = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f'<table class="table">{top}<thead><tr>{columns}</tr></thead><tbody>{body}</tbody></table>'


class _Html:
    def __init__(self, html: str) -> None:
        self.html = html

    def _repr_html_(self) -> str:
        return self.html

    def __str__(self) -> str:
        return re.sub(r"<[^>]+>", " ", self.html)


def _text(markdown: str) -> str:
    """Inline Markdown to HTML: emphasis and code only."""
    html = escape(markdown)
    html = re.sub(r"`([^`]+)`", r"<code>\1</code>", html)
    return re.sub(r"\*([^*]+)\*", r"<em>\1</em>", html)


def overview() -> _Html:
    """Table of all labs: time, needs and points for the written part."""
    rows = [
        (
            f'<a href="../../labs/{lab.name}.html">{escape(lab.title)}</a>',
            _text(lab.time),
            _text(lab.needs),
            str(sum(points for points, _ in lab.rubric)),
        )
        for lab in all_labs()
    ]
    return _Html(_table(("Lab", "Time, as the lab states it", "Needs", "Points for the written answer"), rows))


def rubrics() -> _Html:
    """Objectives, questions and points of every lab."""
    parts = []
    for lab in all_labs():
        goals = "".join(f"<li>{_text(goal)}</li>" for goal in lab.objectives)
        asked = "".join(f"<li>{_text(question)}</li>" for question in lab.questions)
        rows = [(str(points), _text(what)) for points, what in lab.rubric]
        parts.append(
            f"<details><summary>{escape(lab.title)}</summary><p>Objectives:</p><ul>{goals}</ul>"
            f"<p>Questions:</p><ol>{asked}</ol>{_table(('Points', 'For'), rows)}</details>"
        )
    return _Html("".join(parts))


def mutation_score(file: Path = SCORE) -> _Html:
    """Table of the last run of all mutation suites (`make mutation-score`); a test holds it in step with them."""
    score: dict[str, dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))
    parts = []
    for lab, exercises in score.items():
        rows = [
            (escape(name), f"{n['rejected']} of {n['wrong']}", str(n["named"]), f"{n['accepted']} of {n['right']}")
            for name, n in exercises.items()
        ]
        head = ("Exercise", "Wrong answers rejected", "of them named", "Right answers accepted")
        wrong, rejected = (sum(n[key] for n in exercises.values()) for key in ("wrong", "rejected"))
        parts.append(
            f"<details><summary>{escape(lab)}: {rejected} of {wrong} wrong answers rejected</summary>"
            f"{_table(head, rows)}</details>"
        )
    return _Html("".join(parts))
