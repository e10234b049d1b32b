"""V.A.1, whole systems: decoding inside the memory, one prompt over several processes, prefixes kept between turns.

CENT is modelled, from published figures; the pipeline and the reuse of prefixes really run. Knows devices, memory and
collab, no page and no plot. Source: cent, jupiter, rtp-llm.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from edgeinfer.evidence.protocol import Claim, Evidence, Result, evidence

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

# ---------------------------------------------------------------- CENT


def geometric_mean(values: list[float]) -> float:
    """The mean of ratios."""
    return float(np.exp(np.mean(np.log(values))))


@evidence("cent")
def cent() -> Evidence:
    """Tokens per second and per dollar against GPUs, from a cost model that is checked on published points."""
    from edgeinfer.devices import cent as model

    tested = [p for p in model.PUBLISHED_CENT if p not in model.FITTED]
    off = [abs(model.deviation(*p)) for p in tested]
    speed, dollars = {}, {}
    for name, (shape, devices, gpu) in model.SYSTEMS.items():
        fast = devices.tokens_per_second(shape, 10**6, shape.blocks)  # as published: a block for each stage
        rival = model.PUBLISHED_GPU[name][0]
        speed[name] = fast / rival
        dollars[name] = speed[name] * gpu.dollars_per_hour / devices.dollars_per_hour
    shape, devices, gpu = model.SYSTEMS["70B"]
    limit = gpu.tokens_per_second(shape, 128)
    full = devices.best(shape, 128)[0]
    results = [
        Result("points the constants were not fitted to", len(tested), "1", "modelled", "three models, 1 to 80 stages"),
        Result("median deviation from the published simulation", 100 * float(np.median(off)), "%", "modelled"),
        Result("largest deviation from it", 100 * max(off), "%", "modelled", "7B split over all devices"),
        *[Result(f"decoding speed against GPUs, {n}", v, "x", "modelled", "largest batch; GPUs as the authors measured")
          for n, v in speed.items()],
        Result("decoding speed against GPUs, mean", geometric_mean(list(speed.values())), "x", "modelled",
               "geometric; the paper's 2.3 includes prefill"),
        Result("tokens per dollar against GPUs, mean", geometric_mean(list(dollars.values())), "x", "modelled",
               "the authors' costs per hour"),
        Result("speed against GPUs at batch 1, 70B", devices.best(shape, 1)[0] / model.published_gpu_70b(1), "x",
               "modelled", "four A100 as measured by the authors"),
        Result("speed against GPUs at batch 128, 70B", full / model.published_gpu_70b(128), "x", "modelled"),
        Result("speed against the GPUs' own limit at batch 128, 70B", full / limit, "x", "modelled",
               "if four A100 reached their memory bandwidth"),
        Result("bandwidth inside the banks over that of four A100", devices.bandwidth_gb_s / (4 * gpu.memory_gb_s), "x",
               "modelled"),
    ]  # fmt: skip
    claim = Claim(
        "2.3 times the throughput of GPU baselines at their largest batch and similar power, and 5.2 times the tokens "
        "per dollar.",
        2.3,
        "x",
        "simulated CXL devices with processing in memory",
        "cent",
        verified=True,
    )
    holds = geometric_mean(list(speed.values())) > 1.5 and geometric_mean(list(dollars.values())) > 3
    reason = (
        f"In the model, and for the GPUs as measured. The mean hides a spread: {speed['13B']:.1f} times at 13B, "
        f"{speed['70B']:.1f} at 70B. The published GPU figures are far below what the memory of an A100 allows at a "
        f"large batch; a server that came near that limit would decode 70B {limit / full:.1f} times as fast as the CXL "
        "devices. At batch 1 they win clearly; at a large batch, by the GPUs' inefficiency and by price."
    )
    return Evidence(claim, results, bool(holds), reason)


# ---------------------------------------------------------------- Jupiter


def chunk_seconds(tokens: Tensor, chunk: int, rounds: int = 3) -> NDArray[np.float64]:
    """Seconds of each chunk of a prompt in one process on one thread: the best of some rounds."""
    from edgeinfer import models

    model = models.load("target")
    best = np.full(len(tokens.split(chunk)), np.inf)
    for _ in range(rounds):
        kv_cache = None
        for number, part in enumerate(tokens.split(chunk)):
            start = time.perf_counter()
            _, kv_cache = model.prefill(part[None], kv_cache, last_only=True)
            best[number] = min(best[number], time.perf_counter() - start)
    return best


@dataclass(frozen=True)
class PipelineRun:
    """A prompt on one process and on two.

    Attributes:
        difference: largest difference of a logit.
        speedup: of two processes over one, measured; the best rounds of both.
        chunks: (C,) seconds of each chunk on one process.
        same_tokens: whether prompts continued together in the pipeline gave the same tokens as one at a time.
        together: speed of continuing three prompts in the pipeline together over one after the other, measured.
        cores: that this process may use.
    """

    difference: float
    speedup: float
    chunks: NDArray[np.float64]
    same_tokens: bool
    together: float
    cores: int


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def run_pipeline(length: int = 512, chunk: int = 64, rounds: int = 7) -> PipelineRun:
    """Run one prompt in one process and, interleaved, as a pipeline over two; continue three prompts together."""
    import torch

    from edgeinfer import models
    from edgeinfer.collab.sequence_pipeline import SequencePipeline

    tokens, model = models.held_out_tokens()[:length], models.load("target")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with SequencePipeline("target", stages=2) as pipeline:
            found = pipeline.prefill(tokens, chunk, every_token=True)
            difference = float((found - model.prefill(tokens[None])[0][0]).abs().max())
            points = [tokens[:40], tokens[100:140], tokens[300:340]]
            same = pipeline.generate(points, 16) == [models.generate(model, p, 16)[len(p) :].tolist() for p in points]
            one, two, apart, together = [], [], [], []
            for _ in range(rounds):
                two.append(_seconds(lambda: pipeline.prefill(tokens, chunk)))
                one.append(float(chunk_seconds(tokens, chunk, 1).sum()))
                together.append(_seconds(lambda: pipeline.generate(points, 16)))
                apart.append(_seconds(lambda: [pipeline.generate([point], 16) for point in points]))
        speedup, gain = min(one) / min(two), min(apart) / min(together)
        return PipelineRun(difference, speedup, chunk_seconds(tokens, chunk), same, gain, cores())
    finally:
        torch.set_num_threads(threads)


@evidence("jupiter")
def jupiter() -> Evidence:
    """Equal logits, prefill time on one and two processes, and the schedule of more devices than there are here."""
    from edgeinfer.collab.pipeline_schedule import decode_rounds, prefill_seconds

    run = run_pipeline()
    whole = float(run.chunks.sum())
    modelled = {n: whole / prefill_seconds(run.chunks, n) for n in (2, 4, 8)}
    points, answer = 4, 32
    alone = points * decode_rounds(1, answer, 4)
    results = [
        Result("largest difference of a logit", run.difference, "1", "measured", "two processes against one"),
        Result("speed of prefill, two processes over one", run.speedup, "x", "measured",
               f"512 tokens in chunks of 64, one thread each, {run.cores} cores, best of interleaved rounds"),
        *[Result(f"speed of prefill, {n} devices over one", v, "x", "modelled",
                 "from the chunks' measured times; transfers free") for n, v in modelled.items()],
        Result("the same in one chunk, 4 devices", 1.0, "x", "modelled", "no two devices ever work at once"),
        Result("tokens that differ when points are continued together", 0 if run.same_tokens else 1, "1", "measured",
               "three prompts, two processes"),
        Result("speed of decoding three points together, two processes", run.together, "x", "measured",
               "over one after the other; answers of 16 tokens"),
        Result("speed of decoding four points together, 4 devices", alone / decode_rounds(points, answer, 4), "x",
               "modelled", "stage times until all four answers of 32 tokens are there"),
    ]  # fmt: skip
    claim = Claim(
        "A pipeline inside the sequence for prefill, and the points of an outline decoded side by side, cut the "
        "latency of collaborating edge devices by up to 26.1 times.",
        26.1,
        "x",
        "several edge devices on a local network",
        "jupiter",
        verified=True,
    )
    # A busy machine gives two processes no two cores, so the verdict rests on the logits and the schedule.
    holds = run.difference < 1e-3 and run.same_tokens and modelled[4] > 2
    little = "hardly gained" if run.speedup >= 1 else "lost time"
    seen = (
        f"and two processes take {1 / run.speedup:.2f} of the time of one"
        if run.speedup > 1.1
        else f"but in this run two processes {little} ({run.speedup:.2f} times as fast; a busy machine gives two "
        "processes no two cores)"
    )
    reason = (
        f"Shape only: the logits are those of one process, {seen}. The paper's figure compares with other systems on a "
        "slow network, which is not rebuilt. The outline is given by hand: the model of this book is too small to "
        "write one. Speculation is left to a later page."
    )
    return Evidence(claim, results, bool(holds), reason)


# ---------------------------------------------------------------- RTP-LLM


@dataclass
class Conversation:
    """What a trace of conversations cost.

    Attributes:
        prompts, prefilled: tokens of all prompts, and those that went through the model.
        answers: of all turns, in order.
        first_token_seconds: summed over all turns, of prompts alone.
        kept: most tokens kept at any time.
    """

    prompts: int = 0
    prefilled: int = 0
    answers: list[list[int]] = field(default_factory=list)
    kept: int = 0


def converse(
    max_tokens: int | None, users: int = 4, turns: int = 4, system: int = 96, question: int = 24, answer_tokens: int = 8
) -> Conversation:
    """Play a trace: users share a system prompt, take turns, and send their whole conversation each time.

    Args:
        max_tokens: limit of the kept prefixes; None no limit; 0 keeps nothing.
        users, turns: conversations, and questions of each; users are interleaved.
        system, question, answer_tokens: lengths; texts are pieces of the held-out files.
    """
    import torch

    from edgeinfer import models
    from edgeinfer.memory.prefix_reuse import PrefixCache, answer

    model, text = models.load("target"), models.held_out_tokens()
    prefixes = PrefixCache(block_tokens=16, max_tokens=max_tokens)
    histories = [text[:system] for _ in range(users)]
    found = Conversation()
    for turn in range(turns):
        for user in range(users):
            start = system + question * (turn * users + user)
            prompt = torch.cat((histories[user], text[start : start + question]))
            cost = answer(model, prompt, answer_tokens, prefixes if max_tokens != 0 else None)
            histories[user] = torch.cat((prompt, torch.tensor(cost.answer)))
            found.prompts += cost.prompt
            found.prefilled += cost.prefilled
            found.answers.append(cost.answer)
            found.kept = max(found.kept, prefixes.kept_tokens)
    return found


@evidence("rtp-llm")
def rtp_llm() -> Evidence:
    """Tokens of prefill that reuse saves on a trace of conversations, without and with a limit, and equal answers."""
    plain, free = converse(0), converse(None)
    tight = converse(free.kept // 3)
    saved = 1 - free.prefilled / plain.prefilled
    results = [
        Result("tokens of all prompts", plain.prompts, "tokens", "measured", "4 users, 4 turns, one system prompt"),
        Result("tokens prefilled without reuse", plain.prefilled, "tokens", "measured"),
        Result("tokens prefilled with reuse", free.prefilled, "tokens", "measured", "blocks of 16 tokens"),
        Result("share of prefill saved", saved, "1", "measured"),
        Result("most tokens kept", free.kept, "tokens", "measured", "no limit"),
        Result("share saved with a third of that room", 1 - tight.prefilled / plain.prefilled, "1", "measured",
               f"{free.kept // 3} tokens, least recently used blocks go first"),
        Result("turns whose answer differs", sum(a != b for a, b in zip(plain.answers, free.answers, strict=True)), "1",
               "measured", f"of {len(plain.answers)}, greedy"),
    ]  # fmt: skip
    claim = Claim(
        "In conversations of several turns, prompts share a prefix whose keys and values are the same; reusing them, "
        "in whole blocks, shortens the time to the first token.",
        hardware="data-centre GPU",
        citation="rtp-llm",
        verified=True,
    )
    holds = plain.answers == free.answers == tight.answers and saved > 0.5
    reason = (
        "Of a production engine this is one feature, on a small trace. With less room than the conversations need, "
        "blocks are gone before their user comes back, and a good part of the saving with them."
    )
    return Evidence(claim, results, bool(holds), reason)
