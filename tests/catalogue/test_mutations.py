"""The consistency check itself is checked: each way of breaking a copy of the tree must be found and named."""

import shutil
from pathlib import Path

import catalogue_consistency as consistency
import pytest
import yaml
from edgeinfer.evidence.catalogue import load_catalogue

ROOT = Path(__file__).resolve().parents[2]


def dump(entries: list) -> str:
    return yaml.dump(entries, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper), allow_unicode=True)


@pytest.fixture
def tree(tmp_path):
    """A small tree with the real catalogue and bibliography, and pages and labs that agree with them."""
    (tmp_path / "book").mkdir()
    for name in ("systems.yaml", "references.bib"):
        shutil.copy(ROOT / "book" / name, tmp_path / "book" / name)
    for entry in load_catalogue(tmp_path / "book/systems.yaml"):
        if entry["status"] == "taught":
            for path, text in (
                (
                    entry["chapter"]["page"],
                    f"({entry['chapter']['anchor']})=\n\nAs in {{cite:p}}`{entry['citation']}`.\n",
                ),
                (entry["lab"], f"# {entry['short']}\n"),
            ):
                target = tmp_path / path
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("a", encoding="utf-8") as file:
                    file.write(text)
    return tmp_path


def taught(tree: Path) -> list[str]:
    return [e["id"] for e in load_catalogue(ROOT / "book/systems.yaml") if e["status"] == "taught"]


def edit(tree: Path, system_id: str, **changes) -> None:
    path = tree / "book/systems.yaml"
    entries = load_catalogue(path)
    entry = next(e for e in entries if e["id"] == system_id)
    for key, value in changes.items():
        entry.pop(key) if value is ... else entry.__setitem__(key, value)
    path.write_text(dump(entries), encoding="utf-8")


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def test_the_undamaged_copy_has_no_problem(tree):
    assert consistency.problems(tree, taught(tree)) == []


CLAIM = {"text": "faster", "value": 2, "unit": "x", "hardware": None, "verified": False, "source": None}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"title": ...}, "field `title` is missing"),
        ({"colour": "red"}, "unknown field `colour`"),
        ({"sections": ["V.Z.9"]}, "'V.Z.9'"),
        ({"sections": ["V.A.1", "V.A.1"]}, "twice"),
        ({"kind": "tool"}, "'tool'"),
        ({"bottleneck": []}, "non-empty list"),
        ({"status": "done"}, "'done'"),
        ({"year": "2024"}, "whole number"),
        ({"idea": " "}, "`idea`"),
        ({"links": []}, "at least one place"),
        ({"links": [{"kind": "arxiv", "url": "arxiv.org/abs/1"}]}, "https://"),
        ({"claim": {"text": "faster"}}, "exactly the fields"),
        ({"claim": CLAIM}, "not verified"),
        ({"claim": CLAIM | {"unit": None, "verified": True, "source": "abstract"}}, "without a unit"),
        ({"claim": CLAIM | {"verified": True}}, "claim.source"),
        ({"chapter": None}, "needs chapter"),
        ({"lab": None}, "needs a lab"),
        ({"hidden_traps": []}, "hidden_traps"),
        ({"citation": "nobody-2099"}, "not in references.bib"),
    ],
)
def test_a_broken_entry_is_found_and_named(tree, changes, says):
    edit(tree, "t-mac", **changes)
    found = consistency.problems(tree, taught(tree))
    assert any(line.startswith("t-mac: ") and says in line for line in found), found


def test_a_double_and_a_lost_entry_are_found(tree):
    path = tree / "book/systems.yaml"
    entries = load_catalogue(path)
    path.write_text(dump([*entries, entries[5]]), encoding="utf-8")
    assert any("the id stands twice" in line for line in consistency.problems(tree, taught(tree)))
    path.write_text(dump(entries[:-1]), encoding="utf-8")
    assert any("102 entries" in line for line in consistency.problems(tree, taught(tree)))


def test_a_lost_label_page_lab_or_mention_is_found(tree):
    page, lab = tree / "book/va_kernels/lookup_tables.md", tree / "solutions/lab02_lookup_tables.py"
    replace(page, "(sys-t-mac)=", "(sys-t-mack)=")
    found = consistency.problems(tree, taught(tree))
    assert any("t-mac: no label (sys-t-mac)=" in line for line in found)
    assert any("(sys-t-mack)= belongs to no taught entry" in line for line in found)
    replace(lab, "# T-MAC\n", "")
    assert any("t-mac: no cell" in line for line in consistency.problems(tree, taught(tree)))
    page.unlink()
    lab.unlink()
    found = consistency.problems(tree, taught(tree))
    assert any("t-mac: its page" in line for line in found) and any("t-mac: its lab" in line for line in found)


def test_a_citation_in_a_page_that_does_not_exist_is_found(tree):
    page = tree / "book/va_kernels/lookup_tables.md"
    replace(page, "{cite:p}`t-mac`", "{cite:t}`t-mac, nobody-2099`")
    assert any("cites 'nobody-2099'" in line for line in consistency.problems(tree, taught(tree)))


def test_missing_superfluous_and_early_evidence_is_found(tree):
    ids = taught(tree)
    assert any("t-mac: taught, but no evidence" in x for x in consistency.problems(tree, set(ids) - {"t-mac"}))
    assert any("ghost: has an evidence function" in x for x in consistency.problems(tree, [*ids, "ghost"]))
    assert any(
        "netgpt: has an evidence function but is marked" in x for x in consistency.problems(tree, [*ids, "netgpt"])
    )
