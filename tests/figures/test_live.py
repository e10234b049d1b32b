"""A live figure draws anew when a control moves, survives a function that fails, and is a picture in a report."""

import nbformat
import pytest
from edgeinfer.figures import Axis, Chart, Choice, Frame, Line, LiveFigure, Slider
from nbclient import NotebookClient


def drawn(power, kind):
    if power == 3:
        raise ZeroDivisionError("three is <not> for us")
    return Frame(
        [Chart([Line([1, 2, 3], [n**power for n in (1, 2, 3)])], Axis("n"), Axis("value"))],
        f"{kind} to the power {power}",
        {"largest": str(3**power)},
    )


@pytest.fixture
def figure():
    return LiveFigure(
        "Powers", [Slider("power", "Power", range(1, 5), default=2), Choice("kind", "Kind", ("n", "m"))], drawn
    )


def test_moving_a_control_draws_again(figure):
    power, kind, shown = figure.widget().children
    assert "n to the power 2" in shown.value
    assert 'alt="n to the power 2"' in shown.value
    power.value = 4
    assert "n to the power 4" in shown.value
    assert "<b>81</b>" in shown.value
    kind.value = "m"
    assert "m to the power 4" in shown.value


def test_the_function_is_called_as_it_is_now(figure):
    answers = ["first", "second"]
    changing = LiveFigure("C", [Slider("n", "N", (1, 2))], lambda n: Frame(drawn(n, "n").panels, answers[n - 1]))
    number, shown = changing.widget().children
    answers[1] = "mended"
    number.value = 2
    assert "mended" in shown.value


def test_a_function_that_fails_is_a_sentence_and_the_controls_stay(figure):
    power, _, shown = figure.widget().children
    power.value = 3
    assert "could not be drawn for power = 3, kind = n: ZeroDivisionError" in shown.value
    assert "&lt;not&gt;" in shown.value
    power.value = 1
    assert "n to the power 1" in shown.value


def test_controls_are_checked():
    with pytest.raises(ValueError, match="one to four controls, not 0"):
        LiveFigure("none", [], drawn)
    with pytest.raises(ValueError, match="is not one of"):
        LiveFigure("odd", [Slider("power", "Power", (1, 2), default=9)], drawn)
    silent = LiveFigure("silent", [Slider("n", "N", (1,))], lambda n: Frame(drawn(1, "n").panels, " "))
    assert "say in a sentence what it shows" in silent.render()


def test_where_nobody_moves_anything_the_page_draws_the_first_state(figure, monkeypatch):
    monkeypatch.setenv("EDGEINFER_STRICT", "1")
    bundle = figure._repr_mimebundle_()
    assert set(bundle) == {"text/plain", "text/html"}
    assert 'class="lmfig"' in bundle["text/html"] and "n to the power 2" in bundle["text/html"]
    assert "the controls are there where the notebook runs" in bundle["text/html"]
    figure.default["power"] = 3  # for which it fails
    assert "could not be drawn for power = 3" in figure._repr_mimebundle_()["text/html"]


def test_in_a_kernel_it_is_a_widget(monkeypatch):
    monkeypatch.delenv("EDGEINFER_STRICT", raising=False)
    source = (
        "from edgeinfer.figures import *\n"
        "LiveFigure('L', [Slider('n', 'N', (1, 2))], lambda n: Frame([Chart([Line([1, 2], [n, n])], Axis('x'), "
        "Axis('y'))], f'level {n}'))"
    )
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
    shown = notebook.cells[0].outputs[0].data
    model = shown["application/vnd.jupyter.widget-view+json"]["model_id"]
    state = notebook.metadata.widgets["application/vnd.jupyter.widget-state+json"]["state"]
    assert state[model]["model_name"] == "VBoxModel"
    assert any("level 1" in str(part["state"].get("value", "")) for part in state.values())
