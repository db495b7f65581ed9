"""Compiled loops that read a group back along a view's rays, in float64; slow twin in `mosaicmem.memory.reference`.

Rays go in runs, and a run in steps: arithmetic without branches on scratch of a fixed layout, which becomes vectors,
apart from what does not, fetching taps and parting rays that are done from those that go on.
"""

from __future__ import annotations

from typing import no_type_check

import numpy as np
from numba import njit

_RUN = 128
"""Rays that are followed at once."""

MET = 1e-6
"""Share of the depth within which a ray has met the surface: what is left of depths in float32."""

_AX, _AY, _AZ, _DEPTH, _Z, _U, _V, _FX, _FY, _INSIDE, _SURFACE, _NEXT = range(0, 12 * _RUN, _RUN)
"""Where a run's numbers begin in its scratch: the ray's direction in the source, scaled so that `depth` times it and
the view's camera make a source point; depth in the view; source depth and pixel; place between four taps; whether it is
among the cells; depth of the surface there, 0 where there is none; and where the ray meets the plane of that, in the
view."""


@njit(cache=True, error_model="numpy", nogil=True)
@no_type_check
def _begin(planes, P, Q, stride, i, start, stop, hit, rays, column):
    """The rays of cells `start` to `stop` of row `i` that something lands in, at the depth of the cell that is `hit`;
    how many, and their `column`s."""
    w_src, count = planes.shape[2] - 2, 0
    for j in range(start, stop):
        column[count], rays[_DEPTH + count] = j, hit[i, j]
        count += hit[i, j] >= 0
    v, per_row = (i + 0.5) * stride, 1 / w_src
    for a in range(count):
        u = (column[a] + 0.5) * stride
        rays[_AX + a] = Q[0, 0] * u + Q[0, 1] * v + Q[0, 2]
        rays[_AY + a] = Q[1, 0] * u + Q[1, 1] * v + Q[1, 2]
        rays[_AZ + a] = Q[2, 0] * u + Q[2, 1] * v + Q[2, 2]
        r = np.floor((rays[_DEPTH + a] + 0.5) * per_row)
        c = rays[_DEPTH + a] - r * w_src
        rays[_U + a], rays[_V + a] = c, r
    for a in range(count):
        rays[_SURFACE + a] = planes[0, int(rays[_V + a]) + 1, int(rays[_U + a]) + 1]
    for a in range(count):
        u, v, inverse = (rays[_U + a] + 0.5) * stride, (rays[_V + a] + 0.5) * stride, rays[_SURFACE + a]
        rays[_DEPTH + a] = (P[2, 0] * u + P[2, 1] * v + P[2, 2] + P[2, 3] * inverse) / inverse
    return count


@njit(cache=True, error_model="numpy", nogil=True)
@no_type_check
def _look(Q, stride, h, w, count, rays, cell):
    """Where `count` rays meet a source of `h` times `w` cells, and the first of the four taps there, in its planes."""
    q03, q13, q23, per_stride, span = Q[0, 3], Q[1, 3], Q[2, 3], 1 / stride, np.int32(w + 2)
    width, height = float(w + 1), float(h + 1)
    for a in range(count):
        D = rays[_DEPTH + a]
        z = D * rays[_AZ + a] + q23
        nearness = 1 / z
        u, v = (D * rays[_AX + a] + q03) * nearness, (D * rays[_AY + a] + q13) * nearness
        x, y = u * per_stride + 0.5, v * per_stride + 0.5  # in the planes with their border
        inside = (z > 0) & (x >= 0) & (y >= 0) & (x < width) & (y < height)
        x, y = (x if inside else 0.0), (y if inside else 0.0)
        c, r = np.int32(x), np.int32(y)
        rays[_Z + a], rays[_U + a], rays[_V + a] = z, u, v
        rays[_FX + a], rays[_FY + a], rays[_INSIDE + a] = x - c, y - r, 1.0 if inside else 0.0
        cell[a] = r * span + c


@njit(cache=True, error_model="numpy", nogil=True)
@no_type_check
def _fetch(inverse, slope_x, slope_y, span, count, cell, taps):
    """`taps [12 _RUN]`, flat: the planes of the four cells from `cell` on, to its right and below."""
    right, below = np.uint32(1), np.uint32(span)
    for a in range(count):
        t = np.uint32(cell[a])  # without a sign: an index that may count from the end is slow
        taps[a], taps[_RUN + a], taps[2 * _RUN + a] = inverse[t], slope_x[t], slope_y[t]
        t += right
        taps[3 * _RUN + a], taps[4 * _RUN + a], taps[5 * _RUN + a] = inverse[t], slope_x[t], slope_y[t]
        t += below
        taps[9 * _RUN + a], taps[10 * _RUN + a], taps[11 * _RUN + a] = inverse[t], slope_x[t], slope_y[t]
        t -= right
        taps[6 * _RUN + a], taps[7 * _RUN + a], taps[8 * _RUN + a] = inverse[t], slope_x[t], slope_y[t]


@njit(cache=True, error_model="numpy", inline="always", nogil=True)
@no_type_check
def _tap(taps, at, dx, dy, b, z, tau, total, inverse, across, down):
    """Add one tap of weight `b` that lies `(dx, dy)` cells aside, carried along its plane, and the slopes of that, if
    it agrees with `z`."""
    slope_x, slope_y = taps[at + _RUN], taps[at + 2 * _RUN]
    carried = taps[at] + slope_x * dx + slope_y * dy
    share = z * carried  # z / d
    b = b if (share > 0) & (abs(1.0 - share) <= tau * share) else 0.0
    return total + b, inverse + b * carried, across + b * slope_x, down + b * slope_y


@njit(cache=True, error_model="numpy", nogil=True)
@no_type_check
def _surface(Q, stride, tau, w_min, count, rays, taps):
    """The depth of the surface that four taps agree on, and where the ray meets the plane that touches it there.

    With `across`, `down` the slopes of inverse depth a pixel, source points `z (u, v, 1)` of that plane have
    `across u z + down v z + level z = 1`, and less in front of it. Along the ray this is linear in the depth in the
    view; where it falls, the ray comes from behind, and what the source saw is not to be seen.
    """
    q03, q13, q23, per_stride = Q[0, 3], Q[1, 3], Q[2, 3], 1 / stride
    for a in range(count):
        z, fx, fy, total, inverse, across, down = rays[_Z + a], rays[_FX + a], rays[_FY + a], 0.0, 0.0, 0.0, 0.0
        b = (1 - fx) * (1 - fy)
        total, inverse, across, down = _tap(taps, a, fx, fy, b, z, tau, total, inverse, across, down)
        at, b = 3 * _RUN + a, fx * (1 - fy)
        total, inverse, across, down = _tap(taps, at, fx - 1, fy, b, z, tau, total, inverse, across, down)
        at, b = 6 * _RUN + a, (1 - fx) * fy
        total, inverse, across, down = _tap(taps, at, fx, fy - 1, b, z, tau, total, inverse, across, down)
        at, b = 9 * _RUN + a, fx * fy
        total, inverse, across, down = _tap(taps, at, fx - 1, fy - 1, b, z, tau, total, inverse, across, down)
        across, down = across * per_stride, down * per_stride
        level = inverse - across * rays[_U + a] - down * rays[_V + a]
        ahead = across * rays[_AX + a] + down * rays[_AY + a] + level * rays[_AZ + a]
        agreed = (rays[_INSIDE + a] > 0) & (total >= w_min) & (inverse > 0) & (ahead > 0)
        rays[_SURFACE + a] = total / inverse if agreed else 0.0
        rays[_NEXT + a] = (total - (across * q03 + down * q13 + level * q23)) / ahead


@njit(cache=True, error_model="numpy", nogil=True)
@no_type_check
def _settle(near, tau_surface, last, count, rays, column, out, uv, source_z, refined):
    """Write down the rays that have met their surface, all if this is the `last` step, and return how many go on."""
    going = 0
    for a in range(count):
        d, z, j = rays[_SURFACE + a], rays[_Z + a], column[a]
        if d == 0:
            continue
        if last or abs(d - z) <= MET * z:
            if abs(d - z) <= tau_surface * z:
                uv[out, j, 0], uv[out, j, 1] = rays[_U + a], rays[_V + a]
                source_z[out, j], refined[out, j] = z, rays[_DEPTH + a]
            continue
        column[going], rays[_DEPTH + going] = j, rays[_NEXT + a]
        rays[_AX + going], rays[_AY + going], rays[_AZ + going] = rays[_AX + a], rays[_AY + a], rays[_AZ + a]
        going += rays[_NEXT + a] > near
    return going


@njit(cache=True, error_model="numpy", nogil=True)
@no_type_check
def read_back(planes, P, Q, stride, near, tau, tau_surface, w_min, steps, first, last, hit, uv, source_z, refined):
    """Find, for every cell of rows `first` to `last` that the group lands in, where its source shows what it sees.

    From the depth of the cell that is `hit [h w]` the ray of the target cell is followed to the group's own surface by
    Newton's steps, from where it is to where it meets the plane that touches the surface there, until surface and ray
    are one or after `steps`; `steps = 0` is one plain back-projection. A flat surface is met at once, and any only from
    the front.
    A cell is good if at least `w_min` of the bilinear weight lies on valid taps that agree with the ray's depth within
    `tau`, and the surface they interpolate does within `tau_surface`: footprints are generous, this is strict. A ray
    that misses the surface whose footprint it met goes on to whatever lies behind. Taps are carried to the sample
    point along their own tangent planes before they are compared or averaged.
    `refined [last-first w]` gets the depth in the view, infinity where not good; there `uv` and `source_z` stay as
    they are.
    """
    w, h_src, w_src = hit.shape[1], planes.shape[1] - 2, planes.shape[2] - 2
    flat, size = planes.reshape(-1), (h_src + 2) * (w_src + 2)
    inverse, slope_x, slope_y = flat[:size], flat[size : 2 * size], flat[2 * size :]
    rays, taps = np.empty(12 * _RUN), np.empty(12 * _RUN)
    cell, column = np.empty(_RUN, np.int32), np.empty(_RUN, np.int32)
    refined[:] = np.inf
    for i in range(first, last):
        for start in range(0, w, _RUN):
            count = _begin(planes, P, Q, stride, i, start, min(start + _RUN, w), hit, rays, column)
            for step in range(steps + 1):
                _look(Q, stride, h_src, w_src, count, rays, cell)
                _fetch(inverse, slope_x, slope_y, w_src + 2, count, cell, taps)
                _surface(Q, stride, tau, w_min, count, rays, taps)
                out, end = i - first, step == steps
                count = _settle(near, tau_surface, end, count, rays, column, out, uv, source_z, refined)
                if not count:
                    break
