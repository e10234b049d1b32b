"""Evidence: one function per system of the catalogue, comparing a paper's claim with what this book finds.

`run("t-mac")` runs one, `recall("t-mac")` reuses the last run, `all_ids()` lists them and `evidence_table([...])` shows
several. Imports neither torch nor numba; the functions themselves are imported when first asked for.
"""

from edgeinfer.evidence.protocol import (
    Claim,
    Evidence,
    EvidenceError,
    EvidenceTable,
    Result,
    all_ids,
    evidence,
    evidence_table,
    recall,
    run,
)

__all__ = [
    "Claim",
    "Evidence",
    "EvidenceError",
    "EvidenceTable",
    "Result",
    "all_ids",
    "evidence",
    "evidence_table",
    "recall",
    "run",
]
