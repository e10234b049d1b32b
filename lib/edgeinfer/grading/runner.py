"""Calls a student's function and carries inputs and answers as plain bytes. Needs only the standard library and numpy.

In the sandbox it is the child's only program; the checks use its `call_case` in the notebook. It judges nothing and
holds no answer. Wire format: 4 bytes length, a JSON head, then the raw bytes of the arrays in its order. No pickle.
"""

import json
import math
import os
import struct
import sys
import traceback
from typing import Any, BinaryIO

if __name__ == "__main__":
    sys.path[1:1] = sys.argv[1:]  # the folder of numpy; `site` and its .pth files stay out

import numpy as np

DTYPES = {"|b1", "|i1", "|u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8", "<f2", "<f4", "<f8"}
MAX_RETURNS = 16
MAX_HEAD = 1 << 20
READY = b"R"


class Skip(Exception):
    """The answer is no tuple of number arrays; the text says what it is."""


def to_arrays(answer: Any) -> tuple[list[np.ndarray], bool]:
    """Turn a returned value into arrays (copies), and say whether it was a single value."""
    single = not isinstance(answer, tuple | list)
    parts = [answer] if single else list(answer)
    if (
        not single
        and not any(isinstance(p, np.ndarray) or hasattr(p, "detach") for p in parts)
        and isinstance(answer, list)
    ):
        single, parts = True, [answer]  # a list of numbers is one array
    if len(parts) > MAX_RETURNS:
        raise Skip(f"{type(answer).__name__} of {len(parts)} values")
    out = []
    for part in parts:
        if hasattr(part, "detach"):  # a torch tensor, without importing torch
            part = part.detach().cpu()
            part = (part.float() if str(part.dtype) == "torch.bfloat16" else part).numpy()
        if part is None or part is ...:
            raise Skip("None" if part is None else "...")
        try:
            array = np.array(part, order="C", copy=True)
        except Exception as error:
            raise Skip(f"{type(part).__name__} that is no array ({type(error).__name__})") from None
        if array.dtype.byteorder == ">":
            array = array.astype(array.dtype.newbyteorder("<"))
        if array.dtype.str not in DTYPES:
            raise Skip(
                f"{type(part).__name__} of dtype {array.dtype}" if hasattr(part, "dtype") else type(part).__name__
            )
        out.append(array)
    return out, single


def call_case(function: Any, args: tuple[Any, ...]) -> dict[str, Any]:
    """Call once with own copies of the arguments; never raises an Exception of the student's code."""
    given = [a.copy() if isinstance(a, np.ndarray) else a for a in args]
    try:
        answer = function(*given)
    except Exception as error:
        return {"kind": "error", **explain(error)}
    except SystemExit:
        return {"kind": "error", "type": "SystemExit", "message": "the function ended Python", "line": 0, "code": ""}
    changed = [
        i for i, (a, b) in enumerate(zip(args, given, strict=True)) if isinstance(a, np.ndarray) and not same(a, b)
    ]
    if answer is None or answer is ...:
        return {"kind": "none" if answer is None else "ellipsis"}
    try:
        arrays, single = to_arrays(answer)
    except Skip as other:
        empty = str(other) in ("None", "...")
        return {
            "kind": "type",
            "type": ("tuple with " if empty and isinstance(answer, tuple | list) else "") + str(other),
        }
    except Exception as error:
        return {"kind": "error", **explain(error)}
    return {"kind": "arrays", "arrays": arrays, "single": single, "changed": changed}


def same(a: np.ndarray, b: np.ndarray) -> bool:
    """Bit by bit, so that NaN equals itself; the student may have changed shape or dtype in place."""
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()


def explain(error: BaseException) -> dict[str, Any]:
    """Type, message and the student's own line of an exception."""
    message, line, code = str(error)[:300], 0, ""
    for frame in traceback.extract_tb(error.__traceback__):
        if frame.filename.startswith(("<answer", "<ipython", "<cell")) or "ipykernel_" in frame.filename:
            line, code = frame.lineno or 0, (frame.line or "")[:200]
    if isinstance(error, SyntaxError):
        line, code = error.lineno or 0, (error.text or "").strip()[:200]
    return {"type": type(error).__name__, "message": message, "line": line, "code": code}


def pack(items: list[dict[str, Any]]) -> bytes:
    """Items are plain dicts; an entry `arrays` holds arrays, whose bytes follow the head."""
    head, body = [], []
    for item in items:
        arrays = [np.asarray(a, order="C") for a in item.get("arrays", [])]
        head.append({**item, "arrays": [{"dtype": a.dtype.str, "shape": list(a.shape)} for a in arrays]})
        body += [a.tobytes() for a in arrays]
    text = json.dumps(head).encode()
    return struct.pack("<I", len(text)) + text + b"".join(body)


def unpack(data: bytes, copy: bool = False, most: int = MAX_HEAD) -> list[dict[str, Any]]:
    """The reverse; believes nothing.

    Raises:
        ValueError: what is wrong with the bytes.
    """
    if len(data) < 4:
        raise ValueError("no answer")
    length = struct.unpack("<I", data[:4])[0]
    if length > min(most, len(data) - 4):
        raise ValueError("the head is too long")
    try:
        head = json.loads(data[4 : 4 + length])
    except (ValueError, RecursionError):
        raise ValueError("the head is not JSON") from None
    if not isinstance(head, list) or not all(isinstance(h, dict) and isinstance(h.get("arrays"), list) for h in head):
        raise ValueError("the head is no list of answers")
    position, out = 4 + length, []
    for item in head:
        arrays = []
        if len(item["arrays"]) > MAX_RETURNS * 4:
            raise ValueError("too many arrays")
        for a in item["arrays"]:
            if not isinstance(a, dict) or not isinstance(a.get("dtype"), str) or a["dtype"] not in DTYPES:
                raise ValueError("an array of a forbidden dtype")
            shape = a.get("shape")
            if not isinstance(shape, list) or len(shape) > 8:
                raise ValueError("a shape that is none")
            if not all(type(n) is int and 0 <= n <= len(data) for n in shape):
                raise ValueError("a shape that does not fit the bytes")
            size = np.dtype(a["dtype"]).itemsize * math.prod(shape)
            if size > len(data) - position:
                raise ValueError("a shape that does not fit the bytes")
            array = np.frombuffer(data, a["dtype"], math.prod(shape), position).reshape(shape)
            arrays.append(array.copy() if copy else array)
            position += size
        out.append({**item, "arrays": arrays})
    if position != len(data):
        raise ValueError("bytes left over")
    return out


def pack_cases(spec: dict[str, Any], cases: list[tuple[Any, ...]]) -> bytes:
    """The parent's message: the spec, then one item per case with its arrays taken out of the arguments."""
    items: list[dict[str, Any]] = [{"spec": spec}]
    for case in cases:
        arrays = [a for a in case if isinstance(a, np.ndarray)]
        plain = [None if isinstance(a, np.ndarray) else a.item() if isinstance(a, np.generic) else a for a in case]
        items.append({"plain": plain, "is_array": [isinstance(a, np.ndarray) for a in case], "arrays": arrays})
    return pack(items)


def unpack_cases(data: bytes) -> tuple[dict[str, Any], list[tuple[Any, ...]]]:
    first, *rest = unpack(data, copy=True)
    cases = []
    for item in rest:
        arrays = iter(item["arrays"])
        cases.append(tuple(next(arrays) if a else p for p, a in zip(item["plain"], item["is_array"], strict=True)))
    return first["spec"], cases


def limit(spec: dict[str, Any]) -> None:
    """Give up root, then limit this process and its children; hard limits, so that nothing inside can raise them."""
    import resource

    if spec["uid"]:  # root's processes are not counted; a uid of our own per running answer is
        os.setgroups([])
        os.setresgid(spec["uid"], spec["uid"], spec["uid"])
        os.setresuid(spec["uid"], spec["uid"], spec["uid"])

    wanted = (
        (resource.RLIMIT_CPU, spec["cpu"]),
        (resource.RLIMIT_FSIZE, spec["fsize"]),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 64),
        (getattr(resource, "RLIMIT_AS", -1), spec["memory"]),
        (getattr(resource, "RLIMIT_NPROC", -1), spec["processes"]),
    )
    for what, value in wanted:
        if what < 0 or value is None:
            continue
        try:
            resource.setrlimit(what, (value, value + (what == resource.RLIMIT_CPU)))
        except (ValueError, OSError):  # a lower hard limit stands already
            continue


def make_answer(spec: dict[str, Any]) -> Any:
    """Run the set-up and the student's cells; give back the function to call.

    Raises:
        NameError: the cell defines no such function.
    """
    for folder in spec["paths"]:
        sys.path.insert(0, folder)
    space: dict[str, Any] = {"__name__": "__answer__"}
    for label, code in spec["cells"]:
        remember(label, code)
        exec(compile(code, label, "exec"), space)  # noqa: S102 - running the student's code is this program's purpose
    if spec["function"] not in space:
        raise NameError(f"the cell defines no function {spec['function']}")
    student = space[spec["function"]]
    if spec["harness"]:
        exec(compile(spec["harness"], "<harness>", "exec"), space)  # noqa: S102
        run = space["run"]
        return lambda *args: run(student, *args)
    return student


def remember(label: str, code: str) -> None:
    """Let tracebacks show the lines of code that stands in no file."""
    import linecache

    linecache.cache[label] = (len(code), None, code.splitlines(keepends=True), label)


def write_all(stream: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(stream, view) :]


def main(source: BinaryIO) -> None:
    answers = os.dup(1)
    os.dup2(2, 1)  # what the student prints goes to stderr, of which the parent keeps the end only
    spec, cases = unpack_cases(source.read())
    limit(spec)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    write_all(answers, READY)  # starting Python does not count into the answer's time
    items: list[dict[str, Any]] = []
    try:
        function = make_answer(spec)
    except BaseException as error:
        items.append({"kind": "setup", **explain(error)})
    else:
        order = [*range(len(cases)), 0] if spec["repeat"] else range(len(cases))
        for i in order:
            items.append(call_case(function, cases[i]))
            if items[-1]["kind"] == "error" and items[-1]["type"] == "MemoryError":
                break
    write_all(answers, pack(items))
    sys.stderr.flush()
    os._exit(0)  # nothing the student registered for the end is run


if __name__ == "__main__":
    main(sys.stdin.buffer)
