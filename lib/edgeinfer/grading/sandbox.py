"""Runs `runner.py` with one student's answer where it can reach nothing: no network, no files of ours, hard limits.

With bubblewrap: own network, process and file name spaces, a read-only interpreter, 64 MiB of scratch memory. Without
it: resource limits and a scrubbed environment only, which `describe` says. Judges nothing; gives back bytes.
"""

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeinfer.grading import runner
from edgeinfer.grading.exercise import Args

RUNNER = Path(runner.__file__).resolve()
PACKAGE = RUNNER.parent.parent
FIRST_UID = 61000
SCRATCH = 64 << 20
STDERR_LIMIT = 16 << 20
START_UP = 60.0  # seconds for Python and numpy to start, on a busy machine
ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "HOME": "/tmp",
    "LANG": "C.UTF-8",
    "PYTHONHASHSEED": "0",
    **{f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL", "NUMBA")},
}


@dataclass(frozen=True)
class Limits:
    """Of one answer: processor seconds, wall clock seconds, bytes of memory, processes, bytes of answer."""

    cpu: int = 10
    wall: float = 28
    memory: int = 1 << 30
    processes: int = 16
    answer: int = 16 << 20


@dataclass(frozen=True)
class Run:
    """What came out of the sandbox: `status` is "answered" or what ended it; `data` the untrusted bytes.

    `overhead`: the part of `seconds` that is not the answer's: until its code may begin, and after it is ended.
    """

    status: str
    data: bytes = b""
    said: str = ""
    seconds: float = 0
    overhead: float = 0


class Sandbox:
    """A way to run answers on this machine.

    Args:
        kind: "bubblewrap" or "limits"; found out by trying when not given.

    Raises:
        RuntimeError: bubblewrap was asked for, but does not work here; the reason.
    """

    def __init__(self, kind: str | None = None) -> None:
        self.root = hasattr(os, "getuid") and os.getuid() == 0
        self.why = ""
        if kind != "limits":
            self.why = self._try_bubblewrap()
            if kind == "bubblewrap" and self.why:
                raise RuntimeError(f"bubblewrap does not work here: {self.why}")
        self.kind = "limits" if kind == "limits" or self.why else "bubblewrap"
        self.stop = threading.Event()
        self._slots = threading.Lock()
        self._free: list[int] = []
        self._next = FIRST_UID

    def describe(self) -> str:
        """One sentence for the report: what separates an answer from this machine."""
        if self.kind == "bubblewrap":
            return (
                "bubblewrap: no network, no file of this machine but the interpreter (read-only), own process space, "
                "limits on time, memory, processes and output"
            )
        reason = f" ({self.why})" if self.why else ""
        return (
            f"WEAK, resource limits only{reason}: an answer could read files, even the oracles, and use the network; "
            "install bubblewrap to close this"
        )

    def run(self, spec: dict[str, Any], cases: list[Args], limits: Limits, library: tuple[str, ...] = ()) -> Run:
        """Run one answer.

        Args:
            spec: `cells` (label and code, in order), `function`, `harness`, `repeat`.
            cases: arguments, one tuple per call.
            limits: of this answer.
            library: rooms of edgeinfer that are mounted.

        Returns:
            what came out; never raises for anything that the answer does.
        """
        with self._slot() as uid, self._command(uid, library) as (command, options):
            uid = uid if self.root and (self.kind == "bubblewrap" or readable_by_all(sys.executable)) else 0
            paths = ["/library"] if library and self.kind == "bubblewrap" else [str(PACKAGE.parent)] if library else []
            inside = {"cpu": limits.cpu, "fsize": 32 << 20, "memory": limits.memory, "processes": limits.processes}
            message = runner.pack_cases({**spec, **inside, "uid": uid, "paths": paths}, cases)
            started = time.monotonic()
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
                **options,
            )
            ready: list[float] = []
            try:
                status, data, said = self._watch(process, message, limits, ready)
            finally:
                over = time.monotonic()
                self._end(process)
            now = time.monotonic()
            overhead = (ready[0] if ready else over) - started + now - over
            return Run(status, data, said, now - started, overhead)

    @contextlib.contextmanager
    def _slot(self) -> Iterator[int]:
        """A user id of its own for every answer that runs now (root only), so that process limits do not mix."""
        with self._slots:
            if not self._free:
                self._free.append(self._next)
                self._next += 1
            uid = self._free.pop()
        try:
            yield uid
        finally:
            with self._slots:
                self._free.append(uid)

    @contextlib.contextmanager
    def _command(self, uid: int, library: tuple[str, ...]) -> Iterator[tuple[list[str], dict[str, Any]]]:
        python = [sys.executable, "-s", "-P", "-S", "-B"]
        if self.kind == "bubblewrap":
            yield [*bubblewrap(self.root, library), *python, "/runner.py", site_packages()], {}
            return
        with tempfile.TemporaryDirectory(prefix="answer-") as scratch:
            if self.root:
                os.chown(scratch, uid, uid)
            environment = {**ENVIRONMENT, "HOME": scratch, "TMPDIR": scratch}
            yield [*python, str(RUNNER), site_packages()], {"cwd": scratch, "env": environment}

    def _watch(
        self, process: subprocess.Popen[bytes], message: bytes, limits: Limits, ready_at: list[float]
    ) -> tuple[str, bytes, str]:
        """Feed the message and read the answer under every limit at once; notes when the answer's own time began."""
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        started = time.monotonic()
        end = started + START_UP
        todo, answer, said, noise = memoryview(message), bytearray(), b"", 0
        readers = {process.stdout, process.stderr}
        os.set_blocking(process.stdin.fileno(), False)
        looked = started + 0.25
        while readers:
            now = time.monotonic()
            if self.stop.is_set():
                return "interrupted", b"", ""
            if now > end:
                return "time limit", b"", said.decode(errors="replace")
            if now - looked > 0.25:
                looked = now
                count, memory = usage(process.pid)
                if memory > limits.memory + SCRATCH:
                    return "memory limit", b"", said.decode(errors="replace")
                if count > limits.processes + 8:
                    return "process limit", b"", said.decode(errors="replace")
            ready, writable, _ = select.select(list(readers), [process.stdin] if todo else [], [], 0.25)
            if writable:
                try:
                    todo = todo[os.write(process.stdin.fileno(), todo[: 1 << 16]) :]
                except BlockingIOError:
                    pass
                except BrokenPipeError:
                    todo = memoryview(b"")
                if not todo:
                    with contextlib.suppress(OSError):
                        process.stdin.close()
            for stream in ready:
                piece = os.read(stream.fileno(), 1 << 16)
                if not piece:
                    readers.discard(stream)
                elif stream is process.stderr:
                    said, noise = (said + piece)[-2048:], noise + len(piece)
                    if noise > STDERR_LIMIT:
                        return "output limit", b"", said.decode(errors="replace")
                else:
                    if not answer:  # the runner says that it is ready: now the answer's own time begins
                        ready_at.append(time.monotonic())
                        end = ready_at[0] + limits.wall
                    answer += piece
                    if len(answer) > limits.answer:
                        return "output limit", b"", said.decode(errors="replace")
        try:
            code = process.wait(max(0.1, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            return "time limit", b"", said.decode(errors="replace")
        text = said.decode(errors="replace")
        if len(answer) > 1:
            return "answered", bytes(answer[1:]), text
        number = -code if code < 0 else code - 128
        if number in (signal.SIGXCPU, signal.SIGKILL):
            return ("time limit" if number == signal.SIGXCPU else "killed"), b"", text
        return "no answer", b"", f"exit code {code}\n{text}"

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        """Nothing of the answer outlives it."""
        for _ in range(20 if self.kind == "limits" else 1):
            family = descendants(process.pid) if self.kind == "limits" else []
            for pid in [*family, process.pid]:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            if not family:
                break
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()

    def _try_bubblewrap(self) -> str:
        """Empty if bubblewrap works here, else why not."""
        if shutil.which("bwrap") is None:
            return "bwrap is not installed"
        command = [*bubblewrap(self.root, ()), sys.executable, "-s", "-P", "-S", "-B", "-c", "print('ok')"]
        try:
            done = subprocess.run(command, capture_output=True, timeout=30, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"{type(error).__name__}: {error}"
        if done.returncode == 0 and done.stdout.strip() == b"ok":
            return ""
        return (done.stderr.decode(errors="replace").strip().splitlines() or [f"exit code {done.returncode}"])[-1][:200]


def readable_by_all(path: str) -> bool:
    """Whether another user could read this file (every folder above it lets others through)."""
    real = Path(os.path.realpath(path))
    return all(p.stat().st_mode & 0o001 for p in real.parents)


def site_packages() -> str:
    return sysconfig.get_paths()["purelib"]


def bubblewrap(root: bool, library: tuple[str, ...]) -> list[str]:
    """The command in front of the interpreter. The answer's own limits are set by the runner, inside."""
    command = ["bwrap", "--unshare-net", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
    command += [
        "--die-with-parent",
        "--new-session",
        "--clearenv",
        "--hostname",
        "sandbox",
        "--ro-bind",
        "/usr",
        "/usr",
    ]
    for name in ("lib", "lib64", "lib32", "bin", "sbin"):
        if os.path.islink(f"/{name}"):
            command += ["--symlink", os.readlink(f"/{name}"), f"/{name}"]
        elif os.path.isdir(f"/{name}"):
            command += ["--ro-bind", f"/{name}", f"/{name}"]
    command += ["--proc", "/proc", "--dev", "/dev", "--perms", "1777", "--size", str(SCRATCH), "--tmpfs", "/tmp"]
    made: set[str] = set()
    for folder in dict.fromkeys((os.path.realpath(sys.base_prefix), os.path.realpath(sys.prefix), sys.prefix)):
        if folder == "/usr" or folder.startswith("/usr/"):
            continue
        for parent in [str(p) for p in reversed(Path(folder).parents)][1:]:
            if parent not in made and parent not in ("/usr", "/tmp"):
                made.add(parent)
                command += ["--perms", "0755", "--dir", parent]  # bubblewrap's own default is 0700
        command += ["--ro-bind", folder, folder]
    installed = Path(site_packages()) / "edgeinfer"
    if installed.is_dir():
        command += ["--perms", "0755", "--tmpfs", str(installed), "--remount-ro", str(installed)]
    command += ["--ro-bind", str(RUNNER), "/runner.py"]
    if library:
        command += ["--perms", "0755", "--dir", "/library", "--perms", "0755", "--dir", "/library/edgeinfer"]
        for part in ("__init__.py", *library):
            command += ["--ro-bind", str(PACKAGE / part), f"/library/edgeinfer/{part}"]
    command += ["--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/tmp"]
    for name, value in ENVIRONMENT.items():
        command += ["--setenv", name, value]
    command += ["--cap-drop", "ALL"]
    if root:
        return [*command, "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    return [*command, "--unshare-user"]


def processes() -> dict[int, tuple[int, int]]:
    """Every process: id -> (parent, bytes of resident memory). Empty where there is no /proc."""
    out = {}
    page = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096
    with contextlib.suppress(OSError):
        for name in os.listdir("/proc"):
            if name.isdigit():
                with contextlib.suppress(OSError, ValueError, IndexError):
                    fields = Path(f"/proc/{name}/stat").read_bytes().rpartition(b")")[2].split()
                    out[int(name)] = (int(fields[1]), int(fields[21]) * page)
    return out


def descendants(pid: int, table: dict[int, tuple[int, int]] | None = None) -> list[int]:
    """Children, grandchildren, ... of a process."""
    table = processes() if table is None else table
    children: dict[int, list[int]] = {}
    for child, (parent, _) in table.items():
        children.setdefault(parent, []).append(child)
    out, todo = [], [pid]
    while todo:
        for child in children.get(todo.pop(), []):
            out.append(child)
            todo.append(child)
    return out


def usage(pid: int) -> tuple[int, int]:
    """Number of processes below this one, and their resident memory together."""
    table = processes()
    family = descendants(pid, table)
    return len(family), sum(table[p][1] for p in family)
