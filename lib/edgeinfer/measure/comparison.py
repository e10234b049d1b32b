"""The result of a fair comparison: every time of every round, and the table, page and file derived from them.

It measures nothing (see `timing`). The ratios are paired: baseline and contender of the same round.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from edgeinfer.measure.tables import html_table

FORMAT = "edgeinfer.comparison/1"


@dataclass(frozen=True)
class Work:
    """What one call moves and computes: `bytes` read and written, `operations` (a multiply and an add are two).

    `level` and `dtype` say which two ceilings of the machine the call is held against, `threads` how many it may use.
    """

    bytes: float = 0.0
    operations: float = 0.0
    level: str = "DRAM"
    dtype: str = "float32"
    threads: int = 1


@dataclass(frozen=True)
class Row:
    """One contender's result.

    Attributes:
        seconds: median time of a call.
        ratio, ratio_low, ratio_high: baseline time over this time, round by round: median and quartiles; above 1 is
            faster than the baseline.
        repeats: calls in one value.
        gigabytes_per_second, gigaoperations_per_second, roofline_fraction: of the fastest round.
    """

    name: str
    seconds: float
    ratio: float
    ratio_low: float
    ratio_high: float
    repeats: int
    gigabytes_per_second: float | None = None
    gigaoperations_per_second: float | None = None
    roofline_fraction: float | None = None


@dataclass(frozen=True)
class Comparison:
    """Times of all contenders, round by round; everything shown is derived from them.

    Attributes:
        baseline: name of the contender that the ratios refer to.
        times: seconds per call of each contender, one value per round (same order of rounds for all).
        repeats: calls per value of each contender.
        work: what a call of a contender moves and computes, where that was said.
        ceilings: attainable operations per second for a contender's work on this machine, where known.
        notes: what a reader must know (stopped early, busy machine).
        threads: threads of the libraries that were loaded, such as {"torch": 1}.
    """

    baseline: str
    times: Mapping[str, Sequence[float]]
    repeats: Mapping[str, int]
    work: Mapping[str, Work] = field(default_factory=dict)
    ceilings: Mapping[str, float] = field(default_factory=dict)
    notes: Sequence[str] = ()
    threads: Mapping[str, int] = field(default_factory=dict)

    def ratios(self, name: str) -> list[float]:
        """Return baseline time over the time of `name`, round by round."""
        self._known(name)
        return [b / t for b, t in zip(self.times[self.baseline], self.times[name], strict=True)]

    def row(self, name: str) -> Row:
        """Return the result of one contender.

        Raises:
            KeyError: "no contender 'x'; there are a, b".
        """
        ratios = self.ratios(name)
        low, high = quartiles(ratios)
        seconds = statistics.median(self.times[name])
        work = self.work.get(name)
        # A rate is held against a limit of the machine, and limits are the best of many tries: so is the rate.
        best = min(self.times[name])
        bandwidth = work.bytes / best / 1e9 if work and work.bytes else None
        operations = work.operations / best / 1e9 if work and work.operations else None
        fraction = None
        if name in self.ceilings:
            # Work without operations (a copy) is held against the bandwidth alone.
            done = operations if operations is not None else bandwidth
            fraction = done / self.ceilings[name] if done is not None else None
        return Row(
            name, seconds, statistics.median(ratios), low, high, self.repeats[name], bandwidth, operations, fraction
        )

    def rows(self) -> list[Row]:
        """Return the results of all contenders in the order in which they were given."""
        return [self.row(name) for name in self.times]

    def _known(self, name: str) -> None:
        if name not in self.times:
            raise KeyError(f"no contender {name!r}; there are {', '.join(self.times)}")

    def _cells(self) -> tuple[list[str], list[list[str]]]:
        rows = self.rows()
        head = ["contender", "time per call", "speed-up (median)", "middle half"]
        extra = {
            "GB/s": [r.gigabytes_per_second for r in rows],
            "GOP/s": [r.gigaoperations_per_second for r in rows],
            "of roofline": [r.roofline_fraction for r in rows],
        }
        shown = {title: values for title, values in extra.items() if any(v is not None for v in values)}
        body = []
        for number, r in enumerate(rows):
            name = f"{r.name} (baseline)" if r.name == self.baseline else r.name
            spread = f"{r.ratio_low:.2f} to {r.ratio_high:.2f}"
            cells = [name, duration_text(r.seconds), f"{r.ratio:.2f}", spread]
            for title, values in shown.items():
                value = values[number]
                if value is None:
                    cells.append("")
                else:
                    cells.append(f"{100 * value:.0f} %" if title == "of roofline" else f"{value:.1f}")
            body.append(cells)
        return head + list(shown), body

    def _footer(self) -> list[str]:
        rounds = len(self.times[self.baseline])
        threads = ", ".join(f"{library} {count}" for library, count in self.threads.items())
        first = f"{rounds} shuffled rounds, all contenders in each" + (f"; threads: {threads}" if threads else "")
        rates = ["rates are those of the fastest round"] if self.work else []
        return [first, *rates, *self.notes]

    def table(self) -> str:
        """Return the results as a plain text table."""
        head, body = self._cells()
        widths = [max(len(row[i]) for row in [head, *body]) for i in range(len(head))]
        lines = []
        for row in [head, *body]:
            first, rest = row[0].ljust(widths[0]), [c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)]
            lines.append("  ".join([first, *rest]).rstrip())
        lines.insert(1, "  ".join("-" * w for w in widths))
        return "\n".join([*lines, *self._footer()])

    def __str__(self) -> str:
        return self.table()

    def _repr_html_(self) -> str:
        head, body = self._cells()
        caption = f"Times side by side; speed-up is against {self.baseline}"
        return f'<div class="edgeinfer-comparison">{html_table(caption, body, head, self._footer())}</div>'

    def to_json(self) -> str:
        """Return everything that was measured as JSON text; `from_json` reads it back."""
        return json.dumps(
            {
                "format": FORMAT,
                "baseline": self.baseline,
                "times": {name: list(values) for name, values in self.times.items()},
                "repeats": dict(self.repeats),
                "work": {name: vars(work) for name, work in self.work.items()},
                "ceilings": dict(self.ceilings),
                "notes": list(self.notes),
                "threads": dict(self.threads),
            },
            indent=1,
        )

    @classmethod
    def from_json(cls, text: str) -> Comparison:
        """Read what `to_json` wrote.

        Raises:
            ValueError: "not a comparison written by to_json: ...".
        """
        try:
            raw = json.loads(text)
            if raw["format"] != FORMAT:
                raise ValueError(f"format {raw['format']!r}, expected {FORMAT!r}")
            work = {name: Work(**values) for name, values in raw["work"].items()}
            return cls(
                raw["baseline"],
                {name: tuple(values) for name, values in raw["times"].items()},
                raw["repeats"],
                work,
                raw["ceilings"],
                tuple(raw["notes"]),
                raw["threads"],
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"not a comparison written by to_json: {error}") from error


def duration_text(seconds: float) -> str:
    """Return a time with the unit that suits it: "1.25 ms"."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"


def quartiles(values: Sequence[float]) -> tuple[float, float]:
    """Return the first and the third quartile."""
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    return first, third
