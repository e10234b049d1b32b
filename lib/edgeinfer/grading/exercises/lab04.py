"""Exercises of lab 4, sparse matrix products that pay: compressed rows, bitmaps, bytes, tiles and row order."""

from edgeinfer.grading.exercise import Lab
from edgeinfer.grading.exercises._lab04_bitmap import PACK, UNPACK
from edgeinfer.grading.exercises._lab04_bytes import BYTES, CROSSOVER
from edgeinfer.grading.exercises._lab04_csr import COMPRESS, MATVEC
from edgeinfer.grading.exercises._lab04_permute import PERMUTE
from edgeinfer.grading.exercises._lab04_tiles import TILES

LAB = Lab(
    name="lab04_sparse_products",
    setup="import numpy as np",
    exercises=[COMPRESS, MATVEC, PACK, UNPACK, BYTES, CROSSOVER, TILES, PERMUTE],
)
