"""The search page answers a newcomer's questions, from the files alone; so does an address that does not exist."""

import importlib.util
import json
import urllib.error
import urllib.request

import pytest

from .site_tools import ROOT

spec = importlib.util.spec_from_file_location("search_sections", ROOT / "book" / "_ext" / "search_sections.py")
search_sections = importlib.util.module_from_spec(spec)
spec.loader.exec_module(search_sections)

# A question, and the beginning of the address that must come first.
QUESTIONS = {
    "what is LUT-GEMM": "book/va_kernels/lookup_tables.html#sys-lut-gemm",
    "memory of KV cache": "book/vc_memory/paged_kv.html",
    "paged attention": "book/vc_memory/paged_kv.html",
    "install": "book/intro.html",
    "solutions": "book/instructors/index.html",
    "which system for NPU": "book/va_kernels/on_real_chips.html#sys-mllm-npu",
    "why is decoding slow": "book/foundations/memory_traffic.html",
    "how to run lab 4 on my laptop": "labs/lab04_sparse_products.html",
    "lab 10": "labs/lab10_offloading.html",
    "what did the book measure for T-MAC": "book/va_kernels/lookup_tables.html#sys-t-mac",
    "vllm": "book/vc_memory/paged_kv.html#sys-pagedattention",
    "what could not be reproduced": "book/not_reproduced.html",
    "qantization": "book/va_kernels/",
    "moe": "book/glossary.html#term-mixture-of-experts",
    "roofline": "book/glossary.html#term-roofline",
    "glossary": "book/glossary.html",
    "notation": "book/notation.html",
    "pdf": "book/foundations/using_the_labs.html",
    "flexgen": "book/vc_memory/offloading.html#sys-flexgen",
    "exam": "book/instructors/",
    "which systems store KV on flash": "book/va_kernels/on_real_chips.html#sys-mnn-llm",
    "KV on disk": "book/vc_memory/experts_and_contexts.html",
    "how do I quantize a model": "book/va_kernels/",
    "paper about paged attention": "book/vc_memory/paged_kv.html",
    "take the book offline": "book/foundations/using_the_labs.html",
}


def entries(site) -> list[dict[str, str]]:
    text = (site / "search_sections.js").read_text(encoding="utf-8")
    return json.loads(text.removeprefix("window.BOOK_SECTIONS=").rstrip().removesuffix(";"))


def test_every_system_every_lab_and_every_chapter_can_be_found(site):
    found = entries(site)
    systems = list(search_sections.systems_of(ROOT / "book" / "systems.yaml"))
    assert [e for e in found if e["kind"] == "System"] == systems
    pages = {e["url"].split("#")[0] for e in found if e["kind"] in ("Page", "Lab")}
    built = {p.relative_to(site).as_posix() for folder in ("book", "labs") for p in (site / folder).rglob("*.html")}
    assert built - pages == set()


def test_every_result_leads_to_a_place_that_exists(site):
    texts: dict[str, str] = {}
    missing = []
    for entry in entries(site):
        page, _, anchor = entry["url"].partition("#")
        if page not in texts:
            texts[page] = (site / page).read_text(encoding="utf-8") if (site / page).is_file() else ""
        if not texts[page] or (anchor and f'id="{anchor}"' not in texts[page]):
            missing.append(entry["url"])
    assert missing == []


def test_formulas_lose_the_signs_of_tex():
    assert search_sections.plain_math("so \\frac{V}{\\beta}  seconds") == "so V seconds"


@pytest.mark.browser
def test_a_newcomer_finds_the_right_place_first_without_a_server(browser, site):
    context = browser.new_context()
    page = context.new_page()
    asked = []
    page.on("request", lambda r: asked.append(r.url) if not r.url.startswith(("file:", "data:")) else None)
    page.goto((site / "search.html").as_uri() + "?q=roofline", wait_until="load")
    page.wait_for_function("() => window.bookSearch")
    first = {q: page.evaluate("q => (bookSearch(q)[0] || {entry: {url: ''}}).entry.url", q) for q in QUESTIONS}
    assert {q: url for q, url in first.items() if not url.startswith(QUESTIONS[q])} == {}
    assert page.locator("#search-results li").count() > 3 and asked == []
    systems = page.evaluate("() => bookSearch('which systems store KV on flash').slice(0, 5).map(r => r.entry.kind)")
    assert systems.count("System") >= 3
    context.close()


@pytest.mark.browser
def test_the_list_follows_what_is_typed_and_says_when_there_is_nothing(browser, address):
    context = browser.new_context(viewport={"width": 390, "height": 800})
    page = context.new_page()
    page.goto(f"{address}/search.html", wait_until="load")
    page.wait_for_function("() => window.bookSearch")
    page.keyboard.type("ternary")
    page.wait_for_function("() => document.querySelectorAll('#search-results li').length > 1")
    assert "ternary" in page.url and page.evaluate("() => document.documentElement.scrollWidth") <= 390
    page.fill(".bd-search-container input", "xqzzyv")
    page.wait_for_function("() => document.querySelector('#search-status').textContent.startsWith('Nothing')")
    context.close()


@pytest.mark.parametrize("path", ["nothing.html", "book/va_kernels/lut_gemm.html", "labs/deep/er/still"])
def test_the_server_shows_the_books_own_page_for_what_is_not_there(address, path):
    with pytest.raises(urllib.error.HTTPError) as told:
        urllib.request.urlopen(f"{address}/{path}")
    assert told.value.code == 404 and b"no such page in this book" in told.value.read()


@pytest.mark.browser
def test_the_page_for_missing_pages_leads_back_from_any_depth(browser, address):
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"{address}/book/va_kernels/lut-gemm.html")
    assert page.input_value("input") == "lut gemm"
    page.click("text=Glossary")
    page.wait_for_url("**/book/glossary.html")
    context.close()
