"""Measuring: this machine, its limits, fair comparisons, traffic and operations, the roofline, a transformer's work.

Importing it is quick and imports neither torch nor numba nor numpy; it knows no technique.
"""

from edgeinfer.measure.comparison import Comparison, Work
from edgeinfer.measure.counters import Counter, count_operations, count_read, count_write, torch_flops
from edgeinfer.measure.known_models import KNOWN_MODELS
from edgeinfer.measure.limits import Limits, measure_limits
from edgeinfer.measure.machine import Cache, Machine, describe_machine
from edgeinfer.measure.presets import PRESETS, Preset
from edgeinfer.measure.roofline import Point, attainable, describe, ridge, roofline, time_bound
from edgeinfer.measure.timing import cold_copies, compare, rotating
from edgeinfer.measure.work import ModelShape, StepWork

__all__ = [
    "KNOWN_MODELS",
    "PRESETS",
    "Cache",
    "Comparison",
    "Counter",
    "Limits",
    "Machine",
    "ModelShape",
    "Point",
    "Preset",
    "StepWork",
    "Work",
    "attainable",
    "cold_copies",
    "compare",
    "count_operations",
    "count_read",
    "count_write",
    "describe",
    "describe_machine",
    "measure_limits",
    "ridge",
    "roofline",
    "rotating",
    "time_bound",
    "torch_flops",
]
