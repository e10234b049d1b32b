"""Greedy generation with the book's decoder beside `transformers`, on the same files, interleaved in one run.

Writes results/generation.json. The peer is timed twice: as people call it (`generate`), and as a bare loop around its
forward pass with its own cache, which leaves out what `generate` does besides.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from edgeinfer import measure, models
from transformers import AutoModelForCausalLM, DynamicCache
from transformers.utils import logging

RESULTS = Path(__file__).resolve().parent / "results" / "generation.json"
NEW_TOKENS, PROMPT, LONG_PROMPT = 64, 64, 512


def bare_loop(peer: Any, prompt: torch.Tensor, count: int) -> torch.Tensor:
    """Generate greedily with the peer's forward pass and cache alone."""
    cache, tokens, out = DynamicCache(config=peer.config), prompt, [prompt]
    with torch.inference_mode():
        for _ in range(count):
            logits = peer(tokens, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
            tokens = logits[:, -1].argmax(-1, keepdim=True)
            out.append(tokens)
    return torch.cat(out, 1)


def check_equal(contenders: dict[str, Callable[[], torch.Tensor]]) -> None:
    """Refuse to time contenders that do not generate the same tokens in float32."""
    first, *others = (run() for run in contenders.values())
    for name, tokens in zip(list(contenders)[1:], others, strict=True):
        if not torch.equal(tokens, first):
            raise SystemExit(
                f"generation: {name} generates other tokens than {next(iter(contenders))}; nothing was timed"
            )


def generation(dtype: torch.dtype, batch: int, rounds: int) -> measure.Comparison:
    """Time NEW_TOKENS greedy tokens after PROMPT held-out tokens, `batch` rows at a time."""
    folder = models.shipped()["target"]
    ours = models.load(folder, dtype)
    peer = AutoModelForCausalLM.from_pretrained(str(folder), dtype=dtype).eval()
    prompt = models.held_out_tokens()[: batch * PROMPT].view(batch, PROMPT)
    exactly = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS, "do_sample": False}
    mask = torch.ones_like(prompt)
    contenders: dict[str, Callable[[], torch.Tensor]] = {
        "transformers generate": lambda: peer.generate(prompt, attention_mask=mask, **exactly),
        "transformers bare loop": lambda: bare_loop(peer, prompt, NEW_TOKENS),
        "edgeinfer": lambda: models.generate(ours, prompt, NEW_TOKENS),
    }
    if dtype == torch.float32:
        check_equal(contenders)
    return measure.compare(contenders, "transformers generate", rounds=rounds)


def prefill(dtype: torch.dtype, rounds: int) -> measure.Comparison:
    """Time the logits of the last of LONG_PROMPT tokens."""
    folder = models.shipped()["target"]
    ours = models.load(folder, dtype)
    peer = AutoModelForCausalLM.from_pretrained(str(folder), dtype=dtype).eval()
    prompt = models.held_out_tokens()[:LONG_PROMPT].view(1, LONG_PROMPT)

    def theirs() -> torch.Tensor:
        with torch.inference_mode():
            return peer(prompt, use_cache=True, logits_to_keep=1).logits

    contenders = {"transformers": theirs, "edgeinfer": lambda: ours.prefill(prompt, last_only=True)[0]}
    return measure.compare(contenders, "transformers", rounds=rounds)


def main() -> None:
    """Run all comparisons, print their tables, write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=11)
    rounds = parser.parse_args().rounds
    # One thread: the products of so small a model end sooner than a second thread joins, for both contenders.
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    comparisons: dict[str, Any] = {}
    for dtype in (torch.float32, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        for batch in (1, 4):
            title = f"{NEW_TOKENS} greedy tokens after {PROMPT}, {name}, batch {batch}"
            comparisons[title] = generation(dtype, batch, rounds)
        comparisons[f"Prefill of {LONG_PROMPT} tokens, {name}"] = prefill(dtype, rounds)
    for title, comparison in comparisons.items():
        print(f"\n{title}\n{comparison.table()}")
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "title": "The decoder beside transformers",
        "machine": json.loads(measure.describe_machine().to_json()),
        "comparisons": {title: json.loads(comparison.to_json()) for title, comparison in comparisons.items()},
        "notes": [
            "Model: the shipped target. In float32 the contenders were checked to generate the same tokens first. The "
            "model is small, so these times show the overhead per token more than the memory's bandwidth. One thread."
        ],
    }
    RESULTS.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(f"\nwritten: benchmarks/results/{RESULTS.name}")


if __name__ == "__main__":
    main()
