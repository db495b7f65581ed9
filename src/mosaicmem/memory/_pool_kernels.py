"""Compiled loops over patches and blocks of patches: who stands in front in a view, and who shows what of it.

Their twin is `pool_reference`, over all pairs. A block is skipped only where no patch of it could change the answer,
so blocks change the time and nothing else. Arithmetic is float32 at patches and float64 at blocks, whose bounds are
wide enough for the rounding of the former.
"""

from __future__ import annotations

import math
from typing import no_type_check

import numpy as np
from numba import njit

_SLACK = 1e-6  # of the coordinates' size: some ten times the rounding of a float32 projection


@njit(cache=True, error_model="numpy", inline="always", nogil=True)
@no_type_check
def _first_last(low, high, stride, count):
    """Grid elements whose centres lie in `[low, high)`, clipped to the grid."""
    first = max(0, math.ceil(low / stride - 0.5))
    last = min(count - 1, math.ceil(high / stride - 0.5) - 1)
    return first, last


@njit(cache=True, error_model="numpy", nogil=True)
@no_type_check
def group_spheres_in_view(spheres, view, focal, principal, width, height, near, inside):
    """`inside [g]`: groups whose bounding sphere meets the frustum beyond `near`; not those of negative radius."""
    for g in range(len(spheres)):
        x, y, z, r = spheres[g, 0], spheres[g, 1], spheres[g, 2], spheres[g, 3]
        xc = view[0, 0] * x + view[0, 1] * y + view[0, 2] * z + view[0, 3]
        yc = view[1, 0] * x + view[1, 1] * y + view[1, 2] * z + view[1, 3]
        zc = view[2, 0] * x + view[2, 1] * y + view[2, 2] * z + view[2, 3]
        inside[g] = r >= 0 and zc + r > near and _meets(xc, zc, r, focal[0], principal[0], width)
        inside[g] = inside[g] and _meets(yc, zc, r, focal[1], principal[1], height)


@njit(cache=True, error_model="numpy", inline="always", nogil=True)
@no_type_check
def _meets(x, z, r, focal, principal, extent):
    """Whether a sphere reaches inside the two planes through the image borders of one axis."""
    low, high = -principal / focal, (extent - principal) / focal
    return x - low * z > -r * math.hypot(1.0, low) and high * z - x > -r * math.hypot(1.0, high)


@njit(cache=True, error_model="numpy", nogil=True)
@no_type_check
def live_blocks(
    blocks, block_offsets, active, m, n, view, focal, principal, stride, near, max_half, live, front, rect, whole
):
    """Blocks of the `active` groups that may land in the view, in order, and how many. For each:

    `live [b 2]` position in `active` and row of the block; `front [b]` a depth that no patch of it is nearer than;
    `rect [b 4]` first and last row and column of the `[m n]` tokens outside of which none of its patches lands;
    `whole [b]` whether every patch of it certainly lands in the image.
    """
    count = 0
    for k in range(len(active)):
        for b in range(block_offsets[active[k]], block_offsets[active[k] + 1]):
            x, y, z = float(blocks[b, 0]), float(blocks[b, 1]), float(blocks[b, 2])
            dx, dy, dz = float(blocks[b, 3]), float(blocks[b, 4]), float(blocks[b, 5])
            xc = view[0, 0] * x + view[0, 1] * y + view[0, 2] * z + view[0, 3]
            yc = view[1, 0] * x + view[1, 1] * y + view[1, 2] * z + view[1, 3]
            zc = view[2, 0] * x + view[2, 1] * y + view[2, 2] * z + view[2, 3]
            slack = abs(x) + abs(y) + abs(z) + dx + dy + dz + abs(view[0, 3]) + abs(view[1, 3]) + abs(view[2, 3])
            rx = abs(view[0, 0]) * dx + abs(view[0, 1]) * dy + abs(view[0, 2]) * dz + _SLACK * slack
            ry = abs(view[1, 0]) * dx + abs(view[1, 1]) * dy + abs(view[1, 2]) * dz + _SLACK * slack
            rz = abs(view[2, 0]) * dx + abs(view[2, 1]) * dy + abs(view[2, 2]) * dz + _SLACK * slack
            nearest, farthest = zc - rz, zc + rz
            if farthest <= near:
                continue
            live[count, 0], live[count, 1] = k, b
            if nearest <= max(near, 0.0) or nearest <= 1e-3 * farthest:
                # a patch may reach beyond its centre by its radius, or by half a token
                wide = math.sqrt(rx * rx + ry * ry + rz * rz)
                wide += max(blocks[b, 6], 0.5 * stride * farthest / min(focal[0], focal[1]))
                if not _meets(xc, zc, wide, focal[0], principal[0], n * stride):
                    continue
                if not _meets(yc, zc, wide, focal[1], principal[1], m * stride):
                    continue
                front[count] = 0.0
                rect[count, 0], rect[count, 1], rect[count, 2], rect[count, 3] = 0, m - 1, 0, n - 1
                whole[count] = False
                count += 1
                continue
            half = min(max(blocks[b, 6] * focal[0] / nearest, 0.5 * stride), max_half) + 1e-3 * stride
            left, right = xc - rx, xc + rx
            left = focal[0] * left / (farthest if left > 0 else nearest) + principal[0]
            right = focal[0] * right / (nearest if right > 0 else farthest) + principal[0]
            top, bottom = yc - ry, yc + ry
            top = focal[1] * top / (farthest if top > 0 else nearest) + principal[1]
            bottom = focal[1] * bottom / (nearest if bottom > 0 else farthest) + principal[1]
            if right + half <= 0 or bottom + half <= 0 or left - half >= n * stride or top - half >= m * stride:
                continue
            whole[count] = left > 0 and top > 0 and right < n * stride and bottom < m * stride and nearest > near
            rect[count, 0], rect[count, 1] = _first_last(top - half, bottom + half, stride, m)
            rect[count, 2], rect[count, 3] = _first_last(left - half, right + half, stride, n)
            front[count] = nearest
            count += 1
    return count


@njit(cache=True, error_model="numpy", nogil=True)
@no_type_check
def nearest_first(front, order):
    """`order [b]`: from near to far, by quarters of a power of two; equals stay in order. `front` is float32, >= 0."""
    key = front.view(np.int32)
    low = high = key[0] >> 21 if len(key) else 0
    for i in range(len(key)):
        low, high = min(low, key[i] >> 21), max(high, key[i] >> 21)
    start = np.zeros(high - low + 2, np.int64)
    for i in range(len(key)):
        start[(key[i] >> 21) - low + 1] += 1
    for i in range(1, len(start)):
        start[i] += start[i - 1]
    for i in range(len(key)):
        bucket = (key[i] >> 21) - low
        order[start[bucket]] = i
        start[bucket] += 1


_RUN = 64
"""Patches that are placed at once, without branches and in scratch of a fixed layout, so that it vectorises."""


@njit(cache=True, error_model="numpy", inline="always", nogil=True)
@no_type_check
def _first(x, count):
    """The first grid element at or after `x`, brought into [0, count], as a float."""
    x = np.ceil(x)
    x = x if x > np.float32(0) else np.float32(0)
    return x if x < count else count


@njit(cache=True, error_model="numpy", nogil=True)
@no_type_check
def _place(centers, radii, start, stop, view, focal, principal, stride, near, max_half, m, n, run):
    """Where patches `start` to `stop`, at most `_RUN`, land: `run [5 _RUN]`, flat, gets depth (0 where it does not
    land), first and past the last row of tokens, and the same of columns. All float32."""
    a00, a01, a02, a03 = view[0, 0], view[0, 1], view[0, 2], view[0, 3]
    a10, a11, a12, a13 = view[1, 0], view[1, 1], view[1, 2], view[1, 3]
    a20, a21, a22, a23 = view[2, 0], view[2, 1], view[2, 2], view[2, 3]
    fx, fy, cx, cy = focal[0], focal[1], principal[0], principal[1]
    least, per_stride, middle = np.float32(0.5) * stride, np.float32(1) / stride, np.float32(0.5)
    width, height = n * stride, m * stride
    points, sizes = centers[start:stop], radii[start:stop]  # indices that start at 0 are what the compiler vectorises
    for a in range(len(sizes)):
        x, y, z = points[a, 0], points[a, 1], points[a, 2]
        zc = a20 * x + a21 * y + a22 * z + a23
        nearness = np.float32(1) / zc
        u = fx * (a00 * x + a01 * y + a02 * z + a03) * nearness + cx
        v = fy * (a10 * x + a11 * y + a12 * z + a13) * nearness + cy
        half = sizes[a] * fx * nearness
        half = half if half > least else least
        half = half if half < max_half else max_half
        lands = (zc > near) & (u + half > 0) & (v + half > 0) & (u - half < width) & (v - half < height)
        run[0 * _RUN + a] = zc if lands else np.float32(0)
        run[1 * _RUN + a] = _first((v - half) * per_stride - middle, m)
        run[2 * _RUN + a] = _first((v + half) * per_stride - middle, m)
        run[3 * _RUN + a] = _first((u - half) * per_stride - middle, n)
        run[4 * _RUN + a] = _first((u + half) * per_stride - middle, n)


@njit(cache=True, error_model="numpy", inline="always", nogil=True)
@no_type_check
def _covered(zbuf, rect, depth):
    """Whether every token of `rect` has something no farther than `depth`."""
    for row in range(rect[0], rect[1] + 1):
        for col in range(rect[2], rect[3] + 1):
            if zbuf[row, col] > depth:
                return False
    return True


@njit(cache=True, error_model="numpy", inline="always", nogil=True)
@no_type_check
def _idle(zbuf, rect, depth, reach, shows):
    """Whether every token of `rect` is shown by the group already, or by what is `reach` times nearer than `depth`."""
    n = zbuf.shape[1]
    for row in range(rect[0], rect[1] + 1):
        for col in range(rect[2], rect[3] + 1):
            token = row * n + col
            if depth <= reach * zbuf[row, col] and not (shows[token >> 6] >> np.uint64(token & 63)) & np.uint64(1):
                return False
    return True


@njit(cache=True, error_model="numpy", nogil=True)
@no_type_check
def pool_zbuffer(
    centers, radii, block_rows, view, focal, principal, stride, near, max_half, live, front, rect, order, zbuf
):
    """Nearest patch depth per token. `view [3 4]` and all geometry is float32; `zbuf [m n]` starts at infinity.

    Near blocks come first (`order`); one that lies behind what each of its tokens has is skipped.
    """
    m, n = zbuf.shape
    rows, columns, run = np.float32(m), np.float32(n), np.empty(5 * _RUN, np.float32)
    for o in range(len(order)):
        b = order[o]
        if _covered(zbuf, rect[b], front[b]):
            continue
        start, stop = block_rows[live[b, 1]], block_rows[live[b, 1] + 1]
        _place(centers, radii, start, stop, view, focal, principal, stride, near, max_half, rows, columns, run)
        for a in range(stop - start):
            zc = run[a]
            if zc == 0:
                continue
            for row in range(int(run[_RUN + a]), int(run[2 * _RUN + a])):
                for col in range(int(run[3 * _RUN + a]), int(run[4 * _RUN + a])):
                    zbuf[row, col] = min(zbuf[row, col], zc)


@njit(cache=True, error_model="numpy", nogil=True)
@no_type_check
def pool_visible(
    centers,
    radii,
    block_rows,
    view,
    focal,
    principal,
    stride,
    near,
    max_half,
    live,
    front,
    rect,
    whole,
    largest,
    tau,
    zbuf,
    landed,
    shows,
):
    """Tokens that each group shows in front of everything else, and whether any patch of it landed `[k]`.

    `shows [k w]` holds a bit a token, in row order, 64 a word. `largest [b]` is the largest radius in each live block.
    A block that can add no bit, because its tokens are covered by something nearer or known of the group already, is
    skipped once it is known whether the group landed.
    """
    m, n = zbuf.shape
    rows, columns, run = np.float32(m), np.float32(n), np.empty(5 * _RUN, np.float32)
    one, reach = np.uint64(1), np.float32(1) + tau
    for b in range(len(live)):
        k = live[b, 0]
        if whole[b]:
            landed[k] = True
        if landed[k] and _idle(zbuf, rect[b], front[b] - largest[b], reach, shows[k]):
            continue
        start, stop = block_rows[live[b, 1]], block_rows[live[b, 1] + 1]
        _place(centers, radii, start, stop, view, focal, principal, stride, near, max_half, rows, columns, run)
        for a in range(stop - start):
            zc = run[a]
            if zc == 0:
                continue
            landed[k] = True
            nearest = zc - radii[start + a]
            for row in range(int(run[_RUN + a]), int(run[2 * _RUN + a])):
                for col in range(int(run[3 * _RUN + a]), int(run[4 * _RUN + a])):
                    if nearest <= reach * zbuf[row, col]:
                        token = row * n + col
                        shows[k, token >> 6] |= one << np.uint64(token & 63)


@njit(cache=True, error_model="numpy", inline="always", nogil=True)
@no_type_check
def _ones(x):
    """Bits set in 64."""
    x = x - ((x >> np.uint64(1)) & np.uint64(0x5555555555555555))
    x = (x & np.uint64(0x3333333333333333)) + ((x >> np.uint64(2)) & np.uint64(0x3333333333333333))
    x = (x + (x >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return (x * np.uint64(0x0101010101010101)) >> np.uint64(56)


@njit(cache=True, error_model="numpy", nogil=True)
@no_type_check
def cover(shows, weight, order, limit, picked, missing):
    """The groups, at most `limit`, that together show most tokens, each with the largest gain times `weight`.

    Ties go to the earlier in `order`. Once nothing is left to gain, cover starts again. `shows [k w]` holds bits;
    `picked [k]` and `missing [k]`, the tokens a group would still add to those picked, are filled in.
    """
    count, words = shows.shape
    shown, ever = np.zeros(words, np.uint64), np.zeros(words, np.uint64)
    bound = np.full(count, np.inf)
    chosen = np.empty(min(limit, count), np.int64)
    num, since = 0, 0
    while num < len(chosen):
        best, best_score = -1, 0.0
        for o in range(count):
            k = order[o]
            if picked[k] or bound[k] <= best_score:
                continue
            gain = np.uint64(0)
            for q in range(words):
                gain += _ones(shows[k, q] & ~shown[q])
            bound[k] = gain * weight[k]
            if bound[k] > best_score:
                best, best_score = k, bound[k]
        if best < 0:
            if since == 0:
                break
            since = 0
            shown[:] = 0
            bound[:] = np.inf
            continue
        picked[best] = True
        chosen[num] = best
        num, since = num + 1, since + 1
        for q in range(words):
            shown[q] |= shows[best, q]
            ever[q] |= shows[best, q]
    for k in range(count):
        gain = np.uint64(0)
        for q in range(words):
            gain += _ones(shows[k, q] & ~ever[q])
        missing[k] = gain
    return chosen[:num]
