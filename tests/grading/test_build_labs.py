# ruff: noqa: E501 - a fault and what is said about it are one line of the table
"""What `make labs` writes, what it refuses, and that an interruption leaves nothing half-made."""

import json
import os
import signal
import subprocess
import sys

import nbformat
import pytest
from edgeinfer.grading.notebooks import read_cells


def edit(sample, old, new):
    text = sample.source.read_text(encoding="utf-8")
    assert old in text
    sample.source.write_text(text.replace(old, new, 1), encoding="utf-8")


def test_two_builds_give_the_same_bytes_and_valid_notebooks(sample, built):
    assert sample.build() == 0
    for mine, other in ((sample.solution, built.solution), (sample.released, built.released)):
        assert mine.read_bytes() == other.read_bytes()
        notebook = nbformat.reads(mine.read_text(encoding="utf-8"), 4)
        nbformat.validate(notebook)
        assert notebook.nbformat_minor == 5
        assert all(not c.get("outputs") for c in notebook.cells)
    assert sample.build("--check") == 0


def test_released_lab_holds_no_answer_and_no_hidden_test(built):
    text = built.released.read_text(encoding="utf-8")
    for secret in ("largest_code", "half a step", "np.round(weight", "[1.0, -2.0]", "SOLUTION", "HIDDEN"):
        assert secret not in text
        assert secret in built.solution.read_text(encoding="utf-8")
    stub = next(c for c in read_cells(text.encode()) if c["id"] == "quantize")
    assert "".join(stub["source"]).endswith('"""\n    ...  # your code here')


def test_ids_tags_and_points_arrive(built):
    cells = {c["id"]: c for c in read_cells(built.released.read_bytes())}
    assert list(cells)[:3] == ["title", "library", "parameters"]
    assert cells["parameters"]["metadata"]["tags"] == ["parameters"]
    assert cells["quantize"]["metadata"]["nbgrader"]["solution"] is True
    assert cells["check_quantize"]["metadata"]["nbgrader"]["points"] == 2
    assert "role" not in cells["quantize"]["metadata"]


def test_library_cell_takes_its_address_from_the_one_setting(sample):
    (sample.root / "_config.yml").write_text("repository:\n  url: https://example.org/me/book\n")
    assert sample.build() == 0
    assert "git+https://example.org/me/book" in sample.released.read_text()


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('# %% id="measure"', "# %%", "has no id"),
        ('id="measure"', 'id="quantize"', "used twice"),
        ('id="measure"', 'id="two words"', "letters, digits"),
        ("    ### BEGIN SOLUTION\n", "", "without ### BEGIN SOLUTION"),
        ("    ### END SOLUTION\n", "", "without ### END SOLUTION"),
        (
            "    ### BEGIN SOLUTION\n    return codes.astype(np.float32) * scale  # the step size\n    ### END SOLUTION\n",
            "    return codes * scale\n",
            "'dequantize' has role='solution' but no",
        ),
        ('id="dequantize" role="solution"', 'id="dequantize"', "holds an answer but has not role"),
        ('id="dequantize" role="solution"', 'id="dequantise" role="solution"', "no exercise of this name"),
        ("def dequantize(", "def other(", "defines no function dequantize"),
        ('lab.check("dequantize", dequantize)', 'lab.check("dequantize", lambda c, s: c * s)', "must call lab.check"),
        ("largest_code = 2 **", "largest_code = = 2 **", "cell 'quantize' has a syntax error in line 4"),
        ('print(f"largest', 'print(f("largest', "cell 'measure' has a syntax error"),
        ("seed = 0\n", "seed = int(0)\n", "parameter seed must be a literal"),
        ('size = "default"\n', "", "must set seed and size"),
        ("# # Sample lab", "# Sample lab", "begin with the title"),
        ('id="measure"', 'id="library"', "written by the builder"),
        (" points=3", "", "say points="),
        ('role="written" points=3', 'role="essay"', "role='essay'"),
        ("# Only the tests use it.", "# Tip: `scale=np.abs(weight).max() / largest_code`", "a line of the answer of 'quantize'"),
        ("largest error:", "The error is at most half a step, because rounding goes to the nearest code.", "of 'explain'"),
        ("import os\n", "import os\nassert quantize(np.array([1.0,-2.0],dtype=np.float32),2)[1]==2.0\n", "check_quantize"),
    ],
)  # fmt: skip
def test_a_faulty_source_is_refused_with_the_cell_and_nothing_is_written(sample, capsys, old, new, says):
    edit(sample, old, new)
    assert sample.build() == 1
    assert says in capsys.readouterr().err
    assert not sample.solution.exists() and not sample.released.exists()


def test_an_answer_in_a_plot_title_or_alt_text_is_found(sample, capsys):
    edit(
        sample,
        '# %% id="measure"',
        '# %% id="measure" mystnb={"image": {"alt": "scale = np.abs(weight).max() / largest_code"}}',
    )
    assert sample.build() == 1
    assert "line of the answer" in capsys.readouterr().err


def test_a_line_that_is_given_away_on_purpose_may_stand_in_the_lab(sample):
    edit(sample, "max() / largest_code\n", "max() / largest_code  # not secret\n")
    edit(sample, "# Only the tests use it.", "# Tip: `scale = np.abs(weight).max() / largest_code`")
    assert sample.build() == 0


def test_stale_and_orphaned_notebooks_are_named(sample, capsys):
    assert sample.build() == 0
    edit(sample, "Only the tests", "Nobody but the tests")
    (sample.root / "labs" / "lab98_gone.ipynb").write_text("{}")
    capsys.readouterr()
    assert sample.build("--check") == 1
    said = capsys.readouterr().err
    assert "stale: " in said and "labs/lab99_sample.ipynb" in said and "labs/lab98_gone.ipynb" in said
    before = sample.released.read_bytes()
    assert sample.build("--check") == 1 and sample.released.read_bytes() == before


def test_a_hand_edited_lab_is_stale(sample):
    assert sample.build() == 0
    notebook = json.loads(sample.released.read_text())
    notebook["cells"][0]["source"] = ["# Changed by hand"]
    sample.released.write_text(json.dumps(notebook))
    assert sample.build("--check") == 1


KILLED = """
import os, signal, sys
from pathlib import Path
from edgeinfer.grading.exercise import import_file
builder = import_file(Path(sys.argv[1]))
builder.os.fsync = lambda handle: os.kill(os.getpid(), signal.SIGKILL)  # dies with the new text written, not yet renamed
builder.main(sys.argv[2:])
"""


def test_a_build_killed_in_the_middle_leaves_the_old_notebooks_and_is_not_done(sample):
    assert sample.build() == 0
    before = sample.solution.read_bytes(), sample.released.read_bytes()
    edit(sample, "Only the tests", "Nobody but the tests")
    arguments = [sample.builder.__file__, "--root", str(sample.root), "--exercises", str(sample.exercises.parent)]
    done = subprocess.run([sys.executable, "-c", KILLED, *arguments], check=False, env=os.environ)
    assert done.returncode == -signal.SIGKILL
    assert (sample.solution.read_bytes(), sample.released.read_bytes()) == before
    assert sample.build("--check") == 1
    assert sample.build() == 0 and sample.build("--check") == 0
    assert not [p.name for p in sample.root.glob("*/.*.part")]
