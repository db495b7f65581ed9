"""What other programs made of a place, read so that it can be remembered: pictures, cameras, and depth of some kind."""

from mosaicmem.io.imports.colmap import open_colmap
from mosaicmem.io.imports.crate import CrateMemory, is_crate_memory, read_crate_memory
from mosaicmem.io.imports.nerfstudio import open_nerfstudio
from mosaicmem.io.imports.scan import DepthKind, Scan
from mosaicmem.io.imports.vipe import open_vipe

__all__ = [
    "CrateMemory",
    "DepthKind",
    "Scan",
    "is_crate_memory",
    "open_colmap",
    "open_nerfstudio",
    "open_vipe",
    "read_crate_memory",
]
