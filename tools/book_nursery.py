"""Starts builds quickly: a process that has Sphinx loaded and forks a child for each build (`Nursery`).

`Fresh` does the same with a new process where a fork is not safe. Knows how to start a build, not when.
"""

import contextlib
import importlib
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import build_book as book

# Imported before the first build; what else a build loads is learnt from its children (`loaded_since`).
FIRST = ("jupyter_book.cli.main", "jupyter_book.sphinx", "myst_nb.sphinx_", "sphinx_book_theme", "sphinxcontrib.bibtex")
OWN = ("lib", "book", "tools", "solutions", "tests")  # may change while watching: each build loads these anew


def loaded_since(before: set[str]) -> list[str]:
    """Names of the modules that this process has loaded since, but for the project's own."""
    own = tuple(f"{book.ROOT / folder}{os.sep}" for folder in OWN)
    found = {name: getattr(module, "__file__", None) for name, module in list(sys.modules.items())}
    return [name for name, file in found.items() if name not in before and file and not file.startswith(own)]


def remember_bibliography(memory: Path) -> None:
    """Formatted entries of the bibliography, a third of a short build, are kept until an entry changes."""
    from pybtex.style.formatting import BaseStyle

    known: dict[str, Any] = {}
    with contextlib.suppress(Exception):  # not there yet, or written by another version
        known = pickle.loads(memory.read_bytes())  # noqa: S301 - written below, beside Sphinx's own pickles
    size, format_entry = len(known), BaseStyle.format_entry

    def remembered(self: Any, label: str, entry: Any, bib_data: Any = None) -> Any:
        key = f"{type(self).__name__} {label} {entry!r}"
        if key not in known:
            known[key] = format_entry(self, label, entry, bib_data)
        return known[key]

    def keep() -> None:
        if len(known) != size:
            memory.write_bytes(pickle.dumps(known))

    BaseStyle.format_entry = remembered
    at_end.append(keep)


at_end: list[Callable[[], None]] = []


def run_child(kind: str, arguments: list[str], out: int, again: list[str], learnt: int) -> None:
    """In the forked child: one build or one `make labs`, its words into the pipe `out`; never returns."""
    code, before = 1, set(sys.modules)
    try:
        os.dup2(out, 1)
        os.dup2(out, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
        os.environ["EDGEINFER_RUN_AGAIN"] = " ".join(again)
        os.chdir(book.ROOT)
        if kind == "labs":
            sys.path.insert(0, str(book.ROOT / "lib"))
            import build_labs

            code = build_labs.main(arguments)
        else:
            from jupyter_book.cli.main import main

            remember_bibliography(book.STAGE / "bibliography.pickle")
            sys.argv = ["jupyter-book", *arguments]
            main(standalone_mode=False)
            code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException as error:  # Jupyter Book raises to say that a build failed; its lines said why
        print(f"{type(error).__name__}: {error}")
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
            for step in at_end:
                step()
            os.write(learnt, "\n".join(loaded_since(before)).encode())
        os._exit(code)


def nursery(orders: Connection, out: int, parent_end: Connection) -> None:
    """In a process without threads: loads what builds need, then forks one child per order."""
    parent_end.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.update(book.environment())
    load(FIRST)
    while True:
        try:
            kind, arguments, again = orders.recv()
        except (EOFError, OSError):
            os._exit(0)
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            orders.close()
            os.close(reading)
            run_child(kind, arguments, out, again, writing)
        os.close(writing)
        with contextlib.suppress(BrokenPipeError):
            orders.send(child)
            with os.fdopen(reading, encoding="utf-8", errors="replace") as names:
                learnt = names.read().split()
            orders.send(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
            load(learnt)


def load(names: Iterable[str]) -> None:
    for name in names:
        with contextlib.suppress(Exception):  # what cannot be loaded early is loaded by the build itself
            importlib.import_module(name)


class Nursery:
    """The process that has everything loaded, seen from outside. Only where `fork` is safe: on Linux."""

    def __init__(self) -> None:
        self.lines, out = os.pipe()
        self.orders, theirs = multiprocessing.Pipe()
        if os.fork() == 0:  # it ends by itself when this end of the pipe is closed, however this process ends
            nursery(theirs, out, self.orders)
        theirs.close()
        os.close(out)
        os.set_blocking(self.lines, False)
        self.rest = ""

    def start(self, kind: str, arguments: list[str], again: list[str]) -> int:
        self.orders.send((kind, arguments, again))
        return int(self.orders.recv())

    def read(self) -> list[str]:
        """The lines that have come since the last call."""
        with contextlib.suppress(BlockingIOError):
            while piece := os.read(self.lines, 1 << 16):
                self.rest += piece.decode(errors="replace")
        *lines, self.rest = self.rest.split("\n")
        return lines

    def ended(self) -> int | None:
        """The exit code of the child, or None while it runs."""
        return int(self.orders.recv()) if self.orders.poll(0.05) else None


class Fresh:
    """The same without fork: every build is a new process, which takes a few seconds longer."""

    process: "subprocess.Popen[bytes]"

    def start(self, kind: str, arguments: list[str], again: list[str]) -> int:
        tool = [sys.executable, str(book.ROOT / "tools" / "build_labs.py"), *arguments]
        self.process = subprocess.Popen(
            tool if kind == "labs" else book.command(), cwd=book.ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env={**book.environment(), "EDGEINFER_RUN_AGAIN": " ".join(again)},
        )  # fmt: skip
        assert self.process.stdout is not None
        os.set_blocking(self.process.stdout.fileno(), False)
        self.rest = ""
        return self.process.pid

    def read(self) -> list[str]:
        assert self.process.stdout is not None
        while piece := self.process.stdout.read(1 << 16):
            self.rest += piece.decode(errors="replace")
        *lines, self.rest = self.rest.split("\n")
        return lines

    def ended(self) -> int | None:
        time.sleep(0.05)
        return self.process.poll()
