"""Step through a product by look-up tables: codes, bit-planes, a table per group of activations, the sum.

It shows the arithmetic on one row, one step at a time, with the numbers of the row it is given; the fast version is in
`kernels`. Source: t-mac, lut-gemm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeinfer.figures.charts import Frame, Table, number_text
from edgeinfer.figures.interactive import Slider, SliderFigure

if TYPE_CHECKING:
    from numpy.typing import NDArray

HIDDEN = "·"
SUBSCRIPT = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


@dataclass(frozen=True)
class _Product:
    """One row's product, with every intermediate value. K weights, `width` activations share a table."""

    codes: NDArray[np.int64]
    activations: NDArray[np.float64]
    bits: int
    width: int
    scale: float
    zero_point: int

    @property
    def groups(self) -> int:
        return len(self.codes) // self.width

    def bit(self, plane: int) -> NDArray[np.int64]:
        return (self.codes >> plane) & 1

    def index(self, plane: int, group: int) -> int:
        """The bits of a plane in a group, read as a number: the first weight's bit is the lowest."""
        part = self.bit(plane)[group * self.width : (group + 1) * self.width]
        return int((part << np.arange(self.width)).sum())

    def entry(self, group: int, index: int) -> float:
        chosen = (index >> np.arange(self.width)) & 1
        return float((chosen * self.activations[group * self.width : (group + 1) * self.width]).sum())

    def plane_sum(self, plane: int) -> float:
        return sum(self.entry(g, self.index(plane, g)) for g in range(self.groups))

    @property
    def result(self) -> float:
        raw = sum(2**plane * self.plane_sum(plane) for plane in range(self.bits))
        return self.scale * (raw - self.zero_point * float(self.activations.sum()))


def lookup_table_walkthrough(
    weight: NDArray[np.float32],
    activations: NDArray[np.float32],
    bits: int = 2,
    width: int = 4,
) -> SliderFigure:
    """Builds the figure: a slider steps through one dot product by look-up tables.

    Args:
        weight: (K,) float32, one row; it is quantized to `bits` with one scale by the library's quantizer.
        activations: (K,) float32.
        bits: 2..4.
        width: activations that share a table (a table has 2**width entries); divides K.

    Returns:
        The figure; its last step compares the result with the ordinary product of the dequantized row.

    Raises:
        ValueError: "the row has 10 weights, which groups of 4 do not divide ...".
    """
    from edgeinfer.kernels.quantize import quantize_per_channel

    weight, x = np.asarray(weight, np.float32), np.asarray(activations, np.float64)
    if weight.ndim != 1 or weight.shape != x.shape:
        raise ValueError(f"weight and activations must be two rows of one length, not {weight.shape} and {x.shape}")
    if len(weight) % width:
        raise ValueError(f"the row has {len(weight)} weights, which groups of {width} do not divide; pass a multiple")
    quantized = quantize_per_channel(weight[None], bits, symmetric=False)
    row = _Product(
        quantized.codes[0].astype(np.int64),
        x,
        bits,
        width,
        float(quantized.scale[0, 0]),
        int(quantized.zero_point[0, 0]),
    )
    dense = float(quantized.dequantize()[0].astype(np.float64) @ x)

    steps = ["codes", "bit-planes"] + [f"table {g + 1}" for g in range(row.groups)]
    lookups = [(plane, group) for plane in range(bits) for group in range(row.groups)]
    steps += [f"look-up {i + 1} of {len(lookups)}" for i in range(len(lookups))] + ["shift and add"]
    first_lookup = 2 + row.groups

    def draw(step: int) -> Frame:
        looked = max(0, min(len(lookups), step - first_lookup + 1))
        now = lookups[looked - 1] if looked > 0 and step < len(steps) - 1 else None
        last = step == len(steps) - 1
        shown_table = now[1] if now else min(max(step - 2, 0), row.groups - 1)
        panels = [
            _row_table(row, step >= 1, now, shown_table if step >= 2 else None),
            _entries(row, shown_table, filled=step >= 2, now=now),
            _sums(row, looked, lookups, now, last),
        ]
        return Frame(panels, _words(row, step, steps, now, dense), _readouts(row, step, looked, last, dense))

    labels = {i: f"{i + 1}. {text}" for i, text in enumerate(steps)}
    return SliderFigure(
        "A dot product by look-up tables",
        [Slider("step", "Step", list(range(len(steps))), show=lambda i: labels[i], play=True)],
        draw,
    )


def _row_table(row: _Product, planes: bool, now: tuple[int, int] | None, group: int | None) -> Table:
    """Codes, their bits and the activations, one column for each weight."""
    columns = range(len(row.codes))
    rows = [["code", *(str(c) for c in row.codes)]]
    for plane in reversed(range(row.bits)):
        rows.append([f"bit {plane} (worth {2**plane})", *(str(b) if planes else HIDDEN for b in row.bit(plane))])
    rows.append(["activation", *(number_text(float(a)) for a in row.activations)])
    members = [] if group is None else [c for c in columns if c // row.width == group]
    strong = [(row.bits - now[0], c + 1) for c in members] if now else []
    soft = [(row.bits + 1, c + 1) for c in members]
    return Table(["weight", *(str(c + 1) for c in columns)], rows, "The row of weights", strong, soft)


def _entries(row: _Product, group: int, filled: bool, now: tuple[int, int] | None) -> Table:
    """The table of one group: for every pattern of bits, the sum of the activations whose bit is 1."""
    wanted = row.index(*now) if now else None
    names = ["x" + str(group * row.width + i + 1).translate(SUBSCRIPT) for i in range(row.width)]
    half = 2**row.width // 2
    cells = []
    for index in range(2**row.width):
        picked = [names[i] for i in range(row.width) if index >> i & 1]
        value = number_text(row.entry(group, index)) if filled else HIDDEN
        cells.append((f"{index:0{row.width}b}"[::-1], "+".join(picked) or "nothing", value))
    rows = [[*cells[i], *cells[i + half]] for i in range(half)]
    strong = []
    if wanted is not None:
        at = (wanted % half, 0 if wanted < half else 3)
        strong = [(at[0], at[1]), (at[0], at[1] + 2)]
    return Table(["bits", "sum of", "value", "bits", "sum of", "value"], rows, f"Table of group {group + 1}", strong)


def _sums(row: _Product, looked: int, lookups: list[tuple[int, int]], now: tuple[int, int] | None, last: bool) -> Table:
    """One line per bit-plane: what was looked up for each group, their sum, and what the plane is worth."""
    done = set(lookups[:looked])
    rows, strong = [], []
    for line, plane in enumerate(reversed(range(row.bits))):
        cells = []
        for group in range(row.groups):
            found = (plane, group) in done
            cells.append(number_text(row.entry(group, row.index(plane, group))) if found else HIDDEN)
            if now == (plane, group):
                strong.append((line, group + 1))
        whole = all((plane, g) in done for g in range(row.groups))
        total = row.plane_sum(plane)
        cells.append(number_text(total) if whole else HIDDEN)
        cells.append(number_text(2**plane * total) if last else HIDDEN)
        rows.append([f"bit {plane}", *cells])
        if last:
            strong.append((line, row.groups + 2))
    head = ["plane", *(f"from table {g + 1}" for g in range(row.groups)), "sum", "times its worth"]
    return Table(head, rows, "What was looked up", strong)


def _words(row: _Product, step: int, steps: list[str], now: tuple[int, int] | None, dense: float) -> str:
    if step == 0:
        return (
            f"The {len(row.codes)} weights of a row are stored as codes of {row.bits} bits; a weight is "
            f"{number_text(row.scale)} times (code minus {row.zero_point})."
        )
    if step == 1:
        return "Each code is split into its bits: one row of zeros and ones for every power of two."
    if step < 2 + row.groups:
        group = step - 2
        return (
            f"Before any weight is read, all {2**row.width} sums of activations {group * row.width + 1} to "
            f"{(group + 1) * row.width} are computed once. Every row of the matrix will use this table."
        )
    if now is not None:
        plane, group = now
        bits = f"{row.index(plane, group):0{row.width}b}"[::-1]
        return (
            f"Bits {bits} of plane {plane} are the address in table {group + 1}: the entry "
            f"{number_text(row.entry(group, row.index(plane, group)))} replaces {row.width} multiplications and "
            f"additions."
        )
    return (
        f"Each plane's sum counts 2 to the power of its bit. Minus {row.zero_point} times the sum of the activations, "
        f"times the scale, the result is {number_text(row.result, 4)}; the ordinary product gives "
        f"{number_text(dense, 4)}."
    )


def _readouts(row: _Product, step: int, looked: int, last: bool, dense: float) -> dict[str, str]:
    built = max(0, min(row.groups, step - 1))
    shown = {"entries computed": str(built * 2**row.width), "look-ups": str(looked), "multiplications by a weight": "0"}
    if last:
        shown["result"] = number_text(row.result, 4)
        shown["ordinary product"] = number_text(dense, 4)
    return shown
