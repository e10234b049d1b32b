"""Exercises of lab 9, locality: bundles, window, order, merged reads, even parts, tiles."""

from edgeinfer.grading.exercise import Lab
from edgeinfer.grading.exercises._lab09_flash import BUNDLE, ORDER, WINDOW
from edgeinfer.grading.exercises._lab09_reads import READS
from edgeinfer.grading.exercises._lab09_shares import SPLIT, TRAFFIC

LAB = Lab(
    name="lab09_locality",
    setup="import numpy as np",
    exercises=[BUNDLE, WINDOW, ORDER, READS, SPLIT, TRAFFIC],
)
