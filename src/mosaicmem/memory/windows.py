"""Which views of a call are answered as if alone, and which read from what those beside them found.

Slow twin: `mosaicmem.memory.window_reference`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

LISTED = 0.01
"""Share of its cells that a group adds to a key view from which on the views beside it look at the group: what added
less costs them more than it shows."""

ADDED = 0.0075
"""Share of its cells that a group must add to one of these views to be read there, or `gain_min` if that is more."""

LEAST = 0.02
"""Share of its cells by which a view may show less than both key views beside it; one that shows less is answered as
if alone, since it sees something that they do not."""


class Plan(NamedTuple):
    """How the `l` views of a call share work.

    Attributes:
        same: `[l]` the first view with the very same camera, whose answer a view gets.
        before: `[l]` the key view up to each of these first views: itself if it is answered as if alone.
        after: `[l]` the key view from each on.
        keys: Key views with others between them, in order.
        order: First views in the order in which to answer them: key views, then all others.
    """

    same: Array
    before: Array
    after: Array
    keys: list[int]
    order: list[int]


def plan(viewmats: Array, Ks: Array, size: tuple[int, int], unit: float, step: float) -> Plan:
    """Key views: the first, the last, and as few between them as keep all within `step` of the one before.

    Apart are two views by how far the corners and the middle of the earlier, at depth `unit`, move on to the later, as
    a share of the image's longer side.

    Args:
        viewmats: `[l 4 4]` cameras from world, float64.
        Ks: `[l 3 3]` intrinsics, float64.
        size: Width and height of the image in pixels.
        unit: Depth at which motion is measured.
        step: 0 for views one by one.
    """
    from mosaicmem.memory import _window_kernels

    count = len(viewmats)
    if count < 2:
        alone = np.zeros(count, np.int64)
        return Plan(alone, alone, alone, [], list(range(count)))
    same, before, after = np.empty((3, count), np.int64)
    _window_kernels.key_views(viewmats, Ks, float(size[0]), float(size[1]), unit, step, same, before, after)
    firsts = (same == np.arange(count)).nonzero()[0]
    between = firsts[before[firsts] != firsts]
    keys = np.unique([before[between], after[between]]).tolist()
    return Plan(same, before, after, keys, keys + np.setdiff1d(firsts, keys).tolist())
