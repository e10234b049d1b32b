"""However a text is cut into parts, the cache makes the logits come out the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from edgeinfer import models
from hypothesis import given, settings
from hypothesis import strategies as st


@pytest.fixture(scope="module")
def small(small_folder: Path) -> models.Decoder:
    return models.load(small_folder)


@settings(max_examples=25, deadline=None)
@given(
    batch=st.integers(1, 3),
    cuts=st.lists(st.integers(1, 39), max_size=5, unique=True),
    seed=st.integers(0, 10_000),
)
def test_prefill_in_any_parts_equals_one_prefill(small: models.Decoder, batch: int, cuts: list[int], seed: int) -> None:
    tokens = torch.randint(0, 96, (batch, 40), generator=torch.Generator().manual_seed(seed))
    whole, _ = small.prefill(tokens)
    kv_cache, parts = None, []
    for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), 40], strict=True):
        logits, kv_cache = small.prefill(tokens[:, start:end], kv_cache)
        parts.append(logits)
    assert kv_cache is not None and kv_cache.length == 40
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=2e-4, rtol=1e-4)


@settings(max_examples=15, deadline=None)
@given(padding=st.lists(st.integers(0, 9), min_size=2, max_size=4), seed=st.integers(0, 10_000))
def test_a_padded_row_equals_the_row_alone_also_while_decoding(
    small: models.Decoder, padding: list[int], seed: int
) -> None:
    tokens = torch.randint(0, 96, (len(padding), 14), generator=torch.Generator().manual_seed(seed))
    _, kv_cache = small.prefill(tokens[:, :10], padding=torch.tensor(padding))
    together = torch.cat([small.decode(tokens[:, i : i + 1], kv_cache) for i in range(10, 14)], 1)
    for row, count in enumerate(padding):
        alone, _ = small.prefill(tokens[row : row + 1, count:])
        torch.testing.assert_close(together[row], alone[0, -4:], atol=2e-4, rtol=1e-4)


def test_the_cache_grows_past_its_first_room(small: models.Decoder) -> None:
    tokens = torch.randint(0, 96, (2, 60), generator=torch.Generator().manual_seed(0))
    kv_cache = models.PlainCache(small.config, 2, torch.float32, capacity=4)
    steps = [small.prefill(tokens[:, i : i + 3], kv_cache)[0] for i in range(0, 60, 3)]
    torch.testing.assert_close(torch.cat(steps, 1), small.prefill(tokens)[0], atol=2e-4, rtol=1e-4)


def test_cropping_forgets_rejected_tokens(small: models.Decoder) -> None:
    tokens = torch.randint(0, 96, (1, 20), generator=torch.Generator().manual_seed(5))
    _, kv_cache = small.prefill(tokens[:, :12])
    small.decode(torch.tensor([[7, 8, 9]]), kv_cache)
    kv_cache.crop(12)  # type: ignore[attr-defined]
    logits = small.decode(tokens[:, 12:], kv_cache)
    torch.testing.assert_close(logits, small.prefill(tokens)[0][:, 12:], atol=2e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="cannot crop to 99 tokens: the cache holds 20"):
        kv_cache.crop(99)  # type: ignore[attr-defined]


def test_nbytes_counts_keys_and_values_of_the_tokens_seen(small: models.Decoder) -> None:
    _, kv_cache = small.prefill(torch.ones(2, 10, dtype=torch.long))
    layers, heads, size = 3, 2, 8
    assert kv_cache.nbytes == layers * 2 * (2 * heads * 10 * size) * 4  # type: ignore[attr-defined]


def test_too_long_a_prompt_is_refused_in_one_sentence(small: models.Decoder) -> None:
    with pytest.raises(ValueError, match="65 tokens exceed max_position_embeddings 64"):
        small.prefill(torch.zeros(1, 65, dtype=torch.long))


def test_tokens_of_a_wrong_shape_are_refused_in_one_sentence(small: models.Decoder) -> None:
    with pytest.raises(ValueError, match=r"tokens must be \(batch, tokens\)"):
        small.prefill(torch.zeros(5, dtype=torch.long))


def test_a_model_split_between_machines_gives_the_whole_models_logits(small: models.Decoder) -> None:
    tokens = torch.randint(0, 96, (2, 9), generator=torch.Generator().manual_seed(6))
    near, far = (models.PlainCache(small.config, 2, torch.float32) for _ in range(2))
    with torch.inference_mode():
        hidden = small.forward_layers(small.embed(tokens), near, 0, 1)
        logits = small.head(small.forward_layers(hidden, far, 1))
    torch.testing.assert_close(logits, small.prefill(tokens)[0])
