"""Did the camera go where it was told? Rotation and translation errors and CamMC between two trajectories.

Poses are world-from-camera. Every number depends on how the trajectories were aligned first; `Alignment` names it and
must stand beside the number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from mosaicmem._shapes import Bool, Float, Tensor
from mosaicmem.errors import ConfigError, GeometryError
from mosaicmem.geometry import se3

Alignment = Literal["first+lsq", "first+selfmax", "se3", "sim3"]
MIN_TRAVEL = 0.02
"""Share of the scene's scale below which a path counts as pure rotation, and its translation error as n/a."""
_MIN_SPREAD = 1e-2  # centres narrower than this share of their length lie on a line: Umeyama's rotation rolls about it


@dataclass(frozen=True)
class RelativeErrors:
    """Errors of the motion over `delta` poses, which do not accumulate: means, NaN where there is no such pair."""

    delta: int
    pairs: int
    rotation_degrees: float
    translation: float


@dataclass(frozen=True)
class CameraErrors:
    """Errors of one trajectory of `n` poses. NaN = not applicable or failed.

    Attributes:
        rotation_degrees: `[n]` angle between aligned generated and requested orientation.
        translation: `[n]` distance of aligned centres: as a share of the farthest requested centre from the first under
            `first+...`, in world units under `se3` and `sim3`. All NaN on a pure rotation.
        cammc: `[n]` Frobenius norm of the difference of the 3x4 poses.
        failed: `[n]` poses that no estimate exists for.
        scale: Factor that was applied to generated centres, in world units.
        relative: Per delta.
        alignment: What was aligned.
    """

    rotation_degrees: Float[Tensor, " n"]
    translation: Float[Tensor, " n"]
    cammc: Float[Tensor, " n"]
    failed: Bool[Tensor, " n"]
    scale: float
    relative: tuple[RelativeErrors, ...]
    alignment: Alignment

    @property
    def ate(self) -> float:
        """Root mean square of `translation`: the absolute trajectory error under `se3` and `sim3`."""
        return float(self.translation[~self.failed].square().mean().sqrt())

    def compute(self) -> dict[str, float]:
        """Means and sums over the poses that did not fail, and the means with failures at 180 degrees.

        `rotation_sum_radians` is the unit of CameraCtrl and CamI2V.
        """
        good = ~self.failed
        rotation, translation = self.rotation_degrees[good], self.translation[good]
        punished = torch.where(self.failed, torch.full_like(self.rotation_degrees, 180.0), self.rotation_degrees)
        values = {
            "rotation_mean_degrees": float(rotation.mean()),
            "rotation_sum_degrees": float(rotation.sum()),
            "rotation_sum_radians": math.radians(float(rotation.sum())),
            "rotation_mean_degrees_failures_180": float(punished.mean()),
            "translation_mean": float(translation.mean()),
            "translation_sum": float(translation.sum()),
            "cammc": float(self.cammc[good].sum()),
            "ate": self.ate,
            "poses": len(self.failed),
            "failures": int(self.failed.sum()),
        }
        for part in self.relative:
            values[f"relative_{part.delta}_rotation_degrees"] = part.rotation_degrees
            values[f"relative_{part.delta}_translation"] = part.translation
        return values


def camera_errors(
    generated: Float[Tensor, "n 4 4"],
    requested: Float[Tensor, "n 4 4"],
    *,
    alignment: Alignment = "first+lsq",
    scene_scale: float = 1.0,
    failed: Bool[Tensor, " n"] | None = None,
    deltas: Sequence[int] = (1, 10),
) -> CameraErrors:
    """Compare a generated with a requested trajectory of world-from-camera poses, in float64.

    `first+...` makes both relative to their first pose that did not fail. `lsq` then scales generated centres by
    `c = sum p_gt.p / sum |p|^2`, never below 0 (walking backwards is no walk forwards in another unit), and both by
    `max |p_gt|`; `selfmax` divides each by its own maximum (CamI2V's code; unstable under one outlier). `se3` and
    `sim3` fit all centres (Umeyama 1991). Angles are `se3.rotation_angle`'s, which keep small ones.

    Args:
        scene_scale: Typical depth, world units. Under `first+...`, a requested path that stays within 2 % of it has no
            translation error and no CamMC: both would be noise divided by nothing.
        failed: Poses without an estimate: left out of alignment, sums and means, and counted.
        deltas: Steps of the relative errors, in poses.

    Returns:
        On centres along a line, `se3` and `sim3` leave the roll about it free: rotation errors and CamMC are n/a there.

    Raises:
        GeometryError: on an upper block that is no rotation (determinant -1 included) or numbers that are not finite.
        ConfigError: on an unknown alignment or a delta below 1.
    """
    if alignment not in get_args(Alignment) or any(delta < 1 for delta in deltas):
        raise ConfigError(
            f"alignment {alignment!r}, deltas {list(deltas)}; expected one of {get_args(Alignment)}, 1 or more"
        )
    lost = torch.zeros(len(generated), dtype=torch.bool) if failed is None else failed
    gen, gt = generated.double(), requested.double()
    gen = torch.where(lost[:, None, None], gt, gen)  # what stands in a failed pose is never read below
    _check(gen, "generated")
    _check(gt, "requested")
    if not bool((~lost).any()):
        nothing = torch.full((len(gen),), math.nan, dtype=torch.float64)
        relative = tuple(RelativeErrors(d, 0, math.nan, math.nan) for d in deltas)
        return CameraErrors(nothing, nothing, nothing, lost, math.nan, relative, alignment)
    if alignment.startswith("first"):
        gen, gt, scale, unit = _align_first(gen, gt, ~lost, alignment, scene_scale)
        rolls = False
    else:
        gen, scale, rolls = _align_centres(gen, gt, ~lost, alignment == "sim3")
        unit = 1.0
    rotation = torch.rad2deg(se3.rotation_angle(gen[:, :3, :3], gt[:, :3, :3]))
    translation = (gen[:, :3, 3] - gt[:, :3, 3]).norm(dim=-1)
    cammc = (gen[:, :3] - gt[:, :3]).flatten(1).norm(dim=-1)
    na = torch.full_like(rotation, math.nan)
    rotation = torch.where(lost | rolls, na, rotation)
    translation = torch.where(lost | math.isnan(unit), na, translation)
    cammc = torch.where(rotation.isnan() | translation.isnan(), na, cammc)
    relative = tuple(_relative(gen, gt, ~lost, delta, math.isnan(unit)) for delta in deltas)
    return CameraErrors(rotation, translation, cammc, lost, scale, relative, alignment)


def umeyama(
    source: Float[Tensor, "n 3"], target: Float[Tensor, "n 3"], *, with_scale: bool
) -> tuple[Float[Tensor, "3 3"], Float[Tensor, " 3"], float, bool]:
    """Least-squares `target ~ s R source + t` over points (Umeyama 1991, Eqs. 38-42).

    Returns:
        R, t, s (1 unless `with_scale`), and whether R is unique: false where the points lie on a line.
    """
    mean_source, mean_target = source.mean(0), target.mean(0)
    a, b = source - mean_source, target - mean_target
    U, D, Vh = torch.linalg.svd(b.T @ a / len(a))
    flip = torch.ones_like(D)
    flip[2] = torch.det(U @ Vh).sign()
    R = (U * flip) @ Vh
    spread = float(a.square().sum()) / len(a)
    s = float((D * flip).sum()) / spread if with_scale and spread > 0 else 1.0
    unique = float(D[1]) > _MIN_SPREAD**2 * float(D[0])
    return R, mean_target - s * R @ mean_source, s, unique


def _align_first(
    gen: Tensor, gt: Tensor, good: Tensor, alignment: str, scene_scale: float
) -> tuple[Tensor, Tensor, float, float]:
    """Both relative to the first good pose and in shares of the path's reach; `unit` is NaN on a pure rotation."""
    first = int(good.long().argmax())
    gen, gt = se3.invert_rigid(gen[first]) @ gen, se3.invert_rigid(gt[first]) @ gt
    p, p_gt = gen[good, :3, 3], gt[good, :3, 3]
    unit = float(p_gt.norm(dim=-1).max())
    still = unit < MIN_TRAVEL * scene_scale or unit == 0
    reach = float(p.norm(dim=-1).max())
    if alignment == "first+selfmax":
        scale = unit / reach if reach > 0 else 0.0
    else:
        scale = max(0.0, float((p_gt * p).sum()) / float(p.square().sum())) if reach > 0 else 0.0
    if still:
        return gen, gt, scale, math.nan
    gen, gt = gen.clone(), gt.clone()
    gen[:, :3, 3] *= scale / unit
    gt[:, :3, 3] /= unit
    return gen, gt, scale, unit


def _align_centres(gen: Tensor, gt: Tensor, good: Tensor, with_scale: bool) -> tuple[Tensor, float, bool]:
    R, t, scale, unique = umeyama(gen[good, :3, 3], gt[good, :3, 3], with_scale=with_scale)
    return se3.make_transform(R @ gen[:, :3, :3], scale * gen[:, :3, 3] @ R.T + t), scale, not unique


def _relative(gen: Tensor, gt: Tensor, good: Tensor, delta: int, still: bool) -> RelativeErrors:
    """Invariant to any rotation of either trajectory, so the aligned ones serve."""
    pairs = good[:-delta] & good[delta:]
    step = (se3.invert_rigid(gen[:-delta]) @ gen[delta:])[pairs]
    step_gt = (se3.invert_rigid(gt[:-delta]) @ gt[delta:])[pairs]
    rotation = torch.rad2deg(se3.rotation_angle(step[:, :3, :3], step_gt[:, :3, :3])).mean()
    translation = math.nan if still else float((step[:, :3, 3] - step_gt[:, :3, 3]).norm(dim=-1).mean())
    return RelativeErrors(delta, int(pairs.sum()), float(rotation), translation)


def _check(poses: Tensor, what: str) -> None:
    if not len(poses) or not bool(poses.isfinite().all()):
        raise GeometryError(f"{what} poses: expected one or more poses of finite numbers")
    R = poses[:, :3, :3]
    error = (R @ R.transpose(-1, -2) - torch.eye(3, dtype=R.dtype)).abs().amax((-1, -2))
    worst = int(error.argmax())
    if float(error[worst]) > 1e-3:
        raise GeometryError(f"{what} pose {worst} holds no rotation: |R R^T - 1| = {float(error[worst]):.2g}")
    if float(torch.det(R).min()) < 0:
        raise GeometryError(f"{what} pose {int(torch.det(R).argmin())} is mirrored (determinant -1)")
