"""Shows the book while it is written: `make watch` builds after every save, and the page in the browser reloads.

A save of text costs seconds, because nothing is executed for it: the builder's modules are loaded once (`Nursery`),
Sphinx reads and writes the changed pages only, and only changed files are copied. What cannot be shown so quickly is
said: see `plan`. It knows build_book and serve, not the pages.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import build_book as book
import serve
from book_nursery import Fresh, Nursery

WATCHED = ("book", "labs", "solutions", "lib", "_config.yml", "_toc.yml", "benchmarks/results")
POLL = 0.15
RUNNING, HAVE_RUN = "pages: running", "pages: all have run"  # printed by book/_ext/run_pages.py


def say(text: str) -> None:
    print(f"watch: {text}", flush=True)


def relative(path: str) -> str:
    return os.path.relpath(path, book.ROOT)


def snapshot() -> dict[str, int]:
    """Every watched file with its time of change; editors' own temporary files are left out."""
    found = {}
    for path in book.files_in(*WATCHED):
        if not path.name.startswith((".", "#")) and not path.name.endswith(("~", ".swp", ".tmp")):
            with contextlib.suppress(OSError):
                found[str(path)] = path.stat().st_mtime_ns
    return found


@dataclass
class Plan:
    """What a change asks for."""

    labs: list[str] = field(default_factory=list)  # notebooks to write again from their sources
    static: list[str] = field(default_factory=list)  # copied as they are
    results: list[str] = field(default_factory=list)  # files on which the results of executed pages depend
    everything: bool = False  # the set-up of the book: all pages are read again, none is run
    pages: bool = False  # text


def plan(changed: Iterable[str]) -> Plan:
    """Sorts changed files (relative to the project) by what they ask for."""
    made = Plan()
    for name in changed:
        parts = Path(name).parts
        if name in book.INPUTS or name.startswith(tuple(f"{i}/" for i in book.INPUTS)):
            made.results.append(name)
        elif parts[0] == "solutions":
            if name.endswith(".py"):
                made.labs.append(Path(name).stem)
        elif name.startswith("book/_static/"):
            made.static.append(name.removeprefix("book/_static/"))
        elif name in ("_config.yml", "_toc.yml") or name.startswith(("book/_ext/", "book/_templates/")):
            made.everything = True
        else:
            made.pages = True
    return made


class Watcher:
    """Builds after changes; keeps what the next build must know."""

    def __init__(self, builder: Any, server: Any = None) -> None:
        self.builder, self.server = builder, server
        self.seen = snapshot()
        self.again: set[str] = set()  # pages that must be read again: the last build complained about them

    def changes(self) -> list[str]:
        """The files changed since the last call, once the editor has finished writing them."""
        now = snapshot()
        if now == self.seen:
            return []
        while True:
            time.sleep(POLL / 3)
            later = snapshot()
            if later == now:
                break
            now = later
        changed = sorted(k for k in now.keys() | self.seen.keys() if now.get(k) != self.seen.get(k))
        self.seen = now
        return [relative(path) for path in changed]

    def open_pages(self) -> list[str]:
        """Pages that a browser shows now, as Sphinx names them."""
        shown = getattr(self.server, "shown", {})
        fresh = [path for path, at in shown.items() if time.monotonic() - at < 5]
        return sorted(path.strip("/").removesuffix(".html") for path in fresh)

    def tell_browser(self, problem: str = "") -> None:
        state = {"library": book.STAMP.read_text(), "at": time.time(), "problem": problem}
        part = book.SITE / "built.json.part"
        part.write_text(json.dumps(state) + "\n")
        os.replace(part, book.SITE / "built.json")

    def read_again(self, pages: Iterable[str]) -> None:
        for page in pages:
            (book.STAGE / ".doctrees" / f"{page}.doctree").unlink(missing_ok=True)

    def results_changed(self, names: list[str]) -> list[str]:
        """Pages to run again because the library or the data changed: those that are looked at. Says so."""
        shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        pages = [page for page in self.open_pages() if source_of(page)]
        runs = f"runs again what a browser shows: {', '.join(pages)}" if pages else "no page is open in a browser"
        say(f"{shown} may change what the cells of every page print; {runs}. The others keep their last results")
        say("  until `make book`, which then runs every page.")
        book.STAMP.write_text("mixed: pages were run with different versions of the library")
        return pages

    def build(self, changed: list[str]) -> None:
        started = time.monotonic()
        say(f"changed: {', '.join(changed[:5])}{', ...' if len(changed) > 5 else ''}")
        asked = plan(changed)
        if asked.labs:
            code, lines = self.run("labs", [name for name in asked.labs if exists(name)], [])
            if code != 0:
                self.failed("\n".join(lines), started)
                return
            self.changes()  # the notebooks just written belong to this build
            asked.pages = True
        copy_static(asked.static)
        unlisted = [name for name in changed if is_unlisted(name)]
        if unlisted:
            say(f"{', '.join(unlisted)} stands in no table of contents: add it to _toc.yml to see it")
        again = self.results_changed(asked.results) if asked.results else []
        if not (asked.pages or asked.everything or again):
            self.tell_browser()
            if asked.static:
                say(f"copied, no page was built or run; shown after {time.monotonic() - started:.1f} s")
            return
        with book.only_one():
            if asked.everything:
                say("the set-up of the book has changed: all pages are read again, none is run")
                shutil.rmtree(book.STAGE / ".doctrees", ignore_errors=True)
            if book.MARKER.exists():
                shutil.rmtree(book.STAGE / ".doctrees", ignore_errors=True)
            self.read_again([*self.again, *again])
            book.MARKER.touch()
            code, lines = self.run("book", book.command()[3:], again)
            if code is None:
                book.MARKER.unlink()
                return
            self.again, elsewhere = complained_about(lines)
            stopped_early = any("not run to the end" in line for line in lines[-5:])
            if code == 0 or stopped_early or (self.again and not elsewhere):
                book.MARKER.unlink()  # nothing is half-made but pages that are read again anyway
            if code != 0:
                self.failed(book.explain(lines), started)
                return
            book.drop_orphans()
            synchronise(book.STAGE / "html", book.SITE)
            self.tell_browser()
        ran = any(line.startswith(RUNNING) for line in lines)
        say(f"built{'' if ran else ', nothing was run'}; shown after {time.monotonic() - started:.1f} s")

    def failed(self, why: str, started: float) -> None:
        print(why, flush=True)
        say(f"not built ({time.monotonic() - started:.1f} s); the browser keeps the last page. Mend it and save again")
        self.tell_browser(why[:2000])

    def run(self, kind: str, arguments: list[str], again: list[str]) -> tuple[int | None, list[str]]:
        """Runs a child to its end; None when a newer save made its executing pages useless and it was ended."""
        narrator = book.Narrator("watch", quiet=True)
        pid = self.builder.start(kind, arguments, again)
        executing, newer = False, False
        try:
            while (code := self.builder.ended()) is None:
                for line in self.builder.read():
                    narrator.hear(line)
                    executing = line.startswith(RUNNING) or (executing and not line.startswith(HAVE_RUN))
                # While pages run nothing has been written yet, so a build that is out of date can be ended.
                if executing and not newer and snapshot() != self.seen:
                    say("saved again while pages were running: starting over")
                    newer = True
                    os.kill(pid, signal.SIGKILL)
        except BaseException:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
            raise
        for line in self.builder.read():
            narrator.hear(line)
        return (None if newer else code), narrator.lines


def exists(lab: str) -> bool:
    return (book.ROOT / "solutions" / f"{lab}.py").is_file()


def source_of(page: str) -> Path | None:
    """The source of a page, or None for pages that Sphinx makes itself (search, index)."""
    found = [path for ending in (".md", ".ipynb") if (path := book.ROOT / f"{page}{ending}").is_file()]
    return found[0] if found else None


def is_unlisted(name: str) -> bool:
    """Whether a file is a page that no table of contents names."""
    if not (name.startswith("book/") and name.endswith(".md")) or "/_" in name or not (book.ROOT / name).is_file():
        return False
    return name.removesuffix(".md") not in book.listed_pages()


def complained_about(lines: list[str]) -> tuple[set[str], bool]:
    """Names of the pages in the builder's warnings, and whether there are warnings that name none."""
    found, elsewhere = set(), False
    for line in filter(book.PROBLEM.search, lines):
        path = re.match(r"(/[^:\s]+\.(?:md|ipynb))(?::\d+)?: ", line)
        if path:
            found.add(os.path.splitext(relative(path[1]))[0])
        elsewhere = elsewhere or not path
    return found, elsewhere


def copy_static(names: list[str]) -> None:
    """Puts style sheets, scripts and pictures of book/_static where the site has them; Sphinx would not notice."""
    for name in names:
        source = book.ROOT / "book" / "_static" / name
        for site in (book.STAGE / "html", book.SITE):
            target = site / "_static" / name
            if source.is_file():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, target)
            else:
                target.unlink(missing_ok=True)


def synchronise(new: Path, site: Path) -> None:
    """Makes `site` equal to `new`, copying only files that differ, each through a rename."""
    wanted = set()
    for path in new.rglob("*"):
        name = path.relative_to(new)
        if path.is_dir() or name.parts[0] == "reports" or name.name == ".buildinfo" or name.suffix == ".map":
            continue
        wanted.add(name)
        target, now = site / name, path.stat()
        with contextlib.suppress(OSError):
            old = target.stat()
            if (old.st_size, old.st_mtime_ns) == (now.st_size, now.st_mtime_ns):
                continue
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(target.name + ".part")
        shutil.copy2(path, part)
        os.replace(part, target)
    for path in list(site.rglob("*.html")):
        if path.relative_to(site) not in wanted:
            path.unlink()


def check_port(port: int) -> None:
    """Says before a build of minutes, not after it, that the port is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            sys.exit(f"watch: port {port} is in use by another program; choose another one: make watch PORT={port + 1}")


def watch(port: int) -> None:
    """Builds, serves, and builds again after every change until interrupted."""
    check_port(port)
    watcher = Watcher(Nursery() if sys.platform.startswith("linux") else Fresh())
    while not book.build() and not book.SITE.exists():
        say("there is no book to show yet; waiting for a change")
        while not watcher.changes():
            time.sleep(POLL)
    watcher.changes()
    watcher.server = serve.open_server(port, book.SITE, live=True)
    threading.Thread(target=watcher.server.serve_forever, daemon=True).start()
    say(f"http://127.0.0.1:{watcher.server.server_address[1]} shows the book and reloads after every save; Ctrl-C ends")
    while True:
        time.sleep(POLL)
        if changed := watcher.changes():
            watcher.build(changed)
