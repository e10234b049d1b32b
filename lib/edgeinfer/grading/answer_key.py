"""Recorded answers: what the labs' checks need in a copy of the book that holds no oracle and no wrong functions.

`make release` writes one key per lab: the check's inputs (public seed), the right answers to them, those of the known
misconceptions, as plain bytes. Where several answers are right, the code that verifies an answer travels with the key.
What a key cannot hold: misconceptions that are recognised by code. It cannot grade either: its inputs are public.
"""

import builtins
import hashlib
import inspect
import lzma
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgeinfer.grading import runner
from edgeinfer.grading.exercise import Args, Arrays, Exercise, Lab, Misconception, Returns

SUFFIX = ".key.xz"
PLAIN = ("contract", "points", "needs", "seconds", "memory", "may_change_inputs", "deterministic", "harness", "hint")


class Recorded:
    """A function that only knows the answers it was recorded with.

    Raises:
        Skip: "no answer is recorded for this input"; the judge takes it as no answer.
    """

    def __init__(self, answers: dict[str, Arrays | str], parameters: list[str]) -> None:
        self.answers = answers
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        self.__signature__ = inspect.Signature([inspect.Parameter(p, kind) for p in parameters])

    def __call__(self, *args: Any) -> Any:
        found = self.answers.get(name_of(args))
        if found is None:
            raise runner.Skip("no answer is recorded for this input")
        if isinstance(found, str):  # this misconception ends in an exception: "IndexError: index 3 is out of bounds"
            kind, _, message = found.partition(": ")
            error = getattr(builtins, kind, ValueError)
            raise error(message)
        return tuple(a.copy() for a in found) if len(found) > 1 else found[0].copy()


def name_of(args: Args) -> str:
    return hashlib.sha256(runner.pack_cases({}, [tuple(args)])).hexdigest()


def write_key(lab: Lab, path: Path, seed: int) -> list[str]:
    """Record a lab.

    Args:
        lab: with its oracles.
        path: of the key, ends in `.key.xz`.
        seed: of the check's inputs.

    Returns:
        names of the functions whose code travels with the key (`exercise: function, ...`).
    """
    from edgeinfer.grading.judge import Key

    items: list[dict[str, Any]] = [{"lab": lab.name, "setup": lab.setup, "library": list(lab.library)}]
    shipped = []
    for e in lab.exercises:
        key = Key(e, e.cases(seed))
        helpers = of_inputs_only(e, key) if e.accept else {}
        code, functions = verifier(e, set(helpers)) if e.accept else ("", [])
        shipped += [f"{e.name}: {', '.join(functions)}"] if functions else []
        says = {m.name: m.says for m in e.misconceptions if m.name in key.produced}
        head = {name: getattr(e, name) for name in PLAIN}
        items.append(
            {
                "exercise": e.name,
                **head,
                "returns": [[r.name, r.dtype, r.rtol, r.atol, r.nan_ok] for r in e.returns],
                "says": says,
                "cases": len(key.cases),
                "parameters": list(inspect.signature(e.oracle).parameters),
                "verifier": code,
                "accept": e.accept.__name__ if e.accept else "",
                "oracle": getattr(e.oracle, "__name__", ""),
                "helpers": {n: list(t) for n, t in helpers.items()},
            }
        )
        items += [{"arrays": list(a)} for t in helpers.values() for a in t.values()]
        items += runner.unpack(runner.pack_cases({}, key.cases))[1:]
        tables: list[Sequence[Arrays | str | None]] = [key.wanted, *(key.produced[n] for n in says)]
        for answers in tables:
            for a in answers:
                arrays = list(a) if isinstance(a, tuple) else []
                items.append({"raises": a if isinstance(a, str) else "", "known": bool(arrays), "arrays": arrays})
    path.write_bytes(lzma.compress(runner.pack(items)))
    return shipped


def of_inputs_only(e: Exercise, key: Any) -> dict[str, dict[str, Arrays]]:
    """The verifier's helpers that it calls with the exercise's own inputs alone: their answers can be recorded as well.

    They are what computes the best possible answer; so neither they nor what they call has to travel.
    """
    assert e.accept is not None
    space = e.accept.__globals__
    helpers = {n: space[n] for n in names_in(e.accept.__code__) if isinstance(space.get(n), types.FunctionType)}
    tables: dict[str, dict[str, Arrays]] = {n: {} for n in helpers}
    for case, want in zip(key.cases, key.wanted, strict=True):

        def watched(name: str, case: Args = case) -> Callable[..., Any]:
            def call(*args: Any, **named: Any) -> Any:
                answer = helpers[name](*args, **named)
                if named or not args or not all(any(a is c for c in case) for a in args):
                    tables.pop(name, None)
                elif name in tables:
                    tables[name][name_of(args)] = tuple(runner.to_arrays(answer)[0])
                return answer

            return call

        space.update({n: watched(n) for n in helpers})
        try:
            e.accept(case, want)
        finally:
            space.update(helpers)
    return {n: t for n, t in tables.items() if t}


def verifier(e: Exercise, known: set[str]) -> tuple[str, list[str]]:
    """Source of `accept` and of all that it calls, but not of what is recorded (`known`, and the oracle).

    Raises:
        ValueError: it uses something whose source cannot be carried along.
    """
    done: dict[str, str] = {}
    todo: list[Any] = [e.accept]
    while todo:
        function = todo.pop()
        if function.__name__ in done:
            continue
        done[function.__name__] = inspect.getsource(function)
        for name in sorted(names_in(function.__code__)):
            value = function.__globals__.get(name)
            if value is None or value is e.oracle or name in done or name in known:
                continue
            if isinstance(value, types.FunctionType):
                if value.__name__ != name:
                    raise ValueError(f"exercise {e.name!r}: its verifier calls {value.__name__} by another name")
                todo.append(value)
            elif isinstance(value, types.ModuleType):
                done[name] = f"import {value.__name__} as {name}\n"
            elif isinstance(value, int | float | str | tuple):
                done[name] = f"{name} = {value!r}\n"
            else:
                raise ValueError(f"exercise {e.name!r}: its verifier uses {name}, which no key can hold")
    functions = [n for n, text in done.items() if text.lstrip().startswith("def ")]
    return "from __future__ import annotations\n" + "\n".join(done.values()), functions


def judged(accept: Callable[[Args, Arrays], str]) -> Callable[[Args, Arrays], str]:
    """An answer so unusual that the verifier needs what was not recorded is left to the grader."""

    def call(args: Args, got: Arrays) -> str:
        try:
            return accept(args, got)
        except runner.Skip:
            return "this answer can only be judged when the lab is graded."

    return call


def names_in(code: types.CodeType) -> set[str]:
    inner = (c for c in code.co_consts if isinstance(c, types.CodeType))
    return set(code.co_names).union(*(names_in(c) for c in inner))


def read_key(path: Path) -> Lab:
    """The lab of a key, with recorded functions in the place of oracle and misconceptions.

    Raises:
        ValueError: the file is damaged.
    """
    data = lzma.decompress(path.read_bytes())
    items = iter(runner.unpack(data, copy=True, most=len(data)))
    first = next(items)
    exercises = []
    for head in items:
        n = head["cases"]
        helpers: dict[str, Any] = {}
        for name, keys in head["helpers"].items():
            helpers[name] = Recorded({k: tuple(next(items)["arrays"]) for k in keys}, ["inputs"])
        cases = [case_of(next(items)) for _ in range(n)]
        names = [name_of(c) for c in cases]

        def table(names: list[str] = names, parameters: list[str] = head["parameters"]) -> Recorded:
            read: dict[str, Arrays | str] = {}
            for name in names:
                item = next(items)
                if item.get("raises"):
                    read[name] = str(item["raises"])
                elif item["known"]:
                    read[name] = tuple(item["arrays"])
            return Recorded(read, parameters)

        oracle = table()
        wrong = [Misconception(m, says, produces=table()) for m, says in head["says"].items()]
        accept: Callable[[Args, Arrays], str] | None = None
        if head["accept"]:
            space: dict[str, Any] = {"__name__": "verifier", head["oracle"]: oracle, **helpers}
            exec(compile(head["verifier"], "<verifier>", "exec"), space)  # noqa: S102 - the authors' own code
            accept = judged(space[head["accept"]])
        plain: dict[str, Any] = {name: tuple(head[name]) if name == "needs" else head[name] for name in PLAIN}
        returns = tuple(Returns(*r) for r in head["returns"])
        exercises.append(
            Exercise(head["exercise"], make_cases=fixed(cases), oracle=oracle, returns=returns,
                     misconceptions=wrong, accept=accept, **plain)
        )  # fmt: skip
    return Lab(first["lab"], exercises, first["setup"], tuple(first["library"]), path.resolve())


def case_of(item: dict[str, Any]) -> Args:
    arrays = iter(item["arrays"])
    return tuple(next(arrays) if a else p for p, a in zip(item["plain"], item["is_array"], strict=True))


def fixed(cases: list[Args]) -> Callable[[np.random.Generator], list[Args]]:
    return lambda rng: cases
