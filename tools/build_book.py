"""Executes and builds the book: `make book`, or `make watch` to build again whenever a page changes.

The site is built beside the finished one and takes its place only when everything passed, so an interrupted or failed
build never looks like a book. Executed pages are kept; they run again when their own code, the library, the pinned
packages or the data they read have changed. Warnings are errors.
"""

import argparse
import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
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
# A page's own code decides whether it runs again; these are what it may read besides.
INPUTS = ("lib", "requirements.txt", "constraints.txt", "book/systems.yaml", "benchmarks/results")
WATCHED = ("book", "labs", "lib", "_config.yml", "_toc.yml", "benchmarks/results")
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
    digest = hashlib.sha256(sys.version.encode())
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
        if CACHE.exists():
            print("book: the library, its packages or the data have changed; every page runs again", flush=True)
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
    return {**os.environ, **blas, "JUPYTER_PREFER_ENV_PATH": "1", "PYTHONUNBUFFERED": "1", "NO_COLOR": "1"}


def run_builder() -> tuple[int, list[str]]:
    """Runs Jupyter Book; shows one line per page; returns its exit code and its last lines."""
    lines: list[str] = []
    started = time.monotonic()
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
            line = re.sub(r"\x1b\[[0-9;]*m", "", raw).rstrip()
            lines.append(line)
            shown = re.match(r"(reading sources|writing output)\.\.\. \[ *(\d+)%\] (\S+)", line)
            if shown:
                step = {"reading sources": "run ", "writing output": "page"}[shown[1]]
                print(f"book: {time.monotonic() - started:6.1f} s  {shown[2]:>3}%  {step}  {shown[3]}", flush=True)
            elif PROBLEM.search(line):
                print("book: " + line.replace(f"{ROOT}/", ""), flush=True)
    except KeyboardInterrupt:
        process.terminate()
        process.wait()
        raise
    return process.wait(), lines


def explain(lines: list[str]) -> str:
    """Returns which page and cell failed with the error's last lines, or the warnings, or the builder's last words."""
    told = []
    text = "\n".join(lines)
    failed = re.search(
        r".*CellExecutionError: An error occurred while executing the following cell:\n-+\n(.*?)\n-+\n(.*?)"
        r"\nThe above exception was the direct cause.*?ExecutionError: (\S+)",
        text,
        re.S,
    )
    if failed:
        page = os.path.relpath(failed[3], ROOT)
        error = [line for line in failed[2].splitlines() if line.strip()]
        told += [f"book: this cell of {page} failed:", *("    | " + line for line in failed[1].splitlines()[:30])]
        told += ["book: its last words:", *("    " + line for line in error[-12:])]
    for page in re.findall(r"(\S+): WARNING: Executing notebook failed: CellTimeoutError", text):
        told.append(f"book: a cell of {os.path.relpath(page, ROOT)} ran longer than execute.timeout in _config.yml")
    problems = [line for line in lines if PROBLEM.search(line) and "Executing notebook failed" not in line]
    if problems:
        told += [f"book: {len(problems)} warning(s), which count as errors:"]
        told += ["    " + line.replace(f"{ROOT}/", "") for line in dict.fromkeys(problems)]
    if not told:
        told = ["book: the builder failed; its last lines:"] + ["    " + line for line in lines[-25:]]
    return "\n".join(told)


def publish() -> None:
    """Puts the finished site in the place of the old one."""
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
            print(f"book: FAILED after {time.monotonic() - started:.0f} s{kept}", flush=True)
            return False
        publish()
        MARKER.unlink()
    pages = len(list(SITE.rglob("*.html")))
    print(
        f"book: built {pages} pages in {time.monotonic() - started:.0f} s. Open _build/html/index.html, or: make serve"
    )
    return True


def snapshot() -> dict[str, float]:
    found = {}
    for path in files_in(*WATCHED):
        with contextlib.suppress(OSError):
            found[str(path)] = path.stat().st_mtime
    return found


def watch(port: int) -> None:
    """Builds, serves, and builds again after every change until interrupted."""
    sys.path.insert(0, str(ROOT / "tools"))
    import serve

    seen = snapshot()
    build()
    if not SITE.exists():
        sys.exit("watch: the first build failed; mend it and start again")
    server = serve.open_server(port, SITE, live=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"watch: http://127.0.0.1:{port} shows the book and reloads after a change; Ctrl-C ends", flush=True)
    while True:
        time.sleep(0.5)
        now = snapshot()
        if now != seen:
            changed = sorted(k for k in now.keys() | seen.keys() if now.get(k) != seen.get(k))
            print("watch: changed: " + ", ".join(os.path.relpath(c, ROOT) for c in changed[:5]), flush=True)
            seen = now
            build()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--watch", action="store_true", help="serve, and build again whenever a page changes")
    parser.add_argument("--port", type=int, default=8000, help="port for --watch")
    arguments = parser.parse_args()
    try:
        if arguments.watch:
            watch(arguments.port)
        elif not build():
            sys.exit(1)
    except KeyboardInterrupt:
        sys.exit("\nbook: interrupted; the last finished book is untouched and the next build starts where it can.")


if __name__ == "__main__":
    main()
