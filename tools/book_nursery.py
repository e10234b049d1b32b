"""Starts builds quickly: a process that has Sphinx loaded and forks a child for each build (`Nursery`).

`Fresh` does the same with a new process where a fork is not safe. Knows how to start a build, not when.
"""

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from multiprocessing.connection import Connection

import build_book as book

# Imported once, so that no build waits for them. None is the project's own: those may change while watching.
HEAVY = (
    "jupyter_book.cli.main", "jupyter_book.sphinx", "myst_nb.sphinx_", "sphinx_book_theme", "sphinx.builders.html",
    "sphinx.search.en", "sphinxcontrib.bibtex", "sphinx_design", "sphinx_external_toc", "jupyter_cache", "nbclient",
    "jupytext", "nbgrader.preprocessors", "fontTools.subset", "sphinx.domains.python", "sphinx.writers.html5",
)  # fmt: skip


def run_child(kind: str, arguments: list[str], out: int, again: list[str]) -> None:
    """In the forked child: one build or one `make labs`, its words into the pipe `out`; never returns."""
    code = 1
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
        os._exit(code)


def nursery(orders: Connection, out: int, parent_end: Connection) -> None:
    """In a process without threads: loads what builds need, then forks one child per order."""
    import importlib

    parent_end.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.update(book.environment())
    for name in HEAVY:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    while True:
        try:
            kind, arguments, again = orders.recv()
        except (EOFError, OSError):
            os._exit(0)
        child = os.fork()
        if child == 0:
            orders.close()
            run_child(kind, arguments, out, again)
        with contextlib.suppress(BrokenPipeError):
            orders.send(child)
            status = os.waitpid(child, 0)[1]
            orders.send(os.waitstatus_to_exitcode(status))


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
