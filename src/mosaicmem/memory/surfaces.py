"""Groups as retrieval's compiled loops read them, and the maps between their images and a view's."""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mosaicmem.geometry.warps import MAX_BEND, MAX_SLOPE
from mosaicmem.memory.patches import Group

Array = NDArray[Any]

KEPT_BYTES = 32 << 20
"""Of tangent planes, for all stores together: what 200 frames of 832x480 need. Neighbouring views read the same."""


class Planes(NamedTuple):
    """Tangent planes of a group's cells.

    Attributes:
        cells: `[3 h+2 w+2]`, see `_kernels.tangent_planes`.
        ranges: `[tall wide 2]` between which inverse depths those of a tile lie, see `_landing_kernels.tile_ranges`.
    """

    cells: Array
    ranges: Array

    @property
    def nbytes(self) -> int:
        return self.cells.nbytes + self.ranges.nbytes


def tangent_planes(group: Group) -> Planes:
    """The planes of a group, computed, or kept from before."""
    return _kept(group)


class _Kept:
    """Planes of the groups that were asked for last, as many as fit into a number of bytes. For any thread.

    A group is known by being the same object: neither it nor its keyframe ever changes.
    """

    def __init__(self) -> None:
        self._planes: OrderedDict[int, tuple[weakref.ref[Group], Planes]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def __call__(self, group: Group) -> Planes:
        key = id(group)
        with self._lock:
            found = self._planes.get(key)
            if found is not None and found[0]() is group:
                self._planes.move_to_end(key)
                return found[1]
        planes = _compute(group)
        with self._lock:
            self._drop(key)  # another thread's, or of a group that is gone
            self._planes[key] = weakref.ref(group), planes
            self._bytes += planes.nbytes
            while self._bytes > KEPT_BYTES and len(self._planes) > 1:
                self._drop(next(iter(self._planes)))
        return planes

    def _drop(self, key: int) -> None:
        gone = self._planes.pop(key, None)
        self._bytes -= gone[1].nbytes if gone is not None else 0


_kept = _Kept()


def _compute(group: Group) -> Planes:
    from mosaicmem.memory import _kernels, _landing_kernels

    keyframe = group.keyframe
    h, w = keyframe.depth.shape
    tile = _landing_kernels.TILE
    planes = Planes(np.zeros((3, h + 2, w + 2)), np.empty((-(-h // tile), -(-w // tile), 2)))
    _kernels.tangent_planes(keyframe.depth.numpy(), group.valid.numpy(), MAX_SLOPE, MAX_BEND, planes.cells)
    _landing_kernels.tile_ranges(planes.cells, planes.ranges)
    return planes


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
    def between(places: Array, lenses: Array, viewmat: Array, K: Array) -> PixelMaps:
        """Of groups at `places [k 4 4]` with `lenses [k 3 3]` and a view with `viewmat [4 4]`, `K [3 3]`; float64."""
        from mosaicmem.memory import _kernels

        k = len(places)
        maps = PixelMaps(np.empty((k, 3, 4)), np.empty((k, 3, 4)), np.empty((k, 3)))
        _kernels.pixel_maps(places, lenses, viewmat, K, maps.P, maps.Q, maps.center)
        return maps
