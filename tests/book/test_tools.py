"""The builder and the server: nothing half-made counts as done, and every refusal is one sentence."""

import gzip
import http.client
import os
import socket
import threading
import urllib.request

import pytest

from .site_tools import load_tool

FAILED_CELL = """\
nbclient.exceptions.CellExecutionError: An error occurred while executing the following cell:
------------------
import pandas
------------------

ModuleNotFoundError: No module named 'pandas'

The above exception was the direct cause of the following exception:

myst_nb.core.execute.base.ExecutionError: {root}/book/page.md
"""


@pytest.fixture
def builder(tmp_path, monkeypatch):
    tool = load_tool("build_book")
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "a.py").write_text("a = 1\n")
    (tmp_path / "_toc.yml").write_text("root: book/intro\nchapters:\n  - file: book/page\n")
    build = tmp_path / "_build"
    build.mkdir()
    for name, value in {
        "ROOT": tmp_path,
        "BUILD": build,
        "SITE": build / "html",
        "STAGE": build / "stage" / "_build",
        "CACHE": build / "stage" / "_build" / ".jupyter_cache",
        "MARKER": build / "building",
        "STAMP": build / "executed-with",
    }.items():
        monkeypatch.setattr(tool, name, value)
    return tool


def stage_a_site(tool, text: str) -> None:
    (tool.STAGE / "html").mkdir(parents=True, exist_ok=True)
    (tool.STAGE / "html" / "index.html").write_text(text)


def test_executed_pages_are_dropped_when_the_library_changes(builder):
    builder.prepare()
    builder.CACHE.mkdir(parents=True)
    builder.prepare()
    assert builder.CACHE.exists()
    (builder.ROOT / "lib" / "a.py").write_text("a = 2\n")
    builder.prepare()
    assert not builder.CACHE.exists()


def test_after_an_interruption_every_page_is_read_again_but_not_executed_again(builder):
    builder.prepare()
    for folder in (".doctrees", ".jupyter_cache"):
        (builder.STAGE / folder).mkdir(parents=True)
    assert builder.MARKER.exists()
    builder.prepare()
    assert not (builder.STAGE / ".doctrees").exists() and builder.CACHE.exists()


def test_a_failed_build_leaves_the_last_book_alone(builder, monkeypatch, capsys):
    builder.SITE.mkdir()
    (builder.SITE / "index.html").write_text("old")
    stage_a_site(builder, "new")
    monkeypatch.setattr(builder, "run_builder", lambda: (1, ["page.md:3: WARNING: unknown reference"]))
    assert builder.build() is False
    assert (builder.SITE / "index.html").read_text() == "old"
    assert "unknown reference" in capsys.readouterr().out


def test_the_page_of_a_deleted_source_is_not_published(builder):
    for name in ("index", "book/page", "book/gone", "_static/part"):
        path = builder.STAGE / "html" / f"{name}.html"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    builder.STAMP.write_text("")
    builder.publish()
    left = {p.relative_to(builder.SITE).as_posix() for p in builder.SITE.rglob("*.html")}
    assert left == {"index.html", "book/page.html", "_static/part.html"}


def test_every_failing_page_is_told_in_one_run(builder):
    text = FAILED_CELL.format(root=builder.ROOT) * 2
    assert builder.explain(text.splitlines()).count("this cell of book/page.md failed") == 2


def test_a_finished_build_takes_the_place_of_the_last_book(builder, monkeypatch):
    builder.SITE.mkdir()
    (builder.SITE / "index.html").write_text("old")

    def run():
        stage_a_site(builder, "new")
        return 0, []

    monkeypatch.setattr(builder, "run_builder", run)
    assert builder.build() is True
    assert (builder.SITE / "index.html").read_text() == "new"
    assert not (builder.BUILD / "html.old").exists() and not builder.MARKER.exists()


def test_an_interruption_between_the_two_renames_loses_nothing(builder):
    (builder.BUILD / "html.old").mkdir()
    (builder.BUILD / "html.old" / "index.html").write_text("old")
    builder.prepare()
    assert (builder.SITE / "index.html").read_text() == "old"


def test_a_failing_cell_is_shown_with_its_page_and_its_last_words(builder):
    told = builder.explain(FAILED_CELL.format(root=builder.ROOT).splitlines())
    assert "this cell of book/page.md failed" in told
    assert "| import pandas" in told and "No module named 'pandas'" in told


def test_a_talking_kernel_is_no_warning(builder):
    assert not builder.PROBLEM.search("[IPKernelApp] WARNING | Kernel is running over TCP")
    assert builder.PROBLEM.search("book/a.md:1: WARNING: undefined label: 'x'")


@pytest.fixture
def small_site(tmp_path):
    (tmp_path / "index.html").write_text("<html><body>hello</body></html>")
    return tmp_path


def test_a_missing_book_is_said(tmp_path):
    with pytest.raises(SystemExit, match=r"not built yet .* run `make book` first"):
        load_tool("serve").open_server(0, tmp_path)


def test_a_port_in_use_is_said(small_site):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(SystemExit, match=rf"port {port} is in use .* make serve PORT={port + 1}"):
            load_tool("serve").open_server(port, small_site)


@pytest.mark.parametrize("text", ["x", "-1", "70000", "80.5"])
def test_a_port_that_is_none_is_said(text):
    import argparse

    with pytest.raises(argparse.ArgumentTypeError, match="from 1 to 65535"):
        load_tool("serve").port_number(text)


@pytest.mark.parametrize("live", [False, True])
def test_pages_are_served_to_this_machine_only_and_never_cached(small_site, live):
    server = load_tool("serve").open_server(0, small_site, live=live)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        assert server.server_address[0] == "127.0.0.1"
        connection = http.client.HTTPConnection(*server.server_address, timeout=30)
        connection.request("GET", "/index.html")
        answer = connection.getresponse()
        body = answer.read().decode()
        assert answer.status == 200 and "hello" in body and answer.headers["Cache-Control"] == "no-store"
        assert ("built.json" in body) is live
    finally:
        server.shutdown()
        server.server_close()


def test_text_is_compressed_for_those_who_ask(small_site):
    server = load_tool("serve").open_server(0, small_site)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}/"
    try:
        request = urllib.request.Request(address, headers={"Accept-Encoding": "gzip"})
        with urllib.request.urlopen(request) as answer:
            assert answer.headers["Content-Encoding"] == "gzip"
            assert gzip.decompress(answer.read()) == (small_site / "index.html").read_bytes()
        with urllib.request.urlopen(address) as answer:
            assert answer.headers["Content-Encoding"] is None and b"hello" in answer.read()
    finally:
        server.shutdown()
        server.server_close()


def test_two_builds_wait_for_each_other(builder):
    import fcntl

    with builder.only_one(), open(builder.BUILD / ".lock") as other, pytest.raises(OSError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_the_kernel_of_this_environment_is_preferred(builder):
    assert builder.environment()["JUPYTER_PREFER_ENV_PATH"] == "1" and set(os.environ) <= set(builder.environment())
