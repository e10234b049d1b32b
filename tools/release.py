"""Writes the public release: the book without solutions, hidden tests, oracles and wrong answers, checked for leaks.

The labs' own checks go on working: recorded answers (`edgeinfer.grading.answer_key`) take the place of the oracles.
What git tracks is copied, nothing else. The library's own versions of the techniques stay: the labs measure with them.
"""

import argparse
import contextlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from edgeinfer.grading.answer_key import SUFFIX, write_key
from edgeinfer.grading.checks import CHECK_SEED
from edgeinfer.grading.exercise import load_lab

sys.path.insert(0, str(Path(__file__).resolve().parent))
import build_labs as labs

ROOT = Path(__file__).resolve().parent.parent
EXERCISES = "lib/edgeinfer/grading/exercises/"
LEFT_OUT = ("solutions/", "tests/grading/", "tests/labs/", EXERCISES)
CODE = (".py",)
TEXT = (".md", ".ipynb", ".yml", ".yaml", ".txt", ".toml", ".json", ".html", ".bib", ".cff", ".tex", ".rst", ".csv", "")
RUN = 3  # lines of an answer that stand together: never by accident
RUN_LENGTH = 60
Block = tuple[str, list[str]]


class ReleaseError(Exception):
    """One sentence: why there is no release."""


def tracked(root: Path) -> list[str]:
    done = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ReleaseError("the release is made from the files that git tracks, and this folder is no git checkout")
    return [n for n in done.stdout.split("\0") if n and (root / n).is_file() and not (root / n).is_symlink()]


def secrets(root: Path) -> tuple[list[Block], list[Block]]:
    """What must not be in a release.

    Returns:
        (lines of which each one is a secret: answers, hidden tests, model answers of the exam; and code of which three
        lines together are: oracles, wrong and right answers), each as (where it stands, lines without white space).
    """
    each: list[Block] = []
    together: list[Block] = []
    for path in sorted((root / "solutions").glob("*.py")):
        for cell in labs.read_source(path).cells:
            for begin, end in ((labs.BEGIN, labs.END), (labs.BEGIN_HIDDEN, labs.END_HIDDEN)):
                for region in labs.find_regions(cell.source, begin, end, path.name):
                    lines = [line for line in region if not line.rstrip().endswith(labs.GIVEN)]
                    each.append((f"{path.name}, cell {cell.id}", [labs.squeeze(line) for line in lines]))
    for path in sorted((root / "solutions").glob("*.md")):
        if path.name != "README.md":
            text = path.read_text(encoding="utf-8").split("\n")
            each.append((path.name, [labs.squeeze(x) for x in text if not x.startswith(("#", ">"))]))
    for folder in (root / EXERCISES, root / "tests" / "grading" / "mutants"):
        for path in sorted(folder.glob("*lab*.py")):
            lines = [labs.squeeze(x) for x in path.read_text(encoding="utf-8").split("\n")]
            together.append((path.name, [x for x in lines if x and not x.startswith(("import", "from", "#", '"""'))]))
    return each, together


def text_of(path: Path) -> str:
    """All text of a file without white space; of a notebook, of its cells."""
    text = path.read_text(encoding="utf-8", errors="replace")
    if path.suffix == ".ipynb":
        with contextlib.suppress(ValueError):
            text = "\n".join(labs.strings(json.loads(text)))
    return labs.squeeze(text)


def leaks(folder: Path, each: list[Block], together: list[Block]) -> Iterator[str]:
    """Every place of a folder where a secret stands, one sentence each.

    In text and notebooks one line of an answer is a leak. In code, where the library has its own version of each
    technique, it is a run of three lines.
    """
    runs = [
        (origin, "".join(lines[i : i + RUN]))
        for origin, lines in (*((o, [x for x in b if x]) for o, b in each), *together)
        for i in range(len(lines) - RUN + 1)
    ]
    runs = [(origin, run) for origin, run in runs if len(run) >= RUN_LENGTH and re.search(r"[A-Za-z]{3}", run)]
    lines = [(origin, line) for origin, block in each for line in block if len(line) > labs.LEAK_LENGTH]
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or path.suffix not in CODE + TEXT:
            continue
        name, text = path.relative_to(folder).as_posix(), text_of(path)
        for origin, secret in runs if path.suffix in CODE else [*lines, *runs]:
            if secret in text:
                yield f"{name} holds text of {origin}: {secret[:70]!r}"
                break
        if any(mark in text for mark in map(labs.squeeze, (labs.BEGIN, labs.BEGIN_HIDDEN))) and path.suffix != ".py":
            yield f"{name} holds a marker of an answer"
    for name in LEFT_OUT:
        extra = [p.name for p in (folder / name).rglob("*") if p.is_file() and p.suffix in (".py", ".ipynb")]
        if [n for n in extra if n != "__init__.py"]:
            yield f"{name} holds {extra[0]}"


def release(root: Path, out: Path) -> list[str]:
    """Write the release; nothing is left in `out` if it leaks.

    Args:
        root: the repository.
        out: a folder that does not exist yet, or is empty.

    Returns:
        what travels as code for the checks: one line per exercise where several answers are right.

    Raises:
        ReleaseError: the folder is in use, or something would leak; the reasons.
    """
    out = out.resolve()
    if out.is_relative_to(root.resolve()) and not out.is_relative_to(root.resolve() / "reports"):
        raise ReleaseError(f"{out} lies in the repository; choose a folder outside")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ReleaseError(f"{out} is there already and not empty; choose another folder")
    files = [n for n in tracked(root) if not n.startswith(LEFT_OUT)]
    shipped = []
    try:
        for name in files:
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, out / name)
        keys = out / EXERCISES
        keys.mkdir(parents=True, exist_ok=True)
        (keys / "__init__.py").write_text('"""Recorded answers of the labs\' checks; the oracles are not public."""\n')
        for path in sorted((root / "solutions").glob("*.py")):
            key = keys / f"{path.stem.split('_')[0]}{SUFFIX}"
            shipped += [f"{path.stem}, {line}" for line in write_key(load_lab(path.stem), key, CHECK_SEED)]
        found = list(leaks(out, *secrets(root)))
    except BaseException:
        shutil.rmtree(out, ignore_errors=True)
        raise
    if found:
        shutil.rmtree(out, ignore_errors=True)
        raise ReleaseError("the release would leak:\n  " + "\n  ".join(found[:20]))
    return shipped


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", nargs="?", default="", help="folder for the release, outside the repository")
    options = parser.parse_args(arguments)
    if not options.out:
        print("release: say where to: make release OUT=../public", file=sys.stderr)
        return 1
    try:
        shipped = release(ROOT, Path(options.out))
    except (ReleaseError, labs.LabError, ValueError) as error:
        print(f"release: {error}", file=sys.stderr)
        return 1
    count = sum(p.is_file() for p in Path(options.out).rglob("*"))
    print(f"release: {count} files in {options.out}; no answer, hidden test, oracle or wrong answer found in them")
    print("release: where several answers are right, the code that verifies one travels with the check:")
    print("\n".join(f"  {line}" for line in shipped))
    print("release: the library's own versions of the techniques are part of it; start its history anew (git init).")
    return 0


if __name__ == "__main__":
    sys.exit(main())
