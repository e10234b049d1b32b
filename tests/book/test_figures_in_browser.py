"""What only a browser shows of a figure: the button that plays it, and views that are linked under the pointer."""

import pytest
from edgeinfer.figures import Axis, Chart, Frame, Line, Slider, SliderFigure


@pytest.fixture
def page(browser):
    def draw(step: int, factor: int) -> Frame:
        x = list(range(5))
        square = Chart([Line(x, [factor * v * v for v in x], label="square")], Axis("n"), Axis("value"))
        lines = [Line(x, [factor * k * v for v in x], label=f"{k} n") for k in (1, 2)]
        return Frame([square, Chart(lines, Axis("n"), Axis("value"))], f"step {step}, factor {factor}")

    controls = [Slider("step", "Step", range(5), play=True), Slider("factor", "Factor", (1, 2))]
    opened = browser.new_page(viewport={"width": 800, "height": 700})
    opened.set_content(SliderFigure("Growth", controls, draw).to_html())
    yield opened
    opened.close()


def test_play_goes_to_the_last_step_and_stops(page):
    page.get_by_role("button", name="Play: Step").click()
    assert page.get_by_role("button", name="Pause: Step").is_visible()
    page.wait_for_function("() => document.querySelector('.lm-text').textContent === 'step 4, factor 1'")
    assert page.get_by_role("button", name="Play: Step").is_visible()
    page.get_by_role("button", name="Play: Step").click()  # once more, from the start
    assert page.locator(".lm-text").text_content() == "step 0, factor 1"


def test_whoever_moves_the_slider_takes_over_from_play(page):
    page.get_by_role("button", name="Play: Step").click()
    page.get_by_role("slider", name="Step").press("ArrowRight")
    assert page.get_by_role("button", name="Play: Step").is_visible()


def test_what_is_pointed_at_is_marked_in_the_other_chart_too(page):
    charts = page.locator("svg[role=img]")
    area = charts.first.bounding_box()
    marked = charts.nth(1).locator("g[aria-hidden] circle")
    for down in range(30, int(area["height"]) - 40, 6):  # along the middle of the axis until the point is met
        page.mouse.move(area["x"] + area["width"] * 0.54, area["y"] + down)
        if marked.count():
            break
    assert marked.count() == 2
    assert charts.nth(1).locator("g[aria-hidden] text").all_text_contents() == ["2", "4"]
    page.mouse.move(2, 2)
    assert marked.count() == 0
