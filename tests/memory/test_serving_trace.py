"""What must hold of the synthetic trace: reproducible, independent columns, the shapes that it promises."""

from itertools import pairwise

import numpy as np
import pytest
from edgeinfer.memory.serving.trace import Arrival, begin_alike, cut_prompts, make_trace
from hypothesis import given, settings
from hypothesis import strategies as st


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 50), st.floats(0, 4))
def test_trace_is_sorted_within_limits_and_repeats(seed, requests, burstiness):
    trace = make_trace(seed, requests, burstiness=burstiness, longest=64)
    assert trace == make_trace(seed, requests, burstiness=burstiness, longest=64)
    assert len(trace) == requests
    assert trace[0].at == 0
    assert all(a.at <= b.at for a, b in pairwise(trace))
    assert all(1 <= a.prompt_tokens <= 64 and 1 <= a.output_tokens <= 64 for a in trace)


def test_rate_and_bursts_change_the_times_and_not_the_work():
    work = [[(a.prompt_tokens, a.output_tokens) for a in make_trace(3, 40, **how)] for how in ({}, {"rate": 1.0})]
    assert work[0] == work[1]
    slow, fast = make_trace(3, 40, rate=1.0), make_trace(3, 40, rate=10.0)
    assert slow[-1].at == pytest.approx(10 * fast[-1].at)
    assert {a.at for a in make_trace(3, 5, rate=float("inf"))} == {0.0}


def test_gaps_have_the_promised_rate_and_burstiness():
    gaps = np.diff([a.at for a in make_trace(0, 20_000, rate=5.0, burstiness=2.0)])
    assert gaps.mean() == pytest.approx(0.2, rel=0.05)
    assert gaps.std() / gaps.mean() == pytest.approx(2.0, rel=0.05)


def test_lengths_have_the_promised_mean_and_a_long_tail():
    outputs = np.array([a.output_tokens for a in make_trace(0, 20_000, output_mean=40, longest=10_000)])
    assert outputs.mean() == pytest.approx(40, rel=0.05)
    assert np.median(outputs) < 0.7 * outputs.mean()
    assert {a.output_tokens for a in make_trace(0, 9, output_mean=40, output_spread=0)} == {40}


def test_prompts_are_pieces_of_the_text():
    trace = make_trace(1, 20, longest=30)
    text = list(range(100))
    for arrival, prompt in zip(trace, cut_prompts(trace, text, seed=2), strict=True):
        assert prompt == text[prompt[0] : prompt[0] + arrival.prompt_tokens]
    assert cut_prompts(trace, text, seed=2) == cut_prompts(trace, text, seed=2)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"requests": 0}, "requests must be 1 or more; came 0"),
        ({"rate": 0}, "rate must be above 0; came 0"),
        ({"output_spread": -1}, "output_spread must be 0 or more; came -1"),
        ({"burstiness": float("nan")}, "burstiness must be 0 or more; came nan"),
    ],
)
def test_bad_arguments_get_one_sentence(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        make_trace(**({"seed": 0, "requests": 3} | arguments))


def test_a_text_too_short_is_refused():
    with pytest.raises(ValueError, match="the text has 3 tokens, but the trace asks for a prompt of 5"):
        cut_prompts([Arrival(0.0, 5, 1)], [1, 2, 3])


def test_beginnings_are_put_before_prompts_the_first_most_often():
    trace = make_trace(0, 300, longest=9)
    prompts = cut_prompts(trace, range(100))
    longer, whole = begin_alike(trace, prompts, [[500], [600, 601], [700]], skew=1.5)
    assert whole == begin_alike(trace, prompts, [[500], [600, 601], [700]], skew=1.5)[1]
    assert [a.prompt_tokens for a in longer] == [len(p) for p in whole]
    assert [(a.at, a.output_tokens) for a in longer] == [(a.at, a.output_tokens) for a in trace]
    assert all(full[-len(own) :] == own for full, own in zip(whole, prompts, strict=True))
    counts = [sum(full[0] == first for full in whole) for first in (500, 600, 700)]
    assert counts == sorted(counts, reverse=True) and sum(counts) == 300
    with pytest.raises(ValueError, match="beginnings must hold one or more; came none"):
        begin_alike(trace, prompts, [])
