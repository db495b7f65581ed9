"""`Scene`: a small world of solids and lights that can be cast, rendered and walked in.

The caster is dense: every ray meets every solid, in chunks that stay in cache, at about 30 floating-point operations a
pair. A scene of 60 solids therefore needs about 2 kFLOP a ray, plus as much again for soft corners: a physical limit of
some 10 M rays/s on one 3 GHz core with 8-wide SIMD at perfect efficiency. See docs/worlds.md for what is reached.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from mosaicmem._shapes import Bool, Float, Int64, Tensor
from mosaicmem.errors import GeometryError
from mosaicmem.geometry.cameras import Cameras
from mosaicmem.geometry.projection import pixel_centers
from mosaicmem.worlds.primitives import Solids, clearance, intersect
from mosaicmem.worlds.shading import Lights, Materials, shade, sky_colour, surface_at

_PAIRS_PER_CHUNK = 2**18  # [p, n] float32 temporaries of 1 MiB; smaller ones are bound by call overhead


@dataclass(frozen=True)
class Hits:
    """What `n` rays met: `t` (inf: the sky), `object_id` (0: the sky), outward unit `normal`, `rgb` in [-1, 1]."""

    t: Float[Tensor, " n"]
    object_id: Int64[Tensor, " n"]
    normal: Float[Tensor, "n 3"]
    rgb: Float[Tensor, "n 3"]


@dataclass(frozen=True)
class Rendering:
    """Frames with exact everything.

    Attributes:
        rgb: `[n 3 H W]` in [-1, 1].
        depth: `[n H W]` z-depth at pixel centres, metres; 0 = sky.
        normal: `[n 3 H W]` outward unit normals in the world; 0 for the sky.
        object_id: `[n H W]` index into `Scene.names`; 0 = sky.
    """

    rgb: Float[Tensor, "n 3 H W"]
    depth: Float[Tensor, "n H W"]
    normal: Float[Tensor, "n 3 H W"]
    object_id: Int64[Tensor, "n H W"]


@dataclass(frozen=True)
class Scene:
    """A world. y points down, the floor is y = 0, metres and seconds.

    Attributes:
        solids, materials, lights: What there is (float64; computed in the type of the rays).
        names: Name of each object id; 0 is the sky.
        room_lo, room_hi: `[r 3]` corners of the rooms' free space.
        reserved: `[k 3]` discs (x, z, radius) that moving things sweep.
        waypoints: `[k 2]` (x, z) of a free path from the first room's far end through every doorway to the last's.
        caption: What is there and what happens, in words.
        seed: What it was made from.
    """

    solids: Solids
    materials: Materials
    lights: Lights
    names: tuple[str, ...]
    room_lo: Float[Tensor, "r 3"]
    room_hi: Float[Tensor, "r 3"]
    reserved: Float[Tensor, "k 3"]
    waypoints: Float[Tensor, "w 2"]
    caption: str
    seed: int

    def cast(
        self, origins: Float[Tensor, "n 3"], directions: Float[Tensor, "n 3"], time: float = 0.0
    ) -> Hits:  # fmt: skip
        """Follow rays to the first surface, at `origin + t direction`; directions need not be unit.

        Patterns are sampled at a point here; `render` averages them over the pixel.

        Raises:
            GeometryError: on a direction of length zero or a ray that is not finite.
        """
        if not bool(origins.isfinite().all() & directions.isfinite().all() & (directions != 0).any(-1).all()):
            raise GeometryError("cast: a ray is not finite or has no direction; expected finite, non-zero directions")
        zero = torch.zeros_like(directions)
        return self._cast(origins, directions, zero, zero, time, colour=True)

    def render(self, cameras: Cameras, time: float | Float[Tensor, " n"] = 0.0, supersample: int = 1) -> Rendering:
        """Frames of the scene at one time, or at one time per camera (seconds).

        Depth, normal and object are those of the ray through the pixel's centre. `supersample` s averages the colour of
        s x s rays a pixel. Runs in the type of the cameras.

        Raises:
            GeometryError: if `supersample` is below 1 or times and cameras differ in number.
        """
        n, (W, H) = len(cameras), (cameras.width, cameras.height)
        times = time.tolist() if isinstance(time, Tensor) else [float(time)] * n
        if len(times) != n:
            raise GeometryError(f"render: {len(times)} times for {n} cameras; expected one time, or one per camera")
        if supersample < 1:
            raise GeometryError(f"render: supersample {supersample}; expected 1 or more")
        like = {"dtype": cameras.viewmats.dtype, "device": cameras.viewmats.device}
        rgb, normal = torch.empty(n, 3, H, W, **like), torch.empty(n, 3, H, W, **like)
        depth = torch.empty(n, H, W, **like)
        object_id = torch.empty(n, H, W, dtype=torch.int64, device=cameras.viewmats.device)
        for i, (camera, at) in enumerate(zip(cameras, times, strict=True)):
            hits = self._cast(*_pixel_rays(camera), at, colour=supersample == 1)
            depth[i] = torch.where(hits.t.isfinite(), hits.t, torch.zeros_like(hits.t)).view(H, W)
            normal[i], object_id[i] = hits.normal.T.reshape(3, H, W), hits.object_id.view(H, W)
            if supersample > 1:
                fine = camera.resized(W * supersample, H * supersample)
                hits = self._cast(*_pixel_rays(fine), at, colour=True)
                blocks = hits.rgb.view(H, supersample, W, supersample, 3)
                rgb[i] = blocks.mean((1, 3)).permute(2, 0, 1)
            else:
                rgb[i] = hits.rgb.T.reshape(3, H, W)
        return Rendering(rgb, depth, normal, object_id)

    def depth(self, cameras: Cameras, time: float = 0.0) -> Float[Tensor, "n H W"]:
        """z-depth at pixel centres as in `render`, 0 = sky, without the cost of colour."""
        hits = [self._cast(*_pixel_rays(camera), time, colour=False).t for camera in cameras]
        t = torch.stack(hits).view(len(cameras), cameras.height, cameras.width)
        return torch.where(t.isfinite(), t, torch.zeros_like(t))

    def distance(
        self, origins: Float[Tensor, "n 3"], directions: Float[Tensor, "n 3"], time: float = 0.0
    ) -> Float[Tensor, " n"]:
        """`cast(...).t`, without the cost of colour."""
        zero = torch.zeros_like(directions)
        return self._cast(origins, directions, zero, zero, time, colour=False).t

    def is_free(
        self, points: Float[Tensor, "n 3"], margin: float = 0.25, time: float | None = None
    ) -> Bool[Tensor, " n"]:
        """Whether each point lies in a room, at least `margin` metres from every solid.

        At one `time`, or, with None, at all times: then also outside every disc that a moving thing sweeps.
        """
        lo, hi = self.room_lo.to(points), self.room_hi.to(points)
        inside = ((points[:, None] > lo) & (points[:, None] < hi)).all(-1).any(-1) | self._in_doorway(points)
        still = self.solids if time is not None else self.solids.select(self.solids.law == 0)
        solids = still.moved(0.0 if time is None else time).to(points.dtype, points.device)
        free = inside & (clearance(solids, points) > margin)
        if time is None and len(self.reserved):
            discs = self.reserved.to(points)
            away = (points[:, None, [0, 2]] - discs[:, :2]).norm(dim=-1)
            free &= (away > discs[:, 2] + margin).all(-1)
        return free

    def random_cameras(
        self, n: int, generator: torch.Generator, width: int = 160, height: int = 120, fov: float = 70.0
    ) -> Cameras:
        """`n` cameras in free space at eye height, level to 10 degrees, nothing within 1.5 m straight ahead."""
        from mosaicmem.worlds import walks  # walks are about scenes, so the module knows this one

        return walks.random_cameras(self, n, generator, width, height, fov)

    def walk(
        self,
        seed: int,
        n: int,
        kind: Literal["there_and_back", "look_around", "loop"] = "there_and_back",
        *,
        width: int = 160,
        height: int = 120,
        fov: float = 70.0,
    ) -> Cameras:
        """`n` cameras of a walk in free space at eye height; see `walks.walk`."""
        from mosaicmem.worlds import walks

        return walks.walk(self, seed, n, kind, width, height, fov)

    def _in_doorway(self, points: Tensor) -> Tensor:
        """Between two rooms of the chain, where only the doorway is free of walls."""
        lo, hi = self.room_lo.to(points), self.room_hi.to(points)
        x, y = points[:, None, 0], points[:, None, 1]
        between = (x >= hi[:-1, 0]) & (x <= lo[1:, 0]) & (y < hi[:-1, 1]) & (y > lo[:-1, 1])
        return between.any(-1)

    def _cast(
        self, origins: Tensor, directions: Tensor, ddu: Tensor, ddv: Tensor, time: float, *, colour: bool
    ) -> Hits:
        dtype, device = directions.dtype, directions.device
        solids = self.solids.moved(time).to(dtype, device)
        materials, lights = self.materials.to(dtype, device), self.lights.to(dtype, device)
        t = directions.new_empty(len(directions))
        object_id = torch.zeros(len(directions), dtype=torch.int64, device=device)
        normal = torch.zeros_like(directions)
        rgb = sky_colour(directions) if colour else torch.zeros_like(directions)
        step = max(64, _PAIRS_PER_CHUNK // max(1, len(solids)))
        for first in range(0, len(directions), step):
            chunk = slice(first, first + step)
            t[chunk], index = intersect(solids, origins[chunk], directions[chunk])
            hit = t[chunk].isfinite().nonzero().squeeze(-1)
            rays = hit + first
            owner = solids.select(index[hit])
            points = origins[rays] + t[rays, None] * directions[rays]
            surface = surface_at(owner, points, directions[rays], t[rays], ddu[rays], ddv[rays])
            object_id[rays], normal[rays] = owner.object_id, surface.normals
            if colour and len(rays):
                rgb[rays] = shade(surface, solids, materials, lights, time)
        return Hits(t, object_id, normal, rgb)


def _pixel_rays(camera: Cameras) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Origins, directions of z-depth 1 (so that `t` is z-depth), and what one pixel step changes in a direction."""
    like = {"dtype": camera.viewmats.dtype, "device": camera.viewmats.device}
    uv1 = torch.nn.functional.pad(pixel_centers(camera.width, camera.height, **like).view(-1, 2), (0, 1), value=1.0)
    world_from_pixel = camera.c2w[0, :3, :3] @ camera.invert_Ks()[0]
    directions = uv1 @ world_from_pixel.T
    expand = directions.shape
    return (
        camera.centers.expand(expand),
        directions,
        world_from_pixel[:, 0].expand(expand),
        world_from_pixel[:, 1].expand(expand),
    )
