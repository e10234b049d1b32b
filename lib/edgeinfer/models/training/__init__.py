"""Trains the shipped family again: `python -m edgeinfer.models.training` (hours on two cores; it can be resumed)."""
