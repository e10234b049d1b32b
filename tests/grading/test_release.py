"""The public release holds no answer, and its checks judge as the ones with oracles do."""

import json
import subprocess
from pathlib import Path

import pytest
from edgeinfer.grading import answer_key, checks, grade
from edgeinfer.grading.exercise import Lab, import_file, load_lab
from edgeinfer.grading.judge import Key, judge
from edgeinfer.grading.runner import call_case

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent
tool = import_file(ROOT / "tools" / "release.py")
PUBLIC_LABS = sorted(p.stem for p in (ROOT / "solutions").glob("lab*.py"))


def verdicts(lab: Lab, name: str, functions):
    exercise = lab[name]
    key = Key(exercise, exercise.cases(checks.CHECK_SEED))
    out = []
    for f in functions:
        cases = key.cases + (key.cases[:1] if exercise.deterministic else [])
        v = judge(key, [call_case(f, args) for args in cases])
        out.append((v.status, v.passed))
    return out


@pytest.mark.parametrize("name", ["lab01_quantization", "lab05_structured_sparsity"])
def test_recorded_answers_judge_the_mutation_suite_as_the_oracles_do(name, tmp_path):
    lab = load_lab(name)
    path = tmp_path / "lab.key.xz"
    answer_key.write_key(lab, path, checks.CHECK_SEED)
    recorded = answer_key.read_key(path)
    suite = import_file(HERE / "mutants" / f"{name.split('_')[0]}.py").mutants
    for e in lab.exercises:
        functions = [m.function for m in suite.all if m.exercise == e.name]
        assert verdicts(recorded, e.name, functions) == verdicts(lab, e.name, functions), e.name
        assert recorded[e.name].contract == e.contract and recorded[e.name].points == e.points


def test_a_lab_is_found_by_its_key_where_there_are_no_exercises_and_cannot_be_graded(built, tmp_path):
    answer_key.write_key(built.lab, tmp_path / "lab99.key.xz", checks.CHECK_SEED)
    lab = load_lab("lab99_sample", tmp_path)
    result = checks.LabChecks(lab).check("dequantize", lambda codes, scale: codes / scale)
    assert result.misconception == "divides"
    (tmp_path / "in").mkdir()
    with pytest.raises(FileNotFoundError):
        load_lab("lab98_other", tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grade, "load_lab", lambda name: lab)
        with pytest.raises(grade.GradingError, match="public release"):
            grade.grade_class("lab99_sample", tmp_path / "in", tmp_path / "out")


def test_an_answer_for_which_nothing_is_recorded_is_left_to_the_grader():
    recorded = answer_key.Recorded({}, ["x"])
    accept = answer_key.judged(lambda args, got: str(recorded(*got)))
    assert "when the lab is graded" in accept((1,), (2,))


@pytest.fixture
def project(sample, monkeypatch):
    """The sample lab as a git checkout with one page."""
    assert sample.build() == 0
    monkeypatch.setattr(tool, "load_lab", lambda name: sample.lab)
    exercises = sample.root / tool.EXERCISES
    exercises.mkdir(parents=True)
    (exercises / "lab99.py").write_bytes(sample.exercises.read_bytes())
    mutants = sample.root / "tests" / "grading" / "mutants"
    mutants.mkdir(parents=True)
    (mutants / "lab99.py").write_bytes((HERE / "sample" / "mutants_lab99.py").read_bytes())
    (sample.root / "solutions" / "exam_answers.md").write_text(
        "# Answers\n\nThe scale doubles, and with it the largest error of a weight.\n"
    )
    (sample.root / "page.md").write_text("# A page\n")
    subprocess.run(["git", "init", "-q"], cwd=sample.root, check=True)
    add(sample.root)
    return sample


def add(root):
    subprocess.run(["git", "add", "-A"], cwd=root, check=True)


def test_a_release_holds_labs_and_keys_but_no_solution_oracle_or_mutant(project, tmp_path_factory):
    out = tmp_path_factory.mktemp("public") / "book"
    tool.release(project.root, out)
    names = {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()}
    assert {"labs/lab99_sample.ipynb", "page.md", f"{tool.EXERCISES}lab99.key.xz"} <= names
    assert not [n for n in names if "solutions" in n or "mutants" in n or n.endswith("lab99.py")]
    with pytest.raises(tool.ReleaseError, match="not empty"):
        tool.release(project.root, out)


ANSWER = "    largest_code = 2 ** (bits - 1) - 1\n    scale = np.abs(weight).max() / largest_code\n"
ORACLE = """
def f(weight, bits):
    top = 2 ** (bits - 1) - 1
    scale = max(abs(float(v)) for v in weight) / top
    return np.array([round(float(v) / scale) for v in weight], dtype=np.int8), scale
"""
LEAKS = {
    "an answer in a page": ("page.md", f"```\n{ANSWER}```\n"),
    "an answer in a notebook": ("extra.ipynb", json.dumps({"cells": [{"source": [ANSWER]}]})),
    "an answer with other white space": ("page.md", "scale=np.abs( weight ).max()/largest_code"),
    "an answer in code": (
        "lib/helper.py",
        f"def g(weight, bits):\n{ANSWER}    return np.round(weight / scale).astype(np.int8), scale\n",
    ),
    "a hidden test": ("page.md", "assert quantize(np.array([1.0, -2.0], dtype=np.float32), 2)[1] == 2.0"),
    "a model answer": ("page.md", "The error is at most half a step, because rounding goes to the nearest code."),
    "an answer of the exam": ("notes.txt", "The scale doubles, and with it the largest error of a weight."),
    "an oracle": ("lib/oracle.py", ORACLE),
    "a marker": ("page.md", "### BEGIN SOLUTION"),
}


@pytest.mark.parametrize("leak", LEAKS)
def test_a_planted_leak_is_found_and_nothing_is_left(project, tmp_path_factory, leak):
    name, text = LEAKS[leak]
    (project.root / name).parent.mkdir(exist_ok=True)
    (project.root / name).write_text(text)
    add(project.root)
    out = tmp_path_factory.mktemp("public") / "book"
    with pytest.raises(tool.ReleaseError, match="would leak") as error:
        tool.release(project.root, out)
    assert name in str(error.value) and not out.exists()


def test_what_git_does_not_track_is_not_released(project, tmp_path_factory):
    (project.root / "grades.csv").write_text("student,score\n")
    out = tmp_path_factory.mktemp("public") / "book"
    tool.release(project.root, out)
    assert not (out / "grades.csv").exists()


def test_a_release_into_the_repository_is_refused(project):
    with pytest.raises(tool.ReleaseError, match="outside"):
        tool.release(project.root, project.root / "public")


def test_the_released_labs_of_the_book_hold_no_line_of_an_answer():
    each, together = tool.secrets(ROOT)
    assert len({origin.split(",")[0] for origin, _ in each}) >= len(PUBLIC_LABS) and together
    assert not list(tool.leaks(ROOT / "labs", each, together)) and not list(tool.leaks(ROOT / "book", each, together))
