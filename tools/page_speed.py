"""Loads every built page in Chromium over a slow mobile line and on a slowed processor; prints how long a reader waits.

The line is the one that Lighthouse calls slow 4G (1.6 Mbit/s, 150 ms), the processor four times slower than this one.
It measures, so it is no test; the weight of a page is one (tests/book).
"""

import shutil
import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import serve

LINE = {"offline": False, "latency": 150, "downloadThroughput": 1.6e6 / 8, "uploadThroughput": 750e3 / 8}
WAITED = """() => {
  const paint = performance.getEntriesByName('first-contentful-paint')[0];
  let shift = 0;
  new PerformanceObserver(list => list.getEntries().forEach(e => { if (!e.hadRecentInput) shift += e.value; }))
    .observe({type: 'layout-shift', buffered: true});
  return new Promise(done => setTimeout(() => done(
    {paint: paint ? paint.startTime : 0, load: performance.timing.loadEventEnd - performance.timing.navigationStart,
     shift: shift}), 300));
}"""


def main() -> None:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("page speed: Chromium is not installed (on Debian: apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    server = serve.open_server(0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    pages = [p for folder in ("book", "labs") for p in sorted((serve.SITE / folder).rglob("*.html"))]
    print(f"{'page':52} {'kB':>6} {'readable':>9} {'all':>7} {'shift':>6}")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for path in pages:
            context = browser.new_context()
            page, crossed = context.new_page(), []
            wire = context.new_cdp_session(page)
            wire.send("Network.enable")
            wire.on("Network.loadingFinished", lambda e, crossed=crossed: crossed.append(e["encodedDataLength"]))
            wire.send("Network.emulateNetworkConditions", LINE)
            wire.send("Emulation.setCPUThrottlingRate", {"rate": 4})
            name = str(path.relative_to(serve.SITE))
            page.goto(f"{address}/{name}", timeout=120_000)
            seen = page.evaluate(WAITED)
            print(
                f"{name:52} {sum(crossed) / 1e3:6.0f} {seen['paint'] / 1e3:7.1f} s {seen['load'] / 1e3:5.1f} s"
                f" {seen['shift']:6.3f}",
                flush=True,
            )
            context.close()
        browser.close()


if __name__ == "__main__":
    main()
