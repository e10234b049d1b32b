"""The training loop can be interrupted, its data depends on the seed alone, and its network is the decoder's equal."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from edgeinfer import models
from edgeinfer.models import corpus, tasks
from edgeinfer.models.training import tokenizer as tokenizer_training
from edgeinfer.models.training.data import CURRICULUM, Mixture, Phase
from edgeinfer.models.training.export import export
from edgeinfer.models.training.family import MEMBERS
from edgeinfer.models.training.loop import Rate, Recipe, Run
from edgeinfer.models.training.network import Network, ternary_weight
from edgeinfer.models.training.start import balanced_clusters, start_from

TOY: dict[str, Any] = {
    "vocab_size": 1024,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
}
RECIPE = Recipe(tokens=4 * 128, rates=(Rate(0.5, 4e-3, 2e-3), Rate(1.0, 2e-3, 1e-3)), warmup=2)
PHASES = (Phase(0.5, 32, 3, 0.5), Phase(1.0, 64, 4, 0.5))


@pytest.fixture(scope="module")
def mixture() -> Mixture:
    return Mixture(models.load_tokenizer("target"), 5, 128, PHASES)


def toy(**settings: Any) -> Network:
    torch.manual_seed(1)
    return Network({**TOY, **settings})


def test_a_run_interrupted_after_two_steps_ends_like_one_that_was_not(mixture: Mixture, tmp_path: Path) -> None:
    whole = toy()
    Run(tmp_path / "whole", whole, mixture, RECIPE, compiled=False, half=False).advance()
    Run(tmp_path / "parts", toy(), mixture, RECIPE, compiled=False, half=False).advance(max_steps=2)
    resumed = toy()
    meta = Run(tmp_path / "parts", resumed, mixture, RECIPE, compiled=False, half=False).advance()
    assert meta["tokens"] == RECIPE.tokens and meta["step"] == 4
    for (name, expected), found in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5, msg=name)


def test_a_finished_run_does_nothing_more(mixture: Mixture, tmp_path: Path) -> None:
    for _ in range(2):
        meta = Run(tmp_path, toy(), mixture, RECIPE, compiled=False, half=False).advance()
        assert meta["step"] == 4


def test_a_few_steps_lower_the_loss(mixture: Mixture, tmp_path: Path) -> None:
    recipe = Recipe(tokens=40 * 128, rates=(Rate(1.0, 4e-3, 4e-3),), warmup=2)
    meta = Run(tmp_path, toy(), mixture, recipe, compiled=False, half=False).advance()
    first, last = (entry["loss"] for entry in meta["log"])
    assert last < first


def test_a_batch_depends_on_seed_and_step_only(mixture: Mixture) -> None:
    mixture.batch(0, 0.0)
    one, again = mixture.batch(7, 0.9), mixture.batch(7, 0.9)
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    assert not torch.equal(one[0], mixture.batch(8, 0.9)[0])
    assert one[0].shape == (2, 64) and torch.equal(one[0][:, 1:], one[1][:, :-1])


def test_every_member_reaches_the_end_of_its_curriculum() -> None:
    assert CURRICULUM[-1].until == 1.0
    assert all(a.until < b.until for a, b in itertools.pairwise(CURRICULUM))
    assert next(iter(MEMBERS)) == "target" and set(models.shipped()) <= set(MEMBERS)


def test_the_tokenizer_is_learnt_again_from_the_corpus_alike(tmp_path: Path) -> None:
    learnt = tokenizer_training.learn(corpus.text("train"))
    tokenizer_training.save(learnt, tmp_path)
    shipped = models.shipped()["target"] / "tokenizer.json"
    assert (tmp_path / "tokenizer.json").read_bytes() == shipped.read_bytes()


def test_no_file_is_both_trained_on_and_held_out() -> None:
    train, held_out = ({name for name, _ in corpus.documents(split)} for split in corpus.SPLITS)
    assert train and held_out and not train & held_out
    assert set(corpus.text("train")).isdisjoint(corpus.text("held_out"))
    with pytest.raises(ValueError, match="split 'test' is unknown; choose 'train' or 'held_out'"):
        list(corpus.documents("test"))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"hidden_act": "relu"},
        {"exit_layers": (1,)},
        {"ternary": True},
        {"intermediate_size": 96, "num_local_experts": 4, "num_experts_per_tok": 2},
    ],
    ids=["plain", "relu", "early_exit", "ternary", "moe"],
)
def test_the_exported_network_runs_alike_in_the_decoder(settings: dict[str, Any], tmp_path: Path) -> None:
    network = toy(**settings)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(parameter.bfloat16())  # what the file holds
    export(network, models.shipped()["target"], tmp_path)
    decoder = models.load(tmp_path)
    tokens = torch.randint(6, 1024, (2, 20), generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        expected, _ = network(tokens)
    for number, logits in expected.items():
        found, _ = decoder.prefill(tokens, exit_layer=number)
        torch.testing.assert_close(found, logits, atol=1e-4, rtol=1e-4)


def test_a_ternary_weight_has_three_values_a_row() -> None:
    weight = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
    rounded = ternary_weight(weight)
    for row in rounded:
        scale = row.abs().max()
        assert set((row / scale).tolist()) <= {-1.0, 0.0, 1.0}
    assert torch.equal(rounded.bfloat16().float(), rounded)


def test_experts_cover_the_networks_neurons_in_equal_shares() -> None:
    directions = torch.nn.functional.normalize(torch.randn(96, 8, generator=torch.Generator().manual_seed(2)), dim=1)
    groups, centres = balanced_clusters(directions, 4)
    assert sorted(torch.cat(groups).tolist()) == list(range(96)) and {len(g) for g in groups} == {24}
    torch.testing.assert_close(centres.norm(dim=1), torch.ones(4))


def test_a_member_starts_from_the_targets_tensors() -> None:
    target = toy()
    exits = toy(exit_layers=(1,))
    start_from(exits, target)
    tokens = torch.arange(6, 30).view(1, -1)
    with torch.no_grad():
        torch.testing.assert_close(exits(tokens)[0][2], target(tokens)[0][2])
    experts = toy(intermediate_size=80, num_local_experts=4, num_experts_per_tok=2)
    start_from(experts, target)
    name = "model.embed_tokens.weight"
    assert torch.equal(experts.state_dict()[name], target.state_dict()[name])


def test_generated_tasks_have_one_right_answer() -> None:
    tokenizer, rng = models.load_tokenizer("target"), np.random.default_rng(0)
    vocabulary = tasks.words(tokenizer)
    assert not set(vocabulary.keys) & set(vocabulary.values)
    row = tasks.recall(rng, vocabulary, 200, 5)
    triples = zip(row.tokens, row.tokens[1:], row.tokens[2:], strict=False)
    notes = {int(key): int(value) for mark, key, value in triples if mark == tasks.NOTE}
    answers = [(int(row.tokens[i - 1]), int(row.tokens[i])) for i in np.flatnonzero(row.weights == 1)]
    assert len(answers) > 20 and all(notes[key] == value for key, value in answers)
    sums = tasks.addition_questions(tokenizer, 50)
    for question in sums:
        a, b = tokenizer.decode(question.prompt.tolist()).rstrip("=").split("+")
        assert tokenizer.decode(question.answer.tolist()) == str(int(a) + int(b))
        assert tasks.is_held_out_sum(int(a), int(b))
