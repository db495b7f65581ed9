"""`Trajectory`: a camera path as a file holds it, before a size or a field of view has to be chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from mosaicmem._shapes import Float, Tensor
from mosaicmem.errors import InputError
from mosaicmem.geometry import se3
from mosaicmem.geometry.cameras import DEFAULT_FOV_DEGREES, Cameras


@dataclass(frozen=True)
class Trajectory:
    """`n` camera poses with whatever else their file says; nothing is invented.

    Attributes:
        viewmats: float64 camera-from-world, OpenCV axes, world units.
        Ks: Intrinsics in pixels of a `width x height` image, centre of pixel (0, 0) at (0.5, 0.5), zero skew; `None`
            where the file has none. A file with normalised intrinsics and no size is one whose image is 1x1.
        timestamps: Seconds.
        nominal_time: The file has no time; `timestamps` are `i / fps`.
        width, height: Size of the image that `Ks` belong to; `None` where unknown.
        names: Image name of each pose.
        metric: World units are metres: true, false, or `None` for unknown.
        assumed: What the reader had to assume because the file does not say it.
        source: Format and file, for messages.
        distortion: OpenCV coefficients `k1 k2 p1 p2` (with `fisheye`: `k1 k2 k3 k4`) of each pose.
        fisheye: The projection is OpenCV's fisheye model, not a pinhole.
        extra: Top-level keys of our own JSON that this version does not know.
    """

    viewmats: Float[Tensor, "n 4 4"]
    Ks: Float[Tensor, "n 3 3"] | None
    timestamps: Float[Tensor, " n"]
    nominal_time: bool = True
    width: int | None = None
    height: int | None = None
    names: tuple[str, ...] | None = None
    metric: bool | None = None
    assumed: tuple[str, ...] = ()
    source: str = "memory"
    distortion: Float[Tensor, "n 4"] | None = None
    fisheye: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict)

    @staticmethod
    def from_cameras(
        cameras: Cameras,
        timestamps: Float[Tensor, " n"] | None = None,
        *,
        fps: float = 16.0,
        metric: bool | None = None,
    ) -> Trajectory:
        """A trajectory of our cameras, ready to be written."""
        nominal = timestamps is None
        time = torch.arange(len(cameras), dtype=torch.float64) / fps if timestamps is None else timestamps.double()
        return Trajectory(
            cameras.viewmats.double().cpu(),
            cameras.Ks.double().cpu(),
            time.cpu(),
            nominal_time=nominal,
            width=cameras.width,
            height=cameras.height,
            metric=metric,
        )

    def __len__(self) -> int:
        return self.viewmats.shape[0]

    def __getitem__(self, index: int | slice | Sequence[int]) -> Trajectory:
        """A sub-sequence; an integer gives a trajectory of one pose."""
        if isinstance(index, int):
            index = [index]
        rows = torch.arange(len(self))[index if isinstance(index, slice) else list(index)]
        return replace(
            self,
            viewmats=self.viewmats[rows],
            Ks=None if self.Ks is None else self.Ks[rows],
            timestamps=self.timestamps[rows],
            names=None if self.names is None else tuple(self.names[i] for i in rows.tolist()),
            distortion=None if self.distortion is None else self.distortion[rows],
        )

    @property
    def c2w(self) -> Float[Tensor, "n 4 4"]:
        """World-from-camera matrices."""
        return se3.invert_rigid(self.viewmats)

    @property
    def centers(self) -> Float[Tensor, "n 3"]:
        """Camera centres in the world."""
        return self.c2w[:, :3, 3]

    @property
    def normalised(self) -> bool:
        """The intrinsics are those of a 1x1 image, because the file has no size."""
        return self.Ks is not None and (self.width, self.height) == (1, 1)

    def with_intrinsics(self, Ks: Float[Tensor, "n 3 3"], width: int, height: int) -> Trajectory:
        """The same path behind other intrinsics; distortion is dropped."""
        return replace(self, Ks=Ks.double(), width=width, height=height, distortion=None, fisheye=False)

    def cameras(
        self,
        width: int | None = None,
        height: int | None = None,
        fov_degrees: float | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Cameras:
        """Pinhole cameras for images of `width x height`.

        Args:
            width, height: Size in pixels; both or neither. Without them the file's own size is used.
            fov_degrees: Horizontal field of view, with square pixels; replaces the file's intrinsics.
            dtype: Of the cameras.

        Raises:
            InputError: if a size is needed and unknown, or the lens is a fisheye.
        """
        if (width is None) != (height is None):
            raise InputError(f"{self.source}: give both width and height, or neither")
        own_size = None if self.width is None or self.height is None or self.normalised else (self.width, self.height)
        size = own_size if width is None or height is None else (width, height)
        if size is None:
            raise InputError(f"{self.source}: holds no image size, so one is needed: cameras(width, height)")
        if self.Ks is None or fov_degrees is not None:
            fov = DEFAULT_FOV_DEGREES if fov_degrees is None else fov_degrees
            if not 0 < fov < 180:
                raise InputError(f"{self.source}: fov_degrees is {fov}, expected between 0 and 180")
            return Cameras.from_fov(self.viewmats.to(dtype), *size, fov_degrees=fov)
        if self.fisheye:
            raise InputError(f"{self.source}: a fisheye lens, expected a pinhole; undistort the images first")
        if self.width is None or self.height is None:
            guess = f"{2 * float(self.Ks[0, 0, 2]):.0f}x{2 * float(self.Ks[0, 1, 2]):.0f}"
            raise InputError(
                f"{self.source}: the file does not say which image size its intrinsics belong to; they look like "
                f"{guess}. Read it with size=(width, height)"
            )
        own = Cameras(self.viewmats.to(dtype), self.Ks.to(dtype), self.width, self.height)
        return own.resized(*size)
