"""Pinhole projection. Pixel (0, 0) is centred at (0.5, 0.5); depth is z-depth; nothing is ever clamped."""

from __future__ import annotations

import torch

from mosaicmem._shapes import Bool, Float, Tensor
from mosaicmem.errors import GeometryError


def pixel_centers(
    width: int,
    height: int,
    *,
    stride: float = 1,
    dtype: torch.dtype = torch.float32,
    device: torch.device | None = None,
) -> Float[Tensor, "rows cols 2"]:
    """Centres `((j + 1/2) stride, (i + 1/2) stride)` of a grid of `height x width` elements, in pixels, as (u, v)."""
    u = (torch.arange(width, dtype=dtype, device=device) + 0.5) * stride
    v = (torch.arange(height, dtype=dtype, device=device) + 0.5) * stride
    return torch.stack(torch.meshgrid(u, v, indexing="xy"), dim=-1)


def invert_intrinsics(Ks: Float[Tensor, "*b 3 3"]) -> Float[Tensor, "*b 3 3"]:
    """Closed-form inverse of a skew-free pinhole matrix."""
    fx, fy, cx, cy = Ks[..., 0, 0], Ks[..., 1, 1], Ks[..., 0, 2], Ks[..., 1, 2]
    out = torch.zeros_like(Ks)
    out[..., 0, 0], out[..., 1, 1], out[..., 2, 2] = 1 / fx, 1 / fy, 1
    out[..., 0, 2], out[..., 1, 2] = -cx / fx, -cy / fy
    return out


def unproject(
    uv: Float[Tensor, "*#b n 2"], depth: Float[Tensor, "*#b n"], Ks: Float[Tensor, "*#b 3 3"]
) -> Float[Tensor, "*b n 3"]:
    """Camera-space points at z-depth `depth` behind pixels `uv`."""
    f = torch.stack([Ks[..., 0, 0], Ks[..., 1, 1]], -1)[..., None, :]
    c = torch.stack([Ks[..., 0, 2], Ks[..., 1, 2]], -1)[..., None, :]
    xy = (uv - c) / f * depth[..., None]
    return torch.cat([xy, depth[..., None].expand(*xy.shape[:-1], 1)], dim=-1)


def project(
    points: Float[Tensor, "*#b n 3"], Ks: Float[Tensor, "*#b 3 3"]
) -> tuple[Float[Tensor, "*b n 2"], Float[Tensor, "*b n"]]:
    """Pixels and z-depth of camera-space points.

    A point at or behind the camera keeps its depth `z <= 0` and gets the pixel that the division gives (not
    finite at z = 0): the caller masks by depth.
    """
    f = torch.stack([Ks[..., 0, 0], Ks[..., 1, 1]], -1)[..., None, :]
    c = torch.stack([Ks[..., 0, 2], Ks[..., 1, 2]], -1)[..., None, :]
    z = points[..., 2]
    uv = points[..., :2] / z[..., None] * f + c
    return uv, z.expand(uv.shape[:-1])


def in_image(uv: Float[Tensor, "*b 2"], width: int, height: int) -> Bool[Tensor, "*b"]:
    """Half-open rule: `0 <= u < width` and `0 <= v < height`."""
    u, v = uv.unbind(-1)
    return (u >= 0) & (u < width) & (v >= 0) & (v < height)


def fov_to_focal(fov_degrees: float, extent: float) -> float:
    """Focal length in pixels of an image side of `extent` pixels seen under `fov_degrees`.

    Raises:
        GeometryError: unless `0 < fov_degrees < 180`.
    """
    if not 0 < fov_degrees < 180:
        raise GeometryError(f"field of view {fov_degrees} degrees; a pinhole camera needs one above 0 and below 180")
    return float(extent / 2 / torch.tan(torch.deg2rad(torch.tensor(fov_degrees / 2, dtype=torch.float64))))
