"""The engine in a thread of its own, behind an asyncio face: submit, read pieces of text, cancel, close.

The event loop never waits for the engine, and the engine never waits for a reader: who does not read is paused and,
when others need the memory, loses its blocks. Knows no HTTP. Source: orca.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from edgeinfer.memory.serving.engine import Engine
from edgeinfer.memory.serving.requests import Event, QueueFull, Request, RequestRefused
from edgeinfer.memory.serving.text import TextStream


class Closing(RuntimeError):
    """The service ends and takes no more requests."""


class Left(RuntimeError):
    """The request was cancelled while its reader waited for the next piece."""


@dataclass(frozen=True)
class Piece:
    """Some text of an answer (may be empty), how many tokens have been made so far, and at the end the reason.

    `reused` tokens of the prompt were found in the pool.
    """

    text: str
    tokens: int
    finish_reason: str | None = None
    reused: int = 0


class Ticket:
    """One submitted request as its reader sees it; made by `Service.submit`."""

    def __init__(self, service: Service, request: Request, text: TextStream) -> None:
        self.request, self.text = request, text
        self._service = service
        self._queue: asyncio.Queue[Piece | Exception] = asyncio.Queue()  # bounded by pausing, see `Service`
        self.made = self.read = 0  # pieces; written by the worker and by the loop, one each
        self.tokens = 0
        self.paused = self.ended = False

    async def pieces(self) -> AsyncIterator[Piece]:
        """Yield the pieces in order; the last one has a `finish_reason`.

        Raises:
            Left: when the request was cancelled meanwhile.
            Closing: when the service was closed before the answer ended.
            Exception: what the engine failed with.
        """
        try:
            while True:
                piece = await self._queue.get()
                self.read += 1
                if isinstance(piece, Exception):
                    raise piece
                if self.paused and self.made - self.read <= self._service.outbox // 2:
                    self._service._resume(self)
                yield piece
                if piece.finish_reason:
                    return
        finally:
            self.cancel()

    def cancel(self) -> None:
        """Stop computing this request and give its blocks back; harmless when it has ended."""
        self._service._cancel(self)


class Service:
    """Runs an engine for many readers.

    Args:
        engine: only this service may touch it from now on.
        tokenizer: has `decode`.
        most: how many requests may be here at once, running and waiting; one more is refused.
        outbox: pieces that may wait for one reader before its request is paused.
    """

    def __init__(self, engine: Engine, tokenizer: Any, most: int = 64, outbox: int = 64) -> None:
        self.engine, self.tokenizer, self.most, self.outbox = engine, tokenizer, most, outbox
        self.tickets: dict[str, Ticket] = {}  # the loop's
        self._active: dict[str, Ticket] = {}  # the worker's
        self._commands: list[Callable[[], None]] = []
        self._wake = threading.Condition()
        self._closing = self._stop = False
        self._empty = asyncio.Event()
        self._empty.set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)

    def start(self) -> None:
        """Start the worker; call it from the event loop that will read."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    # ---- on the event loop ---------------------------------------------------------------------------------------

    def submit(self, requests: list[Request], stops: tuple[str, ...] = ()) -> list[Ticket]:
        """Queue requests, all or none.

        Raises:
            RequestRefused: one of them can never be served.
            QueueFull: "64 requests are here already ..."
            Closing: "the server is shutting down ..."
        """
        if self._closing:
            raise Closing("the server is shutting down and takes no more requests; try another time")
        for request in requests:
            self.engine.check(request)  # reads settings only, so it may run beside the worker
        if len(requests) > self.most:
            raise RequestRefused(
                f"{len(requests)} answers are asked for at once, but this server takes {self.most}; ask for fewer"
            )
        if len(self.tickets) + len(requests) > self.most:
            raise QueueFull(f"{len(self.tickets)} requests are here already and {self.most} may be; try again later")
        tickets = [Ticket(self, request, TextStream(self.tokenizer, stops)) for request in requests]
        self.tickets |= {ticket.request.id: ticket for ticket in tickets}
        # One command for all: answers to the same prompt share it best when they come together.
        self._post(lambda: self._add(tickets))
        self._empty.clear()
        return tickets

    async def close(self, grace: float = 10.0) -> None:
        """Take no more requests, let the present ones end for `grace` seconds, stop the rest and the worker."""
        self._closing = True
        try:
            await asyncio.wait_for(self._empty.wait(), grace)
        except TimeoutError:
            for ticket in list(self.tickets.values()):
                ticket._queue.put_nowait(Closing("the server was shut down before the answer ended"))
                ticket.cancel()
        with self._wake:
            self._stop = True
            self._wake.notify()
        await asyncio.to_thread(self._thread.join)

    def _post(self, command: Callable[[], None]) -> None:
        with self._wake:
            self._commands.append(command)
            self._wake.notify()

    def _cancel(self, ticket: Ticket) -> None:
        if self.tickets.pop(ticket.request.id, None) is None:
            return
        ticket._queue.put_nowait(Left("the request was cancelled"))  # its reader may be waiting
        if not ticket.ended:
            self._post(lambda: self._drop(ticket))
        if not self.tickets:
            self._empty.set()

    def _resume(self, ticket: Ticket) -> None:
        def command() -> None:
            ticket.paused = False
            self.engine.resume(ticket.request.id)

        self._post(command)

    def _deliver(self, pieces: list[tuple[Ticket, Piece | Exception]]) -> None:
        for ticket, piece in pieces:
            if isinstance(piece, Exception) or piece.finish_reason:
                ticket.ended = True
            ticket._queue.put_nowait(piece)

    # ---- on the worker's thread ----------------------------------------------------------------------------------

    def _work(self) -> None:
        while True:
            with self._wake:
                while not (self._commands or self.engine.ready or self._stop):
                    self._wake.wait()
                commands, self._commands = self._commands, []
                stop = self._stop
            for command in commands:
                command()
            if stop:
                return
            pieces: list[tuple[Ticket, Piece | Exception]] = []
            try:
                for event in self.engine.step():
                    pieces += self._piece(event)
            except Exception as error:  # whatever a step raises: the readers must hear of it, and others be served
                pieces = [(ticket, error) for ticket in self._active.values()]
                for name in list(self._active):
                    self._drop(self._active[name])
            if pieces:
                self._tell(pieces)

    def _tell(self, pieces: list[tuple[Ticket, Piece | Exception]]) -> None:
        assert self._loop is not None
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._deliver, pieces)

    def _add(self, tickets: list[Ticket]) -> None:
        for ticket in tickets:
            try:
                self.engine.add(ticket.request)
                self._active[ticket.request.id] = ticket
            except Exception as error:
                self._tell([(ticket, error)])

    def _drop(self, ticket: Ticket) -> None:
        self._active.pop(ticket.request.id, None)
        self.engine.cancel(ticket.request.id)

    def _piece(self, event: Event) -> list[tuple[Ticket, Piece | Exception]]:
        name, token = event.request_id, event.token
        reason: str | None = event.finish_reason
        ticket = self._active[name]
        ticket.tokens += 1
        text = "" if reason == "stop" else ticket.text.push(token)
        if ticket.text.stopped and not reason:
            reason = "stop"
            self._drop(ticket)
        elif reason:
            text += ticket.text.close()
            reason = "stop" if ticket.text.stopped else reason
            self._active.pop(name)
        if not text and not reason:
            return []
        ticket.made += 1
        if not reason and not ticket.paused and ticket.made - ticket.read >= self.outbox:
            ticket.paused = True
            self.engine.pause(name)
            # The reader may have caught up while this was decided; it would not notice a later flag.
            if ticket.made - ticket.read <= self.outbox // 2:
                ticket.paused = False
                self.engine.resume(name)
        return [(ticket, Piece(text, ticket.tokens, reason, event.reused))]
