"""Exercises of lab 8, paged KV and continuous batching; a file per part."""

from edgeinfer.grading.exercise import Lab
from edgeinfer.grading.exercises._lab08_attend import ATTEND
from edgeinfer.grading.exercises._lab08_grow import GROW
from edgeinfer.grading.exercises._lab08_plan import PLAN
from edgeinfer.grading.exercises._lab08_prefix import PREFIX
from edgeinfer.grading.exercises._lab08_write import WRITE

LAB = Lab(
    name="lab08_paged_kv",
    setup="import numpy as np",
    exercises=[GROW, ATTEND, WRITE, PREFIX, PLAN],
)
