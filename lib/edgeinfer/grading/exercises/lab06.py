"""Exercises of lab 6, shared weights: similar heads, a common factor, repeated blocks, derived tiles."""

from edgeinfer.grading.exercise import Lab
from edgeinfer.grading.exercises._lab06_layers import FACTOR, LOADS
from edgeinfer.grading.exercises._lab06_parts import DERIVE, SIMILAR

LAB = Lab(
    name="lab06_sharing_weights",
    setup="import numpy as np",
    exercises=[SIMILAR, FACTOR, LOADS, DERIVE],
)
