"""Solids a scene is made of: boxes turned about y, spheres and capped vertical cylinders; where rays meet them, how far
points are from them, and how they move.

The world's y axis points down. Every function works on all pairs of solid and ray (or point) at once, one axis at a
time as `[p, n]`; the caller bounds `n`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from mosaicmem._shapes import Float, Int64, Tensor

BOX, SPHERE, CYLINDER = 0, 1, 2
STILL, BOUNCE, LIFT, SWING = 0, 1, 2, 3
MIN_T = 1e-5
_TINY = 1e-12


@dataclass(frozen=True)
class Solids:
    """`p` solids, sorted by kind, boxes that are axis-aligned first.

    Attributes:
        kind: `[p]` BOX, SPHERE or CYLINDER.
        center: `[p 3]`, metres.
        size: `[p 3]` half extents of a box; `(r, r, r)` of a sphere; `(r, half height, r)` of a cylinder.
        yaw: `[p]` turn about y, radians: `world = Ry(yaw) local + center`.
        anchor: `[p 3]` added to local coordinates before texturing, so that the slabs of one wall share a pattern.
        object_id: `[p]` from 1; 0 is the sky.
        law: `[p]` STILL, BOUNCE, LIFT or SWING.
        law_params: `[p 4]`, see `moved`.
    """

    kind: Int64[Tensor, " p"]
    center: Float[Tensor, "p 3"]
    size: Float[Tensor, "p 3"]
    yaw: Float[Tensor, " p"]
    anchor: Float[Tensor, "p 3"]
    object_id: Int64[Tensor, " p"]
    law: Int64[Tensor, " p"]
    law_params: Float[Tensor, "p 4"]

    def __len__(self) -> int:
        return len(self.kind)

    def to(self, dtype: torch.dtype, device: torch.device) -> Solids:
        """Change the type of the floating-point fields, and the device of all."""
        floats = {k: getattr(self, k).to(device, dtype) for k in ("center", "size", "yaw", "anchor", "law_params")}
        ints = {k: getattr(self, k).to(device) for k in ("kind", "object_id", "law")}
        return replace(self, **floats, **ints)

    def select(self, index: Tensor) -> Solids:
        """The solids named by an index or mask."""
        return Solids(**{k: v[index] for k, v in vars(self).items()})

    def sorted(self) -> Solids:
        """In the order that `intersect` asks for; stable."""
        key = self.kind * 2 + ((self.kind == BOX) & ((self.yaw != 0) | (self.law == SWING))).long()
        return self.select(torch.argsort(key, stable=True))

    def moved(self, time: float) -> Solids:
        """Where everything is at `time`, seconds.

        BOUNCE `(height, period, phase)`: rises by `height (1 - (2 s - 1)^2)`, `s = frac(time / period + phase)`: free
        fall between elastic bounces. LIFT `(height, period, phase)`: rises by `height (1 - cos 2 pi s) / 2`.
        SWING `(angle, start, duration, hinge)`: the box turns by `angle smoothstep((time - start) / duration)` about
        the vertical axis at local x = `hinge`.
        """
        a, b, c, d = self.law_params.unbind(-1)
        center, yaw = self.center.clone(), self.yaw.clone()
        s = torch.remainder(time / torch.where(b > 0, b, torch.ones_like(b)) + c, 1.0)
        rise = torch.where(self.law == BOUNCE, a * (1 - (2 * s - 1) ** 2), torch.zeros_like(a))
        rise = torch.where(self.law == LIFT, a * (1 - torch.cos(2 * math.pi * s)) / 2, rise)
        center[:, 1] -= rise
        swing = self.law == SWING
        angle = torch.where(swing, a * smoothstep((time - b) / torch.where(c > 0, c, torch.ones_like(c))), 0 * a)
        turned = yaw + angle
        center[:, 0] += torch.where(swing, d * (torch.cos(yaw) - torch.cos(turned)), 0 * a)
        center[:, 2] += torch.where(swing, d * (torch.sin(turned) - torch.sin(yaw)), 0 * a)
        return replace(self, center=center, yaw=turned)


def smoothstep(x: Tensor) -> Tensor:
    """`3 x^2 - 2 x^3` on [0, 1], constant outside."""
    x = x.clamp(0, 1)
    return x * x * (3 - 2 * x)


def intersect(
    solids: Solids, origins: Float[Tensor, "n 3"], directions: Float[Tensor, "n 3"]
) -> tuple[Float[Tensor, " n"], Int64[Tensor, " n"]]:
    """First surface crossing of each ray beyond `MIN_T`: parameter `t` (inf for none) and index of the solid.

    `directions` need not be unit: the point is `origin + t direction`. A ray that starts inside a solid meets its far
    side. Equal distances go to the lower index.
    """
    turned = (solids.kind == BOX) & ((solids.yaw != 0) | (solids.law == SWING))
    counts = [
        int(((solids.kind == BOX) & ~turned).sum()),
        int(turned.sum()),
        int((solids.kind == SPHERE).sum()),
        int((solids.kind == CYLINDER).sum()),
    ]
    best = torch.full((len(origins),), math.inf, dtype=origins.dtype, device=origins.device)
    index = torch.zeros(len(origins), dtype=torch.int64, device=origins.device)
    start = 0
    for count, meet in zip(counts, (_meet_aligned, _meet_turned, _meet_spheres, _meet_cylinders), strict=True):
        if count:
            part = solids.select(torch.arange(start, start + count, device=origins.device))
            t, winner = meet(part, origins, directions).min(dim=0)
            closer = t < best
            best = torch.where(closer, t, best)
            index = torch.where(closer, winner + start, index)
        start += count
    return best, index


def clearance(solids: Solids, points: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
    """Distance from each point to the nearest solid, metres; 0 inside one, inf where there is none."""
    best = torch.full((len(points),), math.inf, dtype=points.dtype, device=points.device)
    for kind in (BOX, SPHERE, CYLINDER):
        part = solids.select(solids.kind == kind)
        if not len(part):
            continue
        x, y, z = _local(part, points)
        sx, sy, sz = (s[:, None] for s in part.size.unbind(-1))
        if kind == BOX:
            squared = (x.abs_() - sx).clamp_(min=0).square_()
            squared.add_((y.abs_() - sy).clamp_(min=0).square_()).add_((z.abs_() - sz).clamp_(min=0).square_())
            distance = squared.amin(0).sqrt()
        elif kind == SPHERE:
            distance = ((x * x + y * y + z * z).sqrt() - sx).amin(0)
        else:
            side, cap = ((x * x + z * z).sqrt() - sx).clamp(min=0), (y.abs() - sy).clamp(min=0)
            distance = (side * side + cap * cap).amin(0).sqrt()
        best = torch.minimum(best, distance)
    return best.clamp(min=0)


def normals_at(
    solids: Solids, points: Float[Tensor, "n 3"]
) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n 3"], Float[Tensor, "n 3"]]:
    """Outward unit normals of `n` solids at one surface point each; with them the local points and local normals."""
    c, s = solids.yaw.cos(), solids.yaw.sin()
    d = points - solids.center
    local = torch.stack([c * d[:, 0] - s * d[:, 2], d[:, 1], s * d[:, 0] + c * d[:, 2]], -1)
    face = (local.abs() - solids.size).argmax(-1)
    box = torch.nn.functional.one_hot(face, 3).to(local) * torch.where(local < 0, -1.0, 1.0).to(local)
    sphere = torch.nn.functional.normalize(local, dim=-1)
    side = torch.nn.functional.normalize(local * local.new_tensor([1, 0, 1]), dim=-1)
    cap = torch.nn.functional.one_hot(torch.ones_like(face), 3).to(local) * local.sign()
    ground = torch.hypot(local[:, 0], local[:, 2])
    on_cap = (local[:, 1].abs() - solids.size[:, 1]) > (ground - solids.size[:, 0])
    cylinder = torch.where(on_cap[:, None], cap, side)
    kind = solids.kind[:, None]
    normal = torch.where(kind == BOX, box, torch.where(kind == SPHERE, sphere, cylinder))
    world = torch.stack([c * normal[:, 0] + s * normal[:, 2], normal[:, 1], -s * normal[:, 0] + c * normal[:, 2]], -1)
    return world, local, normal


def to_local(solids: Solids, vectors: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
    """Turn one vector per solid into the solid's axes."""
    c, s = solids.yaw.cos(), solids.yaw.sin()
    x, y, z = vectors.unbind(-1)
    return torch.stack([c * x - s * z, y, s * x + c * z], -1)


def _local(solids: Solids, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    x, y, z = (points[None, :, i] - solids.center[:, i, None] for i in range(3))  # [p, n]
    turned = (solids.yaw != 0).nonzero().squeeze(-1)
    if len(turned):
        c, s = solids.yaw[turned].cos()[:, None], solids.yaw[turned].sin()[:, None]
        dx, dz = x[turned], z[turned]
        x[turned], z[turned] = c * dx - s * dz, s * dx + c * dz
    return x, y, z


def _away_from_zero(d: Tensor) -> Tensor:
    return torch.where(d.abs() < _TINY, torch.full_like(d, _TINY).copysign(d), d)


def _slabs(solids: Solids, origin: tuple[Tensor, ...], inverse: tuple[Tensor, ...]) -> Tensor:
    near = far = None
    for axis in range(3):
        o, inv, half = origin[axis], inverse[axis], solids.size[:, axis, None]
        a, b = (-half - o) * inv, (half - o) * inv
        lo, hi = torch.minimum(a, b), torch.maximum(a, b)
        near = lo if near is None else torch.maximum(near, lo)
        far = hi if far is None else torch.minimum(far, hi)
    assert near is not None and far is not None
    t = torch.where(near > MIN_T, near, far)
    return t.masked_fill_((near > far) | (t <= MIN_T), math.inf)


def _meet_aligned(solids: Solids, origins: Tensor, directions: Tensor) -> Tensor:
    near = far = None
    for axis in range(3):
        o, inv = origins[None, :, axis], _away_from_zero(directions[None, :, axis]).reciprocal()
        a = ((solids.center - solids.size)[:, axis, None] - o).mul_(inv)
        b = ((solids.center + solids.size)[:, axis, None] - o).mul_(inv)
        lo, hi = torch.minimum(a, b), torch.maximum(a, b)
        near = lo if near is None else torch.maximum(near, lo, out=near)
        far = hi if far is None else torch.minimum(far, hi, out=far)
    assert near is not None and far is not None
    t = torch.where(near > MIN_T, near, far)
    return t.masked_fill_((near > far) | (t <= MIN_T), math.inf)


def _meet_turned(solids: Solids, origins: Tensor, directions: Tensor) -> Tensor:
    c, s = solids.yaw.cos()[:, None], solids.yaw.sin()[:, None]
    x, y, z = directions[None].unbind(-1)
    local = (c * x - s * z, y.expand(len(solids), -1), s * x + c * z)
    inverse = tuple(_away_from_zero(d).reciprocal() for d in local)
    return _slabs(solids, _local(solids, origins), inverse)


def _meet_spheres(solids: Solids, origins: Tensor, directions: Tensor) -> Tensor:
    x, y, z = _local(solids, origins)
    dx, dy, dz = directions[None].unbind(-1)
    a = dx * dx + dy * dy + dz * dz
    half_b = x * dx + y * dy + z * dz
    # r^2 minus the squared distance of the ray from the centre, taken from the vector: b^2 - 4ac cancels far away
    f = half_b / a
    ex, ey, ez = x - f * dx, y - f * dy, z - f * dz
    gap = solids.size[:, 0, None].square() - (ex * ex + ey * ey + ez * ez)
    reach = (gap / a).sqrt()
    t = torch.where(-f - reach > MIN_T, -f - reach, -f + reach)
    return torch.where((gap >= 0) & (t > MIN_T), t, torch.full_like(t, math.inf))


def _meet_cylinders(solids: Solids, origins: Tensor, directions: Tensor) -> Tensor:
    x, y, z = _local(solids, origins)
    dx, dy, dz = directions[None].unbind(-1)
    r, h = solids.size[:, 0, None], solids.size[:, 1, None]
    a = (dx * dx + dz * dz).clamp(min=_TINY)
    f = (x * dx + z * dz) / a
    ex, ez = x - f * dx, z - f * dz
    gap = r * r - (ex * ex + ez * ez)
    reach = (gap.clamp(min=0) / a).sqrt()
    inv = _away_from_zero(dy).reciprocal()
    y1, y2 = (-h - y) * inv, (h - y) * inv
    near = torch.maximum(-f - reach, torch.minimum(y1, y2))
    far = torch.minimum(-f + reach, torch.maximum(y1, y2))
    t = torch.where(near > MIN_T, near, far)
    return torch.where((gap >= 0) & (near <= far) & (t > MIN_T), t, torch.full_like(t, math.inf))
