"""What must hold when plugs are pulled: of the server, of a client, in the middle of a header or of a step."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import urllib.request

import pytest
import torch
from edgeinfer import models
from edgeinfer.memory.paging import PagedRunner

from .serving_fake import Broken, Gated
from .test_serving_server import PROMPT, all_free, ask, connect, eventually, running, text_of


def test_a_failing_step_is_told_and_the_next_request_is_served():
    async def check():
        async with running(Broken(50)) as server:
            status, _, content = await ask(server, {"prompt": [13], "temperature": 0})
            assert (status, content["error"]["type"]) == (500, "server_error")
            status, _, content = await ask(server, {"prompt": PROMPT, "temperature": 0, "max_tokens": 5})
            assert content["choices"][0]["text"] == text_of(PROMPT, 5)

    asyncio.run(check())


def test_shutting_down_finishes_answers_and_takes_no_more():
    async def check():
        runner = Gated(2000)
        async with running(runner) as server:
            runner.gate.clear()
            body = {"prompt": PROMPT, "max_tokens": 5, "temperature": 0}
            present = asyncio.create_task(ask(server, body))
            late = await connect(server, b"", "/v1/models", "GET", "Connection: keep-alive\r\n")
            await eventually(lambda: server.service.tickets)
            closing = asyncio.create_task(server.service.close(grace=20))
            await eventually(lambda: server.service._closing)
            status, headers, content = await ask(server, body)
            assert (status, headers["retry-after"]) == (503, "1")
            assert content["error"]["message"].startswith("the server is shutting down")
            runner.gate.set()
            assert (await present)[2]["choices"][0]["text"] == text_of(PROMPT, 5)
            await closing
            assert not server.service._thread.is_alive()
            late[1].close()

    asyncio.run(check())


def test_the_last_words_of_every_stream_arrive_when_the_server_ends():
    async def check():
        runner = Gated(2000)
        async with running(runner) as server:
            body = {"prompt": PROMPT, "max_tokens": 40, "temperature": 0, "stream": True}
            options = {"stream_options": {"include_usage": True}}
            runner.gate.clear()
            present = [asyncio.create_task(ask(server, body | options)) for _ in range(24)]
            await eventually(lambda: len(server.service.tickets) == 24)
            closing = asyncio.create_task(server.close(grace=20))
            runner.gate.set()
            for task in present:  # `ask` insists on [DONE]
                _, _, events = await task
                assert "".join(e["choices"][0]["text"] for e in events if e["choices"]) == text_of(PROMPT, 40)
                assert events[-1]["usage"]["completion_tokens"] == 40
            await closing

    asyncio.run(check())


@pytest.mark.parametrize("stream", [True, False])
def test_an_answer_that_cannot_end_in_time_is_told_so(stream):
    async def check():
        runner = Gated(2000)
        async with running(runner) as server:
            body = {"prompt": PROMPT, "max_tokens": 3900, "temperature": 0, "stream": stream}
            reader, writer = await connect(server, body)
            await eventually(lambda: runner.free_blocks < 2000)
            await server.close(grace=0)
            received = (await reader.read()).decode()
            assert "the server was shut down before the answer ended" in received
            assert ("HTTP/1.1 200" if stream else "HTTP/1.1 503") in received
            assert "[DONE]" not in received
            writer.close()

    asyncio.run(check())


@pytest.mark.parametrize("sent", [b"", b"POST /v1/comple", b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nX: 1\r\n"])
def test_a_client_that_never_ends_its_header_is_dropped(sent):
    async def check():
        async with running(idle_seconds=0.2) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(sent)
            assert await asyncio.wait_for(reader.read(), 30) == b""
            writer.close()

    asyncio.run(check())


def test_a_client_that_never_ends_its_body_is_dropped_and_costs_nothing():
    async def check():
        async with running(idle_seconds=0.2) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n{")
            await asyncio.wait_for(reader.read(), 30)
            assert not server.service.tickets and not server.at_work
            writer.close()

    asyncio.run(check())


@pytest.mark.parametrize("length", ["abc", "5, 6", "1e3", "-5", "9" * 30])
def test_a_length_that_is_none_gets_an_answer_and_the_connection_ends(length):
    async def check():
        async with running() as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{{}}".encode())
            received = await asyncio.wait_for(reader.read(), 30)
            assert received.startswith((b"HTTP/1.1 400", b"HTTP/1.1 413"))
            writer.close()

    asyncio.run(check())


def test_connections_beyond_the_limit_are_told_so_and_places_become_free_again():
    async def check():
        async with running(connections=3) as server:
            idle = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(3)]
            await eventually(lambda: len(server.http._connections) == 3)
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            refusal = (await asyncio.wait_for(reader.read(), 30)).decode()
            assert refusal.startswith("HTTP/1.1 503") and "3 connections are open, as many as may be" in refusal
            for _, other in (*idle, (reader, writer)):
                other.close()
            await eventually(lambda: not server.http._connections)
            assert (await ask(server, {"prompt": PROMPT, "temperature": 0}))[0] == 200

    asyncio.run(check())


def test_a_step_of_the_model_that_fails_leaves_no_block_behind():
    async def check():
        runner = PagedRunner(models.load("draft"), 24)
        whole, prompt = runner.model.forward_layers, list(range(40, 80))
        async with running(runner, context=500) as server:
            body = {"prompt": prompt, "max_tokens": 6, "temperature": 0}
            good = (await ask(server, body))[2]["choices"][0]["text"]
            runner.model.forward_layers = lambda *_: 1 / 0
            for other in ([*prompt, 5], [9] * 40):
                assert (await ask(server, body | {"prompt": other}))[0] == 500
            runner.model.forward_layers = whole
            assert all_free(server)
            runner.blocks.check()
            assert (await ask(server, body))[2]["choices"][0]["text"] == good
            fresh = [*[9] * 40, 8]
            alone = models.generate(models.load("draft"), torch.tensor(fresh), 6)[len(fresh) :].tolist()
            answer = (await ask(server, body | {"prompt": fresh}))[2]["choices"][0]["text"]
            assert answer == server.service.tokenizer.decode(alone)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        asyncio.run(check())
    finally:
        torch.set_num_threads(threads)


@contextlib.contextmanager
def own_process(*arguments):
    command = [sys.executable, "-m", "edgeinfer.memory.serving", "--model", "draft", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


def test_the_command_serves_refuses_a_port_in_use_and_ends_on_a_signal_with_the_answer_sent():
    with own_process("--port", "0", "--blocks", "40") as process:
        line = process.stdout.readline()
        address = line.split(" at ")[1].split()[0]
        port = address.rsplit(":", 1)[1].removesuffix("/v1")
        with own_process("--port", port) as second:
            error = second.stderr.read()
            assert second.wait(60) == 1
            assert error.startswith(f"serving: port {port} of 127.0.0.1 cannot be used (") and error.count("\n") == 1
        body = {"model": "draft", "prompt": "def f(", "max_tokens": 200, "temperature": 0, "stream": True}
        request = urllib.request.Request(f"{address}/completions", json.dumps(body).encode())
        with urllib.request.urlopen(request, timeout=60) as answer:
            first = answer.readline()
            process.send_signal(signal.SIGTERM)
            rest = answer.read().decode()
        assert first.startswith(b"data: {") and rest.endswith("data: [DONE]\n\n")
        assert process.wait(60) == 0
        assert process.stderr.read() == ""
