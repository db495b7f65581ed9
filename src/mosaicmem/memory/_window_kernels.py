"""Compiled loops over the cameras of a window; slow twin in `mosaicmem.memory.window_reference`."""

from __future__ import annotations

from typing import no_type_check

import numpy as np
from numba import njit


@njit(cache=True, error_model="numpy", nogil=True)
@no_type_check
def _apart(viewmats, Ks, a, b, width, height, unit):
    """Pixels by which the corners or the middle of view `a`, at depth `unit`, move on to `b`: the farthest of these,
    infinity if one lies behind `b`."""
    A, B, K, L = viewmats[a], viewmats[b], Ks[a], Ks[b]
    most = 0.0
    for corner in range(5):
        u = 0.5 * width if corner == 4 else width * (corner % 2)
        v = 0.5 * height if corner == 4 else height * (corner // 2)
        x, y = unit * (u - K[0, 2]) / K[0, 0] - A[0, 3], unit * (v - K[1, 2]) / K[1, 1] - A[1, 3]
        z = unit - A[2, 3]
        wx = A[0, 0] * x + A[1, 0] * y + A[2, 0] * z
        wy = A[0, 1] * x + A[1, 1] * y + A[2, 1] * z
        wz = A[0, 2] * x + A[1, 2] * y + A[2, 2] * z
        depth = B[2, 0] * wx + B[2, 1] * wy + B[2, 2] * wz + B[2, 3]
        if depth <= 0:
            return np.inf
        du = L[0, 0] * (B[0, 0] * wx + B[0, 1] * wy + B[0, 2] * wz + B[0, 3]) / depth + L[0, 2] - u
        dv = L[1, 1] * (B[1, 0] * wx + B[1, 1] * wy + B[1, 2] * wz + B[1, 3]) / depth + L[1, 2] - v
        most = max(most, np.hypot(du, dv))
    return most


@njit(cache=True, error_model="numpy", nogil=True)
@no_type_check
def _equal(viewmats, Ks, a, b):
    """Whether two views have the very same camera."""
    for i in range(3):
        for j in range(4):
            if viewmats[a, i, j] != viewmats[b, i, j] or (j < 3 and Ks[a, i, j] != Ks[b, i, j]):
                return False
    return True


@njit(cache=True, error_model="numpy", nogil=True)
@no_type_check
def key_views(viewmats, Ks, width, height, unit, step, same, before, after):
    """Fill in `same`, `before` and `after [l]` of `mosaicmem.memory.windows.Plan`."""
    count, firsts = 0, np.empty(len(viewmats), np.int64)
    for i in range(len(viewmats)):
        same[i] = i
        for o in range(count):
            if _equal(viewmats, Ks, firsts[o], i):
                same[i] = firsts[o]
                break
        if same[i] == i:
            firsts[count] = i
            count += 1
    start, reach = 0, step * max(width, height)
    while start < count:
        key, far = firsts[start], start + 1
        while far < count and _apart(viewmats, Ks, key, firsts[far], width, height, unit) <= reach:
            far += 1
        stop = max(start + 1, far - 1)
        before[key] = after[key] = key
        for o in range(start + 1, min(stop, count)):
            before[firsts[o]], after[firsts[o]] = key, firsts[stop]
        start = stop
    for i in range(len(viewmats)):
        before[i], after[i] = before[same[i]], after[same[i]]
