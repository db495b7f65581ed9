"""`Cameras`: what every part of the library agrees a camera is.

OpenCV axes (x right, y down, z forward), `viewmats` = camera from world, `Ks` in pixels with pixel (0, 0) centred
at (0.5, 0.5). Other conventions are converted in `mosaicmem.io` and nowhere else.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, SupportsIndex

import torch

from mosaicmem._shapes import Bool, Float, Tensor
from mosaicmem.errors import GeometryError
from mosaicmem.geometry import se3
from mosaicmem.geometry.projection import fov_to_focal, in_image, invert_intrinsics, project, unproject

DEFAULT_FOV_DEGREES = 53.13010235415598  # f = W, the predecessor's preset


@dataclass(frozen=True)
class Cameras:
    """`n` pinhole cameras that share an image size.

    Attributes:
        viewmats: `[n 4 4]` rigid camera-from-world transforms, world units.
        Ks: `[n 3 3]` skew-free intrinsics, pixels.
        width, height: Image size, pixels.

    Raises:
        GeometryError: on non-finite numbers, an upper block that is no rotation (determinant -1 included), a last
            row other than `0 0 0 1`, a focal length that is not positive, a skew, or an empty image.
    """

    viewmats: Float[Tensor, "n 4 4"]
    Ks: Float[Tensor, "n 3 3"]
    width: int
    height: int

    def __post_init__(self) -> None:
        problem = _problem(self.viewmats, self.Ks, self.width, self.height)
        if problem:
            raise GeometryError(problem)

    @staticmethod
    def from_c2w(c2w: Float[Tensor, "n 4 4"], Ks: Float[Tensor, "n 3 3"], width: int, height: int) -> Cameras:
        """From world-from-camera matrices."""
        return Cameras(se3.invert_rigid(c2w), Ks, width, height)

    @staticmethod
    def from_fov(
        viewmats: Float[Tensor, "n 4 4"],
        width: int,
        height: int,
        fov_degrees: float = DEFAULT_FOV_DEGREES,
        axis: Literal["x", "y"] = "x",
    ) -> Cameras:
        """Square pixels, centred principal point, `fov_degrees` across the width (`x`) or height (`y`)."""
        f = fov_to_focal(fov_degrees, width if axis == "x" else height)
        K = torch.tensor([[f, 0, width / 2], [0, f, height / 2], [0, 0, 1]], dtype=viewmats.dtype)
        return Cameras(viewmats, K.to(viewmats.device).expand(len(viewmats), 3, 3).clone(), width, height)

    def __len__(self) -> int:
        return self.viewmats.shape[0]

    def __getitem__(self, index: SupportsIndex | slice | Sequence[int] | Sequence[bool] | Tensor) -> Cameras:
        """A sub-sequence: what a list would give for an integer (as a sequence of one) or a slice, and what a tensor
        would give for indices or a boolean mask.

        Raises:
            IndexError: for an index outside the sequence or a mask of another length.
        """
        if not isinstance(index, slice):
            index = _rows(index, len(self)).to(self.viewmats.device)
        return _trusted(self.viewmats[index], self.Ks[index], self.width, self.height)

    def __iter__(self) -> Iterator[Cameras]:
        return (self[i] for i in range(len(self)))

    @property
    def c2w(self) -> Float[Tensor, "n 4 4"]:
        """World-from-camera matrices."""
        return se3.invert_rigid(self.viewmats)

    @property
    def centers(self) -> Float[Tensor, "n 3"]:
        """Camera centres in the world."""
        return self.c2w[:, :3, 3]

    @property
    def forward(self) -> Float[Tensor, "n 3"]:
        """Unit viewing directions in the world."""
        return self.viewmats[:, 2, :3]

    @property
    def right(self) -> Float[Tensor, "n 3"]:
        """Unit directions of image +u in the world."""
        return self.viewmats[:, 0, :3]

    @property
    def up(self) -> Float[Tensor, "n 3"]:
        """Unit directions of image -v in the world."""
        return -self.viewmats[:, 1, :3]

    @property
    def fov_degrees(self) -> Float[Tensor, "n 2"]:
        """Horizontal and vertical field of view, in degrees."""
        size = torch.tensor([self.width, self.height], dtype=self.Ks.dtype, device=self.Ks.device)
        f = torch.stack([self.Ks[:, 0, 0], self.Ks[:, 1, 1]], -1)
        return torch.rad2deg(2 * torch.atan(size / 2 / f))

    def project(
        self, points: Float[Tensor, "n p 3"]
    ) -> tuple[Float[Tensor, "n p 2"], Float[Tensor, "n p"], Bool[Tensor, "n p"]]:
        """Pixels, z-depth, and whether each world point is in front of its camera and inside its image."""
        uv, z = project(se3.transform_points(self.viewmats, points), self.Ks)
        return uv, z, (z > 0) & in_image(uv, self.width, self.height)

    def unproject(self, uv: Float[Tensor, "n p 2"], depth: Float[Tensor, "n p"]) -> Float[Tensor, "n p 3"]:
        """World points at z-depth `depth` behind pixels `uv`."""
        return se3.transform_points(self.c2w, unproject(uv, depth, self.Ks))

    def resized(self, width: int, height: int) -> Cameras:
        """The same cameras behind an image of another size: focal length and centre scale exactly."""
        scale = torch.tensor(
            [width / self.width, height / self.height, 1.0], dtype=self.Ks.dtype, device=self.Ks.device
        )
        return replace(self, Ks=scale[:, None] * self.Ks, width=width, height=height)

    def recentred(self, world_from_ref: Float[Tensor, "4 4"] | None = None) -> Cameras:
        """Express all cameras in the frame of a reference camera, the first by default (`T <- T T_ref^-1`)."""
        if world_from_ref is None:
            world_from_ref = self.c2w[0]
        return replace(self, viewmats=self.viewmats @ world_from_ref)

    def scaled(self, factor: float) -> Cameras:
        """Multiply all translations by `factor` > 0 (a change of the world's unit)."""
        if not (math.isfinite(factor) and factor > 0):
            raise GeometryError(f"scale factor {factor} is no change of unit; expected a finite number above 0")
        viewmats = self.viewmats.clone()
        viewmats[:, :3, 3] *= factor
        return replace(self, viewmats=viewmats)

    def to(self, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Cameras:
        """Change dtype or device."""
        return _trusted(self.viewmats.to(device, dtype), self.Ks.to(device, dtype), self.width, self.height)

    @staticmethod
    def cat(parts: Sequence[Cameras]) -> Cameras:
        """Concatenate along the sequence; image sizes must agree."""
        if not parts:
            raise GeometryError("Cameras.cat got no cameras; expected at least one sequence")
        sizes = {(p.width, p.height) for p in parts}
        if len(sizes) != 1:
            raise GeometryError(
                f"cameras of one sequence must share an image size, got {sorted(sizes)}; use .resized()"
            )
        first = parts[0]
        viewmats, Ks = torch.cat([p.viewmats for p in parts]), torch.cat([p.Ks for p in parts])
        return _trusted(viewmats, Ks, first.width, first.height)

    def invert_Ks(self) -> Float[Tensor, "n 3 3"]:
        """Inverse intrinsics."""
        return invert_intrinsics(self.Ks)

    def relative_to(self, index: int) -> Float[Tensor, "n 4 4"]:
        """`cam_i from cam_index` for every camera `i`."""
        return self.viewmats @ self.c2w[index]

    def path_length(self) -> float:
        """Sum of distances between consecutive centres, world units."""
        return float(self.centers.diff(dim=0).norm(dim=-1).sum())


def look_at(
    eye: Float[Tensor, "*#b 3"], target: Float[Tensor, "*#b 3"], up: Float[Tensor, "*#b 3"]
) -> Float[Tensor, "*b 4 4"]:
    """View matrix of a camera at `eye` looking at `target`, image up along `up` (the *world's* up direction).

    Where the view is parallel to `up` any roll would do; the world axis least aligned with the view takes its place.

    Raises:
        GeometryError: if `eye` and `target` coincide.
    """
    eye, target, up = torch.broadcast_tensors(eye, target, up)
    z = target - eye
    if bool((z.norm(dim=-1) < 1e-12).any()):
        raise GeometryError("look_at: eye and target coincide, so there is no direction to look in")
    z = torch.nn.functional.normalize(z, dim=-1)
    fallback = torch.nn.functional.one_hot(z.abs().argmin(-1), 3).to(z)
    parallel = torch.linalg.cross(z, torch.nn.functional.normalize(up, dim=-1)).norm(dim=-1, keepdim=True) < 1e-6
    x = torch.nn.functional.normalize(torch.linalg.cross(z, torch.where(parallel, fallback, up)), dim=-1)
    y = torch.linalg.cross(z, x)
    R = torch.stack([x, y, z], dim=-2)
    return se3.make_transform(R, -(R @ eye[..., None]).squeeze(-1))


def _trusted(viewmats: Tensor, Ks: Tensor, width: int, height: int) -> Cameras:
    """Cameras made of parts of cameras that were checked before: the check is not repeated, for speed."""
    cameras = object.__new__(Cameras)
    for name, value in (("viewmats", viewmats), ("Ks", Ks), ("width", width), ("height", height)):
        object.__setattr__(cameras, name, value)
    return cameras


def _problem(viewmats: Tensor, Ks: Tensor, width: int, height: int) -> str | None:
    if width < 1 or height < 1:
        return f"image size {width}x{height} is empty; expected at least 1x1 pixels"
    if viewmats.ndim != 3 or Ks.ndim != 3 or viewmats.shape[1:] != (4, 4) or Ks.shape[1:] != (3, 3):
        return f"viewmats {list(viewmats.shape)} and Ks {list(Ks.shape)}; expected [n, 4, 4] and [n, 3, 3]"
    if len(viewmats) != len(Ks):
        return f"{len(viewmats)} view matrices but {len(Ks)} intrinsics; expected one K per camera"
    if viewmats.device.type == "meta":
        return None
    if not bool(viewmats.isfinite().all() & Ks.isfinite().all()):
        return "view matrices or intrinsics contain NaN or infinity"
    R = viewmats[:, :3, :3].double()
    error = (R @ R.transpose(-1, -2) - torch.eye(3, dtype=R.dtype, device=R.device)).abs().amax((-1, -2))
    if len(R) and float(error.max()) > 1e-3:
        return (
            f"view matrix {int(error.argmax())} holds no rotation: |R R^T - 1| = {float(error.max()):.2g}, expected "
            "below 1e-3; is there a scale in it, or is it transposed?"
        )
    if len(R) and float(torch.det(R).min()) < 0:
        bad = int(torch.det(R).argmin())
        return f"view matrix {bad} is mirrored (determinant -1): it comes from a left-handed source"
    if len(R) and not bool((viewmats[:, 3] == viewmats.new_tensor([0, 0, 0, 1])).all()):
        return "the last row of a view matrix is not 0 0 0 1; is the matrix transposed?"
    if len(Ks) and float(torch.minimum(Ks[:, 0, 0], Ks[:, 1, 1]).min()) <= 0:
        return "a focal length is not positive; expected fx > 0 and fy > 0, in pixels"
    fixed = Ks.flatten(-2)[:, [1, 3, 6, 7, 8]]
    if len(Ks) and not bool((fixed == Ks.new_tensor([0, 0, 0, 0, 1])).all()):
        return "intrinsics are not of the form [[fx, 0, cx], [0, fy, cy], [0, 0, 1]]; skew is not supported"
    return None


def _rows(index: SupportsIndex | Sequence[int] | Sequence[bool] | Tensor, count: int) -> Tensor:
    """Row numbers behind an index; a boolean is refused where it would silently mean camera 0 or 1."""
    if isinstance(index, bool):
        raise IndexError("a single boolean is no camera index; expected an integer, a slice, indices or a mask")
    if not isinstance(index, (Sequence, Tensor)) and not hasattr(index, "__array__"):
        index = operator.index(index)
    rows = torch.as_tensor(index)
    if rows.numel() == 0:
        rows = rows.long()
    if rows.ndim > 1 or rows.is_floating_point():
        raise IndexError(f"cameras are indexed by integers or a mask, in one dimension; got {rows.dtype} {rows.ndim}D")
    if rows.dtype == torch.bool:
        if rows.shape != (count,):
            raise IndexError(f"a mask of {rows.numel()} values cannot select from {count} cameras")
        return rows.nonzero().squeeze(-1)
    rows = rows.long().reshape(-1)
    if rows.numel() and not (-count <= int(rows.min()) and int(rows.max()) < count):
        raise IndexError(f"camera index out of range: {rows.tolist()} in a sequence of {count}")
    return rows
