"""What must hold for the client library that people have: `openai` talks to the server without knowing what it is."""

import asyncio

import pytest

from .serving_fake import Broken, Gated, answer
from .test_serving_server import all_free, eventually, running, text_of

openai = pytest.importorskip("openai", reason="openai is not installed; the tests of the client library need it")

PROMPT = [7, 8, 9]


def client_of(server):
    return openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="none", max_retries=0, timeout=30)


def with_client(check, runner=None, **options):
    async def go():
        async with running(runner, **options) as server, client_of(server) as client:
            await check(server, client)

    asyncio.run(go())


def test_completions_and_streams():
    async def check(server, client):
        asked = {"model": "target", "prompt": PROMPT, "max_tokens": 25, "temperature": 0}
        whole = await client.completions.create(**asked)
        assert whole.choices[0].text == text_of(PROMPT, 25)
        assert (whole.choices[0].finish_reason, whole.usage.completion_tokens) == ("length", 25)
        stream = await client.completions.create(**asked, stream=True, stream_options={"include_usage": True})
        pieces = [piece async for piece in stream]
        assert "".join(p.choices[0].text for p in pieces if p.choices) == whole.choices[0].text
        assert pieces[-1].usage == whole.usage

    with_client(check)


def test_chat_and_models():
    async def check(server, client):
        assert [model.id async for model in client.models.list()] == ["target"]
        messages = [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]
        asked = {"model": "target", "messages": messages, "max_completion_tokens": 12, "temperature": 0}
        whole = await client.chat.completions.create(**asked)
        assert whole.choices[0].message.content == text_of(server.service.tokenizer.encode("a\nb").ids, 12)
        stream = await client.chat.completions.create(**asked, stream=True)
        text = "".join([piece.choices[0].delta.content or "" async for piece in stream])
        assert text == whole.choices[0].message.content

    with_client(check)


def test_twenty_clients_at_once_get_what_each_gets_alone():
    async def check(server, client):
        async def one(prompt):
            asked = {"model": "target", "prompt": prompt, "max_tokens": 20, "temperature": 0}
            stream = await client.completions.create(**asked, stream=True)
            return "".join([piece.choices[0].text async for piece in stream])

        prompts = [[30 + i, 3 * i] for i in range(20)]
        assert await asyncio.gather(*map(one, prompts)) == [text_of(p, 20) for p in prompts]
        assert all_free(server)

    with_client(check, Gated(40))


def test_leaving_a_stream_frees_its_blocks():
    async def check(server, client):
        stream = await client.completions.create(model="target", prompt=PROMPT, max_tokens=3900, stream=True)
        async for _ in stream:
            break
        await stream.close()
        await eventually(lambda: all_free(server))

    with_client(check)


def test_errors_arrive_as_the_exceptions_that_people_catch():
    async def check(server, client):
        with pytest.raises(openai.NotFoundError, match="there is no model 'gpt-4'"):
            await client.completions.create(model="gpt-4", prompt="a")
        with pytest.raises(openai.BadRequestError, match="together 60, but the model has a context of 50") as caught:
            await client.completions.create(model="target", prompt=[5] * 50, max_tokens=10)
        assert caught.value.code == "context_length_exceeded"
        with pytest.raises(openai.InternalServerError):
            await client.completions.create(model="target", prompt=[13])

    with_client(check, Broken(50), context=50)


def test_a_full_queue_is_a_rate_limit_error():
    async def check(server, client):
        server.service.engine.runner.gate.clear()
        first = asyncio.create_task(client.completions.create(model="target", prompt=PROMPT, temperature=0))
        await eventually(lambda: server.service.tickets)
        with pytest.raises(openai.RateLimitError, match="1 requests are here already"):
            await client.completions.create(model="target", prompt=PROMPT)
        server.service.engine.runner.gate.set()
        assert len(answer(PROMPT, 16)) == (await first).usage.completion_tokens

    with_client(check, Gated(2000), most=1)


WRONG = [
    ({"prompt": "a", "max_tokens": 10**9}, openai.BadRequestError),
    ({"prompt": "a", "max_tokens": 0}, openai.BadRequestError),
    ({"prompt": "a", "temperature": "hot"}, openai.BadRequestError),
    ({"prompt": {"text": "a"}}, openai.BadRequestError),
    ({"prompt": []}, openai.BadRequestError),
    ({"prompt": "a", "n": 100}, openai.BadRequestError),
    ({"prompt": "a", "stop": [""]}, openai.BadRequestError),
    ({"prompt": "a", "seed": 1.5}, openai.BadRequestError),
    ({"prompt": "a", "model": "gpt-4"}, openai.NotFoundError),
    ({"prompt": "a" * 300_000}, openai.APIStatusError),
]


def test_sixty_clients_of_every_kind_at_once():
    async def check(server, client):
        async def reads(number):
            asked = {"prompt": [50 + number, *PROMPT * 4], "max_tokens": 30 + number, "temperature": 0}
            stream = await client.completions.create(model="target", stream=True, **asked)
            assert "".join([p.choices[0].text async for p in stream]) == text_of(asked["prompt"], 30 + number)

        async def leaves(number):
            stream = await client.completions.create(model="target", prompt=PROMPT, max_tokens=3000, stream=True)
            for _ in range(number):
                await anext(stream)
            await stream.close()

        async def gives_up(number):
            asked = {"model": "target", "prompt": [*PROMPT * 9, number], "max_tokens": 3000}
            task = asyncio.create_task(client.completions.create(**asked))
            await eventually(lambda: server.service.tickets)
            task.cancel()

        async def never_reads(number):
            asked = {"model": "target", "prompt": [number], "max_tokens": 3000}
            return await client.completions.create(stream=True, **asked)

        async def draws(number):
            asked = {"prompt": PROMPT * 5, "n": 4, "seed": number, "temperature": 2, "max_tokens": 9}
            one, two = [await client.completions.create(model="target", **asked) for _ in range(2)]
            assert [c.text for c in one.choices] == [c.text for c in two.choices]
            assert two.usage.prompt_tokens_details.cached_tokens > 0

        async def stops(number):
            full = text_of([number, 3], 60)
            asked = {"prompt": [number, 3], "max_tokens": 60, "temperature": 0, "stop": full[20:22]}
            assert (await client.completions.create(model="target", **asked)).choices[0].text == full.split(
                full[20:22]
            )[0]

        async def is_wrong(number):
            asked, error = WRONG[number % len(WRONG)]
            with pytest.raises(error) as caught:
                await client.completions.create(**{"model": "target"} | asked)
            assert caught.value.body["message"] and caught.value.body["type"] == "invalid_request_error"

        kinds = [reads, leaves, gives_up, never_reads, draws, stops, is_wrong]
        done = await asyncio.gather(*(kinds[i % len(kinds)](i) for i in range(70)))
        for stream in filter(None, done):
            await stream.close()
        await eventually(lambda: all_free(server) and not server.at_work)
        server.service.engine.runner.blocks.check()

    with_client(check, Gated(3000), most=120, body_limit=200_000)
