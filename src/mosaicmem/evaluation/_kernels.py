"""Compiled loops of photometric alignment (`mosaicmem.evaluation.photometric`), float64 sums.

`no_type_check` keeps run-time shape checkers from wrapping what numba is to compile.
"""

from __future__ import annotations

import math
from typing import no_type_check

import numpy as np
from numba import njit


@njit(cache=True, error_model="numpy")
@no_type_check
def residuals(frame, points, values, pose, intrinsics, gain, bias, out, sampled):
    """`out [p 3]` = reference minus corrected frame where each point lands; `sampled [p 3]` the frame there.

    `frame [3 H W]`; `points [p 3]` and `values [p 3]` of the reference; `pose [3 4]` generated from reference;
    `intrinsics` = fx, fy, cx, cy. A point that lands outside or behind gets NaN. Returns how many landed.
    """
    height, width = frame.shape[1], frame.shape[2]
    landed = 0
    for i in range(len(points)):
        x, y, z = points[i, 0], points[i, 1], points[i, 2]
        depth = pose[2, 0] * x + pose[2, 1] * y + pose[2, 2] * z + pose[2, 3]
        out[i, 0] = math.nan
        if depth < 1e-3:
            continue
        u = intrinsics[0] * (pose[0, 0] * x + pose[0, 1] * y + pose[0, 2] * z + pose[0, 3]) / depth + intrinsics[2]
        v = intrinsics[1] * (pose[1, 0] * x + pose[1, 1] * y + pose[1, 2] * z + pose[1, 3]) / depth + intrinsics[3]
        u, v = u - 0.5, v - 0.5  # to indices of pixel centres
        if not (u >= 0 and v >= 0 and u <= width - 1 and v <= height - 1):
            continue
        j, k = min(int(u), width - 2), min(int(v), height - 2)
        a, b = u - j, v - k
        landed += 1
        for c in range(3):
            top = (1 - a) * frame[c, k, j] + a * frame[c, k, j + 1]
            low = (1 - a) * frame[c, k + 1, j] + a * frame[c, k + 1, j + 1]
            sampled[i, c] = (1 - b) * top + b * low
            out[i, c] = values[i, c] - gain * sampled[i, c] - bias
    return landed


@njit(cache=True, error_model="numpy")
@no_type_check
def normal_equations(error, sampled, jacobian, cut, H, g):
    """Sums `H [8 8]`, `g [8]` of the normal equations over (twist, gain, bias) under Tukey's weights, cut at `cut`.

    `error` is `values(twist) - gain frame - bias`, so its derivatives are `jacobian [p 3 6]`, `-frame` and -1.
    """
    H[:] = 0.0
    g[:] = 0.0
    row = np.empty(8)
    row[7] = -1.0
    for i in range(len(error)):
        if math.isnan(error[i, 0]):
            continue
        for c in range(3):
            r = error[i, c]
            ratio = 1.0 - (r / cut) ** 2
            if ratio <= 0:
                continue
            w = ratio * ratio
            for p in range(6):
                row[p] = jacobian[i, c, p]
            row[6] = -sampled[i, c]
            for p in range(8):
                left = w * row[p]
                g[p] += left * r
                for q in range(p + 1):
                    H[p, q] += left * row[q]
    for p in range(8):
        for q in range(p):
            H[q, p] = H[p, q]


@njit(cache=True, error_model="numpy")
@no_type_check
def tukey_cost(error, cut):
    """Mean of Tukey's cost, 0 to 1, and the share below the cut, over values that landed."""
    cost, inside, count = 0.0, 0, 0
    for i in range(len(error)):
        if math.isnan(error[i, 0]):
            continue
        for c in range(3):
            count += 1
            ratio = 1.0 - (error[i, c] / cut) ** 2
            if ratio > 0:
                inside += 1
                cost += 1.0 - ratio * ratio * ratio
            else:
                cost += 1.0
    return cost / max(count, 1), inside / max(count, 1)
