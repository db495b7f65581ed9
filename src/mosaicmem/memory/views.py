"""What one call of retrieval does, view by view: the steps of `mosaicmem.memory.retrieval`, and what views share."""

from __future__ import annotations

from collections.abc import Collection
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from mosaicmem.geometry.cameras import Cameras
from mosaicmem.geometry.token_grid import TokenGrid
from mosaicmem.memory import windows
from mosaicmem.memory._threads import Scratch, for_each, threads
from mosaicmem.memory.mosaic import Mosaic, Reason
from mosaicmem.memory.pool import PatchPoints, candidates, columns, thin
from mosaicmem.memory.store import PatchStore
from mosaicmem.memory.surfaces import PixelMaps, Planes, tangent_planes

if TYPE_CHECKING:
    from mosaicmem.memory.retrieval import RetrievalConfig

Array = NDArray[Any]

WORTH_A_THREAD = 15_000
"""Cells to land, 0.2 milliseconds of work, from which on a second thread is woken."""

READING_WORTH_A_THREAD = 6_000
"""Cells to read and to give away, as much work."""

_NO_PLANES = Planes(np.empty(0), np.empty(0))

_spare: list[Scratch] = []  # as many as views were ever under way at once; fresh pages cost as much as the work on them


class Call:
    """What the views of one call share: who may be shown, with which weight, tangent planes, and the answer."""

    def __init__(self, store: PatchStore, cameras: Cameras, grid: TokenGrid, config: RetrievalConfig) -> None:
        self.store, self.cameras, self.grid, self.config = store, cameras, grid, config
        self.near = config.near * store.scale
        self.viewmats, self.Ks = cameras.viewmats.contiguous().numpy(), cameras.Ks.contiguous().numpy()
        self.columns = columns(store)
        self.weights = np.where(self.columns.observed, 1.0, config.generated)
        self.ranks = -self.columns.ranks if config.prefer == "newer" else self.columns.ranks
        count, (h, w), (m, n) = len(cameras), grid.cells, grid.tokens
        # every view writes all of its rows of these
        self.owner, self.source = np.empty((count, m, n), np.int64), np.empty((count, h, w), np.int64)
        self.covered = np.empty((count, m, n), np.bool_)
        self.uv, self.source_z, self.depth = np.empty((count, h, w, 2)), *np.empty((2, count, h, w))
        self.decisions = np.full((count, len(store)), int(Reason.outside), np.int8)
        self.gains = np.zeros((count, len(store)), np.float32)
        self.picked: list[tuple[int, ...]] = [()] * count

    def leave_out(self, at: float | None, context: Collection[int]) -> None:
        """Say for every group that no view may show why not: nothing in it, out of its time, or in the context."""
        since, until = self.columns.times.T
        over = until < np.inf if at is None else (since > at) | (at >= until)
        empty = self.columns.spheres[:, 3] < 0
        self.shown, reasons = ~(over | empty), [(over, Reason.superseded), (empty, Reason.invalid)]
        if context:
            known = np.isin(self.columns.numbers[:, 1], np.array(sorted(context), np.int64))
            self.shown &= ~known
            reasons.append((known, Reason.context))
        if not self.shown.all():
            for out, reason in reasons:
                self.decisions[:, out] = reason

    def fade(self, now: float | None) -> None:
        """Let what is old count less, by `half_life`; however old, it is better than nothing."""
        if self.config.half_life is None or not len(self.store):
            return
        times = self.columns.times[:, 0]
        age = np.maximum(0.0, (times.max() if now is None else now) - times)
        self.weights = np.maximum(self.weights * 0.5 ** (age / self.config.half_life), 1e-9)

    def fill(self) -> None:
        """Answer every view: key views of a window first, then those that read from what these found."""
        h, w = self.grid.cells
        work = min(len(self.store), self.config.looked_at) * h * w  # of small views most is Python's own share
        unit, step = float(self.store.scale), self.config.key_step
        plan = windows.plan(self.viewmats, self.Ks, (self.grid.width, self.grid.height), unit, step)
        # whoever takes a view that waits comes after all keys have been taken, by those who wait for nobody
        found: dict[int, Future[_Found]] = {key: Future() for key in plan.keys}

        def answer(o: int) -> None:
            i, scratch = plan.order[o], _spare.pop() if _spare else Scratch()
            view, before, after = _View(self, i, scratch), int(plan.before[i]), int(plan.after[i])
            if before != i:
                view.fill_between(found[before].result(), found[after].result())
            elif i in found:
                try:
                    found[i].set_result(view.fill_key())
                except BaseException as error:
                    found[i].set_exception(error)
                    raise
            else:
                view.fill()
            _spare.append(scratch)

        for_each(answer, len(plan.order), worth=len(plan.order) > 1 and work >= WORTH_A_THREAD)
        for i in range(len(plan.same) if len(plan.order) < len(plan.same) else 0):
            self._repeat(i, int(plan.same[i]))

    def _repeat(self, view: int, first: int) -> None:
        """Give a view the answer of another one."""
        if first != view:
            answers = self.owner, self.source, self.covered, self.uv, self.source_z, self.depth
            for rows in (*answers, self.decisions, self.gains):
                rows[view] = rows[first]
            self.picked[view] = self.picked[first]

    def order(self, groups: Array) -> Array:
        """Positions in `groups` from whom ties favour most to least."""
        return self.ranks[groups].argsort()

    def mosaic(self) -> Mosaic:
        return Mosaic(
            owner=torch.from_numpy(self.owner),
            source=torch.from_numpy(self.source),
            source_uv=torch.from_numpy(self.uv),
            source_depth=torch.from_numpy(self.source_z),
            depth=torch.from_numpy(self.depth),
            good=torch.from_numpy(self.source >= 0),
            covered=torch.from_numpy(self.covered),
            picked=tuple(self.picked),
            decisions=torch.from_numpy(self.decisions),
            gains=torch.from_numpy(self.gains),
            grid=self.grid,
            cameras=self.cameras,
        )


class _View:
    """One view's retrieval, step by step; holds the arrays the steps share."""

    def __init__(self, call: Call, index: int, scratch: Scratch) -> None:
        self.call, self.index, self.grid, self.config = call, index, call.grid, call.config
        self.scratch, self.gain_min = scratch, call.config.gain_min
        self.viewmat, self.K = call.viewmats[index], call.Ks[index]
        self.lens = self.K.diagonal()[:2].copy(), self.K[:2, 2].copy(), float(self.grid.stride)
        self.decisions, self.gains = call.decisions[index], call.gains[index]

    def fill(self) -> None:
        """Write this view's rows of the call's answer, as if it were the only one."""
        pool = self._pool()
        self._assign(pool, *self._choose(pool))

    def fill_key(self) -> _Found:
        """The same, and what it found for views beside it."""
        pool, (h, w) = self._pool(), self.grid.cells
        picks, landing = self._choose(pool)
        self._assign(pool, picks, landing)
        kept = pool[picks]
        much = kept[self.gains[kept] >= windows.LISTED * h * w]
        return _Found(much, landing.shown(picks), self.decisions, self.gains)

    def fill_between(self, before: _Found, after: _Found) -> None:
        """Write this view's rows of the call's answer; the key views beside it are known."""
        h, w = self.grid.cells
        least = min(before.shown, after.shown) - windows.LEAST * h * w
        pool, thinned = self._pool_between(before, after)
        self.gain_min = max(self.gain_min, windows.ADDED) if thinned else self.gain_min
        picks, landing = self._choose(pool)
        if thinned and landing.shown(picks) < least:
            self.decisions[self.call.shown] = Reason.outside
            self.gains[:], self.gain_min = 0, self.config.gain_min
            self.fill()
        else:
            self._assign(pool, picks, landing)

    def _choose(self, pool: Array) -> tuple[Array, _Landing]:
        """R2 to R4: where in the pool those stand that the view is read from."""
        landing = self._land(pool)
        return self._pick(pool, landing) if len(pool) else pool, landing

    def _cells(self, groups: int) -> int:
        h, w = self.grid.cells
        return groups * h * w

    def _slack(self) -> float:
        """Tangent of the angle under which a camera far away sees `look_past` cells of the view."""
        return self.config.look_past * self.grid.stride / float(self.lens[0].max())

    def _pool(self) -> Array:
        """R1: the groups to look at cell by cell."""
        call, config = self.call, self.config
        groups = candidates(call.store, self.viewmat, self.K, self.grid, call.near, call.shown)
        if len(groups) <= config.looked_at:
            return groups
        points = PatchPoints.under(config, call.store, self.viewmat, self.K, self.grid, self.scratch)
        theta, weights = float(np.deg2rad(config.view_angle)), call.weights[groups]
        return thin(points, groups, config.looked_at, theta, weights, call.order(groups), self.decisions, self.gains)

    def _pool_between(self, before: _Found, after: _Found) -> tuple[Array, bool]:
        """R1 for a view between two others: the groups that show much of one of these, unless all in sight fit."""
        call = self.call
        groups = candidates(call.store, self.viewmat, self.K, self.grid, call.near, call.shown)
        if len(groups) <= self.config.looked_at:
            return groups, False
        listed = np.zeros(len(call.store), np.bool_)
        listed[before.listed] = listed[after.listed] = True
        others = groups[~listed[groups]]
        reasons = before.decisions[others]
        outside = reasons == Reason.outside  # of that view, but perhaps not of the other
        reasons = np.where(outside, after.decisions[others], reasons)
        self.decisions[others] = np.where(reasons == Reason.kept, Reason.duplicate, reasons)
        self.gains[others] = np.where(outside, after.gains[others], before.gains[others])
        return groups[listed[groups]], True

    def _land(self, pool: Array) -> _Landing:
        """R2, R3: the cells of every group of the pool in the view, z-buffered within each group."""
        from mosaicmem.memory import _landing_kernels

        call, config, shape = self.call, self.config, (len(pool), *self.grid.cells)
        planes = [_NO_PLANES] * len(pool)
        landing = _Landing(
            planes=planes,
            maps=PixelMaps.between(call.columns.places[pool], call.columns.lenses[pool], self.viewmat, self.K),
            moved=call.columns.moved[pool],
            observed=call.columns.observed[pool] & (config.edge is not None),
            zmin=self.scratch("zmin", shape, np.float32),
            hit=self.scratch("hit", shape, np.int32),
            depth=self.scratch("depth", shape, np.float32),
            block=self.scratch("block", shape, np.float32),
            quality=self.scratch("quality", shape, np.float32),
        )
        limits = call.near, config.rho_max, config.tau, float(np.deg2rad(config.view_angle))
        maps = landing.maps.P, landing.maps.Q, landing.maps.center
        rows = landing.zmin, landing.hit, landing.depth, landing.block, landing.quality

        def land(k: int) -> None:
            planes[k] = tangent_planes(call.store.group(int(pool[k])))
            landed, coarse, behind = _landing_kernels.land_cells(*planes[k], *maps, *self.lens, limits, k, *rows)
            if landed:
                unseen = Reason.behind if coarse + behind == landed else Reason.hidden
                self.decisions[pool[k]] = Reason.coarse if coarse == landed else unseen

        for_each(land, len(pool), worth=self._cells(len(pool)) >= WORTH_A_THREAD)
        return landing

    def _pick(self, pool: Array, landing: _Landing) -> Array:
        """R4: greedy union coverage; a cell counts by how well a group shows it."""
        from mosaicmem.memory import _choice_kernels

        h, w = self.grid.cells
        maps, moved = landing.maps, landing.moved
        _choice_kernels.hide(
            landing.zmin,
            landing.depth,
            self.config.tau,
            maps.center,
            moved,
            landing.observed,
            *self.lens,
            self._slack(),
            self.config.edge or 0,
            landing.quality,
        )
        picked = np.zeros(len(pool), np.bool_)
        gains, left, total = np.zeros((3, len(pool)))
        gain_min = self.gain_min * h * w
        picks = _choice_kernels.greedy_cover(
            landing.quality.reshape(len(pool), -1),
            self.call.weights[pool],
            self.call.order(pool),
            self.config.max_sources,
            gain_min,
            picked,
            gains,
            left,
            total,
        )
        _choice_kernels.explain(pool, picked, gains, left, total, gain_min, self.decisions, self.gains)
        return picks

    def _read(self, picks: Array, landing: _Landing, first: int, last: int, room: Array) -> _Reading:
        """R5: follow the view's rays, those of cells in rows `first` to `last`, back into each picked source."""
        from mosaicmem.memory import _reading_kernels

        config = self.config
        reading = _Reading.into(room, len(picks), first, last, self.grid.cells[1])
        for slot, k in enumerate(picks):
            _reading_kernels.read_back(
                landing.planes[k].cells,
                landing.maps.P[k],
                landing.maps.Q[k],
                float(self.grid.stride),
                self.call.near,
                config.tau,
                config.tau_surface,
                config.min_weight,
                config.refine_steps,
                first,
                last,
                landing.hit[k],
                reading.uv[slot],
                reading.source_z[slot],
                reading.depth[slot],
            )
        return reading

    def _assign(self, pool: Array, picks: Array, landing: _Landing) -> None:
        """R5, R6: an owner for every token, a source for every cell."""
        from mosaicmem.memory import _choice_kernels

        groups = pool[picks]
        call, i, p, m = self.call, self.index, self.grid.patch, self.grid.tokens[0]
        if not len(picks):
            call.owner[i], call.source[i], call.covered[i] = -1, -1, False
            call.uv[i] = call.source_z[i] = call.depth[i] = 0
            return
        worth = self._cells(len(picks)) >= READING_WORTH_A_THREAD
        strips = threads(m, worth=worth)  # of rows of tokens, so that few picks keep all threads busy
        weights, min_cells = call.weights[groups], max(1, int(np.ceil(self.config.min_cells * p * p)))
        room = self.scratch("reading", (4 * len(picks) * self.grid.cells[0] * self.grid.cells[1],), np.float64)

        def assign(strip: int) -> None:
            first, last = strip * m // strips * p, (strip + 1) * m // strips * p
            read = self._read(picks, landing, first, last, room)
            _choice_kernels.assign_owners(
                read.depth,
                landing.block,
                landing.zmin,
                landing.quality,
                picks,
                groups,
                weights,
                self.config.tau,
                landing.maps.center,
                landing.moved,
                landing.observed,
                *self.lens,
                self._slack(),
                self.config.edge or 0,
                p,
                min_cells,
                first,
                read.uv,
                read.source_z,
                call.owner[i],
                call.source[i],
                call.covered[i],
                call.uv[i],
                call.source_z[i],
                call.depth[i],
            )

        for_each(assign, strips, worth=worth)
        if self.config.max_tokens is not None:
            _keep_best(call.source[i], call.covered[i], call.owner[i], p, self.config.max_tokens)
            call.depth[i][call.source[i] < 0] = 0
        call.picked[i] = tuple(groups.tolist())


class _Found(NamedTuple):
    """What a view found out for the views beside it."""

    listed: Array  # groups that show much of it
    shown: int  # cells that it shows, before they are read
    decisions: Array  # [g]
    gains: Array  # [g]


@dataclass(frozen=True)
class _Landing:
    """The cells of `k` groups in a view's grid `[h w]`, each group z-buffered by itself."""

    planes: list[Planes]
    maps: PixelMaps
    moved: Array  # [k] bool
    observed: Array  # [k] bool, whether who looked past it is asked for its edge
    zmin: Array  # [k h w] nearest depth, inf where nothing lands
    hit: Array  # [k h w] row-major source cell
    depth: Array  # [k h w] depth of that cell in the view
    block: Array  # [k h w] nearest depth of what is magnified too far to be shown, but stands in the way
    quality: Array  # [k h w] how well the group shows the cell, 0 where hidden

    def shown(self, picks: Array) -> int:
        """Cells that groups at `picks` show."""
        return int(np.count_nonzero(self.quality[picks].max(0, initial=0)))


@dataclass(frozen=True)
class _Reading:
    """Picked groups read back at some rows of a view's cells."""

    uv: Array  # [k rows w 2] source pixels
    source_z: Array  # [k rows w] depth of the ray point in the source
    depth: Array  # [k rows w] refined depth in the view, inf where not good

    @staticmethod
    def into(room: Array, count: int, first: int, last: int, w: int) -> _Reading:
        """Of `count` groups, in their part of `room [4 count h w]`, flat."""
        shape, size, start = (count, last - first, w), count * (last - first) * w, 4 * count * first * w
        uv, rest = room[start : start + 2 * size], room[start + 2 * size : start + 4 * size]
        return _Reading(uv.reshape(*shape, 2), rest[:size].reshape(shape), rest[size:].reshape(shape))


def _keep_best(source: Array, covered: Array, owner: Array, patch: int, limit: int) -> None:
    """Turn all but the `limit` best served tokens into holes, in place; ties in row order."""
    m, n = covered.shape
    served = (source >= 0).reshape(m, patch, n, patch).sum((1, 3))
    rank = np.argsort(np.where(covered, -served, 1).ravel(), kind="stable")
    drop = np.ones(m * n, np.bool_)
    drop[rank[:limit]] = False
    drop = drop.reshape(m, n) & covered
    covered[drop] = False
    owner[drop] = -1
    source[drop.repeat(patch, 0).repeat(patch, 1)] = -1
