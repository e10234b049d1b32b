"""A decoder over blocks writes the tokens that it writes alone, whatever is computed beside it."""

import numpy as np
import pytest
import torch
from edgeinfer import models
from edgeinfer.memory.paging import OutOfBlocks, PagedRunner, Work


@pytest.fixture(scope="module")
def model():
    return models.load("draft")


@pytest.fixture(scope="module")
def prompts():
    tokens = models.held_out_tokens().tolist()
    return [tokens[i * 97 : i * 97 + length] for i, length in enumerate((1, 15, 16, 17, 40, 70))]


def alone(model, prompt, count):
    return models.generate(model, torch.tensor(prompt), count)[len(prompt) :].tolist()


def together(runner, prompts, count, names="abcdefgh", chunk=1000):
    """Greedy continuation of all prompts in steps of all; prompts are read in parts of `chunk` tokens."""
    answers = [[] for _ in prompts]
    waiting = [list(p) for p in prompts]
    while any(len(a) < count for a in answers):
        chosen = [i for i in range(len(prompts)) if len(answers[i]) < count]
        logits = runner.step([Work(names[i], waiting[i][:chunk]) for i in chosen])
        for row, i in enumerate(chosen):
            waiting[i] = waiting[i][chunk:]
            if not waiting[i]:
                answers[i].append(int(logits[row].argmax()))
                waiting[i] = [answers[i][-1]]
    return answers


@pytest.mark.parametrize("chunk", [1000, 20, 3])
def test_the_tokens_are_those_of_the_plain_decoder(model, prompts, chunk):
    runner = PagedRunner(model, num_blocks=40)
    assert together(runner, prompts, 8, chunk=chunk) == [alone(model, p, 8) for p in prompts]
    for name in "abcdef":
        runner.free(name)
    runner.blocks.check()
    assert runner.free_blocks == 40


def test_logits_are_those_of_the_plain_decoder(model, prompts):
    runner = PagedRunner(model, num_blocks=40)
    got = runner.step([Work(str(i), p) for i, p in enumerate(prompts)])
    for row, prompt in zip(got, prompts, strict=True):
        wanted, _ = model.prefill(torch.tensor([prompt]), last_only=True)
        torch.testing.assert_close(row, wanted[0, -1], rtol=2e-4, atol=2e-4)
    assert model.attention.__name__ == "attend"  # the caller's model was left alone


def test_a_pool_of_bfloat16_is_half_as_large_and_nearly_the_same(model, prompts):
    wide, narrow = PagedRunner(model, 20), PagedRunner(model, 20, dtype=torch.bfloat16)
    assert 2 * narrow.block_bytes == wide.block_bytes
    a, b = (r.step([Work("a", prompts[5])]) for r in (wide, narrow))
    assert (a - b).abs().max() < 0.3


def test_samples_of_one_prompt_share_its_blocks_until_they_write(model, prompts):
    runner = PagedRunner(model, 20)
    runner.step([Work("a", prompts[4])])  # 40 tokens: 3 blocks, the last one half full
    runner.fork("a", "b")
    assert runner.free_blocks == 17
    runner.step([Work("a", [5]), Work("b", [9])])
    assert runner.free_blocks == 16  # one copy: the first writer's
    runner.blocks.check()
    for name, token in (("a", 5), ("b", 9)):
        got = runner.step([Work(name, [7])])[0]
        wanted, _ = model.prefill(torch.tensor([[*prompts[4], token, 7]]), last_only=True)
        torch.testing.assert_close(got, wanted[0, -1], rtol=2e-4, atol=2e-4)


def test_a_second_request_finds_the_first_ones_prefix(model, prompts):
    runner = PagedRunner(model, 20)
    runner.step([Work("a", prompts[5])])
    runner.free("a")
    known = runner.open("b", [*prompts[5][:50], 3, 4])
    assert known == 48
    got = runner.step([Work("b", [*prompts[5][48:50], 3, 4])])[0]
    wanted, _ = model.prefill(torch.tensor([[*prompts[5][:50], 3, 4]]), last_only=True)
    torch.testing.assert_close(got, wanted[0, -1], rtol=2e-4, atol=2e-4)


def test_a_sequence_may_leave_and_come_back(model, prompts):
    runner = PagedRunner(model, 8)
    first = int(runner.step([Work("a", prompts[4])])[0].argmax())
    moved = runner.swap_out("a")
    assert moved == 3 * runner.block_bytes and runner.free_blocks == 8
    runner.step([Work("b", prompts[5])])  # takes the very blocks
    with pytest.raises(ValueError, match="was moved out of the pool; bring it back"):
        runner.step([Work("a", [first])])
    runner.step([Work("b", [1] * 58)])
    with pytest.raises(OutOfBlocks):
        runner.swap_in("a")
    runner.free("b")
    assert runner.swap_in("a") == moved
    runner.blocks.check()
    second = int(runner.step([Work("a", [first])])[0].argmax())
    assert [first, second] == alone(model, prompts[4], 2)
    runner.swap_out("a")
    runner.free("a")
    assert runner.free_blocks == 8


def test_a_step_that_does_not_fit_changes_nothing(model, prompts):
    runner = PagedRunner(model, 4)
    runner.step([Work("a", prompts[4])])
    with pytest.raises(OutOfBlocks, match="this step needs 2 more blocks, but 1 of 4 are free"):
        runner.step([Work("a", [1]), Work("b", prompts[3])])
    assert runner.blocks.sequences == ("a",) and runner.blocks.length("a") == 40
    runner.blocks.check()


def test_what_makes_no_sense_is_refused(model):
    runner = PagedRunner(model, 400)
    with pytest.raises(ValueError, match="each sequence once, with at least one token"):
        runner.step([Work("a", [1]), Work("a", [2])])
    with pytest.raises(ValueError, match="each sequence once, with at least one token"):
        runner.step([Work("a", [])])
    limit = model.config.max_position_embeddings
    with pytest.raises(ValueError, match=f"the model reads at most {limit}"):
        runner.step([Work("a", [1] * (limit + 1))])
    with pytest.raises(KeyError, match="was not moved out"):
        runner.swap_in("a")
    with pytest.raises(KeyError, match="no sequence is called"):
        runner.free("a")
    with pytest.raises(ValueError, match="float32 or bfloat16"):
        PagedRunner(model, 4, dtype=torch.float16)
    assert runner.step([]).shape == (0, model.config.vocab_size)
    assert np.isfinite(runner.step([Work("a", [1])]).numpy()).all()
