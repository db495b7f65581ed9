"""Warps between views: where a source pixel lands, which of several wins, and the way back.

The forward direction scatters source pixels through their own depth and keeps the nearest surface (`z_buffer`,
`forward_splat`). The backward direction asks, for every target pixel with a known depth, where it lies in the source
(`inverse_grid`), and reads there (`bilinear_taps`, `backward_gather`). Slow twins of all of them are in `reference`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mosaicmem._shapes import Bool, Float, Int64, Tensor
from mosaicmem.geometry import se3
from mosaicmem.geometry.projection import in_image, pixel_centers, project, unproject


def warp_pixels(
    uv: Float[Tensor, "*b n 2"],
    depth: Float[Tensor, "*b n"],
    *,
    K_src: Float[Tensor, "*b 3 3"],
    K_tgt: Float[Tensor, "*b 3 3"],
    tgt_from_src: Float[Tensor, "*b 4 4"],
) -> tuple[Float[Tensor, "*b n 2"], Float[Tensor, "*b n"]]:
    """Move source pixels to where their surface appears in the target view (Eq. 2).

    Args:
        uv: Source pixel coordinates, in pixels, pixel (0, 0) centred at (0.5, 0.5).
        depth: z-depth at those pixels, in world units (not ray length).
        K_src, K_tgt: Intrinsics, in pixels.
        tgt_from_src: Rigid transform, `viewmat_tgt @ invert(viewmat_src)`.

    Returns:
        Target pixel coordinates and target z-depth. Nothing is clamped: a point behind the
        target camera keeps its negative depth, and the caller masks it.
    """
    return project(se3.transform_points(tgt_from_src, unproject(uv, depth, K_src)), K_tgt)


def z_buffer(cell: Int64[Tensor, "n"], depth: Float[Tensor, "n"], num_cells: int) -> Float[Tensor, "cells"]:
    """Smallest depth that lands in each cell, infinity where nothing does.

    Args:
        cell: Target cell of each point, in `0 .. num_cells - 1`.
        depth: z-depth of each point in the target view.
    """
    buffer = depth.new_full((num_cells,), torch.inf)
    return buffer.scatter_reduce(0, cell, depth, "amin")


def nearest_points(
    cell: Int64[Tensor, "n"],
    depth: Float[Tensor, "n"],
    distance: Float[Tensor, "n"],
    num_cells: int,
    *,
    tolerance: float = 0.0,
) -> Int64[Tensor, "cells"]:
    """The point that each cell shows, -1 where there is none.

    Three ordered reductions, so the answer does not depend on the order in which threads arrive: among the points
    no deeper than `(1 + tolerance)` times the nearest one the smallest `distance` wins, then the smallest depth,
    then the lowest index.

    Args:
        cell: Target cell of each point.
        depth: Positive z-depth of each point in the target view.
        distance: How far from the centre of its cell each point landed, in any monotone measure.
        tolerance: Relative depth within which points count as one surface.
    """
    index = torch.arange(len(cell), device=cell.device)
    front = z_buffer(cell, depth, num_cells)
    index = index[depth <= (1 + tolerance) * front[cell]]
    for key in (distance, depth):
        best = z_buffer(cell[index], key[index], num_cells)
        index = index[key[index] == best[cell[index]]]
    winner = torch.full((num_cells,), len(cell), dtype=torch.int64, device=cell.device)
    winner = winner.scatter_reduce(0, cell[index], index, "amin")
    return torch.where(winner == len(cell), -1, winner)


@dataclass(frozen=True)
class Splat:
    """A source view seen from a target camera.

    Attributes:
        values: `[c H W]` source values at the pixels that something landed on, 0 elsewhere.
        depth: `[H W]` target z-depth, world units, 0 where nothing landed.
        source: `[H W]` row-major index of the source pixel, -1 where nothing landed.
    """

    values: Float[Tensor, "c H W"]
    depth: Float[Tensor, "H W"]
    source: Int64[Tensor, "H W"]

    @property
    def covered(self) -> Bool[Tensor, "H W"]:
        """Where something landed."""
        return self.source >= 0


def forward_splat(
    values: Float[Tensor, "c h w"],
    depth: Float[Tensor, "h w"],
    *,
    K_src: Float[Tensor, "3 3"],
    K_tgt: Float[Tensor, "3 3"],
    tgt_from_src: Float[Tensor, "4 4"],
    size: tuple[int, int] | None = None,
    near: float = 1e-6,
    tolerance: float = 0.0,
) -> Splat:
    """Scatter source pixels to the target pixels they land in, the nearest surface in front.

    Every source pixel touches one target pixel, so a magnified surface has gaps and shows what is behind it; memory
    retrieval uses footprints for that reason. Differentiable in `values` and, through the kept depths, in `depth`.

    Args:
        values: Source picture or features, one value per source pixel.
        depth: Source z-depth, world units; not positive or not finite means unknown, and nothing is drawn for it.
        K_src, K_tgt: Intrinsics, pixels of the source and target grids.
        tgt_from_src: Rigid transform, `viewmat_tgt @ invert(viewmat_src)`.
        size: `(width, height)` of the target; that of the source if not given.
        near: Points at or before this target z-depth are not drawn, world units.
        tolerance: As in `nearest_points`.
    """
    h, w = depth.shape
    width, height = size or (w, h)
    known = (depth.isfinite() & (depth > 0)).flatten()
    uv = pixel_centers(w, h, dtype=depth.dtype, device=depth.device).flatten(0, 1)
    safe_depth = torch.where(known, depth.flatten(), torch.ones_like(depth.flatten()))
    uv, z = warp_pixels(uv, safe_depth, K_src=K_src, K_tgt=K_tgt, tgt_from_src=tgt_from_src)

    pixel = (known & (z > near) & in_image(uv, width, height)).nonzero().squeeze(-1)
    uv, z = uv[pixel], z[pixel]
    corner = uv.detach().floor()
    cell = (corner[:, 1] * width + corner[:, 0]).long()
    distance = (uv.detach() - corner - 0.5).square().sum(-1)
    winner = nearest_points(cell, z.detach(), distance, width * height, tolerance=tolerance)

    drawn = winner >= 0
    if not bool(drawn.any()):
        empty = torch.full((height, width), -1, dtype=torch.int64, device=depth.device)
        return Splat(values.new_zeros(values.shape[0], height, width), depth.new_zeros(height, width), empty)
    source = torch.where(drawn, pixel[winner.clamp(min=0)], -1)
    picture = torch.where(drawn, values.flatten(1)[:, source.clamp(min=0)], 0)
    buffer = torch.where(drawn, z[winner.clamp(min=0)], 0)
    return Splat(
        picture.unflatten(1, (height, width)),
        buffer.unflatten(0, (height, width)),
        source.unflatten(0, (height, width)),
    )


def inverse_grid(
    depth_tgt: Float[Tensor, "H W"],
    *,
    K_src: Float[Tensor, "3 3"],
    K_tgt: Float[Tensor, "3 3"],
    src_from_tgt: Float[Tensor, "4 4"],
) -> tuple[Float[Tensor, "H W 2"], Float[Tensor, "H W"]]:
    """Source pixel and source z-depth of every target pixel centre, given the target's z-depth.

    The inverse of `warp_pixels` along the same surface. Unknown depth (0) gives the source camera's view of the
    target camera's centre, so the caller masks by `depth_tgt`; a point behind the source keeps its depth `<= 0`.
    """
    height, width = depth_tgt.shape
    uv = pixel_centers(width, height, dtype=depth_tgt.dtype, device=depth_tgt.device).flatten(0, 1)
    uv, z = warp_pixels(uv, depth_tgt.flatten(), K_src=K_tgt, K_tgt=K_src, tgt_from_src=src_from_tgt)
    return uv.unflatten(0, (height, width)), z.unflatten(0, (height, width))


def bilinear_taps(
    xy: Float[Tensor, "*b 2"], width: int, height: int
) -> tuple[Int64[Tensor, "*b 4"], Float[Tensor, "*b 4"]]:
    """Row-major indices and weights of the four grid elements around `xy`, integer at element centres.

    A tap outside the grid, or around a coordinate that is not finite, has weight 0 and index 0.
    """
    finite = xy.isfinite().all(-1, keepdim=True)
    xy = torch.where(finite, xy, -2.0)
    corner = xy.detach().floor()
    fx, fy = (xy - corner).unbind(-1)
    weight = torch.stack([(1 - fx) * (1 - fy), fx * (1 - fy), (1 - fx) * fy, fx * fy], dim=-1)
    x = corner[..., :1] + corner.new_tensor([0, 1, 0, 1])
    y = corner[..., 1:] + corner.new_tensor([0, 0, 1, 1])
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    index = torch.where(inside, y * width + x, 0).long()
    return index, torch.where(inside, weight, 0)


def backward_gather(
    values: Float[Tensor, "c h w"],
    xy: Float[Tensor, "*b 2"],
    *,
    depth_src: Float[Tensor, "h w"],
    depth: Float[Tensor, "*b"],
    tolerance: float = 0.1,
    min_weight: float = 0.5,
) -> tuple[Float[Tensor, "c *b"], Bool[Tensor, "*b"]]:
    """Bilinear read of `values` at `xy` from the source elements that lie on the expected surface only.

    A tap counts if it is inside, its depth is known, and it agrees with the expected depth within `tolerance`; the
    counted weights are renormalised. Without that test a gather stretches the foreground into what it uncovers.
    Differentiable in `values` and in `xy`.

    Args:
        values: Source features, one per grid element.
        xy: Where to read, in elements, integer at element centres.
        depth_src: Source z-depth at element centres, world units; 0 or not finite means unknown.
        depth: z-depth in the source view expected at each place, world units.
        tolerance: Largest `|depth_src - depth| / depth` of a tap that counts.
        min_weight: Counted weight from which a read is good.

    Returns:
        Values (0 where the read is not good) and whether each read is good.
    """
    h, w = depth_src.shape
    index, weight = bilinear_taps(xy, w, h)
    tap_depth = depth_src.flatten()[index]
    agrees = (tap_depth > 0) & ((tap_depth - depth[..., None]).abs() <= tolerance * depth[..., None])
    weight = torch.where(agrees, weight, 0)
    total = weight.sum(-1)
    good = total >= min_weight
    read = (values.flatten(1)[:, index] * weight).sum(-1) / torch.where(good, total, 1)
    return torch.where(good, read, 0), good


MAX_SLOPE = 0.3
"""Inverse depth that changes by more than this share of itself per cell is an edge, not a slope."""

MAX_BEND = 0.005
"""Three cells whose inverse depths are off a line by more than this share are not one surface."""


def inverse_depth_slopes(
    depth: Float[Tensor, "*b h w"],
    valid: Bool[Tensor, "*b h w"],
    max_slope: float = MAX_SLOPE,
    max_bend: float = MAX_BEND,
) -> Float[Tensor, "*b h w 2"]:
    """Change of inverse depth per cell along (x, y): the tangent plane of the surface in every cell.

    Inverse depth is linear across the image of a plane. Along each axis, of the three runs of three cells that
    contain the cell (centred on it, ending in it, starting in it) the straightest is taken, so that a surface is
    continued by its own side of an edge. Where none is straight, as on noise and on thin things, the slope is 0.

    Args:
        depth: z-depth at cell centres, world units; what invalid cells hold is not read.

    Returns:
        float64, 0 at invalid cells.
    """
    inverse = torch.where(valid, 1 / depth.double(), torch.nan)
    slopes = []
    for axis in (-1, -2):
        padded = torch.nn.functional.pad(inverse, (2, 2, 0, 0) if axis == -1 else (0, 0, 2, 2), value=torch.nan)
        count = inverse.shape[axis]
        cells = [padded.narrow(axis, offset, count) for offset in range(5)]
        runs = [cells[first : first + 3] for first in (1, 0, 2)]
        bends = torch.stack([(a - 2 * b + c).abs().nan_to_num(torch.inf) for a, b, c in runs])
        bend, best = bends.min(0)
        slope = torch.stack([(c - a) / 2 for a, _, c in runs]).gather(0, best[None]).squeeze(0)
        straight = (bend <= max_bend * inverse) & (slope.abs() <= max_slope * inverse)
        slopes.append(torch.where(straight, slope, 0.0))
    return torch.stack(slopes, dim=-1)
