"""Measures a finished member and writes its model card, its loss curve and its log beside the weights.

Every number of a card comes from the run's log or from a measurement made here with the exported files.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from edgeinfer.models import tasks
from edgeinfer.models.checkpoint import load_tokenizer
from edgeinfer.models.decoder import Decoder
from edgeinfer.models.generation import generate, held_out_tokens, load, perplexity

SUM_MARKS = {
    "perplexity": "Perplexity per token on the held-out text, windows of 256 tokens",
    "perplexity_512": "The same, windows of 512 tokens",
    "bits_per_byte": "Bits per byte of the held-out text, windows of 256 tokens",
    "recall_4": "Recall out of 4 notes (a guess among the values shown: 25 %)",
    "recall_8": "Recall out of 8 notes (guess: 12.5 %)",
    "recall_16": "Recall out of 16 notes (guess: 6.3 %)",
    "recall_32": "Recall out of 32 notes (guess: 3.1 %)",
    "needle_256": "Recall of one of 4 notes strewn over 256 tokens of text (guess: 25 %)",
    "needle_512": "Recall of one of 4 notes strewn over 512 tokens of text (guess: 25 %)",
    "copying": "Copying 4 tokens in a row from the first repetition of 24 random tokens (guess: below 0.1 %)",
    "addition": "Two-digit sums that were never trained on, all digits right (guess: 0.6 %)",
    "addition_trained": "Two-digit sums of the kind trained on",
}


def measure(model: Decoder, count: int = 200) -> dict[str, float]:
    """Return the scores of a member on fixed held-out material; shares between 0 and 1."""
    tokenizer = load_tokenizer("target")
    text = held_out_tokens()
    scores = {
        "perplexity": perplexity(model, text, 256, 32_768),
        "perplexity_512": perplexity(model, text, 512, 32_768),
    }
    some = text[:32_768]
    bytes_per_token = len(tokenizer.decode(some.tolist(), skip_special_tokens=True).encode()) / len(some)
    scores["bits_per_byte"] = float(torch.tensor(scores["perplexity"]).log2()) / bytes_per_token
    for pairs in (4, 8, 16, 32):
        scores[f"recall_{pairs}"] = tasks.score(model, tasks.recall_questions(tokenizer, count, pairs, seed=11))
    for length in (256, 512):
        questions = tasks.recall_questions(tokenizer, count // 2, 4, seed=12, text=text.numpy(), length=length)
        scores[f"needle_{length}"] = tasks.score(model, questions)
    scores["copying"] = tasks.score(model, tasks.copying_questions(tokenizer, count, 24, 4, seed=13))
    scores["addition"] = tasks.score(model, tasks.addition_questions(tokenizer, count, seed=14))
    scores["addition_trained"] = tasks.score(model, tasks.addition_questions(tokenizer, count, seed=15, trained=True))
    return scores


def accepted_per_step(target: Decoder, draft: Decoder, proposals: int = 4, prompts: int = 12) -> float:
    """Return how many of `proposals` greedy tokens of the draft the target accepts on average, on held-out prompts."""
    text, counts = held_out_tokens(), []
    for start in range(2_000, 2_000 + 1_500 * prompts, 1_500):
        tokens = text[start : start + 64]
        for _ in range(12):
            guess = generate(draft, tokens, proposals)
            logits, _ = target.prefill(guess[None])
            wanted = logits[0, len(tokens) - 1 :].argmax(-1)
            agree = (guess[len(tokens) :] == wanted[:proposals]).long()
            accepted = int(agree.cumprod(0).sum())
            counts.append(accepted)
            tokens = torch.cat((guess[: len(tokens) + accepted], wanted[accepted : accepted + 1]))
    return sum(counts) / len(counts)


def particulars(name: str, model: Decoder) -> dict[str, Any]:
    """Return what only this kind of member has: acceptance, sparsity, load of experts, exits, share of zeros."""
    tokens = held_out_tokens()[:4096].view(16, 256)
    layers = range(model.config.num_hidden_layers)
    if name == "draft":
        return {"accepted_of_4": accepted_per_step(load("target"), model)}
    if name == "relu":
        inputs = model.capture_inputs(tokens, [f"layers.{n}.mlp.down_proj" for n in layers])
        return {"zero_share_of_the_activation_per_layer": [(x == 0).float().mean().item() for x in inputs.values()]}
    if name == "moe":
        load_shares, certainty = [], []
        for rows, router in _router_inputs(model, tokens):
            index, weights = model.router(rows @ router.T, 0)
            load_shares.append((torch.bincount(index.flatten(), minlength=len(router)) / index.numel()).tolist())
            certainty.append(weights[:, 0].mean().item())
        return {"share_of_choices_per_expert_and_layer": load_shares, "mean_weight_of_the_first_choice": certainty}
    if name == "early_exit":
        loss = {}
        for number in (*model.config.exit_layers, len(layers)):
            logits, _ = model.prefill(tokens, exit_layer=number)
            picked = logits[:, :-1].log_softmax(-1).gather(2, tokens[:, 1:, None])
            loss[str(number)] = -picked.mean().item()
        return {"held_out_loss_per_exit_in_nats": loss}
    if name == "ternary":
        zeros = torch.cat([(weight == 0).flatten() for weight in model.linears().values()])
        return {"share_of_zero_weights": zeros.float().mean().item()}
    return {}


def _router_inputs(model: Decoder, tokens: torch.Tensor) -> Iterable[tuple[torch.Tensor, torch.Tensor]]:
    names = [f"layers.{n}.moe.router" for n in range(model.config.num_hidden_layers)]
    captured = model.capture_inputs(tokens, names)
    return [(captured[name], model.linears()[name]) for name in names]


def loss_curve(log: list[dict[str, Any]], width: int = 640, height: int = 240) -> str:
    """Return the held-out loss over the tokens seen as a small SVG drawing."""
    points = [(e["tokens"], e["held_out"]) for e in log if "held_out" in e]
    last = max(points)[0]
    low, high = min(y for _, y in points) - 0.1, max(y for _, y in points) + 0.1
    bottom = height - 40

    def place(loss: float) -> float:
        return bottom - (height - 60) * (loss - low) / (high - low)

    path = " ".join(f"{50 + (width - 70) * x / last:.1f},{place(y):.1f}" for x, y in points)
    labels = "".join(
        f'<text x="44" y="{place(y) + 4:.0f}" text-anchor="end">{y:.1f}</text>' for y in (low, (low + high) / 2, high)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" font-family="sans-serif" '
        f'font-size="12"><title>Held-out loss over tokens seen</title><rect width="100%" height="100%" fill="#ffffff"/>'
        f'<path d="M50,20V{bottom}H{width - 20}" fill="none" stroke="#555555"/>{labels}'
        f'<polyline points="{path}" fill="none" stroke="#0072b2" stroke-width="2"/>'
        f'<text x="{width // 2}" y="{height - 10}" text-anchor="middle">tokens seen (last: {last:,})</text>'
        f'<text x="56" y="16">held-out loss, nats per token</text></svg>\n'
    )


def write_card(name: str, made: str, folder: Path, meta: dict[str, Any], seed: int) -> None:
    """Measure the member exported to `folder` and write README.md, loss.svg and training_log.json there.

    Args:
        name: the member.
        made: one sentence about how it is made.
        folder: its Hugging Face folder.
        meta: the run's step, tokens, seconds and log.
        seed: of weights and data.
    """
    model = load(folder)
    scores, special = measure(model), particulars(name, model)
    record = {"member": name, "seed": seed, **{k: meta[k] for k in ("step", "tokens", "seconds")}}
    record |= {"parameters": model.num_parameters(), "scores": scores, "particulars": special, "log": meta["log"]}
    (folder / "training_log.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    (folder / "loss.svg").write_text(loss_curve(meta["log"]), encoding="utf-8")
    (folder / "README.md").write_text(card(record, made, model), encoding="utf-8")


def card(record: dict[str, Any], made: str, model: Decoder) -> str:
    """Return the text of a model card."""
    config, scores, minutes = model.config, record["scores"], record["seconds"] / 60
    rows = "\n".join(
        f"| {label} | {scores[key]:.2f} |" if scores[key] > 1 or "byte" in key else f"| {label} | {scores[key]:.1%} |"
        for key, label in SUM_MARKS.items()
    )
    evaluations = [e for e in record["log"] if "held_out" in e]
    curve = "\n".join(
        f"| {e['tokens']:,} | {e['held_out']:.3f} |" for e in evaluations[:: max(1, len(evaluations) // 10)]
    )
    special = "\n".join(f"- {k.replace('_', ' ')}: {_short(v)}" for k, v in record["particulars"].items())
    shape = f"""{config.num_hidden_layers} layers, width {config.hidden_size}, {config.num_attention_heads} heads over
{config.num_key_value_heads} for keys and values, feed-forward width {config.intermediate_size} ({config.hidden_act}),
tied embedding of {config.vocab_size:,} tokens, up to {config.max_position_embeddings:,} positions"""
    if config.is_moe:
        shape += f", {config.num_local_experts} experts of which {config.num_experts_per_tok} run for a token"
    if config.exit_layers:
        shape += f", exits after layers {', '.join(str(n) for n in config.exit_layers)}"
    return f"""---
license: apache-2.0
library_name: transformers
---
# {record["member"]}

A very small language model for experiments with inference: {record["parameters"] / 1e6:.2f} million parameters,
{shape}. Stored in bfloat16.

**How it was made.** {made}
{record["tokens"]:,} tokens in {record["step"]:,} steps, {minutes:.0f} minutes on two processor cores shared with other
work; seed {record["seed"]}. Matrices were trained with Muon, the rest with AdamW.

**Data.** Source files of the Python standard library (Python Software Foundation License; text and split in
`edgeinfer/models/corpus`) mixed with generated tasks: recall of a value by its key, copying, two-digit addition.

**What it can do** (greedy decoding, 200 questions per task, measured by `edgeinfer.models.training.cards`):

| Measure | Value |
| --- | --- |
{rows}

{special}

**What it cannot do.** It has seen a few megabytes of one kind of text. It writes text that looks like Python and its
documentation and means nothing; it knows no facts, follows no instructions, and must not be used for anything but
experiments.

**Held-out loss** (nats per token, during training):

| Tokens seen | Loss |
| --- | --- |
{curve}

The whole log is in `training_log.json`, its curve in `loss.svg`.

Licence of the weights: Apache-2.0. The training text keeps its own licence.
"""


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k}: {_short(v)}" for k, v in value.items())
    if isinstance(value, list):
        return "[" + ", ".join(_short(v) for v in value) + "]"
    return f"{value:.2f}" if isinstance(value, float) else str(value)
