"""`python -m edgeinfer.memory.serving`: serve a model of the family, or any Llama-style checkpoint, on this machine."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m edgeinfer.memory.serving", description=__doc__)
    parser.add_argument("--model", default="target", help="a shipped model or a checkpoint folder (default: target)")
    parser.add_argument("--address", default="127.0.0.1", help="address to listen on (default: this machine only)")
    parser.add_argument("--port", type=int, default=8001, help="port to listen on; 0: a free one (default: 8001)")
    parser.add_argument("--dtype", default="float32", help="float32 or bfloat16 (default: float32)")
    parser.add_argument("--blocks", type=int, default=512, help="blocks of the cache (default: 512)")
    parser.add_argument("--block-size", type=int, default=16, help="tokens in a block (default: 16)")
    parser.add_argument("--max-batch", type=int, default=16, help="requests computed at once (default: 16)")
    parser.add_argument("--token-budget", type=int, default=64, help="most tokens of one step (default: 64)")
    parser.add_argument("--queue", type=int, default=64, help="requests here at once; more get 429 (default: 64)")
    parser.add_argument("--threads", type=int, default=1, help="threads of the model's arithmetic (default: 1)")
    parser.add_argument(
        "--grace", type=float, default=10.0, help="seconds for present answers at the end (default: 10)"
    )
    parser.add_argument("--no-sharing", action="store_true", help="compute every prompt from its first token on")
    return parser.parse_args()


async def _run(options: argparse.Namespace) -> None:
    import torch

    from edgeinfer import models
    from edgeinfer.memory.paging.runner import PagedRunner
    from edgeinfer.memory.serving.engine import Engine
    from edgeinfer.memory.serving.server import Settings, serve
    from edgeinfer.memory.serving.service import Service
    from edgeinfer.models.checkpoint import torch_dtype

    torch.set_num_threads(options.threads)
    dtype = torch_dtype(options.dtype)
    model, tokenizer = models.load(options.model, dtype), models.load_tokenizer(options.model)
    context = model.config.max_position_embeddings
    runner = PagedRunner(model, num_blocks=options.blocks, block_size=options.block_size, dtype=dtype)
    engine = Engine(
        runner, options.max_batch, options.token_budget, context=context, share_prefixes=not options.no_sharing
    )
    begin, end = tokenizer.token_to_id("<|begin|>"), tokenizer.token_to_id("<|end|>")
    settings = Settings(
        str(options.model), context, begin, frozenset() if end is None else frozenset({end})
    )  # special tokens of this book's family; another checkpoint has others, and then answers end with max_tokens
    server = await serve(Service(engine, tokenizer, most=options.queue), settings, options.address, options.port)
    print(f"serving {options.model} at http://{options.address}:{server.port}/v1 (Ctrl-C ends it)", flush=True)
    stopped = asyncio.Event()

    def stop(number: int) -> None:
        if stopped.is_set():  # asked twice: at once
            os._exit(128 + number)
        stopped.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop, number)
    await stopped.wait()
    print(f"ending: present answers have {options.grace:g} seconds; the same signal again ends at once", flush=True)
    await server.close(options.grace)


def main() -> None:
    """Serve until interrupted."""
    try:
        asyncio.run(_run(_arguments()))
    except (OSError, ValueError, MemoryError) as error:
        sys.exit(f"serving: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
    sys.stdout.flush()
    os._exit(0)  # everybody has been answered; taking torch apart would last seconds more


if __name__ == "__main__":
    main()
