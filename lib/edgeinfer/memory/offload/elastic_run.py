"""`python -m edgeinfer.memory.offload.elastic_run`: a model within your latency, from a file of shards, three ways.

Plans, runs and judges: fidelities by importance in a pipeline, one fidelity for all in the same pipeline, and one
fidelity for all loaded before anything is computed. Source: sti.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from edgeinfer import models
from edgeinfer.memory.flash.traces import training_tokens
from edgeinfer.memory.offload.elastic import Budget
from edgeinfer.memory.offload.elastic_file import ShardFile, write_shards
from edgeinfer.memory.offload.elastic_pipeline import ElasticPipeline, Request, layer_seconds, read_rate
from edgeinfer.memory.offload.elastic_plan import Schedule, predict, schedule, uniform
from edgeinfer.memory.offload.shards import FIDELITIES, ShardedModel
from edgeinfer.models.decoder import Decoder

PLANNED, UNIFORM, LOAD_FIRST = "planned by importance", "one fidelity for all", "load all, then compute"
WINDOW = 128


@dataclass(frozen=True)
class Way:
    """One way to answer within a latency: what was decided and, when it was run, what happened.

    Attributes:
        schedule: None when nothing is in time this way.
        overlap: whether reading and computing overlap.
        request: of the quickest run.
        logits: of that run.
    """

    schedule: Schedule | None
    overlap: bool
    request: Request | None = None
    logits: Tensor | None = None


def decide(file: ShardFile, budget: Budget) -> dict[str, Way]:
    """The best schedule of each way within a budget; raises as `elastic_plan.schedule`."""
    return {
        PLANNED: Way(schedule(file.sizes, budget), True),
        UNIFORM: Way(uniform(file.sizes, budget), True),
        LOAD_FIRST: Way(uniform(file.sizes, budget, overlap=False), False),
    }


def execute(
    model: Decoder, file: ShardFile, way: Way, tokens: Tensor, slow_flash: float | None = None, repeats: int = 1
) -> Way:
    """Run a way that has a schedule; the quickest of the repeats is kept.

    Args:
        model, file, slow_flash: as for `ElasticPipeline`.
        way: from `decide`.
        tokens: (B, T) int64.
        repeats: runs.
    """
    if way.schedule is None:
        return way
    pipeline = ElasticPipeline(model, file, way.schedule, slow_flash)
    logits, request = min((pipeline.run(tokens, way.overlap) for _ in range(repeats)), key=lambda run: run[1].seconds)
    return Way(way.schedule, way.overlap, request, logits)


def lanes(request: Request, columns: int = 64) -> list[str]:
    """Draw when the reader and the processor were busy, in two lines of text."""
    lines = []
    for lane in ("read", "compute"):
        cells = [" "] * columns
        for kind, number, begin, end in request.timeline:
            if kind == lane:
                first = min(columns - 1, int(begin / request.seconds * columns))
                for cell in range(first, max(first + 1, min(columns, round(end / request.seconds * columns)))):
                    cells[cell] = "0123456789abcdefghijklmnopqrstuvwxyz"[number % 36]
        lines.append(f"{lane:8} |{''.join(cells)}|")
    return lines


def texts(model: Decoder, name: str, path: str | None = None) -> tuple[Tensor, Tensor]:
    """Tokens to profile importance on, and others to judge by.

    Args:
        model: whose vocabulary must know them.
        name: of the checkpoint, for its tokenizer.
        path: a text file in UTF-8, whose halves are used; None: the book's training and held-out text.

    Raises:
        ValueError: "... has 512 tokens ..., give a text", or when the text is too short.
    """
    if path is None:
        pair = training_tokens(8 * WINDOW), models.held_out_tokens("text")
        if int(max(part.max() for part in pair)) >= model.config.vocab_size:
            raise ValueError(
                f"this checkpoint has {model.config.vocab_size} tokens and the book's text needs more; give a text file"
            )
    else:
        if not Path(path).is_file():
            raise FileNotFoundError(f"there is no text {path}; give a file in UTF-8")
        ids = torch.tensor(models.load_tokenizer(name).encode(Path(path).read_text(encoding="utf-8")).ids)
        pair = ids[: len(ids) // 2], ids[len(ids) // 2 :]
    if min(len(part) for part in pair) <= WINDOW:
        raise ValueError(f"the text has {sum(map(len, pair))} tokens; at least {2 * WINDOW + 2} are needed")
    return pair


def prepare(
    path: Path, model: Decoder, tokens: Tensor, bits: tuple[int, ...] = FIDELITIES, group_size: int = 32
) -> int:
    """Write a model's file of shards, importance measured on up to four windows of text; return its bytes."""
    count = min(4, (len(tokens) - 1) // WINDOW)
    windows = torch.stack([tokens[i * WINDOW : i * WINDOW + WINDOW + 1] for i in range(count)])
    sharded = ShardedModel(model, bits, group_size)
    return write_shards(path, sharded, sharded.profile(windows))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m edgeinfer.memory.offload.elastic_run", description=__doc__)
    add = parser.add_argument
    add("--model", default="target", help="a shipped model or a checkpoint folder (default: target)")
    add("--latency", type=float, default=250, help="ms until the logits must be there (default: 250)")
    add("--buffer", type=float, default=400, help="kB of shards held ready (default: 400; 0: none)")
    add("--flash", type=float, default=20, help="MB/s of a simulated slow flash; 0: as fast as the disk (default: 20)")
    add("--bits", default="2,3,4,6,8", help="fidelities to store (default: 2,3,4,6,8)")
    add("--group-size", type=int, default=32, help="weights that share a scale (default: 32)")
    add("--prompt", type=int, default=32, help="tokens of the prompt (default: 32)")
    add("--margin", type=float, default=0.1, help="plan for a machine slower by this part (default: 0.1)")
    add("--text", help="a text file to profile on and to judge by (default: the book's)")
    add("--file", help="where the shards lie; an existing file is used as it is (default: a temporary one)")
    return parser.parse_args()


def _fidelities(text: str) -> tuple[int, ...]:
    try:
        return tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        raise ValueError(f"fidelities are whole numbers with commas between, such as 2,3,4,8; came {text!r}") from None


def _report(options: argparse.Namespace, folder: str) -> None:
    if not (options.latency > 0 and options.prompt > 0 and options.margin >= 0 and options.flash >= 0):
        raise ValueError("latency and prompt must be positive, flash and margin not negative")
    torch.set_num_threads(1)
    model = models.load(options.model)
    practice, judged = texts(model, options.model, options.text)
    path = Path(options.file or Path(folder) / "shards.bin")
    if not path.exists():
        prepare(path, model, practice, _fidelities(options.bits), options.group_size)
    with ShardFile(path) as file:
        prompt = judged[: options.prompt].view(1, -1)
        layer, head = layer_seconds(model, file, prompt)
        slow = options.flash * 1e6 or None
        budget = Budget(options.buffer * 1e3, slow or read_rate(file), layer, options.latency / 1e3, head)
        print(
            f"{path.name}: {file.cold.size / 1e6:.1f} MB, {len(file.names)} shards in {', '.join(map(str, file.bits))} "
            f"bits, read past the page cache ({file.cold.how}) with {budget.disk_rate / 1e6:.1f} MB/s "
            f"({'a simulated slow flash' if slow else 'measured'})\n"
            f"a layer takes {1e3 * layer:.1f} ms, embedding and head {1e3 * head:.1f} ms (measured)"
        )
        for name, way in decide(file, budget.slower(options.margin)).items():
            print(f"\n{name}")
            if way.schedule is None:
                print(f"    not even {file.bits[0]} bits are there in time")
                continue
            whole = file.load(model, way.schedule.kinds)
            done = execute(model, file, way, prompt, slow)
            assert done.request is not None and done.logits is not None
            print("\n".join("    " + line for line in _lines(file, budget, way.schedule, done)))
            print(
                f"    perplexity {models.perplexity(whole, judged, WINDOW, 4096):.2f}; logits equal to those of the "
                f"same shards loaded at once: {torch.equal(whole.prefill(prompt)[0], done.logits)}"
            )


def _lines(file: ShardFile, budget: Budget, chosen: Schedule, done: Way) -> list[str]:
    request = done.request
    assert request is not None
    said = predict(file.sizes, chosen.kinds, chosen.held, budget, done.overlap)
    in_time = "in time" if request.seconds <= budget.latency else "TOO LATE"
    bits = [str(file.bits[k]) for k in chosen.kinds]
    spelled = f"{bits[0]} bits in all shards" if len(set(bits)) == 1 else f"bits {' '.join(bits)}"
    return [
        f"{spelled}; {chosen.held} shards are held ready",
        f"{request.read_bytes / 1e6:.2f} MB read, {chosen.held_bytes / 1e6:.2f} MB held between requests, "
        f"at most {request.peak_bytes / 1e6:.2f} MB of shards at once",
        f"predicted {1e3 * said.finish:.0f} ms, measured {1e3 * request.seconds:.0f} ms: {in_time}; "
        f"{1e3 * request.stalled:.0f} ms of waiting for shards",
        *lanes(request),
    ]


def main() -> None:
    """Print three ways within a latency."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            _report(_arguments(), folder)
        except (OSError, ValueError) as error:
            sys.exit(f"elastic_run: {error}")


if __name__ == "__main__":
    main()
