"""Reused prefixes give the answers of a full prefill, in whole blocks, under any limit."""

import pytest
import torch
from edgeinfer import models
from edgeinfer.memory.prefix_reuse import PrefixCache, answer
from hypothesis import given, settings
from hypothesis import strategies as st


@pytest.fixture(scope="module")
def model():
    return models.load("draft")


@pytest.fixture(scope="module")
def text():
    return models.held_out_tokens()[:400]


def test_a_second_prompt_runs_only_what_is_new(model, text):
    prefixes = PrefixCache(block_tokens=8)
    first = answer(model, text[:50], 4, prefixes)
    assert first.reused == 0 and first.prefilled == 50
    second = answer(model, torch.cat((text[:50], text[300:310])), 4, prefixes)
    assert second.reused == 48 and second.prefilled == 12


def test_answers_and_logits_are_those_of_a_full_prefill(model, text):
    prefixes = PrefixCache(block_tokens=16)
    history = text[:40]
    for turn in range(3):
        prompt = torch.cat((history, text[100 + 20 * turn : 120 + 20 * turn]))
        full, _ = model.prefill(prompt[None], last_only=True)
        logits, _, reused = prefixes.prefill(model, prompt)
        assert (reused > 0) == (turn > 0)
        torch.testing.assert_close(logits, full, atol=2e-4, rtol=1e-4)
        mine, plain = answer(model, prompt, 6, prefixes), answer(model, prompt, 6)
        assert mine.answer == plain.answer
        history = torch.cat((prompt, torch.tensor(mine.answer)))


def test_a_prompt_that_is_kept_whole_still_runs_its_last_token(model, text):
    prefixes = PrefixCache(block_tokens=8)
    answer(model, text[:32], 1, prefixes)
    again = answer(model, text[:32], 1, prefixes)
    assert again.reused == 24 and again.prefilled == 8  # whole blocks, and never all of it


def test_a_change_inside_a_block_ends_the_match_there(model, text):
    prefixes = PrefixCache(block_tokens=8)
    answer(model, text[:64], 1, prefixes)
    other = text[:64].clone()
    other[20] = (other[20] + 1) % 1024
    assert prefixes.match(other.tolist()) == 16
    assert prefixes.match(text[1:64].tolist()) == 0


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 60)), min_size=1, max_size=6), st.integers(0, 96))
@settings(max_examples=15, deadline=None)
def test_the_limit_is_kept_and_what_is_left_can_be_matched(model, text, prompts, limit):
    prefixes = PrefixCache(block_tokens=8, max_tokens=limit)
    for start, length in prompts:
        prompt = text[100 * start : 100 * start + length]
        before = prefixes.match(prompt.tolist())
        turn = answer(model, prompt, 2, prefixes)
        assert turn.reused == before and turn.answer == answer(model, prompt, 2).answer
        assert prefixes.kept_tokens <= limit
    reachable = {tuple(text[100 * s : 100 * s + 60].tolist()): 0 for s in range(3)}
    most = sum(prefixes.match(list(t)) for t in reachable)
    assert most <= prefixes.kept_tokens  # answers may be kept behind prompts, never in front of them


def test_the_least_recently_used_conversation_goes_first(model, text):
    prefixes = PrefixCache(block_tokens=8, max_tokens=64)
    for start in (0, 100, 0, 200):
        answer(model, text[start : start + 32], 1, prefixes)
    assert prefixes.match(text[0:33].tolist()) == 32
    assert prefixes.match(text[100:133].tolist()) == 0
    assert prefixes.nbytes == prefixes.kept_tokens * model.config.num_hidden_layers * 2 * 4 * (
        model.config.num_key_value_heads * model.config.head_dim
    )


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: PrefixCache(0), "block_tokens must be at least 1, got 0"),
        (lambda: PrefixCache(8, -1), "max_tokens must be at least 0 or None, got -1"),
        (lambda: PrefixCache().prefill(None, torch.zeros(2, 8)), r"one prompt \(tokens,\) .*came \(2, 8\)"),
    ],
)
def test_wrong_input_gets_one_sentence(call, says):
    with pytest.raises(ValueError, match=says):
        call()
