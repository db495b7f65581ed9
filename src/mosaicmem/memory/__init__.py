"""Spatial memory: lift frames to patches in 3D, keep them in an immutable store, retrieve what a view sees."""

from mosaicmem.memory.forgetting import ForgetConfig as ForgetConfig
from mosaicmem.memory.forgetting import forget as forget
from mosaicmem.memory.lifting import LiftingConfig as LiftingConfig
from mosaicmem.memory.lifting import lift as lift
from mosaicmem.memory.mosaic import Mosaic as Mosaic
from mosaicmem.memory.mosaic import Reason as Reason
from mosaicmem.memory.patches import Group as Group
from mosaicmem.memory.patches import Keyframe as Keyframe
from mosaicmem.memory.retrieval import RetrievalConfig as RetrievalConfig
from mosaicmem.memory.retrieval import retrieve as retrieve
from mosaicmem.memory.store import PatchStore as PatchStore
from mosaicmem.memory.superseding import SupersedeConfig as SupersedeConfig
from mosaicmem.memory.superseding import supersede as supersede
