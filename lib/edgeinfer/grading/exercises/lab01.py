"""Exercises of lab 1, quantization from scratch; grids, the integer product, the smarter roundings."""

from edgeinfer.grading.exercise import Lab
from edgeinfer.grading.exercises._lab01_activation import ACTIVATION
from edgeinfer.grading.exercises._lab01_error import SECOND_ORDER
from edgeinfer.grading.exercises._lab01_grid import SYMMETRIC
from edgeinfer.grading.exercises._lab01_groups import GROUPS
from edgeinfer.grading.exercises._lab01_product import PRODUCT

LAB = Lab(
    name="lab01_quantization",
    setup="import numpy as np",
    exercises=[SYMMETRIC, GROUPS, PRODUCT, ACTIVATION, SECOND_ORDER],
)
