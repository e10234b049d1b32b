"""Every registered piece of evidence runs, keeps the protocol, and holds or says why not.

Each function runs once per session (the functions cache nothing themselves); the findings are reused by all checks.
"""

import pytest
from edgeinfer.evidence import Evidence, all_ids
from edgeinfer.evidence.catalogue import load_catalogue

from .findings import found

IDS = all_ids()
CATALOGUE = {entry["id"]: entry for entry in load_catalogue()}


@pytest.mark.parametrize("system_id", IDS)
def test_evidence_runs_and_holds_or_says_why_not(system_id):
    evidence = found(system_id)
    assert evidence.claim.text.strip()
    if evidence.holds is True:
        assert evidence.results
    else:
        assert len(evidence.reason.split()) >= 4, f"{system_id}: holds={evidence.holds} needs a reason in words"


@pytest.mark.parametrize("system_id", IDS)
def test_evidence_survives_the_way_into_a_file(system_id):
    evidence = found(system_id)
    assert Evidence.from_json(evidence.to_json()) == evidence


@pytest.mark.parametrize("system_id", IDS)
def test_result_names_are_distinct(system_id):
    names = [result.name for result in found(system_id).results]
    assert len(set(names)) == len(names), f"{system_id}: two results have the same name"


@pytest.mark.parametrize("system_id", IDS)
def test_claim_is_the_one_of_the_catalogue(system_id):
    claim, entry = found(system_id).claim, CATALOGUE[system_id]["claim"]
    assert (claim.value, claim.unit or None, claim.verified) == (
        entry["value"],
        entry["unit"] or None,
        entry["verified"],
    )
