"""Exercises of lab 10, offloading: a stream of layers, three tiers, seconds of a step, two roads, fidelities."""

from edgeinfer.grading.exercise import Lab
from edgeinfer.grading.exercises._lab10_plan import ROADS, SHARDS
from edgeinfer.grading.exercises._lab10_policy import BYTES, SECONDS
from edgeinfer.grading.exercises._lab10_stream import STREAM

LAB = Lab(
    name="lab10_offloading",
    setup="import numpy as np",
    exercises=[STREAM, BYTES, SECONDS, ROADS, SHARDS],
)
