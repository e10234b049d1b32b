"""Choose device, weight format, batch and context: see prefill and decode move on the roofline, and what decode reads.

All numbers come from `measure`: ceilings of devices (measured or published) and the work of a transformer's step. They
are bounds, not forecasts. It knows nothing of kernels. Source: williams2009roofline.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from edgeinfer.figures.charts import Axis, Bars, Chart, Frame, Line, Points, number_text
from edgeinfer.figures.interactive import Choice, Slider, SliderFigure

if TYPE_CHECKING:
    from edgeinfer.measure import ModelShape
    from edgeinfer.measure.roofline import Ceilings, Point

PREFERRED = ("bfloat16", "float16", "float32")


def roofline_explorer(
    devices: Mapping[str, Ceilings],
    shape: ModelShape,
    model_name: str,
    batches: Sequence[int] = (1, 4, 16, 64),
    contexts: Sequence[int] = (256, 1024, 4096),
    weight_bits: Sequence[float] = (16, 8, 4),
    level: str = "DRAM",
    dtype: str | None = None,
    threads: int | None = None,
) -> SliderFigure:
    """Builds the figure: prefill and decode of one model as two points on the roofline of a device.

    Args:
        devices: name shown to the reader -> measured `Limits` or published `Preset`.
        shape: the model (`ModelShape.from_config`).
        model_name: what the model is called in the text.
        batches: sequences that are processed together.
        contexts: tokens of the prompt, and tokens that a decode step attends to.
        weight_bits: stored bits per weight; the arithmetic stays in `dtype`.
        level: memory level that feeds the processor; a device without it uses its last level.
        dtype: number format whose peak is the flat roof (default: bfloat16, float16 or float32, the first known).
        threads: thread count of measured limits (None: the most that were measured).

    Returns:
        The figure; make it the last expression of a cell.

    Raises:
        ValueError: "device 'X' has no peak ..." when a device knows no number format.
    """
    from edgeinfer.measure.roofline import attainable, curve, ridge
    from edgeinfer.measure.work import decode, prefill, tokens_per_second_bound

    if not devices:
        raise ValueError("devices is empty; pass at least one, for example edgeinfer.measure.PRESETS")
    ceilings = {name: _ceiling(name, device, level, dtype, threads) for name, device in devices.items()}
    corners = [ridge(peak, bandwidth) for bandwidth, peak, _ in ceilings.values()]
    grid = [(b, c, w) for b in batches for c in contexts for w in weight_bits]
    steps = {
        (b, c, w): (prefill(shape, c, b, weight_bits=w, causal=True), decode(shape, c, b, weight_bits=w))
        for b, c, w in grid
    }
    spots = [step.intensity for pair in steps.values() for step in pair]
    low, high = min(spots + corners) / 3, max(spots + corners) * 3
    most = max(step.bytes for _, step in steps.values()) / 1e6
    least = min(min(step.kv_read_bytes, step.activation_bytes) for _, step in steps.values()) / 1e6

    def draw(device: str, bits: float, batch: int, context: int) -> Frame:
        bandwidth, peak, format_name = ceilings[device]
        reading, writing = steps[(batch, context, bits)]
        x, y = curve(peak, bandwidth, low, high)
        placed = [(step.intensity, attainable(step.intensity, peak, bandwidth)) for step in (reading, writing)]
        sides = ["traffic" if i < ridge(peak, bandwidth) else "arithmetic" for i, _ in placed]
        rates = [tokens_per_second_bound(step, bandwidth, peak) for step in (reading, writing)]
        parts = [writing.weight_bytes, writing.kv_read_bytes + writing.kv_write_bytes, writing.activation_bytes]
        share = parts[1] / writing.bytes
        return Frame(
            [
                Chart(
                    [
                        Line(x, y, f"roof of {format_name}", style=5),
                        Points([placed[0][0]], [placed[0][1]], "prefill", style=0, large=True),
                        Points([placed[1][0]], [placed[1][1]], "decode", style=1, large=True),
                    ],
                    Axis("operations per byte", scale="log", range=(low, high)),
                    Axis("speed", "GOP/s", scale="log"),
                    title="Where the two phases lie",
                ),
                Chart(
                    [Bars([part / 1e6 for part in parts], style=1)],
                    Axis("", scale="category", categories=("weights", "keys, values", "activations")),
                    Axis("moved in one decode step", "MB", scale="log", range=(least / 2, most * 2)),
                    title="What a decode step moves",
                ),
            ],
            f"{model_name} on {device}, weights of {number_text(bits)} bits, batch {batch}, context {context:,}: "
            f"prefill is bound by {sides[0]} ({number_text(placed[0][0])} operations per byte), decode by {sides[1]} "
            f"({number_text(placed[1][0])}). Keys and values are {100 * share:.0f} % of what a decode step moves.",
            {
                "prefill, at most": f"{number_text(rates[0])} tokens/s",
                "decode, at most": f"{number_text(rates[1])} tokens/s",
                "bandwidth": f"{number_text(bandwidth)} GB/s",
                "peak": f"{number_text(peak)} GOP/s",
            },
        )

    return SliderFigure(
        f"Prefill and decode of {model_name} on the roofline",
        [
            Choice("device", "Device", list(devices)),
            Choice("bits", "Weights stored in", list(weight_bits), "bits", show=number_text),
            Slider("batch", "Batch (sequences)", list(batches)),
            Slider("context", "Context", list(contexts), "tokens", show=lambda n: f"{n:,}", default=_middle(contexts)),
        ],
        draw,
    )


def _middle(values: Sequence[int]) -> int:
    return list(values)[len(values) // 2]


def _ceiling(
    name: str, device: Ceilings, level: str, dtype: str | None, threads: int | None
) -> tuple[float, float, str]:
    """Returns bandwidth (GB/s), peak (GOP/s) and the number format of the peak."""
    bandwidths, peaks = device.bandwidths(threads), device.peaks(threads)
    if not bandwidths or not peaks:
        missing = "memory bandwidth" if not bandwidths else "peak"
        raise ValueError(f"device {name!r} has no {missing}; measure it, or leave the device out")
    chosen = dtype or next((d for d in PREFERRED if d in peaks), next(iter(peaks)))
    if chosen not in peaks:
        raise ValueError(f"device {name!r} has no peak for {chosen!r}; known: {', '.join(peaks)}")
    bandwidth = bandwidths.get(level, list(bandwidths.values())[-1])
    return bandwidth, peaks[chosen], chosen


def roofline_chart(
    machine: Ceilings,
    points: Sequence[Point] = (),
    *,
    level: str = "DRAM",
    all_levels: bool = False,
    threads: int | None = None,
    name_ends: bool = False,
    title: str = "",
) -> Chart:
    """Returns the roofline of a machine with kernels on it as a `Chart`, to be shown with `plot`.

    Args:
        machine: measured `Limits` or a published `Preset`.
        points: measured kernels; each has the colour of its number format and is named beside its mark.
        level: memory level of the solid slope.
        all_levels: also draw the slopes of the other levels, thin and dashed.
        threads: thread count of the limits (None: all that were measured).
        name_ends: name only the first and the last kernel of a number format; the names between crowd a small screen.
        title: stands above the figure.

    Raises:
        ValueError: "no memory level 'HBM' on this machine; known: L1, L2, L3, DRAM".
    """
    from edgeinfer.measure.roofline import attainable, ridge

    bandwidths, peaks = machine.bandwidths(threads), machine.peaks(threads)
    if level not in bandwidths:
        raise ValueError(f"no memory level {level!r} on this machine; known: {', '.join(bandwidths) or 'none'}")
    spots = [point.intensity for point in points] + [ridge(peak, bandwidths[level]) for peak in peaks.values()]
    low, high = min([*spots, 0.25]) / 2, max(spots) * 4
    series: list[Line | Points] = []
    for number, (dtype, peak) in enumerate(peaks.items()):
        start = max(low, ridge(peak, bandwidths[level]))
        series.append(Line([start, high], [peak, peak], f"{dtype}: {number_text(peak)} GOP/s", number, number > 1))
    others = [name for name in bandwidths if name != level] if all_levels else []
    for number, name in enumerate([level, *others]):
        end = min(high, ridge(max(peaks.values()), bandwidths[name]))
        label, style = f"{name}: {number_text(bandwidths[name])} GB/s", 5 if number == 0 else (2 + number)
        ends = [low * bandwidths[name], end * bandwidths[name]]
        series.append(Line([low, end], ends, label, style=style, dashed=number > 0, faint=number > 0))
    for number, dtype in enumerate(peaks):
        own = [p for p in points if p.dtype == dtype]
        if own:
            heights = [p.performance or attainable(p.intensity, peaks[dtype], bandwidths[level]) for p in own]
            names = [p.name if not name_ends or p in (own[0], own[-1]) else "" for p in own]
            series.append(Points([p.intensity for p in own], heights, f"{dtype}, measured", number, names))
    x = Axis("intensity", "operations per byte", scale="log", range=(low, high))
    return Chart(series, x, Axis("speed", "GOP/s", scale="log"), title, height=360)
