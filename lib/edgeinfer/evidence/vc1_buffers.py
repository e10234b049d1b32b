"""V.C.1, buffers: FlashDecoding++ and EdgeLLM, and what planned activation memory adds to Transformer-Lite.

Counts, bytes, perplexities and equal tokens of the shipped model; what belongs to a GPU or an FPGA is simulated, with
rates that are stated, or left open. Knows the room `memory.buffers`, no page and no plot.
Source: flashdecoding-pp, edgellm, transformer-lite.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from edgeinfer.evidence.protocol import Claim, Evidence, Result, evidence

STEPS, CONTEXT, SPLIT = 24, 192, 32
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
# Simulated machine of the kernel table: bytes per second, multiplications per second of a product row by row, in
# tiles of 8 rows and in tiles of 64 (the larger the tile, the fuller the unit). Round numbers, not a device.
BANDWIDTH, RATES, TILES = 20e9, {"row by row": 20e9, "tiles of 8": 60e9, "tiles of 64": 120e9}, (1, 8, 64)
# Simulated accelerator: quick memory, slow memory (bytes per second), processor time to fill in one instruction.
QUICK, SLOW, PREPARE = 200e9, 20e9, 0.5e-6
LENGTH = 64  # tokens of the prompt whose buffers are planned


# ---------------------------------------------------------------- FlashDecoding++


def watched_rows(start: int) -> tuple[np.ndarray, Any, list[int]]:
    """Score ranges (rows, 2) of all attention rows while the model decodes a text, the attention, and its tokens."""
    from edgeinfer import models
    from edgeinfer.memory.buffers.unified_max import UnifiedAttention

    model = models.load("target")
    attention = UnifiedAttention(split=SPLIT, watch=True)
    model.attention = attention
    text = models.held_out_tokens("text")[start : start + CONTEXT]
    tokens = models.generate(model, text, STEPS)[-STEPS:].tolist()
    return np.array(attention.seen), attention, tokens


def shape_cost(kernel: str, M: int, N: int, K: int) -> float:
    """Simulated seconds of a product on the machine above: the slower of its bytes and its multiplications."""
    from edgeinfer.memory.buffers.flat_gemm import work

    done = work(M, N, K, dict(zip(RATES, TILES, strict=True))[kernel])
    return max((done.weight_bytes + 4 * M * (N + K)) / BANDWIDTH, done.multiplications / RATES[kernel])


def layer_shapes() -> list[tuple[int, int]]:
    """(N, K) of the products of the shipped model."""
    return [(512, 256), (256, 256), (1280, 256), (256, 640), (1024, 256)]


def table_losses() -> dict[str, float]:
    """Mean loss of each kernel used for everything, and of the table, over the best kernel for each shape and M."""
    from edgeinfer.memory.buffers.flat_gemm import build_dataflow

    table = build_dataflow(tuple(RATES), layer_shapes(), ROWS, shape_cost)
    cases = [(M, N, K) for N, K in layer_shapes() for M in ROWS]
    best = np.array([min(shape_cost(k, *case) for k in RATES) for case in cases])
    losses = {k: float(np.mean(1 - best / [shape_cost(k, *case) for case in cases])) for k in RATES}
    picked = [shape_cost(table.choose(*case), *case) for case in cases]
    return {**losses, "table": float(np.mean(1 - best / picked))}


@evidence("flashdecoding-pp")
def flashdecoding_pp() -> Evidence:
    """Waits with and without the fixed maximum, rows out of range, padding, double buffering and the kernel table."""
    from edgeinfer import models
    from edgeinfer.memory.buffers.flat_gemm import blocks_in_turn, work
    from edgeinfer.memory.buffers.unified_max import HIGH, LOW, attend_unified, attend_with_maximum, choose_phi

    seen, _, _ = watched_rows(4096)  # another part of the text chooses phi
    rows, attention, tokens = watched_rows(0)
    plain = models.generate(models.load("target"), models.held_out_tokens("text")[:CONTEXT], STEPS)[-STEPS:].tolist()
    ranges = {"float32": (LOW, HIGH), "float16": (-9.7, 11.0)}  # exponents that float16 holds without losing digits
    outside = {}
    for name, (low, high) in ranges.items():
        phi = choose_phi(seen[:, 0], seen[:, 1], low, high)
        outside[name] = float(np.mean((rows[:, 0] - phi < low) | (rows[:, 1] - phi > high)))
    rng = np.random.default_rng(0)
    arrays = rng.standard_normal((4, 2, 32)).astype(np.float32), *rng.standard_normal((2, 4, 4096, 32), np.float32)
    with_maximum, before = attend_with_maximum(*arrays)
    unified, after = attend_unified(*arrays)
    one = {tile: work(1, 512, 256, tile) for tile in (8, 64)}
    losses = table_losses()
    static = min(v for k, v in losses.items() if k != "table")
    halves = blocks_in_turn([1.0] * 16, [1.0] * 16, 1) / blocks_in_turn([1.0] * 16, [1.0] * 16, 2)
    results = [
        Result("pieces that wait for a maximum, true maximum", before.waits, "1", "measured",
               "8 rows of 4,096 tokens, 256 a piece"),
        Result("pieces that wait for a maximum, fixed phi", after.waits, "1", "measured"),
        Result("multiplications to scale them anew, true maximum", before.scalings, "1", "measured"),
        Result("largest difference of the two", float(np.abs(with_maximum - unified).max()), "1", "measured"),
        Result("decoded tokens that differ", sum(a != b for a, b in zip(tokens, plain, strict=True)), "1", "measured",
               f"of {STEPS}, after {CONTEXT}"),
        Result("rows computed again, range of float32", outside["float32"], "1", "measured",
               f"of {len(rows):,} rows; phi from another text"),
        Result("rows computed again, range of float16", outside["float16"], "1", "measured", "same rows"),
        Result("waits in the decoded text", attention.counts.waits, "1", "measured", "fixed phi, float32"),
        Result("utilisation at one row, padded to 8", one[8].utilisation, "1", "measured", "counted multiplications"),
        Result("utilisation at one row, padded to 64", one[64].utilisation, "1", "measured"),
        Result("time of a single buffer over two", halves, "x", "simulated", "16 blocks, loading as long as computing"),
        *[Result(f"mean loss, {name}", loss, "1", "simulated", "against the best kernel for each of 45 shapes")
          for name, loss in losses.items()],
    ]  # fmt: skip
    claim = Claim(
        "Up to 4.86 times as fast as Hugging Face implementations on NVIDIA GPUs, and 1.37 times on average against "
        "earlier engines.",
        4.86,
        "x",
        "NVIDIA GPU",
        "flashdecoding-pp",
        verified=True,
    )
    reason = (
        "The speed is a GPU's and was not put to the test. Its three causes were. With a fixed maximum nothing waits, "
        "and the tokens are the same. Padding to 8 rows instead of 64 multiplies "
        f"{one[64].multiplications // one[8].multiplications} times less for one row. The best single kernel for all "
        f"sizes loses {static:.0%}, one chosen from a table by size {losses['table']:.0%} (simulated). But in the "
        f"range of float16, {outside['float16']:.0%} of this model's rows would be computed again."
    )
    return Evidence(claim, results, None, reason)


# ---------------------------------------------------------------- planned buffers (Transformer-Lite) and the stream


@lru_cache(maxsize=1)
def planned() -> dict[str, Any]:
    """Bytes of a prompt's buffers under each planner, and one plan and one stream for every length."""
    import torch

    from edgeinfer import models
    from edgeinfer.memory.buffers import PLANNERS, decoder_programs, lower_bound
    from edgeinfer.memory.buffers.arena import ArenaProgram, operator_by_operator, peak_allocated, relayout_bytes
    from edgeinfer.memory.buffers.symbolic import plan_symbolic
    from edgeinfer.memory.kv_in_place import InPlaceCache

    model = models.load("target")
    cache = InPlaceCache(model.config, 1, model.dtype)
    text = models.held_out_tokens("text")
    program = decoder_programs.prompt_program(model, LENGTH, cache)
    buffers = program.buffers()
    totals = {name: make(buffers).total for name, make in PLANNERS.items()}
    separate = decoder_programs.prompt_program(model, LENGTH, cache, decoder_programs.plain_attention)
    moved = {"clone": relayout_bytes(separate, ("clone",)), "roll": relayout_bytes(separate, ("roll",))}
    symbolic = decoder_programs.any_prompt(model, cache)
    plan = plan_symbolic(symbolic.buffers(), 2, 1024)
    above = max(plan.at(n).total / lower_bound(symbolic.at(n).buffers(alignment=16)) for n in (2, 3, 17, 64, 255, 1024))
    prompt = text[None, :LENGTH].clone()
    bound = ArenaProgram(program, PLANNERS["best fit, largest first"](buffers))
    got = bound(prompt).clone()
    model.attention = decoder_programs.fused_attention
    want = operator_by_operator(lambda t: model.prefill(t, last_only=True)[0], prompt)
    same_bits = int(torch.equal(got, want))
    model = models.load("target")
    decoder = decoder_programs.ArenaDecoder(model)
    logits, tokens = decoder.prefill(prompt), []
    for _ in range(STEPS):
        token = logits[:, -1].argmax(-1, keepdim=True)
        tokens.append(int(token))
        logits = decoder.decode(token)
    plain = models.generate(model, prompt[0], STEPS)[-STEPS:].tolist()
    step = decoder.bind()
    step(token)
    beside, _ = peak_allocated(step, token)
    model.attention = decoder_programs.plain_attention
    eager, _ = peak_allocated(lambda: operator_by_operator(lambda t: model.decode(t, decoder.cache), token))
    return {
        "totals": totals, "bound": lower_bound(buffers), "above": above, "same bits": same_bits, "moved": moved,
        "written": sum(b.size for b in separate.buffers()), "beside": beside, "eager": eager,
        "different tokens": sum(a != b for a, b in zip(tokens, plain, strict=True)),
        "instructions": len(decoder.program.template.steps), "fields": decoder.program.fields,
        "arena": decoder.plan.at(decoder.plan.low).total, "arena, last position": decoder.arena.numel(),
        "steps": decoder.program,
    }  # fmt: skip


def buffer_results() -> list[Result]:
    """What planned buffers find, for the evidence of Transformer-Lite (its symbolic shapes)."""
    found = planned()
    note = f"prompt of {LENGTH} tokens"
    return [
        *[Result(f"bytes of activations, {name}", total, "bytes", "measured", note)
          for name, total in found["totals"].items()],
        Result("lower bound of the bytes of activations", found["bound"], "bytes", "measured", "alive in one step"),
        Result("one symbolic plan over the bound, worst of six lengths", found["above"], "x", "measured",
               "2 to 1,024 tokens"),
        Result("logits equal to the bit, out of the arena", found["same bits"], "yes", "measured"),
        Result("bytes a decode step allocates beside its arena", found["beside"], "bytes", "measured",
               "torch's own records"),
        Result("the same without an arena", found["eager"], "bytes", "measured", "peak of the same operators"),
    ]  # fmt: skip


# ---------------------------------------------------------------- EdgeLLM


def log_scale_perplexities() -> tuple[list[Result], dict[str, float]]:
    """Perplexity and bytes of the feed-forward weights at each level, and of a mixture of levels of the same bytes."""
    from edgeinfer.evidence.va1_quantization import Subject
    from edgeinfer.kernels.n_m import activation_importance
    from edgeinfer.memory.buffers.log_scale import LEVELS, choose_levels, pack_log_scale

    subject = Subject()
    base = subject.perplexity()
    inputs = {name: rows.numpy() for name, rows in subject.calibration(512).items() if ".mlp." in name}
    packed: dict[str, dict[int, Any]] = {}
    losses: dict[str, list[float]] = {}
    for name, x in inputs.items():
        weight = subject.weights[name]
        importance = activation_importance(weight, x)
        packed[name] = {keep: pack_log_scale(weight, keep, 64, importance) for keep in LEVELS}
        right = weight @ x[::4].T
        wrong = [p.dequantize() @ x[::4].T for p in packed[name].values()]
        losses[name] = [float(np.square(right - w).sum() / np.square(right).sum()) for w in wrong]
    sizes = {name: [p.nbytes for p in levels.values()] for name, levels in packed.items()}
    found = {"dense": base}
    results = [Result("perplexity, not quantized", base, "1", "measured", f"{subject.tokens} held-out tokens")]
    for at, keep in enumerate(LEVELS):
        now = subject.perplexity({name: levels[keep].dequantize() for name, levels in packed.items()})
        found[f"{keep} of 8"] = now
        count = sum(size[at] for size in sizes.values())
        weights = sum(subject.weights[name].size for name in packed)
        results += [
            Result(f"bits per weight, {keep} of 8", 8 * count / weights, "bits", "measured", "positions and scales"),
            Result(f"perplexity, feed-forward {keep} of 8", now, "1", "measured", "4 bits; all else as it was"),
        ]
    budget = sum(size[1] for size in sizes.values())
    chosen = choose_levels(losses, sizes, budget)
    found["mixed"] = subject.perplexity({name: packed[name][keep].dequantize() for name, keep in chosen.items()})
    used = sum(packed[name][keep].nbytes for name, keep in chosen.items())
    results += [
        Result("perplexity, levels chosen for each weight", found["mixed"], "1", "measured", "the bytes of 4 of 8"),
        Result("bytes of the chosen levels over 4 of 8", used / budget, "x", "measured"),
    ]
    return results, found


@lru_cache(maxsize=1)
def instruction_bytes() -> list[tuple[int, int]]:
    """Bytes of each instruction of a decode step at position 512: of weights and cache, and of activations."""
    from edgeinfer.memory.buffers.recording import refs_in

    program = planned()["steps"].at(512)
    found = []
    for step in program.steps:
        if not step.writes:
            continue  # a view is an address, not an instruction
        kept = moved = 0
        for number in {*refs_in((step.args, step.kwargs)), *step.outputs}:
            shape = program.tensors[number]
            count = int(np.prod(shape.size)) * shape.dtype.itemsize
            if shape.storage in program.nbytes:
                moved += count
            elif step.name != "embedding":
                kept += count
        found.append((kept, moved))
    return found


def instruction_times(together: bool = True) -> tuple[list[float], list[float]]:
    """Simulated seconds of each instruction of a decode step: on the processor, and on the accelerator."""
    from edgeinfer.memory.buffers.schedule import TwoMemories

    memories = TwoMemories(QUICK, SLOW)
    run = [memories.seconds(kept, 0, moved, together) for kept, moved in instruction_bytes()]
    return [PREPARE] * len(run), run


@evidence("edgellm")
def edgellm() -> Evidence:
    """Bytes of re-layout, log-scale weights, one stream for every position, and a queue of instructions (simulated)."""
    import torch

    from edgeinfer import models
    from edgeinfer.memory.buffers.schedule import simulate
    from edgeinfer.memory.buffers.unified_format import UnifiedDecoder, from_unified

    found = planned()
    weights, perplexity = log_scale_perplexities()
    model, tokens = models.load("target"), models.held_out_tokens("text")[:LENGTH].clone()
    unified = UnifiedDecoder(model)
    logits = from_unified(unified(tokens.numpy()))
    want = model.prefill(tokens[None])[0][0]
    difference = float((torch.from_numpy(logits) - want).abs().max())
    prepare, run = instruction_times()
    in_turn = sum(instruction_times(together=False)[1]) / sum(run)
    quick, slow = (sum(column) for column in zip(*instruction_bytes(), strict=True))
    ends = {ahead: simulate(prepare, run, ahead) for ahead in (0, 1, 8)}
    copied = sum(found["moved"].values())
    results = [
        Result("bytes copied only to lay them out anew, usual layouts", copied, "bytes", "measured",
               f"{LENGTH} tokens; {found['moved']['roll'] / copied:.0%} are the rotation's other halves"),
        Result("share of all bytes written", copied / found["written"], "1", "measured"),
        Result("different layouts, one format", len({s[1:] for s in unified.layouts}), "1", "measured",
               f"of {len(unified.layouts)} operator outputs: views only, nothing copied"),
        Result("largest difference of a logit, one format", difference, "1", "measured"),
        *weights,
        Result("instructions of a decode step", found["instructions"], "1", "measured", "recorded once"),
        Result("integers in them that change with the position", found["fields"], "1", "measured"),
        Result("decoded tokens that differ", found["different tokens"], "1", "measured", f"of {STEPS}, same stream"),
        Result("arena of a decode step, last position", found["arena, last position"], "bytes", "measured"),
        *[Result(f"accelerator busy, {ahead} instructions ahead", line.busy, "1", "simulated",
                 f"{QUICK / 1e9:g} and {SLOW / 1e9:g} GB/s, {PREPARE * 1e6:g} µs to prepare one")
          for ahead, line in ends.items()],
        Result("bytes of a decode step in the quick memory", quick, "bytes", "measured", "weights, keys and values"),
        Result("bytes of a decode step in the slow memory", slow, "bytes", "measured", "activations, read and written"),
        Result("time with one memory after the other over both at once", in_turn, "x", "simulated"),
        Result("end without a queue over end with 8 ahead", ends[0].end / ends[8].end, "x", "simulated"),
    ]  # fmt: skip
    claim = Claim(
        "1.91 times the throughput and 7.55 times the energy efficiency of an A100; 10 to 24 % better than the FPGA "
        "accelerator FlightLLM.",
        1.91,
        "x",
        "AMD Xilinx VCU128 FPGA with a CPU",
        "edgellm",
        verified=True,
    )
    reason = (
        "Throughput and energy need the FPGA. What it rests on was put to the test: one layout through all operators "
        f"saves {copied / 1e6:.1f} MB of copies in a prompt of {LENGTH} tokens, and one stream with "
        f"{found['fields']} changing integers decodes every position. Log-scale sparsity without retraining costs this "
        f"small model much: perplexity {perplexity['4 of 8']:.1f} at one half and {perplexity['2 of 8']:.0f} at one "
        f"quarter, against {perplexity['dense']:.1f}."
    )
    return Evidence(claim, results, None, reason)
