"""Interactive figures: complete without a kernel, safe with any text, the same thing in every state and medium."""

import html
import json
import re
from html.parser import HTMLParser

import pytest
from edgeinfer.figures import Axis, Chart, Choice, Frame, Line, PictureFigure, Points, Slider, SliderFigure, Table
from hypothesis import given, settings
from hypothesis import strategies as st


def small(label: str = "Height", text: str = "state", title: str = "A figure") -> SliderFigure:
    def draw(power: int, how: str) -> Frame:
        x = [1, 2, 3]
        return Frame(
            [
                Chart(
                    [Line(x, [v**power for v in x], label), Points([2], [2**power], names=[label])],
                    Axis("x"),
                    Axis("y"),
                ),
                Table(["", "a"], [["row", how]], caption=label, strong=[(0, 1)]),
            ],
            f"{text} {power} {how}",
            {"power": str(power)},
        )

    return SliderFigure(
        title, [Slider("power", label, (1, 2, 3), "units", default=2), Choice("how", "How", ("u", "v"))], draw
    )


def payload(page: str) -> dict:
    return json.loads(re.search(r'<script type="application/json">(.*?)</script>', page, re.S)[1])


class Tags(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict]] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def test_every_state_has_its_frame_in_the_order_of_the_controls():
    data = payload(small().to_html())
    assert [f["text"] for f in data["frames"]] == [f"state {p} {h}" for p in (1, 2, 3) for h in "uv"]
    assert [len(c["labels"]) for c in data["controls"]] == [3, 2]


def test_parts_that_do_not_change_are_stored_once():
    data = payload(small().to_html())
    axes = [entry for entry in data["pool"] if "ticks" in entry]
    assert len(axes) == 2 and len(data["pool"]) < 6 * 5


@pytest.mark.filterwarnings("ignore:Glyph")
@settings(max_examples=8, deadline=None)
@given(st.text(max_size=30), st.text(max_size=30), st.text(max_size=30))
def test_no_text_of_an_author_becomes_markup(label, text, title):
    figure = small(label + "<img src=x onerror=alert(1)></script>", "t" + text + "<b>&amp;", title + '"><script>')
    page = figure.to_html()
    tags = [tag for tag, _ in Tags(page).found]
    assert tags.count("script") == 2 and "b" not in tags
    assert [a.get("src", "")[:19] for tag, a in Tags(page).found if tag == "img"] == ["data:image/svg+xml,"]
    assert payload(page)["frames"][0]["text"].startswith("t" + text + "<b>&amp;")


def test_a_dollar_sign_is_a_dollar_sign():
    assert "noscript" in small("cost $\\x$ {", "a $b", "$ title").to_html()


def test_controls_are_labelled_native_and_keep_their_keys_in_jupyterlab():
    tags = Tags(small().to_html()).found
    controls = [a for tag, a in tags if tag in ("input", "select")]
    labels = [a["for"] for tag, a in tags if tag == "label"]
    assert len(controls) == 2 and [c["id"] for c in controls] == labels
    assert all(c["data-lm-suppress-shortcuts"] == "true" for c in controls)
    assert [a["value"] for tag, a in tags if tag == "input"] == ["1"]


def test_the_same_figure_twice_on_a_page_has_no_id_twice():
    figure = small()
    ids = [a["id"] for _, a in Tags(figure.to_html() + figure.to_html()).found if "id" in a]
    assert len(ids) == len(set(ids))


def test_a_page_without_scripts_shows_the_default_state_with_its_words():
    page = small().to_html()
    inside = re.search(r"<noscript>(.*?)</noscript>", page, re.S)[1]
    assert 'alt="state 2 u"' in html.unescape(inside)
    assert '<p class="lm-text" aria-live="polite">state 2 u</p>' in page


def test_nothing_is_asked_of_another_place():
    page = small().to_html().replace("http://www.w3.org/", "")
    assert "http" not in page and "import(" not in page and "fetch(" not in page


def test_the_static_picture_is_drawn_for_any_state():
    figure = small().static(power=3, how="v")
    assert len(figure.axes) == 2


def test_pictures_of_matplotlib_can_be_frames():
    import matplotlib.pyplot as plt

    def draw(n: int):
        figure, axes = plt.subplots(figsize=(3, 2))
        axes.plot(range(n))
        return figure

    data = payload(PictureFigure("P", [Slider("n", "N", (2, 3))], draw, lambda n: f"{n} points").to_html())
    assert [f["text"] for f in data["frames"]] == ["2 points", "3 points"]
    assert all(entry["src"].startswith("data:image/svg+xml,") for entry in data["pool"])


@pytest.mark.parametrize(
    ("controls", "draw", "sentence"),
    [
        ([], lambda: None, "one to four controls, not 0"),
        ([Slider("a", "A", range(5000))], lambda a: None, "5000 states"),
        ([Slider("a", "A", (1, 2), default=3)], lambda a: None, "default 3 of control 'a'"),
        ([Slider("a", "A", ())], lambda a: None, "has no values"),
        ([Slider("a", "A", (1, 2))], lambda a: Frame([], " "), "has no text"),
        ([Slider("a", "A", (1, 2))], lambda a: Frame([Table([], [])] * a, "t"), "other panels than the first"),
    ],
)
def test_mistakes_of_an_author_get_a_sentence(controls, draw, sentence):
    with pytest.raises(ValueError, match=sentence):
        SliderFigure("t", controls, draw)


def test_importing_figures_loads_no_heavy_library():
    import subprocess
    import sys

    code = "import sys, edgeinfer.figures; print([m for m in ('torch', 'numba', 'matplotlib') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_a_control_may_have_any_name():
    figure = SliderFigure(
        "A title", [Slider("t", "Time", (1, 2))], lambda t: Frame([Table(["", "a"], [["row", str(t)]])], f"time {t}")
    )
    ids = re.findall(r' id="([^"]+)"', figure._repr_html_())
    assert len(ids) == len(set(ids))


def test_only_a_slider_that_asks_for_it_can_play():
    def draw(step):
        return Frame([Table(["step"], [[step]])], f"step {step}")

    for play, count in ((False, 0), (True, 1)):
        figure = SliderFigure("Steps", [Slider("step", "Step", range(3), play=play)], draw)
        buttons = [a for tag, a in Tags(figure.to_html()).found if tag == "button"]
        assert [b["aria-label"] for b in buttons] == ["Play: Step"] * count
