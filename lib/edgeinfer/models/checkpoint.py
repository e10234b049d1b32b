"""Opens a Hugging Face checkpoint folder: safetensors, one file or several with an index; says clearly why it cannot.

Nothing that could run code is read. A name such as `org/name` goes through `huggingface_hub` where it is installed.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer
from torch import Tensor

from edgeinfer.models.config import CheckpointError

SHIPPED = Path(__file__).parent / "shipped"
PATTERNS = ["config.json", "*.safetensors", "*.safetensors.index.json", "tokenizer.json"]


def shipped() -> dict[str, Path]:
    """Return {name: folder} of the models that come with this package, such as "target" and "draft"."""
    return {p.parent.name: p.parent for p in sorted(SHIPPED.glob("*/config.json"))}


def find_folder(folder_or_name: str | Path) -> Path:
    """Return the checkpoint folder that is meant: a folder, a shipped name, or a model of the Hugging Face hub.

    Args:
        folder_or_name: a path, one of `shipped()`, or `org/name`.

    Raises:
        CheckpointError: "no folder and no shipped model is called 'x'; shipped are draft, target, ...".
    """
    folder = Path(folder_or_name)
    if folder.is_dir():
        return folder
    name = str(folder_or_name)
    if name in shipped():
        return shipped()[name]
    if isinstance(folder_or_name, str) and name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return _download(name)
    raise CheckpointError(f"no folder and no shipped model is called {name!r}; shipped are {', '.join(shipped())}")


def _download(name: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise CheckpointError(
            f"there is no folder {name}; to fetch it from the hub, install huggingface_hub, or give a local folder"
        ) from error
    try:
        return Path(snapshot_download(name, allow_patterns=PATTERNS))
    except Exception as error:  # the hub's client raises many kinds; the user needs one sentence
        raise CheckpointError(
            f"there is no folder {name}, and the hub did not give it ({type(error).__name__})"
        ) from error


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """Read every tensor of a checkpoint folder, in the type in which it is stored.

    Raises:
        CheckpointError: one sentence about a missing, truncated or broken file, or a folder with pickles only.
    """
    tensors: dict[str, Tensor] = {}
    for path in _files(folder):
        try:
            with safe_open(path, "pt") as file:
                tensors |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path} is truncated or not a safetensors file; download it again") from error
    return tensors


def _files(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if index.exists():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (json.JSONDecodeError, KeyError, AttributeError) as error:
            raise CheckpointError(f"{index} is not a valid index; download it again") from error
        missing = [name for name in names if not (folder / name).exists()]
        if missing:
            raise CheckpointError(f"{folder} lacks {', '.join(missing)}, which its index names; download it again")
        return [folder / name for name in names]
    files = sorted(folder.glob("*.safetensors"))
    if files:
        return files
    if any(folder.glob("*.bin")) or any(folder.glob("*.pt")) or any(folder.glob("*.pth")):
        raise CheckpointError(
            f"{folder} holds pickled weights only; they could run code, so convert them to safetensors first"
        )
    raise CheckpointError(f"{folder} holds no .safetensors file; expected model.safetensors")


def load_tokenizer(folder_or_name: str | Path = "target") -> Tokenizer:
    """Open the tokenizer of a checkpoint.

    Args:
        folder_or_name: as in `find_folder`.

    Returns:
        A `tokenizers.Tokenizer`: `.encode(text).ids`, `.decode(ids)`.

    Raises:
        CheckpointError: "... holds no tokenizer.json".
    """
    folder = find_folder(folder_or_name)
    path = folder / "tokenizer.json"
    if not path.exists():
        raise CheckpointError(f"{folder} holds no tokenizer.json; expected a tokenizer of the Hugging Face format")
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the tokenizers package raises plain Exception
        raise CheckpointError(f"{path} is not a valid tokenizer file; download it again") from error


def torch_dtype(dtype: torch.dtype | str) -> torch.dtype:
    """Accept "float32", "bfloat16", "float16" or the torch type."""
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if found not in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        raise ValueError(f"dtype {dtype!r} is not supported; choose torch.float32, torch.bfloat16 or torch.float16")
    return found
