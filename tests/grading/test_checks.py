"""The student-facing checks: whose function is called, what is recognised, and that no answer breaks them."""

import sys
import threading
import types

import numpy as np
import pytest
from edgeinfer.grading import checks
from edgeinfer.grading.exercise import Exercise, Lab, Misconception, Returns, load_lab
from edgeinfer.grading.judge import NOT_ATTEMPTED
from hypothesis import given, settings
from hypothesis import strategies as st


@pytest.fixture(autouse=True)
def _soft(monkeypatch):
    monkeypatch.delenv("EDGEINFER_STRICT", raising=False)


@pytest.fixture
def lab(built):
    return checks.lab(built.exercises)


def right(weight, bits):
    scale = np.abs(weight).max() / (2 ** (bits - 1) - 1)
    return np.round(weight / scale).astype(np.int8), scale


def library_double(codes, scale):
    """Stands for the library's version in these tests."""
    return codes * scale


library_double.__module__ = "edgeinfer.kernels.made_up"


def test_a_right_answer_passes_and_shows_itself(lab):
    result = lab.check("quantize", right)
    assert result and result.status == "right" and "quantize" in result._repr_html_()


def test_the_students_object_is_called_and_no_other(lab):
    calls = []

    def mine(weight, bits):
        calls.append(weight.size)
        return right(weight, bits)

    assert lab.check("quantize", mine)
    key = lab._keys["quantize"]
    assert calls == [args[0].size for args in key.cases] + [key.cases[0][0].size]


def test_a_wrong_answer_fails_even_if_a_right_function_of_that_name_is_about(lab, monkeypatch):
    module = types.ModuleType("edgeinfer.kernels.made_up")
    module.quantize = right
    monkeypatch.setitem(sys.modules, "edgeinfer.kernels.made_up", module)
    assert not lab.check("quantize", lambda weight, bits: (np.zeros(weight.shape, np.int8), 1.0))


def test_the_check_passes_although_the_librarys_version_is_broken(lab):
    def broken(weight, bits):
        raise AssertionError("the check must not come here")

    assert lab.check("quantize", right)
    assert lab.fallback("quantize", right, broken) is right


@pytest.mark.parametrize("function", [library_double, lambda codes, scale: library_double(codes, scale)])
def test_the_librarys_own_function_is_no_answer(lab, function):
    assert not lab.check("dequantize", function)


def test_an_attribute_that_is_called_like_a_room_of_the_library_is_no_use_of_it(lab):
    space = {"measure": sys.modules["edgeinfer.grading"]}
    code = "def dequantize(codes, scale):\n    class T: measure = scale\n    return codes * T().measure\n"
    exec(code, space)  # noqa: S102 - as a notebook does
    assert lab.check("dequantize", space["dequantize"])


def test_the_fallback_is_announced_and_is_no_answer_either(lab, capsys):
    used = lab.fallback("dequantize", lambda codes, scale: None, library_double)
    assert "library's version" in capsys.readouterr().out
    assert used(np.array([2]), 3.0) == 6
    result = lab.check("dequantize", used)
    assert not result and "not yours" in result.message


def test_a_function_that_passed_is_handed_out_itself(lab, capsys):
    assert lab.check("quantize", right)
    assert lab.fallback("quantize", right, library_double) is right
    assert capsys.readouterr().out == ""


def test_strict_makes_checks_and_fallbacks_raise(lab, monkeypatch):
    monkeypatch.setenv("EDGEINFER_STRICT", "1")
    assert lab.check("quantize", right)
    with pytest.raises(checks.CheckFailed, match="not attempted"):
        lab.check("quantize", lambda weight, bits: ...)
    with pytest.raises(checks.CheckFailed, match="would fall back"):
        lab.fallback("quantize", lambda weight, bits: None, library_double)
    monkeypatch.setenv("EDGEINFER_STRICT", "0")
    assert not lab.check("quantize", lambda weight, bits: ...)


@pytest.mark.parametrize("nothing", [None, ..., lambda weight, bits: None, lambda weight, bits: ...])
def test_an_untouched_stub_is_not_attempted(lab, nothing):
    assert lab.check("quantize", nothing).status == NOT_ATTEMPTED


class Hostile:
    def __array__(self, *_, **__):
        raise RuntimeError("no array")


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (7, "returned one value"),
        ("codes", "returned str"),
        ((None, None), "returned tuple with None"),
        ({}, "returned dict"),
        ((1, 2, 3), "returned 3 values"),
        (tuple(range(99)), "tuple of 99 values"),
        (Hostile(), "no array"),
        ((np.zeros(3, object), 1.0), "dtype object"),
        ((np.zeros((7, 1), np.int8), 1.0), "shape (7, 1), expected (7,)"),
        ((np.zeros(7, np.float32), 1.0), "dtype float32, expected int8"),
        ((np.zeros(7, np.int8), 1), "dtype int64, expected floating"),
    ],
)
def test_answers_of_the_wrong_kind_get_a_sentence(lab, answer, says):
    result = lab.check("quantize", lambda weight, bits: answer)
    assert not result and says in result.message and len(result.message) < 600


def test_nan_is_said_in_words(lab):
    result = lab.check("dequantize", lambda codes, scale: codes * np.nan)
    assert "NaN" in result.message


@pytest.mark.parametrize(
    "value", [10**30, -(10**300), 1e308, np.inf, np.zeros((3, 0)), "x" * 10**6, [[1], [1, 2]], b"", 1j]
)
def test_odd_values_never_break_the_check(lab, value):
    result = lab.check("dequantize", lambda codes, scale: value)
    assert not result and len(repr(result)) < 1000 and result._repr_html_()


def test_an_exception_is_shown_with_the_students_line(lab):
    space = {}
    code = "def quantize(weight, bits):\n    scale = weight.maximum()\n    return scale\n"
    from edgeinfer.grading.runner import remember

    remember("<cell 3>", code)
    exec(compile(code, "<cell 3>", "exec"), space)  # noqa: S102 - as a notebook does
    result = lab.check("quantize", space["quantize"])
    assert result.status == "error"
    assert "AttributeError" in result.message and "Line 2: scale = weight.maximum()" in result.message


@pytest.mark.parametrize("error", [SystemExit, RecursionError, MemoryError, ZeroDivisionError, StopIteration])
def test_no_error_of_the_student_stops_the_notebook(lab, error):
    def fails(weight, bits):
        raise error("x")

    assert lab.check("quantize", fails).status == "error"


def test_markup_in_a_message_is_text(lab):
    def fails(weight, bits):
        raise ValueError("<script>alert(1)</script>")

    assert "<script>" not in lab.check("quantize", fails)._repr_html_()


def test_changing_the_input_is_named_and_does_not_leak_into_later_calls(lab):
    def in_place(codes, scale):
        out = codes * scale
        codes[:] = 0
        return out

    assert lab.check("dequantize", in_place).misconception == "changes-its-input"
    assert lab.check("dequantize", lambda codes, scale: codes * scale)


def test_one_buffer_for_all_answers_is_no_mistake_and_a_memory_is(lab):
    buffer = np.zeros(1000)

    def reuses(codes, scale):
        buffer[: codes.size] = codes * scale
        return buffer[: codes.size]

    assert lab.check("dequantize", reuses)
    state = []

    def remembers(codes, scale):
        state.append(1)
        return codes * scale + (len(state) > 3)

    assert lab.check("dequantize", remembers).misconception == "remembers-between-calls"


def test_a_view_of_the_input_is_compared_by_value():
    lab = checks.LabChecks(
        Lab(
            "views",
            [
                Exercise(
                    "first_half",
                    "x (N,) -> (N // 2,)",
                    lambda rng: [(rng.normal(size=8),)],
                    lambda x: [float(v) for v in x[: len(x) // 2]],
                    (Returns("half", dtype="floating"),),
                )
            ],
        )
    )
    assert lab.check("first_half", lambda x: x[:4])
    assert not lab.check("first_half", lambda x: x[4:])


@pytest.mark.skipif(not hasattr(__import__("signal"), "setitimer"), reason="no timers on this system")
def test_an_endless_loop_is_stopped_even_if_it_swallows_exceptions(built, monkeypatch):
    lab = checks.lab(built.exercises)
    monkeypatch.setattr(checks, "time_limit", lambda seconds, real=checks.time_limit: real(0.2))

    def endless(weight, bits):
        while True:
            try:
                while True:
                    pass
            except Exception:
                continue

    result = lab.check("quantize", endless)
    assert result.status == "time limit" and "input 1" in result.message


def test_checks_work_on_a_side_thread(lab):
    results = []
    thread = threading.Thread(target=lambda: results.append(lab.check("quantize", right)))
    thread.start()
    thread.join()
    assert results[0]


def test_a_recogniser_that_fails_does_not_hide_the_verdict():
    def recognises(args, got, want):
        raise IndexError

    exercise = Exercise(
        "double",
        "x -> 2x",
        lambda rng: [(1.0,), (2.0,)],
        lambda x: 2 * x,
        (Returns("y"),),
        [Misconception("m", "says", recognises=recognises)],
    )
    assert checks.LabChecks(Lab("l", [exercise])).check("double", lambda x: x).status == "wrong"


def test_an_accepting_exercise_takes_every_right_answer():
    def accept(args, got):
        return "" if abs(got[0] ** 2 - args[0]) < 1e-9 else "its square is not x"

    exercise = Exercise("root", "x -> y", lambda rng: [(4.0,)], lambda x: x**0.5, (Returns("y"),), accept=accept)
    lab = checks.LabChecks(Lab("l", [exercise]))
    assert lab.check("root", lambda x: -2.0) and lab.check("root", lambda x: 2.0)
    assert "its square" in lab.check("root", lambda x: 3.0).message


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32))
def test_right_answers_stay_right_with_any_hidden_inputs(built_seed):
    from edgeinfer.grading.judge import Key, judge
    from edgeinfer.grading.runner import call_case

    exercise = SAMPLE["quantize"]
    key = Key(exercise, exercise.cases(built_seed))
    assert judge(key, [call_case(right, args) for args in key.cases]).passed


SAMPLE = load_lab(__import__("pathlib").Path(__file__).parent / "sample" / "lab99.py")


def test_equal_seeds_give_equal_inputs_and_other_seeds_others():
    a, b, c = (SAMPLE["quantize"].cases(seed) for seed in (1, 1, 2))
    assert all(np.array_equal(x[0], y[0]) for x, y in zip(a, b, strict=True))
    assert not all(np.array_equal(x[0], y[0]) for x, y in zip(a, c, strict=True))


def test_faulty_exercises_are_refused_with_a_sentence():
    with pytest.raises(ValueError, match="exactly one of"):
        Misconception("x", "y")
    with pytest.raises(ValueError, match="no earlier"):
        Lab("l", [Exercise("f", "", lambda r: [()], lambda: 1, (Returns("y"),), needs=("g",))])
    with pytest.raises(FileNotFoundError, match="no exercises for lab 'lab77_none'"):
        load_lab("lab77_none")
    with pytest.raises(FileNotFoundError, match="no exercises"):
        load_lab("../lab01")
