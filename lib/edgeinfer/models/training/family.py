"""The members of the shipped family: what each is made from, its configuration and its recipe.

The target is trained from scratch; every other member starts from it or learns from its logits.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from edgeinfer.models import corpus
from edgeinfer.models.training import tokenizer as tokenizer_training
from edgeinfer.models.training.data import CURRICULUM, Mixture, Phase
from edgeinfer.models.training.loop import Recipe, Run
from edgeinfer.models.training.network import Network
from edgeinfer.models.training.progress import make_evaluation

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


@dataclass(frozen=True)
class Member:
    """One member: its configuration, its recipe, its curriculum, and whether it starts from the target's weights."""

    config: dict[str, Any]
    recipe: Recipe
    curriculum: tuple[Phase, ...] = CURRICULUM
    tokens_per_step: int = 4096


MEMBERS = {
    "target": Member(TARGET, Recipe(tokens=11_500_000)),
}


def tokenizer_in(folder: Path) -> Tokenizer:
    """Return the family's tokenizer, learnt once and kept in the working folder."""
    place = folder / "tokenizer"
    if not (place / "tokenizer.json").exists():
        place.mkdir(parents=True, exist_ok=True)
        tokenizer_training.save(tokenizer_training.learn(corpus.text("train")), place)
    return Tokenizer.from_file(str(place / "tokenizer.json"))


def train(name: str, folder: Path) -> None:
    """Train one member in `folder`/NAME, going on where an earlier run stopped."""
    member, tokenizer = MEMBERS[name], tokenizer_in(folder)
    torch.manual_seed(SEED)
    network = Network(member.config)
    mixture = Mixture(tokenizer, SEED, member.tokens_per_step, member.curriculum)
    Run(folder / name, network, mixture, member.recipe).advance(evaluate=make_evaluation(tokenizer))
