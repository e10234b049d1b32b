"""The protocol refuses evidence that would mislead, and loses nothing on the way to a page."""

import json

import numpy as np
import pytest
from edgeinfer.evidence import Claim, Evidence, EvidenceError, Result, evidence, protocol, recall, run, store
from edgeinfer.evidence.protocol import EvidenceTable

CLAIM = Claim("Twice as fast", value=2.0, unit="x", hardware="a GPU", verified=True)
RESULT = Result("bytes read", 0.5, "x", "measured", "4096 x 4096")


@pytest.fixture
def empty_registry(monkeypatch, tmp_path):
    monkeypatch.setenv("EDGEINFER_EVIDENCE_CACHE", str(tmp_path / "kept"))
    monkeypatch.setattr(protocol, "_registry", {})
    monkeypatch.setattr(protocol, "_discovered", True)


def test_json_round_trip_gives_an_equal_object():
    for holds, reason in ((True, ""), (False, "too small a model"), (None, "needs an FPGA")):
        found = Evidence(CLAIM, [RESULT], holds, reason)
        assert Evidence.from_json(found.to_json()) == found


def test_numpy_values_become_plain_numbers_and_plain_truth():
    found = Evidence(CLAIM, [Result("error", np.float32(0.25), "1", "measured")], np.bool_(True))
    assert found.holds is True and type(found.results[0].value) is float
    json.loads(found.to_json())


@pytest.mark.parametrize("holds", [None, False])
def test_a_missing_or_negative_verdict_needs_a_reason(holds):
    with pytest.raises(EvidenceError, match="without a reason"):
        Evidence(CLAIM, [RESULT], holds)


@pytest.mark.parametrize("holds", [True, False])
def test_a_verdict_needs_a_result(holds):
    with pytest.raises(EvidenceError, match="with no result"):
        Evidence(CLAIM, [], holds, "because")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"unit": ""}, "no unit"),
        ({"method": "guessed"}, "choose one of measured"),
        ({"method": ""}, "choose one of measured"),
        ({"value": float("nan")}, "finite"),
        ({"value": None}, "no value"),
        ({"value": "fast"}, "must be a number"),
        ({"value": True}, "must be a number"),
        ({"name": " "}, "non-empty"),
    ],
)
def test_a_result_without_unit_method_or_finite_value_is_refused(change, message):
    with pytest.raises(EvidenceError, match=message):
        Result(**({"name": "n", "value": 1.0, "unit": "x", "method": "measured"} | change))


def test_a_claimed_figure_needs_a_unit():
    with pytest.raises(EvidenceError, match="without a unit"):
        Claim("Twice as fast", value=2.0)


def test_foreign_json_gets_one_sentence():
    with pytest.raises(EvidenceError, match="not the JSON of an Evidence"):
        Evidence.from_json('{"claim": {}}')


def test_registered_function_runs_by_its_id(empty_registry):
    @evidence("some-system")
    def found():
        return Evidence(CLAIM, [RESULT], True)

    assert protocol.all_ids() == ["some-system"]
    assert run("some-system").holds is True


def test_second_function_for_one_system_is_refused(empty_registry):
    evidence("some-system")(lambda: Evidence(CLAIM, [RESULT], True))

    def other():
        return Evidence(CLAIM, [RESULT], True)

    with pytest.raises(EvidenceError, match="already has evidence"):
        evidence("some-system")(other)


def test_id_that_is_not_kebab_case_is_refused(empty_registry):
    with pytest.raises(EvidenceError, match="kebab-case"):
        evidence("T_MAC")


def test_unknown_id_names_the_known_ones(empty_registry):
    evidence("known-system")(lambda: Evidence(CLAIM, [RESULT], True))
    with pytest.raises(EvidenceError, match="known-system"):
        run("other-system")


def test_function_that_returns_something_else_is_named(empty_registry):
    evidence("odd-system")(lambda: 3)
    with pytest.raises(EvidenceError, match="odd-system"):
        run("odd-system")


def test_table_shows_claim_finding_method_and_reason_in_both_forms():
    table = EvidenceTable([("s", "Some <system>", Evidence(CLAIM, [RESULT], False, "too small | a model"))])
    html, text = table._repr_html_(), table.markdown()
    for part in ("Twice as fast", "bytes read", "0.5×", "measured", "does not hold at this scale", "too small"):
        assert part in html and part in text
    assert "Some &lt;system&gt;" in html
    assert text.splitlines()[2].replace("\\|", "").count("|") == 5


def test_table_marks_a_figure_that_nobody_verified():
    claim = Claim("Twice as fast", value=2.0, unit="x")
    assert "not verified" in EvidenceTable([("s", "S", Evidence(claim, [RESULT], True))]).markdown()


def test_recall_runs_once_and_again_only_when_the_library_changed_or_the_file_is_damaged(empty_registry, monkeypatch):
    runs = []

    @evidence("some-system")
    def found():
        runs.append(1)
        return Evidence(CLAIM, [RESULT], True)

    assert recall("some-system") == recall("some-system") and len(runs) == 1
    store.place("some-system").write_text('{"claim"', encoding="utf-8")
    assert recall("some-system").holds is True and len(runs) == 2
    monkeypatch.setattr(store, "library_stamp", lambda: "another")
    recall("some-system")
    assert len(runs) == 3 and not list(store.place("some-system").parent.glob("*.part"))
    monkeypatch.setenv("EDGEINFER_EVIDENCE_CACHE", "0")
    recall("some-system")
    assert len(runs) == 4


def test_stamp_changes_with_code_and_with_the_size_of_a_shipped_file(tmp_path):
    (tmp_path / "a.py").write_text("1", encoding="utf-8")
    (tmp_path / "weights").write_text("12", encoding="utf-8")
    stamp = store.library_stamp.__wrapped__
    first = stamp(tmp_path)
    (tmp_path / "a.py").write_text("2", encoding="utf-8")
    second = stamp(tmp_path)
    (tmp_path / "weights").write_text("123", encoding="utf-8")
    assert len({first, second, stamp(tmp_path)}) == 3
