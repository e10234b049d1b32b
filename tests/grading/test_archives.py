"""What platforms hand out is understood; what is hostile in an archive harms nobody and costs only its own student."""

import io
import stat
import struct
import zipfile

import pytest
from edgeinfer.grading import archives
from edgeinfer.grading.archives import gather, identify
from hypothesis import given
from hypothesis import strategies as st

LAB = "lab99_sample"
NOTEBOOK = b'{"cells": []}'


def zipped(*members, **options):
    """Bytes of an archive; a member is (name or ZipInfo, bytes)."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED, **options) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return data.getvalue()


def link(name, target):
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    return info, target


@pytest.fixture
def handed(tmp_path):
    """Puts files into a folder of submissions, gathers, and gives back student -> submission."""

    def run(files):
        source = tmp_path / "in"
        source.mkdir()
        for name, data in files.items():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes(data)
        before = {p for p in tmp_path.rglob("*") if not p.is_relative_to(tmp_path / "unpacked")}
        found = gather(source, LAB, tmp_path / "unpacked")
        after = {p for p in tmp_path.rglob("*") if not p.is_relative_to(tmp_path / "unpacked")}
        assert before == after, "something was written outside"
        assert all(p.suffix == ".ipynb" and p.is_file() for p in (tmp_path / "unpacked").iterdir())
        return {s.student: s for s in found}

    return run


CANVAS = {
    "doejane_4321_9876_lab99_sample.ipynb": NOTEBOOK,
    "mueller_LATE_17_5_lab99_sample-2.ipynb": NOTEBOOK,
    "roe_18_6_notes.pdf": b"%PDF",
    "roe_18_7_lab99_sample.ipynb": NOTEBOOK,
}
MOODLE = {
    "Jane Doe_657737_assignsubmission_file_/lab99_sample.ipynb": NOTEBOOK,
    "Zoë Müller_657738_assignsubmission_file_/work.ipynb": NOTEBOOK,
}
GRADESCOPE = {
    "submission_metadata.yml": b"submission_11:\n  :submitters:\n"
    b"  - :name: Jane Doe\n    :sid: '100'\n    :email: j@x.org\n",
    "submission_11/lab99_sample.ipynb": NOTEBOOK,
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (
            CANVAS,
            {
                "doejane_4321": {"name": "doejane", "canvas_id": "4321", "late": ""},
                "mueller_17": {"name": "mueller", "canvas_id": "17", "late": "late"},
                "roe_18": {"name": "roe", "canvas_id": "18", "late": ""},
            },
        ),
        (
            MOODLE,
            {
                "Jane Doe_657737": {"name": "Jane Doe", "participant": "657737"},
                "Zoë Müller_657738": {"name": "Zoë Müller", "participant": "657738"},
            },
        ),
        (GRADESCOPE, {"Jane Doe_100": {"name": "Jane Doe", "sid": "100", "email": "j@x.org", "group": "Jane Doe"}}),
    ],
    ids=["canvas", "moodle", "gradescope"],
)
def test_names_of_each_platform_tell_the_student(handed, files, expected, packed):
    found = handed({"export.zip": zipped(*files.items())} if packed else files)
    assert {s: dict(x.identity) for s, x in found.items()} == expected
    assert all(x.path and x.path.read_bytes() == NOTEBOOK and not x.problem for x in found.values())


def test_the_zip_file_of_the_class_can_be_given_itself(tmp_path):
    path = tmp_path / "class.zip"
    path.write_bytes(zipped(("hw/ann/lab99_sample.ipynb", NOTEBOOK), ("hw/bob/x/lab99_sample.ipynb", NOTEBOOK)))
    assert [s.student for s in gather(path, LAB, tmp_path / "unpacked")] == ["ann", "bob"]
    path.write_bytes(b"no zip")
    with pytest.raises(FileNotFoundError, match="damaged or no zip file"):
        gather(path, LAB, tmp_path / "unpacked")


def test_one_zip_file_per_student_is_opened_once_and_no_deeper(handed):
    inner = zipped((f"{LAB}.ipynb", NOTEBOOK))
    found = handed(
        {
            "plain.zip": zipped((f"work/{LAB}.ipynb", NOTEBOOK), (f"__MACOSX/work/._{LAB}.ipynb", b"x")),
            "windows.zip": zipped((f"work\\{LAB}.ipynb", NOTEBOOK), ("work\\.ipynb_checkpoints\\a.ipynb", b"x")),
            "deep.zip": zipped(("inner.zip", inner)),
            "Jo_7_assignsubmission_file_/work.zip": inner,
            "two.zip": zipped(("a.ipynb", NOTEBOOK), ("b.ipynb", NOTEBOOK)),
            "none.zip": zipped(("readme.txt", b"hello")),
            "both.zip": inner,
            "both.ipynb": NOTEBOOK,
        }
    )
    assert all(found[s].path and not found[s].problem for s in ("plain", "windows", "Jo_7"))
    assert "holds no notebook" in found["deep"].problem and "holds no notebook" in found["none"].problem
    assert "2 notebooks" in found["two"].problem
    assert found["both"].path is not None or "two submissions" in found["both"].problem


def corrupt(data):
    at = data.index(b"\x50\x4b\x01\x02") - 6
    return data[: at - 4] + bytes(b ^ 0xFF for b in data[at - 4 : at]) + data[at:]


def locked(data):
    """The flag that says: encrypted, in both headers."""
    data = bytearray(data)
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(mark) + offset] |= 1
    return bytes(data)


def not_utf8(data):
    """A name that is said to be UTF-8 and is not."""
    data = bytearray(data.replace(b"name_", b"n\xff\xfe__"))
    for mark, offset in ((b"PK\x03\x04", 7), (b"PK\x01\x02", 9)):
        data[data.index(mark) + offset] |= 8
    return bytes(data)


BOMB = bytes(33 << 20)
HOSTILE = {
    "up": (lambda: zipped((f"../../{LAB}.ipynb", NOTEBOOK)), "leads outside"),
    "absolute": (lambda: zipped((f"/tmp/{LAB}.ipynb", NOTEBOOK)), "leads outside"),
    "drive": (lambda: zipped((f"C:\\{LAB}.ipynb", NOTEBOOK)), "leads outside"),
    "backslash": (lambda: zipped((f"..\\..\\{LAB}.ipynb", NOTEBOOK)), "leads outside"),
    "beside": (lambda: zipped((f"{LAB}.ipynb", NOTEBOOK), ("../evil.py", b"x")), "leads outside"),
    "link": (lambda: zipped(link(f"{LAB}.ipynb", "/etc/passwd")), "is a link"),
    "bomb": (lambda: zipped((f"{LAB}.ipynb", BOMB)), "more than 32 MiB"),
    "nested_bomb": (lambda: zipped(("a.zip", zipped((f"{LAB}.ipynb", BOMB)))), "holds no notebook"),
    "many": (lambda: zipped(*((f"{i}.txt", b"") for i in range(archives.MAX_MEMBERS + 1))), "more than 5000 files"),
    "damaged": (lambda: corrupt(zipped((f"{LAB}.ipynb", NOTEBOOK * 50))), "damaged"),
    "cut": (lambda: zipped((f"{LAB}.ipynb", NOTEBOOK))[:-30], "damaged or no zip file"),
    "empty": (lambda: b"", "damaged or no zip file"),
    "text": (lambda: b"hello", "damaged or no zip file"),
    "locked": (lambda: locked(zipped((f"{LAB}.ipynb", NOTEBOOK))), "password"),
    "not_utf8": (lambda: not_utf8(zipped(("name_.ipynb", NOTEBOOK))), "no UTF-8"),
    "twice": (lambda: zipped((f"{LAB}.ipynb", NOTEBOOK), (f"a/{LAB}.ipynb", NOTEBOOK)), "2 notebooks"),
    "lzma": (lambda: lzma_zip(), "unusual way"),
}


def lzma_zip():
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr(f"{LAB}.ipynb", NOTEBOOK)
    return data.getvalue()


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_hostile_archive_gets_its_verdict_and_its_neighbour_is_read(handed):
    found = handed({**{f"{n}.zip": make() for n, (make, _) in HOSTILE.items()}, "honest.ipynb": NOTEBOOK})
    assert found["honest"].path is not None
    for name, (_, says) in HOSTILE.items():
        assert says in found[name].problem and found[name].path is None, (name, found[name])


def test_a_path_that_leads_outside_in_the_archive_of_a_class_costs_only_that_student(handed):
    bad = "eve_2_3_/../../x.ipynb"
    found = handed({"all.zip": zipped(*CANVAS.items(), ("../../eve_2_3_x.ipynb", NOTEBOOK), (bad, NOTEBOOK))})
    assert found["doejane_4321"].path is not None
    assert any("leads outside" in s.problem for s in found.values())


def test_two_students_of_one_name_are_two_and_two_submissions_of_one_are_none(handed):
    found = handed({"doe_1_5_lab99_sample.ipynb": NOTEBOOK, "doe_2_6_lab99_sample.ipynb": NOTEBOOK})
    assert set(found) == {"doe_1", "doe_2"}


def test_old_archives_with_utf8_names_that_do_not_say_so_are_read():
    data = bytearray(zipped(("ü.ipynb", NOTEBOOK)))
    for mark, offset in ((b"PK\x03\x04", 7), (b"PK\x01\x02", 9)):
        data[data.index(mark) + offset] &= ~8
    with archives.opened(bytes(data), 10) as archive:
        assert archives.path_of(archive.infolist()[0]) == "ü.ipynb"


@given(st.binary(max_size=200), st.integers(0, 300), st.integers(0, 255))
def test_no_bytes_make_the_reader_raise_anything_but_its_sentence(noise, at, value):
    data = bytearray(zipped((f"{LAB}.ipynb", NOTEBOOK), ("b.zip", noise)))
    data[at % len(data)] = value
    try:
        archives.notebook_of([("a.zip", lambda limit: bytes(data))], LAB)
    except archives.BadNotebook as error:
        assert str(error).endswith(".")


@given(st.text(max_size=40))
def test_any_name_gives_a_student_and_a_file_without_a_slash(name):
    student, identity, file = identify(name, {})
    assert isinstance(student, str) and "/" not in file and all(isinstance(v, str) for v in identity.values())


def test_a_directory_that_lies_about_its_size_is_no_reason_to_read_more():
    data = bytearray(zipped((f"{LAB}.ipynb", BOMB)))
    at = data.index(b"PK\x01\x02")
    data[at + 24 : at + 28] = struct.pack("<I", 10)  # uncompressed size, as the directory tells it
    with pytest.raises(archives.BadNotebook):
        archives.notebook_of([("a.zip", lambda limit: bytes(data))], LAB)
