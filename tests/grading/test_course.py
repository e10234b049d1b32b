"""The instructors' pages read every lab; the exam has an answer for every question."""

import re
from pathlib import Path

import pytest
from edgeinfer.grading import course

ROOT = Path(__file__).resolve().parents[2]


def test_every_lab_states_its_time_its_needs_its_goals_and_its_points():
    labs = course.all_labs()
    assert [lab.name for lab in labs] == sorted(p.stem for p in (ROOT / "solutions").glob("lab*.py"))
    for lab in labs:
        assert re.search(r"\d+ minutes", lab.time) and len(lab.objectives) >= 3, lab.name
        assert len(lab.questions) >= 2 and sum(points for points, _ in lab.rubric) >= 3, lab.name


def test_tables_hold_every_lab():
    for shown in (course.overview(), course.rubrics()):
        assert all(lab.title in str(shown).replace("&#x27;", "'") for lab in course.all_labs())
    assert "wrong answers rejected" in str(course.mutation_score())


def test_a_lab_without_its_time_is_said(tmp_path):
    source = (ROOT / "labs" / "lab01_quantization.ipynb").read_text(encoding="utf-8").replace("**Time**", "Time")
    (tmp_path / "lab.ipynb").write_text(source, encoding="utf-8")
    with pytest.raises(ValueError, match=r"lab\.ipynb has no line \*\*Time\*\*"):
        course.read_lab(tmp_path / "lab.ipynb")


def test_every_question_of_the_exam_has_its_answer():
    def numbers(path):
        return re.findall(r"^(\d+)\. ", (ROOT / path).read_text(encoding="utf-8"), re.M)

    questions = numbers("book/instructors/exam.md")
    assert questions == numbers("solutions/exam.md") == [str(n) for n in range(1, len(questions) + 1)]
