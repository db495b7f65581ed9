"""What leaves a world: each group that holds, as the picture that a camera would take of it where it lies now.

An edit moves a group together with the camera that saw it, so a moved thing is a picture from a moved camera, in which
its pixels are where they were: what a reader of the export reconstructs is the edited world. A group that is part of a
frame shows that part alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from mosaicmem._shapes import Bool, Float, Tensor, UInt8
from mosaicmem.errors import InputError, refuse
from mosaicmem.geometry import se3
from mosaicmem.geometry.cameras import Cameras
from mosaicmem.io.trajectories.trajectory import Trajectory
from mosaicmem.memory.patches import Group
from mosaicmem.memory.selection import holds
from mosaicmem.memory.store import PatchStore

Decode = Callable[[Float[Tensor, "n c h w"]], Float[Tensor, "n 3 H W"]]
"""From latents to frames in [-1, 1]: `decode_image` of the autoencoder that the latents belong to."""


@dataclass(frozen=True)
class ExportOptions:
    """What of a world leaves it, and how.

    Attributes:
        points: One point a readable `cells`, or one a patch (`patches`), as retrieval sees them.
        voxel_size: One point is kept per voxel of this edge, world units; 0 keeps all.
        at: The world as it was at this second; None as it is.
        ascii: Text, where a format knows text and binary.
        metric: Whether a world unit is a metre; None = unknown.
        overwrite: Whether files that exist are replaced.
    """

    points: Literal["cells", "patches"] = "cells"
    voxel_size: float = 0.0
    at: float | None = None
    ascii: bool = False
    metric: bool | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        bad = not 0 <= self.voxel_size < math.inf
        refuse((bad, f"voxel_size = {self.voxel_size:g}: expected 0 (keep all points) or more, world units"))


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        pictures: Pictures, each with a camera; 0 where the format holds none.
        points: Points.
        notes: What whoever reads the files should know.
    """

    pictures: int
    points: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Shot:
    """A group as a picture.

    Attributes:
        group: What is shown.
        camera: Where the group lies now, a sequence of one, float64.
        frame: The picture, in [-1, 1]; all of the keyframe, whatever the group shows of it.
        scale: Units of the world to one of the keyframe's depth.
    """

    group: Group
    camera: Cameras
    frame: Float[Tensor, "3 H W"]
    scale: float

    @property
    def shown(self) -> Bool[np.ndarray, "H W"]:
        """Pixels that belong to the group."""
        mask, key = self.group.mask, self.group.keyframe
        if mask is None:
            return np.ones((self.camera.height, self.camera.width), bool)
        return _enlarged(mask.numpy(), key.patch * key.stride)

    @property
    def picture(self) -> UInt8[np.ndarray, "H W 3"]:
        """The picture; black where the group shows nothing."""
        picture = to_u8(self.frame.movedim(0, -1)).numpy()
        return picture if self.group.mask is None else picture * self.shown[..., None]

    @property
    def cell_depth(self) -> Float[np.ndarray, "h w"]:
        """z-depth at cell centres, world units; 0 where the group cannot be read."""
        return (self.group.keyframe.depth.double() * self.scale * self.group.valid).numpy()

    @property
    def depth(self) -> Float[np.ndarray, "H W"]:
        """z-depth of every pixel, that of its cell."""
        return _enlarged(self.cell_depth, self.group.keyframe.stride)

    @property
    def cell_colors(self) -> Float[Tensor, "h w 3"]:
        """Mean colour of every cell, in [-1, 1]."""
        return torch.nn.functional.avg_pool2d(self.frame[None], self.group.keyframe.stride)[0].movedim(0, -1)


def held(store: PatchStore, at: float | None = None) -> list[Group]:
    """The groups that hold at a second, or now.

    Raises:
        InputError: if none does, or their frames have several sizes.
    """
    found = [group for group in store if holds(group, at)]
    if not found:
        when = "now" if at is None else f"at {at:g} s"
        raise InputError(f"nothing to export: of {len(store)} groups of the world none holds {when}")
    sizes = {(group.keyframe.camera.width, group.keyframe.camera.height) for group in found}
    if len(sizes) > 1:
        raise InputError(f"the world's frames have {len(sizes)} sizes, {sorted(sizes)[:4]}; expected one to export")
    return found


def shots(groups: Iterable[Group], decode: Decode | None) -> Iterator[Shot]:
    """One picture at a time, so that a large world needs hardly more room than a small one; grey without a decoder."""
    for group in groups:
        camera, scale = camera_now(group)
        if decode is None:
            frame = torch.zeros(3, camera.height, camera.width)
        else:
            frame = decode(group.keyframe.latents[None].float())[0].float()
        yield Shot(group, camera, frame, scale)


def camera_now(group: Group) -> tuple[Cameras, float]:
    """The camera that saw a group, float64, where the group lies now, and the group's scale there.

    A similarity `[a R | c]` shows what the rigid camera `[R | c]` shows with depths `a` times as large.
    """
    placed = group.world_from_cam.double()
    scale = float(torch.linalg.det(placed[:3, :3]) ** (1 / 3))
    viewmat = se3.invert_rigid(se3.make_transform(placed[:3, :3] / scale, placed[:3, 3]))
    own = group.keyframe.camera
    return replace(own, viewmats=viewmat[None], Ks=own.Ks.double()), scale


def trajectory_of(groups: Sequence[Group], pattern: str, metric: bool | None) -> Trajectory:
    """The cameras of groups where they lie now, with their times; names are `pattern` with the number filled in."""
    cameras = Cameras.cat([camera_now(group)[0] for group in groups])
    times = torch.tensor([group.keyframe.time for group in groups], dtype=torch.float64)
    names = tuple(pattern.format(i) for i in range(len(groups)))
    return replace(Trajectory.from_cameras(cameras, times, metric=metric), names=names)


def to_u8(values: Tensor) -> Tensor:
    """[-1, 1] as bytes, rounded."""
    return ((values.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def _enlarged(values: NDArray, factor: int) -> NDArray:
    return values.repeat(factor, 0).repeat(factor, 1)
