"""Writes what a class gets back: the sheets, one feedback page per student, one page for the instructor.

Everything that comes from a student is text here, never markup. Judges nothing.
"""

import html
import statistics
from collections import Counter
from pathlib import Path
from typing import Any

from edgeinfer.grading import sheets
from edgeinfer.grading.exercise import Exercise, Lab
from edgeinfer.grading.sheets import put, safe_name

STYLE = """
:root{color-scheme:light dark}body{font:16px/1.5 system-ui,sans-serif;max-width:52rem;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.3rem .6rem;border-bottom:1px solid #8886}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}
section{border-left:4px solid #b45309;padding:.1rem 1rem;margin:1rem 0}
section.right{border-color:#1b7f4d}section.none{border-color:#6b7280}pre{white-space:pre-wrap;overflow-wrap:anywhere}
.bar{background:#2563eb;height:.8em;display:inline-block}.weak{border:2px solid #b45309;padding:.5rem 1rem}
"""
BINS = 10
WHAT_IT_MEANS = {
    "not attempted": "The cell is as it was handed out, or returns nothing.",
    "cell missing": "Do not delete or rename the cells of the lab; they are found by their id.",
    "cell doubled": "Do not copy the cells of the lab; which one counts would be a guess.",
    "syntax error": "Python could not read the cell. Run it once before handing in.",
    "error": "The code raised an exception. The grader runs this cell alone: helpers and imports belong into it.",
    "time limit": "Try the function on a larger input at home; a loop that ends in seconds there may not end here.",
}


def write(
    out: Path, lab: Lab, written: list[Any], records: list[dict[str, Any]], sandbox: str, speed: str = ""
) -> None:
    """Write every sheet and page of one class.

    Args:
        out: folder of the report.
        lab: its exercises.
        written: written answers (name, points) that a person grades.
        records: one per student.
        sandbox: how the answers were run, in one sentence.
        speed: how long it took, in one sentence.
    """
    sheets.write(out, lab, written, records)
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
    put(out / "index.html", overview(lab, records, sandbox, speed))


def speed(graded: int, seconds: float, overheads: list[float], slots: int = 0) -> str:
    """How long the run took and what the sandbox cost, in one sentence."""
    where = f" on {slots} threads of Dask workers" if slots else ""
    text = f"{graded} submissions graded in {seconds:.1f} s{where}: {60 * graded / max(seconds, 1e-9):.0f} per minute."
    if overheads:
        middle, most = statistics.median(overheads), max(overheads)
        text += (
            f" The sandbox cost {middle:.2f} s per answer (median; most {most:.2f} s), before and after the answer's "
            f"own time, {sum(overheads) / max(graded, 1):.2f} s per submission."
        )
    return text


def progress(done: int, total: int, graded: int, seconds: float) -> str:
    """One line: a bar, how many, how fast."""
    filled = round(20 * done / max(total, 1))
    pace = f", {60 * graded / seconds:.0f} per minute" if graded and seconds > 0 else ""
    return f"[{'#' * filled}{'.' * (20 - filled)}] {done} of {total} submissions{pace}"


def page(title: str, body: str) -> str:
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        '<meta name="viewport" content="width=device-width">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f"<style>{STYLE}</style></head><body>{body}</body></html>\n"
    )


def feedback(lab: Lab, written: list[Any], record: dict[str, Any]) -> str:
    """The page of one student: what each exercise earned, what was misunderstood, what it had to return."""
    body = [
        f"<h1>{html.escape(lab.name)}</h1><p>{html.escape(record['student'])}: "
        f"{record['score']:g} of {record['points']:g} points"
        + (" for the exercises; written answers are graded by a person and come on top.</p>" if written else "</p>")
    ]
    if record["problem"]:
        body.append(f"<section><p>{html.escape(record['problem'])}</p></section>")
        return page(f"{lab.name}: feedback", "".join(body))
    rows = []
    for e in lab.exercises:
        v = record["exercises"][e.name]
        rows.append(
            f'<tr><td><a href="#{e.name}"><code>{e.name}</code></a></td><td>{html.escape(v["status"])}</td>'
            f'<td class="n">{v["points"]:g} of {e.points:g}</td></tr>'
        )
    head = '<tr><th>exercise</th><th>result</th><th class="n">points</th></tr>'
    body.append(f"<table>{head}{''.join(rows)}</table>")
    body += [exercise_feedback(e, record["exercises"][e.name]) for e in lab.exercises]
    for w in written:
        text = record["written"].get(w.name, "") or "(empty)"
        body.append(
            f'<section class="none"><h2>{html.escape(w.name)}: graded by hand, up to {w.points:g}</h2>'
            f"<p>You wrote:</p><pre>{html.escape(text)}</pre></section>"
        )
    body.append(
        "<p>Each function was called on inputs that nobody has seen before, and what it returned was compared with an "
        "independent computation. The inputs are drawn like those of the lab's own checks.</p>"
    )
    return page(f"{lab.name}: feedback", "".join(body))


def exercise_feedback(e: Exercise, v: dict[str, Any]) -> str:
    style = {"right": "right", "not attempted": "none"}.get(v["status"], "wrong")
    name = f" · {html.escape(v['misconception'].replace('-', ' '))}" if v["misconception"] else ""
    text = [
        f'<section class="{style}" id="{e.name}"><h2><code>{e.name}</code>: {v["points"]:g} of {e.points:g}</h2>'
        f"<p><strong>{html.escape(v['status'])}</strong>{name}</p><pre>{html.escape(v['message'])}</pre>"
    ]
    if v["status"] in WHAT_IT_MEANS:
        text.append(f"<p>{WHAT_IT_MEANS[v['status']]}</p>")
    if v["status"] != "right" and e.contract not in v["message"]:
        text.append(f"<p>It had to keep this contract: {html.escape(e.contract)}</p>")
    return "".join([*text, "</section>"])


def overview(lab: Lab, records: list[dict[str, Any]], sandbox: str, speed: str = "") -> str:
    """The page of the instructor: distribution, item analysis, misconceptions, students."""
    weak = ' class="weak"' if sandbox.startswith("WEAK") else ""
    body = [
        f"<h1>{html.escape(lab.name)}: {len(records)} submissions</h1><p{weak}>Sandbox: {html.escape(sandbox)}</p>",
        f"<p>{html.escape(speed)}</p>" if speed else "",
        distribution(lab, records),
        items(lab, records),
        misconceptions(lab, records),
        '<h2>Students</h2><table><tr><th>student</th><th class="n">score</th><th>remark</th></tr>',
    ]
    for r in records:
        link = f"feedback/{safe_name(r['student'])}.html"
        late = r.get("identity", {}).get("late", "")
        remark = html.escape("; ".join(t for t in (late, r["problem"]) if t))
        body.append(
            f'<tr><td><a href="{link}">{html.escape(r["student"])}</a></td><td class="n">{r["score"]:g}</td>'
            f"<td>{remark}</td></tr>"
        )
    return page(f"{lab.name}: class", "".join([*body, "</table>"]))


def distribution(lab: Lab, records: list[dict[str, Any]]) -> str:
    """How many students are in which tenth of the score, with quartiles."""
    total = sum(e.points for e in lab.exercises)
    scores = sorted(r["score"] for r in records)
    if not scores or not total:
        return ""
    quarters = statistics.quantiles(scores, n=4, method="inclusive") if len(scores) > 1 else scores * 3
    counts = Counter(min(int(BINS * s / total), BINS - 1) for s in scores)
    rows = []
    for k in reversed(range(BINS)):
        width = 20 * counts[k] / max(counts.values())
        upper = "" if k == BINS - 1 else f" to below {total * (k + 1) / BINS:g}"
        rows.append(
            f'<tr><td>{total * k / BINS:g}{upper}</td><td class="n">{counts[k]}</td>'
            f"<td><span class=bar style='width:{width:.1f}em'></span></td></tr>"
        )
    return (
        f"<h2>Scores</h2><p>{total:g} points in all. Mean {statistics.fmean(scores):.2f}, median {quarters[1]:g}, "
        f"quarter of the class below {quarters[0]:g}, quarter above {quarters[2]:g}.</p>"
        f'<table><tr><th>points</th><th class="n">students</th><th></th></tr>{"".join(rows)}</table>'
    )


def items(lab: Lab, records: list[dict[str, Any]]) -> str:
    """Item analysis: how hard each exercise was, and whether it tells strong from weak students."""
    names = ["right", "attempted", "discrimination"]
    head = f"<th>exercise</th>{''.join(f'<th class=n>{n}</th>' for n in names)}<th>what else</th>"
    rows = []
    for e in lab.exercises:
        verdicts = [r["exercises"][e.name] for r in records]
        other = Counter(v["status"] for v in verdicts if v["status"] not in ("right", "wrong"))
        words = ", ".join(f"{html.escape(n)} {k}" for n, k in other.most_common())
        right = sum(v["status"] == "right" for v in verdicts)
        tried = sum(v["status"] not in ("not attempted", "no notebook", "cell missing") for v in verdicts)
        rest = [r["score"] - v["points"] for r, v in zip(records, verdicts, strict=True)]
        tells = correlation([float(v["status"] == "right") for v in verdicts], rest)
        rows.append(
            f'<tr><td><code>{e.name}</code></td><td class="n">{right} of {len(records)}</td><td class="n">{tried}</td>'
            f'<td class="n">{tells}</td><td>{words}</td></tr>'
        )
    return (
        f"<h2>Exercises</h2><table><tr>{head}</tr>{''.join(rows)}</table>"
        "<p>Discrimination: correlation of a right answer with the points of the other exercises. Near 1: those who "
        "solve the rest solve this. Near 0 or below: look at the exercise before you look at the class.</p>"
    )


def correlation(a: list[float], b: list[float]) -> str:
    """Pearson's, or a dash where one side does not vary."""
    if len(set(a)) < 2 or len(set(b)) < 2:
        return "–"
    return f"{statistics.correlation(a, b):.2f}"


def misconceptions(lab: Lab, records: list[dict[str, Any]]) -> str:
    """Which misunderstanding how often, with what the students were told."""
    rows = []
    for e in lab.exercises:
        wrong = [v for r in records if (v := r["exercises"][e.name])["status"] == "wrong"]
        said = {m.name: m.says for m in e.misconceptions}
        for name, count in Counter(v["misconception"] for v in wrong).most_common():
            text = said.get(name, "") if name else "Wrong in a way that no known misconception explains."
            label = html.escape(name.replace("-", " ")) if name else "(not named)"
            rows.append(
                f'<tr><td><code>{e.name}</code></td><td>{label}</td><td class="n">{count} of {len(wrong)}</td>'
                f"<td>{html.escape(text)}</td></tr>"
            )
    if not rows:
        return ""
    head = '<th>exercise</th><th>misconception</th><th class="n">wrong answers</th><th>what they were told</th>'
    return f"<h2>Misconceptions</h2><table><tr>{head}</tr>{''.join(rows)}</table>"
