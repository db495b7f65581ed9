"""Contradiction: what a new frame sees through is not there any more.

An old patch that lies clearly in front of what the new frame sees along the same ray would hide it; since it does not,
it has gone: a door opened, a chair was taken away. It is given an end in time and is not deleted, so a query at an
earlier time still finds it. Something new in front of something old contradicts nothing: what is hidden may still be.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch.nn import functional as F

from mosaicmem._shapes import Bool, Float, Tensor
from mosaicmem.errors import refuse
from mosaicmem.geometry.projection import pixel_centers, unproject
from mosaicmem.memory.patches import Group, Keyframe, patch_points
from mosaicmem.memory.store import PatchStore

WITNESSES = 64
"""Observed frames that are asked at once what they see through."""


@dataclass(frozen=True)
class SupersedeConfig:
    """When an old patch counts as contradicted.

    Attributes:
        tolerance: It must be nearer than what the new frame sees there by more than this share of the latter's depth.
        min_cells: Share of its valid cells that must be contradicted.
        margin: Cells around the one looked at that must agree, so that an edge seen a little aside contradicts nothing.
        near: Old cells nearer to the new camera than this share of its frame's median depth say nothing.
    """

    tolerance: float = 0.1
    min_cells: float = 0.5
    margin: int = 1
    near: float = 0.01

    def __post_init__(self) -> None:
        refuse(
            (not 0 <= self.tolerance < 1, f"tolerance = {self.tolerance}: expected 0 up to, not including, 1"),
            (not 0 < self.min_cells <= 1, f"min_cells = {self.min_cells}: expected above 0, up to 1"),
            (self.margin < 0, f"margin = {self.margin}: expected at least 0 cells"),
            (self.near < 0, f"near = {self.near}: expected at least 0"),
        )


def supersede(store: PatchStore, keyframe: Keyframe, config: SupersedeConfig | None = None) -> PatchStore:
    """The store in which everything that a new observation sees through holds until its time.

    Looks at groups that still hold, are older than the keyframe and are not pinned. Of a group that is contradicted in
    part, the rest keeps its uid and the part that is over becomes a group of its own. `keyframe` itself is not
    inserted; whether it is already there makes no difference.

    Args:
        keyframe: The new observation, at its own camera; only cells with valid depth say anything.
    """
    config = config or SupersedeConfig()
    free = _free_depth(keyframe, config.margin)
    near = config.near * keyframe.median_depth
    kept: list[Group] = []
    over: list[Group] = []
    uid = store.group(len(store) - 1).uid + 1 if len(store) else 0
    spheres = store.spheres.double()
    for g, group in enumerate(store):
        asked = group.until is None and not group.pinned and group.keyframe.time < keyframe.time
        if not asked or not _may_be_seen(spheres[g], keyframe, near):
            kept.append(group)
            continue
        gone = _seen_through(group, [keyframe], free[None], near, config)[0]
        if not bool(gone.any()):
            kept.append(group)
            continue
        rest = _present(group) & ~gone
        if bool(rest.any()):
            kept.append(replace(group, mask=rest))
            over.append(replace(group, mask=gone, until=keyframe.time, uid=uid))
            uid += 1
        else:
            kept.append(replace(group, until=keyframe.time))
    changed = over or any(a is not b for a, b in zip(kept, store, strict=True))
    return PatchStore.from_groups([*kept, *over]) if changed else store


def imagined_in_free_space(
    store: PatchStore, keyframe: Keyframe, config: SupersedeConfig | None = None
) -> Bool[Tensor, "h w"]:
    """Cells of a generated keyframe whose patch lies where an observed frame of the store saw free space.

    Remembered, they would hide what was observed from where it was observed: what was imagined on the way, with a depth
    that was guessed, must never stand between a camera and what it saw.

    Args:
        store: Only groups that were observed, and are still where they were observed, are witnesses.
        keyframe: At its own camera, not yet inserted.
    """
    config = config or SupersedeConfig(margin=0)
    group = Group(keyframe, keyframe.camera.c2w[0].double(), None, 0)
    found = torch.zeros(keyframe.tokens, dtype=torch.bool)
    if bool(keyframe.valid.any()):
        points, radii, _ = patch_points(group)
        middle = points.double().mean(0)
        reach = ((points.double() - middle).norm(dim=-1) + 2**0.5 * radii.double()).max()
        sphere = torch.cat([middle, reach[None]])
        for frames in _alike(_witnesses(store, sphere), WITNESSES):
            free = torch.stack([_free_depth(seen, config.margin) for seen in frames])
            near = torch.tensor([config.near * seen.median_depth for seen in frames], dtype=torch.float64)
            found |= _seen_through(group, frames, free, near[:, None], config).any(0)
    return found.repeat_interleave(keyframe.patch, 0).repeat_interleave(keyframe.patch, 1)


def _witnesses(store: PatchStore, sphere: Float[Tensor, "4"]) -> Iterator[Keyframe]:
    """Observed keyframes, still where they were observed, before whose cameras a bounding sphere reaches."""
    still = store.observed & store.times[:, 1].isinf() & (store.numbers[:, 3] == 0)
    depth = ((sphere[:3] - store.places[:, :3, 3]) * store.places[:, :3, 2]).sum(-1)
    for g in (still & (depth + sphere[3] > 0)).nonzero().flatten().tolist():  # nothing of the others is read
        yield store.group(g).keyframe


def _alike(keyframes: Iterable[Keyframe], most: int) -> Iterator[list[Keyframe]]:
    """Lists of at most so many keyframes of one size."""
    lists: dict[tuple[int, int, int], list[Keyframe]] = {}
    for keyframe in keyframes:
        size = keyframe.camera.width, keyframe.camera.height, keyframe.stride
        mine = lists.setdefault(size, [])
        mine.append(keyframe)
        if len(mine) == most:
            yield lists.pop(size)
    yield from lists.values()


def _free_depth(keyframe: Keyframe, margin: int) -> Float[Tensor, "h w"]:
    """How far each cell's ray is free: the smallest depth around it; 0 where any of them is unknown."""
    depth = torch.where(keyframe.valid, keyframe.depth.double(), 0)[None, None]
    if not margin:
        return depth[0, 0]
    size = 2 * margin + 1
    # beyond the border nothing is asked
    padded = F.pad(depth, [margin] * 4, value=torch.inf)
    return -F.max_pool2d(-padded, size, stride=1)[0, 0]


def _may_be_seen(sphere: Float[Tensor, "4"], keyframe: Keyframe, near: float) -> bool:
    """Whether a bounding sphere reaches before the new camera."""
    T = keyframe.camera.viewmats[0].double()
    return float(sphere[3]) >= 0 and float(T[2, :3] @ sphere[:3] + T[2, 3] + sphere[3]) > near


def _seen_through(
    group: Group,
    frames: Sequence[Keyframe],
    free: Float[Tensor, "f h w"],
    near: Float[Tensor, "f 1"] | float,
    config: SupersedeConfig,
) -> Bool[Tensor, "f m n"]:
    """Patches of a group that each of some new frames, all of one size, sees through."""
    old, camera, stride = group.keyframe, frames[0].camera, frames[0].stride
    h, w = old.depth.shape
    uv = pixel_centers(w, h, stride=old.stride, dtype=torch.float64).reshape(-1, 2)
    valid = group.valid.reshape(-1)
    local = unproject(uv, torch.where(valid, old.depth.reshape(-1).double(), 1.0), old.camera.Ks[0].double())
    views = torch.cat([new.camera.viewmats for new in frames]).double() @ group.world_from_cam
    K = torch.cat([new.camera.Ks for new in frames]).double()
    points = local @ views[:, :3, :3].mT + views[:, None, :3, 3]
    z = points[..., 2]
    seen = points[..., :2] / z.clamp(min=1e-12)[..., None] * K.diagonal(dim1=1, dim2=2)[:, None, :2] + K[:, None, :2, 2]
    size = torch.tensor([camera.width, camera.height], dtype=torch.float64)
    inside = valid & (z > near) & ((seen >= 0) & (seen < size)).all(-1)
    column, row = torch.where(inside[..., None], seen / stride, 0.0).long().unbind(-1)
    limit = free.flatten(1).gather(1, row * free.shape[2] + column)
    contradicted = inside & (z < (1 - config.tolerance) * limit)
    counts = _per_patch(contradicted.unflatten(1, (h, w)), old.patch)
    return (counts >= config.min_cells * _per_patch(valid.reshape(h, w), old.patch)) & (counts > 0)


def _present(group: Group) -> Bool[Tensor, "m n"]:
    """Patches of a group with a valid cell."""
    return _per_patch(group.valid, group.keyframe.patch) > 0


def _per_patch(cells: Bool[Tensor, "*b h w"], patch: int) -> Float[Tensor, "*b m n"]:
    return cells.unflatten(-1, (-1, patch)).unflatten(-3, (-1, patch)).sum((-3, -1)).double()
