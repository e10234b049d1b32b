"""One prompt as a pipeline: its chunks flow through processes that each hold some layers, so that all work at once.

A stage keeps the keys and values of its own layers for all earlier chunks; a chunk needs nothing else of the past.
Stages are processes joined by pipes (on several machines: by sockets). Messages are raw arrays, never pickles. They are
started as `python -m edgeinfer.collab.sequence_pipeline ...`, so a script that uses them is not run again.
Source: jupiter.
"""

from __future__ import annotations

import contextlib
import os
import queue
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeinfer.collab.pipeline_schedule import chunk_lengths, layer_split

if TYPE_CHECKING:
    from torch import Tensor

_HEAD = struct.Struct("<5i")  # kind, sequence, rows, columns, chunk; then the bytes of the array
PROMPT, SCORE, STEP, FORGET, READY, FAILED, STOP = range(7)


class StageError(RuntimeError):
    """A stage of the pipeline is gone or failed; the message says which and what to do."""


def _message(kind: int, sequence: int = 0, array: Any = None, chunk: int = 0) -> bytes:
    if array is None:
        return _HEAD.pack(kind, sequence, 0, 0, chunk)
    rows, columns = (*array.shape, 1)[:2]
    return _HEAD.pack(kind, sequence, rows, columns, chunk) + array.contiguous().numpy().tobytes()


def _array(data: bytes, dtype: Any) -> Tensor:
    import torch

    rows, columns = _HEAD.unpack_from(data)[2:4]
    return torch.frombuffer(bytearray(data[_HEAD.size :]), dtype=dtype).reshape(rows, columns)


def _work(model_name: str, first: int, last: int, source: Connection, target: Connection) -> None:
    """Load the model, then serve chunks until STOP."""
    import torch

    from edgeinfer.models import load
    from edgeinfer.models.cache import PlainCache

    torch.set_num_threads(1)  # the stages themselves are the parallel work
    model = load(model_name)
    caches: dict[int, PlainCache] = {}
    ends = last == model.config.num_hidden_layers

    @torch.inference_mode()
    def run(kind: int, sequence: int, hidden: Tensor) -> None:
        """One chunk (T, hidden_size) through this stage's layers, and on to the next stage."""
        if sequence not in caches:
            caches[sequence] = PlainCache(model.config, 1, model.dtype)
        cache = caches[sequence]
        hidden = model.forward_layers(hidden[None], cache, first, last)
        cache.advance(hidden.shape[1])
        if ends:
            hidden = model.head(hidden if kind == SCORE else hidden[:, -1:])
        target.send_bytes(_message(kind, sequence, hidden[0]))

    target.send_bytes(_message(READY))
    while True:
        data = source.recv_bytes()
        kind, sequence, _, _, chunk = _HEAD.unpack_from(data)
        if kind in (PROMPT, SCORE, STEP):
            if first:
                run(kind, sequence, _array(data, torch.float32))
            else:  # the first stage gets a whole prompt and cuts it
                for part in _array(data, torch.int64)[:, 0].split(chunk):
                    run(kind, sequence, model.embed(part[None])[0])
            continue
        if kind == FORGET:
            caches.pop(sequence, None)
        target.send_bytes(data)
        if kind in (STOP, FAILED):
            return


def _stage(model_name: str, first: int, last: int, source: Connection, target: Connection) -> None:
    """Body of a stage's process. It ends with its neighbours: no stage outlives the process that started it."""
    try:
        _work(model_name, first, last, source, target)
    except (EOFError, BrokenPipeError, ConnectionResetError, KeyboardInterrupt):
        return  # a neighbour is gone, and with it the work
    except Exception as error:  # whatever it is, the user should read it, not a stage's log
        text = f"layers {first} to {last - 1}: {type(error).__name__}: {error}".encode()
        with contextlib.suppress(OSError):
            target.send_bytes(_HEAD.pack(FAILED, 0, len(text), 1, 0) + text)


def _start(model: str, first: int, last: int, source: Connection, target: Connection) -> subprocess.Popen[bytes]:
    """Start the process of one stage, which inherits nothing but its two pipes."""
    library = str(Path(__file__).resolve().parents[2])
    paths = os.pathsep.join(p for p in (library, os.environ.get("PYTHONPATH", "")) if p)
    pipes = (source.fileno(), target.fileno())
    return subprocess.Popen(
        [sys.executable, "-m", __name__, model, *map(str, (first, last, *pipes))],
        stdin=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": paths},
        pass_fds=pipes,
        start_new_session=True,  # Ctrl-C reaches the process that started it, whose end is then seen here
    )


class SequencePipeline:
    """A model over several processes, each with an equal share of its layers.

    Example::

        with SequencePipeline("target", stages=2) as pipeline:
            logits = pipeline.prefill(prompt, chunk=64)
            answers = pipeline.generate([first_point, second_point], max_new_tokens=16)

    Args:
        model: name or folder as for `models.load`; every stage loads it (float32).
        stages: processes.
        layers: of the model; None reads it from the configuration.
        timeout: seconds without any answer after which the pipeline is given up.

    Raises:
        StageError: "layers 4 to 7: CheckpointError: ..." when a stage cannot load the model.
        ValueError: "8 layers cannot be dealt to 9 stages; choose 1 to 8".
    """

    def __init__(self, model: str | Path = "target", stages: int = 2, timeout: float = 120.0) -> None:
        from edgeinfer.models.checkpoint import find_folder
        from edgeinfer.models.config import read_config

        folder = find_folder(model)
        self.timeout = timeout
        self.splits = layer_split(read_config(folder).num_hidden_layers, stages)
        self._closed = False
        if os.name == "nt":
            raise StageError("the stages inherit their pipes, which Windows does not allow; use WSL, Linux or macOS")
        source, self._first = Pipe(duplex=False)
        self.processes: list[subprocess.Popen[bytes]] = []
        try:
            for first, last in self.splits:
                next_source, target = Pipe(duplex=False)
                self.processes.append(_start(str(folder), first, last, source, target))
                source.close()  # the stage has its own; a second holder would hide that it is gone
                target.close()
                source = next_source
            self._last = source
            self._results: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
            self._reader = threading.Thread(target=self._read, daemon=True)
            self._reader.start()
            for _ in self.processes:
                self._next(READY)
        except BaseException:
            self.close()
            raise

    def _read(self) -> None:
        """Take what the last stage sends, so that no stage ever waits for us; None says that a stage is gone.

        A stage that ends closes its pipes, its neighbours then end as well, and so the end of any of them is seen here.
        """
        try:
            while True:
                data = self._last.recv_bytes()
                self._results.put(data)
                if _HEAD.unpack_from(data)[0] in (STOP, FAILED):
                    return
        except (EOFError, OSError):
            self._results.put(None)

    def _next(self, *kinds: int) -> tuple[int, Tensor]:
        """Sequence and array (perhaps empty) of the next message, which has to be of one of these kinds."""
        import torch

        try:
            data = self._results.get(timeout=self.timeout)
        except queue.Empty:
            self.close()
            raise StageError(
                f"no stage answered for {self.timeout:g} s; the pipeline was closed, start a new one"
            ) from None
        if data is None:
            raise self._gone()
        kind, sequence, rows, _, _ = _HEAD.unpack_from(data)
        if kind == FAILED:
            self.close()
            raise StageError(data[_HEAD.size :].decode())
        assert kind in kinds, f"message of kind {kind}, expected one of {kinds}"
        return sequence, _array(data, torch.float32) if rows else torch.empty(0)

    def _gone(self) -> StageError:
        """The sentence about the stage that ended first; its neighbours ended because of it, in good order."""
        with contextlib.suppress(OSError):
            self._first.close()
        for process in self.processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)
        codes = [process.returncode for process in self.processes]
        number = next((n for n, code in enumerate(codes) if code not in (0, None)), 0)
        first, last = self.splits[number]
        self.close()
        return StageError(
            f"stage {number} (layers {first} to {last - 1}) ended with exit code {codes[number]} while it was needed; "
            "the other stages were stopped, start a new pipeline"
        )

    def _send(self, kind: int, sequence: int = 0, tokens: Tensor | None = None, chunk: int = 0) -> None:
        if self._closed:
            raise StageError("this pipeline is closed; start a new one")
        try:
            self._first.send_bytes(_message(kind, sequence, tokens, chunk))
        except OSError:
            raise self._gone() from None

    def prefill(self, tokens: Tensor, chunk: int = 64, *, every_token: bool = False) -> Tensor:
        """Run one prompt.

        Args:
            tokens: (T,) int64.
            chunk: tokens of a chunk.
            every_token: return the logits of all tokens instead of the last one's.

        Returns:
            (T or 1, vocab_size) float32.

        Raises:
            StageError: when a stage ends before its work is done.
        """
        import torch

        count = len(self._chunks(tokens, chunk))
        kind = SCORE if every_token else PROMPT
        with self._whole():
            self._send(kind, 0, tokens, chunk)
            parts = [self._next(kind)[1] for _ in range(count)]
            self._send(FORGET)
            self._next(FORGET)
        return torch.cat(parts if every_token else parts[-1:])

    @contextlib.contextmanager
    def _whole(self) -> Iterator[None]:
        """What is broken off in the middle (Ctrl-C) leaves messages on their way: then the pipeline is closed."""
        try:
            yield
        except BaseException:
            self.close()
            raise

    def generate(self, prompts: list[Tensor], max_new_tokens: int, chunk: int = 64) -> list[list[int]]:
        """Continue several independent prompts greedily; while one sequence is in one stage, others are in the rest.

        Args:
            prompts: each (T,) int64, such as the points of an outline.
            max_new_tokens: for each.
            chunk: tokens of a chunk of a prompt.

        Returns:
            The new tokens of each prompt, as `models.generate` would give them one by one.

        Raises:
            ValueError: "max_new_tokens must be at least 1, got 0", or a prompt that is none.
            StageError: when a stage ends before its work is done.
        """
        import torch

        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, got {max_new_tokens}")
        waiting = {n: len(self._chunks(prompt, chunk)) for n, prompt in enumerate(prompts)}
        answers: list[list[int]] = [[] for _ in prompts]
        with self._whole():
            for number, prompt in enumerate(prompts):
                self._send(PROMPT, number, prompt, chunk)
            for _ in range(sum(waiting.values()) + len(prompts) * (max_new_tokens - 1)):
                sequence, logits = self._next(PROMPT, STEP)
                waiting[sequence] = max(waiting[sequence] - 1, 0)
                if waiting[sequence] == 0:
                    answers[sequence].append(int(logits[-1].argmax()))
                    if len(answers[sequence]) < max_new_tokens:
                        self._send(STEP, sequence, torch.tensor(answers[sequence][-1:]), 1)
            for number in range(len(prompts)):
                self._send(FORGET, number)
                self._next(FORGET)
        return answers

    @staticmethod
    def _chunks(tokens: Tensor, chunk: int) -> list[int]:
        if tokens.dim() != 1 or not len(tokens) or tokens.is_floating_point():
            raise ValueError(f"tokens must be one prompt (tokens,) int64; came {tuple(tokens.shape)} {tokens.dtype}")
        return chunk_lengths(len(tokens), chunk)

    def close(self) -> None:
        """Stop all stages; safe to call twice and after a failure."""
        if not self._closed:
            self._closed = True
            with contextlib.suppress(OSError):
                self._first.send_bytes(_message(STOP))
        self._first.close()
        for process in self.processes:
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def __enter__(self) -> SequencePipeline:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


if __name__ == "__main__":
    first_layer, last_layer, inlet, outlet = (int(text) for text in sys.argv[2:])
    _stage(sys.argv[1], first_layer, last_layer, Connection(inlet, writable=False), Connection(outlet, readable=False))
