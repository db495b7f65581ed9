"""Compiled loops that land a group's cells in a view, in float32; slow twins in `mosaicmem.memory.reference`.

What is decided here is which source cell a cell of the view starts from, who hides whom and who is asked first. Where
a cell is read in its source is `_reading_kernels`' matter, in float64. Loops that should become vectors have no
branches and work on scratch of a fixed layout.
"""

from __future__ import annotations

from typing import no_type_check

import numpy as np
from numba import njit

_RUN = 128
"""Cells of a row that are placed at once."""

ZERO, QUARTER, HALF, ONE = np.float32(0), np.float32(0.25), np.float32(0.5), np.float32(1)


@njit(cache=True, error_model="numpy", inline="always", nogil=True)
@no_type_check
def _first(x, count):
    """The first grid element at or after `x`, brought into [0, count]."""
    x = np.ceil(x)
    x = x if x > ZERO else ZERO
    return np.int32(x if x < count else count)


@njit(cache=True, error_model="numpy", nogil=True)
@no_type_check
def _footprints(planes, P, stride, near, rho_max, h, w, r, start, stop, where, box):
    """Where cells `start` to `stop` of row `r` land. `where [4 _RUN]`, flat, gets x, y, depth (0 where it does not
    land) and magnification; `box [5 _RUN]` first and past the last row, the same of columns, and the cell whose centre
    it lands near, or -1."""
    v = (r + 0.5) * stride
    p00, p02, p03 = np.float32(P[0, 0]), np.float32(P[0, 1] * v + P[0, 2]), np.float32(P[0, 3])
    p10, p12, p13 = np.float32(P[1, 0]), np.float32(P[1, 1] * v + P[1, 2]), np.float32(P[1, 3])
    p20, p22, p23 = np.float32(P[2, 0]), np.float32(P[2, 1] * v + P[2, 2]), np.float32(P[2, 3])
    p01, p11, p21 = np.float32(P[0, 1]), np.float32(P[1, 1]), np.float32(P[2, 1])
    size, step, per_size, tenth = np.float32(stride), np.float32(0.5 * stride), np.float32(1 / stride), np.float32(0.1)
    widest, most, nearest = np.float32(stride * rho_max), np.float32(rho_max), np.float32(near)
    rows, columns, width, height = np.float32(h), np.float32(w), np.float32(w * stride), np.float32(h * stride)
    inverses = planes[0, r + 1, start + 1 : stop + 1]  # indices that start at 0 are what the compiler vectorises
    slopes_x, slopes_y = planes[1, r + 1, start + 1 : stop + 1], planes[2, r + 1, start + 1 : stop + 1]
    begin = np.int32(start)
    for a in range(len(inverses)):
        inverse, gx, gy = np.float32(inverses[a]), np.float32(slopes_x[a]), np.float32(slopes_y[a])
        u = (np.float32(np.int32(a) + begin) + HALF) * size
        zw = p20 * u + p22 + p23 * inverse  # z' / d
        xw, yw = p00 * u + p02 + p03 * inverse, p10 * u + p12 + p13 * inverse
        z, nearness = zw / inverse, ONE / zw  # divisions take longest
        x, y = xw * nearness, yw * nearness
        ok, left, right, top, bottom = True, x, x, y, y
        for corner in range(4):
            sx, sy = (step if corner & 1 else -step), (step if corner & 2 else -step)
            bend = (HALF if corner & 1 else -HALF) * gx + (HALF if corner & 2 else -HALF) * gy
            zc = zw + (sx * p20 + sy * p21) + p23 * bend
            nearness = ONE / zc
            xc = (xw + (sx * p00 + sy * p01) + p03 * bend) * nearness
            yc = (yw + (sx * p10 + sy * p11) + p13 * bend) * nearness
            ok = ok & (zc > tenth * zw)
            left = xc if ok & (xc < left) else left
            right = xc if ok & (xc > right) else right
            top = yc if ok & (yc < top) else top
            bottom = yc if ok & (yc > bottom) else bottom
        left = left if ok else x - widest  # the plane nearly reaches the camera: no finite footprint
        right = right if ok else x + widest
        wide, high = right - left, bottom - top
        rho = (wide if wide > high else high) * per_size
        left, right = (left if left < x - step else x - step), (right if right > x + step else x + step)
        top, bottom = (top if top < y - step else y - step), (bottom if bottom > y + step else y + step)
        lands = (inverse > ZERO) & (z > nearest) & (right > ZERO) & (bottom > ZERO) & (left < width) & (top < height)
        coarse = rho > most
        left = x - size if coarse & (left < x - size) else left
        right = x + size if coarse & (right > x + size) else right
        top = y - size if coarse & (top < y - size) else top
        bottom = y + size if coarse & (bottom > y + size) else bottom
        where[a], where[_RUN + a] = x, y
        where[2 * _RUN + a], where[3 * _RUN + a] = (z if lands else ZERO), rho
        box[a], box[_RUN + a] = _first(top * per_size - HALF, rows), _first(bottom * per_size - HALF, rows)
        box[2 * _RUN + a] = _first(left * per_size - HALF, columns)
        box[3 * _RUN + a] = _first(right * per_size - HALF, columns)
        i, j = np.floor(y * per_size), np.floor(x * per_size)
        inside = (x >= ZERO) & (x < width) & (y >= ZERO) & (y < height)
        aside = max(abs(x - (j + HALF) * size), abs(y - (i + HALF) * size))
        central = lands & inside & (aside <= QUARTER * size)
        box[4 * _RUN + a] = np.int32(i * columns + j) if central else np.int32(-1)


@njit(cache=True, error_model="numpy", nogil=True)
@no_type_check
def _nearest(planes, P, stride, near, rho_max, h, w, zmin, block, kept, boxes):
    """The first half of `splat_cells`: nearest depths, and from row 1 on of `kept [q 4]` x, y, depth and magnification
    of cells that are shown, of `boxes [q 5]` their footprints and source cells. Returns the end of these, how many
    cells landed, and how many of them were magnified too far."""
    h_src, w_src = planes.shape[1] - 2, planes.shape[2] - 2
    where, box = np.empty(4 * _RUN, np.float32), np.empty(5 * _RUN, np.int32)
    count, landed, coarse = 1, 0, 0
    for r in range(h_src):
        for start in range(0, w_src, _RUN):
            stop = min(start + _RUN, w_src)
            _footprints(planes, P, stride, near, rho_max, h, w, r, start, stop, where, box)
            for a in range(stop - start):
                z, rho = where[2 * _RUN + a], where[3 * _RUN + a]
                if z == 0:
                    continue
                landed += 1
                spot, i0, i1 = box[4 * _RUN + a], box[a], box[_RUN + a]
                j0, j1 = box[2 * _RUN + a], box[3 * _RUN + a]
                if spot >= 0:
                    block[spot] = min(block[spot], z)
                if rho > rho_max:
                    coarse += 1
                    for i in range(i0, i1):
                        for t in range(i * w + j0, i * w + j1):
                            block[t] = min(block[t], z)
                    continue
                for i in range(i0, i1):
                    for t in range(i * w + j0, i * w + j1):
                        zmin[t] = min(zmin[t], z)
                # number by number: a row is an array of its own, and its references are counted
                kept[count, 0], kept[count, 1], kept[count, 2], kept[count, 3] = where[a], where[_RUN + a], z, rho
                boxes[count, 0], boxes[count, 1], boxes[count, 2], boxes[count, 3] = i0, i1, j0, j1
                boxes[count, 4] = r * w_src + start + a
                count += 1
    return count, landed, coarse


@njit(cache=True, error_model="numpy", nogil=True)
@no_type_check
def _closest(kept, boxes, count, stride, tau, w, zmin, distance, who):
    """The second half of `splat_cells`: the row of `kept` that lands closest to each cell's centre, where any does."""
    bound, size = np.float32(1 + tau), np.float32(stride)
    for k in range(1, count):
        x, y, z = kept[k, 0], kept[k, 1], kept[k, 2]
        for i in range(boxes[k, 0], boxes[k, 1]):
            dy = y - (np.float32(i) + HALF) * size
            for j in range(boxes[k, 2], boxes[k, 3]):
                t = i * w + j
                dx = x - (np.float32(j) + HALF) * size
                here = dx * dx + dy * dy
                if z > bound * zmin[t] or here > distance[t]:
                    continue
                if here < distance[t] or z < kept[who[t], 2]:
                    distance[t], who[t] = here, k


@njit(cache=True, error_model="numpy", nogil=True)
@no_type_check
def splat_cells(planes, P, stride, near, rho_max, tau, h, w, zmin, hit, depth, rho, block):
    """Land every valid source cell in the target grid, with its true footprint, and z-buffer within the group.

    The footprint is the bounding box of the cell's four corners on its tangent plane, at least one target cell wide:
    a wall seen at a glancing angle and now from the front covers many cells with each of its own. Cells magnified
    beyond `rho_max` along an axis are not shown.

    `block [h*w]` gets the nearest depth of what stands in the way even where it cannot be read: what lands within a
    quarter of a cell of the centre, and what is magnified too far, within one cell of where it lands.

    `zmin [h*w]` gets the nearest depth per target cell, infinity where nothing lands; `hit` the source cell, or -1,
    that lands closest to the cell's centre among those within `tau` of the nearest (then nearer, then first in row
    order), with its depth and magnification. Returns how many cells landed inside the image, and how many of those
    were magnified too far.
    """
    cells = (planes.shape[1] - 2) * (planes.shape[2] - 2)
    kept, boxes = np.empty((cells + 1, 4), np.float32), np.empty((cells + 1, 5), np.int32)
    kept[0, :], boxes[0, 4] = ZERO, -1  # what is hit where nothing lands
    distance, who = np.full(h * w, np.inf, np.float32), np.zeros(h * w, np.int32)
    zmin[:], block[:] = np.inf, np.inf
    count, landed, coarse = _nearest(planes, P, stride, near, rho_max, h, w, zmin, block, kept, boxes)
    _closest(kept, boxes, count, stride, tau, w, zmin, distance, who)
    for t in range(h * w):
        k = who[t]
        hit[t], depth[t], rho[t] = boxes[k, 4], kept[k, 2], kept[k, 3]
    return landed, coarse


@njit(cache=True, error_model="numpy", inline="always", nogil=True)
@no_type_check
def _angle(dot, cross):
    """The angle whose cosine and sine are as `dot` to `cross >= 0`: tangents halved until a series serves.

    An arc cosine loses half of its digits near 0, and has branches.
    """
    t = cross / (np.sqrt(dot * dot + cross * cross) + dot)  # tan(angle / 2)
    t = t if t < np.float32(1e9) else np.float32(1e9)  # also where both are 0 or the angle is straight
    t = t / (ONE + np.sqrt(ONE + t * t))
    t = t / (ONE + np.sqrt(ONE + t * t))  # tan(angle / 8) <= 0.415
    s = t * t
    series = np.float32(1 / 13) - s * (np.float32(1 / 15) - s * np.float32(1 / 17))
    series = np.float32(1 / 7) - s * (np.float32(1 / 9) - s * (np.float32(1 / 11) - s * series))
    series = np.float32(1 / 3) - s * (np.float32(1 / 5) - s * series)
    return np.float32(8) * t * (ONE - s * series)


@njit(cache=True, error_model="numpy", nogil=True)
@no_type_check
def rate(zmin, depth, rho, center, focal, principal, stride, theta, h, w, quality):
    """How well a group shows each cell it lands in: from 1/2 to 1 for the same viewpoint, unmagnified; else 0.

    `1/2 + 1/2 / ((1 + angle / theta) max(1, rho))`, with the angle at the surface between the view's ray and the
    source's, whose camera lies at `center [3]` in the view's frame. Appearance depends on the direction it is seen
    from, and depth errors show as parallax: of several groups the one that looked from nearest by is the truest.
    """
    cx, cy, cz = np.float32(center[0]), np.float32(center[1]), np.float32(center[2])
    per_theta, infinite = np.float32(1 / theta), np.float32(np.inf)
    per_focal, begin = np.float32(stride / focal[0]), np.float32((0.5 * stride - principal[0]) / focal[0])
    for i in range(h):
        y = np.float32(((i + 0.5) * stride - principal[1]) / focal[1])
        nearest, depths = zmin[i * w : (i + 1) * w], depth[i * w : (i + 1) * w]
        rhos, values = rho[i * w : (i + 1) * w], quality[i * w : (i + 1) * w]
        for j in range(w):
            x = np.float32(np.int32(j)) * per_focal + begin
            nx, ny, nz = cy - y * cz, x * cz - cx, y * cx - x * cy  # ray cross what lies between camera and point
            dot = depths[j] * (x * x + y * y + ONE) - (x * cx + y * cy + cz)
            angle = _angle(dot, np.sqrt(nx * nx + ny * ny + nz * nz))
            large = rhos[j] if rhos[j] > ONE else ONE
            value = HALF + HALF / ((ONE + angle * per_theta) * large)
            values[j] = value if nearest[j] < infinite else ZERO


@njit(cache=True, error_model="numpy", nogil=True)
@no_type_check
def land_cells(planes, P, center, focal, principal, stride, limits, k, zmin, hit, depth, block, quality):
    """`splat_cells` and `rate` of the group that is `k` in the pool into the rows `k` of `[pool h w]`.

    `P [pool 3 4]`, `center [pool 3]`; `limits`: `near`, `rho_max`, `tau`, `theta`. Returns what `splat_cells` does.
    """
    _, h, w = zmin.shape
    near, rho_max, tau, theta = limits
    rows = slice(k * h * w, (k + 1) * h * w)
    nearest, depths, rho = zmin.reshape(-1)[rows], depth.reshape(-1)[rows], np.empty(h * w, np.float32)
    hits, blocks, values = hit.reshape(-1)[rows], block.reshape(-1)[rows], quality.reshape(-1)[rows]
    counts = splat_cells(planes, P[k], stride, near, rho_max, tau, h, w, nearest, hits, depths, rho, blocks)
    rate(nearest, depths, rho, center[k], focal, principal, stride, theta, h, w, values)
    return counts
