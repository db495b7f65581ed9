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


@njit(cache=True, error_model="numpy", inline="always", nogil=True)
@no_type_check
def _reaches(a, b, view, x, y, z, dx, dy, dz, spare):
    """Whether `a * row + b * depth > -spare` somewhere in a box; `row` and depth are coordinates in the view."""
    nx, ny, nz = a[0] + b * view[2, 0], a[1] + b * view[2, 1], a[2] + b * view[2, 2]
    most = abs(nx) * dx + abs(ny) * dy + abs(nz) * dz
    return nx * x + ny * y + nz * z + a[3] + b * view[2, 3] + most > -spare


@njit(cache=True, error_model="numpy", nogil=True)
@no_type_check
def live_blocks(
    blocks, block_offsets, active, m, n, view, focal, principal, stride, near, max_half, live, front, rect, whole
):
    """Blocks of the `active` groups that may land in the view, in order, and how many. For each:

    `live [b 2]` position in `active` and row of the block; `front [b]` a depth that no patch that lands is nearer than;
    `rect [b 4]` first and last row and column of the `[m n]` tokens outside of which none of its patches lands;
    `whole [b]` whether every patch of it certainly lands in the image.
    """
    count, steep = 0, np.abs(view)
    shift = steep[0, 3] + steep[1, 3] + steep[2, 3]
    fx, fy, cx, cy, width, height = focal[0], focal[1], principal[0], principal[1], n * stride, m * stride
    across, down = fx * view[0], fy * view[1]
    for k in range(len(active)):
        for b in range(block_offsets[active[k]], block_offsets[active[k] + 1]):
            x, y, z = float(blocks[b, 0]), float(blocks[b, 1]), float(blocks[b, 2])
            dx, dy, dz = float(blocks[b, 3]), float(blocks[b, 4]), float(blocks[b, 5])
            slack = _SLACK * (abs(x) + abs(y) + abs(z) + dx + dy + dz + shift)
            zc = view[2, 0] * x + view[2, 1] * y + view[2, 2] * z + view[2, 3]
            rz = steep[2, 0] * dx + steep[2, 1] * dy + steep[2, 2] * dz + slack
            nearest, farthest = zc - rz, zc + rz
            if farthest <= near:
                continue
            xc = view[0, 0] * x + view[0, 1] * y + view[0, 2] * z + view[0, 3]
            yc = view[1, 0] * x + view[1, 1] * y + view[1, 2] * z + view[1, 3]
            rx = steep[0, 0] * dx + steep[0, 1] * dy + steep[0, 2] * dz + slack
            ry = steep[1, 0] * dx + steep[1, 1] * dy + steep[1, 2] * dz + slack
            left, right, top, bottom = xc - rx, xc + rx, yc - ry, yc + ry
            if nearest <= max(near, 0.0) or nearest <= 1e-3 * farthest:
                # it reaches behind the camera: what lands of it lies within the planes through the image's borders,
                # widened by the largest footprint and by its own, which is its radius or half a token
                own = max(blocks[b, 6] * fx, 0.5 * stride * farthest) + (fx + fy + width + height) * slack
                if not (
                    _reaches(across, cx + max_half, view, x, y, z, dx, dy, dz, own)
                    and _reaches(-across, width + max_half - cx, view, x, y, z, dx, dy, dz, own)
                    and _reaches(down, cy + max_half, view, x, y, z, dx, dy, dz, own)
                    and _reaches(-down, height + max_half - cy, view, x, y, z, dx, dy, dz, own)
                ):
                    continue
                half, front[count], whole[count] = max_half + 1e-3 * stride, max(near, nearest, 0.0), False
                left = fx * left / farthest + cx if left > 0 else 0.0
                right = fx * right / farthest + cx if right < 0 else width
                top = fy * top / farthest + cy if top > 0 else 0.0
                bottom = fy * bottom / farthest + cy if bottom < 0 else height
            else:
                half = min(max(blocks[b, 6] * fx / nearest, 0.5 * stride), max_half) + 1e-3 * stride
                left = fx * left / (farthest if left > 0 else nearest) + cx
                right = fx * right / (nearest if right > 0 else farthest) + cx
                top = fy * top / (farthest if top > 0 else nearest) + cy
                bottom = fy * bottom / (nearest if bottom > 0 else farthest) + cy
                front[count] = nearest
                whole[count] = left > 0 and top > 0 and right < width and bottom < height
            if right + half <= 0 or bottom + half <= 0 or left - half >= width or top - half >= height:
                continue
            live[count, 0], live[count, 1] = k, b
            rect[count, 0], rect[count, 1] = _first_last(top - half, bottom + half, stride, m)
            rect[count, 2], rect[count, 3] = _first_last(left - half, right + half, stride, n)
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


_LANES = 16
"""Patches that are placed at once: a fixed number, without branches and in scratch of a fixed layout, so that the
compiler turns it into vectors, also the reading of three coordinates in turn. A block of usual size is one turn."""

SPAN = 8
"""Tokens of a row that are compared at once; what is given per token has as many more at its end."""


@njit(cache=True, error_model="numpy", inline="always", nogil=True)
@no_type_check
def _first(x, count):
    """The first grid element at or after `x`, brought into [0, count], as a float."""
    x = np.ceil(x)
    x = x if x > np.float32(0) else np.float32(0)
    return x if x < count else count


@njit(cache=True, error_model="numpy", nogil=True)
@no_type_check
def _place(centers, radii, start, count, view, focal, principal, stride, near, max_half, m, n, depth, front, box):
    """Where patches `start` to `start + count`, at most `_LANES`, land; all geometry is float32, `centers` flat.

    `depth` and `front [_LANES]` get their depth and that of their nearest point; `box [4 _LANES]`, flat, first and past
    the last row of tokens, and the same of columns, nothing where they do not land. Returns whether any lands, and how
    many rows and columns the largest footprint takes.
    """
    a00, a01, a02, a03 = view[0, 0], view[0, 1], view[0, 2], view[0, 3]
    a10, a11, a12, a13 = view[1, 0], view[1, 1], view[1, 2], view[1, 3]
    a20, a21, a22, a23 = view[2, 0], view[2, 1], view[2, 2], view[2, 3]
    fx, fy, cx, cy = focal[0], focal[1], principal[0], principal[1]
    least, per_stride, middle = np.float32(0.5) * stride, np.float32(1) / stride, np.float32(0.5)
    width, height, rows, columns, none = n * stride, m * stride, np.float32(m), np.float32(n), np.int32(0)
    points, sizes = centers[3 * start : 3 * (start + _LANES)], radii[start : start + _LANES]
    landed = tall = wide = np.int32(0)
    for a in range(_LANES):
        x, y, z = points[3 * a], points[3 * a + 1], points[3 * a + 2]
        zc = a20 * x + a21 * y + a22 * z + a23
        nearness = np.float32(1) / zc
        u = fx * (a00 * x + a01 * y + a02 * z + a03) * nearness + cx
        v = fy * (a10 * x + a11 * y + a12 * z + a13) * nearness + cy
        half = sizes[a] * fx * nearness
        half = half if half > least else least
        half = half if half < max_half else max_half
        lands = (zc > near) & (u + half > 0) & (v + half > 0) & (u - half < width) & (v - half < height) & (a < count)
        depth[a], front[a] = zc, zc - sizes[a]
        top = np.int32(_first((v - half) * per_stride - middle, rows))
        bottom = np.int32(_first((v + half) * per_stride - middle, rows))
        left = np.int32(_first((u - half) * per_stride - middle, columns))
        right = np.int32(_first((u + half) * per_stride - middle, columns))
        box[a], box[_LANES + a] = top if lands else none, bottom if lands else none
        box[2 * _LANES + a], box[3 * _LANES + a] = left if lands else none, right if lands else none
        landed |= np.int32(lands)
    for a in range(_LANES):
        tall = max(tall, np.int32(box[_LANES + a] - box[a]))
        wide = max(wide, np.int32(box[3 * _LANES + a] - box[2 * _LANES + a]))
    return landed != 0, tall, wide


@njit(cache=True, error_model="numpy", inline="always", nogil=True)
@no_type_check
def _tokens(box, what, row, column, n, nothing, token, value):
    """`token` and `value [_LANES]`: the token at `row` and `column` of each patch's footprint and what it holds there,
    `nothing` at token 0 where the footprint is smaller."""
    for a in range(_LANES):
        i, j = np.int32(box[a] + row), np.int32(box[2 * _LANES + a] + column)
        inside = (i < box[_LANES + a]) & (j < box[3 * _LANES + a])
        token[a] = np.int32(i * n + j) if inside else np.int32(0)
        value[a] = what[a] if inside else nothing


@njit(cache=True, error_model="numpy", inline="always", nogil=True)
@no_type_check
def _whole_run(centers, radii, start, spare):
    """`centers`, `radii` and `start`, or a copy that has `_LANES` rows from there on where the columns end before."""
    if start + _LANES <= len(radii):
        return centers, radii, start
    left = len(radii) - start
    spare[: 3 * left], spare[3 * _LANES : 3 * _LANES + left] = centers[3 * start :], radii[start:]
    return spare[: 3 * _LANES], spare[3 * _LANES :], 0


@njit(cache=True, error_model="numpy", nogil=True, fastmath={"nnan", "nsz"})
@no_type_check
def _deepest(limit, other, start, count):
    """The largest of the `count`, at most `SPAN`, from `start` on, of the lesser of two."""
    run, second, most = limit[start : start + SPAN], other[start : start + SPAN], np.float32(-np.inf)
    for a in range(SPAN):
        most = max(most, min(run[a], second[a]) if a < count else np.float32(-np.inf))
    return most


@njit(cache=True, error_model="numpy", inline="always", nogil=True)
@no_type_check
def _behind(limit, other, rect, n, depth):
    """Whether `depth` is no nearer than the `limit` of every token of `rect`, or than that of another."""
    for row in range(rect[0], rect[1] + 1):
        stop = row * n + rect[3] + 1
        for start in range(row * n + rect[2], stop, SPAN):
            if _deepest(limit, other, start, stop - start) > depth:
                return False
    return True


@njit(cache=True, error_model="numpy", nogil=True)
@no_type_check
def pool_zbuffer(
    centers,
    radii,
    block_rows,
    view,
    focal,
    principal,
    stride,
    near,
    max_half,
    m,
    n,
    live,
    front,
    rect,
    order,
    other,
    zbuf,
):
    """Nearest patch depth per token. `view [3 4]` and all geometry is float32; `zbuf [m*n + SPAN]` starts at infinity.

    Near blocks come first (`order`); one that lies behind what each of its tokens has is skipped. The `other` z-buffer
    is one that another thread fills meanwhile, or the same: whatever of it is seen lets blocks be skipped that the
    nearest of both does not need.
    """
    depth, fronts, box = np.empty(_LANES, np.float32), np.empty(_LANES, np.float32), np.empty(4 * _LANES, np.int32)
    spare = np.zeros(4 * _LANES, np.float32)
    for o in range(len(order)):
        b = order[o]
        if _behind(zbuf, other, rect[b], n, front[b]):
            continue
        stop = block_rows[live[b, 1] + 1]
        for start in range(block_rows[live[b, 1]], stop, _LANES):
            points, sizes, at = _whole_run(centers, radii, start, spare)
            _, tall, wide = _place(
                points,
                sizes,
                at,
                stop - start,
                view,
                focal,
                principal,
                stride,
                near,
                max_half,
                m,
                n,
                depth,
                fronts,
                box,
            )
            for a in range(_LANES):
                z, top, left, bottom, right = (
                    depth[a],
                    box[a],
                    box[2 * _LANES + a],
                    box[_LANES + a],
                    box[3 * _LANES + a],
                )
                aside = m * n + (a & (SPAN - 1))
                for i in range(
                    top, top + tall
                ):  # as many for all: what cannot be foretold takes longer than a few more
                    for j in range(left, left + wide):
                        token = i * n + j if (i < bottom) & (j < right) else aside
                        zbuf[token] = z if z < zbuf[token] else zbuf[token]


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
    m,
    n,
    live,
    front,
    rect,
    whole,
    blocks,
    limit,
    landed,
    shows,
):
    """Tokens that each group shows in front of everything else, and whether any patch of it landed `[k]`.

    `shows [k w]` gets a bit a token, in row order, 64 a word. `limit [m*n + SPAN]` says how deep the nearest point of a
    patch may lie to be seen. A block that can add no bit, because its tokens are covered by something nearer or known
    of the group already, is skipped once it is known whether the group landed.
    """
    depth, fronts, box = np.empty(_LANES, np.float32), np.empty(_LANES, np.float32), np.empty(4 * _LANES, np.int32)
    token, value = np.empty(_LANES, np.int32), np.empty(_LANES, np.float32)
    spare, columns, nothing = np.zeros(4 * _LANES, np.float32), np.int32(n), np.float32(np.nan)
    for b in range(len(live)):
        k = live[b, 0]
        if whole[b]:
            landed[k] = True
        if landed[k] and _idle(limit, rect[b], n, front[b] - blocks[live[b, 1], 6], shows[k]):
            continue
        stop = block_rows[live[b, 1] + 1]
        for start in range(block_rows[live[b, 1]], stop, _LANES):
            points, sizes, at = _whole_run(centers, radii, start, spare)
            lands, tall, wide = _place(
                points,
                sizes,
                at,
                stop - start,
                view,
                focal,
                principal,
                stride,
                near,
                max_half,
                m,
                n,
                depth,
                fronts,
                box,
            )
            landed[k] |= lands
            for row in range(tall):
                for column in range(wide):
                    _tokens(box, fronts, row, column, columns, nothing, token, value)
                    for a in range(_LANES):
                        bit = np.uint64(value[a] <= limit[token[a]])  # NaN is not
                        shows[k, token[a] >> 6] |= bit << np.uint64(token[a] & 63)


@njit(cache=True, error_model="numpy", inline="always", nogil=True)
@no_type_check
def _idle(limit, rect, n, depth, shows):
    """Whether every token of `rect` is shown by the group already, or may show nothing as deep as `depth`."""
    for row in range(rect[0], rect[1] + 1):
        for token in range(row * n + rect[2], row * n + rect[3] + 1):
            if depth <= limit[token] and not (shows[token >> 6] >> np.uint64(token & 63)) & np.uint64(1):
                return False
    return True


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
def cover(shows, weight, order, limit, picked, missing, some):
    """The groups, at most `limit`, that together show most tokens, each with the largest gain times `weight`.

    Ties go to the earlier in `order`. Once nothing is left to gain, cover starts again. `shows [k w]` holds bits;
    `picked [k]`, `missing [k]`, the tokens a group would still add to those picked, and `some [k]`, whether it shows
    anything, are filled in.
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
        gain = anything = np.uint64(0)
        for q in range(words):
            gain += _ones(shows[k, q] & ~ever[q])
            anything |= shows[k, q]
        missing[k], some[k] = gain, anything != 0
    return chosen[:num]
