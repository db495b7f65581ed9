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

TILE = 8
"""Source cells along each side of a tile, which is skipped where none of it can land."""

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
def tile_ranges(planes, ranges):
    """`ranges [tall wide 2]`: least and largest inverse depth on the planes of a tile's valid cells, corners included;
    the least is the larger where there is none."""
    h, w = planes.shape[1] - 2, planes.shape[2] - 2
    ranges[:, :, 0], ranges[:, :, 1] = np.inf, -np.inf
    for r in range(h):
        for c in range(w):
            here, i, j = planes[0, r + 1, c + 1], r // TILE, c // TILE
            bend = 0.5 * (abs(planes[1, r + 1, c + 1]) + abs(planes[2, r + 1, c + 1]))
            if here > 0:
                ranges[i, j, 0], ranges[i, j, 1] = min(ranges[i, j, 0], here - bend), max(ranges[i, j, 1], here + bend)


@njit(cache=True, error_model="numpy", nogil=True)
@no_type_check
def _footprints(planes, P, eye, stride, near, rho_max, h, w, r, start, stop, where, box):
    """Where cells `start` to `stop` of row `r` land. `where [6 _RUN]`, flat, gets x, y, depth, magnification (infinity
    where it is not coarse and the view's camera, `eye [3]` in the source, is behind its plane), depth or
    infinity by whether it lands near the centre of the cell that it lands in, and its squared distance from that;
    `box [6 _RUN]` first and past the last row, the same of columns, the cell that it lands in (0 if it is outside), and
    0 if it does not land, 1 if it lands in that cell alone, else 2."""
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
    begin, infinite, row = np.int32(start), np.float32(np.inf), np.float32(r) + HALF
    eye_x, eye_y, eye_z = np.float32(eye[0] / stride), np.float32(eye[1] / stride), np.float32(eye[2])
    for a in range(len(inverses)):
        inverse, gx, gy = np.float32(inverses[a]), np.float32(slopes_x[a]), np.float32(slopes_y[a])
        column = np.float32(np.int32(a) + begin) + HALF
        u = column * size
        behind = gx * eye_x + gy * eye_y + (inverse - gx * column - gy * row) * eye_z >= ONE
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
        i0, i1 = _first(top * per_size - HALF, rows), _first(bottom * per_size - HALF, rows)
        j0, j1 = _first(left * per_size - HALF, columns), _first(right * per_size - HALF, columns)
        i, j = np.floor(y * per_size), np.floor(x * per_size)
        inside = (x >= ZERO) & (x < width) & (y >= ZERO) & (y < height)
        dx, dy = x - (j + HALF) * size, y - (i + HALF) * size
        central = lands & inside & (abs(dx) <= QUARTER * size) & (abs(dy) <= QUARTER * size)
        i, j = (i if inside else ZERO), (j if inside else ZERO)
        alone = inside & (rho <= most) & (np.float32(i0) == i) & (np.float32(i1) == i + ONE)
        alone = alone & (np.float32(j0) == j) & (np.float32(j1) == j + ONE)
        where[a], where[_RUN + a], where[2 * _RUN + a] = x, y, z
        where[3 * _RUN + a] = infinite if behind & (rho <= most) else rho
        where[4 * _RUN + a], where[5 * _RUN + a] = (z if central else infinite), dx * dx + dy * dy
        box[a], box[_RUN + a], box[2 * _RUN + a], box[3 * _RUN + a] = i0, i1, j0, j1
        box[4 * _RUN + a] = np.int32(i * columns + j)
        box[5 * _RUN + a] = (np.int32(1) if alone else np.int32(2)) if lands else np.int32(0)


@njit(cache=True, error_model="numpy", nogil=True)
@no_type_check
def _borders(P, stride, near, rho_max, h, w):
    """`[5 4]`: what `(u, v, 1, 1 / d)` of a cell's centre or corner makes positive where it may land: the image's
    borders, widened by the largest footprint, and the nearest depth."""
    aside, forms = stride * rho_max, np.empty((5, 4))
    for c in range(4):
        forms[0, c], forms[1, c] = P[0, c] + aside * P[2, c], (w * stride + aside) * P[2, c] - P[0, c]
        forms[2, c], forms[3, c] = P[1, c] + aside * P[2, c], (h * stride + aside) * P[2, c] - P[1, c]
        forms[4, c] = P[2, c]
    forms[4, 3] -= near
    return forms


@njit(cache=True, error_model="numpy", nogil=True)
@no_type_check
def _live(ranges, row, forms, stride):
    """First and past the last tile in `row` of `ranges [tall wide 2]` of which any cell may land."""
    first, past, half = ranges.shape[1], 0, 0.5 * TILE * stride
    for tile in range(ranges.shape[1]):
        low, high = ranges[row, tile, 0], ranges[row, tile, 1]
        u, v, inverse, spare = (2 * tile + 1) * half, (2 * row + 1) * half, 0.5 * (low + high), 0.5 * (high - low)
        live = low <= high
        for f in range(len(forms)):
            a, b, c, d = forms[f, 0], forms[f, 1], forms[f, 2], forms[f, 3]
            size = abs(a) * u + abs(b) * v + abs(c) + abs(d * inverse)
            most = a * u + b * v + c + d * inverse + (abs(a) + abs(b)) * half + abs(d) * spare
            live &= most + 1e-6 * size > 0  # ten times what float32 may be wrong by
        if live:
            first, past = min(first, tile), tile + 1
    return first, past


@njit(cache=True, error_model="numpy", nogil=True)
@no_type_check
def _part(kind, count, alone, others):
    """Positions of the first `count` cells that land in one cell alone, and of those that land in others; how many."""
    one, more = 0, 0
    for a in range(count):
        alone[one], others[more] = a, a
        one += kind[a] == 1
        more += kind[a] == 2
    return one, more


@njit(cache=True, error_model="numpy", nogil=True)
@no_type_check
def _nearest(planes, ranges, P, eye, stride, near, rho_max, h, w, zmin, block, seen, spots, distances, kept, boxes):
    """The first half of `splat_cells`: nearest depths, and what the second half needs.

    `seen [2 q]` gets depth and magnification of every source cell. Those that land in one cell alone go to
    `spots [q 2]` (that cell, source cell) and `distances [q]`, those that are shown in others to `kept [q 2]` (x, y)
    and `boxes [q 5]` (footprint, source cell). Returns how many of both there are, how many landed, and how many of
    these were magnified too far and how many are seen from behind.
    """
    h_src, w_src = planes.shape[1] - 2, planes.shape[2] - 2
    where, box = np.empty(6 * _RUN, np.float32), np.empty(6 * _RUN, np.int32)
    alone, others = np.empty(_RUN, np.int32), np.empty(_RUN, np.int32)
    forms = _borders(P, stride, near, rho_max, h, w)
    first, second, landed, coarse, behind, left, right = 0, 0, 0, 0, 0, 0, 0
    for r in range(h_src):
        if r % TILE == 0:
            left, right = _live(ranges, r // TILE, forms, stride)
        end = min(right * TILE, w_src)
        for start in range(left * TILE, end, _RUN):
            stop, q = min(start + _RUN, end), r * w_src + start
            _footprints(planes, P, eye, stride, near, rho_max, h, w, r, start, stop, where, box)
            one, more = _part(box[5 * _RUN :], stop - start, alone, others)
            for a in range(stop - start):
                seen[0, q + a], seen[1, q + a] = where[2 * _RUN + a], where[3 * _RUN + a]
            for b in range(one):
                a = alone[b]
                t = box[4 * _RUN + a]
                zmin[t], block[t] = min(zmin[t], where[2 * _RUN + a]), min(block[t], where[4 * _RUN + a])
                spots[first, 0], spots[first, 1], distances[first] = t, q + a, where[5 * _RUN + a]
                behind += where[3 * _RUN + a] == np.inf
                first += 1
            for b in range(more):
                a = others[b]
                z, rho, t = where[2 * _RUN + a], where[3 * _RUN + a], box[4 * _RUN + a]
                i0, i1, j0, j1 = box[a], box[_RUN + a], box[2 * _RUN + a], box[3 * _RUN + a]
                block[t] = min(block[t], where[4 * _RUN + a])
                if rho == np.inf:
                    behind += 1
                elif rho > rho_max:
                    coarse += 1
                    for i in range(i0, i1):
                        for t in range(i * w + j0, i * w + j1):
                            block[t] = min(block[t], z)
                    continue
                for i in range(i0, i1):
                    for t in range(i * w + j0, i * w + j1):
                        zmin[t] = min(zmin[t], z)
                # number by number: a row is an array of its own, and its references are counted
                kept[second, 0], kept[second, 1] = where[a], where[_RUN + a]
                boxes[second, 0], boxes[second, 1], boxes[second, 2], boxes[second, 3] = i0, i1, j0, j1
                boxes[second, 4] = q + a
                second += 1
            landed += one + more
    return first, second, landed, coarse, behind


@njit(cache=True, error_model="numpy", nogil=True)
@no_type_check
def _closest(seen, spots, distances, kept, boxes, stride, tau, w, zmin, distance, hit):
    """The second half of `splat_cells`: the source cell that lands closest to each cell's centre, where any does."""
    bound, size = np.float32(1 + tau), np.float32(stride)
    for k in range(len(spots)):
        t, q, here = spots[k, 0], spots[k, 1], distances[k]
        z = seen[0, q]
        if z > bound * zmin[t] or here > distance[t]:
            continue
        if here < distance[t] or z < seen[0, hit[t]]:
            distance[t], hit[t] = here, q
    for k in range(len(boxes)):
        x, y, q = kept[k, 0], kept[k, 1], boxes[k, 4]
        z = seen[0, q]
        for i in range(boxes[k, 0], boxes[k, 1]):
            dy = y - (np.float32(i) + HALF) * size
            for j in range(boxes[k, 2], boxes[k, 3]):
                t = i * w + j
                dx = x - (np.float32(j) + HALF) * size
                here = dx * dx + dy * dy
                if z > bound * zmin[t] or here > distance[t]:
                    continue
                other = hit[t]
                if here < distance[t] or z < seen[0, other] or (z == seen[0, other] and q < other):
                    distance[t], hit[t] = here, q


@njit(cache=True, error_model="numpy", nogil=True)
@no_type_check
def splat_cells(planes, ranges, P, eye, stride, near, rho_max, tau, h, w, zmin, hit, depth, rho, block):
    """Land every valid source cell in the target grid, with its true footprint, and z-buffer within the group.

    The footprint is the bounding box of the cell's four corners on its tangent plane, at least one target cell wide:
    a wall seen at a glancing angle and now from the front covers many cells with each of its own. Cells magnified
    beyond `rho_max` along an axis are not shown.

    `block [h*w]` gets the nearest depth of what stands in the way even where it cannot be read: what lands within a
    quarter of a cell of the centre, and what is magnified too far, within one cell of where it lands.

    `zmin [h*w]` gets the nearest depth per target cell, infinity where nothing lands; `hit` the source cell, or -1,
    that lands closest to the cell's centre among those within `tau` of the nearest (then nearer, then first in row
    order), with its depth and magnification, infinity for one that is seen from behind: it hides, and is not shown.
    Returns how many cells landed inside the image, how many of those were magnified too far, and how many are seen
    from behind.
    """
    cells = (planes.shape[1] - 2) * (planes.shape[2] - 2)
    seen, distances = np.empty((2, cells + 1), np.float32), np.empty(cells, np.float32)
    spots, boxes, kept = (
        np.empty((cells, 2), np.int32),
        np.empty((cells, 5), np.int32),
        np.empty((cells, 2), np.float32),
    )
    seen[0, cells] = seen[1, cells] = 0  # what is hit where nothing lands
    zmin[:], block[:], hit[:] = np.inf, np.inf, cells
    one, more, landed, coarse, behind = _nearest(
        planes, ranges, P, eye, stride, near, rho_max, h, w, zmin, block, seen, spots, distances, kept, boxes
    )
    distance = np.full(h * w, np.inf, np.float32)
    _closest(seen, spots[:one], distances, kept, boxes[:more], stride, tau, w, zmin, distance, hit)
    for t in range(h * w):
        q = hit[t]
        depth[t], rho[t], hit[t] = seen[0, q], seen[1, q], q if q < cells else -1
    return landed, coarse, behind


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
    """How well a group shows each cell it lands in: from 1/2 to 1 for the same viewpoint, unmagnified; else 0, and 0
    where `rho` is infinite.

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
        values[:] = ZERO
        lands = np.int32(0)
        for j in range(w):
            lands += np.int32(nearest[j] < infinite)
        for j in range(w if lands else 0):
            x = np.float32(np.int32(j)) * per_focal + begin
            nx, ny, nz = cy - y * cz, x * cz - cx, y * cx - x * cy  # ray cross what lies between camera and point
            dot = depths[j] * (x * x + y * y + ONE) - (x * cx + y * cy + cz)
            angle = _angle(dot, np.sqrt(nx * nx + ny * ny + nz * nz))
            large = rhos[j] if rhos[j] > ONE else ONE
            value = HALF + HALF / ((ONE + angle * per_theta) * large)
            values[j] = value if (nearest[j] < infinite) & (rhos[j] < infinite) else ZERO


@njit(cache=True, error_model="numpy", nogil=True)
@no_type_check
def land_cells(planes, ranges, P, Q, center, focal, principal, stride, limits, k, zmin, hit, depth, block, quality):
    """`splat_cells` and `rate` of the group that is `k` in the pool into the rows `k` of `[pool h w]`.

    `P`, `Q [pool 3 4]`, `center [pool 3]`; `limits`: `near`, `rho_max`, `tau`, `theta`. Returns what `splat_cells`
    does.
    """
    _, h, w = zmin.shape
    near, rho_max, tau, theta = limits
    rows = slice(k * h * w, (k + 1) * h * w)
    nearest, depths, rho = zmin.reshape(-1)[rows], depth.reshape(-1)[rows], np.empty(h * w, np.float32)
    hits, blocks, values = hit.reshape(-1)[rows], block.reshape(-1)[rows], quality.reshape(-1)[rows]
    counts = splat_cells(
        planes, ranges, P[k], Q[k, :, 3], stride, near, rho_max, tau, h, w, nearest, hits, depths, rho, blocks
    )
    rate(nearest, depths, rho, center[k], focal, principal, stride, theta, h, w, values)
    return counts
