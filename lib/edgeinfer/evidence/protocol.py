"""What a piece of evidence is: a paper's claim, what was found here, and whether the shape of the claim holds.

Knows nothing of any technique and runs nothing by itself; functions register under a catalogue id and are found when
first asked for. Modules named after a section (`va1_*`, `vb1_*`, ...) are imported lazily.
"""

from __future__ import annotations

import importlib
import json
import math
import pkgutil
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from html import escape
from typing import Any, Literal

Method = Literal["measured", "simulated", "modelled"]
METHODS: tuple[str, ...] = ("measured", "simulated", "modelled")
SECTION_MODULE = re.compile(r"^v[a-f]\d\w*$")
SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
SYSTEM_ID = re.compile(r"^[a-z0-9]+(-[a-z0-9]+)*$")


class EvidenceError(ValueError):
    """A piece of evidence that breaks the protocol, or an id that has none. The message names the system."""


def _sentence(value: object, what: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise EvidenceError(f"{what} must be a non-empty text, got {value!r}; write one sentence")
    return value.strip()


def _number(value: object, what: str) -> float | int | None:
    """Plain Python number (numpy scalars become one), or None; NaN and infinity are not findings."""
    if value is None:
        return None
    item = getattr(value, "item", None)
    plain = item() if callable(item) else value
    if isinstance(plain, bool) or not isinstance(plain, int | float):
        raise EvidenceError(f"{what} must be a number or None, got {type(value).__name__}")
    if not math.isfinite(plain):
        raise EvidenceError(f"{what} is {plain}; a finding is a finite number, say in `reason` why there is none")
    return plain


@dataclass(frozen=True)
class Claim:
    """What the paper says, in one sentence, with its figure, unit and hardware where it gives one.

    Args:
        text: the claim in our words.
        value: the paper's figure, or None where the claim is one of shape only.
        unit: unit of `value` (`"x"` for a ratio); required with a value.
        hardware: what the authors ran on.
        citation: key in `book/references.bib`; empty means the system's own.
        verified: True only where the figure was read in the paper.
    """

    text: str
    value: float | int | None = None
    unit: str = ""
    hardware: str = ""
    citation: str = ""
    verified: bool = False

    def __post_init__(self) -> None:
        _sentence(self.text, "Claim.text")
        object.__setattr__(self, "value", _number(self.value, "Claim.value"))
        if self.value is not None and not self.unit:
            raise EvidenceError(
                f"Claim {self.text!r} has the value {self.value} without a unit; give one ('x' for ratios)"
            )


@dataclass(frozen=True)
class Result:
    """One finding of this book.

    Args:
        name: what was found, short enough for a table cell.
        value: a finite number.
        unit: its unit (`"x"` for a ratio, `"1"` for a pure number such as an error).
        method: `measured` on this machine, `simulated` by a program that imitates hardware, `modelled` by a formula.
        note: what a reader needs to read the number fairly (sizes, model, what is left out).
    """

    name: str
    value: float | int
    unit: str
    method: Method
    note: str = ""

    def __post_init__(self) -> None:
        _sentence(self.name, "Result.name")
        value = _number(self.value, f"Result {self.name!r}: value")
        if value is None:
            raise EvidenceError(f"Result {self.name!r} has no value; leave the result out and say why in `reason`")
        object.__setattr__(self, "value", value)
        if not isinstance(self.unit, str) or not self.unit.strip():
            raise EvidenceError(f"Result {self.name!r} has no unit; give one ('x' for a ratio, '1' for a pure number)")
        if self.method not in METHODS:
            raise EvidenceError(f"Result {self.name!r} has method {self.method!r}; choose one of {', '.join(METHODS)}")


@dataclass(frozen=True)
class Evidence:
    """A claim, what was found, and the verdict.

    Args:
        claim: the paper's claim.
        results: findings; at least one when `holds` is True or False.
        holds: True, False (does not hold at this scale), or None (could not be put to the test here).
        reason: why; required when `holds` is False or None, welcome otherwise.

    Raises:
        EvidenceError: when the verdict stands without results, or a negative or missing verdict without a reason.
    """

    claim: Claim
    results: list[Result] = field(default_factory=list)
    holds: bool | None = None
    reason: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.claim, Claim):
            raise EvidenceError(f"Evidence.claim must be a Claim, got {type(self.claim).__name__}")
        if any(not isinstance(result, Result) for result in self.results):
            raise EvidenceError("Evidence.results must hold Result objects only")
        verdict = self.holds
        if verdict is not None and not isinstance(verdict, bool):
            # A numpy comparison gives numpy.bool_, which JSON and `is True` do not know.
            if type(verdict).__name__ not in ("bool_", "bool"):
                raise EvidenceError(f"Evidence.holds must be True, False or None, got {verdict!r}")
            object.__setattr__(self, "holds", bool(verdict))
        if self.holds is not None and not self.results:
            raise EvidenceError(
                f"holds={self.holds} with no result; a verdict needs at least one Result, else use None"
            )
        if self.holds is not True and not self.reason.strip():
            raise EvidenceError(f"holds={self.holds} without a reason; say in one sentence why it does not hold here")

    @property
    def methods(self) -> list[str]:
        """Methods used, in the order measured, simulated, modelled."""
        used = {result.method for result in self.results}
        return [method for method in METHODS if method in used]

    @property
    def verdict(self) -> str:
        """Words for the verdict, as chapter tables and the Atlas show it."""
        return {True: "holds", False: "does not hold at this scale", None: "not tested here"}[self.holds]

    def to_json(self) -> str:
        """JSON text that `from_json` reads back to an equal object."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Evidence:
        """Read what `to_json` wrote; the same checks apply.

        Raises:
            EvidenceError: when the text is not the JSON of an Evidence.
        """
        try:
            raw: dict[str, Any] = json.loads(text)
            return cls(Claim(**raw["claim"]), [Result(**r) for r in raw["results"]], raw["holds"], raw["reason"])
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise EvidenceError(
                f"this is not the JSON of an Evidence ({error}); write it with Evidence.to_json"
            ) from error


_registry: dict[str, Callable[[], Evidence]] = {}
_discovered = False


def evidence(system_id: str) -> Callable[[Callable[[], Evidence]], Callable[[], Evidence]]:
    """Decorator: register a function without arguments as the evidence for one system of the catalogue.

    Args:
        system_id: the `id` in `book/systems.yaml`, e.g. `"t-mac"`.

    Raises:
        EvidenceError: when the id is not kebab-case or another function already has it.
    """
    if not SYSTEM_ID.match(system_id):
        raise EvidenceError(f"system id {system_id!r} is not kebab-case; use the id of book/systems.yaml, e.g. 't-mac'")

    def register(function: Callable[[], Evidence]) -> Callable[[], Evidence]:
        known = _registry.get(system_id)
        # Reloading a module in a notebook registers the same function again; two different ones are a mistake.
        if known is not None and (known.__module__, known.__qualname__) != (function.__module__, function.__qualname__):
            raise EvidenceError(f"{system_id!r} already has evidence in {known.__module__}; one function per system")
        _registry[system_id] = function
        return function

    return register


def _discover() -> None:
    """Import every section module beside this file once; importing them registers their functions."""
    global _discovered
    if _discovered:
        return
    package = importlib.import_module(__package__ or "edgeinfer.evidence")
    for module in pkgutil.iter_modules(package.__path__):
        if SECTION_MODULE.match(module.name):
            importlib.import_module(f"{package.__name__}.{module.name}")
    _discovered = True


def all_ids() -> list[str]:
    """Ids of all systems that have an evidence function, sorted."""
    _discover()
    return sorted(_registry)


def function_of(system_id: str) -> Callable[[], Evidence]:
    """The registered function of a system.

    Raises:
        EvidenceError: when the system has none.
    """
    _discover()
    if system_id not in _registry:
        raise EvidenceError(f"no evidence for {system_id!r}; known: {', '.join(sorted(_registry)) or 'none'}")
    return _registry[system_id]


def run(system_id: str) -> Evidence:
    """Run the evidence function of one system (some take a minute), keep what it found, and return it.

    Args:
        system_id: id in the catalogue, e.g. `"t-mac"`.

    Raises:
        EvidenceError: when the system has none, or the function returns something else than an Evidence.
    """
    found = function_of(system_id)()
    if not isinstance(found, Evidence):
        raise EvidenceError(f"the evidence function of {system_id!r} returned {type(found).__name__}, not an Evidence")
    from edgeinfer.evidence import store

    store.keep(system_id, found)
    return found


def recall(system_id: str) -> Evidence:
    """What the last run on this machine with this very library found; runs the evidence when there was none.

    Pages use this: the tests before the build have usually run everything already.

    Raises:
        EvidenceError: as `run`.
    """
    from edgeinfer.evidence import store

    function_of(system_id)
    return store.kept(system_id) or run(system_id)


def format_value(value: float | int | None, unit: str) -> str:
    """A number with its unit for a table: what a reader can use, `x` as a multiplication sign, `yes` as a word.

    Whole numbers stay whole, bytes from a hundred thousand on become KB, MB or GB, quantities keep four significant
    digits, ratios and shares three, and what is nearly nothing one.
    """
    if value is None:
        return ""
    if unit == "yes":
        return "yes" if value else "no"
    if unit in ("B", "bytes") and abs(value) >= 1e5:
        power = min(3, int(math.log10(abs(value)) / 3))
        size, unit = (f"{value / 1000**power:,.3g}", ("", "KB", "MB", "GB")[power]) if power else (f"{value:,}", unit)
        return f"{size}\u00a0{unit}"
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        value = int(value)
    if isinstance(value, int):
        number = f"{value:,}"
    elif abs(value) < 1e-3:
        digit, exponent = f"{value:.0e}".split("e")
        number = f"{digit}×10" + str(int(exponent)).translate(SUPERSCRIPT)
    else:
        number = f"{value:,.4g}" if abs(value) >= 1 and unit != "x" else f"{value:,.3g}"
    number = f"{float(number.replace(',', '')):,.0f}" if "e+" in number else number
    return f"{number}×" if unit == "x" else number if unit in ("", "1") else f"{number}\u00a0{unit}"


def no_break(text: str) -> str:
    """Keeps a number of a sentence and the percent sign or unit behind it on one line."""
    return re.sub(r"(?<=\d) (?=(?:%|W|[KMG]i?B(?:/s)?|m?s)(?!\w))", "\u00a0", text)


class EvidenceTable:
    """Claim beside finding for several systems; a chapter page shows it, `markdown()` gives the text form."""

    def __init__(self, rows: Sequence[tuple[str, str, Evidence]]) -> None:
        """Args: rows of (system id, name shown, evidence)."""
        self.rows = list(rows)

    @staticmethod
    def _claim(claim: Claim) -> str:
        figure = format_value(claim.value, claim.unit)
        parts = [claim.text, f"Paper: {figure}" if figure else "", f"on {claim.hardware}" if claim.hardware else ""]
        text = parts[0] + (" (" + " ".join(p for p in parts[1:] if p) + ")" if any(parts[1:]) else "")
        return text if claim.verified or not figure else text + " [figure not verified]"

    def markdown(self) -> str:
        """The table as Markdown, one row per system."""
        lines = ["| System | The paper's claim | Found here | Verdict |", "| --- | --- | --- | --- |"]
        for _, name, found in self.rows:
            results = "; ".join(
                f"{r.name}: {format_value(r.value, r.unit)} ({r.method}{', ' + r.note if r.note else ''})"
                for r in found.results
            )
            verdict = found.verdict + (f": {found.reason}" if found.reason else "")
            cells = [name, self._claim(found.claim), results or "nothing", verdict]
            lines.append("| " + " | ".join(c.replace("|", "\\|").replace("\n", " ") for c in cells) + " |")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        body = []
        for system_id, name, found in self.rows:
            items = "".join(
                f"<li>{escape(r.name)}: <strong>{escape(format_value(r.value, r.unit))}</strong> "
                f'<span class="ev-badge ev-{r.method}">{r.method}</span>'
                f"{' <small>' + escape(r.note) + '</small>' if r.note else ''}</li>"
                for r in found.results
            )
            inner = f"<ul>{items or '<li>nothing</li>'}</ul>"
            if len(found.results) > UNFOLDED:
                count = ", ".join(f"{sum(r.method == m for r in found.results)} {m}" for m in found.methods)
                inner = f"<details><summary>{len(found.results)} findings ({count})</summary>{inner}</details>"
            state = {True: "holds", False: "fails", None: "open"}[found.holds]
            reason = f" <small>{escape(no_break(found.reason))}</small>" if found.reason else ""
            body.append(
                f'<tr id="evidence-{escape(system_id)}"><th scope="row">{escape(name)}</th>'
                f'<td data-label="The paper\'s claim">{escape(no_break(self._claim(found.claim)))}</td>'
                f'<td data-label="Verdict"><span class="ev-badge ev-{state}">{found.verdict}</span>{reason}</td>'
                f'<td data-label="Found here">{inner}</td></tr>'
            )
        head = "".join(f'<th scope="col">{h}</th>' for h in ("System", "The paper's claim", "Verdict", "Found here"))
        return (
            f'{TABLE_CSS}<table class="ev-table"><caption>What the papers claim and what this book found</caption>'
            f"<thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"
        )

    def __str__(self) -> str:
        return self.markdown()


# Up to so many findings stand open; more are folded below the verdict, or the point is lost on a phone.
UNFOLDED = 4
# Badges carry words, so colour is never the only sign; below 600 px each row becomes a card; paper shows all findings.
TABLE_CSS = """<style>
.ev-table{width:100%;border-collapse:collapse;font-size:.9em}
.ev-table caption{text-align:left;caption-side:top;font-weight:600}
.ev-table th,.ev-table td{padding:.4em .6em;border-bottom:1px solid #8886;vertical-align:top;text-align:left}
.ev-table ul{margin:0;padding-left:1.1em}.ev-table summary{cursor:pointer}
.ev-badge{display:inline-block;padding:0 .5em;border:1px solid currentColor;border-radius:.8em;font-size:.85em}
.ev-holds{font-weight:600}.ev-fails{font-weight:600;border-style:dashed}.ev-open{border-style:dotted}
@media print{.ev-table details::details-content{content-visibility:visible;block-size:auto}}
@media (max-width:600px){.ev-table thead{position:absolute;left:-9999px}
.ev-table,.ev-table caption,.ev-table tbody,.ev-table tr,.ev-table th,.ev-table td{display:block}
.ev-table tr{border:1px solid #8886;border-radius:.5em;margin:.6em 0}
.ev-table td::before{content:attr(data-label);display:block;font-weight:600;font-size:.85em}}
</style>"""


def evidence_table(system_ids: Sequence[str], names: dict[str, str] | None = None) -> EvidenceTable:
    """Table of the evidence of the given systems for a chapter page (recalled, or run when not yet known).

    Args:
        system_ids: ids in the catalogue, in the order of the rows.
        names: optional id -> name shown; by default the catalogue's short names where the catalogue is at hand.

    Returns:
        An `EvidenceTable` (HTML in a notebook, `.markdown()` elsewhere).

    Raises:
        EvidenceError: when a system has no evidence.
    """
    if names is None:
        from edgeinfer.evidence.catalogue import short_names

        names = short_names()
    return EvidenceTable([(i, names.get(i, i), recall(i)) for i in system_ids])
