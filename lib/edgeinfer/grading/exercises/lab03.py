"""Exercises of lab 3, keys, values and attention in few bits; a file per part."""

from edgeinfer.grading.exercise import Lab
from edgeinfer.grading.exercises._lab03_append import APPEND
from edgeinfer.grading.exercises._lab03_cascade import CASCADE
from edgeinfer.grading.exercises._lab03_filter import FILTER
from edgeinfer.grading.exercises._lab03_keys import KEYS
from edgeinfer.grading.exercises._lab03_layers import MERGE

LAB = Lab(
    name="lab03_kv_and_attention",
    setup="import numpy as np",
    exercises=[KEYS, APPEND, MERGE, FILTER, CASCADE],
)
