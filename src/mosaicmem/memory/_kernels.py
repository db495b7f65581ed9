"""Compiled loops of retrieval on the CPU; each has its slow twin in `mosaicmem.memory.reference`.

Geometry arrives as 3x4 pixel maps: `P` takes `d (u, v, 1)` of a source pixel to `z' (u', v', 1)` of the target by
`P[:, :3] @ (d u, d v, d) + P[:, 3]`, and `Q` is the inverse map. Arithmetic is float64 at cells, float32 at patches.
`no_type_check` keeps run-time shape checkers from wrapping what numba is to compile.
"""

from __future__ import annotations

import math
from typing import no_type_check

import numpy as np
from numba import njit


@njit(cache=True, error_model="numpy", inline="always")
@no_type_check
def _first_last(center: float, half: float, stride: float, count: int) -> tuple[int, int]:
    """Grid elements whose centres lie in `[center - half, center + half)`, clipped to the grid."""
    first = max(0, math.ceil((center - half) / stride - 0.5))
    last = min(count - 1, math.ceil((center + half) / stride - 0.5) - 1)
    return first, last


@njit(cache=True, error_model="numpy")
@no_type_check
def pool_zbuffer(centers, radii, offsets, active, view, focal, principal, stride, near, max_half, zbuf):
    """Nearest patch depth per target token. `view` is `[3 4]` float32; `zbuf [m n]` starts at infinity."""
    m, n = zbuf.shape
    for k in range(len(active)):
        for i in range(offsets[active[k]], offsets[active[k] + 1]):
            x, y, z = centers[i, 0], centers[i, 1], centers[i, 2]
            zc = view[2, 0] * x + view[2, 1] * y + view[2, 2] * z + view[2, 3]
            if zc <= near:
                continue
            u = focal[0] * (view[0, 0] * x + view[0, 1] * y + view[0, 2] * z + view[0, 3]) / zc + principal[0]
            v = focal[1] * (view[1, 0] * x + view[1, 1] * y + view[1, 2] * z + view[1, 3]) / zc + principal[1]
            half = min(max(radii[i] * focal[0] / zc, 0.5 * stride), max_half)
            if u + half <= 0 or v + half <= 0 or u - half >= n * stride or v - half >= m * stride:
                continue
            j0, j1 = _first_last(u, half, stride, n)
            i0, i1 = _first_last(v, half, stride, m)
            for row in range(i0, i1 + 1):
                for col in range(j0, j1 + 1):
                    zbuf[row, col] = min(zbuf[row, col], zc)


@njit(cache=True, error_model="numpy")
@no_type_check
def pool_visible(
    centers, radii, offsets, active, view, focal, principal, stride, near, max_half, tau, zbuf, landed, seen
):
    """Tokens each active group shows in front of everything else: `seen [k m n]`, and patches `landed [k]` in view."""
    m, n = zbuf.shape
    for k in range(len(active)):
        for i in range(offsets[active[k]], offsets[active[k] + 1]):
            x, y, z = centers[i, 0], centers[i, 1], centers[i, 2]
            zc = view[2, 0] * x + view[2, 1] * y + view[2, 2] * z + view[2, 3]
            if zc <= near:
                continue
            u = focal[0] * (view[0, 0] * x + view[0, 1] * y + view[0, 2] * z + view[0, 3]) / zc + principal[0]
            v = focal[1] * (view[1, 0] * x + view[1, 1] * y + view[1, 2] * z + view[1, 3]) / zc + principal[1]
            half = min(max(radii[i] * focal[0] / zc, 0.5 * stride), max_half)
            if u + half <= 0 or v + half <= 0 or u - half >= n * stride or v - half >= m * stride:
                continue
            landed[k] += 1
            front = zc - radii[i]
            j0, j1 = _first_last(u, half, stride, n)
            i0, i1 = _first_last(v, half, stride, m)
            for row in range(i0, i1 + 1):
                for col in range(j0, j1 + 1):
                    if front <= (1 + tau) * zbuf[row, col]:
                        seen[k, row, col] = True


@njit(cache=True, error_model="numpy")
@no_type_check
def greedy_cover(quality, weight, order, limit, gain_min, picked, gains):
    """Pick up to `limit` groups, each time the one that adds most; ties go to the earlier in `order`.

    `quality [k q]` says how well group `k` shows element `q`, 0 = not at all; what is gained by a pick is the sum over
    elements of what it shows better than those picked before. Such gains only fall, so a stale one is an upper bound
    and most groups need no second look. `picked [k]` and `gains [k]` (when last looked at) are updated in place.
    Returns the picks in order, all of whose gains are at least `gain_min` and positive.
    """
    count, size = quality.shape
    best_shown = np.zeros(size, quality.dtype)
    bound = np.full(count, np.inf)
    chosen = np.empty(min(limit, count), np.int64)
    num = 0
    while num < len(chosen):
        best, best_score = -1, 0.0
        for o in range(count):
            k = order[o]
            if picked[k] or bound[k] <= best_score:
                continue
            gain = 0.0
            for q in range(size):
                gain += max(quality[k, q] - best_shown[q], 0)
            gains[k] = gain
            bound[k] = gain * weight[k]
            if gain >= gain_min and bound[k] > best_score:
                best, best_score = k, bound[k]
        if best < 0:
            break
        picked[best] = True
        chosen[num] = best
        num += 1
        for q in range(size):
            best_shown[q] = max(best_shown[q], quality[best, q])
    return chosen[:num]


@njit(cache=True, error_model="numpy")
@no_type_check
def tangent_planes(depth, valid, max_slope, max_bend, planes):
    """Inverse depth at each valid cell and its change per cell along x and y: `planes [h w 3]`.

    The twin, and the reasons, are `geometry.warps.inverse_depth_slopes`.
    """
    h, w = depth.shape
    for r in range(h):
        for c in range(w):
            planes[r, c, 0] = 1.0 / float(depth[r, c]) if valid[r, c] else np.nan
    for r in range(h):
        for c in range(w):
            if not valid[r, c]:
                continue
            here = planes[r, c, 0]
            for axis in range(2):
                at, count = (c, w) if axis == 0 else (r, h)
                slope, bend = 0.0, np.inf
                for first in (-1, -2, 0):  # the stencil's first cell: central, backward, forward
                    if at + first < 0 or at + first + 2 >= count:
                        continue
                    if axis == 0:
                        a, b, d = planes[r, c + first, 0], planes[r, c + first + 1, 0], planes[r, c + first + 2, 0]
                    else:
                        a, b, d = planes[r + first, c, 0], planes[r + first + 1, c, 0], planes[r + first + 2, c, 0]
                    second = abs(a - 2 * b + d)
                    if second < bend:  # never true for NaN
                        bend = second
                        slope = 0.5 * (d - a)
                if not (bend <= max_bend * here and abs(slope) <= max_slope * here):
                    slope = 0.0
                planes[r, c, 1 + axis] = slope
    for r in range(h):
        for c in range(w):
            if not valid[r, c]:
                planes[r, c, 0] = 0.0


@njit(cache=True, error_model="numpy")
@no_type_check
def splat_cells(planes, valid, P, stride, near, rho_max, tau, zmin, hit, hit_depth, hit_rho, block):
    """Land every valid source cell in the target grid, with its true footprint, and z-buffer within the group.

    The footprint is the bounding box of the cell's four corners on its tangent plane, at least one target cell wide:
    a wall seen at a glancing angle and now from the front covers many cells with each of its own. Cells magnified
    beyond `rho_max` along an axis are not shown.

    `block [h w]` gets the nearest depth of what stands in the way even where it cannot be read: what lands within a
    quarter of a cell of the centre, and what is magnified too far, within one cell of where it lands.

    `zmin [h w]` starts at infinity and `hit` at -1. `zmin` gets the nearest depth per target cell; `hit` the source
    cell that, among those within `tau` of the nearest, lands closest to the cell's centre (then nearer, then first in
    row order), with its depth and magnification. Returns how many cells landed inside the image, and how many of
    those were magnified too far.
    """
    h_src, w_src = valid.shape
    h, w = zmin.shape
    distance = np.full((h, w), np.inf)
    count = landed = coarse = 0
    step = 0.5 * stride
    kept = np.empty((h_src * w_src, 4))  # x, y, z, rho of the cells that land and are shown
    box = np.empty((h_src * w_src, 5), np.int32)  # first and last row and column of the footprint, source cell
    for r in range(h_src):
        v = (r + 0.5) * stride
        for c in range(w_src):
            if not valid[r, c]:
                continue
            u, inverse = (c + 0.5) * stride, planes[r, c, 0]
            zw = P[2, 0] * u + P[2, 1] * v + P[2, 2] + P[2, 3] * inverse  # z' / d
            z = zw / inverse
            if z <= near:
                continue
            xw = P[0, 0] * u + P[0, 1] * v + P[0, 2] + P[0, 3] * inverse
            yw = P[1, 0] * u + P[1, 1] * v + P[1, 2] + P[1, 3] * inverse
            x, y = xw / zw, yw / zw
            left = right = x
            top = bottom = y
            for corner in range(4):
                sx, sy = 2 * (corner & 1) - 1, (corner & 2) - 1
                bend = 0.5 * (sx * planes[r, c, 1] + sy * planes[r, c, 2])
                zc = zw + step * (sx * P[2, 0] + sy * P[2, 1]) + P[2, 3] * bend
                if zc <= 0.1 * zw:  # the plane nearly reaches the camera: no finite footprint
                    left, right = x - stride * rho_max, x + stride * rho_max
                    break
                xc = (xw + step * (sx * P[0, 0] + sy * P[0, 1]) + P[0, 3] * bend) / zc
                yc = (yw + step * (sx * P[1, 0] + sy * P[1, 1]) + P[1, 3] * bend) / zc
                left, right = min(left, xc), max(right, xc)
                top, bottom = min(top, yc), max(bottom, yc)
            rho = max(right - left, bottom - top) / stride
            left, right = min(left, x - step), max(right, x + step)
            top, bottom = min(top, y - step), max(bottom, y + step)
            if right <= 0 or bottom <= 0 or left >= w * stride or top >= h * stride:
                continue
            landed += 1
            if 0 <= x < w * stride and 0 <= y < h * stride:
                i, j = int(y / stride), int(x / stride)
                if max(abs(x - (j + 0.5) * stride), abs(y - (i + 0.5) * stride)) <= 0.25 * stride:
                    block[i, j] = min(block[i, j], z)
            if rho > rho_max:
                coarse += 1
                left, right = max(left, x - stride), min(right, x + stride)
                top, bottom = max(top, y - stride), min(bottom, y + stride)
            j0, j1 = _first_last(0.5 * (left + right), 0.5 * (right - left), stride, w)
            i0, i1 = _first_last(0.5 * (top + bottom), 0.5 * (bottom - top), stride, h)
            if rho > rho_max:
                for i in range(i0, i1 + 1):
                    for j in range(j0, j1 + 1):
                        block[i, j] = min(block[i, j], z)
                continue
            for i in range(i0, i1 + 1):
                for j in range(j0, j1 + 1):
                    zmin[i, j] = min(zmin[i, j], z)
            kept[count] = x, y, z, rho
            box[count] = i0, i1, j0, j1, r * w_src + c
            count += 1
    for k in range(count):
        x, y, z, rho = kept[k]
        i0, i1, j0, j1, cell = box[k]
        for i in range(i0, i1 + 1):
            for j in range(j0, j1 + 1):
                if z > (1 + tau) * zmin[i, j]:
                    continue
                dist = (x - (j + 0.5) * stride) ** 2 + (y - (i + 0.5) * stride) ** 2
                if dist < distance[i, j] or (dist == distance[i, j] and z < hit_depth[i, j]):
                    distance[i, j] = dist
                    hit[i, j] = cell
                    hit_depth[i, j], hit_rho[i, j] = z, rho
    return landed, coarse


@njit(cache=True, error_model="numpy")
@no_type_check
def view_quality(zmin, depth, rho, tau, center, focal, principal, stride, theta, quality):
    """How well each group shows each cell: from 1/2 up to 1 for the same viewpoint, unmagnified; 0 if hidden.

    `1/2 + 1/2 / ((1 + angle / theta) max(1, rho))`, with the angle at the surface between the view's ray and the
    source's, whose camera lies at `center [k 3]` in the view's frame. Appearance depends on the direction it is seen
    from, and depth errors show as parallax: of several groups the one that looked from nearest by is the truest.
    """
    count, h, w = zmin.shape
    for i in range(h):
        y = ((i + 0.5) * stride - principal[1]) / focal[1]
        for j in range(w):
            x = ((j + 0.5) * stride - principal[0]) / focal[0]
            front = np.inf
            for k in range(count):
                front = min(front, zmin[k, i, j])
            if front == np.inf:
                continue
            for k in range(count):
                if zmin[k, i, j] > (1 + tau) * front:
                    continue
                d = depth[k, i, j]
                qx, qy, qz = d * x - center[k, 0], d * y - center[k, 1], d - center[k, 2]
                dot = x * qx + y * qy + qz
                norms = math.sqrt((x * x + y * y + 1) * (qx * qx + qy * qy + qz * qz))
                angle = math.acos(min(1.0, max(-1.0, dot / norms))) if norms > 0 else 0.0
                quality[k, i, j] = 0.5 + 0.5 / ((1 + angle / theta) * max(1.0, rho[k, i, j]))


@njit(cache=True, error_model="numpy", inline="always")
@no_type_check
def _taps(planes, valid, x, y, z, tau):
    """Share of bilinear weight on cells that agree with depth `z` at latent coordinates (x, y), and their mean 1/d.

    Each tap is carried to (x, y) along its own tangent plane before it is compared or averaged.
    """
    h, w = valid.shape
    x0, y0 = math.floor(x), math.floor(y)
    total = inverse = 0.0
    for dy in range(2):
        for dx in range(2):
            r, c = y0 + dy, x0 + dx
            if r < 0 or c < 0 or r >= h or c >= w or not valid[r, c]:
                continue
            carried = planes[r, c, 0] + planes[r, c, 1] * (x - c) + planes[r, c, 2] * (y - r)
            if carried <= 0 or abs(1.0 / carried - z) > tau * z:
                continue
            b = (x - x0 if dx else 1 - x + x0) * (y - y0 if dy else 1 - y + y0)
            total += b
            inverse += b * carried
    return total, inverse


@njit(cache=True, error_model="numpy")
@no_type_check
def read_back(
    planes, valid, P, Q, stride, near, tau, tau_surface, w_min, steps, hit, hit_depth, uv, source_z, refined, good
):
    """Find, for every target cell the group lands in, the source position that shows what the cell sees.

    From the z-buffered depth the ray of the target cell is followed to the group's own surface by fixed-point steps
    `D <- depth of the source surface under B(q, D), seen from the target`, until it is met or after `steps`;
    `steps = 0` is one plain back-projection.
    A cell is good if at least `w_min` of the bilinear weight lies on valid taps that agree with the ray's depth within
    `tau`, and the surface they interpolate does within `tau_surface`: footprints are generous, this is strict. A ray
    that misses the surface whose footprint it met goes on to whatever lies behind.
    """
    h, w = hit.shape
    for i in range(h):
        v = (i + 0.5) * stride
        for j in range(w):
            if hit[i, j] < 0:
                continue
            u = (j + 0.5) * stride
            D = hit_depth[i, j]
            for step in range(steps + 1):
                z = D * (Q[2, 0] * u + Q[2, 1] * v + Q[2, 2]) + Q[2, 3]
                if z <= 0:
                    break
                gu = (D * (Q[0, 0] * u + Q[0, 1] * v + Q[0, 2]) + Q[0, 3]) / z
                gv = (D * (Q[1, 0] * u + Q[1, 1] * v + Q[1, 2]) + Q[1, 3]) / z
                total, inverse = _taps(planes, valid, gu / stride - 0.5, gv / stride - 0.5, z, tau)
                if total < w_min or inverse <= 0:
                    break
                d = total / inverse
                if step == steps or abs(d - z) <= 1e-9 * z:
                    if abs(d - z) <= tau_surface * z:
                        good[i, j] = True
                        uv[i, j, 0], uv[i, j, 1], source_z[i, j], refined[i, j] = gu, gv, z, D
                    break
                D_new = d * (P[2, 0] * gu + P[2, 1] * gv + P[2, 2]) + P[2, 3]
                if D_new <= near:
                    break
                D = D_new


@njit(cache=True, error_model="numpy")
@no_type_check
def assign_owners(
    good,
    depth,
    block,
    quality,
    weight,
    tau,
    patch,
    min_cells,
    uv,
    source_z,
    owner,
    source,
    covered,
    out_uv,
    out_z,
    out_depth,
):
    """Per token, rank groups by how sharply they show it, earlier pick first on ties; each cell takes the first.

    `good [k h w]`, refined `depth [k h w]`, `quality [k h w]`. A cell is served only by groups within `tau` of the
    nearest refined depth there, or of `block [h w]`, what stands in the way unshown (`good` is cleared elsewhere).
    `owner [m n]` and `source [h w]` get positions in the pick order, -1 for none, `out_*` what
    the chosen group's reading says.
    """
    count = good.shape[0]
    m, n = owner.shape
    votes = np.empty(count)
    rank = np.empty(count, np.int64)
    for ti in range(m):
        for tj in range(n):
            votes[:] = 0
            for i in range(ti * patch, (ti + 1) * patch):
                for j in range(tj * patch, (tj + 1) * patch):
                    front = block[i, j]
                    for k in range(count):
                        if good[k, i, j]:
                            front = min(front, depth[k, i, j])
                    for k in range(count):
                        if good[k, i, j] and depth[k, i, j] > (1 + tau) * front:
                            good[k, i, j] = False
                        if good[k, i, j]:
                            votes[k] += weight[k] * (2 * quality[k, i, j] - 1)
            for k in range(count):
                place = k
                while place > 0 and votes[rank[place - 1]] < votes[k]:
                    rank[place] = rank[place - 1]
                    place -= 1
                rank[place] = k
            served = 0
            for i in range(ti * patch, (ti + 1) * patch):
                for j in range(tj * patch, (tj + 1) * patch):
                    for o in range(count):
                        if good[rank[o], i, j]:
                            k = rank[o]
                            source[i, j] = k
                            out_uv[i, j, 0], out_uv[i, j, 1] = uv[k, i, j, 0], uv[k, i, j, 1]
                            out_z[i, j], out_depth[i, j] = source_z[k, i, j], depth[k, i, j]
                            served += 1
                            break
            if served >= min_cells:
                owner[ti, tj] = rank[0]
                covered[ti, tj] = True
