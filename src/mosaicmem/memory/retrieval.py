"""Retrieval: which remembered cells a view sees, and from which keyframe each should be read.

For each view: groups that meet the frustum are thinned to a pool on one point per patch; the pool's cells land in
the view with their true footprints and a z-buffer (R2, R3); groups are picked greedily by the cells they newly cover
(R4); each picked group is read back along the view's rays (R5); and every token gets an owner (R6). Numbers in
brackets are the steps of the method page. One view and many views go through the same code.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from mosaicmem.errors import GeometryError, refuse
from mosaicmem.geometry.cameras import Cameras
from mosaicmem.geometry.token_grid import TokenGrid
from mosaicmem.geometry.warps import MAX_BEND, MAX_SLOPE
from mosaicmem.memory.mosaic import Mosaic, Reason
from mosaicmem.memory.patches import Group
from mosaicmem.memory.pool import PatchPoints, candidates, thin
from mosaicmem.memory.store import PatchStore

Array = NDArray[Any]


@dataclass(frozen=True)
class RetrievalConfig:
    """How memory is asked.

    Attributes:
        max_sources: Groups that one view may read from (n_max).
        pool: Groups that are looked at cell by cell.
        max_tokens: Tokens a view may be given, or None for all that are covered; the best served stay.
        gain_min: A group must add this share of the view to be picked: cells newly shown, or shown better.
        near: Points nearer than this share of the memory's scale are not shown.
        tau: Relative depth within which two surfaces count as one (z-buffer, agreement of taps).
        tau_surface: Relative depth within which the surface read must agree with the view's ray.
        rho_max: Cells magnified beyond this along an axis are not shown.
        min_weight: Share of bilinear weight that must lie on agreeing taps.
        min_cells: Share of a token's cells that must be good for it to be covered.
        refine_steps: Fixed-point steps from the z-buffered depth to the surface along the view's ray.
        view_angle: Degrees between two viewing directions of a surface at which the second is half as good a witness.
        half_life: Seconds after which a group counts half in the ranking, or None. Never removes a group.
        prefer: Whom exact ties favour: the `older` memory (guards against drift) or the `newer`.
    """

    max_sources: int = 8
    pool: int = 16
    max_tokens: int | None = None
    gain_min: float = 0.001
    near: float = 0.01
    tau: float = 0.10
    tau_surface: float = 0.03
    rho_max: float = 4.0
    min_weight: float = 0.5
    min_cells: float = 0.5
    refine_steps: int = 3
    view_angle: float = 10.0
    half_life: float | None = None
    prefer: Literal["older", "newer"] = "older"

    def __post_init__(self) -> None:
        refuse(
            (self.max_sources < 1, f"max_sources = {self.max_sources}: expected at least 1"),
            (self.pool < self.max_sources, f"pool = {self.pool}: expected at least max_sources, {self.max_sources}"),
            (self.max_tokens is not None and self.max_tokens < 1, f"max_tokens = {self.max_tokens}: at least 1"),
            (not 0 <= self.gain_min < 1, f"gain_min = {self.gain_min}: expected 0 to 1"),
            (self.near < 0, f"near = {self.near}: expected at least 0"),
            (self.tau <= 0, f"tau = {self.tau}: expected more than 0"),
            (self.tau_surface <= 0, f"tau_surface = {self.tau_surface}: expected more than 0"),
            (self.rho_max < 1, f"rho_max = {self.rho_max}: expected at least 1"),
            (not 0 < self.min_weight <= 1, f"min_weight = {self.min_weight}: expected above 0, up to 1"),
            (not 0 < self.min_cells <= 1, f"min_cells = {self.min_cells}: expected above 0, up to 1"),
            (self.refine_steps < 0, f"refine_steps = {self.refine_steps}: expected at least 0"),
            (self.view_angle <= 0, f"view_angle = {self.view_angle}: expected more than 0 degrees"),
            (self.half_life is not None and self.half_life <= 0, f"half_life = {self.half_life}: above 0, or none"),
        )


def retrieve(
    store: PatchStore,
    cameras: Cameras,
    grid: TokenGrid,
    config: RetrievalConfig | None = None,
    *,
    now: float | None = None,
    context: Collection[int] = (),
) -> Mosaic:
    """What `store` shows in each of `cameras`.

    Args:
        store: The memory.
        cameras: One view each, at the grid's image size.
        grid: Token grid of the views; stride and patch must be the memory's.
        now: Time in seconds against which `half_life` measures age; default: the newest keyframe's.
        context: uids of groups to leave out, because the model sees those frames anyway.

    Raises:
        GeometryError: if cameras, grid and memory disagree about image size, stride or patch.
    """
    config = config or RetrievalConfig()
    if (cameras.width, cameras.height) != (grid.width, grid.height):
        raise GeometryError(
            f"cameras have {cameras.width}x{cameras.height} pixels, the token grid {grid.width}x{grid.height}; "
            "use cameras.resized()"
        )
    if len(store):
        first = store.group(0).keyframe
        if (first.stride, first.patch) != (grid.stride, grid.patch):
            raise GeometryError(
                f"memory has stride {first.stride} and patch {first.patch}, "
                f"the token grid {grid.stride} and {grid.patch}"
            )
    cameras = cameras.to(dtype=torch.float64, device="cpu")
    if now is None and config.half_life is not None:
        now = max((group.keyframe.time for group in store), default=0.0)
    surfaces = _Surfaces(store)
    views = [_View(store, surfaces, cameras[i], grid, config, now or 0.0, context) for i in range(len(cameras))]
    mosaics = [view.mosaic() for view in views]
    return Mosaic.cat(mosaics) if mosaics else _no_views(store, cameras, grid)


def pixel_maps(groups: Sequence[Group], view: Cameras) -> PixelMaps:
    """How the images of `groups` and of a view map onto each other, float64 (see `_kernels` for `P` and `Q`)."""
    world_from_cam = np.stack([group.world_from_cam.numpy() for group in groups])
    K_src = np.stack([group.keyframe.camera.Ks[0].numpy() for group in groups])
    K_tgt, T = view.Ks[0].numpy(), view.viewmats[0].numpy()
    tgt_from_src = T @ world_from_cam
    src_from_tgt = np.linalg.inv(tgt_from_src)
    to_view, to_source = K_tgt @ tgt_from_src[:, :3], K_src @ src_from_tgt[:, :3]
    return PixelMaps(
        P=np.concatenate([to_view[:, :, :3] @ np.linalg.inv(K_src), to_view[:, :, 3:]], -1),
        Q=np.concatenate([to_source[:, :, :3] @ np.linalg.inv(K_tgt), to_source[:, :, 3:]], -1),
        center=np.ascontiguousarray(tgt_from_src[:, :3, 3]),
    )


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


class _Surfaces:
    """Tangent planes of the groups that the views of one call look at, made when first asked for."""

    def __init__(self, store: PatchStore) -> None:
        self.store = store
        self.known: dict[int, tuple[Array, Array]] = {}

    def __getitem__(self, g: int) -> tuple[Array, Array]:
        """Planes `[h' w' 3]` (inverse depth, its change per cell along x and y) and valid cells `[h' w']`."""
        from mosaicmem.memory import _kernels

        if g not in self.known:
            group = self.store.group(g)
            valid = group.valid.numpy()
            planes = np.zeros((*valid.shape, 3))
            _kernels.tangent_planes(group.keyframe.depth.numpy(), valid, MAX_SLOPE, MAX_BEND, planes)
            self.known[g] = planes, valid
        return self.known[g]


class _View:
    """One view's retrieval, step by step; holds the arrays the steps share."""

    def __init__(
        self,
        store: PatchStore,
        surfaces: _Surfaces,
        camera: Cameras,
        grid: TokenGrid,
        config: RetrievalConfig,
        now: float,
        context: Collection[int],
    ) -> None:
        self.surfaces = surfaces
        self.store, self.camera, self.grid, self.config, self.now = store, camera, grid, config, now
        self.near = config.near * store.scale
        self.decisions = np.full(len(store), Reason.outside, np.int8)
        self.gains = np.zeros(len(store), np.float32)
        self.context = context

    def mosaic(self) -> Mosaic:
        pool = self._pool()
        if not pool:
            return self._assemble([], [], None)
        landing = self._land(pool)
        picks = self._pick(pool, landing)
        return self._assemble(pool, picks, landing)

    def _weights(self, groups: list[int]) -> Array:
        if self.config.half_life is None:
            return np.ones(len(groups))
        age = np.array([max(0.0, self.now - self.store.group(g).keyframe.time) for g in groups])
        return np.maximum(0.5 ** (age / self.config.half_life), 1e-9)  # however old, better than nothing

    def _order(self, groups: list[int]) -> Array:
        keys = [self.store.group(g).age_key for g in groups]
        newest_first = self.config.prefer == "newer"
        return np.array(sorted(range(len(groups)), key=keys.__getitem__, reverse=newest_first), np.int64)

    def _pool(self) -> list[int]:
        """R1: the groups to look at cell by cell."""
        groups = candidates(self.store, self.camera, self.grid, self.near, self.context, self.decisions)
        if len(groups) <= self.config.pool:
            return groups
        reach = self.config.rho_max * self.grid.token_stride / 2
        return thin(
            PatchPoints(self.store, self.camera, self.grid, self.near, reach, 2 * self.config.tau),
            groups,
            self.config.pool,
            self._weights(groups),
            self._order(groups),
            self.decisions,
            self.gains,
        )

    def _land(self, pool: list[int]) -> _Landing:
        """R2, R3: the cells of every group of the pool in the view, z-buffered within each group."""
        from mosaicmem.memory import _kernels

        shape = (len(pool), *self.grid.cells)
        maps = pixel_maps([self.store.group(g) for g in pool], self.camera)
        landing = _Landing(
            maps=maps,
            zmin=np.full(shape, np.inf),
            hit=np.full(shape, -1),
            depth=np.zeros(shape),
            rho=np.zeros(shape),
            block=np.full(self.grid.cells, np.inf),
            quality=np.zeros(shape),
        )
        for k, g in enumerate(pool):
            landed, coarse = _kernels.splat_cells(
                *self.surfaces[g],
                maps.P[k],
                float(self.grid.stride),
                self.near,
                self.config.rho_max,
                self.config.tau,
                landing.zmin[k],
                landing.hit[k],
                landing.depth[k],
                landing.rho[k],
                landing.block,
            )
            if landed:
                self.decisions[g] = Reason.coarse if coarse == landed else Reason.hidden
        return landing

    def _pick(self, pool: list[int], landing: _Landing) -> list[int]:
        """R4: greedy union coverage; a cell counts by how well a group shows it."""
        from mosaicmem.memory import _kernels

        K = self.camera.Ks[0].numpy()
        _kernels.view_quality(
            landing.zmin,
            landing.depth,
            landing.rho,
            self.config.tau,
            landing.maps.center,
            K.diagonal()[:2].copy(),
            K[:2, 2].copy(),
            float(self.grid.stride),
            np.deg2rad(self.config.view_angle),
            landing.quality,
        )
        quality = landing.quality.reshape(len(pool), -1)
        picked = np.zeros(len(pool), np.bool_)
        gains = np.zeros(len(pool))
        gain_min = self.config.gain_min * quality.shape[1]
        picks = _kernels.greedy_cover(
            quality, self._weights(pool), self._order(pool), self.config.max_sources, gain_min, picked, gains
        ).tolist()
        left = np.maximum(quality - quality[picks].max(0, initial=0), 0).sum(1)
        for k, g in enumerate(pool):
            self.gains[g] = gains[k] if picked[k] else left[k]
            if picked[k]:
                self.decisions[g] = Reason.kept
            elif left[k] >= gain_min and left[k] > 0:
                self.decisions[g] = Reason.budget
            elif quality[k].any():
                self.decisions[g] = Reason.duplicate
        return picks

    def _read(self, pool: list[int], picks: list[int], landing: _Landing) -> _Reading:
        """R5: follow the view's rays back into each picked source."""
        from mosaicmem.memory import _kernels

        shape = (len(picks), *self.grid.cells)
        reading = _Reading(np.zeros((*shape, 2)), np.zeros(shape), np.zeros(shape), np.zeros(shape, np.bool_))
        for slot, k in enumerate(picks):
            _kernels.read_back(
                *self.surfaces[pool[k]],
                landing.maps.P[k],
                landing.maps.Q[k],
                float(self.grid.stride),
                self.near,
                self.config.tau,
                self.config.tau_surface,
                self.config.min_weight,
                self.config.refine_steps,
                landing.hit[k],
                landing.depth[k],
                reading.uv[slot],
                reading.source_z[slot],
                reading.depth[slot],
                reading.good[slot],
            )
        return reading

    def _assemble(self, pool: list[int], picks: list[int], landing: _Landing | None) -> Mosaic:
        """R6: an owner for every token, a source for every cell."""
        from mosaicmem.memory import _kernels

        (h, w), (m, n), p = self.grid.cells, self.grid.tokens, self.grid.patch
        owner = np.full((m, n), -1)
        source = np.full((h, w), -1)
        covered = np.zeros((m, n), np.bool_)
        uv, source_z, depth = np.zeros((h, w, 2)), np.zeros((h, w)), np.zeros((h, w))
        groups = [pool[k] for k in picks]
        if groups and landing is not None:
            read = self._read(pool, picks, landing)
            min_cells = max(1, int(np.ceil(self.config.min_cells * p * p)))
            weights = self._weights(groups)
            _kernels.assign_owners(
                read.good,
                read.depth,
                landing.block,
                landing.quality[picks],
                weights,
                self.config.tau,
                p,
                min_cells,
                read.uv,
                read.source_z,
                owner,
                source,
                covered,
                uv,
                source_z,
                depth,
            )
            if self.config.max_tokens is not None:
                _keep_best(source, covered, owner, p, self.config.max_tokens)
                depth[source < 0] = 0
            index = np.array([*groups, -1])
            source, owner = index[source], index[owner]
        return Mosaic(
            owner=torch.from_numpy(owner)[None],
            source=torch.from_numpy(source)[None],
            source_uv=torch.from_numpy(uv)[None],
            source_depth=torch.from_numpy(source_z)[None],
            depth=torch.from_numpy(depth)[None],
            good=torch.from_numpy(source >= 0)[None],
            covered=torch.from_numpy(covered)[None],
            picked=(tuple(groups),),
            decisions=torch.from_numpy(self.decisions)[None],
            gains=torch.from_numpy(self.gains)[None],
            grid=self.grid,
            cameras=self.camera,
        )


@dataclass(frozen=True)
class _Landing:
    """The cells of `k` groups in a view's grid `[h w]`, each group z-buffered by itself."""

    maps: PixelMaps
    zmin: Array  # [k h w] nearest depth, inf where nothing lands
    hit: Array  # [k h w] row-major source cell
    depth: Array  # [k h w] depth of that cell in the view
    rho: Array  # [k h w] its magnification
    block: Array  # [h w] nearest depth of what is magnified too far to be shown, but stands in the way
    quality: Array  # [k h w] how well the group shows the cell, 0 where hidden


@dataclass(frozen=True)
class _Reading:
    """Picked groups read back at a view's cells."""

    uv: Array  # [k h w 2] source pixels
    source_z: Array  # [k h w] depth of the ray point in the source
    depth: Array  # [k h w] refined depth in the view
    good: Array  # [k h w] bool


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


def _no_views(store: PatchStore, cameras: Cameras, grid: TokenGrid) -> Mosaic:
    (h, w), (m, n) = grid.cells, grid.tokens
    return Mosaic(
        owner=torch.empty(0, m, n, dtype=torch.int64),
        source=torch.empty(0, h, w, dtype=torch.int64),
        source_uv=torch.empty(0, h, w, 2, dtype=torch.float64),
        source_depth=torch.empty(0, h, w, dtype=torch.float64),
        depth=torch.empty(0, h, w, dtype=torch.float64),
        good=torch.empty(0, h, w, dtype=torch.bool),
        covered=torch.empty(0, m, n, dtype=torch.bool),
        picked=(),
        decisions=torch.empty(0, len(store), dtype=torch.int8),
        gains=torch.empty(0, len(store), dtype=torch.float32),
        grid=grid,
        cameras=cameras,
    )
