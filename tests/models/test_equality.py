"""The decoder computes what `transformers` computes from the same files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from edgeinfer import models

from tests.models.conftest import KINDS, reference, save


def their_logits(model: object, tokens: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(tokens).logits  # type: ignore[operator]


@pytest.mark.parametrize("kind", KINDS)
def test_every_architecture_gives_the_logits_of_transformers(kind: str, tmp_path: Path) -> None:
    theirs = reference(kind)
    ours = models.load(save(theirs, tmp_path))
    tokens = torch.randint(3, 96, (3, 40), generator=torch.Generator().manual_seed(1))
    expected = their_logits(theirs, tokens)
    logits, _ = ours.prefill(tokens)
    torch.testing.assert_close(logits, expected, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["llama", "mixtral"])
def test_step_by_step_decoding_gives_the_logits_of_transformers(kind: str, tmp_path: Path) -> None:
    theirs = reference(kind)
    ours = models.load(save(theirs, tmp_path))
    tokens = torch.randint(3, 96, (2, 30), generator=torch.Generator().manual_seed(2))
    expected = their_logits(theirs, tokens)
    first, kv_cache = ours.prefill(tokens[:, :11])
    steps = [ours.decode(tokens[:, i : i + 1], kv_cache) for i in range(11, 30)]
    torch.testing.assert_close(torch.cat([first, *steps], 1), expected, atol=2e-4, rtol=1e-4)


def test_rows_padded_on_the_left_equal_transformers_with_a_mask(small_folder: Path) -> None:
    theirs, ours = reference("llama"), models.load(small_folder)
    tokens = torch.randint(3, 96, (3, 12), generator=torch.Generator().manual_seed(3))
    padding = torch.tensor([0, 4, 7])
    mask = (torch.arange(12) >= padding[:, None]).long()
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        expected = theirs(tokens, attention_mask=mask, position_ids=positions).logits
    logits, _ = ours.prefill(tokens, padding=padding)
    for row, count in enumerate(padding.tolist()):
        torch.testing.assert_close(logits[row, count:], expected[row, count:], atol=2e-4, rtol=1e-4)


def test_sharded_files_give_the_same_logits(tmp_path: Path) -> None:
    theirs = reference("llama-untied-llama3")
    folder = save(theirs, tmp_path, max_shard_size="20KB")
    assert (folder / "model.safetensors.index.json").exists()
    tokens = torch.arange(3, 40).view(1, -1)
    logits, _ = models.load(folder).prefill(tokens)
    torch.testing.assert_close(logits, their_logits(theirs, tokens), atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("name", sorted(models.shipped()))
def test_transformers_opens_every_shipped_model_with_the_same_logits(name: str) -> None:
    from transformers import AutoModelForCausalLM

    theirs = AutoModelForCausalLM.from_pretrained(str(models.shipped()[name]), dtype=torch.float32).eval()
    tokens = models.held_out_tokens()[:128].view(2, 64)
    logits, _ = models.load(name).prefill(tokens)
    torch.testing.assert_close(logits, their_logits(theirs, tokens), atol=2e-3, rtol=1e-3)


def test_greedy_generation_equals_transformers_on_the_target() -> None:
    from transformers import AutoModelForCausalLM

    theirs = AutoModelForCausalLM.from_pretrained(str(models.shipped()["target"]), dtype=torch.float32).eval()
    prompt = models.held_out_tokens()[:40]
    expected = theirs.generate(prompt[None], max_new_tokens=24, min_new_tokens=24, do_sample=False)[0]
    assert models.generate(models.load("target"), prompt, 24).tolist() == expected.tolist()


def test_bfloat16_stays_close_to_float32() -> None:
    tokens = models.held_out_tokens()[:128].view(1, 128)
    exact, _ = models.load("target").prefill(tokens)
    rounded, _ = models.load("target", torch.bfloat16).prefill(tokens)
    assert rounded.dtype == torch.bfloat16
    agreement = (exact.argmax(-1) == rounded.argmax(-1)).float().mean()
    assert agreement > 0.9


def test_tokenizer_is_the_one_transformers_reads() -> None:
    from transformers import AutoTokenizer

    text = "def total(values):\n    return sum(values) + 42  # <|note|> name path<|ask|> name"
    theirs = AutoTokenizer.from_pretrained(str(models.shipped()["target"]))
    ours = models.load_tokenizer("target")
    assert ours.encode(text).ids == theirs(text)["input_ids"]
    assert ours.decode(ours.encode(text).ids, skip_special_tokens=False) == text
