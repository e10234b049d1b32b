"""Grades in the forms that gradebooks import: our own CSV, Canvas, Moodle (two ways) and Gradescope. Judges nothing.

Sources: Canvas `lib/gradebook_importer.rb` (columns, matching by ID, then SIS login, then name); Moodle's page "Grade
import" (docs.moodle.org) and `mod/assign/feedback/offline/importgradeslib.php` (the grading worksheet); Gradescope's
"Autograder Specifications" (gradescope-autograders.readthedocs.io: results.json). Gradescope documents no import of
scores from a table; its CSV here has the columns of its roster (Name, Email, SID), for looking up.
"""

import csv
import hashlib
import io
import json
import re
from pathlib import Path
from typing import Any

from edgeinfer.grading.exercise import Lab

Record = dict[str, Any]


def write(out: Path, lab: Lab, written: list[Any], records: list[Record]) -> None:
    """Write every sheet of one class into `out`.

    Args:
        out: folder of the report.
        lab: its exercises.
        written: written answers (name, points) that a person grades.
        records: one per student.
    """
    put(out / "grades.csv", sheet(*own(lab, written, records)))
    put(out / "canvas.csv", sheet(*canvas(lab, records)))
    put(out / "moodle.csv", sheet(*moodle(lab, records)))
    put(out / "moodle_worksheet.csv", sheet(*moodle_worksheet(records)))
    put(out / "gradescope.csv", sheet(*gradescope(lab, records)))
    folder = out / "gradescope"
    folder.mkdir(exist_ok=True)
    keep = set()
    for r in records:
        file = folder / f"{safe_name(r['student'])}.json"
        keep.add(file.name)
        put(file, json.dumps(gradescope_results(lab, written, r), indent=1, ensure_ascii=False) + "\n")
    for old in folder.glob("*.json"):
        if old.name not in keep:
            old.unlink()


def who(record: Record, key: str) -> str:
    return str(record.get("identity", {}).get(key) or "")


def own(lab: Lab, written: list[Any], records: list[Record]) -> tuple[list[str], list[list[str]]]:
    """Everything: points, status or misconception of each exercise, empty columns for the written answers."""
    names = [e.name for e in lab.exercises]
    columns = ["student", "lab", "score", "max", "problem", *names, *(f"{n}_misconception" for n in names)]
    columns += [f"{w.name} (graded by hand, max {w.points:g})" for w in written]
    rows = []
    for r in records:
        x = r["exercises"]
        found = [x[n]["misconception"] or ("" if x[n]["status"] == "right" else x[n]["status"]) for n in names]
        points = [f"{x[n]['points']:g}" for n in names]
        start = [r["student"], lab.name, f"{r['score']:g}", f"{r['points']:g}", r["problem"]]
        rows.append([*start, *points, *found, *("" for _ in written)])
    return columns, rows


def canvas(lab: Lab, records: list[Record]) -> tuple[list[str], list[list[str]]]:
    """Canvas's gradebook: the header begins with Student and ID and holds Section; the next row is the points possible.

    A student is found by ID (filled in when the submission's name came from Canvas), else by SIS Login ID (the name of
    the submission), else by name. A column whose title is no assignment of the course makes Canvas ask which one it is.
    """
    columns = ["Student", "ID", "SIS User ID", "SIS Login ID", "Section", lab.name]
    total = records[0]["points"] if records else sum(e.points for e in lab.exercises)
    rows = [["    Points Possible", "", "", "", "", f"{total:g}"]]
    for r in records:
        number = who(r, "canvas_id")
        login = "" if number else r["student"]
        rows.append([who(r, "name") or r["student"], number, "", login, "", f"{r['score']:.2f}"])
    return columns, rows


def moodle(lab: Lab, records: list[Record]) -> tuple[list[str], list[list[str]]]:
    """Moodle's gradebook (Grades, Import, CSV file): the instructor maps one column to the user, one to the grade item.

    Moodle says to import the feedback together with the grade, never alone: both columns are here.
    """
    columns = ["username", "full name", "email", lab.name, "maximum grade", "feedback"]
    rows = [
        [r["student"], who(r, "name"), who(r, "email"), f"{r['score']:.2f}", f"{r['points']:g}", feedback_line(r)]
        for r in records
    ]
    return columns, rows


def moodle_worksheet(records: list[Record]) -> tuple[list[str], list[list[str]]]:
    """Moodle's offline grading worksheet ("Upload grading worksheet" of the assignment), if the names came from Moodle.

    It is read by the columns Identifier ("Participant NUMBER"), Grade and Last modified (grade); students whose
    submission has no participant number are left out.
    """
    columns = ["Identifier", "Full name", "Grade", "Maximum Grade", "Last modified (grade)", "Feedback comments"]
    rows = []
    for r in records:
        if number := who(r, "participant"):
            grade, most = f"{r['score']:.2f}", f"{r['points']:.2f}"
            rows.append([f"Participant {number}", who(r, "name"), grade, most, "-", feedback_line(r)])
    return columns, rows


def gradescope(lab: Lab, records: list[Record]) -> tuple[list[str], list[list[str]]]:
    """Names as in Gradescope's roster, with the score."""
    columns = ["Name", "SID", "Email", lab.name, "Max Points", "Group"]
    rows = [
        [
            who(r, "name") or r["student"],
            who(r, "sid"),
            who(r, "email"),
            f"{r['score']:.2f}",
            f"{r['points']:g}",
            who(r, "group"),
        ]
        for r in records
    ]
    return columns, rows


def gradescope_results(lab: Lab, written: list[Any], record: Record) -> dict[str, Any]:
    """One student's results.json: what a Gradescope autograder writes for this submission."""
    tests: list[dict[str, Any]] = []
    for e in lab.exercises:
        v = record["exercises"][e.name]
        name = f" ({v['misconception']})" if v["misconception"] else ""
        tests.append(
            {
                "name": e.name,
                "score": v["points"],
                "max_score": e.points,
                "status": "passed" if v["status"] == "right" else "failed",
                "output": f"{v['status']}{name}\n{v['message']}",
                "output_format": "text",
                "visibility": "after_published",
            }
        )
    hand = f"Graded by hand, on top of this score: {', '.join(w.name for w in written)}." if written else ""
    return {"output": record["problem"] or hand, "visibility": "after_published", "tests": tests}


def feedback_line(record: Record) -> str:
    if record["problem"]:
        return str(record["problem"])
    return "; ".join(
        f"{n}: {v['status']}" + (f" ({v['misconception']})" if v["misconception"] else "")
        for n, v in record["exercises"].items()
    )


def put(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8", errors="replace", newline="")
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
    risky = text[:1] in ("=", "+", "-", "@") and text != "-" and not re.fullmatch(r"-?[\d.]+", text)
    return f"'{text}" if risky else text
