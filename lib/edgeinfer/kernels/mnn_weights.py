"""Each tensor in the format its access asks for: asymmetric integers for layers and head, a file for the embedding.

No kernel of its own: products are `integer.matmul`, which subtracts zero point times the sum of the activations. Here
are that identity in readable integers, the combination of widths, and an embedding table that stays in its checkpoint
file and is read row by row. Knows nothing of keys and values. Source: mnn-llm.
"""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeinfer.kernels.adaptor import KernelLinear, quantize_model
from edgeinfer.kernels.quantize import quantize_per_channel

if TYPE_CHECKING:
    from torch import Tensor

EMBEDDING = "model.embed_tokens.weight"
_TYPES: dict[str, np.dtype[Any]] = {"BF16": np.dtype("<u2"), "F16": np.dtype("<f2"), "F32": np.dtype("<f4")}


def subtracted_dot(codes: NDArray, zero_point: NDArray, x: NDArray) -> NDArray[np.int64]:
    """sum over k of (code - zero point) * x, as the formula reads: one subtraction for every weight.

    Args:
        codes: (N, K) integers.
        zero_point: (N,) integers.
        x: (K,) integers, activation codes.

    Returns:
        (N,) int64.
    """
    shifted = np.asarray(codes, np.int64) - np.asarray(zero_point, np.int64)[:, None]
    return shifted @ np.asarray(x, np.int64)


def folded_dot(codes: NDArray, zero_point: NDArray, x: NDArray) -> NDArray[np.int64]:
    """The same number from the plain dot product: minus zero point times the *sum of the activations*, once per row.

    Args, Returns: as `subtracted_dot`. The sum is the same for all rows; the number of columns in its place is the
    classical mistake.
    """
    x = np.asarray(x, np.int64)
    return np.asarray(codes, np.int64) @ x - np.asarray(zero_point, np.int64) * x.sum()


class FileEmbedding:
    """An embedding table that is never loaded: every row is read from its safetensors file when a token asks for it.

    Example::

        with FileEmbedding(folder / "model.safetensors") as table:
            setattr(model, "embed", table)
            logits, _ = model.prefill(tokens)  # the same logits

    Attributes:
        shape: (vocab_size, hidden_size).
        bytes_read: so far; `rows_read` likewise.
    """

    def __init__(self, path: str | Path, name: str = EMBEDDING) -> None:
        """
        Args:
            path: a safetensors file.
            name: of the tensor in it.

        Raises:
            ValueError: "model.safetensors has no tensor 'x'; ...", or what else is wrong with the file.
            FileNotFoundError: when there is none.
        """
        self.path = Path(path)
        self._file = self.path.open("rb", buffering=0)
        self._lock = threading.Lock()
        self.bytes_read = self.rows_read = 0
        try:
            self._start, self.shape, self._type = self._locate(name)
        except BaseException:
            self._file.close()
            raise

    def _locate(self, name: str) -> tuple[int, tuple[int, int], str]:
        size = self.path.stat().st_size
        length = int.from_bytes(self._file.read(8), "little")
        if size < 8 or length > size - 8:
            raise ValueError(f"{self.path.name} is no whole safetensors file: its header is cut off; copy it again.")
        try:
            header: dict[str, Any] = json.loads(self._file.read(length))
        except ValueError as error:
            raise ValueError(f"{self.path.name} is no safetensors file: its header cannot be read.") from error
        if name not in header:
            known = next((key for key in header if key != "__metadata__"), "none")
            raise ValueError(f"{self.path.name} has no tensor {name!r}; the first one is {known!r}.")
        entry = header[name]
        if entry["dtype"] not in _TYPES or len(entry["shape"]) != 2:
            raise ValueError(
                f"{name} must be a matrix of {', '.join(_TYPES)}; it is {entry['dtype']} of shape {entry['shape']}."
            )
        start, end = (8 + length + offset for offset in entry["data_offsets"])
        if end > size:
            raise ValueError(f"{self.path.name} ends inside {name}: {size} bytes, {end} were expected; copy it again.")
        return start, (entry["shape"][0], entry["shape"][1]), entry["dtype"]

    @property
    def row_bytes(self) -> int:
        """Bytes of one row in the file."""
        return self.shape[1] * _TYPES[self._type].itemsize

    @property
    def table_bytes(self) -> int:
        """Bytes of the whole table, which do not lie in memory."""
        return self.shape[0] * self.row_bytes

    def rows(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Read the rows of some tokens.

        Args:
            tokens: (T,) int64, 0 .. vocab_size - 1.

        Returns:
            (T, hidden_size) float32.

        Raises:
            ValueError: "token 2000 is beyond the vocabulary of 1024.", or a file that was closed.
        """
        tokens = np.asarray(tokens)
        if tokens.size and not 0 <= tokens.min() <= tokens.max() < self.shape[0]:
            wrong = tokens.max() if tokens.min() >= 0 else tokens.min()
            raise ValueError(f"token {wrong} is beyond the vocabulary of {self.shape[0]}.")
        if self._file.closed:
            raise ValueError(f"the embedding file {self.path.name} was closed; open it again.")
        kinds, place = np.unique(tokens, return_inverse=True)  # a token that occurs twice is read once
        found = np.empty((kinds.size, self.shape[1]), _TYPES[self._type])
        with self._lock:
            for row, token in zip(found, kinds, strict=True):
                self._file.seek(self._start + int(token) * self.row_bytes)
                data = self._file.read(self.row_bytes)
                if len(data) != self.row_bytes:
                    raise ValueError(f"{self.path.name} was cut off while it was in use; copy it again.")
                row[:] = np.frombuffer(data, found.dtype)
            self.bytes_read += kinds.size * self.row_bytes
            self.rows_read += kinds.size
        if self._type == "BF16":
            found = (found.astype(np.uint32) << np.uint32(16)).view(np.float32)
        return found.astype(np.float32, copy=False)[place.reshape(tokens.shape)]

    def __call__(self, tokens: Tensor) -> Tensor:
        """tokens (B, T) int64 -> (B, T, hidden_size) float32: stands for `Decoder.embed` of a float32 model."""
        import torch

        flat = self.rows(tokens.reshape(-1).numpy())
        return torch.from_numpy(flat).reshape(*tokens.shape, self.shape[1])

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> FileEmbedding:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True)
class Resident:
    """Bytes of a model's parts that lie in memory.

    Attributes:
        layers, head, embedding: bytes.
    """

    layers: int
    head: int
    embedding: int

    @property
    def total(self) -> int:
        return self.layers + self.head + self.embedding


def resident_16_bit(model: Any) -> Resident:
    """Bytes of a model in 16 bits; a table that serves as embedding and as head lies there once."""
    config = model.config
    table = 2 * config.vocab_size * config.hidden_size
    layers = sum(2 * weight.numel() for weight in model.linears().values())
    return Resident(layers, table, 0 if config.tie_word_embeddings else table)


def combine(model: Any, head: NDArray[np.float32], bits: int = 4, head_bits: int = 8, group_size: int = 64) -> Resident:
    """Give every tensor its own format: asymmetric weights for the layers, a wider head, int8 activations for both.

    Args:
        model: a `Decoder`; its products are replaced (`restore()` undoes it). Its embedding is left to `FileEmbedding`.
        head: (vocab_size, hidden_size) float32 weight of the head.
        bits: of the layers.
        head_bits: of the head, which every token reads whole.
        group_size: weights of a layer's row that share scale and zero point.

    Returns:
        What then lies in memory, the embedding being in its file.
    """
    layers = quantize_model(model, bits, group_size, symmetric=False)
    wide = KernelLinear(quantize_per_channel(head, head_bits, symmetric=False))
    model.replace_linear("lm_head", wide)
    return Resident(layers.nbytes, wide.nbytes, 0)
