"""Which patches an edit acts on: by place, by surface, by picture, by where they came from; joined with `&`, `|`, `~`.

A selection is asked about a store and answers for every patch of it (rows of `PatchStore.centers`). Its grain is the
patch: a patch that shows two things goes with the one its median depth lies on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from mosaicmem._shapes import Bool, Float, Int, Tensor
from mosaicmem.errors import GeometryError, refuse
from mosaicmem.geometry import se3
from mosaicmem.geometry.cameras import Cameras
from mosaicmem.geometry.projection import project
from mosaicmem.geometry.warps import inverse_depth_slopes
from mosaicmem.memory.patches import Group, Origin
from mosaicmem.memory.store import PatchStore


@dataclass(frozen=True)
class Selection:
    """A question to a store: `rows(store)` is a mask `[q]` over its patches."""

    rows: Callable[[PatchStore], Bool[Tensor, "q"]]

    def __call__(self, store: PatchStore) -> Bool[Tensor, "q"]:
        """The mask over the patches of `store`.

        Raises:
            GeometryError: if the question gave anything but one yes or no per patch.
        """
        mask = self.rows(store)
        if mask.shape != (store.num_patches,) or mask.dtype != torch.bool:
            raise GeometryError(
                f"a selection answers with {mask.dtype} {tuple(mask.shape)}; expected one truth value for each of "
                f"{store.num_patches} patches"
            )
        return mask

    def __and__(self, other: Selection) -> Selection:
        return Selection(lambda store: self(store) & other(store))

    def __or__(self, other: Selection) -> Selection:
        return Selection(lambda store: self(store) | other(store))

    def __invert__(self) -> Selection:
        return Selection(lambda store: ~self(store))


everything = Selection(lambda store: torch.ones(store.num_patches, dtype=torch.bool))
"""All patches."""


def sphere(center: Float[Tensor, "3"], radius: float) -> Selection:
    """Patches whose centre lies within `radius` of `center`, world units."""
    return Selection(lambda store: (store.centers - center.to(store.centers)).norm(dim=-1) <= radius)


def box(
    low: Float[Tensor, "3"], high: Float[Tensor, "3"], box_from_world: Float[Tensor, "4 4"] | None = None
) -> Selection:
    """Patches with `low <= x <= high` on every axis: of the world, or of the box that a transform says."""

    def rows(store: PatchStore) -> Tensor:
        points = store.centers
        if box_from_world is not None:
            points = se3.transform_points(box_from_world.double()[None], points.double()[None])[0].to(points)
        return ((points >= low.to(points)) & (points <= high.to(points))).all(-1)

    return Selection(rows)


def of_origin(origin: Origin) -> Selection:
    """Patches of frames that were `observed`, or `generated`."""
    return _by_group(lambda group: group.keyframe.origin == origin)


def in_frames(first: float, last: float) -> Selection:
    """Patches of the frames numbered `first` to `last`, both included."""
    return _by_group(lambda group: first <= group.keyframe.frame <= last)


def seen_between(start: float, end: float) -> Selection:
    """Patches of frames of the seconds `start` to `end`, both included."""
    return _by_group(lambda group: start <= group.keyframe.time <= end)


def holding(at: float | None = None) -> Selection:
    """Patches that hold at a second: seen by then and not yet superseded; with None, those that hold now."""
    return _by_group(lambda group: holds(group, at))


def holds(group: Group, at: float | None) -> bool:
    """Whether a group is part of the world at a second, or (None) now."""
    if at is None:
        return group.until is None
    return group.keyframe.time <= at and (group.until is None or at < group.until)


def pictured(pictures: Mapping[int, Bool[Tensor, "H W"]], share: float = 0.5) -> Selection:
    """Patches that a picture of their own frame marks, such as one object of an id picture.

    Args:
        pictures: Marked pixels at the size of the frame, by the group's `uid`. Frames without one are left alone.
        share: Of a patch's readable cells, how many must have their central pixel marked; at least one must.

    Raises:
        GeometryError: when asked, if a picture has another size than its frame.
    """
    if not 0 <= share <= 1:
        raise GeometryError(f"share = {share}: expected 0 to 1")

    def rows(store: PatchStore) -> Tensor:
        out = torch.zeros(store.num_patches, dtype=torch.bool)
        for g, (start, stop) in enumerate(zip(store.offsets, store.offsets[1:], strict=False)):
            group = store.group(g)
            if group.uid in pictures:
                ids = store.patch_ids[start:stop].long()
                out[start:stop] = _marked(group, pictures[group.uid], share)[ids]
        return out

    return Selection(rows)


def outlined(
    mask: Bool[Tensor, "H W"], depth: Float[Tensor, "H W"], camera: Cameras, tolerance: float = 0.05
) -> Selection:
    """Patches seen inside an outline in one view (a lasso): those behind what is seen there stay.

    Args:
        mask: Pixels inside the outline.
        depth: z-depth of what the view shows, 0 where nothing: a rendering's, or `Mosaic.depth` at pixels.
        camera: The view, a sequence of one.
        tolerance: Relative depth within which a patch lies on the surface seen.

    Raises:
        GeometryError: if mask, depth and camera disagree about the size of the image.
    """
    size = (camera.height, camera.width)
    if mask.shape != size or depth.shape != size or len(camera) != 1:
        raise GeometryError(f"an outline of {tuple(mask.shape)} and depth {tuple(depth.shape)} in a view of {size}")

    def rows(store: PatchStore) -> Tensor:
        points = se3.transform_points(camera.viewmats[0].double(), store.centers.double())
        uv, z = project(points, camera.Ks[0].double())
        inside = (z > 0) & (uv >= 0).all(-1) & (uv[:, 0] < camera.width) & (uv[:, 1] < camera.height)
        at = torch.where(inside[:, None], uv, 0.0).floor().long()
        surface = depth.to(z)[at[:, 1], at[:, 0]]
        return inside & mask[at[:, 1], at[:, 0]] & (surface > 0) & ((z - surface).abs() <= tolerance * surface)

    return Selection(rows)


def surface(
    point: Float[Tensor, "3"], *, reach: float | None = None, gap: float = 1.5, fold: float = 20.0
) -> Selection:
    """The thing at a point: patches connected with the one nearest to it, over all frames.

    Neighbours belong together where the surface goes on smoothly or turns away from the viewer, as over the edge of
    a table; not where it turns towards the viewer, as where the table meets the floor (local convexity: Stein et
    al., CVPR 2014). A thing thinner than a patch is not told from the wall it hangs on.

    Args:
        reach: Farthest distance of a patch from `point`, world units; None: anywhere.
        gap: Neighbours lie within this many times the sum of their radii.
        fold: Degrees by which the normals of one smooth surface may differ from patch to patch.

    Raises:
        GeometryError: when asked, if nothing lies within four patch radii of `point`.
    """
    refuse(
        (reach is not None and reach <= 0, f"reach = {reach}: expected more than 0"),
        (gap <= 0, f"gap = {gap}: expected more than 0"),
        (not 0 < fold < 90, f"fold = {fold}: expected 0 to 90 degrees"),
    )

    def rows(store: PatchStore) -> Tensor:
        out = torch.zeros(store.num_patches, dtype=torch.bool)
        distance = (store.centers - point.to(store.centers)).norm(dim=-1)
        near = distance <= (math.inf if reach is None else reach)
        candidates = near.nonzero().squeeze(-1)
        if not len(candidates) or float(distance.min()) > 4 * float(store.radii[distance.argmin()]):
            nearest = f"the nearest patch is {float(distance.min()):.3g} away" if len(distance) else "it is empty"
            raise GeometryError(f"memory shows no surface at {[round(float(x), 3) for x in point]}: {nearest}")
        seed = int((candidates == distance.argmin()).nonzero())
        points, radii = store.centers[candidates].double(), store.radii[candidates].double()
        normals = _normals(store, near)[candidates]
        out[candidates[grow(seed, points, radii, normals, gap, math.radians(fold))]] = True
        return out

    return Selection(rows)


def _by_group(test: Callable[[Group], bool]) -> Selection:
    def rows(store: PatchStore) -> Tensor:
        counts = torch.tensor(store.offsets).diff()
        return torch.tensor([test(group) for group in store], dtype=torch.bool).repeat_interleave(counts)

    return Selection(rows)


def _marked(group: Group, picture: Tensor, share: float) -> Bool[Tensor, "q"]:
    """Of all patches of a group, those with enough marked cells."""
    keyframe = group.keyframe
    camera, s, p = keyframe.camera, keyframe.stride, keyframe.patch
    if picture.shape != (camera.height, camera.width):
        raise GeometryError(
            f"the picture of frame {keyframe.frame} is {tuple(picture.shape)}; expected {(camera.height, camera.width)}"
        )
    valid = group.valid
    marked = picture[s // 2 :: s, s // 2 :: s] & valid
    hits, known = (x.unflatten(1, (-1, p)).unflatten(0, (-1, p)).sum((1, 3)).flatten() for x in (marked, valid))
    return (hits > 0) & (hits >= share * known)


def _normals(store: PatchStore, wanted: Bool[Tensor, "q"]) -> Float[Tensor, "q 3"]:
    """Unit normals, towards the viewer, of the wanted patches' planes; 0 for the others. float64."""
    out = torch.zeros(store.num_patches, 3, dtype=torch.float64)
    for g, (start, stop) in enumerate(zip(store.offsets, store.offsets[1:], strict=False)):
        if bool(wanted[start:stop].any()):
            out[start:stop] = _group_normals(store.group(g), store.patch_ids[start:stop].long())
    return torch.where(wanted[:, None], out, 0.0)


def _group_normals(group: Group, patches: Int[Tensor, "q"]) -> Float[Tensor, "q 3"]:
    keyframe, p, valid = group.keyframe, group.keyframe.patch, group.valid
    (h, w), (m, n) = valid.shape, keyframe.tokens
    blocks = torch.where(valid, keyframe.depth.double(), torch.inf)
    blocks = blocks.reshape(m, p, n, p).permute(0, 2, 1, 3).reshape(m * n, p * p)[patches]
    depth, order = blocks.sort(dim=-1)
    middle = ((depth.isfinite().sum(-1) - 1) // 2).clamp(min=0)[:, None]
    inside = order.gather(1, middle).squeeze(1)  # the cell whose depth is the patch's
    row, column = patches // n * p + inside // p, patches % n * p + inside % p
    slope = inverse_depth_slopes(keyframe.depth, valid).reshape(h * w, 2)[row * w + column] / keyframe.stride
    uv = (torch.stack([column, row], -1).double() + 0.5) * keyframe.stride
    # 1/z = p . (u, v, 1) along the plane, so that p . K X = 1 on it and -K^T p looks at the camera
    inverse = 1 / depth.gather(1, middle).squeeze(1)
    plane = torch.cat([slope, (inverse - (slope * uv).sum(-1))[:, None]], -1)
    normal = -(plane @ keyframe.camera.Ks[0].double()) @ group.world_from_cam[:3, :3].T
    return torch.nn.functional.normalize(normal, dim=-1)


def grow(
    seed: int, points: Float[Tensor, "q 3"], radii: Float[Tensor, "q"], normals: Float[Tensor, "q 3"], gap: float,
    fold: float,
) -> Bool[Tensor, "q"]:  # fmt: skip
    """Everything linked to the seed, ring by ring; most of a patch's neighbours that are inside must agree.

    Args:
        points, radii, normals: Of patches, float64; normals of length 1, or 0 where unknown.
        gap, fold: See `surface`; the fold in radians.
    """
    from mosaicmem.memory import _growing_kernels

    places, sizes = points.numpy(), radii.numpy()
    octaves = np.floor(np.log2(np.maximum(sizes, 1e-12)))
    kinds, kind = np.unique(octaves, return_inverse=True)
    low, tops = places.min(0), 2.0 ** (kinds + 1)
    sides = np.maximum(2 * gap * tops, (places.max(0) - low).max() / 2**20)  # so that three numbers fit into a key
    boxes = np.floor((places - low) / sides[kind][:, None]).astype(np.int64)
    dims = np.stack([boxes[kind == k].max(0) + 1 for k in range(len(kinds))])
    keys = (boxes[:, 0] * dims[kind, 1] + boxes[:, 1]) * dims[kind, 2] + boxes[:, 2]
    order = np.lexsort((keys, kind))
    starts = np.searchsorted(kind[order], np.arange(len(kinds) + 1))
    inside = np.zeros(len(order), np.bool_)
    _growing_kernels.grow(
        int(np.flatnonzero(order == seed)[0]), places[order], sizes[order], normals.numpy()[order],
        gap, math.sin(fold), math.cos(fold), keys[order], starts, sides, tops, low, dims, inside,
    )  # fmt: skip
    out = np.empty_like(inside)
    out[order] = inside
    return torch.from_numpy(out)
