"""Glossary links: the first use on a page, nothing in headings, code or links, and right after an incremental build."""

import importlib.util
import re
import subprocess
import sys

import pytest
import yaml

from .site_tools import ROOT, SITE

spec = importlib.util.spec_from_file_location("glossary_links", ROOT / "book" / "_ext" / "glossary_links.py")
glossary_links = importlib.util.module_from_spec(spec)
sys.modules["glossary_links"] = glossary_links  # a dataclass looks for its module
spec.loader.exec_module(glossary_links)

WORDS = """---
glossary_forms:
  quantization: [quantized]
glossary_other_words: [decode them]
glossary_unlinked:
  scale: "an everyday word"
---
# Words

Prefill comes before decode.

:::{glossary}
block table
  Blocks in order. See {ref}`top`.

decode
  Writing: one step
  per token. See {ref}`top`.

KV cache
key-value cache
  Kept keys.

prefill
  Reading.

quantization
  Fewer bits.

scale
  What a code is worth.
:::
"""
PAGE = """(top)=
# Decode and prefill

Two operations decode them. `decode` is code, $decode$ a formula, *decode* stressed, [decode](https://example.org) a
link.

| decode |
| --- |
| decode |

Now decode, and decode again, with two block
tables and key-value caches. A prefill-decode pair, decode.py and prefill's end. Quantized at this scale. The kv cache.
"""
LINK = re.compile(r'<a class="[^"]*glossary-term[^"]*" href="([^"]*)" title="([^"]*)">(.*?)</a>', re.S)


CONF = f"""
import sys
sys.path.insert(0, {str(ROOT / "book" / "_ext")!r})
extensions = ["myst_parser", "glossary_links"]
myst_enable_extensions = ["colon_fence", "dollarmath"]
html_theme, master_doc, exclude_patterns = "basic", "page", ["site"]
"""


def build(source) -> str:
    """Builds a small book, in a process of its own, and returns what Sphinx warned about."""
    command = [sys.executable, "-m", "sphinx", "-q", "-n", "--no-color", str(source), str(source / "site")]
    return subprocess.run(command, capture_output=True, text=True).stderr.strip()


def links_of(page) -> list[tuple[str, str, str]]:
    return [(to, title, " ".join(text.split())) for to, title, text in LINK.findall(page.read_text(encoding="utf-8"))]


@pytest.fixture(scope="module")
def small_book(tmp_path_factory):
    source = tmp_path_factory.mktemp("book")
    (source / "conf.py").write_text(CONF, encoding="utf-8")
    (source / "words.md").write_text(WORDS, encoding="utf-8")
    (source / "page.md").write_text(PAGE + "\n:::{toctree}\nwords\nother\n:::\n", encoding="utf-8")
    (source / "other.md").write_text("# Other\n\nThe prefill.\n", encoding="utf-8")
    warnings = build(source)
    assert warnings == ""
    return source


def test_the_first_use_in_running_text_is_linked_and_no_other(small_book):
    texts = [text for _, _, text in links_of(small_book / "site" / "page.html")]
    assert texts == ["decode", "block tables", "key-value caches", "prefill", "Quantized"]
    page = (small_book / "site" / "page.html").read_text(encoding="utf-8")
    assert "Now <a" in page and "operations decode them" in page


def test_a_link_leads_to_the_definition_and_tells_it_without_the_reference(small_book):
    to, title, _ = links_of(small_book / "site" / "page.html")[0]
    assert (to, title) == ("words.html#term-decode", "Writing: one step per token.")
    assert 'id="term-decode"' in (small_book / "site" / "words.html").read_text(encoding="utf-8")


def test_the_glossary_does_not_link_to_itself(small_book):
    assert links_of(small_book / "site" / "words.html") == []


def test_a_changed_definition_reaches_pages_that_did_not_change(small_book):
    words = small_book / "words.md"
    words.write_text(WORDS.replace("  Reading.", "  Reading at once."), encoding="utf-8")
    assert build(small_book) == ""
    assert links_of(small_book / "site" / "other.html")[0][1] == "Reading at once."
    words.write_text(WORDS, encoding="utf-8")


def test_a_form_of_an_unknown_term_is_told(small_book):
    words = small_book / "words.md"
    words.write_text(WORDS.replace("  quantization: [", "  quantisation: ["), encoding="utf-8")
    assert "'quantisation', which the glossary does not define" in build(small_book)
    words.write_text(WORDS, encoding="utf-8")


@pytest.mark.parametrize(
    ("one", "many"),
    [("tile", "tiles"), ("batch", "batches"), ("latency", "latencies"), ("block table", "block tables")],
)
def test_the_plural_is_the_english_one(one, many):
    assert glossary_links.plural(one) == many


# From here on: the book itself.

FRONT = yaml.safe_load((ROOT / "book" / "glossary.md").read_text(encoding="utf-8").split("---\n")[1])


def book_links() -> dict[str, list[str]]:
    """Returns for every built page the terms that it links."""
    pages = [*(SITE / "book").rglob("*.html"), *(SITE / "labs").glob("*.html")]
    return {p.relative_to(SITE).as_posix(): [to.split("#")[1] for to, _, _ in links_of(p)] for p in pages}


def defined() -> list[list[str]]:
    """Returns the names of every entry of the glossary, the first one first."""
    text = (ROOT / "book" / "glossary.md").read_text(encoding="utf-8").split(":::{glossary}")[1]
    blocks = [block.splitlines() for block in text.split(":::")[0].strip().split("\n\n")]
    return [[line for line in block if line and line[0] not in " :"] for block in blocks if block[0] != ":sorted:"]


def test_a_page_links_a_term_once_and_the_glossary_none(site):
    links = book_links()
    twice = {page: terms for page, terms in links.items() if len(terms) != len(set(terms))}
    assert twice == {} and links["book/glossary.html"] == []


def test_links_stay_few(site):
    assert {page: len(terms) for page, terms in book_links().items() if len(terms) > 25} == {}


def test_every_term_is_linked_from_somewhere_or_says_why_not(site):
    linked = {term for terms in book_links().values() for term in terms}
    never = {names[0] for names in defined() if "term-" + re.sub(r"[^\w]+", "-", names[0]).strip("-") not in linked}
    assert never - set(FRONT["glossary_unlinked"]) == set()


def test_the_glossary_holds_the_words_of_the_field():
    names = {name for entry in defined() for name in entry}
    names |= {form for forms in FRONT["glossary_forms"].values() for form in forms}
    field = """
    prefill; decode; roofline; arithmetic intensity; group size; GEMV; GEMM; SpMM; KV cache; block table; GQA;
    LUT; outlier; perplexity; draft model; page cache; O_DIRECT; DMA; NPU; MoE; early exit; quantization; zero
    point; calibration; bandwidth; latency; throughput; batch; token; logits; softmax; offloading; eviction;
    LRU; prefix reuse; paged attention; copy on write; N:M sparsity; pruning; CSR; bitmap; PIM; DRAM; expert;
    router; speculative decoding; time to the first token"""
    assert {" ".join(word.split()) for word in field.split(";")} - names == set()


def test_no_entry_stands_twice_and_every_reason_and_form_belongs_to_one():
    names = [name for entry in defined() for name in entry]
    assert len(names) == len(set(names))
    assert {*FRONT["glossary_forms"], *FRONT["glossary_unlinked"]} - set(names) == set()
    assert all(reason.strip() for reason in FRONT["glossary_unlinked"].values())


@pytest.mark.browser
@pytest.mark.parametrize("width", [1280, 390])
def test_a_meaning_shows_with_the_keyboard_stays_inside_the_page_and_goes_with_escape(browser, address, width):
    context = browser.new_context(viewport={"width": width, "height": 800})
    page = context.new_page()
    page.goto(f"{address}/book/foundations/prefill_decode.html", wait_until="load")
    page.wait_for_function("() => document.querySelector('a.glossary-term[aria-describedby]')")
    links = page.locator("a.glossary-term")
    assert links.count() > 3
    seen = 0
    for number in range(links.count()):
        links.nth(number).scroll_into_view_if_needed()
        links.nth(number).focus()
        tip = page.locator(f"[id='{links.nth(number).get_attribute('aria-describedby')}']")
        box = tip.bounding_box()  # None: a page that still scrolls has hidden it again
        if box is not None:
            seen += 1
            assert box["x"] >= 0 and box["x"] + box["width"] <= width and len(tip.text_content()) > 20
    assert seen > 0
    links.first.focus()
    page.wait_for_function("() => document.querySelectorAll('.glossary-tip:not([hidden])').length <= 1")
    page.keyboard.press("Escape")
    assert page.locator(".glossary-tip:visible").count() == 0
    context.close()
