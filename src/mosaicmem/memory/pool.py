"""R1 of retrieval: from all groups of a memory to the few that a view should look at cell by cell."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaicmem.geometry.token_grid import TokenGrid
from mosaicmem.memory._threads import for_each
from mosaicmem.memory.mosaic import Reason
from mosaicmem.memory.store import PatchStore

Array = NDArray[Any]
WORTH_A_THREAD = 3_000
"""Blocks of candidates, about a quarter of a millisecond of work, from which on a second thread is woken."""


def candidates(store: PatchStore, viewmat: Array, K: Array, grid: TokenGrid, near: float, shown: Array) -> list[int]:
    """Positions of groups whose bounding sphere meets the frustum, of those `shown [g]`."""
    from mosaicmem.memory import _pool_kernels

    inside = np.empty(len(store), np.bool_)
    _pool_kernels.group_spheres_in_view(
        store.spheres.numpy(),
        viewmat,
        K.diagonal()[:2].copy(),
        K[:2, 2].copy(),
        float(grid.width),
        float(grid.height),
        near,
        inside,
    )
    return (inside & shown).nonzero()[0].tolist()


@dataclass(frozen=True)
class PatchPoints:
    """One point per patch, seen by one camera on the token grid.

    Attributes:
        viewmat: `[4 4]` camera from world, float64.
        K: `[3 3]` intrinsics, float64.
        near: Nearest depth shown, world units.
        reach: Largest half-extent of a patch in the view, pixels.
        tau: Relative depth behind the nearest within which a patch still counts as seen.
    """

    store: PatchStore
    viewmat: Array
    K: Array
    grid: TokenGrid
    near: float
    reach: float
    tau: float

    def seen(self, groups: list[int]) -> tuple[Array, Array]:
        """Tokens `[k m*n]` that each group shows in front of everything else, and whether it is in view `[k]`."""
        shows, landed = self.shows(groups)
        m, n = self.grid.tokens
        return np.unpackbits(shows.view(np.uint8), axis=1, count=m * n, bitorder="little").astype(np.bool_), landed

    def shows(self, groups: list[int]) -> tuple[Array, Array]:
        """`seen` with a bit a token: `[k w]` uint64 in row order."""
        from mosaicmem.memory import _pool_kernels

        store, (m, n), tau = self.store, self.grid.tokens, np.float32(self.tau)
        lens, stride = (self.K.diagonal()[:2].copy(), self.K[:2, 2].copy()), float(self.grid.token_stride)
        view, blocks, block_offsets = self.viewmat[:3].copy(), store.blocks.numpy(), store.block_offsets.numpy()
        patches = (store.centers.numpy(), store.radii.numpy(), store.block_rows.numpy())
        geometry = (view.astype(np.float32), lens[0].astype(np.float32), lens[1].astype(np.float32))
        limits = (np.float32(stride), np.float32(self.near), np.float32(self.reach))
        landed = np.zeros(len(groups), np.bool_)
        shows = np.zeros((len(groups), -(-m * n // 64)), np.uint64)
        active = np.asarray(groups, np.int64)
        sizes = block_offsets[active + 1] - block_offsets[active]
        worth = bool(sizes.sum() >= WORTH_A_THREAD)
        parts = 2 if worth else 1
        cuts = np.searchsorted(sizes.cumsum(), np.arange(1, parts) * (sizes.sum() / parts)).tolist()
        ranges = list(itertools.pairwise([0, *cuts, len(groups)]))
        zbufs = np.full((parts, m, n), np.inf, np.float32)
        found: dict[int, tuple[Array, Array, Array, Array]] = {}

        def nearest(part: int) -> None:
            first, last = ranges[part]
            size = int(sizes[first:last].sum())
            live, front = np.empty((size, 2), np.int32), np.empty(size, np.float32)
            rect, whole = np.empty((size, 4), np.int16), np.empty(size, np.bool_)
            arguments = (blocks, block_offsets, active[first:last], m, n, view, *lens, stride, self.near, self.reach)
            count = _pool_kernels.live_blocks(*arguments, live, front, rect, whole)
            live, front, rect, whole = live[:count], front[:count], rect[:count], whole[:count]
            found[part] = live, front, rect, whole
            order = np.empty(count, np.int32)
            _pool_kernels.nearest_first(front, order)
            _pool_kernels.pool_zbuffer(*patches, *geometry, *limits, live, front, rect, order, zbufs[part])

        for_each(nearest, parts, worth=worth)
        zbuf = zbufs.min(0)

        def visible(part: int) -> None:
            first, last = ranges[part]
            largest = blocks[found[part][0][:, 1], 6]
            _pool_kernels.pool_visible(
                *patches, *geometry, *limits, *found[part], largest, tau, zbuf, landed[first:last], shows[first:last]
            )

        for_each(visible, parts, worth=worth)
        return shows, landed


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
    from mosaicmem.memory import _pool_kernels

    shows, landed = points.shows(groups)
    picked, missing = np.zeros(len(groups), np.bool_), np.zeros(len(groups), np.int64)
    chosen = _pool_kernels.cover(shows, weights, order, limit, picked, missing)
    positions, left = np.asarray(groups, np.int64), ~picked
    gains[positions[left]] = missing[left] * points.grid.patch**2
    reason = np.where(missing > 0, Reason.budget, Reason.duplicate)
    reason = np.where(shows.any(1), reason, np.where(landed, Reason.hidden, Reason.outside))
    decisions[positions[left]] = reason[left]
    return positions[chosen].tolist()
