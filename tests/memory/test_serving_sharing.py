"""What must hold when prompts begin alike: read once, answers as ever, nothing left behind that was not computed."""

import pytest
import torch
from edgeinfer import models
from edgeinfer.memory.paging import PagedRunner, Work
from edgeinfer.memory.serving import Engine, Request, begin_alike, cut_prompts, make_trace, replay

from .serving_fake import HashRunner, answer
from .test_serving_engine import run

SIZE = 4  # of the fake runner's blocks
BEGIN = tuple(range(50, 62))  # three blocks


def ask(engine, name, prompt, count=3, **how):
    engine.add(Request(name, tuple(prompt), count, **how))


def expected(prompts, count=3):
    return {name: answer(prompt, count) for name, prompt in prompts.items()}


def test_a_later_request_reads_only_what_is_its_own():
    runner = HashRunner(40)
    engine = Engine(runner)
    ask(engine, "first", (*BEGIN, 1, 2))
    run(engine)
    before = runner.computed
    ask(engine, "second", (*BEGIN, 9, 9, 9))
    assert run(engine)[0] == {"second": answer((*BEGIN, 9, 9, 9), 3)}
    assert runner.computed - before == 3 + 2  # its own prompt, and two of the three tokens that it made
    assert engine.reused == len(BEGIN)


def test_those_that_come_together_read_their_beginning_once():
    runner = HashRunner(60)
    engine = Engine(runner, max_batch=6, token_budget=64)
    prompts = {str(i): (*BEGIN, i) for i in range(6)}
    for name, prompt in prompts.items():
        ask(engine, name, prompt)
    assert run(engine)[0] == expected(prompts)
    assert runner.computed == len(BEGIN) + 6 * (1 + 2)


def test_equal_prompts_are_read_once_and_their_blocks_are_copied_when_they_write():
    runner = HashRunner(60)
    engine = Engine(runner, max_batch=4)
    prompt = (*BEGIN, 1, 2)
    for i in range(4):
        ask(engine, str(i), prompt, 4, temperature=3.0, seed=i)
    events = engine.step()
    assert [e.request_id for e in events] == ["0", "1", "2", "3"]
    assert [e.reused for e in events] == [0, 14, 14, 14]
    assert runner.computed == 14
    assert runner.num_blocks - runner.free_blocks == 4
    engine.step()
    assert runner.num_blocks - runner.free_blocks == 3 + 4
    alone = Engine(HashRunner(60))
    together = run(engine)[0]
    for i in range(4):
        ask(alone, str(i), prompt, 4, temperature=3.0, seed=i)
        assert run(alone)[0][str(i)][2:] == together[str(i)]


def test_a_request_takes_a_beginning_that_another_read_meanwhile():
    engine = Engine(HashRunner(60), max_batch=2, token_budget=5)
    ask(engine, "first", (*BEGIN, 1))
    engine.step()
    ask(engine, "second", (*BEGIN, 2))
    answers, _ = run(engine)
    assert answers == expected({"first": (*BEGIN, 1), "second": (*BEGIN, 2)})
    assert engine.reused == len(BEGIN)


def test_kept_blocks_are_given_away_when_others_need_them():
    runner = HashRunner(6)
    engine = Engine(runner)
    ask(engine, "first", (*BEGIN, 1))
    run(engine)
    assert runner.blocks.kept_blocks == 3 and runner.free_blocks == 6
    ask(engine, "large", range(1, 20), 5)
    assert run(engine)[0] == {"large": answer(range(1, 20), 5)}
    assert runner.blocks.find(BEGIN).blocks == 0
    ask(engine, "again", (*BEGIN, 1))
    assert run(engine)[0] == {"again": answer((*BEGIN, 1), 3)}
    runner.blocks.check()


def test_shared_blocks_are_not_counted_twice_when_a_request_joins():
    engine = Engine(HashRunner(7), max_batch=4)
    ask(engine, "0", (*BEGIN, 0), 8)
    engine.step()
    for i in (1, 2, 3):  # each alone needs five blocks, beside the first one a single one
        ask(engine, str(i), (*BEGIN, i), 1)
    engine.step()
    assert engine.last_step.held == 7 and not engine.preemptions


@pytest.mark.parametrize("how", ["recompute", "swap"])
def test_somebody_steps_back_when_there_is_no_block_for_a_copy(how):
    runner = HashRunner(4)
    engine = Engine(runner, 3, 12, how)
    prompts = {"old": (1, 2, 3, 4), "one": BEGIN[:6], "two": BEGIN[:6]}
    for name, prompt in prompts.items():
        ask(engine, name, prompt, 5)
    assert len(engine.step()) == 3
    assert runner.free_blocks == 1  # "old" needs it for its next token, and so does the copy of the shared last block
    assert run(engine)[0] == {name: answer(prompt, 5)[1:] for name, prompt in prompts.items()}
    assert engine.preemptions > 0


def test_a_request_that_was_cancelled_half_read_leaves_only_what_was_computed():
    runner = HashRunner(40)
    engine = Engine(runner, max_batch=2, token_budget=6)
    ask(engine, "first", (*BEGIN, 1))
    engine.step()
    engine.cancel("first")
    assert runner.blocks.find(BEGIN).blocks == 1
    ask(engine, "second", (*BEGIN, 2))
    assert run(engine)[0] == {"second": answer((*BEGIN, 2), 3)}


def test_an_equal_request_goes_on_alone_when_the_one_it_waited_for_is_cancelled_or_paused():
    for leave in ("cancel", "pause"):
        engine = Engine(HashRunner(40), max_batch=2, token_budget=4)
        for name in "ab":
            ask(engine, name, BEGIN)
        engine.step()
        getattr(engine, leave)("a")
        answers = {}
        while engine.ready:
            for event in engine.step():
                answers.setdefault(event.request_id, []).append(event.token)
        assert answers == {"b": answer(BEGIN, 3)}


def test_sharing_can_be_left_off():
    runner = HashRunner(60)
    engine = Engine(runner, share_prefixes=False)
    for i in range(3):
        ask(engine, str(i), (*BEGIN, 1))
    run(engine)
    assert (runner.computed, engine.reused) == (3 * (13 + 2), 0)


@pytest.mark.parametrize(
    ("how", "blocks", "kind"),
    [("recompute", 80, torch.float32), ("recompute", 9, torch.float32), ("swap", 9, torch.float32)],
)
def test_a_model_writes_the_same_tokens_with_and_without_sharing(how, blocks, kind):
    model, text = models.load("draft"), models.held_out_tokens()[:4000].tolist()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        trace = make_trace(3, 10, rate=float("inf"), prompt_mean=12, output_mean=14, longest=40)
        trace, prompts = begin_alike(trace, cut_prompts(trace, text), [text[:40], text[100:133]])
        prompts[5], trace[5] = prompts[4], trace[4]
        runners = [PagedRunner(model, blocks, 16, kind) for _ in range(2)]
        shared, plain = (
            replay(Engine(runner, 5, 24, how, share_prefixes=share), trace, prompts)
            for runner, share in zip(runners, (True, False), strict=True)
        )
        assert [s.tokens for s in shared.served] == [s.tokens for s in plain.served]
        assert shared.read < plain.read and shared.reused > 0 == plain.reused
        for runner in runners:
            runner.blocks.check()
            assert runner.free_blocks == blocks
    finally:
        torch.set_num_threads(threads)


def test_a_step_that_failed_leaves_no_block_that_a_prompt_could_find():
    runner = PagedRunner(models.load("draft"), 20)
    text = list(range(100, 150))
    runner.step([Work("kept", text[:20])])
    whole = runner.model.forward_layers
    runner.model.forward_layers = lambda *_: 1 / 0
    with pytest.raises(ZeroDivisionError):
        runner.step([Work("kept", text[20:]), Work("new", text[5:])])
    runner.model.forward_layers = whole
    assert runner.blocks.sequences == ("kept",)
    runner.free("kept")
    runner.blocks.check()
    assert runner.blocks.find(text).blocks == 1  # from the step that went well
    assert runner.blocks.find(text[5:]).blocks == 0


def test_a_sequence_that_comes_back_shares_what_is_still_there():
    runner = PagedRunner(models.load("draft"), 12)
    text = list(range(100, 150))
    runner.step([Work("a", text[:40])])
    runner.fork("a", "b")
    runner.step([Work("b", text[40:44])])
    assert runner.swap_out("a") == 3 * runner.block_bytes
    assert runner.swap_in("a") == runner.block_bytes  # two full blocks are held by the other
    runner.blocks.check()
    assert runner.blocks.block_table("a")[:2] == runner.blocks.block_table("b")[:2]
