"""Serving many requests at once: a trace, two schedulers, and an OpenAI-compatible server.

`Engine` decides anew at every step, `StaticBatching` once per batch; `replay` plays a `make_trace` to either. The
server is `python -m edgeinfer.memory.serving`. Importing this imports neither torch nor tornado. Source: orca.
"""

from edgeinfer.memory.serving.cost import CostModel, fit
from edgeinfer.memory.serving.dry import DryRunner
from edgeinfer.memory.serving.engine import Engine
from edgeinfer.memory.serving.replay import Replay, Served, TimedStep, replay
from edgeinfer.memory.serving.requests import Event, QueueFull, Request, RequestRefused, Row, Runner, StepRecord
from edgeinfer.memory.serving.static import StaticBatching
from edgeinfer.memory.serving.trace import Arrival, begin_alike, cut_prompts, make_trace

__all__ = [
    "Arrival",
    "CostModel",
    "DryRunner",
    "Engine",
    "Event",
    "QueueFull",
    "Replay",
    "Request",
    "RequestRefused",
    "Row",
    "Runner",
    "Served",
    "StaticBatching",
    "StepRecord",
    "TimedStep",
    "begin_alike",
    "cut_prompts",
    "fit",
    "make_trace",
    "replay",
]
