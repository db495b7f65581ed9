"""A furnished procedural room with one solid of our own in it, and the memory of a walk around that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from tests.memory.scenes import F64

from mosaicmem.geometry.cameras import Cameras, look_at
from mosaicmem.geometry.token_grid import TokenGrid
from mosaicmem.memory import PatchStore, lift
from mosaicmem.memory.editing import pictured
from mosaicmem.models.synthetic import PixelShuffleVAE
from mosaicmem.worlds import make_scene
from mosaicmem.worlds.primitives import BOX, STILL, Solids
from mosaicmem.worlds.scene import Scene

AT = (2.7, -0.45, -0.9)  # of the solid, in the middle of the room
HALF = (0.4, 0.45, 0.25)


def room(seed: int = 4) -> Scene:
    """A furnished room, cleared in the middle for, as its last object, a turned box in strong colours."""
    bare = make_scene(seed, rooms=1, movers=False, texture="smooth", walls="vivid")
    away = (bare.solids.center - torch.tensor(AT, dtype=F64))[:, [0, 2]].norm(dim=-1) > 2.1
    bare = replace(bare, solids=bare.solids.select(away | (bare.solids.size.amax(-1) > 1.3)))
    f = lambda *x: torch.tensor([x], dtype=F64)  # noqa: E731
    i = lambda x: torch.tensor([x])  # noqa: E731
    number = len(bare.names)
    thing = Solids(i(BOX), f(*AT), f(*HALF), f(0.4)[0], f(0, 0, 0), i(number), i(STILL), f(0, 0, 0, 0))
    solids = Solids(**{k: torch.cat([v, getattr(thing, k)]) for k, v in vars(bare.solids).items()}).sorted()
    m = bare.materials
    waves = torch.tensor([[[6.0, 2, 1], [1, 7, -2], [-3, 1, 5], [9, 4, 2]]], dtype=F64)
    materials = replace(
        m,
        colour=torch.cat([m.colour, f(0.95, 0.85, 0.1)]),
        second=torch.cat([m.second, f(0.1, 0.1, 0.7)]),
        pattern=torch.cat([m.pattern, i(0)]),
        cell=torch.cat([m.cell, f(0.2)[0]]),
        waves=torch.cat([m.waves, waves]),
        phases=torch.cat([m.phases, f(0.1, 0.9, 2.0, 3.0)]),
    )
    return replace(bare, solids=solids, materials=materials, names=(*bare.names, "thing"))


def cameras(grid: TokenGrid, angles: list[float], radius: float = 1.9, height: float = 1.3) -> Cameras:
    """Views of the solid from around it, slightly from above."""
    a = torch.tensor(angles, dtype=F64).deg2rad()
    middle = torch.tensor(AT, dtype=F64)
    eye = torch.stack([middle[0] + radius * a.sin(), torch.full_like(a, -height), middle[2] + radius * a.cos()], -1)
    view = look_at(eye, middle.expand_as(eye), torch.tensor([0.0, -1, 0], dtype=F64).expand_as(eye))
    return Cameras.from_fov(view, grid.width, grid.height, fov_degrees=75.0)


@dataclass
class Seen:
    """A scene, what is remembered of it, and which of that is the solid."""

    scene: Scene
    store: PatchStore
    thing: Callable[[PatchStore], torch.Tensor]


def remember(scene: Scene, grid: TokenGrid, seen: Cameras) -> Seen:
    frames = scene.render(seen)
    vae, store = PixelShuffleVAE(grid.stride), PatchStore.empty()
    for i, latents in enumerate(vae.encode_image(frames.rgb)):
        store = store.insert(lift(latents, frames.depth[i], seen[i], grid, frame=i))
    ids = frames.object_id == scene.names.index("thing")
    return Seen(scene, store, pictured({g.uid: ids[i] for i, g in enumerate(store)}))
