"""Small checkpoints made on the spot: one per architecture, with settings that differ from the shipped family's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

SMALL: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
KINDS = ("llama", "llama-biases", "llama-untied-llama3", "llama-linear", "mistral", "qwen2", "mixtral", "llama-relu")


def reference(kind: str) -> Any:
    """Return a random `transformers` model of one kind, in float32."""
    import transformers

    torch.manual_seed(3)
    settings = dict(SMALL, tie_word_embeddings="untied" not in kind)
    if kind == "mistral":
        model = transformers.MistralForCausalLM(transformers.MistralConfig(**settings, sliding_window=None))
    elif kind == "qwen2":
        model = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**settings, use_sliding_window=False))
    elif kind == "mixtral":
        experts = {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None}
        model = transformers.MixtralForCausalLM(transformers.MixtralConfig(**settings, **experts))
    else:
        scaling: dict[str, Any] = {"rope_theta": 5000.0, "rope_type": "default"}
        if "llama3" in kind:
            scaling |= {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
            scaling |= {"original_max_position_embeddings": 32}
        if "linear" in kind:
            scaling |= {"rope_type": "linear", "factor": 4.0}
        if "biases" in kind:
            settings |= {"attention_bias": True, "mlp_bias": True}
        if "relu" in kind:
            settings |= {"hidden_act": "relu", "head_dim": 16}
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**settings, rope_parameters=scaling))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3)
    return model.eval()


def save(model: Any, folder: Path, **settings: Any) -> Path:
    """Save a `transformers` model as safetensors and return the folder."""
    model.save_pretrained(folder, **settings)
    return folder


@pytest.fixture(scope="session")
def small_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small random Llama."""
    return save(reference("llama"), tmp_path_factory.mktemp("small"))


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Small products are quicker on one thread, and their sums do not depend on the machine."""
    torch.set_num_threads(1)
