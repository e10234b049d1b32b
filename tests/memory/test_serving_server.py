"""What must hold of the server, asked over a real socket: answers, streams, errors, and clients that behave badly."""

import asyncio
import contextlib
import json
import socket

import pytest
from edgeinfer.memory.serving.engine import Engine
from edgeinfer.memory.serving.server import Settings, serve
from edgeinfer.memory.serving.service import Service
from edgeinfer.models import load_tokenizer

from .serving_fake import Gated, answer

TOKENIZER = load_tokenizer("target")
PROMPT = [7, 8, 9]


@contextlib.asynccontextmanager
async def running(runner=None, most=32, outbox=64, context=4000, **options):
    runner = runner or Gated(2000)
    service = Service(Engine(runner, 8, 32, context=context), TOKENIZER, most, outbox)
    server = await serve(service, Settings("target", context, **options), port=0)
    try:
        yield server
    finally:
        if isinstance(runner, Gated):
            runner.gate.set()
        await server.close(grace=5)


async def connect(server, body, path="/v1/completions", method="POST", headers=""):
    data = body if isinstance(body, bytes) else json.dumps({"model": "target"} | body).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=1 << 20)
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(data)}\r\n{headers}\r\n"
    writer.write(head.encode() + data)
    return reader, writer


async def ask(server, body=b"", path="/v1/completions", method="POST"):
    """Send one request; return the status, the headers, and the JSON or the events of the body."""
    reader, writer = await connect(server, body, path, method)
    head, _, content = (await asyncio.wait_for(reader.read(), 30)).partition(b"\r\n\r\n")
    writer.close()
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    if "chunked" in headers.get("transfer-encoding", ""):
        parts = []
        while content:
            size, _, content = content.partition(b"\r\n")
            parts.append(content[: int(size, 16)])
            content = content[int(size, 16) + 2 :]
        events = b"".join(parts).decode().split("\n\n")
        assert events.pop() == ""
        assert all(event.startswith("data: ") for event in events)
        assert events.pop() == "data: [DONE]"
        return int(first.split()[1]), headers, [json.loads(event[6:]) for event in events]
    return int(first.split()[1]), headers, json.loads(content)


async def eventually(condition):
    for _ in range(3000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never happened")


def text_of(prompt, count):
    return TOKENIZER.decode(answer(prompt, count))


def all_free(server):
    runner = server.service.engine.runner
    return runner.free_blocks == runner.num_blocks and not server.service.engine.busy


def test_a_completion_whole_and_streamed_has_the_same_text_and_counts():
    async def check():
        async with running() as server:
            body = {"prompt": PROMPT, "max_tokens": 30, "temperature": 0}
            status, headers, whole = await ask(server, body)
            assert (status, headers["content-type"]) == (200, "application/json")
            assert whole["object"] == "text_completion"
            assert whole["choices"][0] | {"text": ""} == {
                "index": 0, "text": "", "logprobs": None, "finish_reason": "length",
            }  # fmt: skip
            assert whole["choices"][0]["text"] == text_of(PROMPT, 30)
            counts = {"prompt_tokens": 3, "completion_tokens": 30, "total_tokens": 33}
            assert whole["usage"] == counts | {"prompt_tokens_details": {"cached_tokens": 0}}
            options = {"stream": True, "stream_options": {"include_usage": True}}
            status, headers, events = await ask(server, body | options)
            assert headers["content-type"].startswith("text/event-stream")
            *pieces, last = events
            assert "".join(e["choices"][0]["text"] for e in pieces) == whole["choices"][0]["text"]
            assert [e["choices"][0]["finish_reason"] for e in pieces if e["choices"][0]["finish_reason"]] == ["length"]
            assert (last["choices"], last["usage"]) == ([], whole["usage"])
            assert all_free(server)

    asyncio.run(check())


def test_a_chat_answers_as_an_assistant_in_both_ways():
    async def check():
        async with running(begin=1) as server:
            body = {"messages": [{"role": "user", "content": "def f(x):"}], "max_tokens": 9, "temperature": 0}
            prompt = [1, *TOKENIZER.encode("def f(x):").ids]
            _, _, whole = await ask(server, body, "/v1/chat/completions")
            message = whole["choices"][0]["message"]
            assert (whole["object"], message["role"]) == ("chat.completion", "assistant")
            assert message["content"] == text_of(prompt, 9)
            _, _, events = await ask(server, body | {"stream": True}, "/v1/chat/completions")
            deltas = [e["choices"][0]["delta"] for e in events]
            assert deltas[0]["role"] == "assistant"
            assert "".join(d.get("content", "") for d in deltas) == message["content"]
            assert {e["object"] for e in events} == {"chat.completion.chunk"}
            assert events[-1]["choices"][0]["finish_reason"] == "length"

    asyncio.run(check())


def test_a_stop_string_ends_the_answer_and_does_not_show():
    async def check():
        async with running() as server:
            full = text_of(PROMPT, 40)
            stop = full[10:13]
            body = {"prompt": PROMPT, "max_tokens": 40, "temperature": 0, "stop": [stop]}
            _, _, found = await ask(server, body)
            assert found["choices"][0]["text"] == full[: full.index(stop)]
            assert found["choices"][0]["finish_reason"] == "stop"
            assert found["usage"]["completion_tokens"] < 40
            await eventually(lambda: all_free(server))

    asyncio.run(check())


def test_seeds_repeat_and_choices_differ():
    async def check():
        async with running() as server:
            body = {"prompt": PROMPT, "max_tokens": 12, "temperature": 2, "seed": 5, "n": 3}
            (_, _, one), (_, _, two) = await asyncio.gather(ask(server, body), ask(server, body))
            texts = [choice["text"] for choice in one["choices"]]
            assert texts == [choice["text"] for choice in two["choices"]]
            assert len(set(texts)) == 3
            assert one["usage"]["completion_tokens"] == 36
            _, _, events = await ask(server, body | {"stream": True})
            for index, text in enumerate(texts):
                mine = [e["choices"][0]["text"] for e in events if e["choices"][0]["index"] == index]
                assert "".join(mine) == text

    asyncio.run(check())


def test_twenty_at_once_get_what_each_gets_alone():
    async def check():
        async with running(Gated(60)) as server:  # a pool that is too small for all of them
            prompts = [[20 + i] * (1 + i) for i in range(20)]
            bodies = [
                {"prompt": p, "max_tokens": 30, "temperature": 0, "stream": i % 2 == 0} for i, p in enumerate(prompts)
            ]
            found = await asyncio.gather(*(ask(server, body) for body in bodies))
            for (status, _, content), prompt in zip(found, prompts, strict=True):
                parts = content if isinstance(content, list) else [content]
                assert status == 200
                assert "".join(part["choices"][0]["text"] for part in parts) == text_of(prompt, 30)
            assert server.service.engine.preemptions > 0
            assert all_free(server)

    asyncio.run(check())


def test_a_list_of_prompts_gets_an_answer_for_each_and_what_they_share_is_counted():
    async def check():
        async with running() as server:
            prompts = [[5] * 9, [5] * 9 + [6], [7, 8, 9]]
            body = {"prompt": prompts, "max_tokens": 4, "temperature": 0, "n": 2}
            assert (await ask(server, body))[2]["usage"]["completion_tokens"] == 24
            _, _, whole = await ask(server, body)
            assert [c["text"] for c in whole["choices"]] == [text_of(p, 4) for p in prompts for _ in range(2)]
            assert [c["index"] for c in whole["choices"]] == [*range(6)]
            assert whole["usage"]["prompt_tokens"] == 9 + 10 + 3
            assert whole["usage"]["prompt_tokens_details"] == {"cached_tokens": 8 + 8}
            _, _, events = await ask(server, body | {"stream": True, "stream_options": {"include_usage": True}})
            assert events[-1]["usage"] == whole["usage"]
            for choice in whole["choices"]:
                mine = [e["choices"][0]["text"] for e in events[:-1] if e["choices"][0]["index"] == choice["index"]]
                assert "".join(mine) == choice["text"]

    asyncio.run(check())


def test_models_health_and_unknown_addresses():
    async def check():
        async with running() as server:
            entry = (await ask(server, path="/v1/models", method="GET"))[2]["data"][0]
            assert entry["id"] == "target"
            assert (await ask(server, path="/v1/models/target", method="GET"))[2] == entry
            status, _, body = await ask(server, path="/v1/models/x", method="GET")
            assert (status, body["error"]["code"]) == (404, "model_not_found")
            health = (await ask(server, path="/health", method="GET"))[2]
            assert (health["status"], health["free_blocks"], health["running"]) == ("ok", 2000, 0)
            status, _, body = await ask(server, path="/v1/embeddings")
            assert (status, body["error"]["type"]) == (404, "invalid_request_error")
            assert body["error"]["message"].startswith("there is nothing at /v1/embeddings; see /v1/models")
            status, _, body = await ask(server, path="/v1/completions", method="GET")
            assert (status, body["error"]["message"]) == (405, "/v1/completions does not answer GET")

    asyncio.run(check())


@pytest.mark.parametrize(
    ("body", "status", "sentence"),
    [
        (b"{", 400, "the body is not JSON"),
        (b"", 400, "the body is not JSON"),
        ({"max_tokens": 3}, 400, "prompt is missing"),
        ({"model": "x", "prompt": "a"}, 404, "there is no model 'x'"),
        ({"prompt": "a", "echo": True}, 400, "echo is not supported"),
        ({"prompt": [5000]}, 400, "prompt holds the token 5000, but the vocabulary has 1024"),
        ({"prompt": []}, 400, "prompt is empty"),
        ({"prompt": ["a", []]}, 400, "prompt is empty"),
        ({"prompt": ["a", [5000]]}, 400, "prompt holds the token 5000, but the vocabulary has 1024"),
        ({"prompt": [5] * 300}, 400, "the prompt has 300 tokens and max_tokens is 1, together 301, but the model has"),
        ({"prompt": "a", "max_tokens": 10**30}, 400, "the prompt has 1 tokens and max_tokens is 1000"),
        ({"prompt": "x" * 2000}, 413, "the body is larger than 1500 bytes"),
    ],
)
def test_a_wrong_request_gets_a_sentence_and_others_are_served(body, status, sentence):
    async def check():
        async with running(context=200, body_limit=1500) as server:
            assert (await ask(server, {"prompt": [5] * 9, "max_tokens": 2}))[0] == 200
            good = asyncio.create_task(ask(server, {"prompt": PROMPT, "max_tokens": 20, "temperature": 0}))
            found, _, content = await ask(server, body)
            assert found == status
            assert content["error"]["message"].startswith(sentence)
            assert set(content["error"]) == {"message", "type", "param", "code"}
            assert (await good)[2]["choices"][0]["text"] == text_of(PROMPT, 20)

    asyncio.run(check())


def test_load_beyond_the_queue_gets_429_and_a_hint_when_to_come_back():
    async def check():
        runner = Gated(2000)
        async with running(runner, most=2) as server:
            runner.gate.clear()
            body = {"prompt": PROMPT, "max_tokens": 5, "temperature": 0}
            first = [asyncio.create_task(ask(server, body)) for _ in range(2)]
            await eventually(lambda: len(server.service.tickets) == 2)
            status, headers, content = await ask(server, body)
            assert (status, headers["retry-after"]) == (429, "1")
            assert content["error"]["type"] == "rate_limit_error"
            assert content["error"]["message"] == "2 requests are here already and 2 may be; try again later"
            assert (await ask(server, path="/health", method="GET"))[0] == 200  # while the engine is at work
            runner.gate.set()
            assert [(await task)[0] for task in first] == [200, 200]
            assert (await ask(server, body))[0] == 200
            status, _, content = await ask(server, body | {"n": 3})  # would never be served, so not 429
            assert (status, content["error"]["message"]) == (
                400, "3 answers are asked for at once, but this server takes 2; ask for fewer"
            )  # fmt: skip

    asyncio.run(check())


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_frees_its_blocks(stream):
    async def check():
        runner = Gated(2000)
        async with running(runner) as server:
            body = {"prompt": PROMPT, "max_tokens": 3900, "stream": stream}
            reader, writer = await connect(server, body)
            if stream:
                await reader.readuntil(b"data: ")
            await eventually(lambda: runner.free_blocks < 2000)
            writer.transport.abort()
            await eventually(lambda: all_free(server))
            assert not server.service.tickets
            await eventually(lambda: not server.at_work)  # nobody waits for pieces that will never come

    asyncio.run(check())


def slow_client(server, body):
    """A connection that asks and does not read, with as little room for unread bytes as the system allows."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    client.connect(("127.0.0.1", server.port))
    data = json.dumps({"model": "target"} | body).encode()
    client.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n")
    client.sendall(f"Content-Length: {len(data)}\r\n\r\n".encode() + data)
    return client


SLOW = {"prompt": PROMPT, "max_tokens": 1500, "temperature": 0, "stream": True}


def read_all(client):
    client.settimeout(30)
    return b"".join(iter(lambda: client.recv(65536), b""))


def test_a_client_that_does_not_read_is_paused_and_gets_everything_when_it_reads():
    async def check():
        async with running(outbox=8, send_buffer=2048) as server:
            with contextlib.closing(slow_client(server, SLOW)) as client:
                engine = server.service.engine
                await eventually(lambda: any(s.paused for s in list(engine.running)))
                other = {"prompt": [4], "max_tokens": 50, "temperature": 0}
                assert (await ask(server, other))[2]["choices"][0]["text"] == text_of([4], 50)
                assert any(s.paused for s in list(engine.running))
                received = (await asyncio.to_thread(read_all, client)).decode()
            lines = [line for line in received.splitlines() if line.startswith("data: {")]
            text = "".join(json.loads(line[6:])["choices"][0]["text"] for line in lines)
            assert text == text_of(PROMPT, 1500)
            assert "data: [DONE]" in received

    asyncio.run(check())


def test_a_client_that_never_reads_is_dropped():
    async def check():
        async with running(outbox=8, send_buffer=2048, stall_seconds=0.2) as server:
            with contextlib.closing(slow_client(server, SLOW)):
                await eventually(lambda: server.service.tickets)
                await eventually(lambda: not server.service.tickets and all_free(server))

    asyncio.run(check())


def test_a_port_in_use_gets_a_sentence():
    async def check():
        async with running() as server:
            with pytest.raises(OSError, match=f"port {server.port} of 127.0.0.1 cannot be used .*choose another"):
                await serve(server.service, Settings("target", 9), port=server.port)
            with pytest.raises(ValueError, match="port must be from 0 to 65535, where 0 takes a free one; came 99999"):
                await serve(server.service, Settings("target", 9), port=99999)

    asyncio.run(check())
