"""What the shipped models can do: bounds that a damaged file, tokenizer or decoder would break at once."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest
import torch
from edgeinfer import models
from edgeinfer.models import tasks
from edgeinfer.models.training.cards import accepted_per_step
from edgeinfer.models.training.family import MEMBERS, TARGET
from edgeinfer.models.training.network import Network

FAMILY = ("target", "draft", "relu", "moe", "early_exit", "ternary")
LARGEST_PERPLEXITY = {"target": 11.0, "draft": 45.0, "relu": 12.0, "moe": 14.0, "early_exit": 12.0, "ternary": 14.0}


@cache
def member(name: str) -> models.Decoder:
    return models.load(name)


def text(rows: int = 8) -> torch.Tensor:
    return models.held_out_tokens()[1000 : 1000 + rows * 256].view(rows, 256)


def test_the_whole_family_is_shipped_and_small() -> None:
    assert set(models.shipped()) == set(FAMILY) == set(MEMBERS)
    files = [f for folder in models.shipped().values() for f in folder.iterdir()]
    assert not [f.name for f in files if f.suffix in (".bin", ".pt", ".pth", ".pkl", ".py")]
    assert sum(f.stat().st_size for f in files) < 90e6


def test_sizes_are_those_promised() -> None:
    assert 5e6 <= member("target").num_parameters() <= 10e6
    assert member("draft").num_parameters() <= 1e6
    assert all(n % 128 == 0 for weight in member("target").linears().values() for n in weight.shape)


@pytest.mark.parametrize("name", FAMILY)
def test_perplexity_on_held_out_text_is_under_its_bound(name: str) -> None:
    assert models.perplexity(member(name), models.held_out_tokens()[1000:], max_tokens=4096) < LARGEST_PERPLEXITY[name]


def test_an_untrained_network_is_far_worse() -> None:
    torch.manual_seed(0)
    tokens = text(2)
    with torch.no_grad():
        logits = Network(TARGET)(tokens)[0][8]
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    assert loss.exp() > 300


@pytest.mark.parametrize("name", ["target", "relu", "early_exit"])
def test_recall_copying_and_sums_are_far_above_chance(name: str) -> None:
    model, tokenizer = member(name), models.load_tokenizer("target")
    assert tasks.score(model, tasks.recall_questions(tokenizer, 40, 8)) > 0.9
    assert tasks.score(model, tasks.recall_questions(tokenizer, 20, 32)) > 0.8
    assert tasks.score(model, tasks.copying_questions(tokenizer, 20, 24, 4)) > 0.7
    assert tasks.score(model, tasks.addition_questions(tokenizer, 40)) > 0.8


def test_recall_reaches_across_a_long_text() -> None:
    tokenizer, filler = models.load_tokenizer("target"), models.held_out_tokens().numpy()
    questions = tasks.recall_questions(tokenizer, 30, 4, text=filler, length=400)
    assert tasks.score(member("target"), questions) > 0.8


def test_the_target_accepts_many_of_the_drafts_tokens() -> None:
    assert accepted_per_step(member("target"), member("draft"), proposals=4, prompts=4) > 0.7


def test_most_activations_of_the_relu_member_are_zero_and_not_by_chance() -> None:
    names = [f"layers.{n}.mlp.down_proj" for n in range(8)]
    shares = [(x == 0).float().mean().item() for x in member("relu").capture_inputs(text(2), names).values()]
    assert sum(shares) / 8 > 0.6
    # Some neurons are used often, others rarely: what hot and cold placement needs.
    used = (member("relu").capture_inputs(text(2), names[:1])[names[0]] != 0).float().mean(0)
    assert used.std() > 0.05


def test_experts_share_the_load_and_the_router_has_a_mind() -> None:
    model = member("moe")
    names = [f"layers.{n}.moe.router" for n in range(8)]
    captured = model.capture_inputs(text(4), names)
    for name in names:
        index, weights = model.router(captured[name] @ model.linears()[name].T, 0)
        load = torch.bincount(index.flatten(), minlength=8) / index.numel()
        assert load.min() > 0.01 and load.max() < 0.5, name
        # With a uniform router the first of two choices would weigh one half.
        assert weights[:, 0].mean() > 0.55, name


def test_later_exits_predict_better() -> None:
    tokens, losses = text(4), []
    for number in (2, 4, 6, 8):
        logits, _ = member("early_exit").prefill(tokens, exit_layer=number)
        picked = logits[:, :-1].log_softmax(-1).gather(2, tokens[:, 1:, None])
        losses.append(-picked.mean().item())
    assert losses == sorted(losses, reverse=True) and losses[0] < 4.0
    with pytest.raises(ValueError, match="no exit after layer 3; this model has exits after layers 2, 4, 6, 8"):
        member("early_exit").prefill(tokens, exit_layer=3)


def test_every_row_of_the_ternary_member_has_exactly_three_values() -> None:
    for name, weight in member("ternary").linears().items():
        scale = weight.abs().amax(1, keepdim=True)
        assert torch.equal(weight, (weight / scale).round() * scale), name
        assert 0.05 < (weight == 0).float().mean() < 0.8, name


@pytest.mark.parametrize("name", FAMILY)
def test_a_card_says_what_its_log_says(name: str) -> None:
    folder = models.shipped()[name]
    record: dict[str, Any] = json.loads((folder / "training_log.json").read_text())
    card = (folder / "README.md").read_text()
    assert record["parameters"] == member(name).num_parameters()
    assert f"{record['tokens']:,} tokens" in card and f"seed {record['seed']}" in card
    assert record["tokens"] >= MEMBERS[name].recipe.tokens
