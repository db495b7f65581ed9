"""Edits: a store goes in, a store comes out. Undo is keeping the old one.

An edit changes where groups lie (`world_from_cam`), which of their patches count (`mask`) or when they hold (`until`),
so retrieval, occlusion, footprints and warps all follow. Pixels and latents are untouched, except by `mirror`, which
flips the stored tile along with its geometry. A frame of which a part is edited becomes two groups: what stays keeps
the `uid`, what is edited gets a new one, so that a list of changes by `uid` says everything.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import torch

from mosaicmem._shapes import Bool, Float, Tensor
from mosaicmem.errors import GeometryError
from mosaicmem.geometry import se3
from mosaicmem.geometry.cameras import Cameras
from mosaicmem.memory.patches import Group, Keyframe, patch_points
from mosaicmem.memory.selection import Selection as Selection
from mosaicmem.memory.selection import box as box
from mosaicmem.memory.selection import everything as everything
from mosaicmem.memory.selection import holding as holding
from mosaicmem.memory.selection import holds as holds
from mosaicmem.memory.selection import in_frames as in_frames
from mosaicmem.memory.selection import of_origin as of_origin
from mosaicmem.memory.selection import outlined as outlined
from mosaicmem.memory.selection import pictured as pictured
from mosaicmem.memory.selection import seen_between as seen_between
from mosaicmem.memory.selection import sphere as sphere
from mosaicmem.memory.selection import surface as surface
from mosaicmem.memory.store import PatchStore

Select = Callable[[PatchStore], Bool[Tensor, "q"]]
"""A `Selection`, or any function that answers like one."""


def erase(store: PatchStore, selection: Select) -> PatchStore:
    """Forget the selected patches."""
    return _store(rest for _, rest in _split(store, selection) if rest is not None)


def transform(store: PatchStore, selection: Select, world_from_world: Float[Tensor, "4 4"]) -> PatchStore:
    """Move the selected patches by a rigid transform or a similarity `[a R | b]` (E1: `A <- G A`).

    Raises:
        GeometryError: if the transform is neither; a reflection is `mirror`'s.
    """
    G = similarity(world_from_world)
    return _edited(store, selection, lambda part: part.moved(G))


def move(store: PatchStore, selection: Select, by: Float[Tensor, "3"]) -> PatchStore:
    """Shift the selected patches, world units."""
    return transform(store, selection, se3.translation(by.double()))


def rotate(
    store: PatchStore, selection: Select, axis: Float[Tensor, "3"], degrees: float, about: Float[Tensor, "3"]
) -> PatchStore:
    """Turn the selected patches about the line through `about` along `axis`, right-handed."""
    return transform(store, selection, rotation_about(axis, degrees, about))


def scale(store: PatchStore, selection: Select, factor: float, about: Float[Tensor, "3"]) -> PatchStore:
    """Make the selected patches `factor` times as large, and as far from `about`."""
    return transform(store, selection, scaling_about(factor, about))


def duplicate(store: PatchStore, selection: Select, world_from_world: Float[Tensor, "4 4"]) -> PatchStore:
    """Add a copy of the selected patches, moved by a rigid transform or a similarity. Latents are shared."""
    G, uid = similarity(world_from_world), _next_uid(store)
    parts = [_part(store, g) for g in range(len(store))]
    copies = [chosen.moved(G) for chosen, _ in _split(store, selection) if chosen is not None]
    return _store([*parts, *(replace(c, group=replace(c.group, uid=uid + i)) for i, c in enumerate(copies))])


def mirror(
    store: PatchStore,
    normal: Float[Tensor, "3"],
    point: Float[Tensor, "3"],
    selection: Select = everything,
    *,
    flip: Callable[[Float[Tensor, "1 c h w"]], Float[Tensor, "1 c h w"]] | None = None,
) -> PatchStore:
    """Reflect the selected patches, by default all, in the plane through `point` with `normal`.

    Each keyframe's tile and depth are flipped left to right and its principal point with them
    (`A <- S A diag(-1, 1, 1, 1)`, `cx <- W - cx`), so handedness stays right. The flipped keyframe is new content.

    Args:
        flip: From the latents of a picture to those of the flipped picture. By default cells change places, which is
            exact for latents that are pixels and near for those of a convolutional autoencoder; to decode, flip and
            encode is right for any.

    Raises:
        GeometryError: if the normal has no length, or normal or point are not finite.
    """
    length = float(normal.double().norm())
    if not 0 < length < math.inf or not bool(point.isfinite().all()):
        raise GeometryError(
            f"a mirror needs a normal that is not zero, and a finite point; got {normal.tolist()}, {point.tolist()}"
        )
    n = normal.double() / length
    S = torch.eye(4, dtype=torch.float64)
    S[:3, :3] -= 2 * torch.outer(n, n)
    S[:3, 3] = 2 * (point.double() @ n) * n
    other_hand = torch.diag(torch.tensor([-1.0, 1, 1, 1], dtype=torch.float64))
    known: dict[int, Keyframe] = {}

    def reflected(part: _Part) -> _Part:
        group = part.group
        if id(group.keyframe) not in known:
            known[id(group.keyframe)] = _flipped(group.keyframe, flip or (lambda latents: latents.flip(-1)))
        mask = None if group.mask is None else group.mask.flip(-1)
        placed = replace(
            group,
            keyframe=known[id(group.keyframe)],
            world_from_cam=S @ group.world_from_cam @ other_hand,
            mask=mask,
        )
        return _Part(placed, *patch_points(placed))

    return _edited(store, selection, reflected)


def freeze(store: PatchStore, selection: Select, pinned: bool = True) -> PatchStore:
    """Protect from forgetting every frame of which something is selected; `pinned=False` lets go.

    Whole frames, so that nothing is split and nothing that is shown changes.
    """
    return _store(
        replace(part, group=replace(part.group, pinned=pinned)) if touched and part.group.pinned != pinned else part
        for part, touched in _touched(store, selection)
    )


def as_it_was(store: PatchStore, selection: Select, at: float, now: float | None = None) -> PatchStore:
    """Let the selected patches show again what they showed at a second: paint over time.

    What held then holds now; what came later is superseded from `now` on, so that earlier moments still find it.

    Args:
        now: Second of the edit; by default that of the newest keyframe.
    """
    if now is None:
        now = max((group.keyframe.time for group in store), default=at)
    moment = max(now, at)

    def painted(part: _Part) -> _Part:
        until = None if holds(part.group, at) else moment
        return replace(part, group=replace(part.group, until=until))

    # what is as it should be stays whole
    return _edited(store, lambda s: selection(s) & (holding(at)(s) != holding()(s)), painted)


def splice(a: PatchStore, b: PatchStore, a_from_b: Float[Tensor, "4 4"] | None = None) -> PatchStore:
    """One memory of two: `b` moved by `a_from_b` (identity by default) into `a`. uids of `b` are renumbered.

    Raises:
        GeometryError: if the two belong to different latent spaces (channels, stride or patch differ).
    """
    G = similarity(torch.eye(4, dtype=torch.float64) if a_from_b is None else a_from_b)
    uid = _next_uid(a)
    moved = [_part(b, g).moved(G) for g in range(len(b))]
    theirs = [replace(part, group=replace(part.group, uid=uid + i)) for i, part in enumerate(moved)]
    return _store([*(_part(a, g) for g in range(len(a))), *theirs])


def layout_transform(
    a: Float[Tensor, "p 3"], b: Float[Tensor, "q 3"], layout: str, gap: float
) -> Float[Tensor, "4 4"]:  # fmt: skip
    """`a_from_b` that sets `b` beside (`horizontal`: world +x) or above (`vertical`: world -y) `a`.

    Args:
        a, b: What the two worlds consist of: `PatchStore.centers`, or camera centres.
        gap: Distance between the two, world units.

    Raises:
        GeometryError: if the layout is neither (a doorway needs frames: `doorway_transform`), or a world is empty.
    """
    if layout not in ("horizontal", "vertical"):
        raise GeometryError(f"layout {layout!r}: expected 'horizontal' or 'vertical'")
    if not len(a) or not len(b):
        raise GeometryError(f"nothing to set {layout}ly: {len(a)} and {len(b)} points")
    axis, sign = (0, 1.0) if layout == "horizontal" else (1, -1.0)
    shift = torch.zeros(3, dtype=torch.float64)
    shift[axis] = sign * (float((sign * a[:, axis]).max() - (sign * b[:, axis]).min()) + gap)
    return se3.translation(shift)


def doorway_transform(
    door_a: Float[Tensor, "4 4"], door_b: Float[Tensor, "4 4"], ratio: float = 1.0
) -> Float[Tensor, "4 4"]:
    """`a_from_b` that puts the door of `b` into that of `a`: who leaves one world through it enters the other.

    Args:
        door_a, door_b: World from door frame, rigid: origin on the threshold, x right, y down, z into the door's own
            world, as of a camera that stands in the doorway and looks in.
        ratio: Width of door `a` over width of door `b`, by which `b` is scaled.

    Raises:
        GeometryError: if a frame is not rigid or the ratio is not positive.
    """
    for name, frame in (("a", door_a), ("b", door_b)):
        if abs(float(torch.det(similarity(frame)[:3, :3])) - 1) > 1e-6:
            raise GeometryError(f"the frame of door {name} is not rigid; give widths by ratio")
    turn = rotation_about(torch.tensor([0.0, 1.0, 0.0]), 180.0, torch.zeros(3))
    return door_a.double() @ turn @ scaling_about(ratio, torch.zeros(3)) @ torch.linalg.inv(door_b.double())


def rotation_about(axis: Float[Tensor, "3"], degrees: float, about: Float[Tensor, "3"]) -> Float[Tensor, "4 4"]:
    """World from world: a turn about the line through `about` along `axis`, right-handed.

    Raises:
        GeometryError: if the axis has no length.
    """
    length = axis.double().norm()
    if not float(length) > 0:
        raise GeometryError("a rotation needs an axis that is not zero")
    R = se3.axis_angle(axis.double() / length, torch.tensor(math.radians(degrees), dtype=torch.float64))
    return se3.make_transform(R, about.double() - R @ about.double())


def scaling_about(factor: float, about: Float[Tensor, "3"]) -> Float[Tensor, "4 4"]:
    """World from world: `factor` times as far from `about`.

    Raises:
        GeometryError: unless the factor is positive and finite.
    """
    if not 0 < factor < math.inf:
        raise GeometryError(f"factor {factor}: expected more than 0")
    return se3.make_transform(factor * torch.eye(3, dtype=torch.float64), (1 - factor) * about.double())


def similarity(G: Float[Tensor, "4 4"]) -> Float[Tensor, "4 4"]:
    """The transform in float64, refused unless it is rigid or a similarity `[a R | b]`."""
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


@dataclass(frozen=True)
class _Part:
    """A group, or what a mask leaves of one, with its rows of the store's columns."""

    group: Group
    points: Float[Tensor, "q 3"]
    radii: Float[Tensor, "q"]
    patch_ids: Tensor

    def moved(self, G: Float[Tensor, "4 4"]) -> _Part:
        group = replace(self.group, world_from_cam=G @ self.group.world_from_cam)
        return _Part(group, *patch_points(group))  # anew, so that many moves round no more than one

    def only(self, rows: Bool[Tensor, "q"]) -> _Part:
        m, n = self.group.keyframe.tokens
        mask = torch.zeros(m * n, dtype=torch.bool)
        mask[self.patch_ids[rows].long()] = True
        group = replace(self.group, mask=mask.reshape(m, n))
        return _Part(group, self.points[rows], self.radii[rows], self.patch_ids[rows])


def _part(store: PatchStore, g: int) -> _Part:
    rows = slice(store.offsets[g], store.offsets[g + 1])
    return _Part(store.group(g), store.centers[rows], store.radii[rows], store.patch_ids[rows])


def _touched(store: PatchStore, selection: Select) -> Iterator[tuple[_Part, bool]]:
    mask = selection(store)
    for g in range(len(store)):
        part = _part(store, g)
        yield part, bool(mask[store.offsets[g] : store.offsets[g + 1]].any())


def _split(store: PatchStore, selection: Select) -> Iterator[tuple[_Part | None, _Part | None]]:
    """Of every group the selected part and the rest; None for a part without patches. Whole groups stay as they are."""
    mask = selection(store)
    offsets = store.offsets
    for g in range(len(store)):
        part, rows = _part(store, g), mask[offsets[g] : offsets[g + 1]]
        if not bool(rows.any()):
            yield None, part
        elif bool(rows.all()):
            yield part, None
        else:
            yield part.only(rows), part.only(~rows)


def _edited(store: PatchStore, selection: Select, edit: Callable[[_Part], _Part]) -> PatchStore:
    """The store with its selected patches put through `edit`."""
    parts: list[_Part] = []
    uid = _next_uid(store)
    for chosen, rest in _split(store, selection):
        if rest is not None:
            parts.append(rest)
        if chosen is not None:
            done = edit(chosen)
            if rest is not None:
                done = replace(done, group=replace(done.group, uid=uid))
                uid += 1
            parts.append(done)
    return _store(sorted(parts, key=lambda part: part.group.uid))


def _store(parts: Iterable[_Part]) -> PatchStore:
    """Of what was not moved, nothing is computed and no content read (but for the first frame's, the world's scale)."""
    parts = list(parts)
    if not parts:
        return PatchStore.empty()
    return PatchStore.from_columns(
        [part.group for part in parts],
        torch.cat([part.points for part in parts]),
        torch.cat([part.radii for part in parts]),
        torch.cat([part.patch_ids.long() for part in parts]),
        [0, *itertools.accumulate(len(part.points) for part in parts)],
    )


def _flipped(keyframe: Keyframe, flip: Callable[[Tensor], Tensor]) -> Keyframe:
    camera = keyframe.camera
    Ks = camera.Ks.clone()
    Ks[:, 0, 2] = camera.width - Ks[:, 0, 2]
    return Keyframe(
        latents=flip(keyframe.latents[None])[0],
        depth=keyframe.depth.flip(-1),
        valid=keyframe.valid.flip(-1),
        confidence=keyframe.confidence.flip(-1),
        camera=Cameras(camera.viewmats, Ks, camera.width, camera.height),
        stride=keyframe.stride,
        patch=keyframe.patch,
        frame=keyframe.frame,
        time=keyframe.time,
        origin=keyframe.origin,
    )


def _next_uid(store: PatchStore) -> int:
    return store.group(len(store) - 1).uid + 1 if len(store) else 0
