"""Links the first use of each glossary term on a page to its definition, which also shows when the link is pointed at.

It knows the glossary directive and docutils, not this book. The front matter of a page with a glossary may hold
`glossary_forms` (other forms of a term, such as "quantized"), `glossary_unlinked` (terms that stay without links, each
with its reason) and `glossary_other_words` (phrases that only look like a term). No kept library does this offline:
sphinx-hoverxref asks a server, sphinx-tippy a CDN.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from docutils import nodes
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.logging import getLogger
from sphinx.util.nodes import make_refnode

logger = getLogger(__name__)
CLASS = "glossary-term"
# Inside these, words are names, not running text; inside a link or a formula they are something else altogether.
CLOSED = (
    nodes.title, nodes.subtitle, nodes.rubric, nodes.caption, nodes.legend, nodes.figure, nodes.table, nodes.reference,
    nodes.literal, nodes.literal_block, nodes.math, nodes.math_block, nodes.raw, nodes.term, nodes.footnote,
    nodes.citation, nodes.topic,
    nodes.emphasis,  # a word that is stressed, or the title of a page
)  # fmt: skip
CLOSED_CLASSES = {"cell_output", "cell_input", "no-glossary-links"}


@dataclass(frozen=True)
class Entry:
    """A term: where it is defined, what its hover text says, which forms are linked, and how the glossary names it.

    One without an anchor is no term: its forms only look like one.
    """

    page: str
    anchor: str
    definition: str
    forms: tuple[str, ...] = field(default=())
    names: tuple[str, ...] = field(default=())


def plural(form: str) -> str:
    """Return the regular plural of an English noun; of a group of words, that of the last one."""
    if re.search(r"(s|x|z|ch|sh)$", form):
        return form + "es"
    return re.sub(r"(?<=[^aeiou])y$", "ie", form) + "s"


def pattern_of(form: str) -> str:
    """Return the expression for one form: words may be split over lines; only a form without capitals ignores case."""
    words = r"\s+".join(re.escape(word) for word in form.split())
    return words if form != form.lower() else f"(?i:{words})"


class Finder:
    """Finds the terms in a text; at one place the longest form counts."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self.forms = [(form, entry) for entry in entries for form in entry.forms]
        self.forms.sort(key=lambda pair: -len(pair[0]))
        choices = "|".join(f"({pattern_of(form)})" for form, _ in self.forms)
        # A hyphen, a dot or a colon glues: "pre-decode", "decode.py" and "decode_step" are other words.
        self.pattern = re.compile(rf"(?<![\w\-./])(?:{choices})(?![\w\-/]|\.\w)") if choices else None

    def __call__(self, text: str) -> Iterator[tuple[int, int, Entry]]:
        """Yield (start, end, entry) of every occurrence, from left to right."""
        for match in self.pattern.finditer(text) if self.pattern else ():
            entry = self.forms[match.lastindex - 1][1]
            if entry.anchor:
                yield match.start(), match.end(), entry


def first_words(definition: nodes.Element) -> str:
    """Return a definition's first paragraph as plain text, up to the sentence that points to another page."""
    paragraph = next(iter(definition.findall(nodes.paragraph)), definition)
    told = ""
    for child in paragraph.children:
        if isinstance(child, nodes.Element) and child.tagname in ("pending_xref", "reference"):
            told = told[: told.rfind(".") + 1] if "." in told else told
            break
        told += child.astext()
    return " ".join(told.replace("\\", "").split())


def read_settings(metadata: dict[str, Any], key: str, default: Any) -> Any:
    """Return a table or a list of the front matter; MyST hands nested ones over as JSON."""
    value = metadata.get(key) or default
    return json.loads(value) if isinstance(value, str) else value


def collect(app: Any, doctree: nodes.document) -> None:
    """After a page was read: keep what it defines."""
    page = app.env.docname
    metadata = app.env.metadata[page]
    extra, unlinked = read_settings(metadata, "glossary_forms", {}), read_settings(metadata, "glossary_unlinked", {})
    found: dict[str, Entry] = {}
    for item in doctree.findall(nodes.definition_list_item):
        terms = [child for child in item.children if isinstance(child, nodes.term) and child.get("ids")]
        if not terms or not any(name.startswith("term-") for name in terms[0]["ids"]):
            continue
        names = [" ".join(term.astext().split()) for term in terms]
        # "lifetime (of a buffer)" is looked for as "lifetime".
        plain = [re.sub(r"\s*\(.*\)$", "", name) for name in names]
        forms = [*plain, *map(plural, plain), *extra.pop(names[0], [])]
        definition = next(child for child in item.children if isinstance(child, nodes.definition))
        anchor = next(name for name in terms[0]["ids"] if name.startswith("term-"))
        shown = () if unlinked.pop(names[0], None) else tuple(dict.fromkeys(forms))
        found[names[0]] = Entry(page, anchor, first_words(definition), shown, tuple(names))
    for name in [*extra, *unlinked] if found else ():
        logger.warning("the front matter names %r, which the glossary does not define", name, location=page)
    store = terms_of(app.env)
    store.pop(page, None)
    if found:
        others = read_settings(metadata, "glossary_other_words", [])
        found[""] = Entry(page, "", "", tuple(others))
        store[page] = found


def terms_of(env: Any) -> dict[str, dict[str, Entry]]:
    """Return what is known of every page with a glossary: name of a term -> entry."""
    if not hasattr(env, "glossary_terms"):
        env.glossary_terms = {}
    terms: dict[str, dict[str, Entry]] = env.glossary_terms
    return terms


def forget(app: Any, env: Any, page: str) -> None:
    terms_of(env).pop(page, None)


def merge(app: Any, env: Any, pages: Iterable[str], other: Any) -> None:
    terms_of(env).update({page: found for page, found in terms_of(other).items() if page in pages})


def rewrite_when_changed(app: Any, env: Any) -> list[str]:
    """Name every page when a term or a definition has changed since the last build: their links show it."""
    now, before = terms_of(env), getattr(env, "glossary_written", None)
    env.glossary_written = {page: dict(found) for page, found in now.items()}
    return [] if before == now or before is None else sorted(env.found_docs)


def is_closed(node: nodes.Node, top: nodes.Node) -> bool:
    """Return whether a text stands inside something that takes no links."""
    while node is not None and node is not top:
        if isinstance(node, CLOSED) or (isinstance(node, nodes.Element) and CLOSED_CLASSES & set(node["classes"])):
            return True
        node = node.parent
    return False


def join_texts(paragraph: nodes.Element) -> None:
    """Make one text of neighbouring ones: MyST keeps every line break apart, and a term may stand across it."""
    for parent in [paragraph, *paragraph.findall(nodes.TextElement)]:
        joined: list[nodes.Node] = []
        for child in parent.children:
            if joined and isinstance(child, nodes.Text) and isinstance(joined[-1], nodes.Text):
                joined[-1] = nodes.Text(joined[-1] + child)
            else:
                joined.append(child)
        if len(joined) < len(parent.children):
            parent.children = []
            parent.extend(joined)


def link_first_uses(
    document: nodes.document, find: Finder, make_link: Callable[[Entry, nodes.Text], nodes.Node], done: set[Entry]
) -> None:
    """Put a link around the first use of every term in the paragraphs of `document`.

    Args:
        document: a page whose references are resolved; changed in place.
        find: finds terms in a text.
        make_link: (entry, text node) -> reference node.
        done: terms that are linked already; grows.
    """
    for paragraph in list(document.findall(nodes.paragraph)):
        join_texts(paragraph)
        for text in list(paragraph.findall(nodes.Text)):
            if is_closed(text, document):
                continue
            parts: list[nodes.Node] = []
            words, last = str(text), 0
            for start, end, entry in find(words):
                if entry not in done:
                    done.add(entry)
                    parts += [nodes.Text(words[last:start]), make_link(entry, nodes.Text(words[start:end]))]
                    last = end
            if parts:
                text.parent.replace(text, [part for part in (*parts, nodes.Text(words[last:])) if part.astext()])


class LinkFirstUses(SphinxPostTransform):
    """Runs when a page is written, so that the cached page stays as it was read."""

    default_priority = 800  # after every reference is resolved
    formats = ("html",)

    def run(self, **options: Any) -> None:
        known = terms_of(self.env)
        if self.env.docname in known or not known:
            return
        entries = [entry for found in known.values() for entry in found.values()]
        # A term that the author has linked by hand is linked.
        by_hand = {str(link.get("refuri", "")).partition("#")[2] for link in self.document.findall(nodes.reference)}
        done = {entry for entry in entries if entry.anchor in by_hand}
        link_first_uses(self.document, Finder(entries), self.link, done)

    def link(self, entry: Entry, text: nodes.Text) -> nodes.reference:
        builder = self.app.builder
        link = make_refnode(builder, self.env.docname, entry.page, entry.anchor, text, entry.definition)
        link["classes"].append(CLASS)
        return link


def setup(app: Any) -> dict[str, Any]:
    app.connect("doctree-read", collect, priority=900)  # after the front matter was collected
    app.connect("env-purge-doc", forget)
    app.connect("env-merge-info", merge)
    app.connect("env-updated", rewrite_when_changed)
    app.add_post_transform(LinkFirstUses)
    app.add_js_file("glossary.js", loading_method="defer")
    return {"version": "1", "env_version": 2, "parallel_read_safe": True, "parallel_write_safe": True}
