"""The built pages, read as files: links and anchors that exist, pictures with words, nothing from another server."""

import re
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml

from .site_tools import ROOT, SITE, built_pages

PICTURE_FILE = re.compile(r"(_images/|_static/|^[\w./-]+\.(svg|png|jpe?g|gif|webp)$)", re.I)
# What a browser fetches by itself when it shows a page; a link that a reader follows is no such thing.
FETCHED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "embed": "src", "video": "src"}
LINKED = {"stylesheet", "preload", "prefetch", "icon", "modulepreload", "dns-prefetch", "preconnect"}


class Page(HTMLParser):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.double_ids: list[str] = []
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.pictures: list[dict[str, str | None]] = []
        self.text = path.read_text(encoding="utf-8")
        self.feed(self.text)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        for name in ("id", "name") if tag == "a" else ("id",):
            if values.get(name):
                if values[name] in self.ids and name == "id":
                    self.double_ids.append(values[name])
                self.ids.add(values[name])
        if tag == "a" and values.get("href"):
            self.links.append(values["href"])
        if tag == "img":
            self.pictures.append(values)
        if tag in FETCHED and values.get(FETCHED[tag]):
            self.fetched.append(values[FETCHED[tag]])
        if tag == "link" and set((values.get("rel") or "").split()) & LINKED:
            self.fetched.append(values.get("href") or "")


@cache
def read(path: Path) -> Page:
    return Page(path)


@pytest.fixture(params=built_pages(), ids=lambda name: name or "none")
def page(request, site) -> tuple[Path, Page]:
    path = site / request.param
    return path, read(path)


def test_internal_links_and_anchors_resolve(page):
    path, content = page
    broken = []
    for link in content.links:
        parts = urlsplit(link)
        if parts.scheme or parts.netloc:
            continue
        target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
        if target.is_dir():
            target = target / "index.html"
        anchor = unquote(parts.fragment)
        exists = target.is_file() and target.is_relative_to(SITE.resolve())
        if not exists or (anchor and target.suffix == ".html" and anchor not in read(target).ids):
            broken.append(link)
    assert broken == []


def test_no_id_stands_twice(page):
    _, content = page
    assert content.double_ids == []


def test_every_picture_has_words_and_not_its_file_name(page):
    _, content = page
    bad = [p.get("src", "")[:80] for p in content.pictures if not (p.get("alt") or "").strip()]
    bad += [p["alt"] for p in content.pictures if p.get("alt") and PICTURE_FILE.search(p["alt"])]
    assert bad == []


def test_nothing_is_fetched_from_another_server(page):
    _, content = page
    outside = [url for url in content.fetched if urlsplit(url).scheme in ("http", "https") or url.startswith("//")]
    styles = re.findall(r"@import[^;]*|url\(\s*['\"]?(?:https?:)?//[^)]*", content.text)
    assert outside + styles == []


def test_style_sheets_fetch_nothing_from_another_server(site):
    pattern = re.compile(r"@import\s+[^;]*//[^;]*|url\(\s*['\"]?(?:https?:)?//[^)]*")
    found = {p.name: m for p in site.rglob("*.css") if (m := pattern.findall(p.read_text(errors="replace")))}
    assert found == {}


def test_launch_buttons_of_labs_point_to_the_one_repository(site):
    url = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]["url"].removeprefix("https://github.com/")
    labs = sorted((site / "labs").glob("*.html"))
    if not labs:
        pytest.skip("no lab is part of the book yet")
    for lab in labs:
        text = lab.read_text(encoding="utf-8")
        assert f"colab.research.google.com/github/{url}/" in text and f"/v2/gh/{url}/" in text, lab.name
