"""`Scan`: posed pictures of a place that another program left in a folder, with the depth there is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from mosaicmem._shapes import Float, Tensor, UInt8
from mosaicmem.errors import InputError
from mosaicmem.geometry.cameras import Cameras
from mosaicmem.io.imports.lens import Lens, Picture
from mosaicmem.io.imports.sparse import dense_depth, sparse_depth, unhidden
from mosaicmem.io.trajectories import Trajectory

DepthKind = Literal["maps", "points", "none"]
_SHAPE_TOLERANCE = 0.02


@dataclass(frozen=True)
class Points:
    """World positions `[p 3]` for one picture, and whether it is known to see all of them."""

    xyz: Float[Tensor, "p 3"]
    seen: bool


@dataclass(frozen=True)
class Scan:
    """`n` pictures with cameras. Nothing is read before it is asked for.

    Attributes:
        path: Where it lies.
        kind: Whose layout it is.
        trajectory: A camera for each picture, with its lens.
        picture: Gives `[H W 3]` pixels as they lie in the file.
        maps: Gives z-depth `[h w]` in world units, 0 = unknown, or None for a picture without; None if there are no
            depth maps at all.
        points: Gives the sparse points that a picture may see; None if there are none.
        mask: Gives `[h w]` pixels, 0 where a picture is to be left out, or None.
        use: Which depth `read` gives.
        step: Pixels of a block that share one depth where it comes from points.
    """

    path: Path
    kind: str
    trajectory: Trajectory
    picture: Callable[[int], Picture]
    maps: Callable[[int], NDArray[np.float32] | None] | None = None
    points: Callable[[int], Points] | None = None
    mask: Callable[[int], NDArray[np.uint8] | None] | None = None
    use: DepthKind = "none"
    step: int = 4

    def __len__(self) -> int:
        return len(self.trajectory)

    @property
    def available(self) -> tuple[DepthKind, ...]:
        """Depth that this scan has, best first."""
        return (*(("maps",) if self.maps else ()), *(("points",) if self.points else ()))

    @property
    def cameras(self) -> Cameras:
        """The pinhole cameras of the pictures without distortion, float64, at the size their intrinsics belong to.

        Raises:
            InputError: if the file has no intrinsics, or no image size.
        """
        return self._cameras

    @cached_property
    def _cameras(self) -> Cameras:
        trajectory = self.trajectory
        if trajectory.Ks is None or trajectory.width is None:
            raise InputError(
                f"{trajectory.source}: no intrinsics or no image size in it; expected both beside the poses"
            )
        return replace(trajectory, fisheye=False, distortion=None).cameras(dtype=torch.float64)

    @property
    def timestamps(self) -> Float[Tensor, " n"]:
        """Seconds, float64."""
        return self.trajectory.timestamps

    def using(self, use: DepthKind, step: int) -> Scan:
        """The same scan with another kind of depth."""
        return replace(self, use=use, step=step)

    def read(self, index: int, width: int, height: int) -> tuple[Float[Tensor, "3 H W"], Float[Tensor, "H W"]]:
        """Colour in [-1, 1] and z-depth in world units, 0 = unknown, of one picture at a size.

        Raises:
            InputError: if a file is missing, broken, or of another shape than its camera; the message names it.
        """
        rgb = torch.from_numpy(self.read_pixels(index, width, height)).permute(2, 0, 1).float() / 127.5 - 1
        depth = torch.zeros(height, width)
        if self.use == "maps" and self.maps is not None:
            found = self.maps(index)
            if found is not None:
                self._check_shape(index, found.shape[1], found.shape[0], "depth")
                depth = torch.from_numpy(self._lens(index).nearest(found, width, height).astype(np.float32))
        elif self.use == "points":
            depth = dense_depth(*self._seen(index, width, height), width, height, self.step)
        mask = None if self.mask is None else self.mask(index)
        if mask is not None:
            kept = torch.from_numpy(self._lens(index).nearest(mask, width, height).astype(bool))
            depth = torch.where(kept, depth, 0.0)
        return rgb, depth

    def read_pixels(self, index: int, width: int, height: int) -> UInt8[np.ndarray, "H W 3"]:
        """Colour of one picture at a size, without distortion."""
        pixels = self.picture(index)
        self._check_shape(index, pixels.shape[1], pixels.shape[0], "picture")
        return self._lens(index).picture(pixels, width, height)

    def read_sparse(self, index: int, width: int, height: int) -> Float[Tensor, "H W"]:
        """Depth at the pixels that show a point, 0 elsewhere: what an estimate is brought to scale by."""
        return sparse_depth(*self._seen(index, width, height), width, height)

    def _seen(self, index: int, width: int, height: int) -> tuple[Tensor, Tensor]:
        """Pixels and z-depth of the points that a picture sees."""
        if self.points is None:
            return torch.zeros(0, 2, dtype=torch.float64), torch.zeros(0, dtype=torch.float64)
        points = self.points(index)
        uv, z, _ = self.cameras[index].resized(width, height).project(points.xyz.double()[None])
        uv, z = uv[0], z[0]
        if not points.seen:
            kept = unhidden(uv, z, width, height)
            uv, z = uv[kept], z[kept]
        return uv, z

    def _lens(self, index: int) -> Lens:
        K, trajectory = self.cameras.Ks[index], self.trajectory
        bent = (0.0,) * 4 if trajectory.distortion is None else tuple(trajectory.distortion[index].tolist())
        fx, fy, cx, cy = (float(K[i, j]) for i, j in ((0, 0), (1, 1), (0, 2), (1, 2)))
        size = (self.cameras.width, self.cameras.height)
        return Lens(fx, fy, cx, cy, *size, (bent[0], bent[1], bent[2], bent[3]), trajectory.fisheye)

    def _check_shape(self, index: int, width: int, height: int, what: str) -> None:
        own = (self.cameras.width, self.cameras.height)
        if abs(width * own[1] / (height * own[0]) - 1) > _SHAPE_TOLERANCE:
            names = self.trajectory.names
            name = names[index] if names else f"frame {index}"
            raise InputError(
                f"{self.path}: {what} of {name} has {width}x{height} pixels, its camera "
                f"{own[0]}x{own[1]}; expected the same shape. Are these the pictures of this reconstruction?"
            )


def existing_picture(path: Path, hint: str) -> Path:
    """`path`, if there is such a file.

    Raises:
        InputError: with `hint`, which says what would help.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such picture; {hint}")
    return path
