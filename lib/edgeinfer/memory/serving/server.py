"""An OpenAI-compatible HTTP server for one model: it opens a port, watches over connections, and ends.

Tornado on asyncio; the engine computes in a thread of its own. A client that goes away frees its blocks; one that does
not read is paused, then dropped; one that sends nothing is dropped; too many get 429. No authentication, no TLS: it
listens to this machine only unless told otherwise.
"""

from __future__ import annotations

import asyncio
import json
import socket

from tornado import httpserver, iostream, netutil, web

from edgeinfer.memory.serving.api import ApiError
from edgeinfer.memory.serving.handlers import Completions, Health, Missing, Models, Settings
from edgeinfer.memory.serving.service import Service

__all__ = ["Server", "Settings", "serve"]

LAST_WORDS = 2.0  # seconds for what is written already, when the server ends


class Server:
    """A running server; made by `serve`."""

    def __init__(self, service: Service, http: _Http, port: int, at_work: set[asyncio.Task]) -> None:
        self.service, self.http, self.port, self.at_work = service, http, port, at_work

    async def close(self, grace: float = 10.0) -> None:
        """Stop listening, let answers end for `grace` seconds, then close every connection."""
        self.http.stop()
        await self.service.close(grace)
        if self.at_work:  # the last pieces, or the word that there will be none, are on their way to the sockets
            await asyncio.wait(self.at_work, timeout=LAST_WORDS)
        await self.http.close_all_connections()


class _Http(httpserver.HTTPServer):
    limits: Settings

    def handle_stream(self, stream: iostream.IOStream, address: tuple) -> None:
        if self.limits.send_buffer is not None:
            stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self.limits.send_buffer)
        # A peer whose plug was pulled says nothing more; the operating system asks it from time to time.
        stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if len(self._connections) < self.limits.connections:
            super().handle_stream(stream, address)
            return
        error = ApiError(503, f"{self.limits.connections} connections are open, as many as may be; try again later")
        body = json.dumps(error.body())
        head = "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 1\r\n"
        stream.write(f"{head}Connection: close\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
        stream.close()


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
    at_work: set[asyncio.Task] = set()
    application = web.Application(
        [
            ("/health", Health, common),
            ("/v1/models", Models, common),
            ("/v1/models/(.+)", Models, common),
            ("/v1/completions", Completions, {**common, "chat": False, "at_work": at_work}),
            ("/v1/chat/completions", Completions, {**common, "chat": True, "at_work": at_work}),
        ],
        default_handler_class=Missing,
        default_handler_args=common,
        log_function=lambda handler: None,
    )
    # Larger bodies than the limit are read to a certain point, so that their sender gets to read the refusal.
    most = settings.body_limit + (64 << 20)
    seconds = settings.idle_seconds
    http = _Http(application, max_body_size=most, body_timeout=seconds, idle_connection_timeout=seconds)
    http.limits = settings
    service.start()
    http.add_sockets(sockets)
    return Server(service, http, sockets[0].getsockname()[1], at_work)
