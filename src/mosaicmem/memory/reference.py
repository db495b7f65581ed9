"""Retrieval again, slow and obvious: float64, every source cell against every target cell, no index, no cleverness.

`retrieve_reference` is the definition; `mosaicmem.memory.retrieval` is the fast way to the same answer, and the tests
hold one against the other. It shares no arithmetic with the kernels: points are lifted to the world and projected.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from mosaicmem._shapes import Bool, Float, Int, Tensor
from mosaicmem.geometry import se3
from mosaicmem.geometry.cameras import Cameras
from mosaicmem.geometry.projection import project, unproject
from mosaicmem.geometry.token_grid import TokenGrid
from mosaicmem.geometry.warps import MAX_BEND, MAX_SLOPE
from mosaicmem.memory.patches import Group
from mosaicmem.memory.retrieval import RetrievalConfig
from mosaicmem.memory.store import PatchStore


class Landing(NamedTuple):
    """A group's cells in a view, z-buffered by themselves; `[q]` runs over target cells in row order."""

    zmin: Float[Tensor, "q"]
    depth: Float[Tensor, "q"]
    rho: Float[Tensor, "q"]
    hit: Int[Tensor, "q"]
    block: Float[Tensor, "q"]


class Reading(NamedTuple):
    """A group read back along the view's rays."""

    uv: Float[Tensor, "q 2"]
    source_z: Float[Tensor, "q"]
    depth: Float[Tensor, "q"]
    good: Bool[Tensor, "q"]


class ReferenceView(NamedTuple):
    """One view's answer; as in `Mosaic`, with positions in the store and -1 for none."""

    owner: Int[Tensor, "m n"]
    source: Int[Tensor, "h w"]
    source_uv: Float[Tensor, "h w 2"]
    depth: Float[Tensor, "h w"]
    covered: Bool[Tensor, "m n"]
    picked: list[int]
    gains: list[float]  # what each of those added
    shown: int  # cells that they show before they are read back


def tangent_planes(depth: Float[Tensor, "h w"], valid: Bool[Tensor, "h w"]) -> Float[Tensor, "h w 3"]:
    """Inverse depth, and its change per cell along x and y by the straightest run of three cells."""
    h, w = depth.shape
    inverse = [[1 / float(depth[r, c]) if bool(valid[r, c]) else None for c in range(w)] for r in range(h)]
    out = torch.zeros(h, w, 3, dtype=torch.float64)

    def value(r: int, c: int) -> float | None:
        return inverse[r][c] if 0 <= r < h and 0 <= c < w else None

    for r in range(h):
        for c in range(w):
            here = inverse[r][c]
            if here is None:
                continue
            out[r, c, 0] = here
            for axis, (dr, dc) in enumerate([(0, 1), (1, 0)]):
                best, slope = math.inf, 0.0
                for first in (-1, -2, 0):
                    run = [value(r + (first + i) * dr, c + (first + i) * dc) for i in range(3)]
                    x, y, z = (math.nan if v is None else v for v in run)
                    if abs(x - 2 * y + z) < best:
                        best, slope = abs(x - 2 * y + z), (z - x) / 2
                if best <= MAX_BEND * here and abs(slope) <= MAX_SLOPE * here:
                    out[r, c, 1 + axis] = slope
    return out


CHUNK = 400
"""Target cells that are tested at once against all source cells: a few hundred megabytes at 480x832."""


def land(group: Group, planes: Tensor, view: Cameras, grid: TokenGrid, config: RetrievalConfig, near: float) -> Landing:
    """R2 and R3 for one group, by testing all pairs of source and target cells."""
    chunks = grid.cell_centers(torch.float64).reshape(-1, 2).split(CHUNK)
    parts = [_land_on(target, group, planes, view, grid, config, near) for target in chunks]
    return Landing(*(torch.cat(x) for x in zip(*parts, strict=True)))


def _land_on(
    target: Tensor, group: Group, planes: Tensor, view: Cameras, grid: TokenGrid, config: RetrievalConfig, near: float
) -> Landing:
    keyframe, camera = group.keyframe, group.keyframe.camera
    source_grid = TokenGrid(camera.width, camera.height, keyframe.stride, keyframe.patch)
    uv = source_grid.cell_centers(torch.float64).reshape(-1, 2)
    planes = planes.reshape(-1, 3)

    def place(offset: tuple[float, float]) -> tuple[Tensor, Tensor]:
        """Landing and depth of the point `offset` cells from each cell's centre, on its tangent plane."""
        inverse = planes[:, 0] + planes[:, 1] * offset[0] + planes[:, 2] * offset[1]
        at = uv + torch.tensor(offset, dtype=torch.float64) * keyframe.stride
        ray = unproject(at, torch.ones_like(inverse), camera.Ks[0])
        M = view.viewmats[0] @ group.world_from_cam  # homogeneous, so that a plane may pass behind the camera
        x = ray @ M[:3, :3].T + inverse[:, None] * M[:3, 3]
        return project(x, view.Ks[0])

    landing, zw = place((0.0, 0.0))
    z = zw / planes[:, 0]
    corners = [place((sx / 2, sy / 2)) for sy in (-1, 1) for sx in (-1, 1)]
    bounded = torch.stack([zc for _, zc in corners]).amin(0) > 0.1 * zw
    low = torch.stack([landing, *(x for x, _ in corners)]).amin(0)
    high = torch.stack([landing, *(x for x, _ in corners)]).amax(0)
    rho = torch.where(bounded, (high - low).amax(-1) / grid.stride, math.inf)
    half = grid.stride / 2
    low, high = torch.minimum(low, landing - half)[:, None], torch.maximum(high, landing + half)[:, None]
    usable = group.valid.reshape(-1) & (z > near)
    # n . X = 1 on each cell's plane and less on the source's side; z (u, v, 1) = K X
    M = view.viewmats[0] @ group.world_from_cam
    eye = torch.linalg.inv(M)[:3, 3] @ camera.Ks[0].T
    slope = planes[:, 1:] / keyframe.stride
    level = planes[:, 0] - (slope * uv).sum(-1)
    behind = slope @ eye[:2] + level * eye[2] >= 1
    fine, coarse = (usable & (rho <= config.rho_max))[:, None], (usable & (rho > config.rho_max))[:, None]
    hits = fine & ((target >= low) & (target < high)).all(-1)
    close_low = torch.maximum(low, (landing - grid.stride)[:, None])
    close_high = torch.minimum(high, (landing + grid.stride)[:, None])
    in_the_way = coarse & ((target >= close_low) & (target < close_high)).all(-1)
    central = usable[:, None] & ((target - landing[:, None]).abs() <= 0.25 * grid.stride).all(-1)
    block = torch.where(in_the_way | central, z[:, None], math.inf).amin(0)
    depth = torch.where(hits, z[:, None], math.inf)
    zmin = depth.amin(0)
    distance = ((target - landing[:, None]) ** 2).sum(-1)
    distance = torch.where(hits & (depth <= (1 + config.tau) * zmin), distance, math.inf)
    tied = distance == distance.amin(0)
    hit = torch.where(tied, depth, math.inf).argmin(0)
    column = torch.arange(len(target))
    found = zmin < math.inf
    zero = torch.zeros_like(zmin)
    return Landing(
        zmin,
        torch.where(found, depth[hit, column], zero),
        torch.where(found, torch.where(behind, math.inf, rho)[hit], zero),
        torch.where(found, hit, -1),
        block,
    )


class Hiding(NamedTuple):
    """What stands in the way, by cell `[q]`."""

    front: Tensor  # foremost depth
    rival: Tensor  # how far the nearest camera that shows that is from the view
    placed: Tensor  # foremost depth of the groups that an edit moved
    seen: Tensor  # of those that were observed
    who: Tensor  # which of them that is
    shows: Tensor  # [k q] what each of the groups lands at


def hiders(groups: list[Group], depths: list[Tensor], shows: list[Tensor], view: Cameras, tau: float) -> Hiding:
    """What `groups` at `depths [q]` hide; `shows [q]` is what each lands at."""
    every = torch.stack(depths)
    front = every.amin(0)
    away = torch.stack([(g.world_from_cam[:3, 3] - view.centers[0]).norm() for g in groups])[:, None]
    rival = torch.where(every <= (1 + tau) * front, away.expand_as(every), math.inf).amin(0)
    moved, observed = torch.tensor([(g.moved, g.keyframe.origin == "observed") for g in groups]).T[..., None]
    placed, (seen, who) = torch.where(moved, every, math.inf).amin(0), torch.where(observed, every, math.inf).min(0)
    return Hiding(front, rival, placed, seen, who, torch.stack(shows))


def beside(zmin: Tensor, hiding: Hiding, limit: Tensor, grid: TokenGrid, edge: int) -> Bool[Tensor, " q"]:
    """Whether a group that lands at `zmin [q]` and the witness of a cell both show something down to `limit [q]` in
    one cell that is at most `edge` from it."""
    (h, w), cells = grid.cells, torch.arange(len(zmin))
    found = torch.zeros_like(zmin, dtype=torch.bool)
    for dy in range(-edge, edge + 1):
        for dx in range(-edge, edge + 1):
            row, column = cells // w + dy, cells % w + dx
            inside = (row >= 0) & (row < h) & (column >= 0) & (column < w)
            there = row.clamp(0, h - 1) * w + column.clamp(0, w - 1)
            found |= inside & (torch.maximum(zmin[there], hiding.shows[hiding.who, there]) <= limit)
    return found


def in_sight(
    group: Group, z: Tensor, depth: Tensor, zmin: Tensor, hiding: Hiding, view: Cameras, grid: TokenGrid,
    config: RetrievalConfig,
) -> Bool[Tensor, " q"]:  # fmt: skip
    """Whether a group's cell at depth `z` is in front, or its camera looked past what is when it saw the point at
    `depth`: from nearer to the view, both along one line, and with what was observed in front in a cell beside, where
    the other that shows it does so too; `zmin` is what the group shows in the whole view."""
    front, rival, placed, seen = hiding[:4]
    uv = grid.cell_centers(torch.float64).reshape(-1, 2)
    points = [se3.transform_points(view.c2w[0], unproject(uv, d.clamp(max=1e6), view.Ks[0])) for d in (front, depth)]
    a, b = (torch.nn.functional.normalize(x - group.world_from_cam[:3, 3], dim=-1) for x in points)
    angle = 2 * torch.atan2((a - b).norm(dim=-1), (a + b).norm(dim=-1))
    line = angle < math.atan(config.look_past * grid.stride / float(view.Ks[0].diagonal()[:2].max()))
    closer = (group.world_from_cam[:3, 3] - view.centers[0]).norm() < rival
    past = line & closer & (z <= (1 + config.tau) * placed) & (not group.moved)
    if config.edge is not None:
        limit = (1 + config.tau) * seen
        past &= (z <= limit) | beside(zmin, hiding, limit, grid, config.edge)
    return (z <= (1 + config.tau) * front) | past


def quality(
    group: Group, landing: Landing, hiding: Hiding, view: Cameras, grid: TokenGrid,
    config: RetrievalConfig,
) -> Float[Tensor, " q"]:  # fmt: skip
    """`1/2 + 1/2 / ((1 + angle / view_angle) max(1, rho))` where the group is in sight, and not from behind, else 0."""
    uv = grid.cell_centers(torch.float64).reshape(-1, 2)
    points = se3.transform_points(view.c2w[0], unproject(uv, landing.depth, view.Ks[0]))
    to_view = torch.nn.functional.normalize(points - view.centers[0], dim=-1)
    to_source = torch.nn.functional.normalize(points - group.world_from_cam[:3, 3], dim=-1)
    angle = torch.rad2deg(2 * torch.atan2((to_view - to_source).norm(dim=-1), (to_view + to_source).norm(dim=-1)))
    value = 0.5 + 0.5 / ((1 + angle / config.view_angle) * landing.rho.clamp(min=1))
    shown = (
        (landing.zmin < math.inf)
        & (landing.rho < math.inf)
        & in_sight(group, landing.zmin, landing.depth, landing.zmin, hiding, view, grid, config)
    )
    return torch.where(shown, value, torch.zeros_like(value))


def pick(
    qualities: Tensor, weights: list[float], order: list[int], limit: int, gain_min: float
) -> tuple[list[int], list[float]]:
    """R4: greedy facility location, looking at everything anew for every pick; the picks and what each adds."""
    shown = torch.zeros_like(qualities[0])
    picks: list[int] = []
    added: list[float] = []
    while len(picks) < limit:
        gains = [float((qualities[k] - shown).clamp(min=0).sum()) for k in range(len(qualities))]
        able = [k for k in order if k not in picks and gains[k] >= gain_min and gains[k] > 0]
        if not able:
            break
        best = max(able, key=lambda k: gains[k] * weights[k])
        picks.append(best)
        added.append(gains[best])
        shown = torch.maximum(shown, qualities[best])
    return picks, added


MET = 1e-6
"""Share of the depth within which a ray has met the surface."""


def read(
    group: Group, planes: Tensor, landing: Landing, view: Cameras, grid: TokenGrid, config: RetrievalConfig, near: float
) -> Reading:
    """R5: back-project every target cell, look at the four source cells around it, move to where the cell's ray meets
    their plane, repeat."""
    K, stride = group.keyframe.camera.Ks[0], group.keyframe.stride
    cam_from_world = torch.linalg.inv(group.world_from_cam)
    target = grid.cell_centers(torch.float64).reshape(-1, 2)
    eye = se3.transform_points(cam_from_world, view.centers)[0]
    unit = unproject(target, torch.ones_like(landing.depth), view.Ks[0])
    ray = se3.transform_points(cam_from_world, se3.transform_points(view.c2w[0], unit)) - eye  # for a depth of 1
    D = landing.depth.clone()
    alive = landing.hit >= 0
    for step in range(config.refine_steps + 1):
        uv, z = project(eye + D[:, None] * ray, K)
        total, surface, slope = taps(planes, group.valid, uv / stride - 0.5, z, config.tau)
        slope = slope / stride
        # 1/z = p . (u, v, 1) along the plane, so that n . X = 1 on it with n = K^T p, and less on the source's side
        normal = torch.cat([slope, (1 / surface - (slope * uv).sum(-1))[:, None]], -1) @ K
        ahead = (normal * ray).sum(-1)
        alive = alive & (z > 0) & (total >= config.min_weight) & (ahead > 0)
        if step == config.refine_steps:
            return Reading(uv, z, D, alive & ((surface - z).abs() <= config.tau_surface * z))
        moved = (1 - normal @ eye) / ahead
        met = (surface - z).abs() <= MET * z
        alive = alive & (met | (moved > near))
        D = torch.where(alive & ~met, moved, D)
    raise AssertionError("unreachable")


def taps(planes: Tensor, valid: Tensor, xy: Tensor, z: Tensor, tau: float) -> tuple[Tensor, Tensor, Tensor]:
    """Bilinear weight on the agreeing cells around each `xy`, their depth, cells being carried along their planes, and
    the slopes of its inverse `[q 2]`, a cell."""
    h, w = valid.shape
    corner = xy.floor()
    total, inverse, slope = torch.zeros_like(z), torch.zeros_like(z), torch.zeros_like(xy)
    for dy in (0, 1):
        for dx in (0, 1):
            col, row = corner[:, 0].nan_to_num().long() + dx, corner[:, 1].nan_to_num().long() + dy
            inside = (row >= 0) & (col >= 0) & (row < h) & (col < w)
            row, col = row.clamp(0, h - 1), col.clamp(0, w - 1)
            plane = planes[row, col]
            carried = plane[:, 0] + plane[:, 1] * (xy[:, 0] - col) + plane[:, 2] * (xy[:, 1] - row)
            counted = inside & valid[row, col] & (carried > 0) & ((1 / carried - z).abs() <= tau * z)
            weight = (1 - (xy[:, 0] - corner[:, 0] - dx).abs()) * (1 - (xy[:, 1] - corner[:, 1] - dy).abs())
            total += torch.where(counted, weight, 0.0)
            inverse += torch.where(counted, weight * carried, 0.0)
            slope += torch.where(counted[:, None], weight[:, None] * plane[:, 1:], 0.0)
    return total, torch.where(inverse > 0, total / inverse, 1.0), slope / total.clamp(min=1e-12)[:, None]


SOME = 0.0075
"""Share of its cells that a group adds to a window's view between two others to be read there."""


def retrieve_reference(
    store: PatchStore,
    view: Cameras,
    grid: TokenGrid,
    config: RetrievalConfig | None = None,
    now: float | None = None,
    at: float | None = None,
    among: list[int] | None = None,
) -> ReferenceView:
    """One view of a store; of a window's view between two others, with the groups that show much of these `among` all,
    if more than a pool is in sight."""
    config = config or RetrievalConfig()
    gain_min = config.gain_min
    view = view.to(dtype=torch.float64)
    (h, w), (m, n), p = grid.cells, grid.tokens, grid.patch
    near = config.near * store.scale
    if now is None:
        now = max((g.keyframe.time for g in store), default=0.0) if at is None else at
    owner, source = torch.full((m, n), -1), torch.full((h, w), -1)
    uv, depth = torch.zeros(h, w, 2, dtype=torch.float64), torch.zeros(h, w, dtype=torch.float64)
    covered = torch.zeros(m, n, dtype=torch.bool)
    ages = [max(0.0, now - g.keyframe.time) for g in store]
    origins = [config.generated if g.keyframe.origin == "generated" else 1.0 for g in store]
    all_weights = [
        origin * (1.0 if config.half_life is None else 0.5 ** (age / config.half_life))
        for age, origin in zip(ages, origins, strict=True)
    ]
    ranks = sorted(range(len(store)), key=lambda g: store.group(g).age_key, reverse=config.prefer == "newer")
    pool = [g for g in range(len(store)) if holds(store.group(g), at) and in_frustum(store.spheres[g], view, near)]
    if len(pool) > config.looked_at and among is not None:
        pool, gain_min = [g for g in pool if g in among], max(gain_min, SOME)
    elif len(pool) > config.looked_at:
        seen, deep = pool_reference(store, view, grid, config, pool)
        worth = [witness_reference(store.group(g), seen[k], deep, view, grid, config) for k, g in enumerate(pool)]
        order = sorted(range(len(pool)), key=lambda k: ranks.index(pool[k]))
        pool = [pool[k] for k in thin_reference(seen, worth, [all_weights[g] for g in pool], order, config.looked_at)]
    if not pool:
        return ReferenceView(owner, source, uv, depth, covered, [], [], 0)
    groups, weights = [store.group(g) for g in pool], [all_weights[g] for g in pool]
    order = sorted(range(len(pool)), key=lambda k: ranks.index(pool[k]))
    planes = [tangent_planes(g.keyframe.depth, g.valid) for g in groups]
    landings = [land(g, p, view, grid, config, near) for g, p in zip(groups, planes, strict=True)]
    shows = [x.zmin for x in landings]
    hiding = hiders(groups, shows, shows, view, config.tau)
    qualities = torch.stack([quality(g, x, hiding, view, grid, config) for g, x in zip(groups, landings, strict=True)])
    picks, gains = pick(qualities, weights, order, config.max_sources, gain_min * h * w)
    readings = [read(groups[k], planes[k], landings[k], view, grid, config, near) for k in picks]
    blocks, depths = [x.block for x in landings], [torch.where(r.good, r.depth, math.inf) for r in readings]
    everybody = [*range(len(groups)), *picks]
    hiding = hiders([groups[k] for k in everybody], [*blocks, *depths], [shows[k] for k in everybody], view, config.tau)
    shown = [
        in_sight(groups[k], d, d, landings[k].zmin, hiding, view, grid, config)
        for k, d in zip(picks, depths, strict=True)
    ]
    for ti in range(m):
        for tj in range(n):
            cells = [(ti * p + a) * w + tj * p + b for a in range(p) for b in range(p)]
            able: dict[int, list[int]] = {}
            for q in cells:
                able[q] = [k for k in range(len(picks)) if readings[k].good[q] and shown[k][q]]
            votes = [
                sum(weights[picks[k]] * (2 * float(qualities[picks[k], q]) - 1) for q in cells if k in able[q])
                for k in range(len(picks))
            ]
            rank = sorted(range(len(picks)), key=lambda k: -votes[k])
            served = 0
            for q in cells:
                best = next((k for k in rank if k in able[q]), None)
                if best is not None:
                    i, j = divmod(q, w)
                    served += 1
                    source[i, j] = pool[picks[best]]
                    uv[i, j], depth[i, j] = readings[best].uv[q], readings[best].depth[q]
            if served >= max(1, math.ceil(config.min_cells * p * p)):
                covered[ti, tj], owner[ti, tj] = True, pool[picks[rank[0]]]
    shown = int((qualities[picks] > 0).any(0).sum())
    return ReferenceView(owner, source, uv, depth, covered, [pool[k] for k in picks], gains, shown)


def holds(group: Group, at: float | None) -> bool:
    """Whether a group is part of the world at a time, or of the present."""
    if at is None:
        return group.until is None
    return group.keyframe.time <= at and (group.until is None or at < group.until)


def in_frustum(sphere: Float[Tensor, "4"], view: Cameras, near: float) -> bool:
    """Whether a bounding sphere (none if `r < 0`) meets the frustum, by its distance from each of five planes."""
    K, T, radius = view.Ks[0], view.viewmats[0], float(sphere[3])
    center = T[:3, :3] @ sphere[:3].double() + T[:3, 3]
    corners = torch.tensor([[0, 0], [view.width, 0], [view.width, view.height], [0, view.height]], dtype=torch.float64)
    rays = unproject(corners, torch.ones(4, dtype=torch.float64), K)
    inward = torch.nn.functional.normalize(torch.linalg.cross(rays.roll(-1, 0), rays), dim=-1)
    inward = inward * (inward @ rays.mean(0)).sign()[:, None]
    return radius >= 0 and float(center[2]) + radius > near and bool((inward @ center > -radius).all())


def pool_reference(
    store: PatchStore, view: Cameras, grid: TokenGrid, config: RetrievalConfig, groups: list[int] | None = None
) -> tuple[Bool[Tensor, "g q"], Float[Tensor, " q"]]:
    """What each group (default: all) shows of each token, on one point per patch, by testing all pairs, and how deep
    the view is there; float64.

    A patch hides what lies behind its far side, and is seen where its near side is not hidden.
    """
    view = view.to(dtype=torch.float64)
    near, s = config.near * store.scale, grid.token_stride
    tokens = grid.token_centers(torch.float64).reshape(-1, 2)

    def landing(g: int) -> tuple[Tensor, Tensor, Tensor]:
        rows = slice(store.offsets[g], store.offsets[g + 1])
        uv, z = project(se3.transform_points(view.viewmats[0], store.centers[rows].double()), view.Ks[0])
        radii = store.radii[rows].double()
        half = (radii * view.Ks[0, 0, 0] / z).clamp(s / 2, config.rho_max * s / 2)[:, None]
        hits = (z > near)[:, None] & ((tokens >= (uv - half)[:, None]) & (tokens < (uv + half)[:, None])).all(-1)
        return hits, z[:, None], (z - radii)[:, None]

    groups = list(range(len(store))) if groups is None else groups
    zbuf = torch.full((len(tokens),), math.inf, dtype=torch.float64)
    for g in groups:
        hits, z, front = landing(g)
        far = z + (z - front)
        zbuf = torch.minimum(zbuf, torch.where(hits, far, math.inf).amin(0)) if len(z) else zbuf
    seen = []
    for g in groups:
        hits, _, front = landing(g)
        seen.append((hits & (front <= (1 + 2 * config.tau) * zbuf)).any(0))
    return torch.stack(seen), zbuf


def witness_reference(
    group: Group, seen: Bool[Tensor, " q"], depth: Float[Tensor, " q"], view: Cameras, grid: TokenGrid,
    config: RetrievalConfig,
) -> float:  # fmt: skip
    """How well a group shows the middle of the tokens that it shows, by the formula of `quality`; 0 if it shows none.
    It is magnified as it stands farther off and as its lens is shorter."""
    if not bool(seen.any()):
        return 0.0
    view = view.to(dtype=torch.float64)
    points = unproject(grid.token_centers(torch.float64).reshape(-1, 2)[seen], depth[seen], view.Ks[0])
    middle = se3.transform_points(view.c2w[0], points).mean(0)
    to_view, to_source = middle - view.centers[0], middle - group.world_from_cam[:3, 3]
    cosine = torch.nn.functional.cosine_similarity(to_view, to_source, dim=0).clamp(-1, 1)
    rho = float(to_source.norm() / to_view.norm() * view.Ks[0, 0, 0] / group.keyframe.camera.Ks[0, 0, 0])
    return 0.5 + 0.5 / ((1 + float(torch.rad2deg(torch.arccos(cosine))) / config.view_angle) * max(1.0, rho))


def thin_reference(
    seen: Bool[Tensor, "g q"], worth: list[float], weights: list[float], order: list[int], limit: int
) -> list[int]:
    """The groups, at most `limit`, each the one that adds most to how well tokens are shown: until none shows a token
    that nobody shows and none adds a fiftieth of the view; then once more from the start, those that add twice that."""
    values = seen.double() * torch.tensor(worth, dtype=torch.float64)[:, None]
    chosen: list[int] = []
    for first, least in ((True, 0.02), (False, 0.04)):
        shown = torch.zeros_like(values[0])
        while len(chosen) < limit:
            gains = (values - shown).clamp(min=0).sum(1)
            new = first & (seen & (shown == 0)).any(1)
            able = [k for k in order if k not in chosen and bool(new[k] | (gains[k] >= least * len(shown)))]
            if not able:
                break
            chosen.append(max(able, key=lambda k: float(gains[k]) * weights[k]))
            shown = torch.maximum(shown, values[chosen[-1]])
    return chosen
