"""Worlds with known geometry: procedural scenes, and recorded RGB-D folders."""

from mosaicmem.worlds.builder import make_scene as make_scene
from mosaicmem.worlds.rgbd import RGBDFolder as RGBDFolder
from mosaicmem.worlds.scene import Hits as Hits
from mosaicmem.worlds.scene import Rendering as Rendering
from mosaicmem.worlds.scene import Scene as Scene
