"""What an exercise is: its contract, how its inputs are drawn, an independent oracle, and the mistakes known by name.

Knows nothing about notebooks, sandboxes or any technique. Lab authors fill it in: `solutions/README.md`.
"""

import hashlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

Args = tuple[Any, ...]
Arrays = tuple[np.ndarray, ...]

EXERCISES = Path(__file__).resolve().parent / "exercises"
DTYPE_GROUPS = {"floating": np.floating, "integer": np.integer, "any": np.generic}


@dataclass(frozen=True)
class Returns:
    """One returned value.

    Args:
        name: what the contract calls it; used in messages.
        dtype: a numpy name (`"int8"`), or `"floating"`, `"integer"`, `"any"` (any number).
        rtol, atol: tolerance around the oracle's value; integers compare exactly unless `atol` is given.
        nan_ok: a NaN of the oracle must be met by a NaN.
    """

    name: str
    dtype: str = "any"
    rtol: float = 1e-5
    atol: float = 0.0
    nan_ok: bool = False

    def __post_init__(self) -> None:
        if self.dtype not in DTYPE_GROUPS:
            np.dtype(self.dtype)  # raises TypeError on an unknown name

    def fits(self, dtype: np.dtype) -> bool:
        """Whether an array of this dtype keeps the contract."""
        if self.dtype == "any":
            return dtype.kind in "biuf"
        if self.dtype in DTYPE_GROUPS:
            return np.issubdtype(dtype, DTYPE_GROUPS[self.dtype])
        return dtype == np.dtype(self.dtype)

    def close(self, got: np.ndarray, want: np.ndarray) -> np.ndarray:
        """Element by element: within tolerance of the oracle. Shapes are equal already."""
        if got.dtype.kind in "biu" and want.dtype.kind in "biu" and not self.atol:
            return np.asarray(got == want)
        with np.errstate(all="ignore"):
            near = np.isclose(
                got.astype(np.float64), want.astype(np.float64), self.rtol, self.atol or 1e-12, equal_nan=self.nan_ok
            )
        return np.asarray(near)


@dataclass(frozen=True)
class Misconception:
    """A mistake with a name.

    Args:
        name: short kebab-case name, shown in the class sheet.
        says: what the student is told: the thought behind the mistake and the way out, in one or two sentences.
        produces: the wrong function; recognised when the student's answers equal its answers on every case.
        recognises: `(args, got, want) -> bool`; recognised when it holds on every case that is wrong.
    """

    name: str
    says: str
    produces: Callable[..., Any] | None = None
    recognises: Callable[[Args, Arrays, Arrays], bool] | None = None

    def __post_init__(self) -> None:
        if (self.produces is None) == (self.recognises is None):
            raise ValueError(f"misconception {self.name!r} needs exactly one of `produces` and `recognises`")


@dataclass(frozen=True)
class Exercise:
    """One function that a student writes. Fields as described in `solutions/README.md`.

    Args:
        name: name of the function, id of its cell.
        contract: one sentence with shapes, dtypes and units; shown with every message about shape or dtype.
        make_cases: draws argument tuples from a generator; must give equal cases for equal generators.
        oracle: an independent right answer for one case.
        returns: what the function returns, in order (one entry: the bare value).
        misconceptions: from special to general; the first that fits is named.
        points: for a fully right answer.
        accept: `(args, got) -> ""` or a sentence; replaces the comparison with the oracle if several answers are right.
        needs: exercises whose cells the grader runs first.
        seconds: processor time for all cases of one answer; the check allows the same.
        memory: bytes of address space in the sandbox.
        harness: source that defines `run(student, *args)`; for answers that are not called plainly.
        hint: said when no misconception fits.
    """

    name: str
    contract: str
    make_cases: Callable[[np.random.Generator], Sequence[Args]]
    oracle: Callable[..., Any]
    returns: tuple[Returns, ...]
    misconceptions: Sequence[Misconception] = ()
    points: float = 1
    accept: Callable[[Args, Arrays], str] | None = None
    needs: tuple[str, ...] = ()
    seconds: float = 10
    memory: int = 1 << 30
    may_change_inputs: bool = False
    deterministic: bool = True
    harness: str = ""
    hint: str = ""

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            raise ValueError(f"exercise {self.name!r}: the name must be the name of the student's function")
        if not self.returns:
            raise ValueError(f"exercise {self.name!r}: `returns` must describe at least one value")
        names = [m.name for m in self.misconceptions]
        if len(set(names)) != len(names):
            raise ValueError(f"exercise {self.name!r}: two misconceptions have the same name")

    def cases(self, seed: int) -> list[Args]:
        """The argument tuples of one seed; the exercise's name is mixed in, so exercises do not share inputs."""
        mixed = int.from_bytes(hashlib.sha256(f"{self.name}/{seed}".encode()).digest()[:8], "little")
        drawn = self.make_cases(np.random.default_rng(mixed))
        cases = [tuple(a.item() if isinstance(a, np.generic) else a for a in case) for case in drawn]
        if not cases:
            raise ValueError(f"exercise {self.name!r}: make_cases gave no case")
        return cases


@dataclass(frozen=True)
class Lab:
    """The exercises of one lab.

    Args:
        name: name of the notebook without ending.
        exercises: in the order of the notebook.
        setup: source that runs before the student's cell in the grader.
        library: rooms of `edgeinfer` that an answer may import; the others are out of reach in the sandbox.
        file: where it was defined; filled in by `load_lab`.
    """

    name: str
    exercises: Sequence[Exercise]
    setup: str = "import numpy as np"
    library: tuple[str, ...] = ()
    file: Path | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        names = [e.name for e in self.exercises]
        if len(set(names)) != len(names):
            raise ValueError(f"lab {self.name!r}: two exercises have the same name")
        if "grading" in self.library:
            raise ValueError(f"lab {self.name!r}: answers must not import edgeinfer.grading; it holds the oracles")
        for e in self.exercises:
            for other in e.needs:
                if other not in names[: names.index(e.name)]:
                    raise ValueError(
                        f"exercise {e.name!r} needs {other!r}, which is no earlier exercise of {self.name!r}"
                    )

    def __getitem__(self, name: str) -> Exercise:
        for e in self.exercises:
            if e.name == name:
                return e
        raise KeyError(f"{self.name} has no exercise {name!r}; it has {', '.join(e.name for e in self.exercises)}")


def load_lab(name: str | Path, folder: Path | None = None) -> Lab:
    """Find the exercises of a lab.

    Args:
        name: `"lab01_quantization"` (its file is `exercises/lab01.py`), or the path of a file that defines `LAB`.
        folder: where to look instead of `edgeinfer.grading.exercises`.

    Raises:
        FileNotFoundError: "no exercises for lab ...: expected FILE; labs with exercises: ..."
    """
    path = Path(name)
    if path.suffix != ".py":
        place = folder or EXERCISES
        path = place / f"{str(name).split('_')[0]}.py"
        key = path.with_suffix(".key.xz")
        if re.fullmatch(r"\w+", str(name)) and not path.is_file() and key.is_file():
            from edgeinfer.grading.answer_key import read_key  # a public release: recorded answers, no oracle

            return read_key(key)
        if not re.fullmatch(r"\w+", str(name)) or not path.is_file():
            known = ", ".join(sorted(p.stem for p in place.glob("lab*.py"))) or "none"
            raise FileNotFoundError(
                f"no exercises for lab {str(name)!r}: expected {path.name}; labs with exercises: {known}"
            )
    lab = import_file(path).LAB
    if Path(name).suffix != ".py" and lab.name != str(name):
        raise FileNotFoundError(f"no exercises for lab {str(name)!r}: {path.name} describes {lab.name!r}")
    return Lab(lab.name, lab.exercises, lab.setup, lab.library, path.resolve())


def import_file(path: Path) -> ModuleType:
    """Import a Python file by its path, once per path."""
    key = "edgeinfer_file_" + hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]
    if key not in sys.modules:
        spec = importlib.util.spec_from_file_location(key, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[key] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[key]
            raise
    return sys.modules[key]


def call_arguments(exercise: Exercise, args: Args) -> str:
    """One case in words, short enough for a message."""
    try:
        names = list(inspect.signature(exercise.oracle).parameters)
    except (TypeError, ValueError):
        names = []
    names += [f"argument {i + 1}" for i in range(len(names), len(args))]
    return ", ".join(f"{n}={describe(a)}" for n, a in zip(names, args, strict=False))


def describe(value: Any) -> str:
    """A value in a few words; never long."""
    if isinstance(value, np.ndarray):
        if value.size <= (12 if value.ndim == 1 and value.dtype.kind in "iub" else 6):
            return np.array2string(value, precision=4, separator=", ", max_line_width=1000)
        return f"{value.dtype} array {value.shape}"
    if isinstance(value, list | tuple) and len(value) > 6:
        return f"{type(value).__name__} of {len(value)}"
    text = f"{value:.6g}" if isinstance(value, float) and not value.is_integer() else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
