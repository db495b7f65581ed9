"""A small room with one thing in it, remembered from all around, and walks through it."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from tests.memory.edit_scene import AT, room

from mosaicmem.depth import ExactDepth
from mosaicmem.generation.backend import Models
from mosaicmem.generation.rollout import RolloutConfig
from mosaicmem.generation.state import RolloutState, enter, start
from mosaicmem.geometry.cameras import Cameras, look_at
from mosaicmem.io.world import WorldFile
from mosaicmem.live.steps import Maker
from mosaicmem.live.walk import Walk
from mosaicmem.memory import PatchStore, lift
from mosaicmem.models.synthetic import Compositor, PixelShuffleVAE
from mosaicmem.worlds.scene import Scene

SIZE = 48
UP = torch.tensor([0.0, -1.0, 0.0], dtype=torch.float64)
THING = {"kind": "sphere", "point": list(AT), "radius": 0.75}


def views(degrees: list[float], size: int = SIZE, radius: float = 1.9) -> Cameras:
    """Cameras around the thing that look at it, from slightly above."""
    a = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    middle = torch.tensor(AT, dtype=torch.float64)
    eye = torch.stack([middle[0] + radius * a.sin(), torch.full_like(a, -1.3), middle[2] + radius * a.cos()], -1)
    view = look_at(eye, middle.expand_as(eye), UP.expand_as(eye))
    return Cameras.from_fov(view, size, size, fov_degrees=75.0)


@cache
def scene() -> Scene:
    return room()


def maker(generates: bool = True, invents: bool = False, size: int = SIZE) -> Maker:
    depth = ExactDepth(scene()) if invents else None
    models = Models(PixelShuffleVAE(), Compositor(invents=invents), depth, patch=8)
    return Maker(models, RolloutConfig(show_mosaic=False), generates)


@cache
def remembered(size: int = SIZE, degrees: tuple[float, ...] = (0.0, 40.0, -40.0)) -> PatchStore:
    """What is remembered of looking at the thing."""
    grid = maker().models.grid(size, size)
    cameras = views(list(degrees), size)
    store = PatchStore.empty()
    for i in range(len(cameras)):
        seen = scene().render(cameras[i].to(dtype=torch.float32))
        store = store.insert(lift(seen.rgb[0], seen.depth[0], cameras[i], grid, frame=i, time=i / 24))
    return store


def walk(path: Path, *, generates: bool = True, invents: bool = False, size: int = SIZE) -> Walk:
    """A walk that begins in front of the remembered thing; with `invents` in front of nothing but one frame of it."""
    made = maker(generates, invents, size)
    camera = views([0.0], size)
    world = WorldFile.create(path, {"name": "room"}, clock=None)
    state: RolloutState
    if invents:
        seen = scene().render(camera.to(dtype=torch.float32))
        state = start(made.models, seen.rgb[0], camera, seen.depth[0], prompt="a room.")
    else:
        state = enter(made.models, remembered(size), camera, prompt="a room.")
    return Walk(made, state, world, UP, caption="a room.")


def reopened(path: Path, *, generates: bool = True) -> Walk:
    """The walk that goes on in a world file."""
    made = maker(generates)
    world = WorldFile.open(path, write=True, clock=None)
    pose = torch.tensor(world.meta["walk"]["pose"], dtype=torch.float64).reshape(1, 4, 4)
    camera = views([0.0])
    camera = Cameras.from_c2w(pose, camera.Ks, camera.width, camera.height)
    return Walk(made, enter(made.models, world.store, camera, prompt="a room."), world, UP, caption="a room.")
