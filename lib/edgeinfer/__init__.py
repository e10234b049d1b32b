"""edgeinfer: the library of the textbook "Large Models on Small Machines".

Importing this package is quick and imports neither torch nor numba; each room
(`models`, `kernels`, `measure`, ...) is imported by name when it is needed.
"""

__version__ = "0.1.0"
