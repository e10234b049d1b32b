"""V.C memory: sharing, reuse, locality and tiers of what a model keeps while it runs.

Import the module you need, for instance `edgeinfer.memory.prefix_reuse`; the package itself imports nothing.
"""
