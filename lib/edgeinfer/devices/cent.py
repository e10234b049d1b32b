"""Decoding on CXL memory devices that multiply beside their banks, against GPUs: tokens per second and per dollar.

A model of cost, no simulation of commands: the time of one transformer block from the bytes of its weights, and the
pipeline or the split over devices around it. Three constants are fitted to published simulations of one model and
checked on those of two others; the GPU's figures are published measurements. Source: cent and its artifact
(github.com/Yufeng98/CENT, commit 8c79786).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Llama:
    """Shape of a model as the cost model sees it; weights and cache in 16 bits.

    Attributes:
        name: for titles.
        blocks: transformer blocks.
        hidden, inner: sizes of the hidden state and of the feed-forward network.
        heads, kv_heads: attention heads.
    """

    name: str
    blocks: int
    hidden: int
    inner: int
    heads: int
    kv_heads: int

    @property
    def block_bytes(self) -> int:
        """Bytes of one block's weights."""
        kv = self.hidden * self.kv_heads // self.heads
        return 2 * self.hidden * (2 * self.hidden + 2 * kv + 3 * self.inner)

    @property
    def weight_bytes(self) -> int:
        """Bytes of all blocks (without embedding and head)."""
        return self.blocks * self.block_bytes

    def kv_bytes(self, tokens: float) -> float:
        """Bytes of keys and values of `tokens` tokens, all blocks."""
        return 4.0 * self.blocks * self.hidden * self.kv_heads / self.heads * tokens


LLAMA2_7B = Llama("Llama 2 7B", 32, 4096, 11008, 32, 32)
LLAMA2_13B = Llama("Llama 2 13B", 40, 5120, 13824, 40, 40)
LLAMA2_70B = Llama("Llama 2 70B", 80, 8192, 28672, 64, 8)
PROMPT, ANSWER = 512, 3584  # tokens of a query in all published figures used here


@dataclass(frozen=True)
class Cent:
    """CXL devices with near-bank multiply-accumulate units.

    Args:
        devices: CXL devices.
        channels: GDDR6 channels of a device, 16 banks each (artifact).
        channel_gb_s: bytes the units of a channel consume: 16 banks times 32 bytes each nanosecond.
        efficiency: share of that rate which products with weights reach (fitted).
        attention_ms: attention and vector work of a block with hidden size 8192 on one whole device (fitted). It stays
            on the devices of its block and takes longer where the block has fewer channels.
        fixed_ms: what no split shortens, such as transfers over CXL (fitted).
        dollars_per_hour: total cost of ownership of 32 devices with their host (the authors' figure).
    """

    devices: int = 32
    channels: int = 32
    channel_gb_s: float = 512.0
    efficiency: float = 0.546
    attention_ms: float = 0.064
    fixed_ms: float = 0.056
    dollars_per_hour: float = 0.73

    def block_ms(self, model: Llama, tensor_parallel: int = 1, blocks_per_device: int = 1) -> float:
        """Time of one token in one block.

        Args:
            model: its shape.
            tensor_parallel: devices that share the products of a block.
            blocks_per_device: blocks that share the channels of a device.

        Raises:
            ValueError: "3 blocks cannot share a device and be split over 4 devices at the same time".
        """
        if tensor_parallel < 1 or blocks_per_device < 1 or (tensor_parallel > 1 and blocks_per_device > 1):
            raise ValueError(
                f"{blocks_per_device} blocks cannot share a device and be split over {tensor_parallel} devices at the "
                "same time; one of the two must be 1"
            )
        own = self.channels // blocks_per_device
        rate = tensor_parallel * own * self.channel_gb_s * 1e9 * self.efficiency
        beside = self.attention_ms * self.channels / own + self.fixed_ms
        return 1e3 * model.block_bytes / rate + beside * model.hidden / LLAMA2_70B.hidden

    def latency_ms(self, model: Llama, stages: int) -> float:
        """Time from one token of a sequence to its next.

        Args:
            model: its shape.
            stages: of the pipeline: one for each block, which then has channels of its own; or a number that divides
                the devices: `devices // stages` devices then share the blocks of a stage and take them in turn.

        Raises:
            ValueError: "3 stages do not divide 32 devices; choose 80 (one for each block) or a divisor".
        """
        if stages == model.blocks:
            return model.blocks * self.block_ms(model, 1, -(-model.blocks // self.devices))
        if stages < 1 or self.devices % stages:
            raise ValueError(
                f"{stages} stages do not divide {self.devices} devices; choose {model.blocks} (one for each block) "
                "or a divisor"
            )
        return model.blocks * self.block_ms(model, self.devices // stages)

    def tokens_per_second(self, model: Llama, batch: int, stages: int) -> float:
        """Decoded tokens of all sequences per second. A stage serves one sequence at a time: banks reuse no weight.

        Args:
            model: its shape.
            batch: sequences at the same time; more than there are stages wait.
            stages: as in `latency_ms`.
        """
        if batch < 1:
            raise ValueError(f"batch must be at least 1, got {batch}")
        return 1e3 * min(batch, stages) / self.latency_ms(model, stages)

    def best(self, model: Llama, batch: int) -> tuple[float, int]:
        """Most tokens per second for this batch over all ways to split the model, and the stages of that way."""
        ways = [n for n in range(1, self.devices + 1) if self.devices % n == 0] + [model.blocks]
        return max((self.tokens_per_second(model, batch, stages), stages) for stages in ways)

    @property
    def bandwidth_gb_s(self) -> float:
        """Bytes per second inside all banks together."""
        return self.devices * self.channels * self.channel_gb_s


@dataclass(frozen=True)
class Gpu:
    """Some GPUs as their vendor describes them: what they would reach at the limits of memory and arithmetic.

    Args:
        count: GPUs.
        memory_gb_s, tflops: of one (NVIDIA's data sheet of the A100 80GB SXM: 2,039 GB/s, 312 TFLOPS in BF16).
        memory_gb: of one.
        dollars_per_hour: total cost of ownership of four with their host (the authors' figure).
    """

    count: int = 4
    memory_gb_s: float = 2039.0
    tflops: float = 312.0
    memory_gb: float = 80.0
    dollars_per_hour: float = 1.76

    def fits(self, model: Llama, batch: int, context: int = PROMPT + ANSWER) -> bool:
        """Whether weights and the caches of all sequences fit."""
        return model.weight_bytes + batch * model.kv_bytes(context) <= self.count * self.memory_gb * 1e9

    def tokens_per_second(self, model: Llama, batch: int, context: float = PROMPT + ANSWER / 2) -> float:
        """Upper limit of decoding: weights are read once for all sequences, each cache once, or arithmetic is full."""
        if batch < 1:
            raise ValueError(f"batch must be at least 1, got {batch}")
        moved = model.weight_bytes + batch * model.kv_bytes(context)
        read = moved / (self.count * self.memory_gb_s * 1e9)
        computed = batch * model.weight_bytes / (self.count * self.tflops * 1e12)  # 2 operations for 2 bytes
        return batch / max(read, computed)


def tokens_per_dollar(tokens_per_second: float, dollars_per_hour: float) -> float:
    """Tokens that one dollar buys."""
    return 3600 * tokens_per_second / dollars_per_hour


SYSTEMS: Mapping[str, tuple[Llama, Cent, Gpu]] = {
    "7B": (LLAMA2_7B, Cent(8, dollars_per_hour=0.73 * 8 / 32), Gpu(1, dollars_per_hour=1.76 / 4)),
    "13B": (LLAMA2_13B, Cent(20, dollars_per_hour=0.73 * 20 / 32), Gpu(2, dollars_per_hour=1.76 / 2)),
    "70B": (LLAMA2_70B, Cent(32), Gpu(4)),
}
"""The three comparisons of the paper: model, CXL devices, GPUs. Costs go with the number of devices, as there."""

PUBLISHED_CENT: Mapping[tuple[str, int], float] = {
    ("70B", 1): 37.030, ("70B", 2): 37.944, ("70B", 4): 40.688, ("70B", 8): 47.564, ("70B", 16): 61.396,
    ("70B", 32): 89.716, ("70B", 80): 251.829, ("13B", 1): 10.203, ("13B", 5): 12.263, ("13B", 20): 20.517,
    ("13B", 40): 37.249, ("7B", 1): 6.262, ("7B", 4): 8.587, ("7B", 8): 11.749, ("7B", 32): 41.355,
}  # fmt: skip
"""(model, stages) -> seconds to decode 3584 tokens of one query, simulated by the authors (artifact)."""

FITTED: tuple[tuple[str, int], ...] = (("70B", 1), ("70B", 16), ("70B", 80))
"""The published points that the three constants were fitted to; all others are a test of the model."""

PUBLISHED_GPU: Mapping[str, tuple[float, float]] = {"7B": (960, 1085), "13B": (953, 1077), "70B": (917, 1006)}
"""Tokens per second of the GPUs at their largest batch, measured by the authors: decoding alone, whole query."""

PUBLISHED_GPU_70B: Mapping[int, float] = {
    1: 0.47, 2: 0.91, 4: 1.76, 8: 3.21, 16: 5.02, 32: 8.42, 64: 12.36, 128: 15.02,
}  # fmt: skip
"""Batch -> queries per minute of four A100 on the 70B model, measured by the authors (artifact)."""


def published_gpu_70b(batch: int) -> float:
    """Tokens per second of four A100 at a batch for which the authors give a measurement.

    Raises:
        ValueError: "no published measurement for batch 3; there are 1, 2, 4, ...".
    """
    if batch not in PUBLISHED_GPU_70B:
        known = ", ".join(map(str, PUBLISHED_GPU_70B))
        raise ValueError(f"no published measurement for batch {batch}; there are {known}")
    return PUBLISHED_GPU_70B[batch] * (PROMPT + ANSWER) / 60


def deviation(name: str, stages: int) -> float:
    """Time of this model over the published simulation at one point, minus 1."""
    model, cent, _ = SYSTEMS[name]
    return cent.latency_ms(model, stages) * ANSWER / 1e3 / PUBLISHED_CENT[name, stages] - 1
