"""Drag the bit width: see the grid that a weight matrix is rounded to, the error, and what it costs in perplexity.

The quantizer is the library's own; perplexities are computed by the caller, because that needs the model. It knows
nothing of other methods than round-to-nearest. Source: nagel2021.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from edgeinfer.figures.charts import Axis, Bars, Chart, Frame, Line, Points, Rules, Series, number_text
from edgeinfer.figures.interactive import Choice, Slider, SliderFigure

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgeinfer.kernels.quantize import QuantizedWeight

Granularity = str | int
"""How many weights share a scale: "tensor" (all), "channel" (an output row), or the number of columns in a group."""


def granularity_name(granularity: Granularity) -> str:
    """Returns the words for a granularity: "per tensor", "per channel", "per group of 64"."""
    return f"per group of {granularity}" if isinstance(granularity, int) else f"per {granularity}"


def quantize_with(
    weight: NDArray[np.float32], bits: int, granularity: Granularity, symmetric: bool = True
) -> QuantizedWeight:
    """Quantizes to the nearest code with the given granularity.

    Raises:
        ValueError: "granularity must be 'tensor', 'channel' or a group size, not 'row'".
    """
    from edgeinfer.kernels.quantize import quantize_groupwise, quantize_per_channel, quantize_per_tensor

    if granularity == "tensor":
        return quantize_per_tensor(weight, bits, symmetric)
    if granularity == "channel":
        return quantize_per_channel(weight, bits, symmetric)
    if isinstance(granularity, int):
        return quantize_groupwise(weight, bits, granularity, symmetric)
    raise ValueError(f"granularity must be 'tensor', 'channel' or a group size, not {granularity!r}")


def bit_width_explorer(
    weight: NDArray[np.float32],
    perplexity: Mapping[tuple[Granularity, int], float],
    baseline: float,
    bits: Sequence[int] = (2, 3, 4, 5, 6, 8),
    granularities: Sequence[Granularity] = ("tensor", "channel", 64),
    name: str = "weights",
    default_bits: int = 4,
    symmetric: bool = True,
) -> SliderFigure:
    """Builds the figure: bit width and granularity against the grid, the relative error and the perplexity.

    Args:
        weight: (N, K) float32, the matrix whose histogram is shown.
        perplexity: of the whole model for (granularity, bits), with every linear layer quantized so.
        baseline: perplexity of the unquantized model.
        bits: positions of the slider, 2..8.
        granularities: entries of the list.
        name: what the matrix is called under the histogram, such as "layers.0.mlp.gate_proj".
        default_bits: where the slider starts.
        symmetric: passed on to the quantizer.

    Returns:
        The figure; make it the last expression of a cell.

    Raises:
        ValueError: "perplexity has no value for ('tensor', 3) ...".
    """
    for pair in [(g, b) for g in granularities for b in bits]:
        if pair not in perplexity:
            raise ValueError(f"perplexity has no value for {pair}; pass one for every granularity and bit width")
    weight = np.asarray(weight, dtype=np.float32)
    counts, edges = np.histogram(weight, bins=61)
    reach = float(max(abs(edges[0]), abs(edges[-1])))
    histogram = Bars(y=counts, edges=edges, label=f"weights of {name}", style=0)
    value_axis = Axis("weight", range=(-1.05 * reach, 1.05 * reach))
    count_axis = Axis("weights in a bin", scale="log", range=(0.7, 1.6 * float(counts.max())))

    def draw(bits_now: int, granularity: Granularity) -> Frame:
        quantized = quantize_with(weight, bits_now, granularity, symmetric)
        approximation = quantized.dequantize()
        error = float(np.linalg.norm(weight - approximation) / np.linalg.norm(weight))
        levels = _typical_levels(quantized)
        now = perplexity[(granularity, bits_now)]
        name_now = granularity_name(granularity)
        whose = (
            "the matrix"
            if granularity == "tensor"
            else "a typical row"
            if granularity == "channel"
            else "a typical group"
        )
        curves: list[Series] = [
            Line(
                list(bits), [perplexity[(g, b)] for b in bits], granularity_name(g), style=2 + i, faint=g != granularity
            )
            for i, g in enumerate(granularities)
        ]
        curves.append(Rules([baseline], "not quantized", style=5, along="y", dashed=True))
        curves.append(Points([bits_now], [now], style=1, large=True, names=[number_text(now)]))
        return Frame(
            [
                Chart(
                    [histogram, Rules(levels, f"grid of {whose}", style=1)],
                    value_axis,
                    count_axis,
                    title="What a weight can be rounded to",
                ),
                Chart(
                    curves,
                    Axis("bits of a code", range=(min(bits) - 0.3, max(bits) + 0.3), whole=True),
                    Axis("perplexity on held-out text", scale="log"),
                    title="What it does to the model",
                ),
            ],
            f"{bits_now} bits, one scale {name_now}: {len(levels)} grid levels for {whose}; the relative error of "
            f"the weights is {100 * error:.2g} %, and the perplexity is {number_text(now)} against "
            f"{number_text(baseline)} without quantization ({_times(now / baseline)}).",
            {
                "relative error of the weights": f"{100 * error:.2g} %",
                "stored bits per weight": number_text(_stored_bits(quantized, granularity)),
                "perplexity": f"{number_text(now)} ({_times(now / baseline)})",
            },
        )

    return SliderFigure(
        "Bit width, grid and perplexity",
        [
            Slider("bits_now", "Bit width", list(bits), "bits", default=default_bits),
            Choice(
                "granularity",
                "One scale",
                list(granularities),
                show=granularity_name,
                default=granularities[-1],
            ),
        ],
        draw,
    )


def _times(ratio: float) -> str:
    return f"{number_text(ratio)} times"


def _typical_levels(quantized: QuantizedWeight) -> NDArray[np.float64]:
    """Returns the values that the codes of the group with the median scale stand for."""
    flat = quantized.scale.ravel()
    middle = int(np.argsort(flat, kind="stable")[flat.size // 2])
    first = 1 if quantized.symmetric else 0
    codes = np.arange(first, 2**quantized.bits, dtype=np.float64)
    return (codes - float(quantized.zero_point.ravel()[middle])) * float(flat[middle])


def _stored_bits(quantized: QuantizedWeight, granularity: Granularity) -> float:
    """Bits per weight with scales; a single scale for the matrix is counted once, however it is stored."""
    weights = quantized.shape[0] * quantized.shape[1]
    if granularity == "tensor":
        return 8 * (quantized.packed.nbytes + quantized.scale.itemsize) / weights
    return quantized.bits_per_weight
