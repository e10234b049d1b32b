"""Exercises of lab 11, offloading experts and contexts: two caches, a timeline, and reading beside computing."""

from edgeinfer.grading.exercise import Lab
from edgeinfer.grading.exercises._lab11_caches import BELADY, LRU
from edgeinfer.grading.exercises._lab11_overlap import END, SPLIT

LAB = Lab(
    name="lab11_experts_and_contexts",
    setup="import numpy as np",
    exercises=[LRU, BELADY, END, SPLIT],
)
