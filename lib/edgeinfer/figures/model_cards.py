"""The page of the shipped models: a table from their configurations, and their model cards, read from the files.

It knows the files of a Hugging Face folder, not the models; it loads no weights. A member that this copy lacks is said
to be missing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import Any

from edgeinfer.figures.charts import number_text

MEMBERS = ("target", "draft", "relu", "moe", "early_exit", "ternary")


def shipped_folder() -> Path:
    """Returns the folder that holds one folder for each shipped model."""
    return Path(str(files("edgeinfer"))) / "models" / "shipped"


def parameters(weights: Path) -> int:
    """Returns the number of weights in a safetensors file, from its header alone.

    Raises:
        ValueError: "model.safetensors is no safetensors file ...".
    """
    with weights.open("rb") as handle:
        length = int.from_bytes(handle.read(8), "little")
        if not 2 <= length <= weights.stat().st_size - 8:
            raise ValueError(f"{weights.name} is no safetensors file: its header length is {length}; copy it again")
        header = json.loads(handle.read(length))
    count = 0
    for name, entry in header.items():
        if name != "__metadata__":
            size = 1
            for extent in entry["shape"]:
                size *= extent
            count += size
    return count


def describe(folder: Path) -> dict[str, Any]:
    """Returns what the table shows of one model: sizes and shape, from config.json and the header of the weights."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    weights = folder / "model.safetensors"
    heads, shared = config["num_attention_heads"], config.get("num_key_value_heads", config["num_attention_heads"])
    experts = config.get("num_local_experts", 0)
    return {
        "parameters": parameters(weights),
        "megabytes": weights.stat().st_size / 1e6,
        "layers": config["num_hidden_layers"],
        "width": config["hidden_size"],
        "heads": f"{heads} / {shared}",
        "feed-forward": f"{config['intermediate_size']}, {config.get('hidden_act', 'silu')}"
        + (f", {config['num_experts_per_tok']} of {experts} experts" if experts else ""),
    }


def table(folder: Path | None = None, members: Iterable[str] = MEMBERS) -> str:
    """Returns the family as a Markdown table; members without files are named below it."""
    folder = folder or shipped_folder()
    lines = [
        "| Model | Millions | File | Layers × width | Heads | Feed-forward |",
        "| --- | ---: | ---: | ---: | ---: | --- |",
    ]
    missing = []
    for name in members:
        if not (folder / name / "config.json").is_file() or not (folder / name / "model.safetensors").is_file():
            missing.append(name)
            continue
        d = describe(folder / name)
        lines.append(
            f"| `{name}` | {number_text(d['parameters'] / 1e6)} | {d['megabytes']:.1f}\u00a0MB | {d['layers']} × "
            f"{d['width']} | {d['heads']} | {d['feed-forward']} |"
        )
    lines += ["", "*Millions*: of parameters. *Heads*: for queries / for keys and values."]
    if missing:
        lines += [
            "",
            "Not part of this copy (`make models` trains them): " + ", ".join(f"`{m}`" for m in missing) + ".",
        ]
    return "\n".join(lines)


def card(name: str, folder: Path | None = None) -> str:
    """Returns the model card of `name` as Markdown without headings (they become bold lines, for use inside a page)."""
    path = (folder or shipped_folder()) / name / "README.md"
    if not path.is_file():
        return f"The model `{name}` is not part of this copy; `make models` trains it."
    text = re.sub(r"\A---\n.*?\n---\n", "", path.read_text(encoding="utf-8"), flags=re.S).strip()
    text = re.sub(r"\A# .*\n+", "", text)
    weights = path.with_name("model.safetensors")
    if weights.is_file():  # as many digits as the table of the family has
        millions = f"{number_text(parameters(weights) / 1e6)} million parameters"
        text = re.sub(r"[\d.]+ million parameters", millions, text)
    text = re.sub(r"(?:^\|.*\n)+", lambda found: found[0] + _below_a_guess(found[0]), text, count=1, flags=re.M)
    text = re.sub(r"^- ([a-z0-9 ]+): (.*)$", lambda found: "- " + _finding(found[1], found[2]), text, flags=re.M)
    text = text.replace(
        "its curve in `loss.svg`.", f"its curve in `loss.svg`, both in `lib/edgeinfer/models/shipped/{name}`."
    )
    text = re.sub(r"(\d) ?%", "\\1\u00a0%", text)
    # The log of the training is long and asked for by few: it is folded.
    log = r"^\*\*(Held-out loss)\*\* *(.*?):\n+((?:\|.*(?:\n|\Z))+)"
    text = re.sub(log, r":::{dropdown} \1 \2\n\3:::\n", text, flags=re.M)
    return re.sub(r"^#{1,6} +(.*?) *$", r"**\1**", text, flags=re.M)


def _below_a_guess(rows: str) -> str:
    """Says of a card's table in how many tasks the model is right less often than the guess that the row states."""
    tasks = [(float(g), float(s)) for g, s in re.findall(r"guess[^:|]*: ([\d.]+) %\) \| ([\d.]+)%", rows)]
    below = sum(score < guess for guess, score in tasks)
    if not below:
        return ""
    return (
        f"\nIn {below} of the {len(tasks)} tasks with a guess in percent it is right less often than the guess: "
        "it has not learned them.\n"
    )


def _finding(name: str, value: str) -> str:
    """Returns what only one kind of member has as a sentence; a name that is not known stays as the card has it."""
    numbers = [float(number) for number in re.findall(r"\d+\.\d+", value)]
    if not numbers:
        return f"{name}: {value}"
    mean, least, most = sum(numbers) / len(numbers), min(numbers), max(numbers)
    if name.startswith("accepted of "):
        return f"Of {name.split()[-1]} tokens that it guesses in a row, the target accepts {value} on average."
    if name == "zero share of the activation per layer":
        return (
            f"Of the activations inside a feed-forward network {100 * mean:.0f} % are zero on average, from "
            f"{100 * least:.0f} % to {100 * most:.0f} % in the single layers."
        )
    if name == "share of choices per expert and layer":
        experts = len(value.split("]")[0].split(","))
        return (
            f"An expert gets from {100 * least:.0f} % to {100 * most:.0f} % of the choices in its layer; an even load "
            f"would be {number_text(100 / experts)} % for each of the {experts}."
        )
    if name == "mean weight of the first choice":
        return (
            f"The expert chosen first has a weight of {mean:.2f} on average, {least:.2f} to {most:.2f} in the layers."
        )
    if name == "held out loss per exit in nats":
        exits = [f"{loss} after layer {layer}" for layer, loss in re.findall(r"(\d+): (\d+\.\d+)", value)]
        return f"Held-out loss in nats per token, when it stops early and at the end: {', '.join(exits)}."
    if name == "share of zero weights":
        return f"Of the weights of its matrices {100 * mean:.0f} % are zero."
    return f"{name}: {value}"
