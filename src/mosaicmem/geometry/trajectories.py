"""Camera paths: builders that start at a camera, ways to re-time a path, and the choice of keyframes.

A builder takes the camera the path starts from (pose, intrinsics, image size) and returns the whole path, the start
included, so paths continue each other: `Cameras.cat([walk, look_around(walk[-1], degrees=90, frames=9)[1:]])`.
Angles are degrees where a person types them and radians where they are compared.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch

from mosaicmem._shapes import Float, Tensor
from mosaicmem.errors import ConfigError, GeometryError
from mosaicmem.geometry import se3
from mosaicmem.geometry.cameras import Cameras


def orbit(
    start: Cameras,
    target: Sequence[float] | Float[Tensor, "3"],
    up: Sequence[float] | Float[Tensor, "3"],
    *,
    degrees: float = 360.0,
    frames: int,
    endpoint: bool = True,
) -> Cameras:
    """Carry the start camera rigidly around the axis `up` through `target`, seen from above anticlockwise.

    A camera that looks at `target` keeps looking at it.

    Args:
        start: One camera.
        target: A point of the axis, world units.
        up: Direction of the axis in the world, of any length.
        degrees: The angle of the last frame; negative turns clockwise.
        endpoint: Whether the last frame stands at `degrees`, or one step before it as a closed loop wants.
    """
    _one(start)
    axis, centre = _vector(up, start), _vector(target, start)
    if not float(axis.norm()) > 0:
        raise GeometryError("orbit: the axis `up` has no length, so there is no direction to turn about")
    angle = math.radians(degrees) * _ramp(start, frames, endpoint=endpoint)
    R = se3.axis_angle(axis.expand(frames, 3), angle)
    world_from_world = se3.make_transform(R, centre - R @ centre)
    return _path(start, start.viewmats @ se3.invert_rigid(world_from_world))


def dolly(start: Cameras, distance: float, *, frames: int) -> Cameras:
    """Move along the view direction by `distance` world units (negative: backwards), looking the same way."""
    return move(start, (0.0, 0.0, distance), frames=frames)


def move(start: Cameras, offset: Sequence[float], *, frames: int) -> Cameras:
    """Move in a straight line by `offset = (right, down, forward)`, in camera axes and world units."""
    _one(start)
    viewmats = start.viewmats.repeat(frames if frames > 0 else 0, 1, 1)
    viewmats[:, :3, 3] -= _ramp(start, frames)[:, None] * _vector(offset, start)
    return _path(start, viewmats)


def look_around(
    start: Cameras, *, degrees: float, frames: int, up: Sequence[float] | Float[Tensor, "3"] | None = None
) -> Cameras:
    """Turn in place to the right by `degrees` (negative: to the left) about `up`, the camera's own up by default.

    For a turn that comes back exactly, 0 -> 90 -> 0, use `there_and_back(look_around(start, degrees=90, ...))`.
    """
    _one(start)
    axis = start.up[0] if up is None else up
    return orbit(start, start.centers[0], axis, degrees=-degrees, frames=frames)


def there_and_back(path: Cameras) -> Cameras:
    """A path of `T + 1` cameras and its mirror: `2 T + 1` cameras whose frame `k` equals frame `2 T - k` exactly."""
    last = len(path) - 1
    return path[[*range(last + 1), *range(last - 1, -1, -1)]]


def spline(keys: Cameras, *, frames: int) -> Cameras:
    """A smooth path through key poses, evenly timed: one key every `(frames - 1) / (len(keys) - 1)` frames.

    Centres follow a Catmull-Rom cubic, rotations follow squad (spherical quadrangle interpolation, Shoemake 1987);
    both have continuous velocity. Focal lengths and principal points are interpolated linearly. Consecutive keys
    must be less than half a turn apart: the shorter way is taken.

    Raises:
        GeometryError: with fewer than two keys.
    """
    if len(keys) < 2:
        raise GeometryError(f"a spline needs at least two key cameras, got {len(keys)}")
    i, t = _split(_ramp(keys, frames) * (len(keys) - 1), len(keys))
    c2w = keys.c2w
    centers = _catmull_rom(c2w[:, :3, 3], i, t)
    quats = _aligned(se3.rotation_to_quat(c2w[:, :3, :3]))
    rotations = se3.quat_to_rotation(_squad(quats, i, t))
    return Cameras(_viewmats(rotations, centers), _lerp(keys.Ks, i, t), keys.width, keys.height)


def interpolate(path: Cameras, at: Float[Tensor, "f"]) -> Cameras:
    """Cameras at fractional positions of a path: straight lines between centres, slerp between rotations.

    Args:
        at: Positions in `[0, len(path) - 1]`; whole numbers give that camera bit for bit.

    Raises:
        GeometryError: for a position outside the path.
    """
    if len(path) == 0 or (len(at) and not bool(((at >= 0) & (at <= len(path) - 1)).all())):
        raise GeometryError(f"positions must lie in a path of {len(path)} cameras, 0 to {len(path) - 1}")
    if len(path) == 1:
        return path[[0] * len(at)]
    i, t = _split(at.to(path.viewmats), len(path))
    c2w = path.c2w
    quats = _aligned(se3.rotation_to_quat(c2w[:, :3, :3]))
    viewmats = _viewmats(se3.quat_to_rotation(se3.slerp(quats[i], quats[i + 1], t)), _lerp(c2w[:, :3, 3], i, t))
    whole, nearest = (t == 0) | (t == 1), torch.where(t == 1, i + 1, i)
    viewmats = torch.where(whole[:, None, None], path.viewmats[nearest], viewmats)
    return Cameras(viewmats, _lerp(path.Ks, i, t), path.width, path.height)


def resample(path: Cameras, *, frames: int, by: Literal["index", "distance"] = "index") -> Cameras:
    """Re-time a path to `frames` cameras from its first to its last.

    Args:
        by: `index` keeps the rhythm of the path, `distance` moves at constant speed along it.

    Raises:
        GeometryError: for an empty path, or by `distance` for one that does not move.
    """
    if len(path) == 0:
        raise GeometryError("an empty path cannot be resampled")
    u = _ramp(path, frames)
    if by == "index":
        return interpolate(path, u * (len(path) - 1))
    steps = path.centers.double().diff(dim=0).norm(dim=-1)
    length = torch.cat([steps.new_zeros(1), steps.cumsum(0)])
    noise = 16 * len(path) * torch.finfo(path.viewmats.dtype).eps * float(path.centers.abs().max())
    if float(length[-1]) <= noise:
        raise GeometryError("a path that does not move cannot be resampled by distance; use by='index'")
    want = u.double() * length[-1]
    i = (torch.searchsorted(length, want, right=True) - 1).clamp(0, len(steps) - 1)
    step = steps[i]
    at = i + torch.where(step > 0, (want - length[i]) / step.clamp(min=1e-300), 0)
    return interpolate(path, at.clamp(0, len(path) - 1))


def select_keyframes(cameras: Cameras, translation: float | None = 0.5, angle_radians: float | None = 0.3) -> list[int]:
    """Frames at which the camera has moved on: the first, then each that is far from the last one chosen.

    Args:
        translation: Distance between centres that makes a keyframe, world units (`>=`); None switches it off.
        angle_radians: Angle between orientations that makes a keyframe (`>=`); None switches it off.

    Raises:
        ConfigError: for a threshold that is not positive.
    """
    for name, value in (("translation", translation), ("angle_radians", angle_radians)):
        if value is not None and not value > 0:
            raise ConfigError(f"keyframe threshold {name} = {value}; expected a number above 0, or None for off")
    chosen = [0] if len(cameras) else []
    centers, rotations = cameras.centers, cameras.viewmats[:, :3, :3]
    start = 0
    while chosen and start + 1 < len(cameras):
        far = torch.zeros(len(cameras) - start - 1, dtype=torch.bool, device=centers.device)
        if translation is not None:
            far |= (centers[start + 1 :] - centers[start]).norm(dim=-1) >= translation
        if angle_radians is not None:
            rest = rotations[start + 1 :]
            far |= se3.rotation_angle(rotations[start].expand_as(rest), rest) >= angle_radians
        if not bool(far.any()):
            break
        start += 1 + int(far.int().argmax())
        chosen.append(start)
    return chosen


def select_keyframes_uniform(num_frames: int, every: int) -> list[int]:
    """Frames `0, every, 2 every, ...`.

    Raises:
        ConfigError: if `every < 1`.
    """
    if every < 1:
        raise ConfigError(f"keyframes every {every} frames; expected at least 1")
    return list(range(0, num_frames, every))


def windows(num_frames: int, size: int, overlap: int) -> list[range]:
    """Frames of each generation window: windows of `size` frames that share `overlap`, the last one cut at the end.

    Together they hold every frame, and each but the first adds `size - overlap` new ones or what is left.

    Raises:
        ConfigError: unless `0 <= overlap < size`.
    """
    if not 0 <= overlap < size:
        raise ConfigError(f"window overlap {overlap} must be at least 0 and less than the window size {size}")
    step = size - overlap
    count = 1 + max(0, -(-(num_frames - size) // step)) if num_frames > 0 else 0
    return [range(k * step, min(k * step + size, num_frames)) for k in range(count)]


def _one(start: Cameras) -> None:
    if len(start) != 1:
        raise GeometryError(f"a path starts at one camera, got {len(start)}; pick one, as in cameras[-1]")


def _ramp(like: Cameras, frames: int, *, endpoint: bool = True) -> Tensor:
    """`frames` numbers from 0 to 1, in the precision of `like`; a single frame stands at the start."""
    if frames < 1:
        raise ConfigError(f"a path needs at least one frame, got {frames}")
    steps = max(frames - 1 if endpoint else frames, 1)
    ramp = torch.arange(frames, dtype=torch.float64) / steps
    return ramp.to(like.viewmats)


def _vector(x: Sequence[float] | Tensor, like: Cameras) -> Tensor:
    """Three numbers in the precision of `like`, without a detour through float32."""
    return torch.as_tensor(x, dtype=like.viewmats.dtype, device=like.viewmats.device)


def _path(start: Cameras, viewmats: Tensor) -> Cameras:
    viewmats[0] = start.viewmats[0]
    return replace(start, viewmats=viewmats, Ks=start.Ks.repeat(len(viewmats), 1, 1))


def _viewmats(world_from_camera: Tensor, centers: Tensor) -> Tensor:
    return se3.invert_rigid(se3.make_transform(world_from_camera, centers))


def _split(at: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Segment and fraction of positions along `count >= 2` keys; the last key is the end of the last segment."""
    i = at.floor().long().clamp(0, count - 2)
    return i, at - i


def _lerp(values: Tensor, i: Tensor, t: Tensor) -> Tensor:
    t = t.reshape(-1, *[1] * (values.ndim - 1))
    return torch.lerp(values[i], values[i + 1], t.to(values))


def _catmull_rom(p: Tensor, i: Tensor, t: Tensor) -> Tensor:
    """Cubic through all points, velocity `(p[i+1] - p[i-1]) / 2` at each; the ends are continued straight."""
    p = torch.cat([2 * p[:1] - p[1:2], p, 2 * p[-1:] - p[-2:-1]])
    a, b, c, d = (p[i + k] for k in range(4))
    t = t[:, None]
    return b + t / 2 * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))


def _aligned(quats: Tensor) -> Tensor:
    """The same rotations, each quaternion on the side of its predecessor."""
    flip = (quats[1:] * quats[:-1]).sum(-1) < 0
    sign = torch.where(torch.cat([flip.new_zeros(1), flip]).cumsum(0) % 2 == 1, -1, 1)
    return quats * sign[:, None]


def _squad(q: Tensor, i: Tensor, t: Tensor) -> Tensor:
    before, after = torch.cat([q[:1], q[:-1]]), torch.cat([q[1:], q[-1:]])
    inverse = q * q.new_tensor([1, -1, -1, -1])
    bend = -(_quat_log(_quat_mul(inverse, after)) + _quat_log(_quat_mul(inverse, before))) / 4
    inner = _quat_mul(q, _quat_exp(bend))
    inner[0], inner[-1] = q[0], q[-1]
    return se3.slerp(se3.slerp(q[i], q[i + 1], t), se3.slerp(inner[i], inner[i + 1], t), 2 * t * (1 - t))


def _quat_mul(a: Tensor, b: Tensor) -> Tensor:
    aw, av, bw, bv = a[..., :1], a[..., 1:], b[..., :1], b[..., 1:]
    w = aw * bw - (av * bv).sum(-1, keepdim=True)
    return torch.cat([w, aw * bv + bw * av + torch.linalg.cross(av, bv)], dim=-1)


def _quat_log(q: Tensor) -> Tensor:
    """Half the rotation vector of a unit quaternion."""
    norm = q[..., 1:].norm(dim=-1, keepdim=True)
    angle = torch.atan2(norm, q[..., :1])
    return q[..., 1:] * torch.where(norm > 0, angle / norm.clamp(min=1e-30), 1)


def _quat_exp(v: Tensor) -> Tensor:
    angle = v.norm(dim=-1, keepdim=True)
    return torch.cat([angle.cos(), v * torch.sinc(angle / math.pi)], dim=-1)
