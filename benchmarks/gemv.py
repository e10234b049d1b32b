"""Matrix-vector products with few bits per weight against torch, onnxruntime and llama.cpp, side by side.

Each table (a shape, cached or not, a number of threads) is measured in a process of its own, so that no thread pool
of one disturbs another. Prints the tables and writes results/gemv.json.
"""

from __future__ import annotations

from _tables import compared, run

TITLE = "Products with few bits per weight, one token"
CASES = ("4096x4096", "11008x4096", "2048x2048 in cache")
BASELINE = "torch bf16"
NOTE = (
    "Activations are quantized, or tables built, inside every call; 'of roofline' is the share of the read bandwidth "
    "measured in the same process, in memory or in the cache that holds the weights."
)


def measure(case: str, threads: int, rounds: int) -> dict:
    """One table; to be called in a fresh process with the thread counts of the libraries set."""
    from peers import Problem, ggml_peer, onnx_peer, ours, torch_peer

    shape, _, where = case.partition(" ")
    rows, columns = map(int, shape.split("x"))
    problem = Problem(rows, columns, threads, cold=not where)

    def contenders() -> list:
        return [c for peer in (torch_peer, onnx_peer, ggml_peer, ours) for c in peer.contenders(problem)]

    title = f"{rows} x {columns}, weights {where or 'from memory'}"
    level = _level if where else (lambda nbytes, limits: "DRAM")
    table = compared(contenders, BASELINE, title, threads, rounds, 90, level=level)
    return {**table, "absent": problem.absent}


def _level(nbytes: int, limits) -> str:
    """The cache that holds so many bytes (the working sets are half a cache)."""
    for level, size in limits.working_set.items():
        if nbytes <= 2 * size:
            return level
    return "DRAM"


if __name__ == "__main__":
    run(__file__, TITLE, CASES, measure, NOTE)
