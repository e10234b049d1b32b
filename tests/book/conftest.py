"""The built book, a local server for it and a browser; each is skipped with its reason where it is missing."""

import threading
from pathlib import Path

import pytest

from .site_tools import SITE, find_chromium, load_tool


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items) -> None:
    """With several processes: the tests of one opened page stay in one of them, and so do those of any other file."""
    for item in items:
        file = item.path.name
        if item.path.parent == Path(__file__).parent:
            called = getattr(item, "callspec", None)
            opened = next((name for name in ("opened", "loaded") if called and name in called.params), None)
            page = "-".join(map(str, called.params[opened])) if opened else ""
            item.add_marker(pytest.mark.xdist_group(f"{file}-{page}"))


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
