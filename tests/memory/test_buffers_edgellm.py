"""EdgeLLM: the packed format unpacks to the oracle, one layout through all operators, queues that hide preparation."""

import itertools

import numpy as np
import pytest
from edgeinfer import models
from edgeinfer.memory.buffers import log_scale as log
from edgeinfer.memory.buffers import schedule
from edgeinfer.memory.buffers import unified_format as unified
from hypothesis import given, settings
from hypothesis import strategies as st


def oracle(weight, keep, group_size):
    """Prune and round weight by weight."""
    out = np.zeros(weight.shape)
    for n, row in enumerate(weight):
        kept = np.zeros(len(row))
        for start in range(0, len(row), 8):
            run = row[start : start + 8]
            for k in sorted(range(8), key=lambda k: (-abs(float(run[k])), k))[:keep]:
                kept[start + k] = run[k]
        for start in range(0, len(row), group_size):
            scale = float(np.float16(np.float32(np.abs(kept[start : start + group_size]).max()) / np.float32(7))) or 1.0
            for k in range(start, start + group_size):
                out[n, k] = max(-7, min(7, np.rint(np.float32(kept[k]) / np.float32(scale)))) * scale
    return out


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 999), st.sampled_from(log.LEVELS), st.integers(1, 5), st.sampled_from([(16, 16), (48, 16), (64, 32)])
)
def test_packed_weights_are_the_oracle_and_take_the_bits_they_should(seed, keep, rows, sizes):
    columns, group_size = sizes
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((rows, columns)).astype(np.float32)
    weight[rng.random(weight.shape) < 0.3] = 0  # runs with fewer non-zeros than places
    packed = log.pack_log_scale(weight, keep, group_size)
    np.testing.assert_allclose(packed.dequantize(), oracle(weight, keep, group_size), rtol=1e-6)
    assert (np.diff(packed.places().astype(int), axis=2) > 0).all()
    x = rng.standard_normal((3, columns)).astype(np.float32)
    np.testing.assert_allclose(log.log_scale_matmul(packed, x), x @ packed.dequantize().T, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(log.log_scale_matmul(packed, x[0]), log.log_scale_matmul(packed, x)[0])


@pytest.mark.parametrize("keep", log.LEVELS)
def test_bytes_are_those_of_the_formula(keep):
    packed = log.pack_log_scale(np.random.default_rng(0).standard_normal((8, 128)).astype(np.float32), keep, 64)
    assert packed.nbytes * 8 == log.bits_per_weight(keep, 64) * 8 * 128


def test_wrong_weights_get_one_sentence():
    weight = np.ones((2, 32), np.float32)
    with pytest.raises(ValueError, match="keep must be 8, 4, 2 or 1"):
        log.pack_log_scale(weight, 3)
    with pytest.raises(ValueError, match="group_size 64 must be a multiple of 16"):
        log.pack_log_scale(weight, 4)
    with pytest.raises(ValueError, match="NaN"):
        log.pack_log_scale(weight * np.nan, 4, 16)
    with pytest.raises(ValueError, match="beyond float16"):
        log.pack_log_scale(weight * 1e6, 4, 16)
    with pytest.raises(ValueError, match="x must have shape"):
        log.log_scale_matmul(log.pack_log_scale(weight, 4, 16), np.ones(8, np.float32))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 999), st.integers(1, 4))
def test_levels_are_the_best_within_the_budget(seed, count):
    rng = np.random.default_rng(seed)
    names = [f"w{i}" for i in range(count)]
    losses = {n: np.sort(rng.random(4)).tolist() for n in names}
    sizes = {n: np.sort(rng.integers(10, 100, 4))[::-1].tolist() for n in names}
    budget = int(rng.integers(sum(s[3] for s in sizes.values()), sum(s[0] for s in sizes.values()) + 1))
    chosen = log.choose_levels(losses, sizes, budget)
    at = {n: log.LEVELS.index(keep) for n, keep in chosen.items()}
    assert sum(sizes[n][k] for n, k in at.items()) <= budget
    best = min(
        sum(losses[n][k] for n, k in zip(names, ways, strict=True))
        for ways in itertools.product(range(4), repeat=count)
        if sum(sizes[n][k] for n, k in zip(names, ways, strict=True)) <= budget
    )
    assert sum(losses[n][k] for n, k in at.items()) == pytest.approx(best)
    with pytest.raises(ValueError, match="is below the smallest size"):
        log.choose_levels(losses, sizes, sum(s[3] for s in sizes.values()) - 1)


def test_the_whole_decoder_runs_in_one_layout():
    model, tokens = models.load("target"), models.held_out_tokens("text")[:11].clone()
    decoder = unified.UnifiedDecoder(model)
    logits = unified.from_unified(decoder(tokens.numpy()))
    want = model.prefill(tokens[None])[0][0].numpy()
    np.testing.assert_allclose(logits, want, atol=2e-4)
    assert {shape[1:] for shape in decoder.layouts} == {(11, 16)}


def test_the_layout_goes_there_and_back_and_names_what_does_not_fit():
    x = np.arange(5 * 32, dtype=np.float32).reshape(5, 32)
    assert unified.to_unified(x).shape == (2, 5, 16) and unified.to_unified(x)[1, 2, 3] == x[2, 19]
    assert (unified.from_unified(unified.to_unified(x)) == x).all()
    w = np.random.default_rng(0).standard_normal((48, 32)).astype(np.float32)
    got = unified.linear(unified.to_unified(x), unified.blocked_weight(w))
    np.testing.assert_allclose(unified.from_unified(got), x @ w.T, rtol=1e-4, atol=1e-3)
    with pytest.raises(ValueError, match="16 does not divide 40 channels"):
        unified.to_unified(np.ones((2, 40), np.float32))
    with pytest.raises(ValueError, match="does not divide the weight 40 x 32"):
        unified.blocked_weight(np.ones((40, 32), np.float32))
    with pytest.raises(ValueError, match="half a head must be whole blocks"):
        unified.rotate(got, np.ones((5, 16), np.float32), np.ones((5, 16), np.float32), 1)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=12), st.integers(0, 4))
def test_a_queue_never_breaks_order_and_helps_up_to_the_longer_of_both(times, ahead):
    prepare, run = [a for a, _ in times], [b for _, b in times]
    line = schedule.simulate(prepare, run, ahead)
    for i in range(len(times)):
        assert line.ran[i][0] >= line.prepared[i][1]
        assert i == 0 or line.ran[i][0] >= line.ran[i - 1][1]
        assert i <= ahead or line.prepared[i][0] >= line.ran[i - ahead - 1][1]
    alone = schedule.simulate(prepare, run, 0).end
    assert alone == sum(prepare) + sum(run)
    assert max(sum(prepare), sum(run)) <= line.end <= alone
    assert schedule.simulate(prepare, run, ahead + 1).end <= line.end


def test_the_simulation_names_what_does_not_fit_and_counts_two_memories():
    with pytest.raises(ValueError, match="3 and 2 instructions"):
        schedule.simulate([1, 1, 1], [1, 1], 1)
    with pytest.raises(ValueError, match="ahead must be 0 or more"):
        schedule.simulate([1], [1], -1)
    memories = schedule.TwoMemories(quick=100, slow=10)
    assert memories.seconds(300, 100, 20) == 4 and memories.seconds(300, 100, 20, together=False) == 6
    assert schedule.simulate([], [], 1).busy == 0 and schedule.simulate([0], [2], 0).busy == 1
