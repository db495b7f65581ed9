"""Cameras in free space: random places, and walks with forward motion through doorways and smooth turns."""

from __future__ import annotations

import math
from typing import Literal

import torch

from mosaicmem._shapes import Float, Tensor
from mosaicmem.errors import GeometryError
from mosaicmem.geometry.cameras import Cameras, look_at
from mosaicmem.worlds.scene import Scene

EYE_HEIGHT = 1.5
_SPEED, _TURN_RATE = 1.2, math.radians(55)  # metres and radians a second; only their ratio matters
_STEP, _TURN_STEP = 0.02, math.radians(1)
_MARGIN = 0.25
_VIEW = 1.5  # metres a random camera sees straight ahead, at least
_MAX_ROUNDS = 200


def random_cameras(scene: Scene, n: int, generator: torch.Generator, width: int, height: int, fov: float) -> Cameras:
    """`n` cameras in free space, eyes at 1.2 to 1.7 m, pitch within 10 degrees, nothing within 1.5 m straight ahead.

    Raises:
        GeometryError: if the rooms are so full that no such place is found.
    """
    eyes, aims = [], []
    found = 0
    for _ in range(_MAX_ROUNDS):
        u = torch.rand(256, 6, generator=generator, dtype=torch.float64)
        room = (u[:, 0] * len(scene.room_lo)).long()
        lo, hi = scene.room_lo[room], scene.room_hi[room]
        eye = lo + (hi - lo) * u[:, 1:4]
        eye[:, 1] = -(1.2 + 0.5 * u[:, 2])
        yaw, pitch = 2 * math.pi * u[:, 4], math.radians(10) * (2 * u[:, 5] - 1)
        aim = torch.stack([yaw.sin() * pitch.cos(), pitch.sin(), yaw.cos() * pitch.cos()], -1)
        good = scene.is_free(eye, 0.35)
        good &= scene.cast(eye, aim).t > _VIEW
        eyes.append(eye[good])
        aims.append(aim[good])
        found += int(good.sum())
        if found >= n:
            return _cameras(torch.cat(eyes)[:n], torch.cat(aims)[:n], width, height, fov)
    raise GeometryError(f"random_cameras: found {found} of {n} free places in scene {scene.seed}; are its rooms full?")


def walk(
    scene: Scene,
    seed: int,
    n: int,
    kind: Literal["there_and_back", "look_around", "loop"],
    width: int,
    height: int,
    fov: float,
) -> Cameras:
    """`n` cameras at eye height, evenly spaced in walking time (1.2 m/s, 55 degrees/s).

    `there_and_back` walks through every doorway, turns round, walks back and turns to where it began: the last camera
    is the first. `look_around` turns once on the spot, first equal to last. `loop` walks a closed ellipse in one room,
    looking ahead, first equal to last. The seed chooses the direction, the room and the spot.

    Raises:
        GeometryError: if `n` is below 2, the kind is unknown, or no free way is found.
    """
    if n < 2:
        raise GeometryError(f"walk: {n} cameras; a walk needs at least 2")
    generator = torch.Generator().manual_seed(seed)
    if kind == "there_and_back":
        places, headings = _there_and_back(scene, generator)
    elif kind == "look_around":
        start = float(2 * math.pi * torch.rand((), generator=generator, dtype=torch.float64))
        headings = start + torch.arange(0, 2 * math.pi + 1e-9, _TURN_STEP, dtype=torch.float64)
        places = _free_spot(scene, generator).expand(len(headings), 2)
    elif kind == "loop":
        places, headings = _loop(scene, generator)
    else:
        raise GeometryError(f"walk: no kind {kind!r}; expected there_and_back, look_around or loop")
    places, headings = _evenly_in_time(places, headings, n)
    eye = torch.stack([places[:, 0], torch.full_like(headings, -EYE_HEIGHT), places[:, 1]], -1)
    tilt = math.radians(4)  # people look slightly down
    aim = torch.stack([headings.sin(), torch.full_like(headings, math.tan(tilt)), headings.cos()], -1)
    return _cameras(eye, aim, width, height, fov)


def _there_and_back(scene: Scene, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    line = scene.waypoints
    if float(torch.rand((), generator=generator)) < 0.5:
        line = line.flip(0)
    there = dense(_round_corners(line))
    if not _all_free(scene, there):
        there = dense(line)
    ahead = _headings(there)
    about = ahead[-1] + _turn(math.pi)
    back = ahead.flip(0) + math.pi
    home = back[-1] + _turn(math.pi)
    places = torch.cat([there, there[-1:].expand(len(about), 2), there.flip(0), there[:1].expand(len(home), 2)])
    return places, torch.cat([ahead, about, back, home])


def _loop(scene: Scene, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    angle = torch.arange(0, 2 * math.pi + 1e-9, math.radians(0.5), dtype=torch.float64)
    for attempt in range(_MAX_ROUNDS):
        u = torch.rand(5, generator=generator, dtype=torch.float64)
        shrink = 1 - 0.9 * attempt / _MAX_ROUNDS
        center = _free_spot(scene, generator)
        radii = (0.35 + 0.9 * u[:2]) * shrink
        phase = 2 * math.pi * u[2]
        turn = 1.0 if u[3] < 0.5 else -1.0
        places = center + radii * torch.stack([(phase + turn * angle).cos(), (phase + turn * angle).sin()], -1)
        if _all_free(scene, places):
            tangent = places.roll(-1, 0)[:-1] - places[:-1]
            headings = _unwrap(torch.atan2(tangent[:, 0], tangent[:, 1]))
            return places, torch.cat([headings, headings[:1] - turn * 2 * math.pi])
    raise GeometryError(f"walk: no free loop found in scene {scene.seed}; try another seed or 'look_around'")


def _free_spot(scene: Scene, generator: torch.Generator) -> Tensor:
    return random_cameras(scene, 1, generator, 2, 2, 60.0).centers[0, [0, 2]].double()


def _all_free(scene: Scene, places: Tensor) -> bool:
    points = torch.stack([places[:, 0], torch.full_like(places[:, 0], -EYE_HEIGHT), places[:, 1]], -1)
    return bool(scene.is_free(points, _MARGIN).all())


def _round_corners(line: Tensor, rounds: int = 4) -> Tensor:
    """Chaikin's corner cutting; the ends stay."""
    for _ in range(rounds):
        a, b = line[:-1], line[1:]
        cut = torch.stack([0.75 * a + 0.25 * b, 0.25 * a + 0.75 * b], 1).flatten(0, 1)
        line = torch.cat([line[:1], cut[1:-1], line[-1:]])
    return line


def dense(line: Tensor) -> Tensor:
    """Points every `_STEP` metres along a polyline, ends included."""
    along = torch.cat([line.new_zeros(1), line.diff(dim=0).norm(dim=-1).cumsum(0)])
    count = max(2, math.ceil(float(along[-1]) / _STEP) + 1)
    return interpolate(along, line, torch.linspace(0, float(along[-1]), count, dtype=line.dtype))


def _headings(places: Tensor) -> Tensor:
    """Direction half a metre ahead, then averaged over half a metre, so that corners become turns."""
    reach = max(1, round(0.5 / _STEP))
    index = torch.arange(len(places))
    ahead = places[(index + reach).clamp(max=len(places) - 1)] - places[(index - 1).clamp(min=0)]
    headings = _unwrap(torch.atan2(ahead[:, 0], ahead[:, 1]))
    padded = torch.cat([headings[:1].expand(reach), headings, headings[-1:].expand(reach)])
    return padded.unfold(0, 2 * reach + 1, 1).mean(-1)


def _turn(angle: float) -> Tensor:
    """A turn on the spot that starts and ends gently."""
    s = torch.linspace(0, 1, math.ceil(abs(angle) / _TURN_STEP) + 1, dtype=torch.float64)
    return angle * s * s * (3 - 2 * s)


def _unwrap(angle: Tensor) -> Tensor:
    step = torch.remainder(angle.diff() + math.pi, 2 * math.pi) - math.pi
    return torch.cat([angle[:1], angle[:1] + step.cumsum(0)])


def _evenly_in_time(places: Tensor, headings: Tensor, n: int) -> tuple[Tensor, Tensor]:
    spent = places.diff(dim=0).norm(dim=-1) / _SPEED + headings.diff().abs() / _TURN_RATE
    clock = torch.cat([spent.new_zeros(1), spent.cumsum(0)])
    at = torch.linspace(0, float(clock[-1]), n, dtype=clock.dtype)
    both = interpolate(clock, torch.cat([places, headings[:, None]], -1), at)
    return both[:, :2], both[:, 2]


def interpolate(x: Tensor, y: Tensor, at: Tensor) -> Tensor:
    right = torch.searchsorted(x, at).clamp(1, len(x) - 1)
    left = right - 1
    share = ((at - x[left]) / (x[right] - x[left]).clamp(min=1e-12)).clamp(0, 1)[:, None]
    return y[left] + share * (y[right] - y[left])


def _cameras(eye: Float[Tensor, "n 3"], aim: Float[Tensor, "n 3"], width: int, height: int, fov: float) -> Cameras:
    up = torch.tensor([0.0, -1.0, 0.0], dtype=eye.dtype)
    return Cameras.from_fov(look_at(eye, eye + aim, up), width, height, fov).to(dtype=torch.float32)
