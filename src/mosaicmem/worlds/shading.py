"""Colour of surface points: patterns filtered by the pixel's footprint, Lambert light, soft corners, a sky.

Patterns are filtered in closed form before they are sampled, so a texture never flickers between pixels and memory
never stores noise. Silhouettes are not filtered: ask for `supersample` where that matters.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from mosaicmem._shapes import Float, Int64, Tensor
from mosaicmem.worlds.primitives import Solids, clearance, normals_at, smoothstep, to_local

SMOOTH, CHECKER, STRIPES = 0, 1, 2
FILTER_SIGMA = 0.4  # of the Gaussian that stands for a pixel, in pixels
AMBIENT = 0.42
EXPOSURE = 2.3
CORNER_REACH = 0.35  # metres within which other surfaces take ambient light away
HORIZON, ZENITH = (0.84, 0.90, 0.95), (0.36, 0.58, 0.86)


@dataclass(frozen=True)
class Materials:
    """One row per object, row 0 for the sky.

    Attributes:
        colour, second: `[o 3]` the two colours of the pattern, in [0, 1].
        pattern: `[o]` SMOOTH, CHECKER or STRIPES.
        cell: `[o]` side of a checker or width of a stripe, metres.
        waves: `[o 4 3]` wave vectors of the smooth pattern, radians per metre.
        phases: `[o 4]` radians.
    """

    colour: Float[Tensor, "o 3"]
    second: Float[Tensor, "o 3"]
    pattern: Int64[Tensor, " o"]
    cell: Float[Tensor, " o"]
    waves: Float[Tensor, "o 4 3"]
    phases: Float[Tensor, "o 4"]

    def to(self, dtype: torch.dtype, device: torch.device) -> Materials:
        """Change the type of the floating-point fields, and the device of all."""
        floats = {k: getattr(self, k).to(device, dtype) for k in ("colour", "second", "cell", "waves", "phases")}
        return replace(self, **floats, pattern=self.pattern.to(device))


@dataclass(frozen=True)
class Lights:
    """`l` point lights, each belonging to a room; light fades with the distance to that room.

    Attributes:
        position: `[l 3]`, metres.
        colour: `[l 3]` strength per channel at 1 m.
        room_lo, room_hi: `[l 3]` corners of the room that the light fills, metres.
        out_at: `[l]` second at which it starts to go out, over half a second; inf = never.
    """

    position: Float[Tensor, "l 3"]
    colour: Float[Tensor, "l 3"]
    room_lo: Float[Tensor, "l 3"]
    room_hi: Float[Tensor, "l 3"]
    out_at: Float[Tensor, " l"]

    def to(self, dtype: torch.dtype, device: torch.device) -> Lights:
        """Change the type and device."""
        return Lights(**{k: v.to(device, dtype) for k, v in vars(self).items()})

    def strength(self, time: float) -> Float[Tensor, "l 3"]:
        """Colour of each light at `time`, seconds."""
        return self.colour * (1 - smoothstep((time - self.out_at) / 0.5))[:, None]


@dataclass(frozen=True)
class Surface:
    """`n` points on solids: position, outward normal, the solid each lies on, and what a pixel step moves them by."""

    points: Float[Tensor, "n 3"]
    normals: Float[Tensor, "n 3"]
    local: Float[Tensor, "n 3"]
    local_normals: Float[Tensor, "n 3"]
    owner: Solids
    du: Float[Tensor, "n 3"]
    dv: Float[Tensor, "n 3"]


def surface_at(
    owner: Solids, points: Float[Tensor, "n 3"], directions: Float[Tensor, "n 3"], t: Float[Tensor, " n"],
    ddu: Float[Tensor, "n 3"], ddv: Float[Tensor, "n 3"],
) -> Surface:  # fmt: skip
    """Geometry at hits; `ddu`, `ddv` are what one pixel changes in the direction (ray differentials, Igehy 1999)."""
    normals, local, local_normals = normals_at(owner, points)
    slope = (normals * directions).sum(-1, keepdim=True)
    slope = torch.where(slope.abs() < 1e-3 * directions.norm(dim=-1, keepdim=True), slope + 1e-3, slope)
    steps = [t[:, None] * (dd - directions * (normals * dd).sum(-1, keepdim=True) / slope) for dd in (ddu, ddv)]
    du, dv = (to_local(owner, step) for step in steps)
    return Surface(points, normals, local, local_normals, owner, du, dv)


def shade(surface: Surface, solids: Solids, materials: Materials, lights: Lights, time: float) -> Float[Tensor, "n 3"]:
    """Colour in [-1, 1] of each surface point: `1 - exp(-exposure pattern (ambient + sum of lights))` per channel."""
    albedo = pattern_colour(surface, materials)
    light = AMBIENT * _openness(surface, solids)[:, None] * (1 + 0.12 * -surface.normals[:, 1:2])
    for position, colour, lo, hi in zip(
        lights.position, lights.strength(time), lights.room_lo, lights.room_hi, strict=True
    ):
        to_light = position - surface.points
        squared = to_light.square().sum(-1, keepdim=True)
        facing = (surface.normals * to_light).sum(-1, keepdim=True) / squared.sqrt().clamp(min=1e-6)
        outside = torch.maximum(lo - surface.points, surface.points - hi).clamp(min=0).norm(dim=-1, keepdim=True)
        spill = (1 - outside / 1.5).clamp(min=0).square()
        light = light + colour * (0.25 + 0.75 * facing).clamp(min=0) * spill / (1 + 0.22 * squared)
    return 1 - 2 * torch.exp(-EXPOSURE * albedo * light)


def pattern_colour(surface: Surface, materials: Materials) -> Float[Tensor, "n 3"]:
    """Pattern of each point's object, averaged over the pixel's footprint, in [0, 1]."""
    which = surface.owner.object_id
    p = surface.local + surface.owner.anchor
    pattern, cell = materials.pattern[which], materials.cell[which][:, None]
    mix = _smooth_mix(p, surface, materials.waves[which], materials.phases[which])
    width = (surface.du.abs() + surface.dv.abs()) / cell
    square = _filtered_square(p / cell, width)
    # a face has no pattern along its own normal; a turned surface (sphere, side of a cylinder) is ruled by height
    flat = surface.local_normals.abs() > 0.999
    square = torch.where(flat, torch.ones_like(square), square)
    curved = ~flat.any(-1)
    checker = torch.where(curved, square[:, 1], square.prod(-1))
    stripes = torch.where(curved, square[:, 1], torch.where(flat[:, 0], square[:, 2], square[:, 0]))
    mix = torch.where(pattern == CHECKER, (1 + checker) / 2, mix)
    mix = torch.where(pattern == STRIPES, (1 + stripes) / 2, mix)[:, None]
    return materials.colour[which] * mix + materials.second[which] * (1 - mix)


def sky_colour(directions: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
    """Sky in [-1, 1]: pale at the horizon, blue above, smooth everywhere. Up is -y."""
    up = -directions[:, 1:2] / directions.norm(dim=-1, keepdim=True).clamp(min=1e-12)
    horizon, zenith = directions.new_tensor(HORIZON), directions.new_tensor(ZENITH)
    return 2 * (horizon + (zenith - horizon) * smoothstep(up * 1.1)) - 1


def _smooth_mix(p: Tensor, surface: Surface, waves: Tensor, phases: Tensor) -> Tensor:
    spread = torch.einsum("nkc,nc->nk", waves, surface.du).square()
    spread = spread + torch.einsum("nkc,nc->nk", waves, surface.dv).square()
    damp = torch.exp(-0.5 * FILTER_SIGMA**2 * spread)  # a Gaussian's effect on a cosine is exact
    cosines = torch.cos(torch.einsum("nkc,nc->nk", waves, p) + phases)
    return 0.5 + 0.5 * (damp * cosines).mean(-1)


def _filtered_square(x: Tensor, width: Tensor) -> Tensor:
    """Square wave of period 2 (+1 on [0, 1)), averaged over a window of `width`: differences of its integral."""
    width = width.clamp(min=1e-4)

    def integral(v: Tensor) -> Tensor:
        return 1 - (torch.remainder(v, 2.0) - 1).abs()

    return (integral(x + width / 2) - integral(x - width / 2)) / width


def _openness(surface: Surface, solids: Solids) -> Tensor:
    """Ambient light that nearby surfaces leave, from the clearance a little above the surface (in [0.45, 1])."""
    above = surface.points + CORNER_REACH * surface.normals
    free = clearance(solids, above).clamp(max=CORNER_REACH) / CORNER_REACH
    return 1 - 0.55 * (1 - free).square()
