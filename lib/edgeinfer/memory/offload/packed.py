"""Weights, keys and values in groups of four bits, as they lie in a layer file or on a tier, and back to floats.

x = offset + scale * code for 64 neighbours of a row, scale and offset in float16: 4.5 bits a number. Weights and caches
have the same form. It does not know where the bytes lie. Source: flexgen (group-wise quantization, groups of 64).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgeinfer.kernels.kv_quantize import quantize_values
from edgeinfer.kernels.simd import compiled
from edgeinfer.memory.locality.layer_file import LayerFile, write_tensors
from edgeinfer.models.decoder import Decoder

BITS, GROUP = 4, 64
FORM = "groups of 64 columns in 4 bits: codes, then float16 scales, then float16 offsets, row by row"


@dataclass(frozen=True)
class Groups:
    """Rows of numbers in four bits; the arrays may be views of a file or of another tier.

    Attributes:
        codes: (..., ceil(K / 2)) uint8, two codes in a byte, the first in the lower half.
        scale, offset: (..., ceil(K / 64)) float16.
        columns: K.
    """

    codes: NDArray[np.uint8]
    scale: NDArray[np.float16]
    offset: NDArray[np.float16]
    columns: int

    @property
    def nbytes(self) -> int:
        """Bytes of codes, scales and offsets."""
        return self.codes.nbytes + self.scale.nbytes + self.offset.nbytes

    def set(self, values: NDArray[np.float32], rows: slice = slice(None)) -> None:
        """Store numbers (..., R, K) in some rows.

        Raises:
            ValueError: "values contain 3 NaN or infinite values ..." and the like.
        """
        found = quantize_values(values, BITS, GROUP)
        self.codes[..., rows, :] = found.packed.reshape(*values.shape[:-1], -1)
        self.scale[..., rows, :] = found.scale
        self.offset[..., rows, :] = found.offset

    def unpack(self, out: NDArray[np.float32], rows: slice = slice(None)) -> None:
        """Write the numbers that some rows stand for into the same rows of `out`, (..., R, K) float32, contiguous."""
        scale, offset = (a[..., rows, :].astype(np.float32) for a in (self.scale, self.offset))
        first, end, _ = rows.indices(self.codes.shape[-2])
        if end > first:
            # Whole arrays are passed and rows counted from `first`: a slice would not be contiguous.
            flat = (a.reshape(-1, *a.shape[-2:]) for a in (self.codes, scale, offset, out))
            codes, scales, offsets, floats = flat
            _unpack(codes, scales, offsets, first, GROUP, floats)


@compiled()
def _unpack(codes, scale, offset, first, group, out):
    half = group // 2
    for i in range(scale.shape[0]):
        for r in range(scale.shape[1]):
            for g in range(scale.shape[2]):
                s, o = scale[i, r, g], offset[i, r, g]
                c = codes[i, first + r, g * half : (g + 1) * half]
                y = out[i, first + r, g * group : (g + 1) * group]
                pairs = y.size // 2
                for k in range(pairs):
                    byte = np.int32(c[k])
                    y[2 * k] = o + s * np.float32(byte & 15)
                    y[2 * k + 1] = o + s * np.float32(byte >> 4)
                if y.size % 2:
                    y[2 * pairs] = o + s * np.float32(np.int32(c[pairs]) & 15)


def packed_bytes(rows: int, columns: int) -> int:
    """Bytes of rows of numbers in this form."""
    return rows * (-(-columns // 2) + 4 * -(-columns // GROUP))


def view(raw: NDArray[np.uint8], shape: tuple[int, ...]) -> Groups:
    """Bytes as groups of numbers of a shape (..., K): codes first, then scales, then offsets.

    Raises:
        ValueError: "... bytes were given and numbers of shape ... take ...".
    """
    rows, columns = int(np.prod(shape[:-1])), shape[-1]
    if raw.nbytes != packed_bytes(rows, columns):
        raise ValueError(
            f"{raw.nbytes} bytes were given and numbers of shape {shape} take {packed_bytes(rows, columns)} in groups "
            "of four bits; the bytes belong to another tensor"
        )
    half, groups = -(-columns // 2), -(-columns // GROUP)
    end, side = rows * half, rows * groups * 2
    lead = shape[:-1]
    return Groups(
        raw[:end].reshape(*lead, half),
        raw[end : end + side].view(np.float16).reshape(*lead, groups),
        raw[end + side :].view(np.float16).reshape(*lead, groups),
        columns,
    )


def pack(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Numbers (..., K) as bytes that `view` understands."""
    raw = np.empty(packed_bytes(int(np.prod(values.shape[:-1])), values.shape[-1]), np.uint8)
    view(raw, values.shape).set(values)
    return raw


def round_trip(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """The numbers that remain of numbers which were packed."""
    return quantize_values(values, BITS, GROUP).dequantize()


def write_packed_layers(model: Decoder, path: str | Path) -> LayerFile:
    """Write the weights of all linear layers in four bits, layer by layer, as a safetensors file of bytes.

    Args:
        model: the decoder; embedding, norms and head stay in memory, as they are.
        path: file to write; whole or absent.

    Raises:
        ValueError: "layers.0.attention.q_proj: values contain 1 NaN ...".
    """
    packed: dict[str, Tensor] = {}
    shapes = {}
    for name, weight in model.linears().items():
        try:
            packed[name] = torch.from_numpy(pack(weight.float().numpy()))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        shapes[name] = list(weight.shape)
    dtype = str(model.dtype).removeprefix("torch.")
    return write_tensors(packed, path, {"form": FORM, "shapes": json.dumps(shapes), "dtype": dtype})


def packed_shapes(file: LayerFile) -> tuple[dict[str, tuple[int, int]], torch.dtype] | None:
    """{name: (N, K)} and the type of the model of a packed layer file; None for a file of floats.

    Raises:
        ValueError: "... holds weights in another form ...".
    """
    form = file.metadata.get("form")
    if form is None:
        return None
    if form != FORM:
        raise ValueError(f"{file.path.name} holds weights in another form ({form}); write it with write_packed_layers")
    shapes = {name: (int(n), int(k)) for name, (n, k) in json.loads(file.metadata["shapes"]).items()}
    return shapes, getattr(torch, file.metadata["dtype"])


def as_four_bits(model: Decoder) -> Decoder:
    """A copy of a decoder whose linear layers hold what remains of their weights after four bits."""
    copy = model.clone()
    for name, weight in copy.linears().items():
        copy.set_weight(name, torch.from_numpy(round_trip(weight.float().numpy())))
    return copy
