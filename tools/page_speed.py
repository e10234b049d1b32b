"""Loads every built page in Chromium over a slow mobile line and on a slowed processor; prints how long a reader waits.

The line is the one that Lighthouse calls slow 4G (1.6 Mbit/s, 150 ms), the processor four times slower than this one,
the screen a phone's, then a laptop's. Each page is loaded several times; the median counts. It measures, so it is no
test, and on a busy machine it says so; the weight of a page and that nothing moves are tests (tests/book).
"""

import argparse
import os
import shutil
import statistics
import sys
import threading
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import serve

LINE = {"offline": False, "latency": 150, "downloadThroughput": 1.6e6 / 8, "uploadThroughput": 750e3 / 8}
SCREENS = {"phone": {"width": 390, "height": 800}, "laptop": {"width": 1440, "height": 900}}
READABLE = 2000  # milliseconds in which the first and the largest part of the text should be there
WAITED = """() => {
  let shift = 0, largest = 0;
  new PerformanceObserver(list => list.getEntries().forEach(e => { if (!e.hadRecentInput) shift += e.value; }))
    .observe({type: 'layout-shift', buffered: true});
  new PerformanceObserver(list => list.getEntries().forEach(e => { largest = e.startTime; }))
    .observe({type: 'largest-contentful-paint', buffered: true});
  const first = performance.getEntriesByName('first-contentful-paint')[0], timing = performance.timing;
  return new Promise(done => setTimeout(() => done({first: first ? first.startTime : 0, largest: largest, shift: shift,
    all: timing.loadEventEnd - timing.navigationStart}), 400));
}"""


def load(browser: Any, address: str, screen: dict[str, int], processor: float) -> dict[str, float]:
    """Open a page as a new reader does; return what was waited for (ms), moved (share of the screen), sent (kB)."""
    context = browser.new_context(viewport=screen)
    page, crossed = context.new_page(), []
    wire = context.new_cdp_session(page)
    wire.send("Network.enable")
    wire.on("Network.loadingFinished", lambda event: crossed.append(event["encodedDataLength"]))
    wire.send("Network.emulateNetworkConditions", LINE)
    wire.send("Emulation.setCPUThrottlingRate", {"rate": processor})
    page.goto(address, timeout=300_000)
    seen: dict[str, float] = page.evaluate(WAITED)
    context.close()
    return {**seen, "kB": sum(crossed) / 1e3}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("pages", nargs="*", help="only these, such as book/atlas.html (default: all)")
    parser.add_argument("--loads", type=int, default=3, help="how often each page is loaded (default: 3)")
    parser.add_argument("--processor", type=float, default=4, help="how many times slower than this one (default: 4)")
    options = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("page speed: Chromium is not installed (on Debian: apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    server = serve.open_server(0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    found = [p for folder in ("book", "labs") for p in sorted((serve.SITE / folder).rglob("*.html"))]
    pages = options.pages or [str(p.relative_to(serve.SITE)) for p in found]
    print(f"{'page':44} {'screen':>7} {'kB':>5} {'first':>8} {'largest':>8} {'all':>8} {'moved':>6}")
    slow = 0
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for name in pages:
            for screen, size in SCREENS.items():
                loads = [load(browser, f"{address}/{name}", size, options.processor) for _ in range(options.loads)]
                wait = {key: statistics.median(one[key] for one in loads) for key in loads[0]}
                late = max(wait["first"], wait["largest"]) > READABLE or wait["shift"] >= 0.01
                slow += late
                waits = "".join(f" {wait[key] / 1e3:6.2f} s" for key in ("first", "largest", "all"))
                mark = "  !" if late else ""
                print(f"{name:44} {screen:>7} {wait['kB']:5.0f}{waits} {wait['shift']:6.3f}{mark}", flush=True)
        browser.close()
    busy = os.getloadavg()[0] / (os.cpu_count() or 1)
    note = f"; the machine was busy ({busy:.1f} programs per core), so times say little" if busy > 1 else ""
    print(f"page speed: {slow} of {2 * len(pages)} took longer than {READABLE / 1e3:g} s or moved (!){note}")
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main())
