"""The sample lab through nbval and papermill: what passes, what must fail, what is refused."""

import json

import pytest
from edgeinfer.grading.exercise import import_file

from .conftest import HERE, TOOLS

runs = import_file(TOOLS / "run_labs.py")
labs = import_file(HERE.parent / "labs" / "test_labs.py")


@pytest.fixture(autouse=True)
def _exercises(built, monkeypatch):
    monkeypatch.setenv("SAMPLE_EXERCISES", str(built.exercises))


def run(built, out, *arguments, folder=None):
    return runs.main(["--solutions", str(folder or built.solution.parent), "--out", str(out), *arguments])


def test_solution_passes_with_parameters_and_leaves_a_report_and_a_summary(built, tmp_path):
    assert run(built, tmp_path, "-p", "seed", "3", "--seconds", "300") == 0
    result = json.loads((tmp_path / "summary.json").read_text())[0]
    assert result["parameters"] == {"seed": 3} and result["problem"] == ""
    assert result["peak_bytes"] > 20e6 and result["slowest_cell"][0]
    assert "largest error" in (tmp_path / "lab99_sample.html").read_text()
    assert "lab99_sample" in (tmp_path / "index.html").read_text()


def test_only_a_strict_run_of_this_notebook_and_library_counts_as_one(built, tmp_path, monkeypatch):
    assert not runs.has_passed(built.solution, tmp_path)
    entry = {"lab": built.solution.stem, "problem": "", "parameters": {}, "made_of": runs.made_of(built.solution)}
    for changed, counts in (
        ({}, True),
        ({"problem": "cell 3: AssertionError"}, False),
        ({"parameters": {"seed": 3}}, False),
        ({"made_of": "another notebook, another library"}, False),
    ):
        (tmp_path / "summary.json").write_text(json.dumps([{**entry, **changed}]))
        assert runs.has_passed(built.solution, tmp_path) is counts
    (tmp_path / "summary.json").write_text(json.dumps([entry]))
    monkeypatch.setenv("EDGEINFER_SIMD", "something else")  # other kernels
    assert not runs.has_passed(built.solution, tmp_path)


def test_unknown_parameter_and_unknown_lab_are_refused_before_anything_runs(built, tmp_path, capsys):
    assert run(built, tmp_path / "out", "-p", "sede", "3") == 1
    assert "no parameter 'sede'; it has seed, size" in capsys.readouterr().err
    assert run(built, tmp_path / "out", "lab77_none") == 1
    assert not (tmp_path / "out").exists()


def test_unsolved_lab_fails_in_papermill_since_its_checks_are_strict(built, tmp_path):
    assert run(built, tmp_path, folder=built.released.parent) == 1
    assert "CheckFailed" in json.loads((tmp_path / "summary.json").read_text())[0]["problem"]


def test_limits_of_memory_and_time_are_kept(built, tmp_path, sample):
    assert run(built, tmp_path / "memory", "--gigabytes", "0.001", "--seconds", "300") == 1
    assert "GB, allowed" in json.loads((tmp_path / "memory" / "summary.json").read_text())[0]["problem"]
    text = sample.source.read_text().replace('print(f"largest', 'while True: pass\nprint(f"largest')
    sample.source.write_text(text)
    assert sample.build() == 0
    assert run(built, tmp_path / "time", "--cell-seconds", "1", "--seconds", "300", folder=sample.solution.parent) == 1
    assert "imeout" in json.loads((tmp_path / "time" / "summary.json").read_text())[0]["problem"]


def test_nbval_passes_the_solution_and_the_unsolved_lab_and_fails_the_unsolved_lab_when_strict(built):
    assert labs.nbval(built.solution, strict=True).returncode == 0
    assert labs.nbval(built.released, strict=False).returncode == 0
    assert labs.nbval(built.released, strict=True).returncode != 0
