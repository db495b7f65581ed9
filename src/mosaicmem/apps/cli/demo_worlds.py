"""The walks of the demo: out and back through a procedural world, with everything that is really there."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from mosaicmem._shapes import Bool, Float, Tensor
from mosaicmem.apps.cli.config import DemoConfig
from mosaicmem.errors import ConfigError
from mosaicmem.evaluation.revisit import covisible
from mosaicmem.generation.script import Script
from mosaicmem.geometry.cameras import Cameras
from mosaicmem.geometry.se3 import axis_angle
from mosaicmem.geometry.trajectories import resample
from mosaicmem.worlds import Scene, make_scene

_YAW_PER_METRE = 0.5  # radians the view turns aside for each metre of sway
_SHARE_OF_LEG = 0.8  # of the way to the far wall: beyond, the picture is all wall
_CLEARANCE = 0.15  # metres kept from everything while swaying


@dataclass(frozen=True)
class Walk:
    """A walk whose first `seen` frames are the way out.

    Attributes:
        path: One camera a frame, float64.
        rgb, depth: The truth.
        seen: Frames of the way out.
        exact: Whether memory is given the true depth; else it is estimated from the frames.
        source: In words.
        words: What is there and happens.
    """

    path: Cameras
    rgb: Float[Tensor, "n 3 H W"]
    depth: Float[Tensor, "n H W"]
    seen: int
    exact: bool
    source: str
    words: Script = field(default_factory=Script)

    def __len__(self) -> int:
        return len(self.path)

    def remembered(self, every: int) -> list[int]:
        """Frames of the way out that enter memory: the first, the last, and every so many before that."""
        return sorted({0, *range(self.seen - 1, 0, -every)})

    def seen_before(self, every: int) -> Bool[Tensor, "b H W"]:
        """Pixels of the way back whose surface a remembered frame shows."""
        path = self.path.to(dtype=torch.float32)
        masks = torch.zeros(len(self) - self.seen, *self.depth.shape[1:], dtype=torch.bool)
        for k in range(self.seen, len(self)):
            for i in self.remembered(every):
                masks[k - self.seen] |= covisible(self.depth[k], path[k], self.depth[i], path[i])
        return masks


def film_world(demo: DemoConfig) -> Walk:
    """A world of the kind that trained models know; things move, and depth is not given.

    Raises:
        ConfigError: if frames are not square, or their number is not one more than a multiple of 16.
    """
    from mosaicmem.worlds.episodes import make_episode

    if demo.width != demo.height:
        raise ConfigError(
            f"width = {demo.width}, height = {demo.height}: worlds are filmed square; expected equal ones"
        )
    world = make_episode(demo.world, kind=demo.path, size=demo.width, frames=demo.num_frames, with_event=False)
    shown = world.film()
    path = world.cameras.to(dtype=torch.float64)
    source = f"procedural world {demo.world}"
    words = Script.of(world.caption, world.told)
    return Walk(path, shown.rgb, shown.depth, (len(path) + 1) // 2, False, source, words)


def render_room(demo: DemoConfig, seed: int) -> Walk:
    """A room for the compositor: nothing moves, and depth is exact."""
    scene = make_scene(seed, movers=False)
    out, back = out_and_back(scene, demo, seed)
    path = Cameras.cat([out, back])
    parts = [scene.render(camera) for camera in path.to(dtype=torch.float32)]
    rgb, depth = torch.cat([p.rgb for p in parts]), torch.cat([p.depth for p in parts])
    return Walk(path, rgb, depth, len(out), True, f"procedural world, seed {seed}")


def out_and_back(scene: Scene, demo: DemoConfig, seed: int) -> tuple[Cameras, Cameras]:
    """The way out, through the doorway to the far end, and a way back that ends where it all began.

    Going back the camera faces as it did on the way out (it walks backwards), but strays sideways by up to
    `demo.sway` and turns a little, so that no pose but the last repeats one of the way out.
    """
    walk = scene.walk(seed, 8 * demo.num_frames, "there_and_back", width=demo.width, height=demo.height)
    steps = walk.centers.diff(dim=0).norm(dim=-1)
    standing = (steps < 1e-6).nonzero()
    leg = walk[: int(standing[0]) + 1] if len(standing) else walk
    count = (demo.num_frames + 1) // 2
    out = resample(leg[: max(2, round(_SHARE_OF_LEG * len(leg)))], frames=count)
    mirrored = resample(out[list(range(count - 1, -1, -1))], frames=demo.num_frames - count + 1)[1:]
    sway = demo.sway
    while sway > 0.01:
        back = _swayed(mirrored, sway)
        if bool(scene.is_free(back.centers, margin=_CLEARANCE).all()):
            return out, back
        sway /= 2
    return out, mirrored


def _swayed(path: Cameras, sway: float) -> Cameras:
    phase = torch.linspace(0, 1, len(path) + 1, dtype=path.viewmats.dtype)[1:]
    aside = sway * torch.sin(2 * torch.pi * phase) * torch.sin(torch.pi * phase)
    turn = axis_angle(path.up, _YAW_PER_METRE * aside)
    c2w = path.c2w
    c2w[:, :3, 3] += aside[:, None] * path.right
    c2w[:, :3, :3] = turn @ c2w[:, :3, :3]
    return Cameras.from_c2w(c2w, path.Ks, path.width, path.height)
