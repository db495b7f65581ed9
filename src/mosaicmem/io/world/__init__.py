"""The world file: memory that survives a power cut, remembers every edit, and need not fit into memory."""

from mosaicmem.io.world.checks import verify
from mosaicmem.io.world.compaction import compact
from mosaicmem.io.world.history import Branch, Operation
from mosaicmem.io.world.salvage import Repair, repair
from mosaicmem.io.world.schema import replacing
from mosaicmem.io.world.world_file import WorldFile

__all__ = ["Branch", "Operation", "Repair", "WorldFile", "compact", "repair", "replacing", "verify"]
