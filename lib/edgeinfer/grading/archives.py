"""Finds the submissions of a class in what a learning platform hands out: zip files, flat folders, student folders.

From an archive only the bytes of one notebook are taken, and they are written under a name of our own: no name in an
archive is ever used as a path. Sources: Canvas `lib/content_zipper.rb` (`NAME_[LATE_]USERID_FILEID_FILE`), Moodle
`mod/assign/locallib.php` (`FULL NAME_PARTICIPANT_assignsubmission_file_`), Gradescope's `submission_metadata.yml`.
"""

import contextlib
import io
import mmap
import os
import re
import shutil
import stat
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from edgeinfer.grading.notebooks import MAX_NOTEBOOK, BadNotebook, Submission, from_folder, read_bytes
from edgeinfer.grading.sheets import safe_name

MAX_ARCHIVE = 64 << 20  # of one student
MAX_MEMBERS = 5_000  # files in one student's archive
MAX_CLASS_MEMBERS = 200_000
CANVAS = re.compile(r"(?P<name>[^_].*?)_(?P<late>LATE_)?(?P<canvas_id>\d+)_(?P<file_id>\d+)_(?P<file>.+)", re.S)
MOODLE = re.compile(r"(?P<name>.+)_(?P<participant>\d+)_assignsubmission_file_?(?P<file>.*)", re.S)
METADATA = "submission_metadata.yml"
Opener = Callable[[int], bytes]  # limit -> the bytes, at most limit + 1 of them


@dataclass
class Handed:
    """What one student handed in: files by their last name, and a way to read each; or a problem."""

    student: str
    identity: dict[str, str] = field(default_factory=dict)
    files: list[tuple[str, Opener]] = field(default_factory=list)
    problem: str = ""
    path: Path | None = None  # of the last file, where it lies in the folder of submissions itself


def gather(source: Path, lab: str, unpacked: Path) -> list[Submission]:
    """Every submission of a class, whatever way the platform handed it out.

    Args:
        source: a zip file of the whole class, or a folder whose entries are notebooks, folders or zip files.
        lab: name of the lab.
        unpacked: folder of our own for notebooks that came out of archives; emptied first.

    Returns:
        one entry per student: the path of a notebook, or a sentence that says why there is none.

    Raises:
        FileNotFoundError: "no submissions: ..."
    """
    shutil.rmtree(unpacked, ignore_errors=True)
    unpacked.mkdir(parents=True, mode=0o700)
    if source.is_file() and not source.is_symlink():
        try:
            archive = opened(source, MAX_CLASS_MEMBERS)
        except BadNotebook as error:
            raise FileNotFoundError(f"no submissions: {source}: {error}") from None
        with archive:
            return [stored(h, lab, unpacked) for h in class_archive(archive)]
    if not source.is_dir():
        raise FileNotFoundError(
            f"no folder of submissions: {source} is no folder and no zip file; expected one entry per student, or the "
            "zip file of the whole class"
        )
    return from_class_folder(source, lab, unpacked)


def from_class_folder(source: Path, lab: str, unpacked: Path) -> list[Submission]:
    """One entry of the folder per student; class archives among them are opened."""
    people = gradescope_people(source / METADATA)
    handed: dict[str, Handed] = {}
    plain: dict[str, Submission] = {}
    done: list[Submission] = []
    for entry in sorted(source.iterdir(), key=lambda p: p.name):
        name = readable(entry.name)
        if name.startswith(".") or name in (METADATA, "__MACOSX"):
            continue
        stem = re.sub(r"\.(ipynb|zip)$", "", name, flags=re.I)
        student, identity, file = identify(f"{name}/" if entry.is_dir() else name, people)
        if entry.is_symlink():
            plain[student] = Submission(student, None, "The submission is a link, not a file.", identity)
        elif entry.is_dir():
            inner = sorted(p for p in entry.iterdir() if p.suffix.lower() == ".zip" and not p.is_symlink())
            found = from_folder(entry, student, lab)
            if found.path is None and len(inner) == 1:
                handed.setdefault(student, Handed(student, identity)).files.append((inner[0].name, reader(inner[0])))
            else:
                plain[student] = Submission(student, found.path, found.problem, identity)
        elif stem == name and not identity:
            plain[student] = Submission(student, None, f"{name[:80]} is no notebook (.ipynb) and no zip file.")
        elif name.lower().endswith(".zip") and (archive := class_zip(entry)) is not None:
            with archive:
                done += [stored(h, lab, unpacked) for h in class_archive(archive)]
        else:
            mine = handed.setdefault(student, Handed(student, identity))
            mine.files.append((file, reader(entry)))
            mine.path = entry
    for student, mine in handed.items():
        if student in plain:
            text = f"There are two submissions of {student}; remove one."
            plain[student] = Submission(student, None, text, mine.identity)
        elif len(mine.files) == 1 and mine.path is not None and mine.path.suffix.lower() == ".ipynb":
            plain[student] = Submission(student, mine.path, "", mine.identity)
        else:
            plain[student] = stored(mine, lab, unpacked)
    return one_each([*plain.values(), *done])


def one_each(found: list[Submission]) -> list[Submission]:
    """Never two records of one student."""
    out: dict[str, Submission] = {}
    for s in found:
        if s.student in out:
            s = Submission(s.student, None, f"There are two submissions of {s.student}; remove one.", s.identity)
        out[s.student] = s
    return sorted(out.values(), key=lambda s: s.student)


def readable(name: str) -> str:
    """A file's name as text; bytes that are no UTF-8 become question marks."""
    return name.encode("utf-8", "replace").decode("utf-8", "replace")


def identify(name: str, people: dict[str, dict[str, str]]) -> tuple[str, dict[str, str], str]:
    """Student, what the platform knows of them, and the name of their own file, from a file or a folder (`NAME/`)."""
    first, _, rest = name.partition("/")
    if first in people:
        who = people[first]
        return f"{who.get('name') or first}_{who.get('sid') or first}", who, PurePosixPath(rest).name
    match = MOODLE.fullmatch(first)
    if match:
        who = {"name": match["name"], "participant": match["participant"]}
        return f"{match['name']}_{match['participant']}", who, PurePosixPath(rest or match["file"]).name
    match = CANVAS.fullmatch(name) if not rest and not name.endswith("/") else None
    if match:
        who = {"name": match["name"], "canvas_id": match["canvas_id"], "late": "late" if match["late"] else ""}
        return f"{match['name']}_{match['canvas_id']}", who, match["file"]
    return re.sub(r"\.(ipynb|zip)$", "", first, flags=re.I), {}, PurePosixPath(rest or first).name


def gradescope_people(path: Path | bytes) -> dict[str, dict[str, str]]:
    """Folder name -> name, sid and email of the first submitter; empty if the file is missing or something else."""
    import yaml

    try:
        data = path if isinstance(path, bytes) else read_bytes(path) if path.is_file() else b""
        table = yaml.load(data, Loader=yaml.CSafeLoader if hasattr(yaml, "CSafeLoader") else yaml.SafeLoader)
    except (BadNotebook, yaml.YAMLError, ValueError, RecursionError):
        return {}
    out = {}
    for folder, entry in table.items() if isinstance(table, dict) else ():
        people = entry.get(":submitters") if isinstance(entry, dict) else None
        if isinstance(people, list) and people and isinstance(people[0], dict):
            who = {k: str(people[0].get(f":{k}") or "")[:200] for k in ("name", "sid", "email")}
            out[str(folder)] = {**who, "group": ", ".join(str(p.get(":name"))[:80] for p in people[:20])}
    return out


def reader(path: Path) -> Opener:
    def read(limit: int) -> bytes:
        return read_bytes(path, limit)

    return read


def member_reader(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Opener:
    def read(limit: int) -> bytes:
        if member.flag_bits & 1:
            raise BadNotebook("The archive is locked with a password.")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise BadNotebook("The archive is packed in an unusual way; use an ordinary zip file.")
        if stat.S_ISLNK(member.external_attr >> 16):
            raise BadNotebook("The notebook in the archive is a link, not a file.")
        try:
            with archive.open(member) as file:
                data = file.read(limit + 1)  # what the archive says about its size is not believed
        except (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, RuntimeError) as error:
            raise BadNotebook(f"The archive is damaged ({type(error).__name__}).") from None
        if len(data) > limit:
            raise BadNotebook(f"The archive unpacks to more than {limit >> 20} MiB.")
        return data

    return read


def opened(source: Path | bytes, most: int) -> zipfile.ZipFile:
    """A zip file whose list of members is short enough to read.

    Raises:
        BadNotebook: it is none, or damaged, or holds too many files.
    """
    try:
        if isinstance(source, Path):
            with source.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                too_many = counted(data, most)
        else:
            too_many = counted(source, most)
        if too_many:
            raise BadNotebook(f"The archive holds more than {most} files.")
        return zipfile.ZipFile(source if isinstance(source, Path) else io.BytesIO(source))
    except UnicodeDecodeError:
        raise BadNotebook("The names in the archive are no UTF-8 text, although it says so.") from None
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, EOFError) as error:
        raise BadNotebook(f"The archive is damaged or no zip file ({type(error).__name__}).") from None


def counted(data: Any, most: int) -> bool:
    """Whether the marker of a member occurs more often than this, before anything is read into objects."""
    at = -1
    for _ in range(most + 1):
        at = data.find(b"PK\x01\x02", at + 1)
        if at < 0:
            return False
    return True


def path_of(member: zipfile.ZipInfo) -> str:
    """The name of a member with plain slashes; old archives do not say that they are UTF-8."""
    name = member.filename
    if not member.flag_bits & 0x800:
        with contextlib.suppress(UnicodeEncodeError, UnicodeDecodeError):
            name = name.encode("cp437").decode("utf-8")
    return readable(name.replace("\\", "/"))


def leads_outside(name: str) -> bool:
    return name.startswith("/") or bool(re.match(r"[A-Za-z]:", name)) or ".." in name.split("/")


def class_zip(path: Path) -> zipfile.ZipFile | None:
    """The archive, if its members are named by a platform's convention: then it holds many students."""
    try:
        archive = opened(path, MAX_CLASS_MEMBERS)
    except BadNotebook:
        return None
    names = [n for m in archive.infolist() if not (n := path_of(m)).endswith("/") and visible(n)]
    last = [n.split("/")[0] if MOODLE.fullmatch(n.split("/")[0]) else n.split("/")[-1] for n in names]
    by_rule = sum(bool(CANVAS.fullmatch(n) or MOODLE.fullmatch(n)) for n in last)
    if any(n.split("/")[-1] == METADATA for n in names) or 2 * by_rule > len(names):
        return archive
    archive.close()
    return None


def visible(name: str) -> bool:
    return not any(part.startswith(".") or part == "__MACOSX" for part in name.split("/") if part not in ("..", "."))


def class_archive(archive: zipfile.ZipFile) -> list[Handed]:
    """The students in one archive of a whole class."""
    members = [(path_of(m), m) for m in archive.infolist() if not m.is_dir() and visible(path_of(m))]
    people: dict[str, dict[str, str]] = {}
    root = ""
    for name, member in members:
        if name.split("/")[-1] == METADATA and not leads_outside(name):
            root = name[: -len(METADATA)]
            try:
                people = gradescope_people(member_reader(archive, member)(MAX_NOTEBOOK))
            except BadNotebook:
                people = {}
    if not people:  # somebody packed the folder of the class, not what is in it
        tops = {tuple(name.split("/")[:2]) for name, _ in members if name.count("/") >= 2}
        if len(tops) > 1 and all(name.count("/") >= 2 for name, _ in members) and len({t[0] for t in tops}) == 1:
            root = next(iter(tops))[0] + "/"
    out: dict[str, Handed] = {}
    for name, member in members:
        name = name.removeprefix(root)
        if name == METADATA:
            continue
        bad = leads_outside(name)
        student, identity, file = identify(name.strip("/").replace("../", "") if bad else name, people)
        mine = out.setdefault(student, Handed(student, identity))
        if bad:
            mine.problem = f"The archive holds a path that leads outside ({name[:60]}); nothing of it was opened."
        mine.files.append((file, member_reader(archive, member)))
    return list(out.values())


def stored(handed: Handed, lab: str, unpacked: Path) -> Submission:
    """Take the notebook out of what a student handed in; one archive inside is opened, no more."""
    problem = handed.problem
    if not problem:
        try:
            data = notebook_of(handed.files, lab)
            path = unpacked / f"{safe_name(handed.student)}.ipynb"
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            return Submission(handed.student, path, "", handed.identity)
        except BadNotebook as error:
            problem = str(error)
        except FileExistsError:
            problem = f"There are two submissions of {handed.student}; remove one."
    return Submission(handed.student, None, problem, handed.identity)


def notebook_of(files: list[tuple[str, Opener]], lab: str, inside: bool = False) -> bytes:
    """The bytes of the one notebook among these files.

    Raises:
        BadNotebook: there is none, or more than one, or it cannot be read.
    """
    notebooks = [f for f in files if f[0].lower().endswith(".ipynb")]
    named = [f for f in notebooks if re.sub(r"(-\d+| \(\d+\))?\.ipynb$", "", f[0], flags=re.I) == lab] or notebooks
    if len(named) == 1:
        return named[0][1](MAX_NOTEBOOK)
    if named:
        raise BadNotebook(f"There are {len(named)} notebooks in the submission; expected one, {lab}.ipynb.")
    archives = [f for f in files if f[0].lower().endswith(".zip")]
    if len(archives) != 1 or inside:
        raise BadNotebook(f"The submission holds no notebook; expected {lab}.ipynb.")
    with opened(archives[0][1](MAX_ARCHIVE), MAX_MEMBERS) as archive:
        members = [(path_of(m), m) for m in archive.infolist() if not m.is_dir()]
        for name, _ in members:
            if leads_outside(name):
                raise BadNotebook(f"The archive holds a path that leads outside ({name[:60]}); nothing was opened.")
        found = [(name.split("/")[-1], member_reader(archive, m)) for name, m in members if visible(name)]
        return notebook_of(found, lab, inside=True)
