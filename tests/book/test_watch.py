"""`make watch` on a small book: a saved sentence is shown without running anything, a mistake is said and survived."""

import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request

import pytest

from .site_tools import ROOT

CONFIG = """\
title: Small
only_build_toc_files: true
exclude_patterns: [".*", _build, tools/*, solutions/*]
execute: {execute_notebooks: cache, timeout: 60}
parse: {myst_enable_extensions: [colon_fence]}
sphinx:
  recursive_update: true
  local_extensions: {run_pages: book/_ext}
  config: {html_static_path: [book/_static], html_css_files: [book.css], nb_execution_raise_on_error: true}
"""
TOC = "format: jb-book\nroot: book/intro\nchapters:\n  - file: book/cells\n  - file: book/text\n"
CELLS = """\
---
jupytext: {text_representation: {extension: .md, format_name: myst}}
kernelspec: {display_name: Python 3, language: python, name: python3}
---

# Cells

First sentence.

```{code-cell} python
import os, small
with open(os.path.join(small.ROOT, "runs"), "a") as file:
    file.write("x")
print("the answer is", small.ANSWER)
```
"""
PATIENCE = 120  # seconds: ends what hangs, on any machine


class Watched:
    """A small project with `tools/build_book.py --watch` at work in it."""

    def __init__(self, root) -> None:
        self.root = root
        for name in ("book/_ext", "book/_static", "lib", "tools", "solutions"):
            (root / name).mkdir(parents=True)
        for tool in ("build_book", "book_watch", "book_nursery", "serve"):
            shutil.copy(ROOT / "tools" / f"{tool}.py", root / "tools")
        shutil.copy(ROOT / "book" / "_ext" / "run_pages.py", root / "book" / "_ext")
        self.write("_config.yml", CONFIG)
        self.write("_toc.yml", TOC)
        self.write("lib/small.py", f"ROOT = {str(root)!r}\nANSWER = 42\n")
        self.write("book/_static/book.css", "body { color: black }\n")
        self.write("book/intro.md", "# Small\n\nWelcome. See {doc}`text`.\n")
        self.write("book/text.md", "# Text\n\nOnly words.\n")
        self.write("book/cells.md", CELLS)
        environment = {**os.environ, "PYTHONPATH": str(root / "lib"), "EDGEINFER_JOBS": "1"}
        self.log = root / "log"
        self.process = subprocess.Popen(
            [sys.executable, "-u", str(root / "tools" / "build_book.py"), "--watch", "--port", "0"],
            cwd=root, env=environment, stdout=self.log.open("w"), stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        self.address = self.wait_for("http://127.0.0.1:").split()[0]

    def write(self, name: str, text: str) -> None:
        (self.root / name).write_text(text, encoding="utf-8")

    def replace(self, name: str, old: str, new: str) -> None:
        text = (self.root / name).read_text(encoding="utf-8")
        assert old in text
        self.write(name, text.replace(old, new))

    def said(self) -> str:
        return self.log.read_text(encoding="utf-8")

    def until(self, true, what: str):
        """Waits until `true()` holds; the tool's own words explain a failure."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            if found := true():
                return found
            assert self.process.poll() is None, self.said()
            time.sleep(0.05)
        pytest.fail(f"{what} did not come; the log says:\n{self.said()[-4000:]}")

    def wait_for(self, words: str, after: int = 0) -> str:
        """Waits until the tool has said `words`; returns them and what follows."""
        self.until(lambda: words in self.said()[after:], repr(words))
        return self.said()[self.said().index(words, after) :]

    def page(self, name: str) -> str:
        with urllib.request.urlopen(f"{self.address}/book/{name}.html") as answer:
            return answer.read().decode()

    def shows(self, name: str, words: str) -> float:
        """Waits until a page shows `words`; returns and prints the seconds, which decide nothing."""
        started = time.monotonic()
        self.until(lambda: words in self.page(name), words)
        seconds = time.monotonic() - started
        print(f"watch: {words!r} shown after {seconds:.1f} s")
        return seconds

    def runs(self) -> int:
        return len((self.root / "runs").read_text())

    def look_at(self, name: str) -> None:
        """Asks for changes as a browser does that shows the page."""
        request = urllib.request.Request(f"{self.address}/built.json")
        request.add_header("Referer", f"{self.address}/book/{name}.html")
        urllib.request.urlopen(request).close()

    def interrupt(self) -> int:
        os.killpg(self.process.pid, signal.SIGINT)
        return self.process.wait(timeout=PATIENCE)


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    project = Watched(tmp_path_factory.mktemp("small"))
    yield project
    if project.process.poll() is None:
        project.interrupt()


def test_a_saved_sentence_is_shown_and_nothing_is_run(watched):
    assert watched.runs() == 1 and "the answer is 42" in watched.page("cells")
    before = len(watched.said())
    watched.replace("book/cells.md", "First sentence.", "Second sentence.")
    watched.shows("cells", "Second sentence.")
    watched.wait_for("nothing was run", before)
    assert watched.runs() == 1 and "the answer is 42" in watched.page("cells")


def test_quick_saves_end_with_the_last_one(watched):
    old = "Only words."
    for number in range(5):
        watched.replace("book/text.md", old, new := f"Save number {number}.")
        old = new
    watched.shows("text", "Save number 4.")


def test_the_page_in_a_browser_reloads_and_shows_what_was_saved(watched, browser):
    page = browser.new_page()
    page.goto(f"{watched.address}/book/text.html", wait_until="commit")
    page.wait_for_function("document.body && document.body.innerText.includes('Save number 4.')", timeout=60_000)
    with page.expect_response("**/built.json"):  # from then on it knows what it shows
        pass
    saved = time.monotonic()
    watched.replace("book/text.md", "Save number 4.", "Save number 5.")
    page.wait_for_function("document.body.innerText.includes('Save number 5.')", timeout=PATIENCE * 1000)
    print(f"watch: reloaded in the browser after {time.monotonic() - saved:.1f} s")
    page.close()
    watched.replace("book/text.md", "Save number 5.", "Save number 4.")
    watched.shows("text", "Save number 4.")


def test_a_changed_cell_runs_its_page_only(watched):
    watched.replace("book/cells.md", '"the answer is"', '"it is still"')
    watched.shows("cells", "it is still 42")
    assert watched.runs() == 2


def test_a_style_sheet_is_copied_without_a_build(watched):
    before = len(watched.said())
    watched.write("book/_static/book.css", "body { color: navy }\n")
    watched.wait_for("no page was built or run", before)
    with urllib.request.urlopen(f"{watched.address}/_static/book.css") as answer:
        assert b"navy" in answer.read()


def test_a_cell_that_fails_is_shown_with_its_line_and_mended(watched):
    before = len(watched.said())
    watched.replace("book/cells.md", 'print("it is still"', 'print("it is still')
    told = watched.wait_for("not built", before)
    told = watched.said()[before:]
    assert "this cell of book/cells.md, line 11 failed" in told and "SyntaxError" in told
    assert "it is still 42" in watched.page("cells")  # the last good page
    with urllib.request.urlopen(f"{watched.address}/built.json") as answer:
        assert "SyntaxError" in answer.read().decode()  # the browser says it, too
    watched.replace("book/cells.md", 'print("it is still', 'print("it is now"')
    watched.shows("cells", "it is now 42")


def test_a_mistake_in_the_text_is_said_again_until_it_is_mended(watched):
    before = len(watched.said())
    watched.replace("book/intro.md", "{doc}`text`", "{doc}`nowhere`")
    assert "nowhere" in watched.wait_for("1 warning(s), which count as errors", before)
    before = len(watched.said())
    watched.replace("book/text.md", "Save number 4.", "Words elsewhere.")
    assert "nowhere" in watched.wait_for("1 warning(s), which count as errors", before)
    watched.replace("book/intro.md", "{doc}`nowhere`", "{doc}`text`")
    watched.shows("text", "Words elsewhere.")


def test_a_new_page_asks_for_its_place_and_a_deleted_one_goes(watched):
    before = len(watched.said())
    watched.write("book/more.md", "# More\n\nA new page.\n")
    watched.wait_for("book/more.md stands in no table of contents", before)
    watched.write("_toc.yml", TOC + "  - file: book/more\n")
    watched.until(lambda: (watched.root / "_build/html/book/more.html").exists(), "the new page")
    (watched.root / "book/more.md").unlink()
    watched.write("_toc.yml", TOC)
    watched.until(lambda: not (watched.root / "_build/html/book/more.html").exists(), "the end of the page")


def test_a_changed_library_runs_what_is_looked_at_and_says_what_it_leaves(watched):
    runs, before = watched.runs(), len(watched.said())
    watched.look_at("cells")
    watched.replace("lib/small.py", "ANSWER = 42", "ANSWER = 43")
    watched.shows("cells", "it is now 43")
    assert watched.runs() == runs + 1
    assert "runs again what a browser shows: book/cells" in watched.said()[before:]
    assert (watched.root / "_build" / "executed-with").read_text().startswith("mixed")  # `make book` runs all pages


def test_an_interruption_ends_everything_and_leaves_the_book(watched):
    assert watched.interrupt() != 0
    assert "Traceback" not in watched.said()
    assert (watched.root / "_build" / "html" / "index.html").exists()
