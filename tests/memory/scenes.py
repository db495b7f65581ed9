"""Small analytic scenes for memory tests: planes and boxes whose depth is known in closed form."""

from __future__ import annotations

import torch

from mosaicmem.geometry.cameras import Cameras, look_at
from mosaicmem.geometry.projection import pixel_centers, unproject
from mosaicmem.geometry.se3 import translation
from mosaicmem.geometry.token_grid import TokenGrid
from mosaicmem.memory import Keyframe, PatchStore, RetrievalConfig
from mosaicmem.memory._threads import Scratch
from mosaicmem.memory.pool import PatchPoints

GRID = TokenGrid(128, 64, stride=8, patch=2)
F64 = torch.float64


def camera(grid: TokenGrid = GRID, *, f: float = 100.0, at: tuple[float, float, float] = (0, 0, 0)) -> Cameras:
    """One camera at `at`, looking along +z."""
    K = torch.tensor([[[f, 0, grid.width / 2], [0, f, grid.height / 2], [0, 0, 1]]], dtype=F64)
    return Cameras(translation(-torch.tensor([at], dtype=F64)), K, grid.width, grid.height)


def turned(yaw: float, grid: TokenGrid = GRID, f: float = 100.0) -> Cameras:
    """One camera at the origin, turned right by `yaw` radians."""
    target = torch.tensor([[0.0, 0, 1]], dtype=F64)
    target[0, 0], target[0, 2] = torch.tensor(yaw).double().sin(), torch.tensor(yaw).double().cos()
    view = look_at(torch.zeros(1, 3, dtype=F64), target, torch.tensor([[0.0, -1, 0]], dtype=F64))
    return Cameras(view, camera(grid, f=f).Ks, grid.width, grid.height)


def random_room_cameras(n: int, seed: int, grid: TokenGrid = GRID) -> Cameras:
    """Cameras inside the room of `room_depth`, looking about."""
    g = torch.Generator().manual_seed(seed)
    eye = (torch.rand(n, 3, generator=g, dtype=F64) - 0.5) * torch.tensor([4.0, 1.5, 4.0])
    target = eye + torch.randn(n, 3, generator=g, dtype=F64) * torch.tensor([1.0, 0.2, 1.0])
    view = look_at(eye, target, torch.tensor([0.0, -1, 0], dtype=F64).expand(n, 3))
    return Cameras(view, camera(grid).Ks.expand(n, 3, 3).clone(), grid.width, grid.height)


def room_depth(cam: Cameras, grid: TokenGrid = GRID) -> torch.Tensor:
    """z-depth `[h w]` at cell centres inside the box |x| < 3, |y| < 1.5, |z| < 3 with a pillar of 0.5 m in it."""
    h, w = grid.cells
    uv = pixel_centers(w, h, stride=grid.stride, dtype=F64).reshape(1, -1, 2)
    ray = unproject(uv, torch.ones(1, h * w, dtype=F64), cam.Ks)[0] @ cam.viewmats[0, :3, :3]
    eye = cam.centers[0]
    size = torch.tensor([3.0, 1.5, 3.0], dtype=F64)
    wall = ((ray.sign() * size - eye) / ray).amin(-1)
    low, high = torch.tensor([0.8, -1.5, 0.8], dtype=F64), torch.tensor([1.3, 1.5, 1.3], dtype=F64)
    t0, t1 = (low - eye) / ray, (high - eye) / ray
    enter, leave = torch.minimum(t0, t1).amax(-1), torch.maximum(t0, t1).amin(-1)
    hit = (enter < leave) & (enter > 0)
    return torch.where(hit, enter, wall).reshape(h, w)


def keyframe(
    depth: torch.Tensor | float,
    cam: Cameras,
    grid: TokenGrid = GRID,
    *,
    frame: int = 0,
    channels: int = 3,
    valid: torch.Tensor | None = None,
) -> Keyframe:
    """A keyframe with random latents (seeded by `frame`) over a depth map or a constant depth."""
    h, w = grid.cells
    if not isinstance(depth, torch.Tensor):
        depth = torch.full((h, w), float(depth), dtype=F64)
    latents = torch.randn(channels, h, w, generator=torch.Generator().manual_seed(frame), dtype=F64)
    ok = torch.ones(h, w, dtype=torch.bool) if valid is None else valid
    return Keyframe(
        latents, depth, ok, torch.ones(h, w, dtype=F64), cam, grid.stride, grid.patch, frame, float(frame), "observed"
    )


def points_seen(store: PatchStore, view: Cameras, config: RetrievalConfig) -> PatchPoints:
    """One point per patch, as thinning sees them in one view at `GRID`."""
    return PatchPoints.under(config, store, view.viewmats[0].numpy(), view.Ks[0].numpy(), GRID, Scratch())
