"""Executes and builds the book: `make book`, or `make watch` to build again whenever a page changes.

The site is built beside the finished one and takes its place only when everything passed, so an interrupted or failed
build never looks like a book. Executed pages are kept; they run again when their own code, the library, the pinned
packages or the data they read have changed (book/_ext/run_pages.py runs them). Warnings are errors.
"""

import argparse
import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "_build"
SITE = BUILD / "html"
STAGE = BUILD / "stage" / "_build"
CACHE = STAGE / ".jupyter_cache"
MARKER = BUILD / "building"
STAMP = BUILD / "executed-with"
SECONDS = BUILD / "seconds.json"  # how long each page took to run, for the next estimate
# A page's own code decides whether it runs again; these are what it may read besides.
INPUTS = ("lib", "requirements.txt", "constraints.txt", "book/systems.yaml", "benchmarks/results")
# Sphinx writes "WARNING: text"; a kernel that only talks writes "[IPKernelApp] WARNING | text".
PROBLEM = re.compile(r"\b(WARNING|ERROR|CRITICAL): ")
SKIPPED = {"__pycache__", ".ipynb_checkpoints", "edgeinfer.egg-info"}


def files_in(*names: str) -> Iterator[Path]:
    """Yields every file below the named files and folders of the project, in a fixed order."""
    for name in names:
        path = ROOT / name
        if path.is_file():
            yield path
        for folder, folders, files in os.walk(path):
            folders[:] = sorted(f for f in folders if f not in SKIPPED)
            yield from (Path(folder) / f for f in sorted(files) if not f.endswith(".pyc"))


def fingerprint() -> str:
    """Returns a hash of everything but its own code that an executed page depends on."""
    kernels = os.environ.get("EDGEINFER_SIMD", "")  # vector kernels or portable ones
    digest = hashlib.sha256(f"{sys.version} {kernels}".encode())
    for path in files_in(*INPUTS):
        digest.update(str(path.relative_to(ROOT)).encode() + b"\0")
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


@contextlib.contextmanager
def only_one() -> Iterator[None]:
    """Holds a lock while building: two builds at once would write into each other."""
    import fcntl

    BUILD.mkdir(exist_ok=True)
    with open(BUILD / ".lock", "w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            print("book: another build is running; waiting for it to end", flush=True)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def prepare() -> None:
    """Clears what an interrupted or failed run left, and executions made with another library or other packages."""
    if not SITE.exists() and (BUILD / "html.old").exists():
        os.replace(BUILD / "html.old", SITE)
    if MARKER.exists():
        # Sphinx reports a page's warnings only when it reads the page: read all again, or a failure would turn green.
        shutil.rmtree(STAGE / ".doctrees", ignore_errors=True)
        shutil.rmtree(STAGE / "html", ignore_errors=True)
    now = fingerprint()
    if not STAMP.exists() or STAMP.read_text() != now:
        why = "the library, its packages or the data have changed: every page" if CACHE.exists() else "every page"
        print(f"book: {why} runs, which takes minutes; later builds run only what has changed", flush=True)
        shutil.rmtree(STAGE, ignore_errors=True)
        BUILD.mkdir(exist_ok=True)
        STAMP.write_text(now)
    MARKER.touch()


def command() -> list[str]:
    start = "from jupyter_book.cli.main import main; main()"
    return [sys.executable, "-c", start, "build", ".", "--path-output", str(STAGE.parent), "-W", "-n", "--keep-going"]


def environment() -> dict[str, str]:
    # The kernel must be this environment's own, not one that the user has installed under the same name.
    # NumPy's products of small matrices: on a busy machine a second thread is waited for longer than it works.
    blas = {"OPENBLAS_NUM_THREADS": os.environ.get("OPENBLAS_NUM_THREADS", "1")}
    ours = {"JUPYTER_PREFER_ENV_PATH": "1", "PYTHONUNBUFFERED": "1", "NO_COLOR": "1"}
    return {**os.environ, **blas, **ours, "EDGEINFER_PAGE_SECONDS": str(SECONDS)}


class Narrator:
    """Turns the builder's many lines into the few that a person wants, and keeps all of them."""

    def __init__(self, name: str = "book", quiet: bool = False) -> None:
        self.lines: list[str] = []
        self.started = time.monotonic()
        self.told = ""
        self.name, self.quiet = name, quiet

    def say(self, text: str) -> None:
        print(f"{self.name}: {time.monotonic() - self.started:6.1f} s  {text}", flush=True)

    def hear(self, raw: str) -> None:
        line = re.sub(r"\x1b\[[0-9;]*m", "", raw).rstrip()
        self.lines.append(line)
        step = re.match(r"(reading sources|writing output)\.\.\. \[ *(\d+)%\]", line)
        if line.startswith("pages: "):
            self.say(line.removeprefix("pages: "))
        elif self.quiet:
            pass
        elif step:
            quarter = f"{step[1]}: {int(step[2]) // 25 * 25} %"
            if quarter != self.told:
                self.say(quarter)
            self.told = quarter
        elif PROBLEM.search(line):
            print("book: " + line.replace(f"{ROOT}/", ""), flush=True)


def run_builder() -> tuple[int, list[str]]:
    """Runs Jupyter Book; says what it does; returns its exit code and its lines."""
    narrator = Narrator()
    process = subprocess.Popen(
        command(),
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    assert process.stdout is not None
    try:
        for raw in process.stdout:
            narrator.hear(raw)
    except KeyboardInterrupt:
        process.terminate()
        process.wait()
        raise
    return process.wait(), narrator.lines


FAILED_CELL = re.compile(
    r"CellExecutionError: An error occurred while executing the following cell:\n-+\n(.*?)\n-+\n(.*?)"
    r"\nThe above exception was the direct cause.*?ExecutionError: (\S+)",
    re.S,
)


def line_of(page: Path, code: str) -> str:
    """Returns ", line 12" where the cell stands in the page's source, or nothing where it cannot be found."""
    try:
        text = page.read_text(encoding="utf-8")
    except OSError:
        return ""
    at = text.find(code.strip()) if page.suffix == ".md" else -1
    return f", line {text.count(chr(10), 0, at) + 1}" if at >= 0 else ""


def explain(lines: list[str]) -> str:
    """Returns which pages and cells failed, with their last lines; or the warnings; or the builder's last words."""
    told = []
    text = "\n".join(lines)
    for cell, words, path in FAILED_CELL.findall(text):
        page = Path(path)
        error = [line for line in words.splitlines() if line.strip() and not line.startswith("[IPKernelApp]")]
        told += [f"book: this cell of {os.path.relpath(page, ROOT)}{line_of(page, cell)} failed:"]
        told += ["    | " + line for line in cell.splitlines()[:30]]
        told += ["book: its last words:", *("    " + line for line in error[-12:])]
    slow = re.findall(r"CellTimeoutError(?:(?!The above exception).)*?direct cause.*?ExecutionError: (\S+)", text, re.S)
    for path in slow:
        told.append(f"book: a cell of {os.path.relpath(path, ROOT)} ran longer than execute.timeout in _config.yml")
    problems = [line for line in lines if PROBLEM.search(line) and "Executing notebook failed" not in line]
    if problems:
        told += [f"book: {len(set(problems))} warning(s), which count as errors:"]
        told += ["    " + line.replace(f"{ROOT}/", "") for line in dict.fromkeys(problems)]
    if not told:
        told = ["book: the builder failed; its last lines:"] + ["    " + line for line in lines[-25:]]
    return "\n".join(told)


def listed_pages() -> set[str]:
    """Names of the pages in _toc.yml, without their endings."""
    toc = (ROOT / "_toc.yml").read_text(encoding="utf-8")
    return set(re.findall(r"\b(?:file|root):\s*[\"']?([^\s\"',}]+)", toc))


def drop_orphans() -> None:
    """Removes the built pages of sources that are gone: Sphinx leaves them where they were."""
    html, listed = STAGE / "html", listed_pages()
    for path in html.rglob("*.html"):
        name = path.relative_to(html).with_suffix("").as_posix()
        if "/" in name and not name.startswith(("_", "reports/")) and name not in listed:
            path.unlink()


def has_run(notebook: Path) -> bool:
    """Whether the book holds an execution of this very notebook that was made with this very library."""
    import nbformat
    from jupyter_cache import get_cache

    if not (CACHE / "global.db").exists() or not STAMP.exists() or STAMP.read_text() != fingerprint():
        return False
    try:
        return bool(get_cache(CACHE).match_cache_notebook(nbformat.read(notebook, 4)))
    except KeyError:
        return False


def publish() -> None:
    """Puts the finished site in the place of the old one."""
    drop_orphans()
    new, old = BUILD / "html.new", BUILD / "html.old"
    for leftover in (new, old):
        shutil.rmtree(leftover, ignore_errors=True)
    shutil.copytree(STAGE / "html", new, ignore=shutil.ignore_patterns("reports", ".buildinfo", "*.map"))
    (new / "built.json").write_text(json.dumps({"library": STAMP.read_text(), "at": int(time.time())}) + "\n")
    if SITE.exists():
        os.replace(SITE, old)
    os.replace(new, SITE)
    shutil.rmtree(old, ignore_errors=True)


def build() -> bool:
    """Builds once; returns whether it passed. A failed build leaves the last good site where it was."""
    started = time.monotonic()
    with only_one():
        prepare()
        code, lines = run_builder()
        if code != 0 or not (STAGE / "html" / "index.html").exists():
            print("\n" + explain(lines), flush=True)
            kept = "; the last good book is still in _build/html" if SITE.exists() else ""
            again = "Mend it and say `make book`: only what failed or changed runs again"
            print(f"book: FAILED after {time.monotonic() - started:.0f} s{kept}. {again}.", flush=True)
            return False
        publish()
        MARKER.unlink()
    pages = len(list(SITE.rglob("*.html")))
    print(
        f"book: built {pages} pages in {time.monotonic() - started:.0f} s. Open _build/html/index.html, or: make serve"
    )
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--watch", action="store_true", help="serve, and build again whenever a page changes")
    parser.add_argument("--port", type=int, default=8000, help="port for --watch")
    arguments = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job comes with Ctrl-C ignored
    try:
        if arguments.watch:
            sys.path.insert(0, str(ROOT / "tools"))
            import book_watch

            book_watch.watch(arguments.port)
        elif not build():
            sys.exit(1)
    except KeyboardInterrupt:
        sys.exit("\nbook: interrupted; the last finished book is untouched and the next build starts where it can.")


if __name__ == "__main__":
    main()
