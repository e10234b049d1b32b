"""V.F collab: one model over several processes or machines.

Import the module you need, for instance `edgeinfer.collab.sequence_pipeline`; the package itself imports nothing.
"""
