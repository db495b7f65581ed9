"""The compiled loop of selecting a thing: growing over linked patches; its slow twin is `selection_reference.grow`.

Patches lie in boxes, in a grid of their own for every octave of radii, so that a patch meets its neighbours alone.
`no_type_check` keeps run-time shape checkers from wrapping what numba is to compile.
"""

from __future__ import annotations

import math
from typing import no_type_check

import numpy as np
from numba import njit


@njit(cache=True, error_model="numpy", nogil=True)
@no_type_check
def grow(seed, points, radii, normals, gap, sine, cosine, keys, starts, sides, tops, low, dims, inside):
    """Everything linked to the seed, ring by ring, into `inside [q]`.

    Links are the same from both sides, and neighbours that are inside are counted when they come in, so that every
    pair is looked at once.

    Args:
        seed: Row of the patch to begin with.
        points, radii, normals: Of patches, `[q 3]`, `[q]` and `[q 3]`.
        gap, sine, cosine: Neighbours lie within `gap` radii of both; sine and cosine of the fold.
        keys: `[q]` boxes `(x dims[1] + y) dims[2] + z`, ascending within an octave.
        starts: `[o+1]` first rows of octaves. sides: `[o]` of their boxes. tops: `[o]` radii that theirs are below.
        low, dims: `[3]` corner of all grids, and `[o 3]` boxes along each axis.
    """
    count = len(points)
    near, linked, asked = np.zeros(count, np.int64), np.zeros(count, np.int64), np.zeros(count, np.int64)
    ring, after = np.empty(count, np.int64), np.empty(count, np.int64)
    ring[0], size, step = seed, 1, 0
    first, last = np.empty(3, np.int64), np.empty(3, np.int64)
    while size:
        step += 1
        for k in range(size):
            inside[ring[k]] = True
        many = 0
        for k in range(size):
            i = ring[k]
            for o in range(len(sides)):
                reach = gap * (radii[i] + tops[o])
                for axis in range(3):
                    first[axis] = max(0, math.floor((points[i, axis] - reach - low[axis]) / sides[o]))
                    last[axis] = min(dims[o, axis] - 1, math.floor((points[i, axis] + reach - low[axis]) / sides[o]))
                wide, high = last[0] - first[0] + 1, last[1] - first[1] + 1
                whole = wide * high > starts[o + 1] - starts[o]  # more rows of boxes than patches: look at all
                for box in range(1 if whole else max(0, wide) * max(0, high)):
                    row = ((first[0] + box // high) * dims[o, 1] + first[1] + box % high) * dims[o, 2]
                    j = starts[o] if whole else _not_before(keys, starts[o], starts[o + 1], row + first[2])
                    while j < starts[o + 1] and (whole or keys[j] <= row + last[2]):
                        if not inside[j]:
                            kind = _pair(points, radii, normals, i, j, gap, sine, cosine)
                            near[j] += kind > 0
                            linked[j] += kind > 1
                            if kind > 1 and asked[j] != step:
                                asked[j] = step
                                after[many] = j
                                many += 1
                        j += 1
        size = 0
        for k in range(many):
            j = after[k]
            if 2 * linked[j] > near[j]:
                ring[size] = j
                size += 1


@njit(cache=True, error_model="numpy", inline="always", nogil=True)
@no_type_check
def _not_before(keys, start, stop, key):
    """The first row from `start` to `stop` whose key is not smaller."""
    while start < stop:
        middle = (start + stop) // 2
        if keys[middle] < key:
            start = middle + 1
        else:
            stop = middle
    return start


@njit(cache=True, error_model="numpy", inline="always", nogil=True)
@no_type_check
def _pair(points, radii, normals, i, j, gap, sine, cosine):
    """0 for patches that are no neighbours, 1 for neighbours, 2 for neighbours on one thing."""
    sx, sy, sz = points[i, 0] - points[j, 0], points[i, 1] - points[j, 1], points[i, 2] - points[j, 2]
    size = radii[i] + radii[j]
    length = math.sqrt(sx * sx + sy * sy + sz * sz)
    if not length <= gap * size:
        return 0
    ax, ay, az = normals[i, 0], normals[i, 1], normals[i, 2]
    bx, by, bz = normals[j, 0], normals[j, 1], normals[j, 2]
    over_i, over_j = sx * ax + sy * ay + sz * az, sx * bx + sy * by + sz * bz
    if ax * bx + ay * by + az * bz >= cosine:
        flat = gap * sine * size
        return 2 if abs(over_i) <= flat and abs(over_j) <= flat else 1
    along = abs(sx * (ay * bz - az * by) + sy * (az * bx - ax * bz) + sz * (ax * by - ay * bx))
    crossed = along <= 0.5 * length
    return 2 if crossed and over_i - over_j > 0 and over_i >= -0.2 * size and over_j <= 0.2 * size else 1
