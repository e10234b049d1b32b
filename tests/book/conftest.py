"""The built book, a local server for it and a browser; each is skipped with its reason where it is missing."""

import threading
from pathlib import Path

import pytest

from .site_tools import SITE, find_chromium, load_tool

BY_PAGE = ("test_pages_in_browser.py", "test_slow_line.py")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """With several processes: the tests of one opened page stay in one of them, and so do those of any other file.

    (Not by the mark `xdist_group`: pytest 9.2 makes test ids anew, and xdist 3.8 loses what it has added to them.)
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByPage(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file, _, test = nodeid.partition("::")
            parameters = test[test.find("[") :] if "[" in test else ""
            return file + parameters if file.endswith(BY_PAGE) else file

    return ByPage(config, log)


@pytest.fixture(scope="session")
def site() -> Path:
    if not (SITE / "index.html").is_file():
        pytest.skip("the book is not built (run `make book`)")
    return SITE


@pytest.fixture(scope="session")
def address(site):
    server = load_tool("serve").open_server(0, site)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="session")
def browser():
    path = find_chromium()
    if path is None:
        pytest.skip("Chromium is not installed (on Debian: apt-get install chromium)")
    sync_api = pytest.importorskip("playwright.sync_api")
    quiet = ("background-networking", "component-update", "sync", "quic", "default-apps")
    arguments = ["--no-sandbox", "--disable-gpu", "--no-first-run", *(f"--disable-{word}" for word in quiet)]
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=arguments)
        yield started
        started.close()
