"""The members of the shipped family: what each is made from, its configuration and its recipe.

The target is trained from scratch; every other member starts from its weights or learns from its logits.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from edgeinfer.models import corpus
from edgeinfer.models.training import tokenizer as tokenizer_training
from edgeinfer.models.training.cards import write_card
from edgeinfer.models.training.data import CURRICULUM, Mixture, Phase
from edgeinfer.models.training.export import export
from edgeinfer.models.training.loop import Rate, Recipe, Run, read_network
from edgeinfer.models.training.network import Network
from edgeinfer.models.training.progress import make_evaluation
from edgeinfer.models.training.start import start_from

SEED = 20240617
TARGET: dict[str, Any] = {
    "vocab_size": tokenizer_training.VOCABULARY_SIZE,
    "hidden_size": 256,
    "intermediate_size": 640,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 32,
    "max_position_embeddings": 1024,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
}
DRAFT: dict[str, Any] = {
    **TARGET,
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
EXPERTS: dict[str, Any] = {**TARGET, "intermediate_size": 128, "num_local_experts": 8, "num_experts_per_tok": 2}
SAME_LENGTH = (Phase(1.0, 256, 32, 0.60),)


@dataclass(frozen=True)
class Member:
    """One member: its configuration, its recipe, its curriculum, and one sentence about how it is made."""

    config: dict[str, Any]
    recipe: Recipe
    made: str
    curriculum: tuple[Phase, ...] = SAME_LENGTH
    starts_from_target: bool = True
    tokens_per_step: int = 4096


def _gentle(matrices: float) -> tuple[Rate, ...]:
    return (Rate(1.0, matrices, matrices / 2),)


MEMBERS = {
    "target": Member(
        TARGET,
        Recipe(10_500_000, (Rate(0.2024, 4e-3, 4e-3), Rate(1.0, 2e-3, 1.4e-3))),
        "Trained from scratch. Rates and curriculum were changed during the run, at the points that the recipe "
        "names, because looking things up in the context did not appear by itself.",
        CURRICULUM,
        starts_from_target=False,
    ),
    "relu": Member(
        {**TARGET, "hidden_act": "relu"},
        Recipe(650_000, _gentle(1.2e-3), warmup=20, steady_until=0.2, auxiliary=0.3),
        "The target with ReLU in place of SiLU, trained on; the mean magnitude of the gate is part of the loss, which "
        "drives gates to zero.",
    ),
    "draft": Member(
        DRAFT,
        Recipe(2_000_000, (Rate(1.0, 4e-3, 2e-3),), steady_until=0.3, distil=1.0, answers=0.1),
        "Trained from scratch to match the target's distribution of the next token (distillation).",
        starts_from_target=False,
    ),
    "early_exit": Member(
        {**TARGET, "exit_layers": (2, 4, 6)},
        Recipe(450_000, _gentle(1.0e-3), warmup=20, steady_until=0.2, exits=0.3),
        "The target, trained on with a norm of its own and a loss after layers 2, 4 and 6; the head is shared.",
    ),
    "moe": Member(
        EXPERTS,
        Recipe(800_000, _gentle(1.5e-3), warmup=20, steady_until=0.2, distil=0.5, answers=0.5, auxiliary=0.02),
        "The target's feed-forward networks cut into eight experts, two of which a router chooses for each token, "
        "trained on with a loss that balances the experts' load and one that keeps to the target's distribution.",
    ),
    "ternary": Member(
        {**TARGET, "ternary": True},
        Recipe(1_100_000, _gentle(2.5e-3), warmup=20, steady_until=0.3, distil=0.7, answers=0.3),
        "The target with every linear weight rounded to -1, 0 or 1 times one scale per row in the forward pass, "
        "trained on (gradients pass the rounding unchanged) and kept close to the target's distribution.",
    ),
}


def tokenizer_in(folder: Path) -> Tokenizer:
    """Return the family's tokenizer, learnt once and kept in the working folder."""
    place = folder / "tokenizer"
    if not (place / "tokenizer.json").exists():
        place.mkdir(parents=True, exist_ok=True)
        tokenizer_training.save(tokenizer_training.learn(corpus.text("train")), place)
    return Tokenizer.from_file(str(place / "tokenizer.json"))


def seed_of(name: str) -> int:
    """Return the seed of a member's data and weights."""
    return SEED + list(MEMBERS).index(name)


def finish(name: str, folder: Path, out: Path) -> None:
    """Export a trained member to `out`/NAME, measure it, and write its card, loss curve and log there."""
    network = Network(MEMBERS[name].config)
    meta = read_network(folder / name, network)
    export(network, folder / "tokenizer", out / name)
    write_card(name, MEMBERS[name].made, out / name, meta, seed_of(name))


def train(name: str, folder: Path) -> None:
    """Train one member in `folder`/NAME, going on where an earlier run stopped.

    Raises:
        FileNotFoundError: "training/target/state.safetensors is missing: train the target first".
    """
    member, tokenizer = MEMBERS[name], tokenizer_in(folder)
    torch.manual_seed(seed_of(name))
    network = Network(member.config)
    teacher = None
    if name != "target":
        target = Network(TARGET)
        read_network(folder / "target", target)
        target.requires_grad_(False)
        if member.starts_from_target:
            start_from(network, target)
        teacher = target if member.recipe.distil else None
    mixture = Mixture(tokenizer, seed_of(name), member.tokens_per_step, member.curriculum)
    Run(folder / name, network, mixture, member.recipe, teacher).advance(evaluate=make_evaluation(tokenizer))
