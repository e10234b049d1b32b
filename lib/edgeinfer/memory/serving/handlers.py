"""What the server answers at each address: completions, chat completions, models, health, and errors as JSON.

From a body that `api` understood to requests of the `service`, and from its pieces of text to what a client reads,
whole or piece by piece. Knows nothing of ports and of when the server ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import time
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any

from tornado import iostream, web

from edgeinfer.memory.serving import api
from edgeinfer.memory.serving.api import ApiError, Call
from edgeinfer.memory.serving.requests import QueueFull, Request, RequestRefused
from edgeinfer.memory.serving.service import Closing, Left, Piece, Service, Ticket

LARGE_BODY = 1 << 14  # bytes; reading more than this takes long enough to leave the event loop for it


@dataclass(frozen=True)
class Settings:
    """What a server is told.

    Args:
        model: name under which the model is served.
        context: tokens that prompt and answer may have together.
        begin: token put before every text prompt; None: no such token.
        stop_tokens: tokens that end an answer.
        body_limit: bytes of a request body.
        stall_seconds: a client that takes no bytes for so long is dropped.
        idle_seconds: likewise one that has connected and sent no whole request header, or no whole body.
        connections: open at once; more are told so and closed.
        send_buffer: bytes that the operating system keeps for a client; None: its default.
    """

    model: str
    context: int
    begin: int | None = None
    stop_tokens: frozenset[int] = frozenset()
    body_limit: int = 1 << 20
    stall_seconds: float = 30.0
    idle_seconds: float = 60.0
    connections: int = 256
    send_buffer: int | None = None


class Handler(web.RequestHandler):
    """Errors as JSON, whatever their cause."""

    def initialize(self, service: Service, settings: Settings) -> None:
        self.service, self.settings_ = service, settings

    def set_default_headers(self) -> None:
        self.set_header("Content-Type", "application/json")
        self.set_header("Server", "edgeinfer")

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        error = kwargs.get("exc_info", (None, None, None))[1]
        if not isinstance(error, ApiError):
            words = {
                404: f"there is nothing at {self.request.path[:80]}; see /v1/models, /v1/completions, "
                "/v1/chat/completions and /health",
                405: f"{self.request.path} does not answer {self.request.method}",
            }
            error = ApiError(status_code, words.get(status_code, self._reason), None, None)
        self.set_status(error.status)
        if error.status in (429, 503):
            self.set_header("Retry-After", "1")
        self.finish(json.dumps(error.body()))

    def log_exception(self, typ: Any, value: Any, tb: Any) -> None:
        if not isinstance(value, ApiError | iostream.StreamClosedError | web.HTTPError):
            super().log_exception(typ, value, tb)

    async def _guarded(self, work: Awaitable[None]) -> None:
        """Turn what the layers below raise into an answer."""
        try:
            await work
        except QueueFull as error:
            raise ApiError(429, str(error), None, "queue_full") from error
        except RequestRefused as error:
            raise ApiError(400, str(error), "prompt", "context_length_exceeded") from error
        except Closing as error:
            raise ApiError(503, str(error), None, "shutting_down") from error


class Missing(Handler):
    """Every other address."""

    def prepare(self) -> None:
        raise web.HTTPError(404)


class Health(Handler):
    """GET /health: whether requests are taken, and how full the machine is."""

    def get(self) -> None:
        engine = self.service.engine
        pool = engine.runner.blocks
        self.write(
            {
                "status": "ok",
                "running": len(engine.running),
                "waiting": len(engine.waiting),
                "answers_open": len(self.service.tickets),
                "blocks": pool.num_blocks,
                "free_blocks": pool.free_blocks,
                "kept_blocks": pool.kept_blocks,
                "reused_tokens": engine.reused,
            }
        )


class Models(Handler):
    """GET /v1/models: the one model; GET /v1/models/NAME: what is known of it."""

    def get(self, name: str | None = None) -> None:
        model = self.settings_.model
        entry = {"id": model, "object": "model", "created": 0, "owned_by": "edgeinfer"}
        if name not in (None, model):
            raise api.no_such_model(str(name), model)
        self.write({"object": "list", "data": [entry]} if name is None else entry)


@web.stream_request_body
class Completions(Handler):
    """POST /v1/completions and, with `chat`, POST /v1/chat/completions."""

    names = itertools.count(1)

    def initialize(  # type: ignore[override]
        self, service: Service, settings: Settings, chat: bool, at_work: set[asyncio.Task]
    ) -> None:
        super().initialize(service, settings)
        self.chat, self.body, self.size, self.at_work = chat, bytearray(), 0, at_work
        self.tickets: list[Ticket] = []
        self.writing = asyncio.Lock()

    def prepare(self) -> None:
        if self.request.method != "POST":
            raise web.HTTPError(405)
        length = self.request.headers.get("Content-Length") or "0"
        if not length.isdecimal():
            raise ApiError(400, f"Content-Length must be one whole number; came {length[:40]!r}")
        if int(length) > self.settings_.body_limit:
            self._too_large()

    def _too_large(self) -> None:
        self.set_header("Connection", "close")
        raise ApiError(413, f"the body is larger than {self.settings_.body_limit} bytes; send a shorter one")

    def data_received(self, chunk: bytes) -> None:
        self.size += len(chunk)
        if self.size <= self.settings_.body_limit:
            self.body += chunk

    def on_connection_close(self) -> None:
        for ticket in self.tickets:
            ticket.cancel()

    async def post(self) -> None:
        if self.size > self.settings_.body_limit:
            self._too_large()
        task = asyncio.current_task()
        assert task is not None
        self.at_work.add(task)
        try:
            await self._guarded(self._serve())
        except Left:
            pass  # the client went away, nobody reads this answer
        finally:
            self.at_work.discard(task)

    async def _serve(self) -> None:
        if self.size > LARGE_BODY:
            call, prompts = await asyncio.to_thread(self._understand)
        else:
            call, prompts = self._understand()
        number, created = next(self.names), int(time.time())
        seed = random.getrandbits(62) if call.seed is None else call.seed
        requests = [
            Request(
                f"{number}-{index}", prompt, self._limit(call, prompt), call.temperature, call.top_p,
                (seed + index) % 2**63, self.settings_.stop_tokens,
            )
            for index, prompt in enumerate(p for p in prompts for _ in range(call.n))
        ]  # fmt: skip
        self.tickets = self.service.submit(requests, call.stops)
        try:
            await (self._stream if call.stream else self._whole)(call, str(number), created, sum(map(len, prompts)))
        finally:
            self.on_connection_close()

    def _limit(self, call: Call, prompt: tuple[int, ...]) -> int:
        """Most tokens of an answer; as OpenAI has it, 16 for a completion, and a chat may fill the context."""
        room = max(1, self.settings_.context - len(prompt))
        return call.max_tokens if call.max_tokens is not None else room if call.chat else min(16, room)

    def _understand(self) -> tuple[Call, list[tuple[int, ...]]]:
        call = api.parse(bytes(self.body), self.chat, self.settings_.model)
        return call, [self._tokens(prompt) for prompt in call.prompts]

    def _tokens(self, prompt: str | tuple[int, ...]) -> tuple[int, ...]:
        tokenizer, begin = self.service.tokenizer, self.settings_.begin
        if isinstance(prompt, str):
            prompt = tuple(tokenizer.encode(prompt).ids)
            if begin is not None and prompt[:1] != (begin,):
                prompt = (begin, *prompt)
        vocabulary = tokenizer.get_vocab_size()
        wrong = next((t for t in prompt if t >= vocabulary), None)
        if wrong is not None:
            raise ApiError(400, f"prompt holds the token {wrong}, but the vocabulary has {vocabulary}", "prompt")
        if not prompt:
            raise ApiError(400, "prompt is empty; send at least one token", "prompt")
        return prompt

    def _usage(self, call: Call, prompt: int, last: list[Piece]) -> dict[str, Any]:
        cached = sum(piece.reused for piece in last[:: call.n])  # what the first answer to each prompt found
        return {"usage": api.usage(prompt, sum(piece.tokens for piece in last), cached)}

    # ---- one answer ----------------------------------------------------------------------------------------------

    async def _whole(self, call: Call, name: str, created: int, prompt: int) -> None:
        async def read(index: int, ticket: Ticket) -> tuple[dict[str, Any], Piece]:
            pieces = [piece async for piece in ticket.pieces()]
            text = "".join(piece.text for piece in pieces)
            return api.choice(call, index, text, pieces[-1].finish_reason), pieces[-1]

        done = await asyncio.gather(*(read(i, t) for i, t in enumerate(self.tickets)))
        body = api.answer(call, name, created, [choice for choice, _ in done])
        await self._taken(self.finish(json.dumps(body | self._usage(call, prompt, [last for _, last in done]))))

    # ---- piece by piece ------------------------------------------------------------------------------------------

    async def _stream(self, call: Call, name: str, created: int, prompt: int) -> None:
        self.set_header("Content-Type", "text/event-stream; charset=utf-8")
        self.set_header("Cache-Control", "no-cache")

        async def forward(index: int, ticket: Ticket) -> Piece:
            first, piece = True, Piece("", 0)
            async for piece in ticket.pieces():
                choice = api.choice(call, index, piece.text, None, first)
                if piece.text or first:
                    await self._send(api.answer(call, name, created, [choice]))
                if piece.finish_reason:
                    choice = api.choice(call, index, "", piece.finish_reason)
                    await self._send(api.answer(call, name, created, [choice]))
                first = False
            return piece

        try:
            made = await asyncio.gather(*(forward(i, t) for i, t in enumerate(self.tickets)))
            if call.include_usage:
                await self._send(api.answer(call, name, created, []) | self._usage(call, prompt, made))
            await self._send("[DONE]")
            await self._taken(self.finish())
        except (iostream.StreamClosedError, Left):
            pass  # the client went away; its requests are cancelled by the caller
        except Exception as error:
            if not self._headers_written:
                raise
            known = isinstance(error, Closing)
            message = str(error) if known else "the server failed while it computed this answer; send it again"
            if not known:
                self.log_exception(type(error), error, error.__traceback__)
            with contextlib.suppress(iostream.StreamClosedError):
                await self._send(ApiError(503 if known else 500, message).body())
                await self._taken(self.finish())

    async def _send(self, event: Any) -> None:
        """Write one server-sent event, and wait until the operating system has it; give up on a client that stalls."""
        text = event if isinstance(event, str) else json.dumps(event)
        async with self.writing:
            self.write(f"data: {text}\n\n")
            await self._taken(self.flush())

    async def _taken(self, written: Awaitable[None]) -> None:
        """Wait until the operating system has what was written."""
        try:
            await asyncio.wait_for(written, self.settings_.stall_seconds)
        except TimeoutError:
            self.request.connection.stream.close()  # type: ignore[union-attr]
            raise iostream.StreamClosedError() from None
