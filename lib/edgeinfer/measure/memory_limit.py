"""Runs a function in a process of its own whose memory is really limited, and says how it ended.

A control group limits everything that the process uses, its share of the page cache included. Where this process may
not make one, a resource limit stands in for it, which counts the process's own data only. It knows no technique.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeinfer.measure.cgroup import group_folders
from edgeinfer.measure.host import Host

CHILD = "from edgeinfer.measure.memory_limit import _child; _child()"


@dataclass(frozen=True)
class LimitedRun:
    """How a limited run ended.

    Attributes:
        outcome: "finished", "out of memory", "timeout" or "failed".
        result: what the function returned (JSON), None unless finished.
        how: "cgroup" or "rlimit".
        peak_bytes: most memory the process held; with a control group, page cache included; without one, what it had
            asked for when it ended, touched or not.
        message: one sentence on what went wrong; empty when finished.
    """

    outcome: str
    result: Any
    how: str
    peak_bytes: int
    message: str = ""


def run_limited(target: str, arguments: dict[str, Any], memory_bytes: int, timeout_s: float = 60) -> LimitedRun:
    """Call `module:function(**arguments)` in a fresh Python process with at most so much memory.

    The interpreter and its libraries count too: with torch about 250 MB are gone before the function starts.

    Args:
        target: "package.module:function"; the function takes and returns what JSON can hold.
        arguments: its keyword arguments.
        memory_bytes: limit of the whole process, in bytes.
        timeout_s: wall-clock seconds until the process is ended.

    Returns:
        How it ended; a function that fails or runs out of memory does not raise here.

    Raises:
        ValueError: "target must be module:function ..." or "memory_bytes must be positive ...".
        OSError: when this system has neither control groups nor resource limits.
    """
    if target.count(":") != 1 or not all(target.split(":")):
        raise ValueError(f"target must be module:function, such as 'json:dumps'; came {target!r}")
    if memory_bytes <= 0:
        raise ValueError(f"memory_bytes must be positive; came {memory_bytes}")
    if not hasattr(os, "fork"):
        raise OSError("memory cannot be limited on this system; run this part on Linux (Binder and Colab are)")
    with _control_group(memory_bytes) as group, tempfile.TemporaryFile() as said:
        paths = [p for p in sys.path if p]
        job = {
            "target": target,
            "arguments": arguments,
            "data_limit": 0 if group else memory_bytes,
        }
        process = subprocess.Popen(
            [sys.executable, "-c", CHILD],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": "1"},
        )
        # The child waits for its job, so it is in the group before it does anything.
        if group:
            (group / "cgroup.procs").write_text(str(process.pid))
        try:
            answer, _ = process.communicate(json.dumps(job).encode(), timeout_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            answer, _ = process.communicate()
            message = f"{target} did not end within {timeout_s:g} s; give it more time, or less to do"
            return LimitedRun("timeout", None, "cgroup" if group else "rlimit", _peak(group, answer), message)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        said.seek(0)
        return _judge(target, memory_bytes, group, process.returncode, answer, said.read().decode(errors="replace"))


def _judge(target: str, memory: int, group: Path | None, status: int, answer: bytes, said: str) -> LimitedRun:
    how, peak = ("cgroup" if group else "rlimit"), _peak(group, answer)
    lines = [json.loads(line) for line in answer.decode(errors="replace").splitlines()[-1:] if line.startswith("{")]
    done = lines[0] if lines else {}
    if "result" in done:
        return LimitedRun("finished", done["result"], how, peak)
    if done.get("memory") or (group is not None and _oom_kills(group)):
        message = (
            f"{target} needs more than the {memory / 1e6:.0f} MB it was given; raise the limit or lower its budget"
        )
        return LimitedRun("out of memory", None, how, peak, message)
    last = (said.strip().splitlines() or [f"the process ended with status {status}"])[-1]
    return LimitedRun("failed", None, how, peak, done.get("error") or f"{target} failed: {last}")


def _peak(group: Path | None, answer: bytes) -> int:
    for name in ("memory.peak", "memory.max_usage_in_bytes"):
        if group and (group / name).exists():
            return int((group / name).read_text())
    with contextlib.suppress(ValueError, IndexError):
        return int(json.loads(answer.decode().splitlines()[-1])["peak"])
    return 0


def _oom_kills(group: Path) -> int:
    for name in ("memory.events", "memory.oom_control"):
        if (group / name).exists():
            for line in (group / name).read_text().splitlines():
                key, _, value = line.partition(" ")
                if key == "oom_kill":
                    return int(value)
    return 0


@contextlib.contextmanager
def _control_group(memory_bytes: int) -> Iterator[Path | None]:
    """Make a control group below this process's own, or yield None where that is not allowed."""
    group = None
    for folder in group_folders(Host(), "memory"):
        if not os.access(folder, os.W_OK):
            continue
        place = Path(folder) / f"edgeinfer-{os.getpid()}-{os.urandom(4).hex()}"
        try:
            place.mkdir()
        except OSError:
            continue
        try:
            limit = next(place / n for n in ("memory.max", "memory.limit_in_bytes") if (place / n).exists())
            limit.write_text(str(memory_bytes))
            # Without this a full group would go on in swap space, which is the disk again.
            for name, value in (("memory.swap.max", "0"), ("memory.memsw.limit_in_bytes", str(memory_bytes))):
                if (place / name).exists():
                    (place / name).write_text(value)
            group = place
            break
        except (OSError, StopIteration):
            place.rmdir()
    try:
        yield group
    finally:
        if group is not None:
            # A killed process leaves its group a moment after it was waited for.
            for _ in range(50):
                try:
                    group.rmdir()
                    break
                except OSError:
                    time.sleep(0.02)


def _own_peak() -> int:
    # ru_maxrss is inherited from the process that started this one, so Linux's own lines come first. The limit on data
    # counts what was asked for, touched or not, so that counts, too.
    lines = (Host().read("/proc/self/status") or "").splitlines()
    found = [int(line.split()[1]) * 1024 for line in lines if line.startswith(("VmHWM:", "VmData:"))]
    if found:
        return max(found)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _child() -> None:
    """In the limited process: read the job, run it, print one line of JSON."""
    import importlib
    import resource

    job = json.loads(sys.stdin.buffer.read())
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the function prints is not the answer
    if job["data_limit"]:
        resource.setrlimit(resource.RLIMIT_DATA, (job["data_limit"], job["data_limit"]))
    done: dict[str, Any] = {}
    try:
        module, function = job["target"].split(":")
        done["result"] = getattr(importlib.import_module(module), function)(**job["arguments"])
        json.dumps(done)
    except MemoryError:
        done = {"memory": True}
    except BaseException as error:
        text = str(error).splitlines()[0] if str(error) else ""
        # torch and Numba say in words what Python says with MemoryError.
        short = isinstance(error, RuntimeError | OSError) and "alloc" in text.lower() and "memory" in text.lower()
        done = {"memory": True} if short else {"error": f"{type(error).__name__}: {text}"}
    print(json.dumps({**done, "peak": _own_peak()}), file=out, flush=True)
    os._exit(0)
