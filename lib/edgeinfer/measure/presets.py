"""Published figures of a few devices, from their vendors' own pages: rooflines to compare with, not measurements.

A published bandwidth is what the memory pins can move at best; programs reach less. A peak stands here only where the
vendor states it for dense arithmetic (zeros are not skipped); where none is stated, the device has a bandwidth only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Preset:
    """A device as its vendor describes it; can stand wherever measured `Limits` can.

    Attributes:
        name: name for titles.
        kind: "single-board computer", "laptop", ...
        memory_bandwidth: GB/s.
        compute: number format -> GOP/s, dense.
        memory_bytes: memory that holds the weights, None where it depends on the model bought.
        source: document and address where the figures stand.
        note: what a reader must know about the figures.
    """

    name: str
    kind: str
    memory_bandwidth: float
    compute: Mapping[str, float] = field(default_factory=dict)
    memory_bytes: int | None = None
    source: str = ""
    note: str = ""

    def bandwidths(self, threads: int | None = None) -> dict[str, float]:
        """Return GB/s by memory level; `threads` is ignored, published figures are of the whole device."""
        return {"DRAM": self.memory_bandwidth}

    def peaks(self, threads: int | None = None) -> dict[str, float]:
        """Return GOP/s by number format, empty where the vendor states none."""
        return dict(self.compute)


PRESETS: dict[str, Preset] = {
    "raspberry-pi-5": Preset(
        name="Raspberry Pi 5",
        kind="single-board computer",
        memory_bandwidth=17.0,
        source="Raspberry Pi documentation, BCM2712: https://www.raspberrypi.com/documentation/computers/processors.html",
        note="the page states no arithmetic peak",
    ),
    "jetson-orin-nano-8gb": Preset(
        name="NVIDIA Jetson Orin Nano 8GB",
        kind="embedded module",
        memory_bandwidth=68.0,
        compute={"int8": 20_000.0},
        memory_bytes=8 << 30,
        source="NVIDIA, Jetson Orin Nano Series data sheet: https://developer.nvidia.com/embedded/downloads",
        note="20 TOPS is the dense figure; the better known 40 TOPS counts skipped zeros",
    ),
    "apple-m2": Preset(
        name="Apple M2",
        kind="laptop",
        memory_bandwidth=100.0,
        memory_bytes=24 << 30,
        source="Apple, press release of 6 June 2022: "
        "https://www.apple.com/newsroom/2022/06/apple-unveils-m2-with-breakthrough-performance-and-capabilities/",
        note="up to 24 GB; the 15.8 trillion operations per second of its neural engine are stated without a format",
    ),
    "rtx-4090": Preset(
        name="NVIDIA GeForce RTX 4090",
        kind="desktop GPU",
        memory_bandwidth=1008.0,
        compute={"float32": 82_600.0, "bfloat16": 165_200.0, "int8": 660_600.0},
        memory_bytes=24 << 30,
        source="NVIDIA, Ada GPU architecture white paper: "
        "https://images.nvidia.com/aem-dam/Solutions/geforce/ada/nvidia-ada-gpu-architecture.pdf",
        note="bfloat16 products are summed in float32",
    ),
    "h100-sxm": Preset(
        name="NVIDIA H100 SXM",
        kind="data-centre GPU",
        memory_bandwidth=3350.0,
        compute={"float32": 67_000.0, "bfloat16": 989_500.0, "int8": 1_979_000.0},
        memory_bytes=80 << 30,
        source="NVIDIA, H100 Tensor Core GPU data sheet: https://www.nvidia.com/en-us/data-center/h100/",
        note="half of the printed figures for bfloat16 and int8, which count skipped zeros",
    ),
}
