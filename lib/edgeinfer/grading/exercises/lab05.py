"""Exercises of lab 5, structured sparsity and hybrid execution; N:M, order of columns, two levels, tiles, windows."""

from edgeinfer.grading.exercise import Lab
from edgeinfer.grading.exercises._lab05_condense import UNITS, WINDOW
from edgeinfer.grading.exercises._lab05_hybrid import TILES
from edgeinfer.grading.exercises._lab05_levels import LEVELS
from edgeinfer.grading.exercises._lab05_packed import MATVEC, PACK
from edgeinfer.grading.exercises._lab05_permutation import MLP, SEARCH
from edgeinfer.grading.exercises._lab05_prune import PRUNE

LAB = Lab(
    name="lab05_structured_sparsity",
    setup="import itertools\nimport numpy as np",  # as in the lab's own imports
    exercises=[PRUNE, PACK, MATVEC, SEARCH, MLP, LEVELS, TILES, WINDOW, UNITS],
)
