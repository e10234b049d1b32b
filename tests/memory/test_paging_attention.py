"""Attention over blocks is attention over the same keys in one piece, whatever the shapes, types and tables."""

import numpy as np
import pytest
import torch
from edgeinfer.kernels import simd, threads
from edgeinfer.memory.paging import paged_attention
from hypothesis import given, settings
from hypothesis import strategies as st

PATHS = ("portable", "simd") if simd.available() else ("portable",)


def exact(query, keys, values, tables, lengths):
    rows, heads, channels = query.shape
    out = np.empty_like(query)
    for r in range(rows):
        k = (
            keys[tables[r]]
            .transpose(1, 0, 3, 2)
            .reshape(keys.shape[1], -1, channels)[:, : lengths[r]]
            .astype(np.float64)
        )
        v = values[tables[r]].transpose(1, 0, 2, 3).reshape(keys.shape[1], -1, channels)[:, : lengths[r]]
        scores = np.einsum("hgd,htd->hgt", query[r].reshape(keys.shape[1], -1, channels), k) / np.sqrt(channels)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        out[r] = np.einsum("hgt,htd->hgd", weights, v).reshape(heads, channels)
    return out


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(1, 90) | st.integers(100, 400), min_size=0, max_size=4),
    st.sampled_from([1, 2, 3]),
    st.sampled_from([1, 2, 3, 4, 7]),
    st.sampled_from([4, 16, 20, 32, 64]),
    st.sampled_from([1, 8, 16, 32]),
    st.booleans(),
    st.integers(0, 2**31),
)
def test_any_rows_heads_and_blocks(lengths, kv_heads, groups, channels, size, half, seed):
    rng = np.random.default_rng(seed)
    lengths = np.array(lengths, np.int64)
    counts = -(-lengths // size)
    blocks = int(counts.sum()) + 2
    order = rng.permutation(blocks)
    tables = [order[b - a : b].tolist() for a, b in zip(counts, np.cumsum(counts), strict=True)]
    keys = rng.standard_normal((blocks, kv_heads, channels, size), np.float32) * 3
    values = rng.standard_normal((blocks, kv_heads, size, channels), np.float32)
    query = rng.standard_normal((len(lengths), kv_heads * groups, channels), np.float32)
    pool = keys, values
    if half:
        halves = [torch.from_numpy(x).bfloat16() for x in pool]
        pool = tuple(x.view(torch.int16).numpy().view(np.uint16) for x in halves)
        keys, values = (x.float().numpy() for x in halves)
    wanted = exact(query, keys, values, tables, lengths)
    for path in PATHS:
        got = paged_attention(query, *pool, tables, lengths, path=path)
        np.testing.assert_allclose(got, wanted, rtol=2e-4, atol=2e-4)


def pool_of(blocks: int, heads: int, channels: int, rng: np.random.Generator) -> tuple:
    return (
        rng.standard_normal((blocks, heads, channels, 16), np.float32),
        rng.standard_normal((blocks, heads, 16, channels), np.float32),
    )


def test_two_threads_and_large_scores_change_nothing(monkeypatch):
    rng = np.random.default_rng(0)
    keys, values = pool_of(60, 2, 32, rng)
    query = 100 * rng.standard_normal((2, 4, 32), np.float32)
    tables, lengths = [list(rng.permutation(60)[:41]), [0]], np.array([650, 3])
    one = paged_attention(query, keys, values, tables, lengths)
    assert np.isfinite(one).all()
    np.testing.assert_allclose(one, exact(query, keys, values, tables, lengths), rtol=2e-3, atol=2e-3)
    monkeypatch.setattr(threads, "SHARE", 1)  # as little as this wakes a thread
    np.testing.assert_array_equal(one, paged_attention(query, keys, values, tables, lengths, threads=2))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("order", ["rising", "falling"])
def test_the_largest_score_may_come_in_any_chunk(path, order):
    """A sum begun with a smaller maximum is corrected, over scores from -400 to 400."""
    rng = np.random.default_rng(1)
    keys, values = pool_of(40, 1, 16, rng)
    slope = np.linspace(-100, 100, 640, dtype=np.float32)
    keys[:, 0, 0] = (slope if order == "rising" else -slope).reshape(40, 16)
    query = np.zeros((1, 3, 16), np.float32)
    query[:, :, 0] = (16, 1, 0.01)
    tables, lengths = [list(range(40))], np.array([633])
    got = paged_attention(query, keys, values, tables, lengths, path=path)
    np.testing.assert_allclose(got, exact(query, keys, values, tables, lengths), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("path", PATHS)
def test_what_is_no_number_is_not_hidden(path):
    rng = np.random.default_rng(2)
    keys, values = pool_of(20, 1, 16, rng)
    keys[7, 0, 3, 5] = np.nan
    got = paged_attention(
        np.ones((2, 1, 16), np.float32), keys, values, [list(range(20)), [1]], np.array([320, 16]), path=path
    )
    assert np.isnan(got[0]).all() and np.isfinite(got[1]).all()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"block_tables": [[0]]}, "too short for its length"),
        ({"block_tables": [[0, 9]]}, "names a block outside of 0 to 8"),
        ({"block_tables": [[0, -1]]}, "names a block outside of 0 to 8"),
        ({"lengths": np.array([0])}, "a length of at least 1"),
        ({"query": np.zeros((1, 3, 32), np.float32)}, "multiple of theirs"),
        ({"query": np.zeros((1, 4, 16), np.float32)}, "channels the same"),
        ({"values": np.zeros((9, 2, 32, 16), np.float32)}, "must be"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(change, words):
    arguments = {
        "query": np.zeros((1, 4, 32), np.float32),
        "keys": np.zeros((9, 2, 32, 16), np.float32),
        "values": np.zeros((9, 2, 16, 32), np.float32),
        "block_tables": [[0, 1]],
        "lengths": np.array([20]),
    }
    with pytest.raises(ValueError, match=words):
        paged_attention(**{**arguments, **change})
