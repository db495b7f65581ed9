"""Photometric alignment: bring a known picture with depth onto another one (what `evaluation.pose` is built on).

Inverse-compositional (Baker & Matthews 2004) with depth (Kerl et al. 2013): Levenberg-Marquardt over a twist, a gain
and an offset, over a pyramid, robust by Tukey's weights. Derivatives belong to the reference and are computed once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from mosaicmem._shapes import Float, Tensor
from mosaicmem.geometry.cameras import Cameras
from mosaicmem.geometry.projection import pixel_centers, unproject

_ENOUGH = 0.02  # a step this small, in pixels of its level, ends the search there
_SPREAD_OF = 1500  # about as many points tell the spread of the residuals
_EDGE = 1.15  # neighbouring depths farther apart than this factor belong to two surfaces
_FEW = 30  # fewer points than this are no picture


@dataclass(frozen=True)
class Level:
    """One picture size of the reference: what does not change while a frame is aligned."""

    points: NDArray[np.float64]  # [p 3] in the reference camera
    values: NDArray[np.float64]  # [p 3]
    jacobian: NDArray[np.float64]  # [p 3 6] of the value by a twist (translation, rotation) of the reference camera
    rows: NDArray[np.int64]  # [p] index of each point in the picture
    intrinsics: NDArray[np.float64]


@dataclass(frozen=True)
class Alignment:
    """What an alignment found: `pose [4 4]` frame from reference, `reference ~ gain frame + bias`, and three shares.

    Attributes:
        overlap: Share of the reference's points that land in the frame.
        inliers: Share of these below Tukey's cut.
        correlation: Of picture gradients, reference against the frame brought to it.
    """

    pose: NDArray[np.float64]
    gain: float
    bias: float
    overlap: float
    inliers: float
    correlation: float


def align(reference: list[Level], pictures: list[Tensor], iterations: int) -> Alignment:
    """From coarse to fine, starting where the reference stands, at most `iterations` steps a level."""
    pose, gain, bias, inliers = np.eye(4), 1.0, 0.0, 0.0
    for level, picture in zip(reversed(reference), reversed(pictures), strict=True):
        frame = np.ascontiguousarray(picture.numpy())
        pose, gain, bias, inliers = _descend(level, frame, pose, gain, bias, iterations)
    overlap, correlation = _judge(reference, pictures, pose, gain, bias)
    return Alignment(pose, gain, bias, overlap, inliers, correlation)


def picture_pyramid(picture: Float[Tensor, "3 H W"], levels: int, blur: float) -> list[Tensor]:
    """A picture smoothed by a Gaussian of sigma `blur` pixels, and halved in size again and again."""
    out = [_smooth(picture, blur)]
    for _ in range(levels - 1):
        out.append(F.avg_pool2d(out[-1][None], 2)[0])
    return out


def reference_pyramid(
    rgb: Float[Tensor, "3 H W"], depth: Float[Tensor, "H W"], camera: Cameras, levels: int, blur: float
) -> list[Level]:
    """The pyramid of the reference. A pixel at an edge gets the nearer surface's depth: the edge moves with it."""
    inverse = torch.where(depth > 0, 1 / depth, torch.zeros_like(depth))
    out = []
    for size, picture in enumerate(picture_pyramid(rgb, levels, blur)):
        if size:
            inverse = F.max_pool2d(inverse[None], 2)[0]
        near = F.max_pool2d(inverse[None], 3, stride=1, padding=1)[0]
        nearer = torch.where(near > _EDGE * inverse, near, inverse)
        out.append(_level(picture, nearer, camera.resized(picture.shape[-1], picture.shape[-2])))
    return out


def expected_errors(level: Level, noise: float) -> tuple[float, float]:
    """Largest standard error in any direction of rotation (degrees) and translation, from the reference alone."""
    if len(level.points) < _FEW:
        return math.inf, math.inf
    J = level.jacobian.reshape(-1, 6)
    J = np.concatenate([J, -level.values.reshape(-1, 1), -np.ones((len(J), 1))], 1)
    H = J.T @ J
    covariance = np.linalg.inv(H + 1e-9 * np.trace(H) * np.eye(8)) * noise**2
    turn, step = np.linalg.eigvalsh(covariance[3:6, 3:6])[-1], np.linalg.eigvalsh(covariance[:3, :3])[-1]
    return math.degrees(math.sqrt(turn)), math.sqrt(step)


def _level(picture: Tensor, inverse: Tensor, camera: Cameras) -> Level:
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
    parts = (points, values, jacobian, rows, intrinsics)
    return Level(*(np.ascontiguousarray(part.numpy()) for part in parts))


def _descend(
    level: Level, frame: NDArray[np.float64], pose: NDArray[np.float64], gain: float, bias: float, iterations: int
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
        if len(some) < _FEW:
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


def _pixels(level: Level, twist: NDArray[np.float64]) -> float:
    """About how far a twist moves the picture: its turn times the focal length, its step over the median depth."""
    nearness = 1 / float(np.median(level.points[:, 2]))
    return float(level.intrinsics[0] * (np.linalg.norm(twist[3:]) + np.linalg.norm(twist[:3]) * nearness))


def _judge(
    reference: list[Level], pictures: list[Tensor], pose: NDArray[np.float64], gain: float, bias: float
) -> tuple[float, float]:
    """Overlap, and the correlation of gradients at half size, where blur and noise weigh less than structure."""
    from mosaicmem.evaluation import _kernels

    which = min(1, len(reference) - 1)
    level, picture = reference[which], pictures[which]
    height, width = picture.shape[-2:]
    error, sampled = np.empty((len(level.points), 3)), np.zeros((len(level.points), 3))
    frame = np.ascontiguousarray(picture.numpy())
    landed = _kernels.residuals(frame, level.points, level.values, pose, level.intrinsics, gain, bias, error, sampled)
    if landed < _FEW:
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


def _smooth(picture: Tensor, sigma: float) -> Tensor:
    if sigma == 0:
        return picture
    reach = math.ceil(3 * sigma)
    x = torch.arange(-reach, reach + 1, dtype=picture.dtype)
    kernel = torch.exp(-(x**2) / (2 * sigma**2))
    kernel /= kernel.sum()
    padded = F.pad(picture[None], (reach, reach, reach, reach), mode="replicate")[0][:, None]
    return F.conv2d(F.conv2d(padded, kernel[None, None, :, None]), kernel[None, None, None, :])[:, 0]
