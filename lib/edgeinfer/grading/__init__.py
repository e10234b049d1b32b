"""Checks with diagnoses for students, and the grader that judges submissions by their output.

`checks` runs in the student's notebook, `grade` in the instructor's terminal (`python -m edgeinfer.grading`). Both use
the same exercises (`exercises/labNN.py`: contract, inputs, oracle, misconceptions) and the same `judge`. Knows no
technique.
"""
