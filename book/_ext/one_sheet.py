"""One style sheet without unused rules for all pages: a reader on a slow line waits for one small file, not for eleven.

The theme and its helpers ship eleven style sheets, one of them found only inside another, and most of their rules
match nothing in a book. It knows CSS, not the theme's rules and not this book.
"""

import hashlib
import itertools
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import tinycss2

LINK = re.compile(r'<link\b[^>]*rel="stylesheet"[^>]*>[ \t]*\n?')
ADDRESS = re.compile(r'href="([^"]*)_static/([^"?]+)[^"]*"')
WORD = re.compile(r"[A-Za-z_][\w-]*")
FONT = ("font-family", "font-style", "font-weight")


def names_in(pages: Iterable[str], scripts: Iterable[str]) -> set[str]:
    """Return every class and id of the pages, and every word of the scripts: they may add it as a class later."""
    found: set[str] = set()
    for page in pages:
        for value in set(re.findall(r'\b(?:class|id)="([^"]*)"', page)):
            found.update(value.split())
    for script in scripts:
        found.update(WORD.findall(script))
    return found


def knows(names: set[str]) -> Callable[[str], bool]:
    """Return a test for names; a word of a script that ends in "-" stands for all names that begin with it."""
    beginnings = tuple(name for name in names if name.endswith("-") and len(name) > 3)
    return lambda name: name in names or name.startswith(beginnings)


def split_at_commas(tokens: list[Any]) -> Iterator[list[Any]]:
    part: list[Any] = []
    for token in tokens:
        if token.type == "literal" and token.value == ",":
            yield part
            part = []
        else:
            part.append(token)
    yield part


def can_match(selector: list[Any], known: Callable[[str], bool]) -> bool:
    """Return whether all classes and ids of a selector are known; those inside :not(), :is(), ... do not count."""
    for before, token in itertools.pairwise(selector):
        if token.type == "ident" and before.type == "literal" and before.value == "." and not known(token.value):
            return False
    return all(known(token.value) for token in selector if token.type == "hash")


def used_rules(rules: list[Any], known: Callable[[str], bool]) -> str:
    """Return the text of the rules that can match something."""
    text = []
    for rule in rules:
        if rule.type == "qualified-rule":
            kept = [s for s in split_at_commas(rule.prelude) if can_match(s, known)]
            if kept:
                selectors = ",".join(tinycss2.serialize(s).strip() for s in kept)
                text.append(f"{selectors}{{{tinycss2.serialize(rule.content).strip()}}}")
        elif rule.type == "at-rule":
            inner = rule.content
            if rule.lower_at_keyword in ("media", "supports", "layer", "container") and inner is not None:
                nested = tinycss2.parse_rule_list(inner, skip_comments=True, skip_whitespace=True)
                inside = used_rules(nested, known)
                if inside:
                    text.append(f"@{rule.at_keyword}{tinycss2.serialize(rule.prelude).rstrip()}{{{inside}}}")
            elif rule.lower_at_keyword != "charset":
                text.append(rule.serialize())
    return "\n".join(text)


def without_older_fonts(sheet: str) -> str:
    """Of the fonts with the same name, style and weight keep the last one; no browser takes another."""
    faces = re.findall(r"@font-face\s*{[^}]*}", sheet)

    def key(face: str) -> tuple[str, ...]:
        return tuple("".join(re.findall(rf"{name}\s*:\s*[\"']?([^;\"'}}]+)", face)[:1]) for name in FONT)

    last = {key(face): face for face in faces}
    for face in faces:
        if last[key(face)] != face:
            sheet = sheet.replace(face, "", 1)
    return sheet


def read_sheet(path: Path, static: Path) -> str:
    """Return a style sheet with those that it imports, its addresses as seen from the folder of static files."""
    text = path.read_text(encoding="utf-8")

    def seen_from_static(match: re.Match[str]) -> str:
        address = match.group(1)
        if re.match(r"[a-z]+:|#|/", address):
            return match.group(0)
        return f"url({os.path.relpath(path.parent / address, static)})"

    text = re.sub(r"""url\(\s*(?!["']?data:)["']?([^"')]+)["']?\s*\)""", seen_from_static, text)
    return re.sub(
        r"@import\s+[\"']([^\"']+)[\"'];",
        lambda match: read_sheet((path.parent / match.group(1)).resolve(), static),
        text,
    )


def write_sheet(static: Path, sheets: Iterable[str], names: set[str]) -> str:
    """Write one sheet for several and return its file name, which changes with its content."""
    head = f"/* {' '.join(sheets)} */\n"
    text = "\n".join(read_sheet(static / sheet, static) for sheet in sheets)
    # Long to make and the same after most changes of a page: the name says what it was made of.
    made_of = hashlib.sha256((head + text + "\0".join(sorted(names))).encode()).hexdigest()[:12]
    target = static / f"book-{made_of}.css"
    if not target.is_file():
        for old in static.glob("book-*.css"):
            old.unlink()
        rules = tinycss2.parse_stylesheet(text, skip_comments=True, skip_whitespace=True)
        target.write_text(head + without_older_fonts(used_rules(rules, knows(names))), encoding="utf-8")
    return target.name


def sheets_of(page: str) -> list[str]:
    """Return the style sheets that a page loads, in their order, as seen from the folder of static files."""
    found = (ADDRESS.search(link) for link in LINK.findall(page))
    return [match.group(2) for match in found if match]


def use_sheet(page: str, name: str) -> str:
    """Let a page load one sheet in the place of all."""
    links = LINK.findall(page)
    if not links:
        return page
    start = page.index(links[0])
    folder = ADDRESS.search(links[0])
    assert folder is not None
    one = f'<link rel="stylesheet" href="{folder.group(1)}_static/{name}">\n'
    return page[:start] + one + LINK.sub("", page[start:])


def all_sheets(static: Path, pages: Iterable[str]) -> list[str]:
    """Return every sheet that some page loads; of a page that was lightened before, those that its one sheet names."""
    found: dict[str, None] = {}
    for page in pages:
        for name in sheets_of(page):
            old = re.match(r"/\* (.*?) \*/", (static / name).read_text(encoding="utf-8")[:2000])
            found.update(dict.fromkeys(old.group(1).split() if name.startswith("book-") and old else [name]))
    return list(found)


def lighten(app: Any, error: Exception | None) -> None:
    """After the build: write the sheet, and let every page load it."""
    static = Path(app.outdir) / "_static"
    if error is not None or app.builder.name not in ("html", "dirhtml"):
        return
    pages = {p: p.read_text(encoding="utf-8") for p in Path(app.outdir).rglob("*.html") if static not in p.parents}
    inline = {code for page in pages.values() for code in re.findall(r"<script>(.*?)</script>", page, re.S)}
    files = [p.read_text(encoding="utf-8") for p in static.rglob("*.js") if p.name != "fontawesome.js"]
    sheet = write_sheet(static, all_sheets(static, pages.values()), names_in(pages.values(), [*files, *inline]))
    for path, page in pages.items():
        lighter = use_sheet(page, sheet)
        if lighter != page:
            path.write_text(lighter, encoding="utf-8")


def setup(app: Any) -> dict[str, bool]:
    app.connect("build-finished", lighten, priority=900)  # after everything that adds classes or style sheets
    return {"parallel_read_safe": True, "parallel_write_safe": True}
