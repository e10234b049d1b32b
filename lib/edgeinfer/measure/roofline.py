"""The roofline: attainable speed is the lower of the peak and of intensity times bandwidth; kernels are placed on it.

The model is plain arithmetic without numpy, so that an explorer can run it anywhere. It knows no kernel. Overlap of
memory traffic and arithmetic is assumed to be perfect: the roofline is a bound, not a forecast.
Source: roofline.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DASHES = ((6, 3), (3, 2), (1, 2), (8, 3, 2, 3))


class Ceilings(Protocol):
    """What a machine must say about itself: `Limits` (measured) and `Preset` (published) both do."""

    @property
    def name(self) -> str:
        """Name for the title."""

    def bandwidths(self, threads: int | None = None) -> dict[str, float]:
        """GB/s by memory level, fastest first."""

    def peaks(self, threads: int | None = None) -> dict[str, float]:
        """GOP/s by number format."""


@dataclass(frozen=True)
class Point:
    """A kernel on the roofline.

    Attributes:
        name: label.
        intensity: operations per byte moved.
        performance: measured GOP/s; None places the kernel on the roof itself (what it could reach).
        dtype: number format whose peak bounds it.
    """

    name: str
    intensity: float
    performance: float | None = None
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if not self.intensity > 0:
            raise ValueError(f"intensity of {self.name!r} is {self.intensity}; expected operations per byte above 0")
        if self.performance is not None and not self.performance > 0:
            raise ValueError(f"performance of {self.name!r} is {self.performance}; expected GOP/s above 0, or None")

    @classmethod
    def measured(
        cls, name: str, operations: float, bytes_moved: float, seconds: float, dtype: str = "float32"
    ) -> Point:
        """Return the point of a kernel that does `operations` and moves `bytes_moved` in `seconds`."""
        return cls(name, operations / bytes_moved, operations / seconds / 1e9, dtype)


def attainable(intensity: float, peak: float, bandwidth: float) -> float:
    """Return the attainable speed in GOP/s.

    Args:
        intensity: operations per byte moved between memory and processor.
        peak: GOP/s of the processor for the number format.
        bandwidth: GB/s of the memory level that feeds it.

    Source: roofline.
    """
    return min(peak, intensity * bandwidth)


def ridge(peak: float, bandwidth: float) -> float:
    """Return the intensity (operations per byte) from which on the peak bounds, no longer the bandwidth."""
    return peak / bandwidth


def time_bound(operations: float, bytes_moved: float, peak: float, bandwidth: float) -> float:
    """Return the least time in seconds: the longer of arithmetic and traffic (peak in GOP/s, bandwidth in GB/s)."""
    return max(operations / (peak * 1e9), bytes_moved / (bandwidth * 1e9))


def log_range(low: float, high: float, count: int) -> list[float]:
    """Return `count` values from `low` to `high`, equally spaced on a log axis."""
    if count < 2 or not 0 < low < high:
        raise ValueError(f"log_range needs 0 < low < high and count of at least 2, got {low}, {high}, {count}")
    return [low * (high / low) ** (i / (count - 1)) for i in range(count)]


def curve(peak: float, bandwidth: float, low: float, high: float) -> tuple[list[float], list[float]]:
    """Return intensities and attainable GOP/s of one roof: its two ends and its corner, which are all it needs."""
    corner = ridge(peak, bandwidth)
    x = sorted({low, high, *([corner] if low < corner < high else [])})
    return x, [attainable(i, peak, bandwidth) for i in x]


def place(point: Point, machine: Ceilings, level: str = "DRAM", threads: int | None = None) -> str:
    """Return a sentence that says where a point lies: which ceiling bounds it, and what fraction it reaches."""
    bandwidth = _find(machine.bandwidths(threads), level, "memory level")
    peak = _find(machine.peaks(threads), point.dtype, "number format")
    bound = attainable(point.intensity, peak, bandwidth)
    side = "memory traffic" if point.intensity < ridge(peak, bandwidth) else "arithmetic"
    text = f"{point.name}: {_short(point.intensity)} operations per byte, bound by {side} at {_short(bound)} GOP/s"
    if point.performance is None:
        return text
    return f"{text}, reaches {_short(point.performance)} GOP/s ({100 * point.performance / bound:.0f} %)"


def describe(machine: Ceilings, points: Sequence[Point] = (), level: str = "DRAM", threads: int | None = None) -> str:
    """Return the figure in words, as text alternative and caption."""
    bandwidth = _find(machine.bandwidths(threads), level, "memory level")
    peaks = ", ".join(f"{_short(v)} GOP/s for {k}" for k, v in machine.peaks(threads).items())
    first = f"Roofline of {machine.name}: {_short(bandwidth)} GB/s from {level}; flat roofs at {peaks or 'unknown'}."
    known = [p for p in points if p.dtype in machine.peaks(threads)]
    return " ".join([first, *(place(p, machine, level, threads) + "." for p in known)])


def roofline(
    machine: Ceilings,
    points: Sequence[Point] = (),
    *,
    level: str = "DRAM",
    all_levels: bool = False,
    threads: int | None = None,
    title: str | None = None,
    axes: Any = None,
) -> Figure:
    """Draw the roofline of a machine with kernels on it.

    Args:
        machine: measured `Limits` or a published `Preset`.
        points: kernels to place; those whose number format has no peak here are bounded by the slope alone.
        level: memory level of the solid slope.
        all_levels: also draw the slopes of the other levels, thin and dashed.
        threads: thread count of the limits (None: all that were measured).
        title: stands above the figure.
        axes: matplotlib axes to draw on (default: a new figure).

    Returns:
        The matplotlib figure; `describe` gives its text alternative.

    Raises:
        ValueError: "no memory level 'HBM' on this machine; known: L1, L2, L3, DRAM".
    """
    import matplotlib.pyplot as plt

    bandwidths, peaks = machine.bandwidths(threads), machine.peaks(threads)
    bandwidth = _find(bandwidths, level, "memory level")
    if not peaks:
        raise ValueError(
            "no peak is known for this machine, so there is no roof to draw; install torch or use a preset"
        )
    if axes is None:
        _, axes = plt.subplots(figsize=(7.2, 4.4), layout="constrained")
    corners = [ridge(p, bandwidth) for p in peaks.values()]
    spots = [p.intensity for p in points]
    low, high = min([*spots, 0.25, *corners]) / 2, max([*spots, *corners]) * 4
    colors = plt.rcParams["axes.prop_cycle"].by_key()["color"]
    for number, (dtype, peak) in enumerate(peaks.items()):
        # The slope is common to all formats: it is drawn once, in grey; only the flat parts have the format's colour.
        start = max(low, ridge(peak, bandwidth))
        label = f"{dtype}: {_short(peak)} GOP/s"
        axes.plot([start, high], [peak, peak], color=colors[number % len(colors)], marker="", linewidth=2, label=label)
    top = max(peaks.values())
    slopes = bandwidths if all_levels else {level: bandwidth}
    for number, (name, rate) in enumerate(slopes.items()):
        end = min(high, ridge(top, rate))
        dashes = "-" if name == level else (0, DASHES[number % len(DASHES)])
        width, label = (2 if name == level else 1.2), f"{name}: {_short(rate)} GB/s"
        ends = [low * rate, end * rate]
        axes.plot([low, end], ends, color="#3d3d3d", linestyle=dashes, marker="", linewidth=width, label=label)
    for number, point in enumerate(points):
        _draw_point(axes, point, number, peaks, bandwidth, colors)
    axes.set(xscale="log", yscale="log", xlim=(low, high))
    axes.set_xlabel("operational intensity (operations per byte)")
    axes.set_ylabel("speed (GOP/s)")
    axes.legend(loc="lower right", fontsize=9)
    if title is not None:
        axes.set_title(title)
    return axes.figure


def _draw_point(
    axes: Any, point: Point, number: int, peaks: dict[str, float], bandwidth: float, colors: list[str]
) -> None:
    measured = point.performance is not None
    y = point.performance or attainable(point.intensity, peaks.get(point.dtype, float("inf")), bandwidth)
    index = list(peaks).index(point.dtype) if point.dtype in peaks else len(peaks)
    color = colors[index % len(colors)]
    marker = "osD^vP"[index % 6]
    # Hollow: what the roof allows. Filled: what was measured.
    axes.plot([point.intensity], [y], marker=marker, color=color, markerfacecolor=color if measured else "none", ls="")
    offset = (8, -12) if number % 2 == 0 else (8, 6)
    axes.annotate(point.name, (point.intensity, y), xytext=offset, textcoords="offset points", fontsize=9)


def _find(known: dict[str, float], name: str, what: str) -> float:
    if name not in known:
        raise ValueError(f"no {what} {name!r} on this machine; known: {', '.join(known) or 'none'}")
    return known[name]


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
