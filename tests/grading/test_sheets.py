"""The sheets hold what each gradebook reads, the pages what a class needs, and partial points are fair."""

import csv
import io
import json

import numpy as np
import pytest
from edgeinfer.grading import partial, report, sheets
from edgeinfer.grading.exercise import Exercise, Returns
from edgeinfer.grading.grade import Written
from edgeinfer.grading.judge import Key, judge
from edgeinfer.grading.runner import call_case

WRITTEN = [Written("explain", 3)]


def record(student, first="right", second="right", misconception="", **identity):
    """One student of the sample lab: `quantize` is worth 2 points, `dequantize` 1."""

    def verdict(status, points, name=""):
        return {
            "status": status,
            "message": f"<{status}>",
            "misconception": name,
            "points": points if status == "right" else 0,
        }

    exercises = {"quantize": verdict(first, 2, misconception), "dequantize": verdict(second, 1)}
    score = sum(v["points"] for v in exercises.values())
    return {
        "student": student,
        "identity": identity,
        "problem": "",
        "score": score,
        "points": 3,
        "exercises": exercises,
        "written": {"explain": "because"},
    }


CLASS = [
    record("doe_4321", name="doe", canvas_id="4321"),
    record("Jane Doe_77", "wrong", misconception="no-sign-bit", name="Jane Doe", participant="77"),
    record("=1+1", "wrong", "wrong", "no-sign-bit"),
    record("Zoë_100", "not attempted", name="Zoë", sid="100", email="z@x.org"),
]


@pytest.fixture(scope="module")
def out(tmp_path_factory, built):
    folder = tmp_path_factory.mktemp("sheets")
    report.write(folder, built.lab, WRITTEN, CLASS, "bubblewrap: ...", "4 submissions graded")
    return folder


def rows(out, name):
    return list(csv.reader(io.StringIO((out / name).read_text(encoding="utf-8"), newline="")))


def test_canvas_finds_header_points_and_students(out):
    """As `gradebook_importer.rb` reads it."""
    header, possible, *students = rows(out, "canvas.csv")
    assert "Student" in header[0] and "ID" in header[1] and header[2:5] == ["SIS User ID", "SIS Login ID", "Section"]
    assert "Points Possible" in possible[0] and possible[5] == "3"
    assert {len(r) for r in (header, possible, *students)} == {6}
    assert students[0] == ["doe", "4321", "", "", "", "3.00"] and students[1][1:4] == ["", "", "Jane Doe_77"]


def test_moodle_gets_grade_and_feedback_together_and_a_worksheet_by_participant(out):
    header, *students = rows(out, "moodle.csv")
    assert header == ["username", "full name", "email", "lab99_sample", "maximum grade", "feedback"]
    assert students[1][3] == "1.00" and "no-sign-bit" in students[1][5]
    header, *students = rows(out, "moodle_worksheet.csv")
    assert {"Identifier", "Grade", "Last modified (grade)"} <= set(header)
    assert [s[:3] for s in students] == [["Participant 77", "Jane Doe", "1.00"]]


def test_gradescope_gets_its_results_and_the_columns_of_its_roster(out):
    results = json.loads((out / "gradescope" / "doe_4321.json").read_text())
    assert [(t["name"], t["score"], t["max_score"], t["status"]) for t in results["tests"]] == [
        ("quantize", 2, 2, "passed"),
        ("dequantize", 1, 1, "passed"),
    ]
    assert "score" not in results and "explain" in results["output"]
    header, *students = rows(out, "gradescope.csv")
    assert header[:3] == ["Name", "SID", "Email"] and students[3][:4] == ["Zoë", "100", "z@x.org", "1.00"]


def test_no_cell_of_any_sheet_is_a_formula(out):
    for path in out.glob("*.csv"):
        for row in rows(out, path.name):
            assert not [c for c in row if c[:1] in "=+@" and c], path.name
    assert sheets.cell("-1") == "-1" and sheets.cell("-x") == "'-x" and sheets.cell("a\r\nb") == "a b"


def test_the_class_page_shows_distribution_items_and_misconceptions(out):
    page = (out / "index.html").read_text()
    assert "Mean 1.25" in page and "median 1" in page
    assert page.count("no sign bit") == 1 and "2 of 2" in page and "One of the bits is the sign" in page
    assert "<td>not attempted 1</td>" in page and "4 submissions graded" in page
    assert "<wrong>" not in page and "=1+1" in page


def test_the_feedback_page_says_what_was_earned_misunderstood_and_asked_for(out):
    page = (out / "feedback" / f"{sheets.safe_name('Jane Doe_77')}.html").read_text()
    assert "1 of 3 points" in page and "no sign bit" in page and "because" in page
    assert "codes int8 (N,), scale float" in page and "&lt;wrong&gt;" in page


def test_discrimination_is_a_correlation_and_a_dash_where_nothing_varies(built):
    strong, weak = record("a"), record("b", "wrong", "wrong")
    assert report.correlation([1, 0], [2, 0]) == "1.00" and report.correlation([1, 1], [2, 0]) == "–"
    assert "1.00" in report.items(built.lab, [strong, weak])
    assert report.overview(built.lab, [], "WEAK, ...").count('class="weak"') == 1


def part_of(built, exercise, function, seed):
    key = Key(built.lab[exercise], built.lab[exercise].cases(seed))
    outcomes = [call_case(function, args) for args in [*key.cases, key.cases[0]]]
    verdict = judge(key, outcomes)
    return partial.share(key, outcomes, verdict.status, verdict.misconception)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_partial_points_do_not_depend_on_the_seed(built, seed):
    def scale(weight, bits):
        return np.abs(weight).max() / (2 ** (bits - 1) - 1)

    def in_place(weight, bits):
        s = scale(weight, bits)
        weight /= s
        return np.round(weight).astype(np.int8), s

    answers = {
        "truncates": (lambda w, b: ((w / scale(w, b)).astype(np.int8), scale(w, b)), 0.25),
        "in place": (in_place, 0.5),
        "zeros": (lambda w, b: (np.zeros(w.shape, np.int8), 1.0), 0.0),
        "right": (lambda w, b: (np.round(w / scale(w, b)).astype(np.int8), scale(w, b)), 0.0),
        "raises": (lambda w, b: 1 / 0, 0.0),
        "one value": (lambda w, b: scale(w, b), 0.0),
    }
    for name, (function, part) in answers.items():
        assert part_of(built, "quantize", function, seed) == part, name
    assert part_of(built, "dequantize", lambda c, s: c / s, seed) == 0


def test_a_constant_that_happens_to_be_right_earns_nothing():
    exercise = Exercise(
        "f", "", lambda r: [(1,), (2,)], lambda x: (x, 0), (Returns("x", "integer"), Returns("zero", "integer"))
    )
    key = Key(exercise, exercise.cases(0))
    outcomes = [call_case(lambda x: (x + 1, 0), args) for args in key.cases]
    assert partial.share(key, outcomes, "wrong", "") == 0
