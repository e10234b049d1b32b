"""Writes a trained network as a Hugging Face folder: config.json, model.safetensors, tokenizer files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from edgeinfer.models import tasks
from edgeinfer.models.training.network import Network, ternary_weight


def hugging_face_config(config: dict[str, Any]) -> dict[str, Any]:
    """Return the contents of `config.json` for a training configuration."""
    is_moe = "num_local_experts" in config
    extra: dict[str, Any] = {
        "architectures": ["MixtralForCausalLM" if is_moe else "LlamaForCausalLM"],
        "model_type": "mixtral" if is_moe else "llama",
        "tie_word_embeddings": True,
        "attention_bias": False,
        "bos_token_id": tasks.BEGIN,
        "eos_token_id": tasks.END,
        "pad_token_id": tasks.PAD,
        "torch_dtype": "bfloat16",
    }
    if is_moe:
        extra |= {"sliding_window": None, "output_router_logits": False}
    return {**extra, **{k: list(v) if isinstance(v, tuple) else v for k, v in config.items()}}


@torch.no_grad()
def export(network: Network, tokenizer_folder: Path, folder: Path) -> None:
    """Write `network` into `folder` in bfloat16; weights that were trained as ternary are stored rounded."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for name, tensor in network.state_dict().items():
        if network.config.get("ternary") and tensor.dim() == 2 and "embed_tokens" not in name:
            tensor = ternary_weight(tensor)
        tensors[name] = tensor.to(torch.bfloat16).contiguous()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)  # the library makes it readable for its owner only
    text = json.dumps(hugging_face_config(network.config), indent=2)
    (folder / "config.json").write_text(text + "\n", encoding="utf-8")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(tokenizer_folder / name, folder / name)
