"""Every page in a real browser with the network cut: quiet, complete, usable with keys and on a phone, accessible."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from .site_tools import built_pages

pytestmark = pytest.mark.browser
AXE = (Path(__file__).parent / "vendor" / "axe.min.js").read_text(encoding="utf-8")
PATIENCE = 120_000  # milliseconds; only an upper limit, nothing waits for it to pass

# One key on each control must change the state; the words must change with it.
TRY_FIGURES = """
() => Array.from(document.querySelectorAll('.lmfig')).map(figure => ({
  id: figure.id, ready: figure.hasAttribute('data-ready'), drawn: figure.querySelectorAll('.lm-panel').length,
  controls: Array.from(figure.querySelectorAll('input,select')).map(control => control.id)}))
"""


@dataclass
class Opened:
    """What was seen when a page was opened."""

    errors: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    still: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    width: int = 0
    weight: int = 0
    wide: list[str] = field(default_factory=list)


def press_every_control(page) -> list[str]:
    """Returns the controls on which a key press changed nothing."""
    still = []
    for figure in page.evaluate(TRY_FIGURES):
        if not figure["ready"] or not figure["drawn"]:
            still.append(f"{figure['id']} was not drawn")
        for control in figure["controls"]:
            before = page.get_attribute(f"[id='{figure['id']}']", "data-state")
            words = page.inner_text(f"[id='{figure['id']}'] .lm-text")
            page.focus(f"[id='{control}']")
            for key in ("ArrowRight", "ArrowLeft", "ArrowDown", "ArrowUp"):
                page.keyboard.press(key)
                if page.get_attribute(f"[id='{figure['id']}']", "data-state") != before:
                    break
            else:
                still.append(control)
                continue
            if page.inner_text(f"[id='{figure['id']}'] .lm-text") == words:
                still.append(f"{control}: the words stayed")
    return still


def open_page(browser, url: str, scheme: str) -> Opened:
    seen = Opened()
    context = browser.new_context(color_scheme=scheme, viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
    context.set_default_timeout(PATIENCE)
    page = context.new_page()

    def route(request_route) -> None:
        target = request_route.request.url
        if target.startswith(("http://127.0.0.1", "data:", "blob:")):
            request_route.continue_()
        else:
            seen.outside.append(target)
            request_route.abort()

    page.route("**/*", route)
    # What crosses the wire, compressed as every public server sends it.
    wire = context.new_cdp_session(page)
    wire.send("Network.enable")
    wire.on("Network.loadingFinished", lambda e: setattr(seen, "weight", seen.weight + int(e["encodedDataLength"])))
    page.on("console", lambda m: seen.errors.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda e: seen.errors.append(str(e)))
    page.on("response", lambda r: seen.failed.append(f"{r.status} {r.url}") if r.status >= 400 else None)
    page.goto(url, wait_until="load", timeout=PATIENCE)
    page.evaluate("() => window.MathJax && MathJax.startup ? MathJax.startup.promise.then(() => true) : true")
    page.wait_for_function("() => ['light', 'dark'].includes(document.documentElement.dataset.theme)")
    # The theme's own text is never pure black: while the footer is, its style sheet has not arrived yet.
    page.wait_for_function(
        "() => Array.from(document.querySelectorAll('footer p'))"
        ".every(p => getComputedStyle(p).color !== 'rgb(0, 0, 0)')"
    )
    # Two frames later the colours of the scheme are painted; on a busy machine axe saw the old ones.
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))")
    page.evaluate(AXE)
    found = page.evaluate("() => axe.run(document, {resultTypes: ['violations']}).then(r => r.violations)")
    for rule in found:
        nodes = "; ".join(node["html"][:160] for node in rule["nodes"][:3])
        why = rule["nodes"][0].get("failureSummary", "")[:300]
        seen.violations.append(f"{rule['id']} ({rule['impact']}, {len(rule['nodes'])} places): {nodes}; {why}")
    seen.still = press_every_control(page)
    page.set_viewport_size({"width": 390, "height": 800})
    seen.width = page.evaluate("() => document.documentElement.scrollWidth")
    if seen.width > 390:
        seen.wide = page.evaluate(
            "() => Array.from(document.querySelectorAll('main *')).filter(e => e.getBoundingClientRect().right > 392)"
            ".slice(0, 5).map(e => e.outerHTML.slice(0, 140))"
        )
    context.close()
    return seen


@pytest.fixture(
    scope="module", params=[(p, s) for p in built_pages() if p != "index.html" for s in ("light", "dark")], ids="-".join
)
def opened(request, browser, address) -> Opened:
    page, scheme = request.param
    return open_page(browser, f"{address}/{page}", scheme)


def test_no_script_fails_and_nothing_is_missing(opened):
    assert opened.errors == [] and opened.failed == []


def test_nothing_is_asked_outside(opened):
    assert opened.outside == []


def test_every_figure_answers_to_a_key(opened):
    assert opened.still == []


def test_a_phone_needs_no_sideways_scrolling(opened):
    assert opened.width <= 390, opened.wide


def test_a_page_with_all_it_needs_weighs_less_than_a_megabyte(opened):
    assert 0 < opened.weight < 1_000_000


def test_axe_finds_no_violation(opened):
    assert opened.violations == []
