"""Executes every lab's solution with papermill: parameters, limits of time and memory, HTML reports, a summary.

Each notebook runs in its own process and in an empty folder, with EDGEINFER_STRICT=1, so that a check or a fallback
that is not satisfied fails. A parameter that a notebook does not have is refused (papermill itself only logs it).
"""

import argparse
import concurrent.futures
import hashlib
import html
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
CHILD = "--execute-one"
WAIT = 5  # a lab is stopped after this many times its processor time: then it hangs


def execute_one(job: dict[str, Any]) -> None:
    """In the child: execute one notebook, write its report, print what was measured as one line of JSON."""
    import resource

    import nbformat
    import papermill
    from nbconvert import HTMLExporter

    executed = Path(job["folder"]) / "executed.ipynb"
    problem = ""
    started = time.monotonic()
    try:
        papermill.execute_notebook(
            job["notebook"],
            str(executed),
            parameters=job["parameters"],
            execution_timeout=job["cell_seconds"],
            start_timeout=300,
            cwd=job["folder"],
            kernel_name="python3",
            progress_bar=False,
            log_output=False,
        )
    except papermill.PapermillExecutionError as error:
        problem = f"cell {error.cell_index}: {error.ename}: {error.evalue}"
    except Exception as error:  # a dead kernel, a cell that ran too long, ...
        problem = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    seconds = time.monotonic() - started
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    slowest = ["", 0.0]
    if executed.is_file():
        notebook = nbformat.read(executed, 4)
        for cell in notebook.cells:
            duration = cell.metadata.get("papermill", {}).get("duration") or 0.0
            if duration > slowest[1]:
                slowest = [cell.get("id", ""), duration]
        exporter = HTMLExporter(
            require_js_url="",
            jquery_url="",
            mathjax_url="",
            mermaid_js_url="",
            mermaid_layout_elk_js_url="",
            widget_renderer_url="",
        )
        body, _ = exporter.from_notebook_node(notebook)
        write_whole(Path(job["report"]), body)
    done = {
        "seconds": seconds,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_bytes": peak,
        "slowest_cell": slowest,
    }
    print(json.dumps({**done, "problem": problem}))


def end_with_parent() -> None:
    """A child whose parent was killed does not go on alone; its kernel follows it."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def write_whole(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def made_of(notebook: Path) -> str:
    """Hash of a notebook and of all that its run depends on: the library, the packages, the data (as for the book)."""
    if str(ROOT / "tools") not in sys.path:
        sys.path.append(str(ROOT / "tools"))
    from build_book import fingerprint

    return hashlib.sha256(notebook.read_bytes() + fingerprint().encode()).hexdigest()


def has_passed(notebook: Path, reports: Path = ROOT / "reports" / "labs") -> bool:
    """Whether this very notebook has passed here with its default parameters and this very library."""
    try:
        results = json.loads((reports / "summary.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    passed = [r for r in results if r["lab"] == notebook.stem and not r["problem"] and not r["parameters"]]
    return any(r.get("made_of") == made_of(notebook) for r in passed)


def known_parameters(notebook: Path) -> dict[str, Any]:
    """Names and defaults of the cell that is tagged `parameters`."""
    import papermill

    return dict(papermill.inspect_notebook(str(notebook)))


def run(notebook: Path, parameters: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Execute one notebook in a child process; the child and its kernel are gone when this returns."""
    report = options.out / f"{notebook.stem}.html"
    report.unlink(missing_ok=True)
    made = made_of(notebook)
    with tempfile.TemporaryDirectory(prefix="lab-") as folder:
        job = {"notebook": str(notebook), "parameters": parameters, "folder": folder, "report": str(report)}
        job["cell_seconds"] = options.cell_seconds
        environment = {
            **os.environ,
            "EDGEINFER_STRICT": "1",
            "MPLBACKEND": "agg",
            "PYTHONWARNINGS": "ignore::UserWarning:papermill",
        }
        process = subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve()), CHILD, json.dumps(job)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True,
        )  # fmt: skip
        started = time.monotonic()
        try:
            out, noise = process.communicate(timeout=WAIT * options.seconds)
        except subprocess.TimeoutExpired:
            out, noise = "", f"stopped after {WAIT * options.seconds:.0f} s"
        finally:
            end_family(process)
    try:
        result = json.loads(out.strip().splitlines()[-1])
    except (IndexError, ValueError):
        last = (noise.strip().splitlines() or ["the process ended without a word"])[-1]
        result = {
            "seconds": time.monotonic() - started,
            "cpu_seconds": 0,
            "peak_bytes": 0,
            "slowest_cell": ["", 0],
            "problem": last,
        }
    # Processor time decides: on a free machine it bounds the wait, and a busy one does not make a lab slow.
    if not result["problem"] and result["cpu_seconds"] > options.seconds:
        result["problem"] = f"took {result['cpu_seconds']:.0f} s of processor time, allowed are {options.seconds:g} s"
    if not result["problem"] and result["peak_bytes"] > options.gigabytes * 1e9:
        result["problem"] = f"took {result['peak_bytes'] / 1e9:.2f} GB, allowed are {options.gigabytes:g} GB"
    return {"lab": notebook.stem, "parameters": parameters, **result, "made_of": made}


def end_family(process: "subprocess.Popen[str]") -> None:
    """End the child and all that it started (kernels run in sessions of their own)."""
    if process.poll() is None:
        from edgeinfer.grading.sandbox import descendants

        for pid in [*descendants(process.pid), process.pid]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        process.communicate()


def summary_page(results: list[dict[str, Any]]) -> str:
    rows = "".join(
        f'<tr><td><a href="{r["lab"]}.html">{r["lab"]}</a></td><td>{r["seconds"]:.1f}</td>'
        f"<td>{r['cpu_seconds']:.1f}</td><td>{r['peak_bytes'] / 1e9:.2f}</td>"
        f"<td>{html.escape(r['slowest_cell'][0])} ({r['slowest_cell'][1]:.1f} s)</td>"
        f"<td>{html.escape(r['problem'] or 'passed')}</td></tr>"
        for r in results
    )
    head = "<tr><th>lab</th><th>s</th><th>processor s</th><th>peak GB</th><th>slowest cell</th><th>result</th></tr>"
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Labs</title>'
        "<style>body{font:16px system-ui;margin:2rem}"
        "td,th{padding:.3rem .8rem;text-align:left}</style><h1>Labs, executed with papermill</h1>"
        f"<table>{head}{rows}</table></html>\n"
    )


def processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="only these labs (default: all)")
    parser.add_argument("-p", "--parameter", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    parser.add_argument("--seconds", type=float, default=60, help="processor time allowed for one lab (default: 60)")
    parser.add_argument(
        "--cell-seconds", type=int, default=120, help="waiting time allowed for one cell (default: 120)"
    )
    parser.add_argument("--gigabytes", type=float, default=2, help="allowed peak memory of one lab (default: 2)")
    parser.add_argument("--jobs", type=int, default=processors(), help="labs at a time (default: one per processor)")
    parser.add_argument("--out", type=Path, default=ROOT / "reports" / "labs", help="folder of the reports")
    parser.add_argument("--solutions", type=Path, default=ROOT / "solutions", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    found = {p.stem: p for p in sorted(options.solutions.glob("*.ipynb"))}
    unknown = [n for n in options.names if n not in found]
    if unknown or not found:
        print(
            f"labs: no lab {', '.join(unknown)}; there are {', '.join(found) or 'none; run make labs'}", file=sys.stderr
        )
        return 1
    parameters = {name: yaml.safe_load(value) for name, value in options.parameter}
    chosen = [found[n] for n in options.names or found]
    for notebook in chosen:
        known = known_parameters(notebook)
        for name in parameters:
            if name not in known:
                print(
                    f"labs: {notebook.stem} has no parameter {name!r}; it has {', '.join(known) or 'none'}",
                    file=sys.stderr,
                )
                return 1
    options.out.mkdir(parents=True, exist_ok=True)
    results = []
    # Not in a `with`: after Ctrl-C that would wait for the labs that still run.
    pool = concurrent.futures.ThreadPoolExecutor(max(1, options.jobs))
    for r in pool.map(lambda notebook: run(notebook, parameters, options), chosen):
        results.append(r)
        print(
            f"{r['lab']:32} {r['seconds']:6.1f} s {r['peak_bytes'] / 1e9:6.2f} GB  {r['problem'] or 'passed'}",
            flush=True,
        )
    write_whole(options.out / "summary.json", json.dumps(results, indent=1))
    write_whole(options.out / "index.html", summary_page(results))
    failed = sum(bool(r["problem"]) for r in results)
    print(f"labs: {len(results) - failed} passed, {failed} failed; reports: {options.out / 'index.html'}")
    return 1 if failed else 0


if __name__ == "__main__":
    if sys.argv[1:2] == [CHILD]:
        end_with_parent()
        execute_one(json.loads(sys.argv[2]))
    else:
        try:
            sys.exit(main())
        except KeyboardInterrupt:
            print("\nlabs: interrupted; reports that were complete are kept", file=sys.stderr, flush=True)
            os._exit(1)  # the labs that still run notice that their parent is gone, and end
