"""Slides hold the first sentences, the formulas and every figure of a built page, and the rest as notes."""

import pytest

from .site_tools import load_tool

bs4 = pytest.importorskip("bs4")
PAGE = """<title>T</title><article><section><h1>Chapter<a class="headerlink" href="#x">#</a></h1><p>One. Two.</p>
<section><h2>Part</h2><p>The <b>first. is</b> long: so. Rest.</p><div class="math">\\[x\\]</div><ul><li>item</li></ul>
<div class="cell"><div class="cell_input"><table><tr><td>code</td></tr></table></div>
<div class="cell_output"><img src="a.svg" alt="a"></div></div></section></section></article>"""


@pytest.fixture
def page(tmp_path):
    (tmp_path / "a.svg").write_text("<svg/>")
    (tmp_path / "page.html").write_text(PAGE)
    return tmp_path / "page.html"


def test_a_chapter_becomes_slides(page, tmp_path):
    assert load_tool("slides").make(page, tmp_path / "slides.html") == 3
    made = bs4.BeautifulSoup((tmp_path / "slides.html").read_text(), "html.parser")
    first, part, picture = made.find_all("section")
    assert first.h1.get_text() == "Chapter" and first.li.get_text() == "One."
    assert [li.get_text() for li in part.select(".content > ul > li")] == ["The first. is long.", "\\[x\\]", "item"]
    assert "Rest." in part.select_one(".notes").get_text()
    assert picture.img["src"].startswith("data:image/svg+xml;base64,") and "code" not in made.get_text()


def test_a_missing_book_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["slides", "--site", str(tmp_path)])
    with pytest.raises(SystemExit, match="run `make book` first"):
        load_tool("slides").main()
