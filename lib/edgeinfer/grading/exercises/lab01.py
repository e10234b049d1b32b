"""Exercises of lab 1, quantization from scratch; one file for grids and products, one for the smarter roundings."""

from edgeinfer.grading.exercise import Lab
from edgeinfer.grading.exercises._lab01_error import ACTIVATION, SECOND_ORDER
from edgeinfer.grading.exercises._lab01_grid import GROUPS, PRODUCT, SYMMETRIC

LAB = Lab(
    name="lab01_quantization",
    setup="import numpy as np",
    exercises=[SYMMETRIC, GROUPS, PRODUCT, SECOND_ORDER, ACTIVATION],
)
