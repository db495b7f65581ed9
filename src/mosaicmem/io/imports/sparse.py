"""Depth of a whole frame from the few points of a reconstruction that it sees.

Around every point its surface is known for about the distance to the next one, and no farther: between neighbours
that lie on one plane the depth is the plane's (inverse depth is linear in the picture), at an edge that of the nearest
point, and beyond the reach of all points it stays unknown.
"""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F

from mosaicmem._shapes import Bool, Float, Tensor

NEIGHBOURS = 8
REACH = 2.0  # in mean distances between points
FLAT = 0.1  # of its inverse depth, how far a neighbour may lie off the plane
SPREAD = 1.5  # factor between the depths of neighbours up to which they may be of one surface: three always fit a plane
_CHUNK = 2**22


def dense_depth(
    uv: Float[Tensor, "p 2"], z: Float[Tensor, "p"], width: int, height: int, step: int = 1
) -> Float[Tensor, "H W"]:
    """z-depth of a `width x height` picture, 0 = unknown.

    Args:
        uv: Where points are seen, pixels.
        z: Their z-depth, world units; those outside the picture or behind the camera are left out.
        step: Depth is found once for every block of this many pixels, at the middle pixel.
    """
    uv, z = uv.double(), z.double()
    inside = (z > 0) & z.isfinite() & (uv >= 0).all(-1) & (uv[:, 0] < width) & (uv[:, 1] < height)
    uv, z = uv[inside], z[inside]
    if not len(z):
        return torch.zeros(height, width)
    m, n = -(-height // step), -(-width // step)
    if len(z) > m * n:
        kept = _one_a_block(uv, step, n)
        uv, z = uv[kept], z[kept]
    spacing = math.sqrt(width * height / len(z))
    v, u = torch.meshgrid(torch.arange(m), torch.arange(n), indexing="ij")
    at = (torch.stack([u, v], -1).reshape(-1, 2) * step + step // 2 + 0.5).double()
    chunks = [_inverse_depth(part, uv, 1 / z, spacing) for part in at.split(max(1, _CHUNK // len(z)))]
    inverse = torch.cat(chunks).view(m, n)
    coarse = torch.where(inverse > 0, 1 / inverse.clamp(min=1e-30), 0.0).float()
    return F.interpolate(coarse[None, None], scale_factor=step, mode="nearest")[0, 0, :height, :width]


def sparse_depth(uv: Float[Tensor, "p 2"], z: Float[Tensor, "p"], width: int, height: int) -> Float[Tensor, "H W"]:
    """The nearest point of every pixel that has one, and 0 elsewhere."""
    out = torch.full((height * width,), torch.inf)
    inside = (z > 0) & z.isfinite() & (uv >= 0).all(-1) & (uv[:, 0] < width) & (uv[:, 1] < height)
    at = uv[inside].floor().long()
    out.scatter_reduce_(0, at[:, 1] * width + at[:, 0], z[inside].float(), "amin")
    return torch.where(out.isfinite(), out, 0.0).view(height, width)


def unhidden(
    uv: Float[Tensor, "p 2"], z: Float[Tensor, "p"], width: int, height: int, margin: float = 1.2
) -> Bool[Tensor, "p"]:
    """Which points of a cloud a picture can see: not those clearly behind another one near by in the picture.

    Args:
        margin: A point is hidden behind one that is nearer by more than this factor.
    """
    inside = (z > 0) & z.isfinite() & (uv >= 0).all(-1) & (uv[:, 0] < width) & (uv[:, 1] < height)
    if not bool(inside.any()):
        return inside
    cell = max(1.0, math.sqrt(width * height / int(inside.sum())))
    m, n = math.ceil(height / cell), math.ceil(width / cell)
    at = (uv[inside] / cell).floor().long()
    index = at[:, 1].clamp(max=m - 1) * n + at[:, 0].clamp(max=n - 1)
    nearest = torch.full((m * n,), torch.inf, dtype=z.dtype).scatter_reduce(0, index, z[inside], "amin")
    around = -F.max_pool2d(-nearest.view(1, 1, m, n), 3, stride=1, padding=1).flatten()
    out = inside.clone()
    out[inside] = z[inside] <= margin * around[index]
    return out


def _one_a_block(uv: Tensor, step: int, columns: int) -> Tensor:
    """Rows of the points next to the middles of their blocks: more would cost time and say nothing."""
    block = (uv / step).floor().long()
    away = (uv - (block + 0.5) * step).square().sum(-1)
    order = away.argsort(stable=True)
    number = (block[:, 1] * columns + block[:, 0])[order]
    number, ranked = number.sort(stable=True)
    first = torch.ones_like(number, dtype=torch.bool)
    first[1:] = number[1:] != number[:-1]
    return order[ranked[first]]


def _inverse_depth(at: Tensor, uv: Tensor, inverse: Tensor, spacing: float) -> Tensor:
    """Inverse depth at pixels `at` `[q 2]`, 0 = unknown, by weighted planes through the nearest points."""
    distance, index = torch.cdist(at, uv).topk(min(NEIGHBOURS, len(uv)), largest=False)
    y, near = inverse[index], distance <= REACH * spacing
    weight = torch.exp(-((distance / spacing) ** 2) / 2) * near
    offset = (uv[index] - at[:, None]) / spacing
    design = F.pad(offset, (1, 0), value=1.0)
    total = weight.sum(-1).clamp(min=1e-12)
    ridge = torch.diag(torch.tensor([0.0, 1e-2, 1e-2], dtype=at.dtype)) * total[:, None, None]
    normal = torch.einsum("qk,qki,qkj->qij", weight, design, design) + ridge
    normal = normal + 1e-12 * torch.eye(3, dtype=at.dtype)
    plane = torch.linalg.solve(normal, torch.einsum("qk,qki,qk->qi", weight, design, y)[..., None])
    off = ((design @ plane)[..., 0] - y).abs() * near
    low, high = torch.where(near, y, torch.inf).amin(-1), torch.where(near, y, 0).amax(-1)
    flat = (off <= FLAT * y).all(-1) & (plane[:, 0, 0] > 0) & (high <= SPREAD * low)
    found = torch.where(flat, plane[:, 0, 0], y[:, 0])
    return torch.where(near[:, 0], found, 0.0)
