"""R1 of retrieval: from all groups of a memory to the few that a view should look at cell by cell."""

from __future__ import annotations

import math
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mosaicmem.geometry.token_grid import TokenGrid
from mosaicmem.memory._threads import Scratch, for_each, threads
from mosaicmem.memory.store import PatchStore

if TYPE_CHECKING:
    from mosaicmem.memory.retrieval import RetrievalConfig

Array = NDArray[Any]
WORTH_A_THREAD = 3_000
"""Blocks of candidates, about a quarter of a millisecond of work, from which on a second thread is woken."""

ENTRIES = 32
"""Tokens entered for a block on the average for which there is room; what finds none is placed again."""

TURN = 4
"""Groups that one thread takes before the next one takes as many."""

WORTH_A_LOOK = 0.02
"""Share of a view's tokens that a group adds to be looked at cell by cell although others show all that it shows."""

WORTH_ANOTHER = 0.04
"""The same once all that is shown is covered, and the choice begins again, since a token is not all of its cells."""


class Columns(NamedTuple):
    """The columns of a store as arrays, see `PatchStore`; `centers` is flat. And of each group whether it was observed,
    whether an edit moved it, and how many are older."""

    centers: Array
    radii: Array
    block_rows: Array
    blocks: Array
    block_offsets: Array
    spheres: Array
    times: Array
    numbers: Array
    places: Array
    lenses: Array
    observed: Array
    moved: Array
    ranks: Array


def columns(store: PatchStore) -> Columns:
    """Of any store; those of the one that was asked for last are kept as long as it is, since to make them takes as
    long as a kernel."""
    global _last
    last = _last  # another thread may ask for another store meanwhile
    if last is not None and last[0]() is store:
        return last[1]
    arrays = {name: getattr(store, name).numpy() for name in Columns._fields[:-3]}
    (frames, uids, generated, moved), times = arrays["numbers"].T, arrays["times"][:, 0]
    ranks = np.arange(len(store))
    if not (times[:-1] < times[1:]).all():  # else they were remembered in order
        ranks[np.lexsort((uids, frames, times))] = np.arange(len(store))
    arrays["centers"] = arrays["centers"].reshape(-1)
    found = Columns(**arrays, observed=generated == 0, moved=moved != 0, ranks=ranks)
    _last = weakref.ref(store, _forget), found
    return found


def _forget(store: weakref.ref[PatchStore]) -> None:
    global _last
    last = _last
    if last is not None and last[0] is store:
        _last = None


_last: tuple[weakref.ref[PatchStore], Columns] | None = None


def candidates(store: PatchStore, viewmat: Array, K: Array, grid: TokenGrid, near: float, shown: Array) -> Array:
    """Positions of groups whose bounding sphere meets the frustum, of those `shown [g]`."""
    from mosaicmem.memory import _pool_kernels

    inside = np.empty(len(store), np.bool_)
    _pool_kernels.group_spheres_in_view(
        columns(store).spheres,
        viewmat,
        K.diagonal()[:2].copy(),
        K[:2, 2].copy(),
        float(grid.width),
        float(grid.height),
        near,
        inside,
    )
    return (inside & shown).nonzero()[0]


class Shown(NamedTuple):
    """What `k` groups show of a view, one point a patch."""

    tokens: Array  # [k w] uint64, a bit a token in row order: shown in front of everything else
    landed: Array  # [k] bool, whether any patch lands in the view
    depth: Array  # [m*n] float32 nearest far side of a patch, infinity where none is


@dataclass(frozen=True)
class PatchPoints:
    """One point per patch, seen by one camera on the token grid.

    Attributes:
        viewmat: `[4 4]` camera from world, float64.
        K: `[3 3]` intrinsics, float64.
        near: Nearest depth shown, world units.
        reach: Largest half-extent of a patch in the view, pixels.
        tau: Relative depth behind the nearest within which a patch still counts as seen.
        scratch: Memory to work in.
    """

    store: PatchStore
    viewmat: Array
    K: Array
    grid: TokenGrid
    near: float
    reach: float
    tau: float
    scratch: Scratch

    @staticmethod
    def under(
        config: RetrievalConfig, store: PatchStore, viewmat: Array, K: Array, grid: TokenGrid, scratch: Scratch
    ) -> PatchPoints:
        """As `config` asks: near and far, how coarse, and as deep again behind the nearest as two surfaces may lie."""
        near, reach = config.near * store.scale, config.rho_max * grid.token_stride / 2
        return PatchPoints(store, viewmat, K, grid, near, reach, 2 * config.tau, scratch)

    def seen(self, groups: Array | list[int]) -> tuple[Array, Array]:
        """Tokens `[k m*n]` that each group shows in front of everything else, and whether it is in view `[k]`."""
        shown, (m, n) = self.shows(groups), self.grid.tokens
        seen = np.unpackbits(shown.tokens.view(np.uint8), axis=1, count=m * n, bitorder="little")
        return seen.astype(np.bool_), shown.landed

    def shows(self, groups: Array | list[int]) -> Shown:
        """`seen` with a bit a token, and how deep the view is."""
        from mosaicmem.memory import _pool_kernels

        (m, n), active = self.grid.tokens, np.asarray(groups, np.int64)
        first_block = columns(self.store).block_offsets
        sizes = first_block[active + 1] - first_block[active]
        parts = threads(2, worth=int(sizes.sum()) >= WORTH_A_THREAD)
        turn = np.arange(len(groups)) // TURN % parts  # in turns, so that each part has near groups and far ones
        which = [(turn == part).nonzero()[0] for part in range(parts)]
        landed = np.zeros(len(groups), np.bool_)
        shows = np.zeros((len(groups), -(-m * n // 64)), np.uint64)
        zbufs = self.scratch("zbufs", (2, m * n), np.float32)
        tables = self.scratch("tables", (2, 4, 4, m * n), np.float32)
        zbufs[:] = np.inf
        rooms = [self._room(int(sizes[own].sum()), part) for part, own in enumerate(which)]
        counts, store = [(0, 0)] * parts, columns(self.store)
        eye = (self.viewmat[:3].copy(), self.K.diagonal()[:2].copy(), self.K[:2, 2].copy())
        limits = (float(self.grid.token_stride), float(self.near), float(self.reach))
        patches, index = (*store[:3], eye, limits, m, n), (store.blocks, first_block, active)

        def nearest(part: int) -> None:
            others = zbufs[1 - part], tables[part], zbufs[part]
            counts[part] = _pool_kernels.pool_front(*patches, index, which[part], rooms[part], *others, landed)

        for_each(nearest, parts, worth=parts > 1)
        depth = np.minimum(*zbufs)
        limit = np.float32(1 + np.float32(self.tau)) * depth
        _pool_kernels.window_maxima(limit, limit, n, tables[0])

        def visible(part: int) -> None:
            arguments = rooms[part], counts[part], store.blocks, limit, tables[0], landed, shows
            _pool_kernels.pool_visible(*patches, *arguments)

        for_each(visible, parts, worth=parts > 1)
        return Shown(shows, landed, depth)

    def worth(self, groups: Array, shown: Shown, theta: float) -> Array:
        """How good a witness each group is of the middle of what it shows, `[k]` from 1/2 to 1, or 0 if of nothing."""
        from mosaicmem.memory import _pool_kernels

        store, worth, n = columns(self.store), np.empty(len(groups)), self.grid.tokens[1]
        lens = (self.K.diagonal()[:2].copy(), self.K[:2, 2].copy(), float(self.grid.token_stride))
        cameras = (groups, store.places, store.lenses)
        _pool_kernels.witness(shown.tokens, shown.depth, n, *lens, self.viewmat, *cameras, theta, worth)
        return worth

    def _room(self, size: int, part: int) -> tuple[Array, Array, Array, Array, Array, tuple[Array, ...]]:
        """For so many blocks that may land in the view, see `_pool_kernels.live_blocks`, their order, and what is kept
        of those that are placed."""

        def room(name: str, shape: tuple[int, ...], dtype: type[np.generic]) -> Array:
            return self.scratch(f"{name}{part}", shape, dtype)

        entries = ENTRIES * size + 1
        kept = (
            room("tokens", (entries,), np.int32),
            room("nearest", (entries,), np.float32),
            room("placed", (size,), np.int32),
            room("ends", (size,), np.int32),
            room("done", (size,), np.bool_),
        )
        live, front = room("live", (size, 2), np.int32), room("front", (size,), np.float32)
        rect, whole = room("rect", (size, 4), np.int16), room("whole", (size,), np.bool_)
        return live, front, rect, whole, room("order", (size,), np.int32), kept


def thin(
    points: PatchPoints,
    groups: Array,
    limit: int,
    theta: float,
    weights: Array,
    order: Array,
    decisions: Array,
    gains: Array,
) -> Array:
    """At most `limit` groups to look at cell by cell: the choice of sources, made on points.

    Each is the one that adds most: tokens that none before it shows, or shows as well. `theta` is the angle in radians
    at which a second look is half as good. First all that is shown is covered, then again by those that add
    `WORTH_ANOTHER`, since a token is not all of its cells. `decisions [g]` and `gains [g]` get the reason of those left
    out and the cells they would have added.
    """
    from mosaicmem.memory import _pool_kernels

    shown = points.shows(groups)
    picked, some = np.zeros((2, len(groups)), np.bool_)
    missing = np.zeros(len(groups), np.int64)
    tokens, cells = math.prod(points.grid.tokens), points.grid.patch**2
    much, again = WORTH_A_LOOK * tokens, WORTH_ANOTHER * tokens
    worth = points.worth(groups, shown, theta)
    chosen = _pool_kernels.cover(shown.tokens, worth, weights, order, limit, much, again, picked, missing, some)
    _pool_kernels.left_out(groups, picked, shown.landed, some, missing, cells, decisions, gains)
    return groups[chosen]
