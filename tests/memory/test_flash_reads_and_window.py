"""Reads, the window, the table without holes, the order of neurons and the cache that minds runs: plain arrays."""

import itertools

import numpy as np
import pytest
from edgeinfer.memory import flash
from hypothesis import given, settings
from hypothesis import strategies as st

sets_of_places = st.sets(st.integers(0, 60), max_size=40)


@settings(max_examples=60, deadline=None)
@given(sets_of_places, st.integers(0, 6))
def test_merged_reads_hold_every_wanted_place_and_join_exactly_the_small_gaps(places, gap):
    reads = flash.merge_reads(np.array(list(places), int), gap)
    read = [p for s, c in zip(reads.starts, reads.counts, strict=True) for p in range(s, s + c)]
    assert len(read) == len(set(read)) == reads.places and places <= set(read)
    ordered = sorted(places)
    assert len(reads) == bool(ordered) + sum(b - a > gap + 1 for a, b in itertools.pairwise(ordered))
    assert all(s in places and s + c - 1 in places for s, c in zip(reads.starts, reads.counts, strict=True))


@settings(max_examples=40, deadline=None)
@given(sets_of_places, st.integers(1, 9000), st.integers(0, 5000))
def test_cost_counts_whole_blocks(places, size, start):
    reads = flash.merge_reads(np.array(list(places), int))
    requests, moved = flash.cost_of_reads(reads, size, 4096, start)
    blocks = 0
    for first, count in zip(reads.starts.tolist(), reads.counts.tolist(), strict=True):
        begin, end = start + first * size, start + (first + count) * size
        blocks += (end - 1) // 4096 - begin // 4096 + 1
    assert (requests, moved) == (len(reads), blocks * 4096)


def test_a_negative_gap_is_refused():
    with pytest.raises(ValueError, match="gap must be 0 or more; came -1"):
        flash.merge_reads(np.array([1]), -1)


def test_the_slower_of_requests_and_bytes_binds():
    assert flash.time_of_reads(100, 1e6, 1e3, 1e9) == pytest.approx(0.1)
    assert flash.time_of_reads(1, 1e9, 1e3, 1e9) == pytest.approx(1)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 5), st.integers(0, 14))
def test_window_and_table_hold_what_the_last_tokens_used(seed, tokens, capacity):
    rng = np.random.default_rng(seed)
    active = rng.random((12, 14)) < rng.uniform(0.1, 0.9)
    window, memory = flash.SlidingWindow(14, tokens, capacity), flash.NeuronMemory(14, 14, 2)
    content = np.arange(28, dtype=np.uint16).reshape(14, 2)
    held = np.zeros(14, bool)
    for step, now in enumerate(active):
        load, keep, drop = window.advance(np.flatnonzero(now))
        np.testing.assert_array_equal(load, np.flatnonzero(now & ~held))
        assert set(keep) <= set(load)
        memory.remove(drop)
        memory.append(keep, content[keep])
        held = np.zeros(14, bool)
        held[window.held] = True
        assert held.sum() <= capacity
        if capacity == 14:
            np.testing.assert_array_equal(held, active[max(0, step + 1 - tokens) : step + 1].any(0) & bool(tokens))
        # The table holds exactly these neurons, each with its own row, without a hole.
        assert sorted(memory.neuron_at[: memory.count]) == np.flatnonzero(held).tolist()
        np.testing.assert_array_equal(memory.rows[memory.slot_of[held]], content[held])


def test_a_full_table_and_a_missing_neuron_say_so():
    memory = flash.NeuronMemory(4, 2, 1)
    memory.append(np.array([0, 1]), np.zeros((2, 1), np.uint16))
    with pytest.raises(ValueError, match="memory holds 2 neurons and 2 are in use: 1 more do not fit"):
        memory.append(np.array([2]), np.zeros((1, 1), np.uint16))
    with pytest.raises(KeyError, match="neuron 3 is not in memory"):
        memory.remove(np.array([3]))
    with pytest.raises(ValueError, match="window must be 0 or more"):
        flash.SlidingWindow(4, -1)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 30))
def test_greedy_path_visits_every_neuron_once_and_is_as_heavy_as_a_slow_greedy(seed, neurons):
    rng = np.random.default_rng(seed)
    counts = flash.coactivation(rng.random((40, neurons)) < 0.3)
    order = flash.greedy_path(counts)
    assert sorted(order.tolist()) == list(range(neurons))
    # Independently: pieces of path as lists, strongest pair of ends first.
    pieces = [[n] for n in range(neurons)]
    pairs = sorted(itertools.combinations(range(neurons), 2), key=lambda p: (-counts[p], p))
    for a, b in pairs:
        of = {end: piece for piece in pieces for end in (piece[0], piece[-1])}
        if a in of and b in of and of[a] is not of[b]:
            left, right = of[a], of[b]
            pieces = [p for p in pieces if p is not left and p is not right]
            pieces.append((left if left[-1] == a else left[::-1]) + (right if right[0] == b else right[::-1]))
    if neurons:
        assert flash.path_weight(counts, order) == flash.path_weight(counts, np.array(pieces[0]))


def test_coactivation_counts_tokens():
    active = np.array([[1, 1, 0], [1, 0, 0], [1, 1, 1]], bool)
    np.testing.assert_array_equal(flash.coactivation(active), [[3, 2, 1], [2, 2, 1], [1, 1, 1]])
    with pytest.raises(ValueError, match="active must be"):
        flash.coactivation(active[0])
    with pytest.raises(ValueError, match="counts must be a square matrix"):
        flash.greedy_path(np.zeros((2, 3)))


def test_a_cache_that_minds_runs_keeps_lone_places_only():
    cache, plain = flash.LinkAwareCache(8, longest=1), flash.LinkAwareCache(3)
    places = np.array([3, 4, 5, 9])
    for one in (cache, plain):
        missing = one.missing(places)
        np.testing.assert_array_equal(missing, places)
        one.admit(missing, flash.merge_reads(missing))
    np.testing.assert_array_equal(cache.missing(places), [3, 4, 5])
    np.testing.assert_array_equal(plain.missing(places), [3])  # the oldest went
    with pytest.raises(ValueError, match="capacity must be 0 or more"):
        flash.LinkAwareCache(-1)
