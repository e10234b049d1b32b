"""Greedy generation with the book's decoder beside `transformers`, on the same files, interleaved in one run.

And the model in 4 bits: the fused step beside bfloat16 and beside onnxruntime on the same 4-bit weights. Writes
results/generation.json. `transformers` is timed twice: as people call it (`generate`), and as a bare loop around its
forward pass with its own cache, which leaves out what `generate` does besides.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from edgeinfer import kernels, measure, models
from peers.onnx_decoder import OnnxDecoder
from transformers import AutoModelForCausalLM, DynamicCache
from transformers.utils import logging

RESULTS = Path(__file__).resolve().parent / "results" / "generation.json"
NEW_TOKENS, PROMPT, LONG_PROMPT, FEW_BITS_TOKENS = 64, 64, 512, 128


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


def few_bits(rounds: int) -> tuple[measure.Comparison, str]:
    """Time FEW_BITS_TOKENS greedy tokens after one, in 4 bits and in bfloat16; and say what the 4 bits cost.

    A prompt of one token: what is timed are steps of decoding, and nobody's way to read a prompt.
    """
    model, tokens = models.load("target"), models.held_out_tokens()
    calibration = models.held_out_tokens("train")[: 16 * 256].view(16, 256)
    start = time.perf_counter()
    found = kernels.quantize_model(model, 4, 64, "gptq", calibration, attach="none")
    seconds = time.perf_counter() - start
    exact = models.perplexity(model, tokens, max_tokens=8192)
    fused, half = kernels.FusedDecoder(model, found), models.load("target", torch.bfloat16)
    layers = models.load("target")
    for name, weight in found.weights.items():
        layers.replace_linear(name, kernels.KernelLinear(weight))
    head = kernels.quantize_groupwise(model.state_dict()["model.embed_tokens.weight"].numpy(), 8, 64)
    layers.replace_linear("lm_head", kernels.KernelLinear(head))
    coarse = models.perplexity(layers, tokens, max_tokens=8192)
    prompt = tokens[:1]
    contenders: dict[str, Callable[[], object]] = {
        "edgeinfer bfloat16": lambda: models.generate(half, prompt, FEW_BITS_TOKENS),
        "edgeinfer 4 bits, layer by layer": lambda: models.generate(layers, prompt, FEW_BITS_TOKENS),
        "edgeinfer 4 bits, fused step": lambda: fused.generate(prompt, FEW_BITS_TOKENS),
    }
    note = ""
    try:
        peer = OnnxDecoder(model, found)
        wanted = fused.generate(prompt, FEW_BITS_TOKENS).tolist()
        if peer.generate(prompt.tolist(), FEW_BITS_TOKENS) != wanted:
            note = " onnxruntime rounds activations elsewhere and generates another text of the same length."
        contenders["onnxruntime 4 bits"] = lambda: peer.generate(prompt.tolist(), FEW_BITS_TOKENS)
    except ImportError as error:
        note = f" onnxruntime is absent: {error.name} is not installed (requirements-dev.txt)."
    comparison = measure.compare(contenders, "edgeinfer bfloat16", rounds=rounds)
    return comparison, (
        f"4 bits: second-order rounding in groups of 64, head and activations 8 bits; quantized in {seconds:.1f} s on "
        f"{torch.get_num_threads()} thread. Perplexity {coarse:.3f}, in float32 {exact:.3f}: "
        f"{100 * (coarse / exact - 1):.1f} percent more. onnxruntime has the same weights and head.{note}"
    )


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
    comparison, cost = few_bits(rounds)
    comparisons[f"{FEW_BITS_TOKENS} greedy tokens, 4 bits, batch 1"] = comparison
    for title, comparison in comparisons.items():
        print(f"\n{title}\n{comparison.table()}")
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "title": "The decoder beside transformers",
        "machine": json.loads(measure.describe_machine().to_json()),
        "comparisons": {title: json.loads(comparison.to_json()) for title, comparison in comparisons.items()},
        "notes": [
            "Model: the shipped target. In float32 the contenders were checked to generate the same tokens first. The "
            "model is small, so these times show the overhead per token more than the memory's bandwidth. One thread.",
            cost,
        ],
    }
    RESULTS.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(f"\n{cost}\nwritten: benchmarks/results/{RESULTS.name}")


if __name__ == "__main__":
    main()
