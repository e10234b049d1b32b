"""Exercises of lab 7, reusing activation buffers: lives, floor, places, fields of a stream, a fixed maximum."""

from edgeinfer.grading.exercise import Lab
from edgeinfer.grading.exercises._lab07_fields import FIELDS
from edgeinfer.grading.exercises._lab07_lives import LIFETIMES, LIVE
from edgeinfer.grading.exercises._lab07_place import PLACE
from edgeinfer.grading.exercises._lab07_softmax import SOFTMAX

LAB = Lab(
    name="lab07_activation_buffers",
    setup="import numpy as np",  # as in the lab's own imports
    exercises=[LIFETIMES, LIVE, PLACE, FIELDS, SOFTMAX],
)
