"""Cases for the oracle: a procedural room, keyframes all over it, and views from poses that none of them had."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mosaicmem.geometry import se3
from mosaicmem.geometry.cameras import Cameras
from mosaicmem.geometry.token_grid import TokenGrid
from mosaicmem.memory import Keyframe, PatchStore
from mosaicmem.worlds import Scene, make_scene


@dataclass(frozen=True)
class OracleCase:
    """A scene, a memory of it with exact depth, and views to ask for."""

    scene: Scene
    store: PatchStore
    views: Cameras


def oracle_case(
    seed: int, grid: TokenGrid, *, keyframes: int, views: int, step: float = 0.3, turn: float = 17.0
) -> OracleCase:
    """`keyframes` random cameras of scene `seed`; `views` of them again, up to `step` metres, `turn` degrees away."""
    scene = make_scene(seed, rooms=2, movers=False)
    g = torch.Generator().manual_seed(seed)
    cameras = scene.random_cameras(keyframes, g, grid.width, grid.height).to(dtype=torch.float64)
    h, w = grid.cells
    depth = scene.depth(cameras.resized(w, h).to(dtype=torch.float32))  # pixel centres there = cell centres here
    store = PatchStore.empty()
    for i in range(keyframes):
        ones = torch.ones(h, w)
        frame = Keyframe(ones[None], depth[i], depth[i] > 0, ones, cameras[i], grid.stride, grid.patch, i, float(i))
        store = store.insert(frame)
    chosen = cameras[torch.randperm(keyframes, generator=g)[:views]]
    c2w = chosen.c2w.clone()
    for i in range(views):
        c2w[i, :3, 3] += _free_step(scene, c2w[i, :3, 3], step, g)
        angle = torch.deg2rad((2 * torch.rand(1, generator=g, dtype=torch.float64) - 1) * turn)
        c2w[i, :3, :3] = se3.axis_angle(torch.tensor([[0.0, 1, 0]], dtype=torch.float64), angle)[0] @ c2w[i, :3, :3]
    return OracleCase(scene, store, Cameras.from_c2w(c2w, chosen.Ks, chosen.width, chosen.height))


def _free_step(scene: Scene, eye: torch.Tensor, step: float, generator: torch.Generator) -> torch.Tensor:
    for _ in range(100):
        move = (2 * torch.rand(3, generator=generator, dtype=torch.float64) - 1) * step
        move[1] *= 0.3
        if bool(scene.is_free((eye + move)[None].float(), 0.2)[0]):
            return move
    return torch.zeros(3, dtype=torch.float64)
