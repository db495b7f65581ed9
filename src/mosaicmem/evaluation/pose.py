"""Where does a generated frame stand? Its camera, from the pixels, against an exact rendering.

No feature matching and no learned network: the reference (colour and depth of the world at the requested camera) is
moved until it lies on the frame (`evaluation.photometric`). It answers how far a frame is from where it was meant to
be, not where a frame of an unknown place is.

A pose that cannot be told is never dropped in silence. Two rules, in this order:

1. `observable` asks the *reference* alone, so no generator can change the answer: would noise of 0.15 in it move the
   estimate by more than 0.5 degrees or 5 cm (one standard error)? Such views (a blank wall) measure nothing and are
   left out of the count.
2. `converged` asks the frame: at least 35 % of the reference must land in it, and the structure found there must
   correlate with the reference's by at least `MIN_CORRELATION`. Otherwise the frame is a failure, counted as one.

Far from the requested pose (beyond about 10 degrees or half a metre) the search may miss and the frame counts as a
failure too: a failure says "not near where it was asked to be".
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch.nn import functional as F

from mosaicmem._shapes import Bool, Float, Tensor
from mosaicmem.errors import ConfigError, GeometryError
from mosaicmem.evaluation.photometric import align, expected_errors, picture_pyramid, reference_pyramid
from mosaicmem.geometry import se3
from mosaicmem.geometry.cameras import Cameras
from mosaicmem.worlds.film import film
from mosaicmem.worlds.scene import Scene

MIN_OVERLAP = 0.35
MIN_CORRELATION = 0.55
MAX_SIGMA_DEGREES, MAX_SIGMA_METRES = 0.5, 0.05
_NOISE = 0.15  # white noise in colours of [-1, 1] that misleads as much as blur, edges and resampling do


@dataclass(frozen=True)
class PoseConfig:
    """How hard to look.

    Attributes:
        levels: Pictures in the pyramid, each half the size of the one before.
        iterations: Steps per level at most.
        blur: Gaussian sigma of both pictures before the pyramid, pixels: generated frames are not as sharp as truth.
    """

    levels: int = 4
    iterations: int = 25
    blur: float = 0.8

    def __post_init__(self) -> None:
        if self.levels < 1 or self.iterations < 1 or self.blur < 0:
            raise ConfigError(f"{self}: expected levels and iterations from 1, blur from 0")


@dataclass(frozen=True)
class PoseEstimate:
    """What was found for one frame.

    Attributes:
        gen_from_ref: `[4 4]` takes camera coordinates of the reference to those of the frame, float64.
        overlap: Share of the reference's pixels with depth that land in the frame.
        inliers: Share of these that the robust weights kept.
        correlation: Of the structure (picture gradients) of the reference with that of the frame brought to it.
        gain, bias: `reference ~ gain frame + bias`.
        sigma_degrees, sigma_metres: Standard error that the reference's own structure allows.
        observable: Whether the reference can tell a pose at all.
        converged: Whether the frame shows the reference's place.
    """

    gen_from_ref: Float[Tensor, "4 4"]
    overlap: float
    inliers: float
    correlation: float
    gain: float
    bias: float
    sigma_degrees: float
    sigma_metres: float
    observable: bool
    converged: bool

    @property
    def rotation_degrees(self) -> float:
        """Angle between the frame's and the reference's orientation."""
        R = self.gen_from_ref[:3, :3]
        return math.degrees(float(se3.rotation_angle(R, torch.eye(3, dtype=R.dtype))))

    @property
    def metres(self) -> float:
        """Distance between the two camera centres, in world units."""
        return float(self.gen_from_ref[:3, 3].norm())


@dataclass(frozen=True)
class PoseEstimates:
    """Estimates of `n` frames with what a table needs.

    Attributes:
        viewmats: `[n 4 4]` camera-from-world of the frames, float64; where `failed`, the requested one.
        rotation_degrees, metres: `[n]` distance from the requested pose; NaN where failed or unobservable.
        scene_units: `[n]` `metres` divided by the median depth of the reference.
        failed: `[n]` frames that do not show their place: report their number, and means with them at 180 degrees.
        unobservable: `[n]` references that cannot tell a pose, whatever the frame; no failure of the generator.
        each: The estimates.
    """

    viewmats: Float[Tensor, "n 4 4"]
    rotation_degrees: Float[Tensor, " n"]
    metres: Float[Tensor, " n"]
    scene_units: Float[Tensor, " n"]
    failed: Bool[Tensor, " n"]
    unobservable: Bool[Tensor, " n"]
    each: tuple[PoseEstimate, ...]

    def compute(self) -> dict[str, float]:
        """Mean and median errors, counts, and the mean rotation with failures at 180 degrees."""
        seen = ~self.failed & ~self.unobservable
        judged = torch.where(self.failed, torch.full_like(self.metres, 180.0), self.rotation_degrees)
        return {
            "rotation_mean_degrees": _mean(self.rotation_degrees[seen]),
            "rotation_median_degrees": _median(self.rotation_degrees[seen]),
            "rotation_mean_degrees_failures_180": _mean(judged[~self.unobservable]),
            "metres_mean": _mean(self.metres[seen]),
            "metres_median": _median(self.metres[seen]),
            "scene_units_mean": _mean(self.scene_units[seen]),
            "frames": len(self.failed),
            "failures": int(self.failed.sum()),
            "unobservable": int(self.unobservable.sum()),
        }


@dataclass(frozen=True)
class PoseFloor:
    """What the estimator gets wrong on true frames: `[n]` errors, NaN where failed or unobservable."""

    rotation_degrees: Float[Tensor, " n"]
    metres: Float[Tensor, " n"]
    failed: Bool[Tensor, " n"]
    unobservable: Bool[Tensor, " n"]

    def compute(self) -> dict[str, float]:
        """Median and mean errors, and counts."""
        known = ~self.metres.isnan()
        return {
            "rotation_median_degrees": _median(self.rotation_degrees[known]),
            "rotation_mean_degrees": _mean(self.rotation_degrees[known]),
            "metres_median": _median(self.metres[known]),
            "metres_mean": _mean(self.metres[known]),
            "frames": len(self.failed),
            "failures": int(self.failed.sum()),
            "unobservable": int(self.unobservable.sum()),
        }


def estimate_pose(
    frame: Float[Tensor, "3 H W"],
    rgb: Float[Tensor, "3 H W"],
    depth: Float[Tensor, "H W"],
    camera: Cameras,
    config: PoseConfig = PoseConfig(),
) -> PoseEstimate:
    """The rigid motion between a frame's camera and the one it was asked for.

    Args:
        frame: Generated, in [-1, 1].
        rgb, depth: The world rendered exactly at `camera` (one): colour in [-1, 1], z-depth, 0 = unknown.

    Raises:
        GeometryError: if sizes disagree, the pyramid's last picture would be under 8 pixels, or a colour is not finite.
    """
    height, width = depth.shape
    if len(camera) != 1 or (camera.width, camera.height) != (width, height):
        raise GeometryError(f"{len(camera)} cameras of {camera.width}x{camera.height} for one frame {width}x{height}")
    if min(height, width) < 8 * 2 ** (config.levels - 1):
        raise GeometryError(f"frame {width}x{height} is too small for {config.levels} pyramid levels")
    if not bool(frame.isfinite().all() & rgb.isfinite().all()):
        raise GeometryError("a frame or its reference holds NaN or infinity; expected colours in [-1, 1]")
    reference = reference_pyramid(rgb.double(), depth.double(), camera, config.levels, config.blur)
    pictures = picture_pyramid(frame.double(), config.levels, config.blur)
    sigma_degrees, sigma_metres = expected_errors(reference[0], _NOISE)
    found = align(reference, pictures, config.iterations)
    observable = sigma_degrees <= MAX_SIGMA_DEGREES and sigma_metres <= MAX_SIGMA_METRES
    converged = found.overlap >= MIN_OVERLAP and found.correlation >= MIN_CORRELATION
    return PoseEstimate(
        torch.from_numpy(found.pose), found.overlap, found.inliers, found.correlation, found.gain, found.bias,
        sigma_degrees, sigma_metres, observable, converged,
    )  # fmt: skip


def estimate_poses(
    frames: Float[Tensor, "n 3 H W"],
    rgb: Float[Tensor, "n 3 H W"],
    depth: Float[Tensor, "n H W"],
    cameras: Cameras,
    config: PoseConfig = PoseConfig(),
) -> PoseEstimates:
    """`estimate_pose` of every frame against its own requested camera."""
    each = tuple(
        estimate_pose(frame, colour, z, camera, config)
        for frame, colour, z, camera in zip(frames, rgb, depth, cameras, strict=True)
    )
    unobservable = torch.tensor([not e.observable for e in each], dtype=torch.bool)
    failed = torch.tensor([not e.converged for e in each], dtype=torch.bool) & ~unobservable
    known = (~failed & ~unobservable).double()
    known = torch.where(known > 0, known, torch.nan)
    metres = torch.tensor([e.metres for e in each], dtype=torch.float64) * known
    typical = torch.tensor([_median(z[z > 0].double()) for z in depth], dtype=torch.float64)
    moved = torch.stack([e.gen_from_ref if e.converged else torch.eye(4).double() for e in each])
    return PoseEstimates(
        moved @ cameras.viewmats.double(),
        torch.tensor([e.rotation_degrees for e in each], dtype=torch.float64) * known,
        metres,
        metres / typical,
        failed,
        unobservable,
        each,
    )


def pose_floor(
    scene: Scene,
    cameras: Cameras,
    generator: torch.Generator,
    *,
    max_degrees: float = 6.0,
    max_metres: float = 0.3,
    config: PoseConfig = PoseConfig(),
) -> PoseFloor:
    """The estimator's own error: true frames filmed beside each requested camera, by a motion that is known.

    Turns and steps have random directions and sizes uniform up to the limits. Report it beside every measured error:
    below it nothing was shown.
    """
    n = len(cameras)
    draw = {"generator": generator, "dtype": torch.float64}
    turn = se3.axis_angle(torch.randn(n, 3, **draw), math.radians(max_degrees) * torch.rand(n, **draw))
    step = F.normalize(torch.randn(n, 3, **draw), dim=-1) * max_metres * torch.rand(n, 1, **draw)
    moved = se3.make_transform(turn, step)
    cameras = cameras.to(dtype=torch.float64)
    truth = film(scene, cameras)
    frames = film(scene, replace(cameras, viewmats=moved @ cameras.viewmats)).rgb
    found = estimate_poses(frames, truth.rgb, truth.depth, cameras, config)
    left = found.viewmats @ se3.invert_rigid(moved @ cameras.viewmats)
    known = torch.where(found.failed | found.unobservable, torch.nan, 1.0).double()
    eye = torch.eye(3, dtype=torch.float64).expand(n, 3, 3)
    return PoseFloor(
        torch.rad2deg(se3.rotation_angle(left[:, :3, :3], eye)) * known,
        left[:, :3, 3].norm(dim=-1) * known,
        found.failed,
        found.unobservable,
    )


def _mean(values: Tensor) -> float:
    return float(values.mean()) if len(values) else math.nan


def _median(values: Tensor) -> float:
    return float(values.median()) if len(values) else math.nan
