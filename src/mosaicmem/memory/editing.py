"""Edits: a store goes in, a store comes out. Undo is keeping the old one.

An edit changes where groups lie (`world_from_cam`) or which of their patches count (`mask`), so retrieval, occlusion,
footprints and warps all follow. Pixels and latents are untouched, except by `mirror`, which flips the stored tile
along with its geometry.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from mosaicmem._shapes import Bool, Float, Tensor
from mosaicmem.errors import GeometryError
from mosaicmem.geometry.cameras import Cameras
from mosaicmem.geometry.se3 import translation
from mosaicmem.memory.patches import Group, Keyframe, patch_points
from mosaicmem.memory.store import PatchStore

Selection = Callable[[Float[Tensor, "q 3"]], Bool[Tensor, "q"]]
"""Which of some world points belong to the thing edited."""


def sphere(center: Float[Tensor, "3"], radius: float) -> Selection:
    """Points within `radius` of `center`."""
    return lambda points: (points - center.to(points)).norm(dim=-1) <= radius


def box(low: Float[Tensor, "3"], high: Float[Tensor, "3"]) -> Selection:
    """Points with `low <= x <= high` on every axis."""
    return lambda points: ((points >= low.to(points)) & (points <= high.to(points))).all(-1)


def everything(points: Float[Tensor, "q 3"]) -> Bool[Tensor, "q"]:
    """All points."""
    return torch.ones(len(points), dtype=torch.bool)


def erase(store: PatchStore, selection: Selection) -> PatchStore:
    """Forget the selected patches."""
    kept = [rest for group in store for rest in [_split(group, selection)[1]] if rest is not None]
    return PatchStore.from_groups(kept)


def transform(store: PatchStore, selection: Selection, world_from_world: Float[Tensor, "4 4"]) -> PatchStore:
    """Move the selected patches by a rigid transform or a similarity `[a R | b]` (E1: `A <- G A`).

    Raises:
        GeometryError: if the transform is neither; a reflection is `mirror`'s.
    """
    G = _similarity(world_from_world)
    moved: list[Group] = []
    next_uid = _next_uid(store)
    for group in store:
        chosen, rest = _split(group, selection)
        if rest is not None:
            moved.append(rest)
        if chosen is not None:
            uid = group.uid if rest is None else next_uid
            next_uid += rest is not None
            moved.append(replace(chosen, world_from_cam=G @ chosen.world_from_cam, uid=uid))
    return PatchStore.from_groups(sorted(moved, key=lambda group: group.uid))


def duplicate(store: PatchStore, selection: Selection, world_from_world: Float[Tensor, "4 4"]) -> PatchStore:
    """Add a copy of the selected patches, moved by a rigid transform or a similarity. Latents are shared."""
    G = _similarity(world_from_world)
    uid = _next_uid(store)
    for group in store.groups:
        chosen, _ = _split(group, selection)
        if chosen is not None:
            store = store.insert_group(replace(chosen, world_from_cam=G @ chosen.world_from_cam, uid=uid))
            uid += 1
    return store


def mirror(store: PatchStore, normal: Float[Tensor, "3"], point: Float[Tensor, "3"]) -> PatchStore:
    """Reflect the whole memory in the plane through `point` with `normal`.

    Each keyframe's tile and depth are flipped left to right and its principal point with them
    (`A <- S A diag(-1, 1, 1, 1)`, `cx <- W - cx`), so handedness stays right. Exact for geometry and for latents that
    are pixels; a convolutional VAE's latents flip approximately.
    """
    n = torch.nn.functional.normalize(normal.double(), dim=0)
    S = torch.eye(4, dtype=torch.float64)
    S[:3, :3] -= 2 * torch.outer(n, n)
    S[:3, 3] = 2 * (point.double() @ n) * n
    flip = torch.diag(torch.tensor([-1.0, 1, 1, 1], dtype=torch.float64))
    return PatchStore.from_groups(
        [
            Group(
                _flipped(group.keyframe),
                S @ group.world_from_cam @ flip,
                None if group.mask is None else group.mask.flip(-1),
                group.uid,
            )
            for group in store
        ]
    )


def splice(a: PatchStore, b: PatchStore, a_from_b: Float[Tensor, "4 4"] | None = None) -> PatchStore:
    """One memory of two: `b` moved by `a_from_b` (identity by default) into `a`. uids of `b` are renumbered.

    Raises:
        GeometryError: if the two belong to different latent spaces (channels, stride or patch differ).
    """
    G = _similarity(torch.eye(4, dtype=torch.float64) if a_from_b is None else a_from_b)
    uid = _next_uid(a)
    for offset, group in enumerate(b):
        a = a.insert_group(replace(group, world_from_cam=G @ group.world_from_cam, uid=uid + offset))
    return a


def layout_transform(a: PatchStore, b: PatchStore, layout: str, gap: float) -> Float[Tensor, "4 4"]:
    """`a_from_b` that sets `b` beside (`horizontal`: world +x) or above (`vertical`: world -y) `a`, `gap` apart."""
    if layout not in ("horizontal", "vertical"):
        raise GeometryError(f"layout {layout!r}: expected 'horizontal' or 'vertical'")
    shift = torch.zeros(3, dtype=torch.float64)
    if layout == "horizontal":
        shift[0] = float(a.centers[:, 0].max() - b.centers[:, 0].min()) + gap
    else:
        shift[1] = float(a.centers[:, 1].min() - b.centers[:, 1].max()) - gap
    return translation(shift)


def _split(group: Group, selection: Selection) -> tuple[Group | None, Group | None]:
    """The selected part of a group and the rest; None for a part without patches. Whole groups stay as they are."""
    points, _, index = patch_points(group)
    chosen = selection(points)
    if not bool(chosen.any()):
        return None, group
    if bool(chosen.all()):
        return group, None
    m, n = group.keyframe.tokens
    mask = torch.zeros(m * n, dtype=torch.bool)
    mask[index[chosen]] = True
    rest = torch.zeros(m * n, dtype=torch.bool)
    rest[index[~chosen]] = True
    return replace(group, mask=mask.reshape(m, n)), replace(group, mask=rest.reshape(m, n))


def _flipped(keyframe: Keyframe) -> Keyframe:
    camera = keyframe.camera
    Ks = camera.Ks.clone()
    Ks[:, 0, 2] = camera.width - Ks[:, 0, 2]
    return replace(
        keyframe,
        latents=keyframe.latents.flip(-1),
        depth=keyframe.depth.flip(-1),
        valid=keyframe.valid.flip(-1),
        confidence=keyframe.confidence.flip(-1),
        camera=Cameras(camera.viewmats, Ks, camera.width, camera.height),
    )


def _next_uid(store: PatchStore) -> int:
    return store.group(len(store) - 1).uid + 1 if len(store) else 0


def _similarity(G: Tensor) -> Float[Tensor, "4 4"]:
    G = G.double()
    R = G[:3, :3]
    square = R @ R.T
    scale2 = square.diagonal().mean()
    eye = torch.eye(3, dtype=torch.float64)
    rigid = bool((square / scale2 - eye).abs().max() < 1e-6) and bool(torch.det(R) > 0)
    last_row = bool((G[3] == torch.tensor([0.0, 0, 0, 1], dtype=torch.float64)).all())
    if not (bool(G.isfinite().all()) and rigid and last_row):
        raise GeometryError(
            f"an edit moves by a rigid transform or a similarity [a R | b]; got a matrix with determinant "
            f"{float(torch.det(R)):.3g} that is neither (use mirror() for a reflection)"
        )
    return G
