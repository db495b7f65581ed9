"""R1 of retrieval: from all groups of a memory to the few that a view should look at cell by cell."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaicmem.geometry.cameras import Cameras
from mosaicmem.geometry.token_grid import TokenGrid
from mosaicmem.memory.mosaic import Reason
from mosaicmem.memory.store import PatchStore

Array = NDArray[Any]


def candidates(
    store: PatchStore, camera: Cameras, grid: TokenGrid, near: float, context: Collection[int], decisions: Array
) -> list[int]:
    """Positions of groups whose bounding sphere meets the frustum and whose uid is not in `context`.

    `decisions [g]` gets the reason of those that are out for having nothing (`invalid`) or being in `context`.
    """
    spheres = store.spheres.numpy().astype(np.float64)
    T, K = camera.viewmats[0].numpy(), camera.Ks[0].numpy()
    center = spheres[:, :3] @ T[:3, :3].T + T[:3, 3]
    radius = spheres[:, 3]
    inside = center[:, 2] + radius > near
    for axis, extent in ((0, grid.width), (1, grid.height)):
        for edge, sign in ((0.0, 1.0), (float(extent), -1.0)):
            slope = (edge - K[axis, 2]) / K[axis, axis]  # plane x = slope * z through the image border
            distance = sign * (center[:, axis] - slope * center[:, 2]) / np.hypot(1.0, slope)
            inside &= distance > -radius
    decisions[radius < 0] = Reason.invalid
    inside &= radius >= 0
    if context:
        uids = np.array([group.uid for group in store], np.int64)
        excluded = np.isin(uids, np.array(sorted(context), np.int64))
        decisions[excluded] = Reason.context
        inside &= ~excluded
    return inside.nonzero()[0].tolist()


@dataclass(frozen=True)
class PatchPoints:
    """One point per patch, seen by one camera on the token grid.

    Attributes:
        near: Nearest depth shown, world units.
        reach: Largest half-extent of a patch in the view, pixels.
        tau: Relative depth behind the nearest within which a patch still counts as seen.
    """

    store: PatchStore
    camera: Cameras
    grid: TokenGrid
    near: float
    reach: float
    tau: float

    def seen(self, groups: list[int]) -> tuple[Array, Array]:
        """Tokens `[k m*n]` that each group shows in front of everything else, and patches `[k]` in view."""
        from mosaicmem.memory import _kernels

        m, n = self.grid.tokens
        K = self.camera.Ks[0].numpy()
        geometry = (
            self.store.centers.numpy(),
            self.store.radii.numpy(),
            np.asarray(self.store.offsets, np.int64),
            np.asarray(groups, np.int64),
            self.camera.viewmats[0, :3].numpy().astype(np.float32),
            K.diagonal()[:2].astype(np.float32),
            K[:2, 2].astype(np.float32),
            np.float32(self.grid.token_stride),
            np.float32(self.near),
            np.float32(self.reach),
        )
        zbuf = np.full((m, n), np.inf, np.float32)
        _kernels.pool_zbuffer(*geometry, zbuf)
        landed = np.zeros(len(groups), np.int64)
        seen = np.zeros((len(groups), m, n), np.bool_)
        _kernels.pool_visible(*geometry, np.float32(self.tau), zbuf, landed, seen)
        return seen.reshape(len(groups), m * n), landed


def thin(
    points: PatchPoints,
    groups: list[int],
    limit: int,
    weights: Array,
    order: Array,
    decisions: Array,
    gains: Array,
) -> list[int]:
    """The `limit` groups that together show most tokens; then most again, since a token is not all of its cells.

    `decisions [g]` and `gains [g]` get the reason of those left out and the cells they would have added.
    """
    from mosaicmem.memory import _kernels

    seen, landed = points.seen(groups)
    shows = seen.astype(np.float32)
    picked = np.zeros(len(groups), np.bool_)
    last_gains = np.zeros(len(groups))
    chosen: list[int] = []
    while len(chosen) < limit:
        again = _kernels.greedy_cover(shows, weights, order, limit - len(chosen), 1.0, picked, last_gains).tolist()
        if not again:
            break
        chosen += again
    shown = np.logical_or.reduce(seen[picked], axis=0)
    missing = (seen & ~shown).sum(1)
    shows_any = np.logical_or.reduce(seen, axis=1)
    for k, g in enumerate(groups):
        if picked[k]:
            continue
        gains[g] = missing[k] * points.grid.patch**2
        if shows_any[k]:
            decisions[g] = Reason.budget if missing[k] else Reason.duplicate
        else:
            decisions[g] = Reason.hidden if landed[k] else Reason.outside
    return [groups[k] for k in chosen]
