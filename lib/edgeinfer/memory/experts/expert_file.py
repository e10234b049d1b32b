"""A file of experts: one block per expert, starting at a multiple of 4096, so that one read brings one expert.

Experts may be stored in fewer bits than the rest of the model. It does not decide what is read. Source:
mixtral-offloading (mixed quantization).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgeinfer.kernels.quantize import QuantizedWeight, quantize_groupwise
from edgeinfer.memory.storage import ColdFile, write_whole
from edgeinfer.models import Decoder

BLOCK = 4096
MAGIC = b"EXPERTS1"
PARTS = ("gate_proj", "up_proj", "down_proj")


def _pieces(weight: np.ndarray, bits: int, group_size: int) -> dict[str, np.ndarray]:
    if bits == 32:
        return {"weight": np.ascontiguousarray(weight, np.float32)}
    stored = quantize_groupwise(weight, bits, group_size, symmetric=False)
    return {"packed": stored.packed, "scale": stored.scale, "zero_point": stored.zero_point}


def write_experts(path: str | Path, model: Decoder, bits: int = 32, group_size: int = 64) -> int:
    """Write every expert of a mixture into one file, whole or not at all.

    Args:
        path: name of the file.
        model: a mixture.
        bits: 2 to 8 for groupwise codes, 32 for the float weights themselves.
        group_size: weights that share a scale.

    Returns:
        Bytes of the file.

    Raises:
        ValueError: "this model has no experts; ...".
        OSError: as `write_whole`.
    """
    config, weights = model.config, model.linears()
    if not config.is_moe:
        raise ValueError("this model has no experts; load a mixture, for instance models.load('moe')")
    layout: list[dict[str, Any]] = []
    blocks: list[np.ndarray] = []
    for layer in range(config.num_hidden_layers):
        for expert in range(config.num_local_experts):
            found = [
                (part, kind, array)
                for part in PARTS
                for kind, array in _pieces(
                    weights[f"layers.{layer}.moe.experts.{expert}.{part}"].float().numpy(), bits, group_size
                ).items()
            ]
            if not layout:
                at = 0
                for part, kind, array in found:
                    layout.append(
                        {"part": part, "kind": kind, "dtype": array.dtype.str, "shape": array.shape, "at": at}
                    )
                    at += -(-array.nbytes // 64) * 64
                size = -(-at // BLOCK) * BLOCK
            block = np.zeros(size, np.uint8)
            for entry, (_, _, array) in zip(layout, found, strict=True):
                block[entry["at"] : entry["at"] + array.nbytes] = array.reshape(-1).view(np.uint8)
            blocks.append(block)
    header = {
        "layers": config.num_hidden_layers, "experts": config.num_local_experts, "bits": bits,
        "group_size": group_size, "block": size, "layout": layout,
        "shapes": {part: tuple(weights[f"layers.0.moe.experts.0.{part}"].shape) for part in PARTS},
    }  # fmt: skip
    head = MAGIC + json.dumps(header).encode()
    return write_whole(path, [head.ljust(BLOCK, b"\0"), *blocks])


class ExpertFile:
    """Experts read cold from the file that `write_experts` made.

    Attributes:
        expert_bytes: bytes of one expert as stored; layers, experts, bits: what the file holds.
        cold: the `ColdFile`, which counts bytes and requests.
    """

    def __init__(self, path: str | Path) -> None:
        """Open the file.

        Raises:
            FileNotFoundError: when there is none.
            ValueError: "... is no file of experts; ..." or "... is cut short: ...".
        """
        self.cold = ColdFile(path)
        head = bytes(self.cold.read(0, min(BLOCK, self.cold.size)))
        if not head.startswith(MAGIC):
            self.cold.close()
            raise ValueError(f"{Path(path).name} is no file of experts; write one with write_experts")
        header = json.loads(head[len(MAGIC) :].rstrip(b"\0"))
        self.layers, self.experts, self.bits = header["layers"], header["experts"], header["bits"]
        self.expert_bytes: int = header["block"]
        self._group_size, self._layout, self._shapes = header["group_size"], header["layout"], header["shapes"]
        wanted = BLOCK + self.layers * self.experts * self.expert_bytes
        if self.cold.size != wanted:
            self.cold.close()
            raise ValueError(
                f"{Path(path).name} is cut short: {self.cold.size} bytes instead of {wanted}; write it again"
            )

    def close(self) -> None:
        """Close the file."""
        self.cold.close()

    def read(self, layer: int, expert: int) -> np.ndarray:
        """Read one expert as stored, (expert_bytes,) uint8."""
        block = np.empty(self.expert_bytes, np.uint8)
        self.cold.read_into(BLOCK + (layer * self.experts + expert) * self.expert_bytes, block)
        return block

    def weight(self, block: np.ndarray, part: str) -> Tensor:
        """Return one matrix (N, K) float32 of an expert that was read; codes are expanded."""
        pieces = {}
        for entry in self._layout:
            if entry["part"] == part:
                kind, shape = np.dtype(entry["dtype"]), tuple(entry["shape"])
                size = int(np.prod(shape)) * kind.itemsize
                pieces[entry["kind"]] = block[entry["at"] : entry["at"] + size].view(kind).reshape(shape)
        if self.bits == 32:
            return torch.from_numpy(pieces["weight"])
        rows, columns = self._shapes[part]
        stored = QuantizedWeight(
            pieces["packed"], pieces["scale"], pieces["zero_point"], self.bits, self._group_size, (rows, columns), False
        )
        return torch.from_numpy(stored.dequantize())
