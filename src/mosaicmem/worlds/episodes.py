"""Episodes: what the shipped model learns from and is judged by.

An episode is a scene, a path that leaves a place and comes back to it, things that move, at most one event, and words
that say so; all from one seed. Held-out seeds are fixed here and refused by training.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch

from mosaicmem._shapes import Float, Tensor
from mosaicmem.errors import ConfigError, GeometryError
from mosaicmem.geometry.cameras import Cameras, look_at
from mosaicmem.worlds import walks
from mosaicmem.worlds.builder import MOVER_COLOURS, NUMBERS, make_scene
from mosaicmem.worlds.film import film
from mosaicmem.worlds.parts import PALETTE, article
from mosaicmem.worlds.primitives import SWING
from mosaicmem.worlds.scene import Rendering, Scene

HELD_OUT = range(900_000, 1_000_000)
"""Seeds that training refuses."""
FPS = 24.0
BALL_COLOURS = ("red", "blue", "yellow", "green", "purple", "white")
LIGHT_COLOURS = ("red", "blue", "green")
PATHS = ("turn", "walk", "loop", "jitter", "out")
_SPEED, _TURN = 0.07, math.radians(2.6)  # at most so many metres and radians a frame
_MARGIN = 0.3
_TRIES = 80

PathKind = Literal["turn", "walk", "loop", "jitter", "out"]


class Event(NamedTuple):
    """Something that happens, on demand or by itself.

    Attributes:
        frame: First frame at which it is told; one more than a multiple of 4, so that it never splits a latent.
        text: What a prompt says of it, from then on: "the ball turns blue", "a door opens".
    """

    frame: int
    text: str


def spoken(caption: str, told: Iterable[Event], frame: int) -> str:
    """The words that hold at a frame: a caption, and a sentence for all that has begun."""
    return " ".join([caption, *(f"{text}." for at, text in told if at <= frame)])


@dataclass(frozen=True)
class Episode:
    """A filmed walk.

    Attributes:
        seed, kind: What it was made from.
        scene: The world before the event.
        cameras: One per frame; their number is one more than a multiple of 16.
        caption: What is there and moves all the time, in the few words that a prompt uses.
        event: What happens on demand, or None.
        happens: What begins by itself at some time and is told then: a door opens.
    """

    seed: int
    kind: PathKind
    scene: Scene
    cameras: Cameras
    caption: str
    event: Event | None = None
    happens: tuple[Event, ...] = ()

    def __len__(self) -> int:
        return len(self.cameras)

    @property
    def told(self) -> tuple[Event, ...]:
        """All that is told besides the caption: what begins by itself, then the event."""
        return self.happens if self.event is None else (*self.happens, self.event)

    def prompt(self, frame: int) -> str:
        """The words that hold at a frame: the caption, and a sentence for all that has begun."""
        return spoken(self.caption, self.told, frame)

    def undisturbed(self) -> Episode:
        """The same in which nothing begins by itself: doors stay shut."""
        solids = self.scene.solids
        params = solids.law_params.clone()
        params[solids.law == SWING, 1] = math.inf
        return replace(self, scene=replace(self.scene, solids=replace(solids, law_params=params)), happens=())

    def film(self, frames: slice = slice(None), *, event: str | None = None) -> Rendering:
        """The true frames. `event` replaces the text of what happens; "" lets nothing happen."""
        chosen = range(len(self))[frames]
        at = len(self) if self.event is None else self.event.frame
        text = event if event is not None else "" if self.event is None else self.event.text
        before = [i for i in chosen if i < at or not text]
        after = [i for i in chosen if i >= at and text]
        parts = [film(self.scene, self.cameras[before], torch.tensor(before) / FPS, finer=2)] if before else []
        if after:
            changed = happen(self.scene, text, at / FPS)
            parts.append(film(changed, self.cameras[after], torch.tensor(after) / FPS, finer=2))
        return Rendering(
            torch.cat([p.rgb for p in parts]),
            torch.cat([p.depth for p in parts]),
            torch.cat([p.normal for p in parts]),
            torch.cat([p.object_id for p in parts]),
        )

    def revisit_of(self, frame: int) -> int | None:
        """The first frame with the same camera as this one (to 1 mm and 0.1 degrees), if there is an earlier one."""
        c2w = self.cameras.c2w
        near = (c2w[:frame, :3, 3] - c2w[frame, :3, 3]).norm(dim=-1) < 1e-3
        near &= (c2w[:frame, :3, :3] - c2w[frame, :3, :3]).flatten(1).norm(dim=-1) < 2.5e-3
        return int(near.nonzero()[0]) if bool(near.any()) else None


def make_episode(
    seed: int,
    *,
    kind: PathKind | None = None,
    size: int = 128,
    frames: int | None = None,
    with_event: bool | None = None,
) -> Episode:
    """An episode, the same for the same arguments, bit for bit.

    Args:
        seed: Any; those of `HELD_OUT` are for judging.
        kind: `turn` (away and back on the spot), `walk` (a few steps, perhaps through a doorway, and back), `loop` (a
            closed ellipse), `jitter` (about one place), or `out` (away, without coming back); None draws one.
        size: Side of the square frames, pixels.
        frames: Length; None takes what the path needs (65 to 161). A longer one goes the same way more slowly, or
            again and again.
        with_event: Whether something happens on demand; None draws.

    Raises:
        ConfigError: if `frames` is not one more than a multiple of 16.
    """
    if frames is not None and (frames < 17 or frames % 16 != 1):
        raise ConfigError(f"frames = {frames}; expected one more than a multiple of 16, such as 97")
    rng = random.Random(seed * 7919 + 17)  # noqa: S311 - pictures, not secrets
    rooms = rng.choices((1, 2, 3), (35, 50, 15))[0]
    texture = rng.choice(("smooth", "smooth", "stripes", "mixed"))
    scene = make_scene(seed, rooms=rooms, texture=texture, walls="vivid")
    chosen: PathKind = kind or rng.choices(PATHS, (35, 30, 15, 8, 12))[0]  # pyright: ignore[reportAssignmentType]
    places, headings, tilt = _path(scene, chosen, rng, frames)
    fov = rng.uniform(66.0, 76.0)
    aim = torch.stack([headings.sin(), tilt.tan(), headings.cos()], -1)
    height = torch.full_like(headings, -walks.EYE_HEIGHT)
    eye = torch.stack([places[:, 0], height, places[:, 1]], -1)
    up = torch.tensor([0.0, -1.0, 0.0], dtype=torch.float64)
    cameras = Cameras.from_fov(look_at(eye, eye + aim, up), size, size, fov)
    episode = Episode(seed, chosen, scene, cameras, _caption(scene, rooms), happens=_happens(scene))
    wanted = rng.random() < 0.6 if with_event is None else with_event
    return replace(episode, event=_event(episode, rng)) if wanted else episode


def happen(scene: Scene, text: str, time: float) -> Scene:
    """The scene in which something has begun at `time`.

    Raises:
        ConfigError: if the text is no event that scenes know.
    """
    words = text.split()
    if len(words) == 4 and words[:3] == ["the", "ball", "turns"] and words[3] in PALETTE:
        colour = scene.materials.colour.clone()
        second = scene.materials.second.clone()
        for i in _named(scene, "ball"):
            colour[i] = torch.tensor(PALETTE[words[3]])
            second[i] = 0.62 * colour[i]
        return replace(scene, materials=replace(scene.materials, colour=colour, second=second))
    if text == "the light goes out":
        return replace(scene, lights=replace(scene.lights, out_at=torch.full_like(scene.lights.out_at, time)))
    if len(words) == 4 and words[:3] == ["the", "light", "turns"] and words[3] in LIGHT_COLOURS:
        tint = torch.full((3,), 0.25, dtype=torch.float64)
        tint[("red", "green", "blue").index(words[3])] = 1.15
        return replace(scene, lights=replace(scene.lights, colour=scene.lights.colour * tint))
    raise ConfigError(
        f"no event {text!r}; expected 'the ball turns COLOUR', 'the light goes out' or 'the light turns ...'"
    )


def events_of(scene: Scene) -> tuple[str, ...]:
    """Every event that can happen in a scene."""
    lights = ("the light goes out", *(f"the light turns {c}" for c in LIGHT_COLOURS))
    balls = tuple(f"the ball turns {c}" for c in BALL_COLOURS) if _named(scene, "ball") else ()
    return balls + lights


def _event(episode: Episode, rng: random.Random) -> Event:
    scene, n = episode.scene, len(episode)
    lights = [e for e in events_of(scene) if "light" in e]
    at = 1 + 4 * rng.randrange(3, max(4, (n - 17) // 4))
    balls = [e for e in events_of(scene) if "ball" in e]
    if balls and rng.random() < 0.75:
        seen = [f for f in range(13, n - 16, 4) if ball_share(episode, f + 8) > 0.004]
        if seen:
            return Event(rng.choice(seen), rng.choice(balls))
    return Event(at, rng.choice(lights))


def ball_share(episode: Episode, frame: int) -> float:
    """Share of a frame that shows a ball."""
    camera = episode.cameras[frame].resized(48, 48)
    ids = film(episode.scene, camera, frame / FPS, finer=1).object_id
    return float(torch.isin(ids, torch.tensor(_named(episode.scene, "ball"))).float().mean())


def movers(scene: Scene) -> Tensor:
    """Object ids of what moves by itself."""
    return scene.solids.object_id[scene.solids.law != 0].unique()


def _named(scene: Scene, name: str) -> list[int]:
    return [i for i, n in enumerate(scene.names) if n == name]


def _caption(scene: Scene, rooms: int) -> str:
    things = [n for n in dict.fromkeys(scene.names) if n in _THINGS]
    start = "a room" if rooms == 1 else f"{NUMBERS[rooms]} rooms"
    holds = ", ".join(article(name) for name in things)
    moving = movers(scene).tolist()
    happens = []
    for name, does in _MOVES.items():
        named = [i for i in moving if scene.names[i] == name]
        looks = dict.fromkeys(f"{_colour(scene, i)} {name}" if name in _COLOURED else name for i in named)
        happens += [f"{article(look)} {does}" for look in looks]
    return ". ".join([f"{start} with {holds}" if holds else start, *happens]) + "."


_THINGS = ("sofa", "table", "cupboard", "crate", "pedestal", "plant", "shelf", "lamp shade", "picture", "door")
_MOVES = {"ball": "bounces", "lift": "goes up and down"}
_COLOURED = ("ball", "lift")
"""Small things are told by their colour: which of all is the ball, before anything happens to it."""


def _happens(scene: Scene) -> tuple[Event, ...]:
    """Doors that open, by rising frame, told from the first frame on or up to three frames earlier.

    A light that goes out by itself is not told: which of several rooms is dark now, no few words say.
    """
    starts = scene.solids.law_params[scene.solids.law == SWING, 1]
    return tuple(Event(1 + math.floor(at * FPS) // 4 * 4, "a door opens") for at in sorted(starts.tolist()))


def _colour(scene: Scene, object_id: int) -> str:
    seen = scene.materials.colour[object_id]
    return min(MOVER_COLOURS, key=lambda name: float((seen - torch.tensor(PALETTE[name])).square().sum()))


def _path(scene: Scene, kind: PathKind, rng: random.Random, frames: int | None) -> tuple[Tensor, Tensor, Tensor]:
    """Places, headings and tilt, one per frame; the last is the first for all kinds but `out`."""
    makers: dict[str, Callable[[Scene, random.Random], tuple[Tensor, Tensor] | None]] = {
        "turn": _turn_away,
        "walk": _walk_away,
        "loop": _ellipse,
        "jitter": _jitter,
        "out": _walk_away,
    }
    for attempt in range(_TRIES):
        found = makers[kind if attempt < _TRIES // 2 else "turn"](scene, rng)
        if found is None:
            continue
        places, headings = found
        if kind in ("turn", "walk"):
            places, headings = torch.cat([places, places.flip(0)[1:]]), torch.cat([headings, headings.flip(0)[1:]])
        places, headings = _timed(places, headings, frames)
        if frames is None and not 65 <= len(places) <= 161:
            continue
        tilt = math.radians(4) + torch.zeros_like(headings)
        if kind == "jitter":
            tilt += math.radians(3) * torch.sin(torch.linspace(0, 4 * math.pi, len(tilt), dtype=tilt.dtype))
        return places, headings, tilt
    raise GeometryError(f"no free path found in scene {scene.seed}")


def _timed(places: Tensor, headings: Tensor, frames: int | None) -> tuple[Tensor, Tensor]:
    """One row per frame, as quick as the speed limits allow, or over a given number of frames."""
    steps = torch.maximum(places.diff(dim=0).norm(dim=-1) / _SPEED, headings.diff().abs() / _TURN)
    needed = float(steps.sum())
    count = frames or 1 + 16 * max(4, math.ceil(needed / 16))
    laps = max(1, math.ceil((count - 1) / max(needed * 1.8, 1.0))) if bool((places[0] == places[-1]).all()) else 1
    if laps > 1:
        turned = headings[-1] - headings[0]
        places = torch.cat([places, *[places[1:]] * (laps - 1)])
        headings = torch.cat([headings, *[headings[1:] + turned * k for k in range(1, laps)]])
        steps = steps.repeat(laps)
    # unhurried starts and ends: the clock of a walk is its steps, evenly spent
    clock = torch.cat([steps.new_zeros(1), (steps + 1e-9).cumsum(0)])
    at = torch.linspace(0, float(clock[-1]), count, dtype=clock.dtype)
    both = walks.interpolate(clock, torch.cat([places, headings[:, None]], -1), at)
    return both[:, :2], both[:, 2]


def _turn_away(scene: Scene, rng: random.Random) -> tuple[Tensor, Tensor] | None:
    place = _spot(scene, rng)
    s = _ease(96)
    turn = math.radians(rng.uniform(60, 175)) * rng.choice((-1, 1))
    headings = rng.uniform(0, 2 * math.pi) + turn * s
    radius, angle = rng.uniform(0.0, 0.5), rng.uniform(0, 2 * math.pi)
    places = place + radius * torch.stack([torch.cos(angle + turn * s), torch.sin(angle + turn * s)], -1)
    return (places, headings) if _clear(scene, places, headings) else None


def _walk_away(scene: Scene, rng: random.Random) -> tuple[Tensor, Tensor] | None:
    start = _spot(scene, rng)
    line = scene.waypoints
    if len(scene.room_lo) > 1 and rng.random() < 0.6:  # through a doorway, either way
        i = 1 + 2 * rng.randrange(len(scene.room_lo) - 1)
        here, there = (line[i], line[i + 1]) if rng.random() < 0.5 else (line[i + 1], line[i])
        far = there + (there - here) * rng.uniform(0.1, 0.8)
        points = torch.stack([here + (here - there) * rng.uniform(0.0, 0.6), here, there, far])
    else:
        angle, length = rng.uniform(0, 2 * math.pi), rng.uniform(0.8, 2.6)
        points = torch.stack([start, start + length * start.new_tensor([math.cos(angle), math.sin(angle)])])
    dense = walks.dense(points)
    places = walks.interpolate(torch.linspace(0, 1, len(dense), dtype=dense.dtype), dense, _ease(96))
    along = points[-1] - points[0]
    ahead = math.atan2(float(along[0]), float(along[1]))
    bend = math.radians(rng.uniform(-110, 110))
    headings = ahead + math.radians(rng.uniform(-40, 40)) + bend * _ease(96) ** 2
    return (places, headings) if _clear(scene, places, headings) else None


def _ellipse(scene: Scene, rng: random.Random) -> tuple[Tensor, Tensor] | None:
    center, sign = _spot(scene, rng), rng.choice((-1.0, 1.0))
    angle = rng.uniform(0, 2 * math.pi) + sign * torch.linspace(0, 2 * math.pi, 193, dtype=torch.float64)
    a, b = rng.uniform(0.3, 0.9), rng.uniform(0.3, 0.9)
    places = center + torch.stack([a * angle.cos(), b * angle.sin()], -1)
    headings = -angle + rng.choice((0.0, math.pi / 2, -math.pi / 2))
    places[-1] = places[0]
    return (places, headings) if _clear(scene, places, headings) else None


def _jitter(scene: Scene, rng: random.Random) -> tuple[Tensor, Tensor] | None:
    place, s = _spot(scene, rng), torch.linspace(0, 2 * math.pi, 193, dtype=torch.float64)
    wave = [
        rng.uniform(-1, 1) * (s * k).sin() + rng.uniform(-1, 1) * ((s * k).cos() - 1) for k in (1, 2, 3) for _ in "ab"
    ]
    places = place + 0.12 * torch.stack([wave[0] + wave[2], wave[1] + wave[3]], -1)
    headings = rng.uniform(0, 2 * math.pi) + math.radians(8) * (wave[4] + wave[5])
    places[-1], headings[-1] = places[0], headings[0]
    return (places, headings) if _clear(scene, places, headings) else None


def _spot(scene: Scene, rng: random.Random) -> Float[Tensor, " 2"]:
    room = rng.randrange(len(scene.room_lo))
    lo, hi = scene.room_lo[room].tolist(), scene.room_hi[room].tolist()
    return torch.tensor(
        [rng.uniform(lo[0] + 0.7, hi[0] - 0.7), rng.uniform(lo[2] + 0.7, hi[2] - 0.7)], dtype=torch.float64
    )


def _clear(scene: Scene, places: Tensor, headings: Tensor) -> bool:
    """Free all along, and nothing within 0.9 m straight ahead at five moments."""
    height = torch.full_like(places[:, 0], -walks.EYE_HEIGHT)
    points = torch.stack([places[:, 0], height, places[:, 1]], -1)
    if not bool(scene.is_free(points[::4], _MARGIN).all()):
        return False
    some = torch.linspace(0, len(places) - 1, 7).long()
    ahead = torch.stack([headings[some].sin(), torch.full_like(headings[some], 0.07), headings[some].cos()], -1)
    return bool((scene.distance(points[some], ahead) > 0.9).all())


def _ease(count: int) -> Tensor:
    s = torch.linspace(0, 1, count, dtype=torch.float64)
    return 0.5 * s + 0.5 * s * s * (3 - 2 * s)
