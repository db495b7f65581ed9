"""Compiled loops of retrieval on the CPU, who shows what; each has its slow twin in `mosaicmem.memory.reference`."""

from __future__ import annotations

import math
from typing import no_type_check

import numpy as np
from numba import njit


@njit(cache=True, error_model="numpy", nogil=True, fastmath={"reassoc"})
@no_type_check
def greedy_cover(quality, weight, order, limit, gain_min, picked, gains, left, total):
    """Lazy greedy facility location: positions in order of `gain * weight`, ties to whoever is earlier in `order`.

    `quality [k q]` says how well each of `k` shows each element, 0 = not at all; what is gained by a pick is the sum
    over elements of what it shows better than those picked before. Such gains only fall, so a stale one is an upper
    bound and most groups need no second look. `picked [k]` and `gains [k]` (when last looked at) are updated in place,
    `left [k]` gets what each would still gain at the end and `total [k]` what it shows. Returns the picks in order,
    whose gains are all at least `gain_min` and positive.
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
                gain += max(quality[k, q] - best_shown[q], 0.0)
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
    for k in range(count):
        gain = shown = 0.0
        for q in range(size):
            gain += max(quality[k, q] - best_shown[q], 0.0)
            shown += quality[k, q]
        left[k], total[k] = gain, shown
    return chosen[:num]


@njit(cache=True, error_model="numpy", inline="always", nogil=True)
@no_type_check
def _angle(dot, cross):
    """The angle whose cosine and sine are as `dot` to `cross >= 0`, to 1e-10: tangents halved until a series serves.

    An arc cosine loses half of its digits near 0, and has branches.
    """
    t = cross / (math.sqrt(dot * dot + cross * cross) + dot)  # tan(angle / 2)
    t = t if t < 1e30 else 1e30  # also where both are 0 or the angle is straight
    t = t / (1 + math.sqrt(1 + t * t))
    t = t / (1 + math.sqrt(1 + t * t))  # tan(angle / 8) <= 0.415
    s = t * t
    series = 1 / 27 - s / 29
    series = 1 / 19 - s * (1 / 21 - s * (1 / 23 - s * (1 / 25 - s * series)))
    series = 1 / 11 - s * (1 / 13 - s * (1 / 15 - s * (1 / 17 - s * series)))
    series = 1 / 3 - s * (1 / 5 - s * (1 / 7 - s * (1 / 9 - s * series)))
    return 8 * t * (1 - s * series)


@njit(cache=True, error_model="numpy", inline="always", nogil=True)
@no_type_check
def _past(x, y, front, depth, cx, cy, cz, slack):
    """Whether a camera at `(cx, cy, cz)` looked past the ray's point at depth `front` when it saw that at `depth`.

    It did if it sees both along one line, to a tangent of `slack`.
    """
    ax, ay, az = front * x - cx, front * y - cy, front - cz
    bx, by, bz = depth * x - cx, depth * y - cy, depth - cz
    nx, ny, nz = ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx
    dot = ax * bx + ay * by + az * bz
    return (dot > 0.0) & (nx * nx + ny * ny + nz * nz < slack * slack * dot * dot)


@njit(cache=True, error_model="numpy", nogil=True)
@no_type_check
def view_quality(zmin, depth, rho, tau, center, moved, focal, principal, stride, theta, slack, first, last, quality):
    """How well each group shows each cell of rows `first` to `last`: from 1/2 to 1 for the same viewpoint, unmagnified.

    `1/2 + 1/2 / ((1 + angle / theta) max(1, rho))`, with the angle at the surface between the view's ray and the
    source's, whose camera lies at `center [k 3]` in the view's frame; 0 where hidden. Appearance depends on the
    direction it is seen from, and depth errors show as parallax: of several groups the one that looked from nearest
    by is the truest. What lies behind another group's surface is hidden, unless its own camera looked past that
    (`_past`); groups that were `moved [k]` since, by an edit, are not where their camera saw them.
    """
    count, _, w = zmin.shape
    front, rival, placed, per_theta = np.empty(w), np.empty(w), np.empty(w), 1 / theta
    slopes = ((np.arange(w) + 0.5) * stride - principal[0]) / focal[0]
    for i in range(first, last):
        y = ((i + 0.5) * stride - principal[1]) / focal[1]
        front[:] = np.inf
        for k in range(count):
            for j in range(w):
                front[j] = zmin[k, i, j] if zmin[k, i, j] < front[j] else front[j]
        rival[:], placed[:] = np.inf, np.inf
        for k in range(count):
            away = center[k, 0] ** 2 + center[k, 1] ** 2 + center[k, 2] ** 2
            for j in range(w):
                near = zmin[k, i, j] <= (1 + tau) * front[j]
                rival[j] = away if near and away < rival[j] else rival[j]
            if moved[k]:
                for j in range(w):
                    placed[j] = min(placed[j], zmin[k, i, j])
        for k in range(count):
            start, stop = w, 0  # between the first and the last cell that it lands in
            for j in range(w):
                lands = zmin[k, i, j] < np.inf
                start, stop = min(start, j if lands else w), j + 1 if lands else stop
            quality[k, i] = 0.0
            cx, cy, cz = center[k, 0], center[k, 1], center[k, 2]
            away = cx * cx + cy * cy + cz * cz
            depths, rhos, values = depth[k, i, start:stop], rho[k, i, start:stop], quality[k, i, start:stop]
            xs = slopes[start:stop]
            for j in range(len(values)):
                x, d = xs[j], depths[j]
                qx, qy, qz = d * x - cx, d * y - cy, d - cz
                nx, ny, nz = y * qz - qy, qx - x * qz, x * qy - y * qx  # (x, y, 1) cross q
                angle = _angle(x * qx + y * qy + qz, math.sqrt(nx * nx + ny * ny + nz * nz))
                large = rhos[j] if rhos[j] > 1.0 else 1.0
                values[j] = 0.5 + 0.5 / ((1 + angle * per_theta) * large)
            for j in range(start, stop):  # apart, so that the loop above has no branches
                z = zmin[k, i, j]
                if z == np.inf:
                    quality[k, i, j] = 0.0
                elif z > (1 + tau) * front[j]:  # who stands nearer than those who show the front knows better
                    if moved[k] or away >= rival[j] or z > (1 + tau) * placed[j]:
                        quality[k, i, j] = 0.0
                        continue
                    if not _past(slopes[j], y, front[j], depth[k, i, j], cx, cy, cz, slack):
                        quality[k, i, j] = 0.0


@njit(cache=True, error_model="numpy", nogil=True)
@no_type_check
def assign_owners(
    good,
    depth,
    block,
    quality,
    picks,
    groups,
    weight,
    tau,
    center,
    moved,
    focal,
    principal,
    stride,
    slack,
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

    `good [k h w]`, refined `depth [k h w]`; of the pool's `quality [pool h w]` and `block [pool h w]`, what stands in
    the way unshown, `picks [k]` are the rows of those `k`. A cell is served only by groups within `tau` of the
    nearest refined depth there, or of the nearest block, or that looked past it (`good` is cleared elsewhere).
    `owner [m n]` and `source [h w]` get `groups [k]` or stay as they are, `out_*` what the chosen group's reading says.
    """
    count = good.shape[0]
    m, n = owner.shape
    votes = np.empty(count)
    rank = np.empty(count, np.int64)
    front, rival, placed = np.empty(n * patch), np.empty(n * patch), np.empty(n * patch)
    away = (center * center).sum(1)
    for ti in range(m):
        votes_row = np.zeros((n, count))
        for i in range(ti * patch, (ti + 1) * patch):
            front[:], rival[:], placed[:] = np.inf, np.inf, np.inf
            y = ((i + 0.5) * stride - principal[1]) / focal[1]
            for k in range(len(block)):
                for j in range(n * patch):
                    front[j] = min(front[j], block[k, i, j])
            for k in range(count):
                for j in range(n * patch):
                    front[j] = min(front[j], depth[k, i, j] if good[k, i, j] else np.inf)
            hidden = 0
            for k in range(count):
                for j in range(n * patch):
                    hidden += good[k, i, j] and depth[k, i, j] > (1 + tau) * front[j]
            if hidden:  # in few rows; only these ask who stands nearest and what was moved
                for k in range(len(block)):
                    for j in range(n * patch):
                        near = block[k, i, j] <= (1 + tau) * front[j]
                        rival[j] = away[k] if near and away[k] < rival[j] else rival[j]
                        placed[j] = min(placed[j], block[k, i, j]) if moved[k] else placed[j]
                for k in range(count):
                    p = picks[k]
                    for j in range(n * patch):
                        near = good[k, i, j] and depth[k, i, j] <= (1 + tau) * front[j]
                        rival[j] = away[p] if near and away[p] < rival[j] else rival[j]
                        closer = good[k, i, j] and moved[p] and depth[k, i, j] < placed[j]
                        placed[j] = depth[k, i, j] if closer else placed[j]
            for k in range(count):
                p, c = picks[k], center[picks[k]]
                for j in range(n * patch):
                    if good[k, i, j] and depth[k, i, j] > (1 + tau) * front[j]:
                        x = ((j + 0.5) * stride - principal[0]) / focal[0]
                        knows = (not moved[p]) and away[p] < rival[j] and depth[k, i, j] <= (1 + tau) * placed[j]
                        good[k, i, j] = knows and _past(x, y, front[j], depth[k, i, j], c[0], c[1], c[2], slack)
                    if good[k, i, j]:
                        votes_row[j // patch, k] += weight[k] * (2 * quality[picks[k], i, j] - 1)
        for tj in range(n):
            votes[:] = votes_row[tj]
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
                            source[i, j] = groups[k]
                            out_uv[i, j, 0], out_uv[i, j, 1] = uv[k, i, j, 0], uv[k, i, j, 1]
                            out_z[i, j], out_depth[i, j] = source_z[k, i, j], depth[k, i, j]
                            served += 1
                            break
            if served >= min_cells:
                owner[ti, tj] = groups[rank[0]]
                covered[ti, tj] = True
