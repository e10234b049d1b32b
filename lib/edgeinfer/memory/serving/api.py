"""The HTTP interface as data: what a body may say, which sentence a wrong one gets, and what the answers look like.

Follows OpenAI's completions and chat completions as far as they go here; what is not supported is refused, not ignored.
Knows neither sockets nor schedulers.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

MOST_CHOICES, MOST_ANSWERS, MOST_STOPS = 8, 32, 4  # for one prompt, for all prompts of a call; stop strings


class ApiError(Exception):
    """An answer other than 200: HTTP status, one sentence, and the fields of OpenAI's error object."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code

    def body(self) -> dict[str, Any]:
        """The error object that goes to the client."""
        kind = {429: "rate_limit_error", 500: "server_error", 503: "server_error"}
        error = {"message": self.message, "type": kind.get(self.status, "invalid_request_error")}
        return {"error": {**error, "param": self.param, "code": self.code}}


@dataclass(frozen=True)
class Call:
    """A request body that was understood."""

    chat: bool
    model: str
    prompts: tuple[str | tuple[int, ...], ...]
    max_tokens: int | None
    temperature: float
    top_p: float
    seed: int | None
    stops: tuple[str, ...]
    n: int
    stream: bool
    include_usage: bool


# Parameters that may be given with the one value that changes nothing; any other value is refused.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "best_of": (1, None),
    "echo": (False, None),
    "frequency_penalty": (0, None),
    "function_call": ("none", None),
    "functions": ([], None),
    "logit_bias": ({}, None),
    "logprobs": (False, None),
    "parallel_tool_calls": (True, False, None),
    "presence_penalty": (0, None),
    "response_format": ({"type": "text"}, None),
    "store": (False, None),
    "suffix": ("", None),
    "tool_choice": ("none", "auto", None),
    "tools": ([], None),
    "top_logprobs": (0, None),
}
_IGNORED = {"user", "metadata", "service_tier", "safety_identifier"}  # about the caller, not about the answer
_COMMON = {"model", "max_tokens", "temperature", "top_p", "seed", "stop", "n", "stream", "stream_options"}


def parse(body: bytes, chat: bool, model: str) -> Call:
    """Read the body of POST /v1/completions, or with `chat` of POST /v1/chat/completions.

    Args:
        body: what the client sent.
        chat: which of the two.
        model: the name of the one model that is served.

    Raises:
        ApiError: status 400 or 404; one sentence that names the parameter, what was expected and what came.
    """
    try:
        raw = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"the body is not JSON ({_reason(error)}); send one JSON object") from error
    if not isinstance(raw, dict):
        raise ApiError(400, f"the body must be one JSON object; came {_kind(raw)}")
    _refuse_unsupported(raw, chat)
    _model(raw, model)
    options = raw.get("stream_options") or {}
    if not isinstance(options, dict):
        raise _wrong("stream_options", "an object such as {'include_usage': true}", options)
    limit = raw.get("max_completion_tokens") if chat else None
    prompts, choices = (_messages(raw),) if chat else _prompts(raw), _whole(raw, "n", 1, MOST_CHOICES, 1) or 1
    if len(prompts) * choices > MOST_ANSWERS:
        many = len(prompts) * choices
        raise ApiError(400, f"{many} answers are asked for at once (prompts times n); at most {MOST_ANSWERS}", "prompt")
    return Call(
        chat=chat,
        model=model,
        prompts=prompts,
        max_tokens=_whole(
            {"max_tokens": limit if limit is not None else raw.get("max_tokens")}, "max_tokens", 1, None, None
        ),
        temperature=_real(raw, "temperature", 0, 2, 1.0),
        top_p=_real(raw, "top_p", 0, 1, 1.0),
        seed=_whole(raw, "seed", -(2**63), 2**63 - 1, None),
        stops=_stops(raw),
        n=choices,
        stream=_flag(raw, "stream"),
        include_usage=_flag(options, "include_usage"),
    )


def _reason(error: BaseException) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg.lower()} at character {error.pos + 1}"
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8"
    return "it is nested too deep" if isinstance(error, RecursionError) else "a number in it has too many digits"


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a truth value", type(None): "null"}
    return names.get(type(value), "a number")


def _wrong(name: str, expected: str, value: Any) -> ApiError:
    shown = json.dumps(value) if isinstance(value, int | float) else _kind(value)
    return ApiError(400, f"{name} must be {expected}; came {shown[:40]}", name)


def _refuse_unsupported(raw: dict[str, Any], chat: bool) -> None:
    known = _COMMON | ({"messages", "max_completion_tokens"} if chat else {"prompt"}) | _IGNORED
    for name, value in raw.items():
        if name in _NEUTRAL and not any(value == neutral for neutral in _NEUTRAL[name]):
            raise ApiError(400, f"{name} is not supported by this server; leave it out", name, "unsupported_parameter")
        if name not in known and name not in _NEUTRAL:
            raise ApiError(400, f"there is no parameter {name[:40]!r}; leave it out", name[:40], "unknown_parameter")


def _model(raw: dict[str, Any], model: str) -> None:
    asked = raw.get("model")
    if asked is None:
        raise ApiError(400, f"model is missing; this server has one, {model!r}", "model")
    if not isinstance(asked, str):
        raise _wrong("model", "a string", asked)
    if asked != model:
        raise no_such_model(asked, model)


def no_such_model(asked: str, model: str) -> ApiError:
    """The answer to a wrong name."""
    message = f"there is no model {asked[:80]!r}; this server has one, {model!r}"
    return ApiError(404, message, "model", "model_not_found")


def _text(name: str, value: str) -> str:
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise ApiError(
                400, f"{name} holds half a surrogate pair, which is no character; remove it", name
            ) from error
    return value


def _prompts(raw: dict[str, Any]) -> tuple[str | tuple[int, ...], ...]:
    expected = "a string, a list of token ids, or a list of such prompts"
    given = raw.get("prompt")
    if given is None:
        raise ApiError(400, f"prompt is missing; expected {expected}", "prompt")
    several = isinstance(given, list) and given and all(isinstance(t, str | list) for t in given)
    prompts: list[str | tuple[int, ...]] = []
    for prompt in given if several else [given]:
        if isinstance(prompt, str):
            prompts.append(_text("prompt", prompt))
        elif isinstance(prompt, list) and all(type(t) is int and 0 <= t < 2**31 for t in prompt):
            prompts.append(tuple(prompt))
        else:
            raise _wrong("prompt", expected, given)
    return tuple(prompts)


def _messages(raw: dict[str, Any]) -> str:
    """The contents of all messages, one after the other: the models of this book know no roles."""
    messages = raw.get("messages")
    expected = "a list of objects with 'role' and 'content', at least one"
    if messages is None:
        raise ApiError(400, f"messages is missing; expected {expected}", "messages")
    if not isinstance(messages, list) or not messages:
        raise _wrong("messages", expected, messages)
    contents = []
    for number, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise _wrong(f"messages[{number}]", "an object with 'role' and 'content'", message)
        content = message.get("content")
        if isinstance(content, list):
            parts = [p.get("text") if isinstance(p, dict) and p.get("type") == "text" else None for p in content]
            content = "".join(parts) if parts and all(isinstance(p, str) for p in parts) else None  # type: ignore[arg-type]
        if not isinstance(content, str):
            raise _wrong(f"messages[{number}].content", "a string or a list of parts of type text", content)
        contents.append(_text(f"messages[{number}].content", content))
    return "\n".join(contents)


def _number(
    raw: dict[str, Any], name: str, fits: Callable[[Any], bool], low: Any, high: Any, default: Any, word: str
) -> Any:
    value = raw.get(name)
    if value is None:
        return default
    inside = not isinstance(value, bool) and fits(value) and low <= value and (high is None or value <= high)
    if not inside:
        limits = f"of {low} or more" if high is None else f"from {low} to {high}"
        raise _wrong(name, f"a {word} {limits}", value)
    return value


def _whole(raw: dict[str, Any], name: str, low: int, high: int | None, default: int | None) -> int | None:
    return _number(raw, name, lambda v: isinstance(v, int), low, high, default, "whole number")


def _real(raw: dict[str, Any], name: str, low: float, high: float, default: float) -> float:
    return float(_number(raw, name, lambda v: isinstance(v, int | float), low, high, default, "number"))


def _flag(raw: dict[str, Any], name: str) -> bool:
    value = raw.get(name)
    if value is None or isinstance(value, bool):
        return bool(value)
    raise _wrong(name, "true or false", value)


def _stops(raw: dict[str, Any]) -> tuple[str, ...]:
    stop = raw.get("stop")
    stops = [] if stop is None else [stop] if isinstance(stop, str) else stop
    if not isinstance(stops, list) or len(stops) > MOST_STOPS or not all(isinstance(s, str) and s for s in stops):
        raise _wrong("stop", f"a string or a list of at most {MOST_STOPS} strings, none of them empty", stop)
    return tuple(_text("stop", s) for s in stops)


# ---- answers -----------------------------------------------------------------------------------------------------


def usage(prompt: int, completion: int, cached: int) -> dict[str, Any]:
    """Token counts as clients expect them; `cached` tokens of the prompt were not computed for this call."""
    counts = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    return counts | {"prompt_tokens_details": {"cached_tokens": cached}}


def choice(call: Call, index: int, text: str, reason: str | None, first: bool = False) -> dict[str, Any]:
    """One element of `choices`, for a whole answer or (`call.stream`) for a piece of it."""
    out: dict[str, Any] = {"index": index, "logprobs": None, "finish_reason": reason}
    if not call.chat:
        return {"text": text, **out}
    if not call.stream:
        return {"message": {"role": "assistant", "content": text, "refusal": None}, **out}
    delta = ({"role": "assistant"} if first else {}) | ({"content": text} if text or first else {})
    return {"delta": delta, **out}


def answer(call: Call, name: str, created: int, choices: list[dict[str, Any]]) -> dict[str, Any]:
    """The object around `choices`."""
    kind = {(True, True): "chat.completion.chunk", (True, False): "chat.completion"}
    return {
        "id": f"{'chatcmpl' if call.chat else 'cmpl'}-{name}",
        "object": kind.get((call.chat, call.stream), "text_completion"),
        "created": created,
        "model": call.model,
        "choices": choices,
    }
