"""Compiled loops of retrieval on the CPU, where cells land and are read; slow twins in `mosaicmem.memory.reference`.

Geometry arrives as 3x4 pixel maps: `P` takes `d (u, v, 1)` of a source pixel to `z' (u', v', 1)` of the target by
`P[:, :3] @ (d u, d v, d) + P[:, 3]`, and `Q` is the inverse map. Arithmetic is float64 at cells, float32 at patches.
`no_type_check` keeps run-time shape checkers from wrapping what numba is to compile.
"""

from __future__ import annotations

from typing import no_type_check

import numpy as np
from numba import njit


@njit(cache=True, error_model="numpy", nogil=True)
@no_type_check
def tangent_planes(depth, valid, max_slope, max_bend, planes):
    """Inverse depth at each valid cell and its change per cell along x and y: `planes [3 h+2 w+2]`, with a border of 0.

    What is invalid is 0 too, so that no tap there agrees with anything. The twin, and the reasons, are
    `geometry.warps.inverse_depth_slopes`.
    """
    h, w = depth.shape
    inverse = np.full((h + 4, w + 4), np.nan)
    for r in range(h):
        for c in range(w):
            inverse[r + 2, c + 2] = 1.0 / float(depth[r, c]) if valid[r, c] else np.nan
    for axis in range(2):
        for r in range(h):
            for c in range(w):
                here = inverse[r + 2, c + 2]
                if axis == 0:
                    a, b = inverse[r + 2, c], inverse[r + 2, c + 1]
                    d, e = inverse[r + 2, c + 3], inverse[r + 2, c + 4]
                else:
                    a, b = inverse[r, c + 2], inverse[r + 1, c + 2]
                    d, e = inverse[r + 3, c + 2], inverse[r + 4, c + 2]
                bend = abs(b - 2 * here + d)  # central, backward, forward; nothing is less than NaN
                slope = 0.5 * (d - b)
                bend, slope = (bend, slope) if bend < np.inf else (np.inf, 0.0)
                second = abs(a - 2 * b + here)
                bend, slope = (second, 0.5 * (here - a)) if second < bend else (bend, slope)
                second = abs(here - 2 * d + e)
                bend, slope = (second, 0.5 * (e - here)) if second < bend else (bend, slope)
                straight = (bend <= max_bend * here) & (abs(slope) <= max_slope * here)
                planes[1 + axis, r + 1, c + 1] = slope if straight else 0.0
    for r in range(h):
        for c in range(w):
            planes[0, r + 1, c + 1] = inverse[r + 2, c + 2] if valid[r, c] else 0.0


@njit(cache=True, error_model="numpy", nogil=True)
@no_type_check
def pixel_maps(world_from_cam, K_src, viewmat, K, P, Q, center):
    """`P` and `Q [k 3 4]` between the images of groups at `world_from_cam [k 4 4]` and a view, and `center [k 3]`, the
    groups' cameras in the view's frame. `K_src [k 3 3]` and `K [3 3]` have no skew; places are similarities."""
    T = np.empty((3, 4))  # view from source
    S = np.empty((3, 4))  # source from view
    for k in range(len(P)):
        A = world_from_cam[k]
        for i in range(3):
            for j in range(4):
                T[i, j] = viewmat[i, 0] * A[0, j] + viewmat[i, 1] * A[1, j] + viewmat[i, 2] * A[2, j]
            T[i, 3] += viewmat[i, 3]
        scale = T[0, 0] ** 2 + T[1, 0] ** 2 + T[2, 0] ** 2
        for i in range(3):
            for j in range(3):
                S[i, j] = T[j, i] / scale
            S[i, 3] = -(T[0, i] * T[0, 3] + T[1, i] * T[1, 3] + T[2, i] * T[2, 3]) / scale
            center[k, i] = T[i, 3]
        _through_lenses(T, K, K_src[k], P[k])
        _through_lenses(S, K_src[k], K, Q[k])


@njit(cache=True, error_model="numpy", inline="always", nogil=True)
@no_type_check
def _through_lenses(T, K_to, K_from, out):
    """`K_to @ T` with its first three columns times the inverse of `K_from`."""
    fx, fy, cx, cy = K_from[0, 0], K_from[1, 1], K_from[0, 2], K_from[1, 2]
    for i in range(3):
        f, c = (K_to[i, i], K_to[i, 2]) if i < 2 else (1.0, 0.0)
        x, y = (f * T[i, 0] + c * T[2, 0]) / fx, (f * T[i, 1] + c * T[2, 1]) / fy
        out[i, 0], out[i, 1], out[i, 2] = x, y, f * T[i, 2] + c * T[2, 2] - x * cx - y * cy
        out[i, 3] = f * T[i, 3] + c * T[2, 3]


_RUN = 128
"""Cells of a row that are placed at once, without branches and in scratch of a fixed layout, so that it vectorises."""


@njit(cache=True, error_model="numpy", inline="always", nogil=True)
@no_type_check
def _bounded(x, count):
    """The first grid element at or after `x`, brought into [0, count], as a float."""
    x = np.ceil(x)
    x = x if x > 0.0 else 0.0
    return x if x < count else count


@njit(cache=True, error_model="numpy", nogil=True)
@no_type_check
def _footprints(planes, P, stride, near, rho_max, h, w, r, start, stop, run):
    """Where cells `start` to `stop` of row `r` land. `run [9 _RUN]`, flat, gets x, y, depth (0 where it does not land),
    magnification, first and past the last row, the same of columns, and whether it lands near a cell's centre."""
    p00, p01, p02, p03 = P[0, 0], P[0, 1], P[0, 2], P[0, 3]
    p10, p11, p12, p13 = P[1, 0], P[1, 1], P[1, 2], P[1, 3]
    p20, p21, p22, p23 = P[2, 0], P[2, 1], P[2, 2], P[2, 3]
    step, width, height, per_stride = 0.5 * stride, w * stride, h * stride, 1 / stride  # divisions take longest
    v = (r + 0.5) * stride
    inverses = planes[0, r + 1, start + 1 : stop + 1]  # indices that start at 0 are what the compiler vectorises
    slopes_x, slopes_y = planes[1, r + 1, start + 1 : stop + 1], planes[2, r + 1, start + 1 : stop + 1]
    for a in range(len(inverses)):
        u, inverse, gx, gy = (start + a + 0.5) * stride, inverses[a], slopes_x[a], slopes_y[a]
        zw = p20 * u + p21 * v + p22 + p23 * inverse  # z' / d
        z = zw / inverse
        xw = p00 * u + p01 * v + p02 + p03 * inverse
        yw = p10 * u + p11 * v + p12 + p13 * inverse
        x, y = xw / zw, yw / zw
        ok, left, right, top, bottom = True, x, x, y, y
        for corner in range(4):
            sx, sy = 2 * (corner & 1) - 1, (corner & 2) - 1
            bend = 0.5 * (sx * gx + sy * gy)
            zc = zw + step * (sx * p20 + sy * p21) + p23 * bend
            nearness = 1 / zc
            xc = (xw + step * (sx * p00 + sy * p01) + p03 * bend) * nearness
            yc = (yw + step * (sx * p10 + sy * p11) + p13 * bend) * nearness
            ok = ok & (zc > 0.1 * zw)
            left = xc if ok & (xc < left) else left
            right = xc if ok & (xc > right) else right
            top = yc if ok & (yc < top) else top
            bottom = yc if ok & (yc > bottom) else bottom
        left = left if ok else x - stride * rho_max  # the plane nearly reaches the camera: no finite footprint
        right = right if ok else x + stride * rho_max
        wide, high = right - left, bottom - top
        rho = (wide if wide > high else high) * per_stride
        left, right = (left if left < x - step else x - step), (right if right > x + step else x + step)
        top, bottom = (top if top < y - step else y - step), (bottom if bottom > y + step else y + step)
        lands = (inverse > 0) & (z > near) & (right > 0) & (bottom > 0) & (left < width) & (top < height)
        coarse = rho > rho_max
        left = x - stride if coarse & (left < x - stride) else left
        right = x + stride if coarse & (right > x + stride) else right
        top = y - stride if coarse & (top < y - stride) else top
        bottom = y + stride if coarse & (bottom > y + stride) else bottom
        run[0 * _RUN + a], run[1 * _RUN + a] = x, y
        run[2 * _RUN + a], run[3 * _RUN + a] = (z if lands else 0.0), rho
        middle, half = 0.5 * (top + bottom), 0.5 * (bottom - top)
        run[4 * _RUN + a] = _bounded((middle - half) * per_stride - 0.5, h)
        run[5 * _RUN + a] = _bounded((middle + half) * per_stride - 0.5, h)
        middle, half = 0.5 * (left + right), 0.5 * (right - left)
        run[6 * _RUN + a] = _bounded((middle - half) * per_stride - 0.5, w)
        run[7 * _RUN + a] = _bounded((middle + half) * per_stride - 0.5, w)
        aside_x = x - (np.floor(x * per_stride) + 0.5) * stride
        aside_y = y - (np.floor(y * per_stride) + 0.5) * stride
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        central = inside & (abs(aside_x) <= 0.25 * stride) & (abs(aside_y) <= 0.25 * stride)
        run[8 * _RUN + a] = 1.0 if central else 0.0


@njit(cache=True, error_model="numpy", nogil=True)
@no_type_check
def splat_cells(planes, P, stride, near, rho_max, tau, zmin, hit, hit_depth, hit_rho, block):
    """Land every valid source cell in the target grid, with its true footprint, and z-buffer within the group.

    The footprint is the bounding box of the cell's four corners on its tangent plane, at least one target cell wide:
    a wall seen at a glancing angle and now from the front covers many cells with each of its own. Cells magnified
    beyond `rho_max` along an axis are not shown.

    `block [h w]` gets the nearest depth of what stands in the way even where it cannot be read: what lands within a
    quarter of a cell of the centre, and what is magnified too far, within one cell of where it lands.

    `zmin [h w]` gets the nearest depth per target cell, infinity where nothing lands; `hit` the source cell, or -1,
    that lands closest to the cell's centre among those within `tau` of the nearest (then nearer, then first in row
    order), with its depth and magnification. Returns how many cells landed inside the image, and how many of those
    were magnified too far.
    """
    h, w = zmin.shape
    h_src, w_src = planes.shape[1] - 2, planes.shape[2] - 2
    zmin[:], block[:], hit[:], hit_depth[:], hit_rho[:] = np.inf, np.inf, -1, 0.0, 0.0
    distance = np.full((h, w), np.inf)
    run = np.empty(9 * _RUN)
    kept = np.empty((h_src * w_src, 4))  # x, y, z, rho of the cells that land and are shown
    box = np.empty((h_src * w_src, 5), np.int32)  # first and past the last row and column, source cell
    count = landed = coarse = 0
    for r in range(h_src):
        for start in range(0, w_src, _RUN):
            stop = min(start + _RUN, w_src)
            _footprints(planes, P, stride, near, rho_max, float(h), float(w), r, start, stop, run)
            for a in range(stop - start):
                z = run[2 * _RUN + a]
                if z == 0:
                    continue
                landed += 1
                x, y, rho = run[a], run[_RUN + a], run[3 * _RUN + a]
                if run[8 * _RUN + a] != 0:
                    i, j = int(y / stride), int(x / stride)
                    block[i, j] = min(block[i, j], z)
                i0, i1 = int(run[4 * _RUN + a]), int(run[5 * _RUN + a])
                j0, j1 = int(run[6 * _RUN + a]), int(run[7 * _RUN + a])
                if rho > rho_max:
                    coarse += 1
                    for i in range(i0, i1):
                        for j in range(j0, j1):
                            block[i, j] = min(block[i, j], z)
                    continue
                for i in range(i0, i1):
                    for j in range(j0, j1):
                        zmin[i, j] = min(zmin[i, j], z)
                # number by number: a row is an array of its own, and its references are counted
                kept[count, 0], kept[count, 1], kept[count, 2], kept[count, 3] = x, y, z, rho
                box[count, 0], box[count, 1], box[count, 2], box[count, 3] = i0, i1, j0, j1
                box[count, 4] = r * w_src + start + a
                count += 1
    for k in range(count):
        x, y, z, rho = kept[k, 0], kept[k, 1], kept[k, 2], kept[k, 3]
        i0, i1, j0, j1, q = box[k, 0], box[k, 1], box[k, 2], box[k, 3], box[k, 4]
        for i in range(i0, i1):
            for j in range(j0, j1):
                if z > (1 + tau) * zmin[i, j]:
                    continue
                dist = (x - (j + 0.5) * stride) ** 2 + (y - (i + 0.5) * stride) ** 2
                if dist < distance[i, j] or (dist == distance[i, j] and z < hit_depth[i, j]):
                    distance[i, j] = dist
                    hit[i, j] = q
                    hit_depth[i, j], hit_rho[i, j] = z, rho
    return landed, coarse


@njit(cache=True, error_model="numpy", inline="always", nogil=True)
@no_type_check
def _tap(planes, r, c, dx, dy, b, z, tau, total, inverse):
    """Add one tap of weight `b` that lies `(dx, dy)` cells aside, carried along its plane, if it agrees with `z`."""
    carried = planes[0, r, c] + planes[1, r, c] * dx + planes[2, r, c] * dy
    share = z * carried  # z / d
    b = b if (share > 0) & (abs(1.0 - share) <= tau * share) else 0.0
    return total + b, inverse + b * carried


@njit(cache=True, error_model="numpy", nogil=True)
@no_type_check
def read_back(
    planes, P, Q, stride, near, tau, tau_surface, w_min, steps, first, last, hit, hit_depth, uv, source_z, refined, good
):
    """Find, for every cell of rows `first` to `last` that the group lands in, where its source shows what it sees.

    From the z-buffered depth the ray of the target cell is followed to the group's own surface by fixed-point steps
    `D <- depth of the source surface under B(q, D), seen from the target`, until it is met or after `steps`;
    `steps = 0` is one plain back-projection.
    A cell is good if at least `w_min` of the bilinear weight lies on valid taps that agree with the ray's depth within
    `tau`, and the surface they interpolate does within `tau_surface`: footprints are generous, this is strict. A ray
    that misses the surface whose footprint it met goes on to whatever lies behind. Taps are carried to the sample
    point along their own tangent planes before they are compared or averaged. Where `good` is not set, the rest is not
    written.
    """
    w = hit.shape[1]
    h_src, w_src = planes.shape[1] - 2, planes.shape[2] - 2
    good[first:last] = False
    cols, D, per_stride = np.empty(w, np.int64), np.empty(w), 1 / stride
    for i in range(first, last):
        v = (i + 0.5) * stride
        alive = 0
        for j in range(w):
            cols[alive], D[alive] = j, hit_depth[i, j]
            alive += hit[i, j] >= 0
        for step in range(steps + 1):
            going = 0
            for a in range(alive):
                j = cols[a]
                u = (j + 0.5) * stride
                z = D[a] * (Q[2, 0] * u + Q[2, 1] * v + Q[2, 2]) + Q[2, 3]
                nearness = 1 / z
                gu = (D[a] * (Q[0, 0] * u + Q[0, 1] * v + Q[0, 2]) + Q[0, 3]) * nearness
                gv = (D[a] * (Q[1, 0] * u + Q[1, 1] * v + Q[1, 2]) + Q[1, 3]) * nearness
                x, y = gu * per_stride + 0.5, gv * per_stride + 0.5  # in the planes with their border
                if not (z > 0 and x >= 0 and y >= 0 and x < w_src + 1 and y < h_src + 1):
                    continue
                c, r = int(x), int(y)
                fx, fy = x - c, y - r
                total, inverse = _tap(planes, r, c, fx, fy, (1 - fx) * (1 - fy), z, tau, 0.0, 0.0)
                total, inverse = _tap(planes, r, c + 1, fx - 1, fy, fx * (1 - fy), z, tau, total, inverse)
                total, inverse = _tap(planes, r + 1, c, fx, fy - 1, (1 - fx) * fy, z, tau, total, inverse)
                total, inverse = _tap(planes, r + 1, c + 1, fx - 1, fy - 1, fx * fy, z, tau, total, inverse)
                if total < w_min or inverse <= 0:
                    continue
                d = total / inverse
                if step == steps or abs(d - z) <= 1e-9 * z:
                    if abs(d - z) <= tau_surface * z:
                        good[i, j] = True
                        uv[i, j, 0], uv[i, j, 1], source_z[i, j], refined[i, j] = gu, gv, z, D[a]
                    continue
                moved = d * (P[2, 0] * gu + P[2, 1] * gv + P[2, 2]) + P[2, 3]
                cols[going], D[going] = j, moved
                going += moved > near
            alive = going
