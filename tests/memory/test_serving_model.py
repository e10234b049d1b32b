"""What must hold with the real model and the real pool: answers as if alone, whatever happens on the way."""

import asyncio

import pytest
import torch
from edgeinfer import models
from edgeinfer.memory.paging.runner import PagedRunner
from edgeinfer.memory.serving import Engine, Request, StaticBatching, cut_prompts, fit, make_trace, replay
from edgeinfer.memory.serving.cost import CostModel
from edgeinfer.memory.serving.server import Settings, serve
from edgeinfer.memory.serving.service import Service

from .test_serving_server import ask

MODEL = models.load("draft")
TRACE = make_trace(7, 12, rate=float("inf"), prompt_mean=20, output_mean=20, longest=60)
PROMPTS = cut_prompts(TRACE, models.held_out_tokens()[:4000].tolist())


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def alone(prompt, count):
    return models.generate(MODEL, torch.tensor(prompt), count)[len(prompt) :].tolist()


EXPECTED = [alone(prompt, arrival.output_tokens) for prompt, arrival in zip(PROMPTS, TRACE, strict=True)]


@pytest.mark.parametrize(
    ("make", "blocks"),
    [
        (lambda runner: Engine(runner, 6, 16), 64),
        (lambda runner: Engine(runner, 6, 16, "recompute"), 7),
        (lambda runner: Engine(runner, 6, 16, "swap"), 7),
        (lambda runner: StaticBatching(runner, 6), 64),
    ],
    ids=["roomy", "recompute", "swap", "static"],
)
def test_answers_are_those_of_generate_and_the_pool_is_whole(make, blocks):
    runner = PagedRunner(MODEL, blocks, 16, torch.float32)
    found = replay(make(runner), TRACE, PROMPTS)
    assert [served.tokens for served in found.served] == EXPECTED
    assert runner.free_blocks == blocks
    runner.blocks.check()
    assert (found.preemptions > 0) == (blocks == 7)


def test_cancelling_in_the_middle_leaves_the_others_as_they_are():
    runner = PagedRunner(MODEL, 40, 16, torch.float32)
    engine = Engine(runner, 4, 16)
    for number in range(4):
        engine.add(Request(str(number), tuple(PROMPTS[number]), 12))
    answers = {str(number): [] for number in range(4)}
    for step in range(200):
        if step == 5:
            assert engine.cancel("1")
            runner.blocks.check()
        for event in engine.step():
            answers[event.request_id].append(event.token)
        if not engine.busy:
            break
    for number in (0, 2, 3):
        assert answers[str(number)] == alone(PROMPTS[number], 12)
    assert runner.free_blocks == 40


def test_the_server_answers_twenty_at_once_as_it_answers_each_alone():
    async def check():
        tokenizer = models.load_tokenizer("draft")
        engine = Engine(PagedRunner(MODEL, 24, 16, torch.float32), 8, 32, context=512)
        server = await serve(Service(engine, tokenizer), Settings("draft", 512, begin=1), port=0)
        prompts = [models.tasks.BEGIN, *range(40, 60)]
        bodies = [{"model": "draft", "prompt": prompts[: 2 + i], "max_tokens": 12, "temperature": 0} for i in range(20)]
        together = await asyncio.gather(*(ask(server, body) for body in bodies))
        one_by_one = [await ask(server, body) for body in bodies]
        await server.close()
        texts = [[content["choices"][0]["text"] for _, _, content in found] for found in (together, one_by_one)]
        assert texts[0] == texts[1]
        assert texts[0] == [tokenizer.decode(alone(body["prompt"], 12)) for body in bodies]

    asyncio.run(check())


def test_a_cost_model_is_found_again_from_its_own_times():
    steps = replay(Engine(PagedRunner(MODEL, 64, 16, torch.float32), 6, 16), TRACE, PROMPTS).steps
    records = [step.record for step in steps]
    truth = CostModel(1e-3, 2e-4, 3e-4, 4e-6)
    again = fit(records, [truth.seconds(record) for record in records])
    assert again.fixed == pytest.approx(truth.fixed, rel=1e-3)
    assert again.per_pair == pytest.approx(truth.per_pair, rel=1e-3)
    with pytest.raises(ValueError, match="at least 4 measured steps; came 1"):
        fit(records[:1], [1.0])
