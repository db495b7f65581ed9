"""Groups as retrieval's compiled loops read them, and the maps between their images and a view's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaicmem.geometry.warps import MAX_BEND, MAX_SLOPE
from mosaicmem.memory.patches import Group

Array = NDArray[Any]


@dataclass(frozen=True)
class Surface:
    """A group as the kernels read it.

    Attributes:
        planes: `[3 h+2 w+2]` tangent planes, see `_kernels.tangent_planes`.
        world_from_cam: `[4 4]`.
        K: `[3 3]` intrinsics of its keyframe.
        moved: Whether an edit put it elsewhere than where its camera saw it.
    """

    planes: Array
    world_from_cam: Array
    K: Array
    moved: bool

    @staticmethod
    def of(group: Group) -> Surface:
        from mosaicmem.memory import _kernels

        keyframe = group.keyframe
        h, w = keyframe.depth.shape
        planes = np.zeros((3, h + 2, w + 2))
        _kernels.tangent_planes(keyframe.depth.numpy(), group.valid.numpy(), MAX_SLOPE, MAX_BEND, planes)
        lens = keyframe.camera.Ks[0].double().numpy()
        return Surface(planes, group.world_from_cam.numpy(), lens, group.moved)


@dataclass(frozen=True)
class PixelMaps:
    """Maps between the images of `k` groups and one view.

    Attributes:
        P: `[k 3 4]`, `P (d u, d v, d, 1) = z' (u', v', 1)` from source to view.
        Q: `[k 3 4]`, `Q (D u', D v', D, 1) = z (u, v, 1)` from view to source.
        center: `[k 3]` the source's camera in the view's frame.
    """

    P: Array
    Q: Array
    center: Array

    @staticmethod
    def between(surfaces: Sequence[Surface], viewmat: Array, K: Array) -> PixelMaps:
        """For a view with `viewmat [4 4]` (camera from world) and `K [3 3]`, float64."""
        from mosaicmem.memory import _kernels

        k = len(surfaces)
        maps = PixelMaps(np.empty((k, 3, 4)), np.empty((k, 3, 4)), np.empty((k, 3)))
        places, lenses = np.array([s.world_from_cam for s in surfaces]), np.array([s.K for s in surfaces])
        _kernels.pixel_maps(places, lenses, viewmat, K, maps.P, maps.Q, maps.center)
        return maps
