"""The schedule of a pipeline: bounds that any schedule keeps, and exact times where all chunks are equal."""

import numpy as np
import pytest
from edgeinfer.collab.pipeline_schedule import (
    chunk_lengths,
    decode_rounds,
    finish_times,
    layer_split,
    prefill_seconds,
)
from hypothesis import given
from hypothesis import strategies as st


@given(st.integers(1, 60), st.integers(1, 60))
def test_every_layer_belongs_to_one_stage_and_shares_differ_by_one_at_most(layers, stages):
    if stages > layers:
        with pytest.raises(ValueError, match=f"{layers} layers cannot be dealt to {stages} stages"):
            layer_split(layers, stages)
        return
    split = layer_split(layers, stages)
    assert [n for first, last in split for n in range(first, last)] == list(range(layers))
    sizes = [last - first for first, last in split]
    assert len(sizes) == stages and max(sizes) - min(sizes) <= 1


@given(st.integers(1, 300), st.integers(1, 90))
def test_chunks_cover_the_prompt(tokens, chunk):
    lengths = chunk_lengths(tokens, chunk)
    assert sum(lengths) == tokens and all(length == chunk for length in lengths[:-1]) and 0 < lengths[-1] <= chunk


@given(st.integers(1, 6), st.integers(1, 9), st.integers(0, 2**31))
def test_no_stage_does_two_chunks_at_once_and_none_starts_before_its_input(stages, chunks, seed):
    rng = np.random.default_rng(seed)
    seconds, transfer = rng.random((stages, chunks)), float(rng.random())
    done = finish_times(seconds, transfer)
    start = done - seconds
    assert (start[:, 1:] >= done[:, :-1] - 1e-12).all()
    assert (start[1:] >= done[:-1] + transfer - 1e-12).all()
    assert done[-1, -1] >= max(seconds.sum(1).max(), seconds[:, 0].sum()) - 1e-12


def test_equal_chunks_take_the_textbook_time():
    assert finish_times(np.ones((3, 5)))[-1, -1] == 5 + 3 - 1
    assert prefill_seconds(np.ones(8), 2) == pytest.approx((8 + 1) / 2)
    assert prefill_seconds(np.ones(1), 4) == pytest.approx(1)  # one chunk: nothing overlaps


def test_independent_sequences_fill_a_pipeline_that_one_leaves_idle():
    assert decode_rounds(1, 10, 4) == 9 * 4 + 4
    assert decode_rounds(4, 10, 4) < 1.1 * decode_rounds(1, 10, 4)
    assert decode_rounds(8, 10, 4) > decode_rounds(4, 10, 4)


@given(st.integers(1, 6), st.integers(1, 8), st.integers(1, 5))
def test_rounds_are_those_of_a_step_by_step_simulation(sequences, tokens, stages):
    place = {n: -1 for n in range(sequences)}  # stage a sequence is in; -1 waits for the first
    left, order, rounds = dict.fromkeys(range(sequences), tokens), list(range(sequences)), 0
    while any(left.values()):
        rounds += 1
        for n in [n for n in place if place[n] >= 0]:
            place[n] += 1
        for n in [n for n in place if place[n] == stages]:
            place[n], left[n] = -1, left[n] - 1
            if left[n]:
                order.append(n)
        if order:
            place[order.pop(0)] = 0
    assert rounds - 1 == decode_rounds(sequences, tokens, stages)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: chunk_lengths(4, 0), "chunk must be at least 1 token, got 0"),
        (lambda: finish_times(np.ones(3)), r"seconds must be \(stages, chunks\)"),
        (lambda: decode_rounds(0, 1, 1), "must be at least 1; came 0, 1, 1"),
    ],
)
def test_wrong_input_gets_one_sentence(call, says):
    with pytest.raises(ValueError, match=says):
        call()
