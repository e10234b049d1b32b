"""Bits by temperature: neurons that fire often keep more bits than those that hardly ever do.

A neuron of a gated network is a row of gate, a row of up and a column of down; the three are stored as one bundle of
one width. Temperature is the share of *calibration* tokens for which the activation is not zero, so nothing is known of
the tokens to come. Knows no flash and no scheduling. H = hidden size, M = neurons. Source: powerinfer-2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeinfer.kernels import validate
from edgeinfer.kernels.quantize import QuantizedWeight, quantize_groupwise

PARTS = ("gate", "up", "down")


def activation_frequency(inputs: NDArray[np.float32]) -> NDArray[np.float64]:
    """How often each neuron fires.

    Args:
        inputs: (tokens, M) float32, what enters `down_proj` (see `Decoder.capture_inputs`) on calibration text.

    Returns:
        (M,) share of tokens, 0..1, for which the value is not zero.
    """
    return np.count_nonzero(validate.finite_matrix(inputs, "inputs"), axis=0) / len(inputs)


def hottest(frequency: NDArray[np.float64], share: float) -> NDArray[np.intp]:
    """The hottest neurons.

    Args:
        frequency: (M,) of `activation_frequency`.
        share: of all neurons, 0..1; rounded to whole neurons.

    Returns:
        Their indices, ascending.

    Raises:
        ValueError: "share of hot neurons must lie in 0 to 1, got 1.5."
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share of hot neurons must lie in 0 to 1, got {share}.")
    order = np.argsort(-np.asarray(frequency), kind="stable")
    return np.sort(order[: round(share * len(order))])


@dataclass(frozen=True)
class Bundles:
    """Neurons of one width.

    Attributes:
        index: (n,) which neurons of the layer these are.
        parts: "gate", "up" and "down": (n, H) each (`down` transposed), or empty when n is 0.
        hidden: H.
    """

    index: NDArray[np.intp]
    parts: dict[str, QuantizedWeight]
    hidden: int

    @property
    def nbytes(self) -> int:
        """Stored bytes of codes, scales and zero points."""
        return sum(part.nbytes for part in self.parts.values())

    def dequantize(self, part: str) -> NDArray[np.float32]:
        """One part, (n, H) float32."""
        return self.parts[part].dequantize() if self.parts else np.zeros((0, self.hidden), np.float32)


@dataclass(frozen=True)
class MixedNetwork:
    """A gated network with ReLU whose hot and cold neurons have different widths.

    Attributes:
        hot, cold: their bundles.
        shape: (M, H).
    """

    hot: Bundles
    cold: Bundles
    shape: tuple[int, int]

    @property
    def nbytes(self) -> int:
        """Stored bytes."""
        return self.hot.nbytes + self.cold.nbytes

    @property
    def bits_per_weight(self) -> float:
        """Stored bits of a weight, scales and zero points included."""
        return 8 * self.nbytes / (3 * self.shape[0] * self.shape[1])

    def dequantize(self) -> dict[str, NDArray[np.float32]]:
        """The three matrices as the model knows them: gate (M, H), up (M, H), down (H, M)."""
        found = {}
        for part in PARTS:
            whole = np.empty(self.shape, np.float32)
            for bundles in (self.hot, self.cold):
                whole[bundles.index] = bundles.dequantize(part)
            found[part] = np.ascontiguousarray(whole.T) if part == "down" else whole
        return found

    def forward(self, x: NDArray[np.float32]) -> tuple[NDArray[np.float32], int]:
        """y = down(relu(gate x) * up x) of one token; a cold neuron's up and down are read if its gate is positive.

        The gate decides, not a prediction: the result is that of the dense network.

        Args:
            x: (H,) float32.

        Returns:
            (H,) float32, and the bytes read: hot neurons whole, of cold ones the gate, and the rest if they fire.
        """
        x = validate.finite_activations(x, self.shape[1])[0]
        y = np.zeros(self.shape[1], np.float32)
        read = self.hot.nbytes
        for bundles in (self.hot, self.cold):
            gate = bundles.dequantize("gate") @ x
            fires = gate > 0
            value = gate[fires] * (bundles.dequantize("up")[fires] @ x)
            y += value @ bundles.dequantize("down")[fires]
            if bundles is self.cold and bundles.parts:
                beside = bundles.nbytes - bundles.parts["gate"].nbytes
                read += bundles.parts["gate"].nbytes + round(beside * float(fires.mean()))
        return y, read


def quantize_by_temperature(
    gate: NDArray[np.float32],
    up: NDArray[np.float32],
    down: NDArray[np.float32],
    hot: NDArray[np.intp],
    hot_bits: int = 8,
    cold_bits: int = 4,
    group_size: int = 64,
) -> MixedNetwork:
    """Quantize the hot neurons of a network to one width and all others to another.

    Args:
        gate, up: (M, H) float32.
        down: (H, M) float32.
        hot: indices of hot neurons (`hottest`).
        hot_bits, cold_bits: 2..8.
        group_size: weights of a bundle's row that share scale and zero point; divides H.

    Raises:
        ValueError: "down must have shape (256, 640) to fit gate (640, 256), got ..." and the like.
    """
    gate, up, down = (validate.finite_matrix(a, n) for a, n in ((gate, "gate"), (up, "up"), (down, "down")))
    neurons, hidden = gate.shape
    for name, array, wanted in (("up", up, gate.shape), ("down", down, gate.shape[::-1])):
        if array.shape != wanted:
            raise ValueError(f"{name} must have shape {wanted} to fit gate {gate.shape}, got {array.shape}.")
    hot = np.unique(np.asarray(hot, np.intp))
    if hot.size and not 0 <= hot[0] <= hot[-1] < neurons:
        raise ValueError(
            f"neuron {hot[-1] if hot[0] >= 0 else hot[0]} is not one of the {neurons} neurons of this network."
        )
    matrices = dict(zip(PARTS, (gate, up, down.T), strict=True))

    def bundles(index: NDArray[np.intp], bits: int) -> Bundles:
        if not index.size:
            return Bundles(index, {}, hidden)
        parts = {n: quantize_groupwise(m[index], bits, group_size, symmetric=False) for n, m in matrices.items()}
        return Bundles(index, parts, hidden)

    cold = np.setdiff1d(np.arange(neurons), hot)
    return MixedNetwork(bundles(hot, hot_bits), bundles(cold, cold_bits), (neurons, hidden))
