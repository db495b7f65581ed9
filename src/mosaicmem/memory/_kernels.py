"""Compiled loops over groups as retrieval sees them: tangent planes, and maps between images; float64.

Slow twins in `mosaicmem.memory.reference` and `geometry.warps`.

Geometry arrives as 3x4 pixel maps: `P` takes `d (u, v, 1)` of a source pixel to `z' (u', v', 1)` of the target by
`P[:, :3] @ (d u, d v, d) + P[:, 3]`, and `Q` is the inverse map.
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
