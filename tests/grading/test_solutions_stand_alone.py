"""Every answer of every solution is right with nothing but the lab's set-up and the cells that it needs.

The grader runs an answer like this. In the notebook a missing import goes unnoticed, for an earlier cell has it.
"""

from pathlib import Path

import pytest
from edgeinfer.grading.exercise import load_lab
from edgeinfer.grading.judge import Key, judge
from edgeinfer.grading.notebooks import read_cells
from edgeinfer.grading.runner import call_case, make_answer

SOLUTIONS = sorted((Path(__file__).resolve().parents[2] / "solutions").glob("*.ipynb"))
EXERCISES = [(path, exercise) for path in SOLUTIONS for exercise in load_lab(path.stem).exercises]


@pytest.mark.parametrize(("path", "exercise"), EXERCISES, ids=[f"{p.stem[:5]}-{e.name}" for p, e in EXERCISES])
def test_answer_is_right_with_the_set_up_alone(path, exercise):
    cells = {cell.get("id"): "".join(cell["source"]) for cell in read_cells(path.read_bytes())}
    names = [*exercise.needs, exercise.name]
    code = [("<setup>", load_lab(path.stem).setup), *((f"<{name}>", cells[name]) for name in names)]
    answer = make_answer({"paths": [], "cells": code, "function": exercise.name, "harness": exercise.harness})
    key = Key(exercise, exercise.cases(7))
    verdict = judge(key, [call_case(answer, args) for args in key.cases])
    assert verdict.passed, verdict.message
