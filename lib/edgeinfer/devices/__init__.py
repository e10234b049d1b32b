"""Devices that this machine does not have, as models: functional (the arithmetic is exact) and of cost (time, energy).

Everything here is simulated or modelled and says so. NumPy alone is needed, so it also runs in a browser.
"""

from edgeinfer.devices.cent import Cent
from edgeinfer.devices.lut_pim import Cost, DramBank, bit_serial_multiply, matvec, open_row_multiply, sweep_multiply

__all__ = ["Cent", "Cost", "DramBank", "bit_serial_multiply", "matvec", "open_row_multiply", "sweep_multiply"]
