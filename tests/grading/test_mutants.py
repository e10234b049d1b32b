"""Every wrong answer of the mutation suites is rejected, every right one accepted, whatever the seed."""

import json
from pathlib import Path

import pytest
from edgeinfer.grading import mutants as suite
from edgeinfer.grading.course import SCORE
from edgeinfer.grading.exercise import EXERCISES, import_file

HERE = Path(__file__).parent
FILES = sorted((HERE / "mutants").glob("lab*.py"))


def test_every_lab_has_a_mutation_suite():
    assert {p.name for p in EXERCISES.glob("lab*.py")} == {p.name for p in FILES}


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_wrong_answers_are_rejected_and_right_ones_accepted(file):
    mutants = import_file(file).mutants
    outcomes = suite.run(mutants)
    print(suite.table(outcomes))
    problems = [f"{o.mutant.exercise}/{o.mutant.name}: {o.problem}" for o in outcomes if o.problem]
    assert not problems, "\n" + "\n".join(problems)
    assert not suite.too_few(mutants)
    shown = json.loads(SCORE.read_text(encoding="utf-8"))
    assert shown.get(file.stem) == suite.counts(outcomes), "the instructors' table is old; run `make mutation-score`"


def test_sample_suite_is_judged_as_said_and_a_short_suite_is_noticed():
    mutants = import_file(HERE / "sample" / "mutants_lab99.py").mutants
    assert [o.problem for o in suite.run(mutants)] == [""] * len(mutants.all)
    assert suite.too_few(mutants) == [
        "dequantize has 1 wrong answers in the mutation suite, expected at least 8",
        "dequantize has 1 right answers in the mutation suite, expected at least 2",
    ]


def test_a_misjudged_mutant_is_reported():
    mutants = suite.Mutants(HERE / "sample" / "lab99.py")
    mutants.wrong("dequantize")(lambda codes, scale: codes * scale)
    mutants.right("dequantize")(lambda codes, scale: codes / scale)
    mutants.wrong("dequantize", named="divides")(lambda codes, scale: codes + scale)
    problems = [o.problem for o in suite.run(mutants)]
    assert problems[0] == "a wrong answer is accepted"
    assert problems[1].startswith("a right answer is rejected")
    assert problems[2].startswith("expected the diagnosis 'divides'")
