"""What a world holds as coloured points, each with the picture that shows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch

from mosaicmem._shapes import Float, Int, UInt8
from mosaicmem.geometry.projection import pixel_centers, unproject
from mosaicmem.geometry.se3 import transform_points
from mosaicmem.io.exports.shots import ExportOptions, Shot, to_u8
from mosaicmem.memory.patches import patch_points


@dataclass(frozen=True)
class Cloud:
    """`n` points, those of one picture together.

    Attributes:
        xyz: World positions.
        rgb: Mean colour of what the point stands for.
        uv: Where its picture shows it, pixels.
        shot: Number of that picture.
        frame: Index of the raw frame.
        patch: Row-major patch number in the frame.
        confidence: Of its depth, in [0, 1].
    """

    xyz: Float[np.ndarray, "n 3"]
    rgb: UInt8[np.ndarray, "n 3"]
    uv: Float[np.ndarray, "n 2"]
    shot: Int[np.ndarray, "n"]
    frame: Int[np.ndarray, "n"]
    patch: Int[np.ndarray, "n"]
    confidence: Float[np.ndarray, "n"]

    def __len__(self) -> int:
        return len(self.xyz)

    @staticmethod
    def cat(parts: Sequence[Cloud]) -> Cloud:
        """All points, in order."""
        if not parts:
            none = np.zeros(0, np.int64)
            return Cloud(np.zeros((0, 3)), np.zeros((0, 3), np.uint8), np.zeros((0, 2)), none, none, none, np.zeros(0))
        return Cloud(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Cloud)))

    def thinned(self, voxel: float) -> Cloud:
        """The first point of each voxel of this edge, world units; 0 keeps all. The order is stable."""
        if not (voxel > 0 and len(self)):
            return self
        _, first = np.unique(np.floor(self.xyz / voxel).astype(np.int64), axis=0, return_index=True)
        first.sort()
        return Cloud(*(getattr(self, field.name)[first] for field in fields(Cloud)))

    def starts(self, shots: int) -> list[int]:
        """`[shots + 1]`: points of picture `i` are rows `starts[i]` to `starts[i + 1]`."""
        return np.searchsorted(self.shot, np.arange(shots + 1)).tolist()


def cloud_of(shot: Shot, number: int, options: ExportOptions) -> Cloud:
    """The points of one picture, not thinned."""
    group, key = shot.group, shot.group.keyframe
    valid, p = group.valid, key.patch
    (h, w), (_, n) = key.cells, key.tokens
    row, column = valid.nonzero().unbind(-1)
    patch = (row // p) * n + column // p
    colors, confidence = shot.cell_colors[valid].double(), key.confidence[valid].double()
    if options.points == "cells":
        uv = pixel_centers(w, h, stride=key.stride, dtype=torch.float64)[valid]
        local = unproject(uv[None], key.depth.double()[valid][None], key.camera.Ks.double())
        xyz = transform_points(group.world_from_cam.double()[None], local)[0]
    else:
        points, _, index = patch_points(group)
        xyz, size = points.double(), p * key.stride
        uv = torch.stack([(index % n).double() + 0.5, (index // n).double() + 0.5], -1) * size
        # a patch looks like those of its cells that can be read, which its point lies among
        place = torch.searchsorted(index, patch)
        share = torch.bincount(place, minlength=len(index)).double()
        colors = torch.zeros(len(index), 3, dtype=torch.float64).index_add_(0, place, colors) / share[:, None]
        confidence = torch.zeros(len(index), dtype=torch.float64).index_add_(0, place, confidence) / share
        patch = index
    many = len(patch)
    return Cloud(
        xyz.numpy(),
        to_u8(colors).numpy(),
        uv.numpy(),
        np.full(many, number),
        np.full(many, key.frame),
        patch.numpy(),
        confidence.numpy(),
    )
