"""A chunk as a file that is whole or refused: a header with lengths and a checksum, then the arrays.

Written through `write_whole`, so a killed process leaves the file whole or absent; the checksum catches what happens to
it later. It knows no service.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from edgeinfer.kernels.kv_quantize import QuantizedKV
from edgeinfer.memory.contexts.chunk import Chunk
from edgeinfer.memory.storage import ColdFile, write_whole

MAGIC = b"KVCHUNK1"
_LEAD = struct.Struct("<8sQQ32s")  # magic, bytes of the description, bytes of the arrays, SHA-256 of both
_FIELDS = ("packed", "scale", "offset")


class ContextFileError(ValueError):
    """A file of a context that is cut short, changed or of another kind; the message says which."""


def _arrays(chunk: Chunk) -> Iterator[np.ndarray]:
    yield chunk.tokens
    for part in (chunk.keys, chunk.values):
        for field in _FIELDS:
            yield np.ascontiguousarray(getattr(part, field))


def pack_chunk(chunk: Chunk) -> list[bytes]:
    """Return the chunk as pieces of bytes: the lead with lengths and checksum, a description, the arrays."""
    about = {
        "start": chunk.start, "bits": chunk.bits,
        "parts": [[p.group_size, p.along, p.shape] for p in (chunk.keys, chunk.values)],
        "arrays": [[a.dtype.str, a.shape] for a in _arrays(chunk)],
    }  # fmt: skip
    text = json.dumps(about).encode()
    body = [a.tobytes() for a in _arrays(chunk)]
    digest = hashlib.sha256(text)
    for piece in body:
        digest.update(piece)
    return [_LEAD.pack(MAGIC, len(text), sum(map(len, body)), digest.digest()), text, *body]


def unpack_chunk(data: bytes | memoryview, name: str = "the file") -> Chunk:
    """Read what `pack_chunk` wrote.

    Raises:
        ContextFileError: "... is no chunk of a context", "... is cut short: ...", "... has changed since ...".
    """
    data = bytes(data)
    if len(data) < _LEAD.size or not data.startswith(MAGIC):
        raise ContextFileError(f"{name} is no chunk of a context, or only its beginning; it will be computed again")
    _, about_bytes, body_bytes, digest = _LEAD.unpack_from(data)
    if len(data) != _LEAD.size + about_bytes + body_bytes:
        raise ContextFileError(
            f"{name} is cut short: {len(data)} bytes instead of {_LEAD.size + about_bytes + body_bytes}; "
            "it will be computed again"
        )
    if hashlib.sha256(data[_LEAD.size :]).digest() != digest:
        raise ContextFileError(f"{name} has changed since it was written (checksum); it will be computed again")
    about = json.loads(data[_LEAD.size : _LEAD.size + about_bytes])
    at, arrays = _LEAD.size + about_bytes, []
    for kind, shape in about["arrays"]:
        count = int(np.prod(shape))
        arrays.append(np.frombuffer(data, np.dtype(kind), count, at).reshape(shape))
        at += arrays[-1].nbytes
    parts = [
        QuantizedKV(arrays[at], arrays[at + 1], arrays[at + 2], about["bits"], group, along, tuple(shape))
        for at, (group, along, shape) in zip((1, 4), about["parts"], strict=True)
    ]
    return Chunk(about["start"], arrays[0], *parts)


def write_chunk(path: str | Path, chunk: Chunk) -> int:
    """Write a chunk, whole or not at all; return its bytes.

    Raises:
        OSError: as `write_whole`: "could not write ...: No space left on device; ...".
    """
    return write_whole(path, pack_chunk(chunk))


def read_chunk(path: str | Path) -> Chunk:
    """Read a chunk past the page cache.

    Raises:
        ContextFileError: as `unpack_chunk`, or "there is no file ...".
    """
    path = Path(path)
    try:
        with ColdFile(path) as file:
            data = file.read(0, file.size)
    except (OSError, ValueError) as error:
        raise ContextFileError(f"{path.name} cannot be read ({error}); it will be computed again") from error
    return unpack_chunk(data, path.name)
