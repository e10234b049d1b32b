"""Exercises of lab 2, look-up tables instead of multiplications; one file for products, one for number formats."""

from edgeinfer.grading.exercise import Lab
from edgeinfer.grading.exercises._lab02_formats import CODING, PACK, UNPACK
from edgeinfer.grading.exercises._lab02_product import PRODUCT, SPLIT, TABLES

LAB = Lab(
    name="lab02_lookup_tables",
    setup="import numpy as np",
    exercises=[SPLIT, TABLES, PRODUCT, PACK, UNPACK, CODING],
)
