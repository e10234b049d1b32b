# ruff: noqa: E501 - a hostile answer is one line of the table
"""A class with hostile and broken submissions is graded: each gets its verdict, the honest ones their points."""

import csv
import html
import inspect
import json
import os

import numpy as np
import pytest
from edgeinfer.grading import grade as grading
from edgeinfer.grading import notebooks, report, runner
from edgeinfer.grading.__main__ import main
from edgeinfer.grading.exercise import Exercise, Lab, Returns
from edgeinfer.grading.judge import Key
from edgeinfer.grading.sandbox import FIRST_UID, Limits, Run, Sandbox

RIGHT = "def quantize(weight, bits):\n    s = np.abs(weight).max() / (2 ** (bits - 1) - 1)\n    return np.round(weight / s).astype(np.int8), s\n"
NAME = "def quantize(weight, bits):\n"

# student -> (code of the cell `quantize`, statuses that are expected). On a busy machine time may run out first.
HOSTILE = {
    "right": (RIGHT, {"right"}),
    "right_prints_much": ("print('x' * 100000)\n" + RIGHT, {"right"}),
    "right_with_magic": ("%matplotlib inline\n!rm -rf /\n" + RIGHT, {"right"}),
    "wrong": (NAME + "    return np.zeros(weight.shape, np.int8), 1.0", {"wrong"}),
    "misconception": (RIGHT.replace("(bits - 1)", "bits"), {"wrong"}),
    "untouched": ('def quantize(weight, bits):\n    """Return (codes int8 (N,), scale float)."""\n    ...  # your code here', {"not attempted"}),
    "stub_edited": ("# I tried\n" + NAME + "    x = 1\n    ...", {"not attempted"}),
    "syntax_error": (NAME + "    return (weight", {"syntax error"}),
    "null_byte": (RIGHT + "\0", {"syntax error"}),
    "endless_loop": (NAME + "    while True: pass", {"time limit"}),
    "endless_at_import": ("while True: pass", {"time limit"}),
    "ignores_signals": ("import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\n" + NAME + "    while True: pass", {"time limit", "killed"}),
    "memory": (NAME + "    x = np.ones(1 << 40); return x, 1.0", {"memory limit"}),
    "memory_slowly": (NAME + "    x = []\n    while True: x.append(bytearray(1 << 24))", {"memory limit", "time limit"}),
    "fork_bomb": ("import os\n" + NAME + "    while True:\n        try: os.fork()\n        except OSError: pass", {"time limit", "killed", "process limit"}),
    "daemon": ("import os\nif os.fork() == 0:\n    os.setsid()\n    while True: pass\n" + NAME + "    return 1", {"time limit", "killed", "wrong", "no answer"}),
    "os_exit": ("import os\n" + NAME + "    os._exit(0)", {"no answer"}),
    "sys_exit": ("import sys\n" + NAME + "    sys.exit(0)", {"error"}),
    "segfault": ("import ctypes\n" + NAME + "    ctypes.string_at(0)", {"no answer"}),
    "kills_parent": ("import os, signal\n" + NAME + "    os.kill(os.getppid(), signal.SIGKILL)\n    os.kill(-1, 9)", {"no answer", "killed", "error"}),
    "reads_oracle": ("import edgeinfer.grading.exercise as e\nquantize = e.load_lab('lab99_sample')['quantize'].oracle", {"error"}),
    "reads_files": ("import os\n" + NAME + "    raise ValueError(sorted(os.listdir('/')) + os.listdir('/tmp'))", {"error"}),
    "writes_root": (NAME + "    open('/x', 'w').write('x')", {"error"}),
    "fills_disk": (NAME + "    for i in range(10**6): open(f'/tmp/{i}', 'wb').write(bytes(1 << 24))", {"error", "memory limit", "time limit"}),
    "socket": ("import socket\n" + NAME + "    socket.create_connection(('127.0.0.1', 22), 2)", {"error"}),
    "flood": ("import os\n" + NAME + "    while True:\n        for f in range(3, 12):\n            try: os.write(f, bytes(65536))\n            except OSError: pass", {"output limit"}),
    "stderr_flood": ("import sys\n" + NAME + "    while True: sys.stderr.write('x' * 65536)", {"output limit", "time limit"}),
    "false_header": ("import os, struct, json\nfor f in range(3, 12):\n    try:\n        h = json.dumps([{'kind': 'arrays', 'arrays': [{'dtype': '|i1', 'shape': [1 << 60]}]}]).encode(); os.write(f, struct.pack('<I', len(h)) + h)\n    except OSError: pass\nos._exit(0)", {"no answer"}),
    "says_right": ("import os, struct, json\nfor f in range(3, 12):\n    try:\n        h = json.dumps([{'kind': 'right', 'status': 'right', 'points': 2, 'arrays': []}] * 6).encode(); os.write(f, struct.pack('<I', len(h)) + h)\n    except OSError: pass\nos._exit(0)", {"wrong", "no answer"}),
    "deep_json": ("import os, struct\nfor f in range(3, 12):\n    try:\n        h = b'[' * 200000; os.write(f, struct.pack('<I', len(h)) + h)\n    except OSError: pass\nos._exit(0)", {"no answer"}),
    "pickle": ("import pickle\nclass P:\n    def __reduce__(self): return (print, ('x',))\n" + NAME + "    return np.array([P()], dtype=object), 1.0", {"wrong"}),
    "always_equal": ("class E(np.ndarray):\n    def __eq__(self, o): return np.ones(self.shape, bool)\n" + NAME + "    return np.zeros(weight.shape, np.int8).view(E), 1.0", {"wrong"}),
    "patches_numpy": ("np.isclose = np.allclose = lambda *a, **k: True\nimport builtins\nbuiltins.all = lambda x: True\n" + NAME + "    return np.zeros(weight.shape, np.int8), 1.0", {"wrong"}),
    "patches_runner": ("import sys\nm = sys.modules['__main__']\nm.call_case = lambda f, a: {'kind': 'arrays', 'arrays': []}\n" + NAME + "    return 1", {"wrong"}),
    "ipython_hook": ("get_ipython().input_transformers_cleanup.append(lambda lines: [])\n" + RIGHT, {"error"}),
    "huge_scale": (NAME + "    return np.zeros(weight.shape, np.int8), 1e30", {"wrong"}),
    "no_function": ("x = 1", {"error"}),
    "recursion": (NAME + "    return quantize(weight, bits)", {"error"}),
}  # fmt: skip


def notebook(built, code, copies=1):
    """The released lab with this code in the cell `quantize`."""
    made = json.loads(built.released.read_text(encoding="utf-8"))
    cells = []
    for cell in made["cells"]:
        if cell["id"] == "quantize":
            cell["source"] = code
            cells += [cell] * (copies - 1)
        cells += [cell] if not (cell["id"] == "quantize" and copies == 0) else []
    return {**made, "cells": cells}


def hand_in(folder, student, content):
    (folder / student).mkdir(parents=True)
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    (folder / student / "lab99_sample.ipynb").write_bytes(data)


def grade(built, submissions, out, **more):
    return grading.grade_class(
        built.exercises,
        submissions,
        out,
        solutions=built.solution.parent,
        labs=built.released.parent,
        say=lambda text: None,
        **more,
    )


@pytest.fixture(scope="session")
def sandbox():
    return Sandbox()


@pytest.fixture(scope="session")
def classroom(built, tmp_path_factory, sandbox):
    """One class with everything in it, graded once."""
    folder = tmp_path_factory.mktemp("submissions")
    for student, (code, _) in HOSTILE.items():
        if sandbox.kind == "bubblewrap" or student in (
            "right",
            "wrong",
            "untouched",
            "endless_loop",
            "os_exit",
            "flood",
        ):
            hand_in(folder, student, notebook(built, code))
    hand_in(folder, "solved", json.loads(built.solution.read_text()))
    hand_in(folder, "cell_removed", notebook(built, RIGHT, copies=0))
    hand_in(folder, "cell_doubled", notebook(built, RIGHT, copies=2))
    turned = notebook(built, RIGHT)
    hand_in(folder, "reordered", {**turned, "cells": turned["cells"][::-1]})
    bare = notebook(built, RIGHT)
    for cell in bare["cells"]:
        cell["metadata"] = {}
    hand_in(folder, "no_metadata", bare)
    hand_in(folder, "not_json", b"{")
    hand_in(folder, "not_utf8", "ä".encode("latin-1") + b"{}")
    hand_in(folder, "no_cells", {"cells": 3})
    hand_in(folder, "odd_cells", {"cells": [1, None, {"cell_type": "code", "source": 7, "metadata": {"nbgrader": []}}]})
    hand_in(folder, "nested", b"[" * 100000)
    hand_in(folder, "empty_file", b"")
    hand_in(folder, "=cmd()<b>", notebook(built, RIGHT))
    (folder / "no_notebook").mkdir()
    (folder / "link").mkdir()
    (folder / "link" / "lab99_sample.ipynb").symlink_to(built.solution)
    (folder / "link_to_folder").symlink_to(folder / "solved")
    (folder / "archive.zip").write_bytes(b"PK")
    with (folder / "huge.ipynb").open("wb") as file:
        file.truncate(200 << 20)
    if hasattr(os, "mkfifo"):
        os.mkfifo(folder / "pipe.ipynb")
    out = tmp_path_factory.mktemp("report")
    records = grade(built, folder, out, sandbox=sandbox)
    return folder, out, {r["student"]: r for r in records}


@pytest.mark.parametrize("student", HOSTILE)
def test_each_answer_gets_its_verdict(classroom, student):
    records = classroom[2]
    if student not in records:
        pytest.skip("needs bubblewrap")
    verdict = records[student]["exercises"]["quantize"]
    assert verdict["status"] in HOSTILE[student][1], verdict
    assert verdict["points"] == (2 if "right" in HOSTILE[student][1] else 0)
    assert records[student]["score"] == verdict["points"]
    assert verdict["message"]


def test_what_is_no_notebook_gets_no_points_and_a_sentence(classroom):
    records = classroom[2]
    expected = {
        "not_json": "not JSON",
        "not_utf8": "not UTF-8",
        "no_cells": "no notebook of format 4",
        "nested": "not JSON",
        "empty_file": "not JSON",
        "no_notebook": "holds no notebook",
        "link": "is a link",
        "link_to_folder": "is a link",
        "archive": "damaged or no zip file",
        "huge": "200 MiB",
        "pipe": "not a regular file",
    }
    for student, says in expected.items():
        if student in records:
            assert says in records[student]["problem"], records[student]
            assert records[student]["score"] == 0


def test_cells_count_by_their_id_wherever_they_stand(classroom):
    records = classroom[2]
    assert records["solved"]["score"] == records["solved"]["points"] == 3
    assert records["reordered"]["score"] == records["no_metadata"]["score"] == 2
    assert records["cell_removed"]["exercises"]["quantize"]["status"] == "cell missing"
    assert records["cell_doubled"]["exercises"]["quantize"]["status"] == "cell doubled"
    assert records["odd_cells"]["score"] == 0


def test_a_misconception_is_named_on_the_feedback_page(classroom):
    _, out, records = classroom
    if "misconception" in records:
        assert records["misconception"]["exercises"]["quantize"]["misconception"] == "no-sign-bit"
        assert "One of the bits is the sign" in (out / "feedback" / "misconception.html").read_text()


def test_nothing_secret_is_in_reach(classroom, sandbox, built):
    if sandbox.kind != "bubblewrap":
        pytest.skip("needs bubblewrap")
    records = classroom[2]
    seen = records["reads_files"]["exercises"]["quantize"]["message"]
    assert "runner.py" in seen and "etc" not in seen and "sample" not in seen
    assert "No module named 'edgeinfer'" in records["reads_oracle"]["exercises"]["quantize"]["message"]


def test_sheets_and_pages_hold_everyone_and_no_markup_or_formula_of_a_student(classroom):
    _, out, records = classroom
    with (out / "grades.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(records) == len(list((out / "feedback").glob("*.html")))
    assert "'=cmd()<b>" in {r["student"] for r in rows}
    assert "<b>" not in (out / "index.html").read_text()
    assert (out / "canvas.csv").is_file() and (out / "moodle.csv").is_file()
    assert oct((out / "run.json").stat().st_mode)[-3:] == "600"


def test_a_second_run_grades_only_what_is_new(classroom, built, sandbox, monkeypatch):
    folder, out, records = classroom
    hand_in(folder, "latecomer", notebook(built, RIGHT))
    graded = []
    real = grading.Grader.grade
    monkeypatch.setattr(grading.Grader, "grade", lambda self, s, data: graded.append(s.student) or real(self, s, data))
    again = {r["student"]: r for r in grade(built, folder, out, sandbox=sandbox)}
    assert graded == ["latecomer"] and again["latecomer"]["score"] == 2
    assert {k: v for k, v in again.items() if k != "latecomer"} == records


def test_nothing_is_graded_if_the_reference_is_wrong(built, tmp_path, sandbox):
    (tmp_path / "solutions").mkdir()
    broken = notebook(built, RIGHT.replace("round", "floor"))
    (tmp_path / "solutions" / "lab99_sample.ipynb").write_text(json.dumps(broken))
    hand_in(tmp_path / "in", "someone", notebook(built, RIGHT))
    with pytest.raises(grading.GradingError, match="reference solution of 'quantize' is not right"):
        grading.grade_class(
            built.exercises,
            tmp_path / "in",
            tmp_path / "out",
            solutions=tmp_path / "solutions",
            sandbox=sandbox,
            say=lambda text: None,
        )
    assert not list((tmp_path / "out" / "results").iterdir())


def test_grades_do_not_depend_on_seed_or_workers(built, tmp_path, sandbox):
    for student in ("right", "wrong", "misconception"):
        hand_in(tmp_path / "in", student, notebook(built, HOSTILE[student][0]))
    runs = [
        grade(built, tmp_path / "in", tmp_path / f"out{i}", sandbox=sandbox, seed=seed, workers=workers)
        for i, (seed, workers) in enumerate([(1, 1), (2, 2)])
    ]
    scores = [[(r["student"], r["score"], r["exercises"]["quantize"]["misconception"]) for r in run] for run in runs]
    assert scores[0] == scores[1] and scores[0][1][:2] == ("right", 2)


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="needs root")
def test_under_root_an_answer_is_nobody_without_any_capability(sandbox):
    if sandbox.kind != "bubblewrap":
        pytest.skip("needs bubblewrap")
    code = (
        "import os\ndef f():\n"
        "    s = dict(l.split(':', 1) for l in open('/proc/self/status').read().splitlines())\n"
        "    try: os.setuid(0); back = 1\n    except OSError: back = 0\n"
        "    return [int(s[k].split()[0], 16) for k in ('CapEff', 'CapPrm', 'CapAmb')] + [int(s['NoNewPrivs']), os.getuid(), back]"
    )
    spec = {"cells": [("<answer>", code)], "function": "f", "harness": "", "repeat": False}
    run = sandbox.run(spec, [()], Limits(cpu=5))
    assert run.status == "answered", run
    values = runner.unpack(run.data)[0]["arrays"][0].tolist()
    assert values[:4] == [0, 0, 0, 1] and values[4] >= FIRST_UID and values[5] == 0


def test_without_bubblewrap_the_report_says_so_and_limits_still_hold(built, tmp_path):
    weak = Sandbox("limits")
    assert "WEAK" in weak.describe()
    for student in ("right", "endless_loop", "os_exit", "memory", "flood"):
        hand_in(tmp_path / "in", student, notebook(built, HOSTILE[student][0]))
    records = {r["student"]: r for r in grade(built, tmp_path / "in", tmp_path / "out", sandbox=weak)}
    for student, record in records.items():
        assert record["exercises"]["quantize"]["status"] in HOSTILE[student][1], record
    assert "WEAK" in (tmp_path / "out" / "index.html").read_text()


def test_an_answer_that_needs_another_gets_the_students_own(sandbox):
    exercises = [
        Exercise("one", "", lambda r: [(1.0,)], lambda x: x + 1, (Returns("y"),)),
        Exercise("two", "", lambda r: [(1.0,)], lambda x: x + 2, (Returns("y"),), needs=("one",)),
    ]
    grader = grading.Grader.__new__(grading.Grader)
    grader.lab, grader.sandbox, grader.stubs, grader.overheads = Lab("l", exercises), sandbox, {}, []
    grader.keys = {e.name: Key(e, e.cases(0)) for e in exercises}
    grader.limits = {e.name: Limits(cpu=5) for e in exercises}
    cells = [
        {"cell_type": "code", "id": "one", "source": "def one(x): return x + 1"},
        {"cell_type": "code", "id": "two", "source": "def two(x): return one(one(x))"},
    ]
    assert [v.status for v in grader.grade_cells(cells)] == ["right", "right"]


def test_a_grade_depends_on_the_code_that_judges_and_on_the_kind_of_sandbox(built, sandbox):
    def state(partial=False, kind=sandbox):
        return grading.fingerprint(built.lab, b"solution", b"released", kind, partial)

    weak = Sandbox("limits")
    other = grading.fingerprint(built.lab, b"another", b"released", sandbox, False)
    assert state() == state() and len({state(), state(partial=True), other}) == 3
    assert sandbox.kind == "limits" or state() != state(kind=weak)
    text = inspect.getsource(grading.fingerprint)
    for module in ("judging", "runner", "notebooks", "partial", "sandboxing", "archives", "__file__"):
        assert module in text


def test_the_speed_and_the_cost_of_the_sandbox_are_reported(classroom):
    _, out, _ = classroom
    said = json.loads((out / "run.json").read_text())["speed"]
    assert "per minute" in said and "The sandbox cost" in said
    assert html.escape(said) in (out / "index.html").read_text()


def test_the_sandbox_tells_its_own_time_from_the_answers(sandbox):
    spec = {"cells": [("<answer>", "import time\ndef f():\n    time.sleep(0.4); return 1.0")], "function": "f"}
    run = sandbox.run({**spec, "harness": "", "repeat": False}, [()], Limits(cpu=5))
    assert run.status == "answered" and 0 < run.overhead <= run.seconds - 0.4


@pytest.mark.parametrize("bad", [b"", b"\0", b"\xff\xff\xff\xff", b"\2\0\0\0{}", b"\2\0\0\0[]x", b"\1\0\0\0["])
def test_bytes_that_are_no_answer_are_refused(bad):
    with pytest.raises(ValueError, match=r"\w"):
        runner.unpack(bad)
    key = Key(Exercise("f", "", lambda r: [(1,)], lambda x: x, (Returns("y"),)), [(1,)])
    assert grading.verdict(key, Run("answered", bad)).points == 0


def test_arguments_arrive_as_they_were_sent():
    cases = [
        (np.arange(6, dtype=np.int8).reshape(2, 3), 4, 0.5, True, "text", [1, 2], np.zeros((0, 3), np.float32)),
        (),
    ]
    spec, back = runner.unpack_cases(runner.pack_cases({"a": 1}, cases))
    assert spec == {"a": 1} and back[1] == () and back[0][1:6] == cases[0][1:6]
    for i in (0, 6):
        assert back[0][i].dtype == cases[0][i].dtype and np.array_equal(back[0][i], cases[0][i])


def test_names_of_files_never_collide_or_leave_the_folder():
    names = ["a", "a/b", "../../x", "A B", "A_B", "=x", "ä", ".", "", "x" * 300]
    files = {report.safe_name(n) for n in names}
    assert len(files) == len(names) and all("/" not in f and not f.startswith(".") and len(f) < 80 for f in files)


def test_command_line_says_in_one_sentence_what_is_missing(tmp_path, capsys):
    assert main(["grade", "", "", "--out", str(tmp_path)]) == 1
    assert main(["grade", "lab77_none", str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    assert main(["grade", "lab99_sample", str(tmp_path / "none"), "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 3 and all(line.startswith("grading: ") for line in said)


def test_cells_that_differ_in_layout_only_are_untouched():
    assert notebooks.bare("def f(x):\n    ...  # your code here") == notebooks.bare("def f(x):\n\n\n  ... # hm")
    assert notebooks.bare("def f(x):\n    return 1") != notebooks.bare("def f(x):\n    ...")
