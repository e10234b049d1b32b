"""V.C.1, buffers: who needs which bytes when, and how few of them one step of a model can live in.

`liveness` says when a buffer is alive, `planners` and `optimal` place buffers in one arena, `recording` and `arena` do
it to the real decoder, `symbolic` makes a plan for any number of tokens. `unified_max` and `flat_gemm` are
FlashDecoding++, `log_scale`, `unified_format` and `schedule` EdgeLLM. The package imports numpy alone; torch and numba
come with the modules that need them.
"""

from edgeinfer.memory.buffers.liveness import Buffer, Plan, check_plan, live_bytes, lower_bound
from edgeinfer.memory.buffers.planners import (
    PLANNERS,
    plan_by_size,
    plan_by_time,
    plan_naive,
    plan_ping_pong,
    plan_shared,
)

__all__ = [
    "PLANNERS",
    "Buffer",
    "Plan",
    "check_plan",
    "live_bytes",
    "lower_bound",
    "plan_by_size",
    "plan_by_time",
    "plan_naive",
    "plan_ping_pong",
    "plan_shared",
]
