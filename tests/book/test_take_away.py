"""The book to take away: the archive opens anywhere, the PDF has every page and a bookmark for each."""

import subprocess
import sys
import zipfile

import pytest

from .site_tools import ROOT, find_chromium, load_tool

sys.path.insert(0, str(ROOT / "tools"))


@pytest.fixture
def small_site(tmp_path):
    site = tmp_path / "site"
    (site / "book").mkdir(parents=True)
    (site / "index.html").write_text("<h1>Start</h1>")
    for name in ("intro", "one", "two"):
        (site / "book" / f"{name}.html").write_text(f"<title>x</title><h1>Page {name}</h1><details>folded</details>")
    toc = tmp_path / "_toc.yml"
    toc.write_text("root: book/intro\nparts:\n- caption: Part\n  chapters:\n  - file: book/one\n  - file: book/two\n")
    return site, toc


def test_the_archive_holds_every_file_in_one_folder(small_site, tmp_path):
    tool = load_tool("take_away")
    target = tmp_path / "book.zip"
    assert tool.write_zip(small_site[0], target) == target.stat().st_size
    with zipfile.ZipFile(target) as archive:
        assert {n.split("/")[0] for n in archive.namelist()} == {tool.NAME} and len(archive.namelist()) == 4


def test_pages_come_in_reading_order_and_a_missing_one_is_said(small_site):
    tool = load_tool("take_away")
    site, toc = small_site
    assert [p for _, p in tool.chapters(site, toc)] == ["book/intro.html", "book/one.html", "book/two.html"]
    (site / "book" / "two.html").unlink()
    with pytest.raises(SystemExit, match=r"book/two\.html is not built yet; run `make book` first"):
        list(tool.chapters(site, toc))


@pytest.mark.browser
def test_the_pdf_has_a_bookmark_for_every_page(small_site, tmp_path):
    if find_chromium() is None:
        pytest.skip("Chromium is not installed (on Debian: apt-get install chromium)")
    from pypdf import PdfReader

    site, toc = small_site
    target = tmp_path / "book.pdf"
    # A process of its own: the browser tests of this run hold Playwright's event loop.
    program = "import sys, pathlib, take_away; print(take_away.write_pdf(*map(pathlib.Path, sys.argv[1:])))"
    command = [sys.executable, "-c", program, str(site), str(target), str(toc)]
    done = subprocess.run(command, cwd=ROOT / "tools", capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1:] == ["3"], done.stderr[-2000:]
    reader = PdfReader(target)
    intro, part, (one, two) = reader.outline
    assert [intro.title, part.title, one.title, two.title] == ["Page intro", "Part", "Page one", "Page two"]
    assert "folded" in reader.pages[2].extract_text()
