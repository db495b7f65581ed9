"""The warps again: loops over float64 scalars, as slow and as obvious as possible. Only tests should need them."""

from __future__ import annotations

import math

import torch

from mosaicmem._shapes import Float, Int64, Tensor

Matrix = list[list[float]]


def warp_pixel(
    u: float, v: float, depth: float, K_src: Matrix, K_tgt: Matrix, tgt_from_src: Matrix
) -> tuple[float, float, float]:
    """`(u', v', z')` of one source pixel; see `warps.warp_pixels`."""
    x = (u - K_src[0][2]) / K_src[0][0] * depth
    y = (v - K_src[1][2]) / K_src[1][1] * depth
    p = [row[0] * x + row[1] * y + row[2] * depth + row[3] for row in tgt_from_src[:3]]
    if p[2] == 0:
        return math.nan, math.nan, 0.0
    return K_tgt[0][0] * p[0] / p[2] + K_tgt[0][2], K_tgt[1][1] * p[1] / p[2] + K_tgt[1][2], p[2]


def forward_splat_source(
    depth: Float[Tensor, "h w"],
    *,
    K_src: Float[Tensor, "3 3"],
    K_tgt: Float[Tensor, "3 3"],
    tgt_from_src: Float[Tensor, "4 4"],
    size: tuple[int, int],
    near: float = 1e-6,
    tolerance: float = 0.0,
) -> Int64[Tensor, "H W"]:
    """Which source pixel every target pixel shows, -1 for none; see `warps.forward_splat`."""
    h, w = depth.shape
    width, height = size
    cameras = [m.double().tolist() for m in (K_src, K_tgt, tgt_from_src)]
    hits: dict[tuple[int, int], list[tuple[float, float, int]]] = {}
    for i in range(h):
        for j in range(w):
            d = float(depth[i, j])
            if not (math.isfinite(d) and d > 0):
                continue
            u, v, z = warp_pixel(j + 0.5, i + 0.5, d, *cameras)
            if z > near and 0 <= u < width and 0 <= v < height:
                col, row = math.floor(u), math.floor(v)
                distance = (u - col - 0.5) ** 2 + (v - row - 0.5) ** 2
                hits.setdefault((row, col), []).append((distance, z, i * w + j))
    out = torch.full((height, width), -1, dtype=torch.int64)
    for (row, col), points in hits.items():
        front = min(z for _, z, _ in points)
        out[row, col] = min(point for point in points if point[1] <= (1 + tolerance) * front)[2]
    return out


def gather_one(
    values: Float[Tensor, "c h w"],
    x: float,
    y: float,
    *,
    depth_src: Float[Tensor, "h w"],
    depth: float,
    tolerance: float = 0.1,
    min_weight: float = 0.5,
) -> list[float] | None:
    """One read of `warps.backward_gather`; None where it is not good."""
    c, h, w = values.shape
    total, read = 0.0, [0.0] * c
    for col in (math.floor(x), math.floor(x) + 1):
        for row in (math.floor(y), math.floor(y) + 1):
            if not (0 <= col < w and 0 <= row < h):
                continue
            d = float(depth_src[row, col])
            if not d > 0 or abs(d - depth) > tolerance * depth:
                continue
            weight = (1 - abs(x - col)) * (1 - abs(y - row))
            total += weight
            read = [r + weight * float(values[k, row, col]) for k, r in enumerate(read)]
    return [r / total for r in read] if total >= min_weight else None
