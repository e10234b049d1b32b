"""The shipped decoder out of one arena: the same bits, almost no other memory, one plan for every length."""

import pytest
import torch
from edgeinfer import models
from edgeinfer.memory.buffers import PLANNERS, Plan, check_plan, lower_bound
from edgeinfer.memory.buffers import decoder_programs as programs
from edgeinfer.memory.buffers.arena import ArenaProgram, operator_by_operator, peak_allocated, relayout_bytes
from edgeinfer.memory.buffers.recording import record
from edgeinfer.memory.buffers.symbolic import generalise, plan_symbolic
from edgeinfer.memory.kv_in_place import InPlaceCache


@pytest.fixture(scope="module")
def model():
    return models.load("target")


@pytest.fixture()
def cache(model):
    return InPlaceCache(model.config, 1, model.dtype)


def tokens(count, start=0):
    return models.held_out_tokens("text")[start : start + count].clone()[None]


@pytest.mark.parametrize("name", list(PLANNERS))
@pytest.mark.parametrize("attention", [programs.fused_attention, programs.plain_attention])
def test_a_prompt_out_of_one_arena_gives_the_same_bits(model, cache, name, attention):
    program = programs.prompt_program(model, 13, cache, attention)
    bound = ArenaProgram(program, PLANNERS[name](program.buffers()))
    for start in (0, 50):  # the second run meets what the first one left in the arena
        prompt = tokens(13, start)
        bound.arena.fill_(255)
        got = bound(prompt).clone()
        model.attention = attention
        want = operator_by_operator(lambda t: model.prefill(t, last_only=True)[0], prompt)
        assert torch.equal(got, want)


def test_recorded_lifetimes_are_met_exactly_by_the_bound(model, cache):
    buffers = programs.prompt_program(model, 16, cache).buffers()
    best = PLANNERS["best fit, largest first"](buffers)
    assert best.total == lower_bound(buffers) < PLANNERS["naive"](buffers).total / 10


def test_a_plan_that_shares_too_much_is_refused_or_shows(model, cache):
    program = programs.prompt_program(model, 8, cache)
    plan = PLANNERS["best fit, largest first"](program.buffers())
    with pytest.raises(ValueError, match="are both alive in step"):
        ArenaProgram(program, Plan((0,) * len(plan.offsets), plan.total, "all at 0"))
    with pytest.raises(ValueError, match="the plan needs"):
        ArenaProgram(program, plan, torch.empty(64, dtype=torch.uint8))
    bound = ArenaProgram(program, plan)
    with pytest.raises(ValueError, match=r"input 0 has the shape \(1, 9\)"):
        bound(tokens(9))
    with pytest.raises(ValueError, match="takes 1 inputs"):
        bound()


def test_one_stream_decodes_every_position_as_the_model_does(model):
    prompt, count = tokens(12), 16
    decoder = programs.ArenaDecoder(model, positions=64)
    logits, chosen = decoder.prefill(prompt), []
    for _ in range(count):
        token = logits[:, -1].argmax(-1, keepdim=True)
        chosen.append(int(token))
        logits = decoder.decode(token)
    assert chosen == models.generate(model, prompt[0], count)[-count:].tolist()
    with pytest.raises(ValueError, match="outside of the plan's range"):
        decoder.plan.at(64)


def test_decoding_allocates_next_to_nothing_beside_its_arena(model):
    decoder = programs.ArenaDecoder(model, positions=64)
    decoder.prefill(tokens(20))
    bound, token = decoder.bind(), torch.zeros((1, 1), dtype=torch.int64)
    bound(token)
    beside, _ = peak_allocated(bound, token)
    model.attention = programs.plain_attention
    eager, _ = peak_allocated(lambda: operator_by_operator(lambda t: model.decode(t, decoder.cache), token))
    model.attention = programs.fused_attention
    assert beside <= 64 < 4096 < eager


def test_one_plan_holds_for_prompts_of_any_length(model, cache):
    program = programs.any_prompt(model, cache)
    plan = plan_symbolic(program.buffers(), 2, 1024)
    for n in (2, 3, 31, 100):
        prompt, concrete = tokens(n), program.at(n)
        assert plan.at(n).total == lower_bound(concrete.buffers(alignment=16))
        bound = ArenaProgram(concrete, plan.at(n))
        model.attention = programs.fused_attention
        want = operator_by_operator(lambda t: model.prefill(t, last_only=True)[0], prompt)
        assert torch.equal(bound(prompt), want)
        check_plan(concrete.buffers(alignment=1), plan.at(n))
    assert 0 < program.fields < len(program.template.steps)


def test_plain_attention_over_a_prompt_is_not_linear_and_says_so(model, cache):
    make = lambda n: programs.prompt_program(model, n, cache, programs.plain_attention)  # noqa: E731
    with pytest.raises(ValueError, match="not linear in n"):
        generalise(make, (8, 12, 20))


def test_a_choice_of_experts_cannot_be_a_straight_list():
    mixture = models.load("moe")
    with pytest.raises(ValueError, match="reads the values of a tensor"):
        programs.prompt_program(mixture, 8, InPlaceCache(mixture.config, 1, mixture.dtype))


def test_bfloat16_runs_out_of_its_arena_too():
    small = models.load("draft", torch.bfloat16)
    decoder = programs.ArenaDecoder(small, positions=40)
    logits, prompt, chosen = None, tokens(10), []
    logits = decoder.prefill(prompt)
    for _ in range(6):
        token = logits[:, -1].argmax(-1, keepdim=True)
        chosen.append(int(token))
        logits = decoder.decode(token)
        assert torch.isfinite(logits).all() and logits.dtype == torch.bfloat16
    assert decoder.cache.length == 16


def test_recording_drops_what_nobody_uses_and_keeps_what_lasts():
    kept = torch.zeros(3)

    def function(x):
        (x * 7).exp()  # nobody uses it
        kept.add_(x)  # memory of before: it stays
        return torch.cat((x, x)) + 1

    program = record(function, torch.ones(3))
    assert [s.name for s in program.steps] == ["add_", "cat", "add"]
    assert relayout_bytes(program) == 24
    bound = ArenaProgram(program, PLANNERS["best fit, largest first"](program.buffers()))
    kept.zero_()
    assert bound(torch.full((3,), 2.0)).tolist() == [3.0] * 6 and kept.tolist() == [2.0] * 3
    with pytest.raises(ValueError, match="one tensor that it computed"):
        record(lambda x: x, torch.ones(2))
    with pytest.raises(ValueError, match="the program depends on n"):
        generalise(lambda n: record(lambda x: x.exp() if n > 9 else x + 1, torch.ones(3)), (8, 12, 20))
