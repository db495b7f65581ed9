"""The compiled film of `mosaicmem.worlds.film`; its slow twin is `Scene.render`.

Rows of the tables are those of `Solids`, `Materials` and `Lights`. All arithmetic is float64.
`no_type_check` keeps run-time shape checkers from wrapping what numba is to compile.
"""

from __future__ import annotations

import math
from typing import no_type_check

import numpy as np
from numba import njit

_BOX, _SPHERE = 0, 1
_MIN_T = 1e-5
_TINY = 1e-12


@njit(cache=True, error_model="numpy", inline="always")
@no_type_check
def _smoothstep(x):
    x = min(max(x, 0.0), 1.0)
    return x * x * (3.0 - 2.0 * x)


@njit(cache=True, error_model="numpy")
@no_type_check
def _reaches(plane, eye, center, size, cos, sin):
    """Whether a solid's box has a point on the inner side of a plane through the eye."""
    x, y, z = center[0] - eye[0], center[1] - eye[1], center[2] - eye[2]
    along = plane[0] * x + plane[1] * y + plane[2] * z
    local_x, local_z = cos * plane[0] - sin * plane[2], sin * plane[0] + cos * plane[2]
    return along + abs(local_x) * size[0] + abs(plane[1]) * size[1] + abs(local_z) * size[2] >= 0


@njit(cache=True, error_model="numpy")
@no_type_check
def tile_solids(eye, rays, step, size, center, half, cos, sin, lists, counts):
    """Which solids can be seen in each tile of `step` pixels: `lists [tiles p]`, `counts [tiles]`.

    `rays [3 3]` takes (u, v, 1) to a direction; a solid is kept unless its box lies outside one of the tile's four
    side planes, so nothing visible is ever lost.
    """
    width, height = size
    across = (width + step - 1) // step
    planes = np.empty((4, 3))
    corners = np.empty((4, 3))
    for tile in range(len(counts)):
        u0, v0 = (tile % across) * step, (tile // across) * step
        u1, v1 = min(u0 + step, width), min(v0 + step, height)
        for k, (u, v) in enumerate(((u0, v0), (u1, v0), (u1, v1), (u0, v1))):
            for axis in range(3):
                corners[k, axis] = rays[axis, 0] * u + rays[axis, 1] * v + rays[axis, 2]
        middle = corners[0] + corners[1] + corners[2] + corners[3]
        for k in range(4):
            a, b = corners[k], corners[(k + 1) % 4]
            planes[k, 0] = a[1] * b[2] - a[2] * b[1]
            planes[k, 1] = a[2] * b[0] - a[0] * b[2]
            planes[k, 2] = a[0] * b[1] - a[1] * b[0]
            inward = planes[k, 0] * middle[0] + planes[k, 1] * middle[1] + planes[k, 2] * middle[2]
            if inward < 0:
                planes[k] = -planes[k]
        found = 0
        for p in range(len(center)):
            seen = True
            for k in range(4):
                if not _reaches(planes[k], eye, center[p], half[p], cos[p], sin[p]):
                    seen = False
                    break
            if seen:
                lists[tile, found] = p
                found += 1
        counts[tile] = found


@njit(cache=True, error_model="numpy")
@no_type_check
def neighbours(center, half, cos, sin, reach, lists, counts):
    """For each solid those whose upright bounding boxes come within `reach` of its own, itself among them."""
    for p in range(len(center)):
        found = 0
        px, pz = (
            abs(cos[p]) * half[p, 0] + abs(sin[p]) * half[p, 2],
            abs(sin[p]) * half[p, 0] + abs(cos[p]) * half[p, 2],
        )
        for q in range(len(center)):
            qx = abs(cos[q]) * half[q, 0] + abs(sin[q]) * half[q, 2]
            qz = abs(sin[q]) * half[q, 0] + abs(cos[q]) * half[q, 2]
            if (
                abs(center[p, 0] - center[q, 0]) <= px + qx + reach
                and abs(center[p, 1] - center[q, 1]) <= half[p, 1] + half[q, 1] + reach
                and abs(center[p, 2] - center[q, 2]) <= pz + qz + reach
            ):
                lists[p, found] = q
                found += 1
        counts[p] = found


@njit(cache=True, error_model="numpy")
@no_type_check
def _meet(kind, size, ox, oy, oz, dx, dy, dz):
    """First crossing of a local ray with one solid, or inf."""
    if kind == _BOX:
        near, far = -np.inf, np.inf
        for axis in range(3):
            o = ox if axis == 0 else (oy if axis == 1 else oz)
            d = dx if axis == 0 else (dy if axis == 1 else dz)
            if abs(d) < _TINY:
                d = math.copysign(_TINY, d)
            a, b = (-size[axis] - o) / d, (size[axis] - o) / d
            near, far = max(near, min(a, b)), min(far, max(a, b))
            if near > far:
                return np.inf
    elif kind == _SPHERE:
        a = dx * dx + dy * dy + dz * dz
        f = (ox * dx + oy * dy + oz * dz) / a
        ex, ey, ez = ox - f * dx, oy - f * dy, oz - f * dz
        gap = size[0] * size[0] - (ex * ex + ey * ey + ez * ez)
        if gap < 0:
            return np.inf
        reach = math.sqrt(gap / a)
        near, far = -f - reach, -f + reach
    else:
        a = max(dx * dx + dz * dz, _TINY)
        f = (ox * dx + oz * dz) / a
        ex, ez = ox - f * dx, oz - f * dz
        gap = size[0] * size[0] - (ex * ex + ez * ez)
        if gap < 0:
            return np.inf
        reach = math.sqrt(gap / a)
        d = dy if abs(dy) >= _TINY else math.copysign(_TINY, dy)
        y1, y2 = (-size[1] - oy) / d, (size[1] - oy) / d
        near, far = max(-f - reach, min(y1, y2)), min(-f + reach, max(y1, y2))
        if near > far:
            return np.inf
    t = near if near > _MIN_T else far
    return t if t > _MIN_T else np.inf


@njit(cache=True, error_model="numpy")
@no_type_check
def _first(eye, dx, dy, dz, kind, center, size, cos, sin, listed, count):
    """Nearest solid of a list along a ray from the eye: parameter and index (-1: none)."""
    best, index = np.inf, -1
    for i in range(count):
        p = listed[i]
        x, y, z = eye[0] - center[p, 0], eye[1] - center[p, 1], eye[2] - center[p, 2]
        c, s = cos[p], sin[p]
        t = _meet(kind[p], size[p], c * x - s * z, y, s * x + c * z, c * dx - s * dz, dy, s * dx + c * dz)
        if t < best:
            best, index = t, p
    return best, index


@njit(cache=True, error_model="numpy", inline="always")
@no_type_check
def _integral(v):
    return 1.0 - abs((v % 2.0) - 1.0)


@njit(cache=True, error_model="numpy")
@no_type_check
def _open_air(x, y, z, reach, kind, center, size, cos, sin, listed, count):
    """Distance to the nearest listed solid, at most `reach`, 0 inside one."""
    best = reach
    for i in range(count):
        p = listed[i]
        dx, dy, dz = x - center[p, 0], y - center[p, 1], z - center[p, 2]
        ly = abs(dy) - size[p, 1]
        if ly >= best:
            continue
        c, s = cos[p], sin[p]
        lx, lz = c * dx - s * dz, s * dx + c * dz
        if kind[p] == _BOX:
            ax, az, ay = max(abs(lx) - size[p, 0], 0.0), max(abs(lz) - size[p, 2], 0.0), max(ly, 0.0)
            distance = math.sqrt(ax * ax + ay * ay + az * az)
        elif kind[p] == _SPHERE:
            distance = math.sqrt(lx * lx + dy * dy + lz * lz) - size[p, 0]
        else:
            side, cap = max(math.sqrt(lx * lx + lz * lz) - size[p, 0], 0.0), max(ly, 0.0)
            distance = math.sqrt(side * side + cap * cap)
        best = min(best, max(distance, 0.0))
    return best


@njit(cache=True, error_model="numpy")
@no_type_check
def _pattern(o, lx, ly, lz, nx, ny, nz, du, dv, pattern, cell, waves, phases, sigma):
    """Share of an object's first colour at a local point, averaged over the footprint `du, dv`."""
    if pattern[o] == 0:
        total = 0.0
        for k in range(4):
            a, b, c = waves[o, k, 0], waves[o, k, 1], waves[o, k, 2]
            su, sv = a * du[0] + b * du[1] + c * du[2], a * dv[0] + b * dv[1] + c * dv[2]
            damp = math.exp(-0.5 * sigma * sigma * (su * su + sv * sv))
            total += damp * math.cos(a * lx + b * ly + c * lz + phases[o, k])
        return 0.5 + 0.125 * total
    w = cell[o]
    flat_x, flat_y, flat_z = abs(nx) > 0.999, abs(ny) > 0.999, abs(nz) > 0.999
    square = np.empty(3)
    for axis in range(3):
        x = (lx if axis == 0 else (ly if axis == 1 else lz)) / w
        width = max((abs(du[axis]) + abs(dv[axis])) / w, 1e-4)
        square[axis] = (_integral(x + width / 2) - _integral(x - width / 2)) / width
    curved = not (flat_x or flat_y or flat_z)
    if flat_x:
        square[0] = 1.0
    if flat_y:
        square[1] = 1.0
    if flat_z:
        square[2] = 1.0
    if curved:
        value = square[1]
    elif pattern[o] == 1:
        value = square[0] * square[1] * square[2]
    else:
        value = square[2] if flat_x else square[0]
    return (1.0 + value) / 2


@njit(cache=True, error_model="numpy")
@no_type_check
def _shade(
    eye, d, ddu, ddv, t, p,
    kind, center, size, cos, sin, anchor, owner,
    colour, second, pattern, cell, waves, phases,
    light_at, light, lo, hi,
    near, near_count, look, normal, out,
):  # fmt: skip
    """Colour in [-1, 1] of the point at `t` on solid `p`, and its outward normal."""
    sigma, ambient, exposure, reach = look[0], look[1], look[2], look[3]
    x, y, z = eye[0] + t * d[0], eye[1] + t * d[1], eye[2] + t * d[2]
    c, s = cos[p], sin[p]
    px, py, pz = x - center[p, 0], y - center[p, 1], z - center[p, 2]
    lx, ly, lz = c * px - s * pz, py, s * px + c * pz
    nx, ny, nz = 0.0, 0.0, 0.0
    if kind[p] == _BOX:
        gx, gy, gz = abs(lx) - size[p, 0], abs(ly) - size[p, 1], abs(lz) - size[p, 2]
        if gx >= gy and gx >= gz:
            nx = -1.0 if lx < 0 else 1.0
        elif gy >= gz:
            ny = -1.0 if ly < 0 else 1.0
        else:
            nz = -1.0 if lz < 0 else 1.0
    elif kind[p] == _SPHERE:
        r = max(math.sqrt(lx * lx + ly * ly + lz * lz), _TINY)
        nx, ny, nz = lx / r, ly / r, lz / r
    else:
        ground = math.sqrt(lx * lx + lz * lz)
        if abs(ly) - size[p, 1] > ground - size[p, 0]:
            ny = math.copysign(1.0, ly)
        else:
            nx, nz = lx / max(ground, _TINY), lz / max(ground, _TINY)
    wx, wy, wz = c * nx + s * nz, ny, -s * nx + c * nz
    normal[0], normal[1], normal[2] = wx, wy, wz
    slope = wx * d[0] + wy * d[1] + wz * d[2]
    if abs(slope) < 1e-3 * math.sqrt(d[0] * d[0] + d[1] * d[1] + d[2] * d[2]):
        slope += 1e-3
    du, dv = np.empty(3), np.empty(3)
    for which in range(2):
        dd = ddu if which == 0 else ddv
        f = (wx * dd[0] + wy * dd[1] + wz * dd[2]) / slope
        a, b, e = t * (dd[0] - d[0] * f), t * (dd[1] - d[1] * f), t * (dd[2] - d[2] * f)
        step = du if which == 0 else dv
        step[0], step[1], step[2] = c * a - s * e, b, s * a + c * e
    o = owner[p]
    mix = _pattern(
        o, lx + anchor[p, 0], ly + anchor[p, 1], lz + anchor[p, 2], nx, ny, nz, du, dv,
        pattern, cell, waves, phases, sigma,
    )  # fmt: skip
    free = _open_air(
        x + reach * wx, y + reach * wy, z + reach * wz, reach, kind, center, size, cos, sin, near[p], near_count[p]
    )
    shut = 1.0 - free / reach
    base = ambient * (1.0 - 0.55 * shut * shut) * (1.0 - 0.12 * wy)
    red = green = blue = base
    for l in range(len(light_at)):
        tx, ty, tz = light_at[l, 0] - x, light_at[l, 1] - y, light_at[l, 2] - z
        squared = tx * tx + ty * ty + tz * tz
        facing = (wx * tx + wy * ty + wz * tz) / max(math.sqrt(squared), 1e-6)
        ox = max(max(lo[l, 0] - x, x - hi[l, 0]), 0.0)
        oy = max(max(lo[l, 1] - y, y - hi[l, 1]), 0.0)
        oz = max(max(lo[l, 2] - z, z - hi[l, 2]), 0.0)
        spill = max(1.0 - math.sqrt(ox * ox + oy * oy + oz * oz) / 1.5, 0.0)
        share = max(0.25 + 0.75 * facing, 0.0) * spill * spill / (1.0 + 0.22 * squared)
        red += light[l, 0] * share
        green += light[l, 1] * share
        blue += light[l, 2] * share
    out[0] = 1.0 - 2.0 * math.exp(-exposure * (colour[o, 0] * mix + second[o, 0] * (1.0 - mix)) * red)
    out[1] = 1.0 - 2.0 * math.exp(-exposure * (colour[o, 1] * mix + second[o, 1] * (1.0 - mix)) * green)
    out[2] = 1.0 - 2.0 * math.exp(-exposure * (colour[o, 2] * mix + second[o, 2] * (1.0 - mix)) * blue)


@njit(cache=True, error_model="numpy")
@no_type_check
def _sky(d, sky, out):
    up = -d[1] / max(math.sqrt(d[0] * d[0] + d[1] * d[1] + d[2] * d[2]), _TINY)
    share = _smoothstep(up * 1.1)
    for k in range(3):
        out[k] = 2.0 * (sky[0, k] + (sky[1, k] - sky[0, k]) * share) - 1.0


@njit(cache=True, error_model="numpy")
@no_type_check
def film_frame(
    eye, rays, finer,
    kind, center, size, cos, sin, anchor, owner,
    colour, second, pattern, cell, waves, phases,
    light_at, light, lo, hi, sky, look,
    rgb, depth, normal, object_id,
):  # fmt: skip
    """One frame. Depth, normal and object of the ray through each pixel's centre; colour of that ray too, or, where
    the surface changes between neighbouring pixels, the mean of `finer x finer` rays."""
    height, width = depth.shape
    solids, step = len(center), 16
    tiles = ((width + step - 1) // step) * ((height + step - 1) // step)
    across = (width + step - 1) // step
    lists, counts = np.empty((tiles, solids), np.int64), np.empty(tiles, np.int64)
    tile_solids(eye, rays, step, (width, height), center, size, cos, sin, lists, counts)
    near, near_count = np.empty((solids, solids), np.int64), np.empty(solids, np.int64)
    neighbours(center, size, cos, sin, 2.0 * look[3], near, near_count)
    d, n, c = np.empty(3), np.empty(3), np.empty(3)
    ddu, ddv = rays[:, 0].copy(), rays[:, 1].copy()
    which = np.full((height, width), -1, np.int64)
    for v in range(height):
        for u in range(width):
            for k in range(3):
                d[k] = rays[k, 0] * (u + 0.5) + rays[k, 1] * (v + 0.5) + rays[k, 2]
            tile = (v // step) * across + u // step
            t, p = _first(eye, d[0], d[1], d[2], kind, center, size, cos, sin, lists[tile], counts[tile])
            which[v, u] = p
            if p < 0:
                _sky(d, sky, c)
                depth[v, u], object_id[v, u] = 0.0, 0
                n[:] = 0.0
            else:
                _shade(
                    eye, d, ddu, ddv, t, p, kind, center, size, cos, sin, anchor, owner, colour, second, pattern, cell,
                    waves, phases, light_at, light, lo, hi, near, near_count, look, n, c,
                )  # fmt: skip
                depth[v, u], object_id[v, u] = t, owner[p]
            for k in range(3):
                rgb[k, v, u], normal[k, v, u] = c[k], n[k]
    if finer < 2:
        return
    for v in range(height):
        for u in range(width):
            edge = False
            for a, b in ((-1, 0), (1, 0), (0, -1), (0, 1), (-1, -1), (-1, 1), (1, -1), (1, 1)):
                i, j = min(max(v + a, 0), height - 1), min(max(u + b, 0), width - 1)
                turn = 0.0
                for k in range(3):
                    turn += abs(normal[k, i, j] - normal[k, v, u])
                if which[i, j] != which[v, u] or turn > 0.5:
                    edge = True
                    break
            if not edge:
                continue
            total = np.zeros(3)
            tile = (v // step) * across + u // step
            for a in range(finer):
                for b in range(finer):
                    for k in range(3):
                        d[k] = rays[k, 0] * (u + (b + 0.5) / finer) + rays[k, 1] * (v + (a + 0.5) / finer) + rays[k, 2]
                    t, p = _first(eye, d[0], d[1], d[2], kind, center, size, cos, sin, lists[tile], counts[tile])
                    if p < 0:
                        _sky(d, sky, c)
                    else:
                        _shade(
                            eye, d, ddu, ddv, t, p, kind, center, size, cos, sin, anchor, owner, colour, second,
                            pattern, cell, waves, phases, light_at, light, lo, hi, near, near_count, look, n, c,
                        )  # fmt: skip
                    total += c
            for k in range(3):
                rgb[k, v, u] = total[k] / (finer * finer)
