"""From tokens to text while they come: whole characters only, and nothing that may turn out to be a stop string.

Knows a tokenizer's `decode` and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

REPLACEMENT = "\ufffd"  # what a decoder writes for bytes that are not yet a whole character


class TextStream:
    """The text of one answer, piece by piece.

    Args:
        tokenizer: has `decode(ids) -> str`.
        stops: strings at which the text ends; they are not part of it.

    Example: `push` returns what can be shown already, `close` the rest; `stopped` says that a stop string came.
    """

    def __init__(self, tokenizer: Any, stops: Sequence[str] = ()) -> None:
        self._tokenizer, self._stops = tokenizer, [s for s in stops if s]
        self._tokens: list[int] = []
        self._start = self._read = 0  # tokens before `_read` are text already; decoding starts a little before
        self._held = ""
        self.stopped = False

    def push(self, token: int) -> str:
        """Take the next token; return the text that is certain now (often empty, never after a stop)."""
        if self.stopped:
            return ""
        self._tokens.append(token)
        return self._certain(self._decode(final=False))

    def close(self) -> str:
        """Return what was held back, at the end of the answer."""
        if self.stopped:
            return ""
        text = self._certain(self._decode(final=True))
        rest, self._held = self._held, ""
        return text if self.stopped else text + rest

    def _decode(self, final: bool) -> str:
        # Some tokenizers drop the blank before a first word: so decode from one piece before, and cut that off.
        before = self._tokenizer.decode(self._tokens[self._start : self._read])
        text = self._tokenizer.decode(self._tokens[self._start :])
        if len(text) <= len(before) or (text.endswith(REPLACEMENT) and not final):
            return ""
        self._start, self._read = self._read, len(self._tokens)
        return text[len(before) :]

    def _certain(self, piece: str) -> str:
        text = self._held + piece
        found = [place for place in (text.find(stop) for stop in self._stops) if place >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        keep = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a beginning of `stop`."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
