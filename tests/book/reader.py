"""Opens a page as a reader does, wide and on a phone, light and dark, with the network cut, and notes what it sees.

A page is loaded once for each colour scheme: the light one wide, the dark one on a phone; then the window changes.
So both widths are loaded, every check is made in both schemes, and no page is loaded more often than that.
"""

import base64
from dataclasses import dataclass, field
from pathlib import Path

from .site_tools import ROOT

AXE = (Path(__file__).parent / "vendor" / "axe.min.js").read_text(encoding="utf-8")
SCREENSHOTS = ROOT / "reports" / "screenshots"
PATIENCE = 120_000  # milliseconds; only an upper limit, nothing waits for it to pass
SIZES = {"wide": {"width": 1440, "height": 1000}, "phone": {"width": 390, "height": 844}}
# Chromium draws no taller picture in one piece; a longer page is cut.
TALLEST = 16_000

# The theme lets Tab reach boxes that scroll 0.3 s after the window has changed. What it leaves out, axe tells.
UNTIL_REACHABLE = """
async () => {
  const boxes = "main pre, main .cell_output > .output, main .pst-scrollable-table-container";
  const left_out = e => e.tabIndex < 0 && (e.scrollWidth > e.clientWidth || e.scrollHeight > e.clientHeight);
  const limit = performance.now() + 5000;
  while (Array.from(document.querySelectorAll(boxes)).some(left_out) && performance.now() < limit)
    await new Promise(done => setTimeout(done, 20));
}
"""

# How far things moved while the page loaded, as browsers score it (cumulative layout shift); 0.1 counts as good.
WATCH_SHIFTS = """
(() => {
  window.shifted = [];
  new PerformanceObserver(list => list.getEntries().forEach(entry => {
    if (entry.hadRecentInput) return;
    const moved = entry.sources.map(s => s.node && (s.node.id || s.node.className || s.node.nodeName)).filter(Boolean);
    window.shifted.push([entry.value, moved.slice(0, 3).join(', ')]);
  })).observe({type: 'layout-shift', buffered: true});
})()
"""

# One key on each control must change the state; the words must change with it.
FIGURES = """
() => Array.from(document.querySelectorAll('.lmfig')).map(figure => ({
  id: figure.id, ready: figure.hasAttribute('data-ready'), drawn: figure.querySelectorAll('.lm-panel').length,
  controls: Array.from(figure.querySelectorAll('input,select')).map(control => control.id)}))
"""

# Everything in the text that takes a key: what is folded away or hidden takes none.
START_TABBING = """
() => {
  const main = document.querySelector('main');
  const kinds = 'a[href],button,input,select,textarea,summary,[tabindex="0"]';
  const shown = e => e.checkVisibility({visibilityProperty: true});
  const wanted = Array.from(main.querySelectorAll(kinds)).filter(e => !e.disabled && e.tabIndex >= 0 && shown(e));
  const name = e => e.id || e.outerHTML.slice(0, 120);
  window.reached = new Set();
  window.unseen = [];
  window.left = false;
  // The list of sections unfolds the one that is read and folds it again while Tab walks on.
  window.unreached = () => wanted.filter(e => !window.reached.has(e) && shown(e)).map(name);
  document.addEventListener('focusin', event => {
    const e = event.target, style = getComputedStyle(e);
    if (!main.contains(e)) { window.left = true; return; }
    window.reached.add(e);
    const ring = style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 1;
    if (!ring && style.boxShadow === 'none') window.unseen.push(name(e));
  });
  main.tabIndex = -1;
  main.focus({preventScroll: true});
  return wanted.length;
}
"""


@dataclass
class Opened:
    """What was seen when a page was opened."""

    errors: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    still: list[str] = field(default_factory=list)
    unreached: list[str] = field(default_factory=list)
    unseen: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    shifts: list[tuple[float, str]] = field(default_factory=list)
    width: int = 0
    weight: int = 0
    wide: list[str] = field(default_factory=list)
    boxes: list[str] = field(default_factory=list)


def press_every_control(page) -> list[str]:
    """Returns the controls on which a key press changed nothing."""
    still = []
    for figure in page.evaluate(FIGURES):
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


def tab_through(page) -> tuple[list[str], list[str]]:
    """Returns what Tab does not reach in the text, and what does not show that it has the focus."""
    for _ in range(2 * page.evaluate(START_TABBING) + 50):  # boxes that scroll, as code on a phone, take a Tab as well
        page.keyboard.press("Tab")
        if page.evaluate("window.left"):
            break
    return page.evaluate("window.unreached()"), page.evaluate("window.unseen")


def axe(page) -> list[str]:
    page.evaluate(AXE)
    found = page.evaluate("() => axe.run(document, {resultTypes: ['violations']}).then(r => r.violations)")
    told = []
    for rule in found:
        nodes = "; ".join(node["html"][:160] for node in rule["nodes"][:3])
        why = rule["nodes"][0].get("failureSummary", "")[:300]
        told.append(f"{rule['id']} ({rule['impact']}, {len(rule['nodes'])} places): {nodes}; {why}")
    return told


def settle(page) -> None:
    """Waits until formulas, colours and figures stand: two frames after the last script the page is painted."""
    page.evaluate("() => window.MathJax && MathJax.startup ? MathJax.startup.promise.then(() => true) : true")
    page.wait_for_function("() => ['light', 'dark'].includes(document.documentElement.dataset.theme)")
    # The theme's own text is never pure black: while the footer is, its style sheet has not arrived yet.
    page.wait_for_function(
        "() => Array.from(document.querySelectorAll('footer p'))"
        ".every(p => getComputedStyle(p).color !== 'rgb(0, 0, 0)')"
    )
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))")
    page.evaluate(UNTIL_REACHABLE)


def photograph(page, wire, name: str) -> None:
    """Writes the whole page to reports/screenshots: small, but every word can be read."""
    size = page.evaluate("() => [document.documentElement.clientWidth, document.documentElement.scrollHeight]")
    phone = size[0] < 600
    clip = {"x": 0, "y": 0, "width": size[0], "height": min(size[1], TALLEST), "scale": 1 if phone else 0.7}
    taken = wire.send(
        "Page.captureScreenshot", {"format": "jpeg", "quality": 35, "captureBeyondViewport": True, "clip": clip}
    )
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    (SCREENSHOTS / f"{name}.jpg").write_bytes(base64.b64decode(taken["data"]))


def open_page(browser, url: str, scheme: str, name: str) -> Opened:
    """Loads `url` in a colour scheme, makes every check, and leaves a picture of both widths named after `name`."""
    seen = Opened()
    first = "wide" if scheme == "light" else "phone"
    context = browser.new_context(color_scheme=scheme, viewport=SIZES[first], reduced_motion="reduce")
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
    page.add_init_script(WATCH_SHIFTS)
    # What crosses the wire, compressed as every public server sends it.
    wire = context.new_cdp_session(page)
    wire.send("Network.enable")
    wire.on("Network.loadingFinished", lambda e: setattr(seen, "weight", seen.weight + int(e["encodedDataLength"])))
    page.on("console", lambda m: seen.errors.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda e: seen.errors.append(str(e)))
    page.on("response", lambda r: seen.failed.append(f"{r.status} {r.url}") if r.status >= 400 else None)
    page.on("requestfailed", lambda r: seen.failed.append(r.url) if r.url not in seen.outside else None)
    page.goto(url, wait_until="load", timeout=PATIENCE)
    settle(page)
    seen.shifts = [(value, moved) for value, moved in page.evaluate("window.shifted")]
    # Pictures first: keys and the focus leave traces.
    sizes = (first, "phone", "wide") if first == "wide" else (first, "wide")
    for place, size in enumerate(sizes):
        if place:
            page.set_viewport_size(SIZES[size])
            settle(page)
        if size not in sizes[:place]:
            photograph(page, wire, f"{name}-{SIZES[size]['width']}-{scheme}")
        if size == "phone":
            measure_width(page, seen)
    seen.violations = axe(page)
    seen.still = press_every_control(page)
    if scheme == "light":
        seen.unreached, seen.unseen = tab_through(page)
    context.close()
    return seen


# What has to be moved sideways to be read; drawings made of letters keep their lines, so they may.
SIDEWAYS = """() => Array.from(document.querySelectorAll("main *")).filter(e =>
  ["auto", "scroll"].includes(getComputedStyle(e).overflowX) && e.clientWidth && e.scrollWidth > e.clientWidth + 1
  && !e.closest(".highlight-text, .highlight-none")
).map(e => `${e.scrollWidth} in ${e.clientWidth} px: ${e.outerHTML.slice(0, 140)}`)"""


def measure_width(page, seen: Opened) -> None:
    seen.boxes = page.evaluate(SIDEWAYS)
    seen.width = page.evaluate("() => document.documentElement.scrollWidth")
    if seen.width > SIZES["phone"]["width"]:
        seen.wide = page.evaluate(
            "() => Array.from(document.querySelectorAll('main *')).filter(e => e.getBoundingClientRect().right > 392)"
            ".slice(0, 5).map(e => e.outerHTML.slice(0, 140))"
        )
