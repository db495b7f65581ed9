"""Where does a generated frame stand? Its camera, from the pixels, against an exact rendering.

No feature matching and no learned network: the reference (colour and depth of the world at the requested camera) is
moved until it lies on the frame. This is inverse-compositional photometric alignment (Baker & Matthews 2004) with
depth (Kerl et al. 2013): Gauss-Newton over a twist, a gain and an offset, damped, over a pyramid, robust by Tukey's
weights. It answers how far a frame is from where it was meant to be, not where a frame of an unknown place is.

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

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from mosaicmem._shapes import Bool, Float, Tensor
from mosaicmem.errors import ConfigError, GeometryError
from mosaicmem.geometry import se3
from mosaicmem.geometry.cameras import Cameras
from mosaicmem.geometry.projection import pixel_centers, unproject
from mosaicmem.worlds.film import film
from mosaicmem.worlds.scene import Scene

MIN_OVERLAP = 0.35
MIN_CORRELATION = 0.55
MAX_SIGMA_DEGREES, MAX_SIGMA_METRES = 0.5, 0.05
_NOISE = 0.15  # white noise in colours of [-1, 1] that misleads as much as blur, edges and resampling do
_ENOUGH = 0.02  # a step this small, in pixels of its level, ends the search there
_SPREAD_OF = 1500  # about as many points tell the spread of the residuals
_EDGE = 1.15  # neighbouring depths farther apart than this factor belong to two surfaces


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


@dataclass(frozen=True)
class _Level:
    """One picture size of the reference: what does not change while a frame is aligned."""

    points: NDArray[np.float64]  # [p 3] in the reference camera
    values: NDArray[np.float64]  # [p 3]
    jacobian: NDArray[np.float64]  # [p 3 6] of the value by a twist (translation, rotation) of the reference camera
    gradient: NDArray[np.float64]  # [p 3 2] by one pixel of this size
    rows: NDArray[np.int64]  # [p] index of each point in the picture
    intrinsics: NDArray[np.float64]


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
    reference = _reference(rgb.double(), depth.double(), camera, config)
    pictures = _pyramid(frame.double(), config)
    sigma_degrees, sigma_metres = _expected_errors(reference[0])
    found = _align(reference, pictures, config)
    observable = sigma_degrees <= MAX_SIGMA_DEGREES and sigma_metres <= MAX_SIGMA_METRES
    return replace(found, sigma_degrees=sigma_degrees, sigma_metres=sigma_metres, observable=observable)


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


def _reference(rgb: Tensor, depth: Tensor, camera: Cameras, config: PoseConfig) -> list[_Level]:
    """The pyramid of the reference. A pixel at an edge gets the nearer surface's depth: the edge moves with it."""
    inverse = torch.where(depth > 0, 1 / depth, torch.zeros_like(depth))
    levels = []
    for size, picture in enumerate(_pyramid(rgb, config)):
        if size:
            inverse = F.max_pool2d(inverse[None], 2)[0]
        near = F.max_pool2d(inverse[None], 3, stride=1, padding=1)[0]
        nearer = torch.where(near > _EDGE * inverse, near, inverse)
        levels.append(_level(picture, nearer, camera.resized(picture.shape[-1], picture.shape[-2])))
    return levels


def _level(picture: Tensor, inverse: Tensor, camera: Cameras) -> _Level:
    height, width = inverse.shape
    K = camera.Ks[0].double()
    padded = F.pad(picture[None], (1, 1, 1, 1), mode="replicate")[0]
    du = (padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]) / 2
    dv = (padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]) / 2
    known = inverse > 0
    known[[0, -1]] = False  # half a gradient there
    known[:, [0, -1]] = False
    rows = known.flatten().nonzero().squeeze(-1)
    uv = pixel_centers(width, height, dtype=torch.float64).reshape(-1, 2)[rows]
    points = unproject(uv, 1 / inverse.flatten()[rows], K)
    x, y, z = points.unbind(-1)
    zero = torch.zeros_like(x)
    fx, fy = K[0, 0], K[1, 1]
    # d(u, v) / d(translation, rotation) of a point that moves by t + w x X
    u_row = torch.stack([fx / z, zero, -fx * x / z**2, -fx * x * y / z**2, fx * (1 + x**2 / z**2), -fx * y / z], -1)
    v_row = torch.stack([zero, fy / z, -fy * y / z**2, -fy * (1 + y**2 / z**2), fy * x * y / z**2, fy * x / z], -1)
    gradient = torch.stack([du, dv], -1).flatten(1, 2)[:, rows].permute(1, 0, 2)
    jacobian = gradient[..., :1] * u_row[:, None] + gradient[..., 1:] * v_row[:, None]
    intrinsics = torch.stack([fx, fy, K[0, 2], K[1, 2]])
    values = picture.flatten(1)[:, rows].T
    parts = (points, values, jacobian, gradient, rows, intrinsics)
    return _Level(*(np.ascontiguousarray(part.numpy()) for part in parts))


def _align(reference: list[_Level], pictures: list[Tensor], config: PoseConfig) -> PoseEstimate:
    """From coarse to fine, from the requested pose."""
    pose, gain, bias = np.eye(4), 1.0, 0.0
    inliers = 0.0
    for level, picture in zip(reversed(reference), reversed(pictures), strict=True):
        frame = np.ascontiguousarray(picture.numpy())
        pose, gain, bias, inliers = _descend(level, frame, pose, gain, bias, config.iterations)
    overlap, correlation = _judge(reference, pictures, pose, gain, bias)
    return PoseEstimate(
        torch.from_numpy(pose), overlap, inliers, correlation, gain, bias, math.nan, math.nan, True,
        overlap >= MIN_OVERLAP and correlation >= MIN_CORRELATION,
    )  # fmt: skip


def _descend(
    level: _Level, frame: NDArray[np.float64], pose: NDArray[np.float64], gain: float, bias: float, iterations: int
) -> tuple[NDArray[np.float64], float, float, float]:
    """Levenberg-Marquardt steps at one size until they hardly move the picture."""
    from mosaicmem.evaluation import _kernels  # loads numba

    count = len(level.points)
    error, sampled = np.empty((count, 3)), np.zeros((count, 3))
    trial, trial_sampled = np.empty((count, 3)), np.zeros((count, 3))
    H, g = np.empty((8, 8)), np.empty(8)
    _kernels.residuals(frame, level.points, level.values, pose, level.intrinsics, gain, bias, error, sampled)
    damping, inliers = 1e-3, 0.0
    for _ in range(iterations):
        some = error[:: 1 + count // _SPREAD_OF]
        some = np.abs(some[~np.isnan(some[:, 0])]).ravel()
        if len(some) < 30:
            return pose, gain, bias, 0.0
        cut = 4.685 * max(1.4826 * float(np.partition(some, len(some) // 2)[len(some) // 2]), 0.01)
        cost, inliers = _kernels.tukey_cost(error, cut)
        _kernels.normal_equations(error, sampled, level.jacobian, cut, H, g)
        moved = math.inf
        for _attempt in range(6):
            damped = H + damping * np.diag(np.diag(H) + 1e-9 * np.trace(H) + 1e-12)
            step = np.asarray(-np.linalg.solve(damped, g), dtype=np.float64)
            candidate = pose @ np.linalg.inv(_exp(step[:6]))
            new_gain, new_bias = min(max(gain + step[6], 0.3), 3.0), bias + step[7]
            _kernels.residuals(
                frame, level.points, level.values, candidate, level.intrinsics, new_gain, new_bias,
                trial, trial_sampled,
            )  # fmt: skip
            if _kernels.tukey_cost(trial, cut)[0] < cost:
                pose, gain, bias = candidate, new_gain, new_bias
                error, trial, sampled, trial_sampled = trial, error, trial_sampled, sampled
                damping = max(damping / 5, 1e-6)
                moved = _pixels(level, step[:6])
                break
            damping *= 6
        if not _ENOUGH < moved < math.inf:
            break
    return pose, gain, bias, inliers


def _pixels(level: _Level, twist: NDArray[np.float64]) -> float:
    """About how far a twist moves the picture: its turn times the focal length, its step over the median depth."""
    nearness = 1 / float(np.median(level.points[:, 2]))
    return float(level.intrinsics[0] * (np.linalg.norm(twist[3:]) + np.linalg.norm(twist[:3]) * nearness))


def _judge(
    reference: list[_Level], pictures: list[Tensor], pose: NDArray[np.float64], gain: float, bias: float
) -> tuple[float, float]:
    """Overlap, and the correlation of gradients at half size, where blur and noise weigh less than structure."""
    from mosaicmem.evaluation import _kernels

    which = min(1, len(reference) - 1)
    level, picture = reference[which], pictures[which]
    height, width = picture.shape[-2:]
    error, sampled = np.empty((len(level.points), 3)), np.zeros((len(level.points), 3))
    frame = np.ascontiguousarray(picture.numpy())
    landed = _kernels.residuals(frame, level.points, level.values, pose, level.intrinsics, gain, bias, error, sampled)
    if landed < 30:
        return landed / max(1, len(level.points)), 0.0
    warped = torch.full((3, height * width), math.nan, dtype=torch.float64)
    there = ~np.isnan(error[:, 0])
    warped[:, level.rows[there]] = torch.from_numpy(sampled[there].T.copy())
    truth = torch.full_like(warped, math.nan)
    truth[:, level.rows[there]] = torch.from_numpy(level.values[there].T.copy())
    a, b = _gradients(warped.view(3, height, width)), _gradients(truth.view(3, height, width))
    both = ~(a.isnan() | b.isnan())
    a, b = a[both], b[both]
    energy = float(a.square().sum() * b.square().sum())
    return landed / len(level.points), float((a * b).sum()) / math.sqrt(energy) if energy > 1e-12 else 0.0


def _gradients(picture: Tensor) -> Tensor:
    du = picture[:, 1:-1, 2:] - picture[:, 1:-1, :-2]
    dv = picture[:, 2:, 1:-1] - picture[:, :-2, 1:-1]
    return torch.stack([du, dv])


def _expected_errors(level: _Level) -> tuple[float, float]:
    """Largest standard error in any direction of rotation (degrees) and translation, from the reference alone."""
    if len(level.points) < 30:
        return math.inf, math.inf
    J = level.jacobian.reshape(-1, 6)
    J = np.concatenate([J, -level.values.reshape(-1, 1), -np.ones((len(J), 1))], 1)
    H = J.T @ J
    covariance = np.linalg.inv(H + 1e-9 * np.trace(H) * np.eye(8)) * _NOISE**2
    turn, step = np.linalg.eigvalsh(covariance[3:6, 3:6])[-1], np.linalg.eigvalsh(covariance[:3, :3])[-1]
    return math.degrees(math.sqrt(turn)), math.sqrt(step)


def _exp(twist: NDArray[np.float64]) -> NDArray[np.float64]:
    """The rigid motion that turns by `twist[3:]` and then moves by `twist[:3]`: all that small steps need of exp."""
    x, y, z = twist[3:]
    K = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = math.sqrt(x * x + y * y + z * z)
    out = np.eye(4)
    out[:3, 3] = twist[:3]
    if angle > 0:
        out[:3, :3] += math.sin(angle) / angle * K + (1 - math.cos(angle)) / angle**2 * (K @ K)
    return out


def _pyramid(picture: Tensor, config: PoseConfig) -> list[Tensor]:
    levels = [_smooth(picture, config.blur)]
    for _ in range(config.levels - 1):
        levels.append(F.avg_pool2d(levels[-1][None], 2)[0])
    return levels


def _smooth(picture: Tensor, sigma: float) -> Tensor:
    if sigma == 0:
        return picture
    reach = math.ceil(3 * sigma)
    x = torch.arange(-reach, reach + 1, dtype=picture.dtype)
    kernel = torch.exp(-(x**2) / (2 * sigma**2))
    kernel /= kernel.sum()
    padded = F.pad(picture[None], (reach, reach, reach, reach), mode="replicate")[0][:, None]
    return F.conv2d(F.conv2d(padded, kernel[None, None, :, None]), kernel[None, None, None, :])[:, 0]


def _mean(values: Tensor) -> float:
    return float(values.mean()) if len(values) else math.nan


def _median(values: Tensor) -> float:
    return float(values.median()) if len(values) else math.nan
