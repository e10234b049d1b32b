"""V.A.1, bits by temperature: do neurons that fire often deserve more bits than the others?

Perplexities are those of the shipped ReLU model on held-out text; the temperature is taken on another part of it. Knows
kernels and the model, no page and no plot. Source: powerinfer-2.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from edgeinfer.evidence.protocol import Claim, Evidence, Result, evidence
from edgeinfer.evidence.va1_quantization import GROUP, TOKENS, Subject

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgeinfer.kernels.mixed_temperature import MixedNetwork

    Order = list[NDArray[np.float64]]


@dataclass(frozen=True)
class Mixture:
    """A model whose neurons have two widths.

    Attributes:
        perplexity: on held-out text.
        bits: stored bits of a weight of the feed-forward networks, scales and zero points included.
        stored: their bytes.
        read: bytes of these networks that a held-out token reads, up and down of cold neurons only where they fire.
    """

    perplexity: float
    bits: float
    stored: int
    read: float


class Neurons:
    """The shipped ReLU model and the temperature of its neurons, taken on text that perplexity does not read."""

    def __init__(self, tokens: int = TOKENS, calibration: int = 1024) -> None:
        self.subject = Subject("relu", tokens)
        self.layers = self.subject.model.config.num_hidden_layers
        self._text = self.subject.text[-calibration:]  # far from what perplexity reads

    def _fed_to_down(self, tokens) -> list[NDArray[np.float32]]:
        """What enters down_proj: (tokens, neurons) of every layer."""
        self.subject.put(self.subject.weights)
        names = [f"layers.{n}.mlp.down_proj" for n in range(self.layers)]
        seen = self.subject.model.capture_inputs(tokens.reshape(-1, 256), names)
        return [seen[name].numpy() for name in names]

    @cached_property
    def _calibration(self) -> list[NDArray[np.float32]]:
        return self._fed_to_down(self._text)

    @cached_property
    def frequency(self) -> Order:
        """How often each neuron fires on calibration text, layer by layer."""
        from edgeinfer.kernels.mixed_temperature import activation_frequency

        return [activation_frequency(x) for x in self._calibration]

    @cached_property
    def contribution(self) -> Order:
        """Mean square of what each neuron adds to the output: its activation times the length of its down column."""
        down = [self.subject.weights[f"layers.{n}.mlp.down_proj"] for n in range(self.layers)]
        return [(x**2).mean(0) * (w**2).sum(0) for x, w in zip(self._calibration, down, strict=True)]

    def at_random(self, seed: int) -> Order:
        """An order that means nothing."""
        rng = np.random.default_rng(seed)
        return [rng.random(len(frequency)) for frequency in self.frequency]

    @cached_property
    def _fires(self) -> list[NDArray[np.float64]]:
        """How often each neuron fires on held-out text: for counting bytes, never for choosing."""
        from edgeinfer.kernels.mixed_temperature import activation_frequency

        return [activation_frequency(x) for x in self._fed_to_down(self.subject.text[:512])]

    def networks(self, order: Order, share: float, hot_bits: int, cold_bits: int) -> list[MixedNetwork]:
        """Every layer's network, the first `share` of its neurons (by `order`) hot."""
        from edgeinfer.kernels.mixed_temperature import hottest, quantize_by_temperature

        networks = []
        for layer, heat in enumerate(order):
            gate, up, down = (self.subject.weights[f"layers.{layer}.mlp.{n}_proj"] for n in ("gate", "up", "down"))
            networks.append(quantize_by_temperature(gate, up, down, hottest(heat, share), hot_bits, cold_bits, GROUP))
        return networks

    def mix(self, order: Order, share: float, hot_bits: int, cold_bits: int) -> Mixture:
        """Perplexity and bytes of one mixture; `share` 0 is uniformly cold."""
        networks = self.networks(order, share, hot_bits, cold_bits)
        weights, read = dict(self.subject.weights), 0.0
        for layer, network in enumerate(networks):
            weights |= {f"layers.{layer}.mlp.{part}_proj": w for part, w in network.dequantize().items()}
            read += network.hot.nbytes
            if network.cold.parts:
                gate = network.cold.parts["gate"].nbytes
                read += gate + float(self._fires[layer][network.cold.index].mean()) * (network.cold.nbytes - gate)
        count, stored = sum(3 * n.shape[0] * n.shape[1] for n in networks), sum(n.nbytes for n in networks)
        return Mixture(self.subject.perplexity(weights), 8 * stored / count, stored, read)


@evidence("powerinfer-2")
def powerinfer_2() -> Evidence:
    """Widths by temperature against uniform widths and against other ways to choose the hot neurons."""
    neurons = Neurons()
    base = neurons.subject.perplexity()
    frequency, share = neurons.frequency, 0.25
    uniform = {bits: neurons.mix(frequency, 0, 8, bits) for bits in (4, 3, 2)}
    mild = neurons.mix(frequency, share, 8, 4)
    harsh = {
        "most frequent": neurons.mix(frequency, share, 8, 2),
        "largest contribution": neurons.mix(neurons.contribution, share, 8, 2),
    }
    chance = [neurons.mix(neurons.at_random(seed), share, 8, 2) for seed in range(3)]
    spread = (min(m.perplexity for m in chance), max(m.perplexity for m in chance))
    mean = float(np.mean([m.perplexity for m in chance]))
    stored = "stored bits per weight of the feed-forward networks"
    results = [
        Result("perplexity, not quantized", base, "1", "measured", f"ReLU model, {TOKENS} held-out tokens"),
        Result("neurons that fire for a token", float(np.mean([f.mean() for f in frequency])), "1", "measured",
               "share, mean over layers, calibration text"),
        *[Result(f"perplexity, all neurons {b} bits", m.perplexity, "1", "measured", f"{m.bits:.2f} {stored}")
          for b, m in uniform.items()],
        Result("perplexity, hot quarter 8 bits, cold 4", mild.perplexity, "1", "measured", f"{mild.bits:.2f} {stored}"),
        *[Result(f"perplexity, quarter at 8 bits, rest 2, {name}", m.perplexity, "1", "measured",
                 f"{m.bits:.2f} {stored}") for name, m in harsh.items()],
        Result("perplexity, quarter at 8 bits, rest 2, at random", mean, "1", "measured",
               f"mean of three draws, {spread[0]:.2f} to {spread[1]:.2f}"),
        Result("bytes a token reads over all bytes, hot 8, cold 4", mild.read / mild.stored, "1", "measured",
               "cold neurons' up and down only where the gate is positive"),
    ]  # fmt: skip
    claim = Claim(
        "Up to 27.8 times as fast as other smartphone frameworks; a 47B mixture of experts runs at 11.68 tokens/s.",
        27.8,
        "x",
        "smartphone",
        "powerinfer-2",
        verified=True,
    )
    loss = 100 * (mild.perplexity / base - 1)
    by_heat = "beats chance" if harsh["most frequent"].perplexity < spread[0] else "is not clearly better than chance"
    by_size = "beats chance" if harsh["largest contribution"].perplexity < spread[0] else "does not beat chance either"
    best = min(m.perplexity for m in harsh.values())
    against_uniform = "beat all of them" if uniform[3].perplexity < best else "lose to the better of them"
    reason = (
        "The speed needs a phone with an NPU and flash. What was put to the test are the widths: hot 8 and cold 4 bits "
        f"cost {loss:.1f} % of perplexity, but so little is lost at 4 bits everywhere that the hot bits are hardly "
        f"needed. Where it matters, at 2 cold bits, choosing by frequency {by_heat}; choosing by what a neuron "
        f"contributes {by_size}, and uniform 3 bits, for fewer bytes, {against_uniform}."
    )
    return Evidence(claim, results, None, reason)
