"""Files as a tier of memory: cold reads past the page cache, and writes that are whole or absent.

Everything in this section that says "from disk" reads through here. It knows no model and no technique.
"""

from edgeinfer.memory.storage.cold_file import ColdFile, drop_from_cache, resident_fraction
from edgeinfer.memory.storage.whole_file import remove_parts, write_whole

__all__ = ["ColdFile", "drop_from_cache", "remove_parts", "resident_fraction", "write_whole"]
