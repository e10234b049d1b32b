"""An OpenAI-compatible HTTP server for one model: completions, chat completions, models, health.

Tornado on asyncio; the engine computes in a thread of its own. A client that goes away frees its blocks; one that does
not read is paused, then dropped; too many get 429. No authentication, no TLS: it listens to this machine only unless
told otherwise.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import time
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any

from tornado import httpserver, iostream, netutil, web

from edgeinfer.memory.serving import api
from edgeinfer.memory.serving.api import ApiError, Call
from edgeinfer.memory.serving.requests import QueueFull, Request, RequestRefused
from edgeinfer.memory.serving.service import Closing, Service, Ticket

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
        send_buffer: bytes that the operating system keeps for a client; None: its default.
    """

    model: str
    context: int
    begin: int | None = None
    stop_tokens: frozenset[int] = frozenset()
    body_limit: int = 1 << 20
    stall_seconds: float = 30.0
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
        if not isinstance(value, ApiError | iostream.StreamClosedError):
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
        running, waiting = len(engine.running), len(engine.waiting)
        free, blocks = engine.runner.free_blocks, engine.runner.num_blocks
        self.write({"status": "ok", "running": running, "waiting": waiting, "free_blocks": free, "blocks": blocks})


class Models(Handler):
    """GET /v1/models: the one model."""

    def get(self) -> None:
        entry = {"id": self.settings_.model, "object": "model", "created": 0, "owned_by": "edgeinfer"}
        self.write({"object": "list", "data": [entry]})


@web.stream_request_body
class Completions(Handler):
    """POST /v1/completions and, with `chat`, POST /v1/chat/completions."""

    names = itertools.count(1)

    def initialize(self, service: Service, settings: Settings, chat: bool) -> None:  # type: ignore[override]
        super().initialize(service, settings)
        self.chat, self.body, self.size = chat, bytearray(), 0
        self.tickets: list[Ticket] = []
        self.writing = asyncio.Lock()

    def prepare(self) -> None:
        if self.request.method != "POST":
            raise web.HTTPError(405)
        if int(self.request.headers.get("Content-Length") or 0) > self.settings_.body_limit:
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
        await self._guarded(self._serve())

    async def _serve(self) -> None:
        if self.size > LARGE_BODY:
            call, prompt = await asyncio.to_thread(self._understand)
        else:
            call, prompt = self._understand()
        number, created = next(self.names), int(time.time())
        seed = random.getrandbits(62) if call.seed is None else call.seed
        room = max(1, self.settings_.context - len(prompt))
        # OpenAI's defaults: 16 tokens for a completion; a chat goes on to the end of the context.
        limit = call.max_tokens if call.max_tokens is not None else room if call.chat else min(16, room)
        requests = [
            Request(
                f"{number}-{index}", prompt, limit, call.temperature, call.top_p, (seed + index) % 2**63,
                self.settings_.stop_tokens,
            )
            for index in range(call.n)
        ]  # fmt: skip
        self.tickets = self.service.submit(requests, call.stops)
        try:
            await (self._stream if call.stream else self._whole)(call, str(number), created, len(prompt))
        finally:
            self.on_connection_close()

    def _understand(self) -> tuple[Call, tuple[int, ...]]:
        call = api.parse(bytes(self.body), self.chat, self.settings_.model)
        if not isinstance(call.prompt, str):
            vocabulary = self.service.tokenizer.get_vocab_size()
            wrong = next((t for t in call.prompt if t >= vocabulary), None)
            if wrong is not None:
                raise ApiError(400, f"prompt holds the token {wrong}, but the vocabulary has {vocabulary}", "prompt")
            prompt = call.prompt
        else:
            prompt = tuple(self.service.tokenizer.encode(call.prompt).ids)
            begin = self.settings_.begin
            if begin is not None and prompt[:1] != (begin,):
                prompt = (begin, *prompt)
        if not prompt:
            raise ApiError(400, "prompt is empty; send at least one token", "prompt")
        return call, prompt

    # ---- one answer ----------------------------------------------------------------------------------------------

    async def _whole(self, call: Call, name: str, created: int, prompt: int) -> None:
        async def read(index: int, ticket: Ticket) -> tuple[dict[str, Any], int]:
            pieces = [piece async for piece in ticket.pieces()]
            text = "".join(piece.text for piece in pieces)
            return api.choice(call, index, text, pieces[-1].finish_reason), pieces[-1].tokens

        done = await asyncio.gather(*(read(i, t) for i, t in enumerate(self.tickets)))
        body = api.answer(call, name, created, [choice for choice, _ in done])
        self.finish(json.dumps(body | {"usage": api.usage(prompt, sum(tokens for _, tokens in done))}))

    # ---- piece by piece ------------------------------------------------------------------------------------------

    async def _stream(self, call: Call, name: str, created: int, prompt: int) -> None:
        self.set_header("Content-Type", "text/event-stream; charset=utf-8")
        self.set_header("Cache-Control", "no-cache")

        async def forward(index: int, ticket: Ticket) -> int:
            first, tokens = True, 0
            async for piece in ticket.pieces():
                choice = api.choice(call, index, piece.text, None, first)
                if piece.text or first:
                    await self._send(api.answer(call, name, created, [choice]))
                if piece.finish_reason:
                    choice = api.choice(call, index, "", piece.finish_reason)
                    await self._send(api.answer(call, name, created, [choice]))
                first, tokens = False, piece.tokens
            return tokens

        try:
            made = await asyncio.gather(*(forward(i, t) for i, t in enumerate(self.tickets)))
            if call.include_usage:
                await self._send(api.answer(call, name, created, []) | {"usage": api.usage(prompt, sum(made))})
            await self._send("[DONE]")
            await self.finish()
        except iostream.StreamClosedError:
            pass  # the client went away; its requests are cancelled by the caller
        except Exception as error:
            if not self._headers_written:
                raise
            known = isinstance(error, Closing)
            message = str(error) if known else "the server failed while it computed this answer; send it again"
            await self._send(ApiError(503 if known else 500, message).body())
            await self.finish()
            if not known:
                raise

    async def _send(self, event: Any) -> None:
        """Write one server-sent event, and wait until the operating system has it; give up on a client that stalls."""
        text = event if isinstance(event, str) else json.dumps(event)
        async with self.writing:
            self.write(f"data: {text}\n\n")
            try:
                await asyncio.wait_for(self.flush(), self.settings_.stall_seconds)
            except TimeoutError:
                self.request.connection.stream.close()  # type: ignore[union-attr]
                raise iostream.StreamClosedError() from None


class Server:
    """A running server; made by `serve`."""

    def __init__(self, service: Service, http: httpserver.HTTPServer, port: int) -> None:
        self.service, self.http, self.port = service, http, port

    async def close(self, grace: float = 10.0) -> None:
        """Stop listening, let answers end for `grace` seconds, then close every connection."""
        self.http.stop()
        await self.service.close(grace)
        await asyncio.sleep(0)  # the last answers are on their way to the sockets
        await self.http.close_all_connections()


class _Http(httpserver.HTTPServer):
    send_buffer: int | None = None

    def handle_stream(self, stream: iostream.IOStream, address: tuple) -> None:
        if self.send_buffer is not None:
            import socket

            stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self.send_buffer)
        super().handle_stream(stream, address)


async def serve(service: Service, settings: Settings, address: str = "127.0.0.1", port: int = 8001) -> Server:
    """Start to answer; call it on the event loop.

    Args:
        service: not started yet.
        settings: see there.
        address: of this machine; "127.0.0.1" is reached from this machine only.
        port: 0 takes a free one, see `Server.port`.

    Raises:
        OSError: "port 8001 of 127.0.0.1 cannot be used (Address already in use); choose another with --port".
        ValueError: "port must be from 0 to 65535 ..."
    """
    if not 0 <= port <= 65535:
        raise ValueError(f"port must be from 0 to 65535, where 0 takes a free one; came {port}")
    try:
        sockets = netutil.bind_sockets(port, address)
    except OSError as error:
        raise OSError(
            f"port {port} of {address} cannot be used ({error.strerror}); choose another with --port"
        ) from error
    common = {"service": service, "settings": settings}
    application = web.Application(
        [
            ("/health", Health, common),
            ("/v1/models", Models, common),
            ("/v1/completions", Completions, {**common, "chat": False}),
            ("/v1/chat/completions", Completions, {**common, "chat": True}),
        ],
        default_handler_class=Missing,
        default_handler_args=common,
        log_function=lambda handler: None,
    )
    # Larger bodies than the limit are read to a certain point, so that their sender gets to read the refusal.
    most = settings.body_limit + (64 << 20)
    http = _Http(application, max_body_size=most, body_timeout=60, idle_connection_timeout=120)
    http.send_buffer = settings.send_buffer
    service.start()
    http.add_sockets(sockets)
    return Server(service, http, sockets[0].getsockname()[1])
