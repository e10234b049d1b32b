"""Configurations of a few published models, for arithmetic on models that are too large to ship.

Only what decides the work (see `work.ModelShape`). tests/measure holds each parameter count. Source: llama2, llama3,
mistral, mixtral and the `config.json` that their authors publish.
"""

from __future__ import annotations

from edgeinfer.measure.work import ModelShape

KNOWN_MODELS: dict[str, ModelShape] = {
    "Llama-2-7B": ModelShape(32000, 4096, 11008, 32, 32, 32, 128),
    "Llama-2-70B": ModelShape(32000, 8192, 28672, 80, 64, 8, 128),
    "Llama-3-8B": ModelShape(128256, 4096, 14336, 32, 32, 8, 128),
    "Mistral-7B": ModelShape(32000, 4096, 14336, 32, 32, 8, 128),
    "Mixtral-8x7B": ModelShape(32000, 4096, 14336, 32, 32, 8, 128, num_local_experts=8, num_experts_per_tok=2),
}
