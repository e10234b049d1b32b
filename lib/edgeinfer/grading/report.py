"""Writes what a class gets back: sheets (CSV), one feedback page per student, one page for the instructor.

Everything that comes from a student is text here, never markup, never a formula of a spreadsheet. Judges nothing.
"""

import csv
import hashlib
import html
import io
import re
from collections import Counter
from pathlib import Path
from typing import Any

from edgeinfer.grading.exercise import Lab

STYLE = """
:root{color-scheme:light dark}body{font:16px/1.5 system-ui,sans-serif;max-width:50rem;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.3rem .6rem;border-bottom:1px solid #8886}
section{border-left:4px solid #b45309;padding:.1rem 1rem;margin:1rem 0}section.right{border-color:#1b7f4d}
section.none{border-color:#6b7280}pre{white-space:pre-wrap;overflow-wrap:anywhere}.bar{background:#2563eb;height:.8em;display:inline-block}
"""


def write(out: Path, lab: Lab, written: list[Any], records: list[dict[str, Any]], sandbox: str) -> None:
    """Write every sheet and page of one class.

    Args:
        out: folder of the report.
        lab: its exercises.
        written: written answers (name, points) that a person grades.
        records: one per student.
        sandbox: how the answers were run, in one sentence.
    """
    names = [e.name for e in lab.exercises]
    columns = ["student", "lab", "score", "max", "problem", *names, *(f"{n}_misconception" for n in names)]
    columns += [f"{w.name} (graded by hand, max {w.points:g})" for w in written]
    rows = []
    for r in records:
        x = r["exercises"]
        found = [x[n]["misconception"] or ("" if x[n]["status"] == "right" else x[n]["status"]) for n in names]
        points = [f"{x[n]['points']:g}" for n in names]
        rows.append(
            [
                r["student"],
                lab.name,
                f"{r['score']:g}",
                f"{r['points']:g}",
                r["problem"],
                *points,
                *found,
                *("" for _ in written),
            ]
        )
    put(out / "grades.csv", sheet(columns, rows))
    total = records[0]["points"] if records else 0
    canvas = [[r["student"], "", "", r["student"], "", f"{r['score']:g}"] for r in records]
    first = ["    Points Possible", "", "", "", "", f"{total:g}"]
    put(
        out / "canvas.csv",
        sheet(["Student", "ID", "SIS User ID", "SIS Login ID", "Section", lab.name], [first, *canvas]),
    )
    moodle = [[r["student"], f"{r['score']:g}", f"{total:g}", feedback_line(r)] for r in records]
    put(out / "moodle.csv", sheet(["username", lab.name, "maximum grade", "feedback"], moodle))
    pages = out / "feedback"
    pages.mkdir(exist_ok=True)
    keep = set()
    for r in records:
        file = pages / f"{safe_name(r['student'])}.html"
        keep.add(file.name)
        put(file, feedback(lab, written, r))
    for old in pages.glob("*.html"):
        if old.name not in keep:
            old.unlink()
    put(out / "index.html", overview(lab, records, sandbox))


def put(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8", newline="")
    part.replace(path)


def safe_name(student: str) -> str:
    """A file name for any student's name; different names never share one."""
    plain = re.sub(r"[^A-Za-z0-9_-]", "_", student)[:60]
    return (
        plain if plain == student else f"{plain}-{hashlib.sha256(student.encode('utf-8', 'replace')).hexdigest()[:10]}"
    )


def sheet(columns: list[str], rows: list[list[str]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow([cell(c) for c in columns])
    writer.writerows([[cell(c) for c in row] for row in rows])
    return out.getvalue()


def cell(text: str) -> str:
    """No control characters, and no start that a spreadsheet takes for a formula."""
    text = re.sub(r"[\x00-\x1f\x7f]+", " ", text)
    return f"'{text}" if text[:1] in "=+-@" and not re.fullmatch(r"-?[\d.]+", text) and text else text


def feedback_line(record: dict[str, Any]) -> str:
    if record["problem"]:
        return str(record["problem"])
    return "; ".join(
        f"{n}: {v['status']}" + (f" ({v['misconception']})" if v["misconception"] else "")
        for n, v in record["exercises"].items()
    )


def page(title: str, body: str) -> str:
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        '<meta name="viewport" content="width=device-width">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f"<style>{STYLE}</style></head><body>{body}</body></html>\n"
    )


def feedback(lab: Lab, written: list[Any], record: dict[str, Any]) -> str:
    """The page of one student."""
    body = [
        f"<h1>{html.escape(lab.name)}</h1><p>{html.escape(record['student'])}: "
        f"{record['score']:g} of {record['points']:g} points</p>"
    ]
    if record["problem"]:
        body.append(f"<section><p>{html.escape(record['problem'])}</p></section>")
    else:
        for e in lab.exercises:
            v = record["exercises"][e.name]
            style = {"right": "right", "not attempted": "none"}.get(v["status"], "wrong")
            name = f" · {html.escape(v['misconception'].replace('-', ' '))}" if v["misconception"] else ""
            body.append(
                f'<section class="{style}"><h2><code>{e.name}</code>: {v["points"]:g} of {e.points:g}</h2>'
                f"<p><strong>{html.escape(v['status'])}</strong>{name}</p><pre>{html.escape(v['message'])}</pre></section>"
            )
        for w in written:
            text = record["written"].get(w.name, "") or "(empty)"
            body.append(
                f'<section class="none"><h2>{html.escape(w.name)}: graded by hand, up to {w.points:g}</h2>'
                f"<pre>{html.escape(text)}</pre></section>"
            )
    return page(f"{lab.name}: feedback", "".join(body))


def overview(lab: Lab, records: list[dict[str, Any]], sandbox: str) -> str:
    """The page of the instructor: distribution, exercises, misconceptions, students."""
    total = sum(e.points for e in lab.exercises)
    body = [f"<h1>{html.escape(lab.name)}: {len(records)} submissions</h1><p>Sandbox: {html.escape(sandbox)}</p>"]
    body.append("<h2>Scores</h2><table><tr><th>score</th><th>students</th><th></th></tr>")
    scores = Counter(r["score"] for r in records)
    for score in sorted(scores, reverse=True):
        width = 20 * scores[score] / max(scores.values())
        body.append(
            f"<tr><td>{score:g} of {total:g}</td><td>{scores[score]}</td>"
            f"<td><span class=bar style='width:{width:.1f}em'></span></td></tr>"
        )
    body.append("</table><h2>Exercises</h2><table><tr><th>exercise</th><th>right</th><th>what else</th></tr>")
    for e in lab.exercises:
        verdicts = [r["exercises"][e.name] for r in records]
        other = Counter(v["misconception"] or v["status"] for v in verdicts if v["status"] != "right")
        words = ", ".join(f"{html.escape(n)} {k}" for n, k in other.most_common())
        right = sum(v["status"] == "right" for v in verdicts)
        body.append(f"<tr><td><code>{e.name}</code></td><td>{right} of {len(records)}</td><td>{words}</td></tr>")
    body.append("</table><h2>Students</h2><table><tr><th>student</th><th>score</th><th>remark</th></tr>")
    for r in records:
        link = f"feedback/{safe_name(r['student'])}.html"
        body.append(
            f'<tr><td><a href="{link}">{html.escape(r["student"])}</a></td><td>{r["score"]:g}</td>'
            f"<td>{html.escape(r['problem'])}</td></tr>"
        )
    return page(f"{lab.name}: class", "".join([*body, "</table>"]))
