"""A folder that cannot be opened says why in one sentence; nothing that could run code is read."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from edgeinfer import models
from safetensors.torch import load_file, save_file


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_tensors(folder: Path, edit: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors")


def truncate(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])


def pickle_only(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"not read")


def lose_a_shard(folder: Path) -> None:
    index = {"weight_map": {"model.norm.weight": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


NORM, EMBEDDING = "model.norm.weight", "model.embed_tokens.weight"
DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no config": (lambda f: (f / "config.json").unlink(), "holds no config.json"),
    "broken config": (lambda f: (f / "config.json").write_text("{"), "is not valid JSON"),
    "other architecture": (lambda f: edit_config(f, architectures=["GPT2LMHeadModel"]), "describes GPT2LMHeadModel"),
    "missing entry": (lambda f: edit_config(f, architectures=["MixtralForCausalLM"]), "lacks the entry"),
    "other scaling": (lambda f: edit_config(f, rope_parameters={"rope_type": "yarn"}), "asks for rope_scaling 'yarn'"),
    "other activation": (lambda f: edit_config(f, hidden_act="mish"), "asks for hidden_act 'mish'"),
    "window": (lambda f: edit_config(f, sliding_window=8), "asks for sliding_window 8"),
    "uneven heads": (lambda f: edit_config(f, num_key_value_heads=3), "asks for 4 heads over 3"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "holds no .safetensors file"),
    "pickles": (pickle_only, "holds pickled weights only"),
    "truncated": (truncate, "is truncated or not a safetensors file"),
    "not safetensors": (lambda f: (f / "model.safetensors").write_bytes(b"x" * 99), "is truncated or not"),
    "lost shard": (lose_a_shard, "lacks model-00002-of-00002.safetensors"),
    "missing tensor": (lambda f: edit_tensors(f, lambda t: t.pop(NORM)), f"has no tensor {NORM}"),
    "untied head": (lambda f: edit_config(f, tie_word_embeddings=False), "the head is not tied"),
    "wrong shape": (
        lambda f: edit_tensors(f, lambda t: t.update({EMBEDDING: torch.zeros(9, 32)})),
        r"has shape \(9, 32\); its configuration says \(96, 32\)",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_folder_is_refused_in_one_sentence(damage: str, small_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(small_folder, folder)
    spoil, sentence = DAMAGES[damage]
    spoil(folder)
    with pytest.raises(models.CheckpointError, match=sentence) as caught:
        models.load(folder)
    assert "\n" not in str(caught.value)


def test_an_unknown_name_lists_the_shipped_models() -> None:
    with pytest.raises(models.CheckpointError, match=r"called 'targett'; shipped are .*target"):
        models.load("targett")


def test_a_folder_without_tokenizer_is_refused_in_one_sentence(small_folder: Path) -> None:
    with pytest.raises(models.CheckpointError, match=r"holds no tokenizer\.json"):
        models.load_tokenizer(small_folder)


def test_an_unsupported_dtype_is_refused_in_one_sentence(small_folder: Path) -> None:
    with pytest.raises(ValueError, match="dtype 'int8' is not supported"):
        models.load(small_folder, "int8")


def test_a_name_of_the_hub_without_its_client_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(models.CheckpointError, match="install huggingface_hub, or give a local folder"):
        models.load("some-org/some-model")


def test_a_name_of_the_hub_is_fetched_as_safetensors_only(monkeypatch: pytest.MonkeyPatch, small_folder: Path) -> None:
    hub = pytest.importorskip("huggingface_hub")
    asked: dict[str, Any] = {}

    def snapshot(name: str, allow_patterns: list[str]) -> str:
        asked.update(name=name, patterns=allow_patterns)
        return str(small_folder)

    monkeypatch.setattr(hub, "snapshot_download", snapshot)
    assert models.load("some-org/some-model").config.vocab_size == 96
    assert asked["name"] == "some-org/some-model"
    assert not any(pattern.endswith((".bin", ".py", "*")) for pattern in asked["patterns"])


def test_the_room_can_be_imported_without_torch() -> None:
    code = "import sys; import edgeinfer.models; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
