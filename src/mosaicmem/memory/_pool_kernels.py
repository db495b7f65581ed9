"""Compiled loops over patches and blocks of patches: who stands in front in a view, and who shows what of it.

Their twin is `pool_reference`, over all pairs. A block is skipped only where no patch of it could change the answer,
so blocks change the time and nothing else. Arithmetic is float32 at patches and float64 at blocks, whose bounds are
wide enough for the rounding of the former.
"""

from __future__ import annotations

import math
from typing import Any, no_type_check

import numpy as np
from numba import njit
from numba.core import types
from numba.extending import intrinsic

from mosaicmem.memory.mosaic import Reason

_OUTSIDE, _HIDDEN, _DUPLICATE, _BUDGET = map(int, (Reason.outside, Reason.hidden, Reason.duplicate, Reason.budget))
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
    blocks, block_offsets, active, which, m, n, view, focal, principal, stride, near, max_half, live, front, rect, whole
):
    """Blocks that may land in the view, of the groups `active[k]` for `k` in `which`, in order, and how many. For each:

    `live [b 2]` `k` and row of the block; `front [b]` a depth that no patch that lands is nearer than;
    `rect [b 4]` first and last row and column of the `[m n]` tokens outside of which none of its patches lands;
    `whole [b]` whether every patch of it certainly lands in the image.
    """
    count, steep = 0, np.abs(view)
    shift = steep[0, 3] + steep[1, 3] + steep[2, 3]
    fx, fy, cx, cy, width, height = focal[0], focal[1], principal[0], principal[1], n * stride, m * stride
    across, down = fx * view[0], fy * view[1]
    for k in which:
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


LANES = 16
"""Patches that are placed at once: a fixed number, without branches and in scratch of a fixed layout, so that the
compiler turns it into vectors, also the reading of three coordinates in turn. A block of usual size is one turn."""


@njit(cache=True, error_model="numpy", nogil=True)
@no_type_check
def window_maxima(values, other, n, tables):
    """`tables [4 4 m*n]`: the largest of the lesser of two `[m*n]` over windows of 1, 2, 4 and 8 rows and as many
    columns, that start at each element; what reaches past a row's or the grid's end means nothing."""
    size = tables.shape[2]
    for t in range(size):
        tables[0, 0, t] = values[t] if values[t] < other[t] else other[t]
    for i in range(4):
        if i:
            _larger(tables[i - 1, 0], n << (i - 1), tables[i, 0])
        for j in range(1, 4):
            _larger(tables[i, j - 1], 1 << (j - 1), tables[i, j])


@njit(cache=True, error_model="numpy", nogil=True)
@no_type_check
def _larger(values, shift, out):
    """`out [q]`: the larger of each value and the one `shift` further on."""
    here, there, result = values[: len(values) - shift], values[shift:], out[: len(values) - shift]
    for t in range(len(here)):
        result[t] = here[t] if here[t] > there[t] else there[t]


@njit(cache=True, error_model="numpy", inline="always", nogil=True)
@no_type_check
def _power(count):
    """The exponent of the largest power of two up to `count`, at most 3."""
    return (count >= 2) + (count >= 4) + (count >= 8)


@njit(cache=True, error_model="numpy", nogil=True)
@no_type_check
def deepest(tables, rect, b, n):
    """The largest within `rect[b]`, by `window_maxima`: infinity if it is too large to tell, 0 if it is empty."""
    top, bottom, left, right = rect[b, 0], rect[b, 1], rect[b, 2], rect[b, 3]
    tall, wide = bottom - top + 1, right - left + 1
    if tall <= 0 or wide <= 0:
        return np.float32(0)
    if tall > 16 or wide > 16:
        return np.float32(np.inf)
    i, j = _power(tall), _power(wide)
    above, below, aside = top * n, (bottom + 1 - (1 << i)) * n, right + 1 - (1 << j)
    first = max(tables[i, j, above + left], tables[i, j, above + aside])
    return max(first, max(tables[i, j, below + left], tables[i, j, below + aside]))


@njit(cache=True, error_model="numpy", inline="always", nogil=True)
@no_type_check
def _first(x, count):
    """The first grid element at or after `x`, brought into [0, count], as a float."""
    x = np.ceil(x)
    x = x if x > np.float32(0) else np.float32(0)
    return x if x < count else count


@njit(cache=True, error_model="numpy", nogil=True)
@no_type_check
def _view(eye, limits):
    """`[19]` in float32: of `eye` the 3x4 matrix, focal lengths and principal point; of `limits` the size of a token,
    the nearest depth and the largest half footprint."""
    matrix, focal, principal = eye
    view = np.empty(19, np.float32)
    for i in range(3):
        for j in range(4):
            view[4 * i + j] = matrix[i, j]
        view[16 + i] = limits[i]
    for i in range(2):
        view[12 + i], view[14 + i] = focal[i], principal[i]
    return view


@njit(cache=True, error_model="numpy", nogil=True)
@no_type_check
def _place(centers, radii, start, count, view, m, n, depth, front, box):
    """Where patches `start` to `start + count`, at most `LANES`, land, of `centers`, flat, and `radii`.

    `view [19]` as from `_view`. `depth` and `front [LANES]` get their depth and that of
    their nearest point; `box [4 LANES]`, flat, first and past the last row of tokens, and the same of columns, nothing
    where they do not land. Returns whether any lands.
    """
    a00, a01, a02, a03 = view[0], view[1], view[2], view[3]
    a10, a11, a12, a13 = view[4], view[5], view[6], view[7]
    a20, a21, a22, a23 = view[8], view[9], view[10], view[11]
    fx, fy, cx, cy, stride, near, max_half = view[12], view[13], view[14], view[15], view[16], view[17], view[18]
    least, per_stride, middle = np.float32(0.5) * stride, np.float32(1) / stride, np.float32(0.5)
    rows, columns = np.float32(m), np.float32(n)
    width, height, last = columns * stride, rows * stride, np.int32(count)
    none, landed = np.int32(0), np.int32(0)
    at, point = np.uint64(start), np.uint64(3 * start)  # without a sign: one that may count from the end is slow
    for a in range(LANES):
        x, y, z, radius = centers[point], centers[point + np.uint64(1)], centers[point + np.uint64(2)], radii[at]
        at, point = at + np.uint64(1), point + np.uint64(3)
        zc = a20 * x + a21 * y + a22 * z + a23
        nearness = np.float32(1) / zc
        u = fx * (a00 * x + a01 * y + a02 * z + a03) * nearness + cx
        v = fy * (a10 * x + a11 * y + a12 * z + a13) * nearness + cy
        half = radius * fx * nearness
        half = half if half > least else least
        half = half if half < max_half else max_half
        inside = zc - near  # the least of five margins, so that one comparison says whether it lands
        margin = u + half
        inside = margin if margin < inside else inside
        margin = v + half
        inside = margin if margin < inside else inside
        margin = width - (u - half)
        inside = margin if margin < inside else inside
        margin = height - (v - half)
        inside = margin if margin < inside else inside
        inside = inside if np.int32(a) < last else np.float32(0)
        lands = inside > np.float32(0)
        depth[a], front[a] = zc, zc - radius
        top = np.int32(_first((v - half) * per_stride - middle, rows))
        bottom = np.int32(_first((v + half) * per_stride - middle, rows))
        left = np.int32(_first((u - half) * per_stride - middle, columns))
        right = np.int32(_first((u + half) * per_stride - middle, columns))
        box[a], box[LANES + a] = top if lands else none, bottom if lands else none
        box[2 * LANES + a], box[3 * LANES + a] = left if lands else none, right if lands else none
        landed |= np.int32(1) if lands else none
    return landed != 0


@njit(cache=True, error_model="numpy", nogil=True)
@no_type_check
def _end(centers, radii):
    """Where the last `LANES` patches begin, and their flat `centers` and `radii` with as many of nothing behind."""
    start = max(len(radii) - LANES, 0)
    last_centers, last_radii = np.zeros(6 * LANES, np.float32), np.zeros(2 * LANES, np.float32)
    last_centers[: len(centers) - 3 * start] = centers[3 * start :]
    last_radii[: len(radii) - start] = radii[start:]
    return start, last_centers, last_radii


@intrinsic
@no_type_check
def _ask_for(typing_context: Any, array: Any, index: Any) -> Any:  # pragma: no cover - compiled
    """Ask memory for the cache line of `array[index]`, 1D, without waiting for it; any index will do."""
    from llvmlite import ir

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        address = builder.gep(data, [arguments[1]])
        number = ir.IntType(32)
        function = builder.module.declare_intrinsic(
            "llvm.prefetch", [address.type], ir.FunctionType(ir.VoidType(), [address.type, number, number, number])
        )
        builder.call(function, [address, number(0), number(3), number(1)])  # to read, to stay, data
        return context.get_dummy_value()

    return types.void(array, types.intp), build


@njit(cache=True, error_model="numpy", nogil=True)
@no_type_check
def _ask_for_block(centers, radii, start):
    """Ask memory for the first `LANES` patches from `start` on: three or four lines and one or two."""
    _ask_for(centers, 3 * start)
    _ask_for(centers, 3 * start + LANES)
    _ask_for(centers, 3 * start + 2 * LANES)
    _ask_for(centers, 3 * start + 3 * LANES - 1)
    _ask_for(radii, start)
    _ask_for(radii, start + LANES - 1)


_AT_ONCE = 128
"""Blocks that are judged by one state of the z-buffer."""


@njit(cache=True, error_model="numpy", nogil=True)
@no_type_check
def _pool_zbuffer(
    centers, radii, block_rows, eye, limits, m, n, live, front, rect, order, other, tables, zbuf, landed, kept
):
    """Nearest far side of a patch per token: `zbuf [m*n]`, which starts at infinity; `eye`, `limits` as in `_view`.

    The far side, since a coarse patch of a wall at a slant reaches that deep; it must not hide who shows it better.

    Near blocks come first (`order`); one that lies behind what each of its tokens has is skipped. The `other` z-buffer
    is one that another thread fills meanwhile, or the same: whatever of it is seen lets blocks be skipped that the
    nearest of both does not need. `tables` is scratch of `window_maxima`.

    What was placed need not be placed again to know what is visible of it. As long as there is room, `kept` gets, one
    behind the other, `tokens` and `nearest` point of each patch in each token that it covers; the blocks that are
    `placed` and where theirs `end`; and which are `done [b]`. Returns how many. `landed [k]` learns of these groups.
    """
    tokens, nearest, placed, ends, done = kept
    depth, fronts, box = np.empty(LANES, np.float32), np.empty(LANES, np.float32), np.empty(4 * LANES, np.int32)
    needed, (end, last_centers, last_radii) = np.empty(_AT_ONCE, np.int32), _end(centers, radii)
    view, widest = _view(eye, limits), int(2 * limits[2] / limits[0]) + 2
    tables[:], done[: len(order)] = np.inf, False
    fresh, total, known, at = 0, 0, 0, 0
    for begin in range(0, len(order), _AT_ONCE):
        count = 0
        for o in range(begin, min(begin + _AT_ONCE, len(order))):
            b = order[o]
            if front[b] < deepest(tables, rect, b, n):
                needed[count] = b
                _ask_for_block(centers, radii, block_rows[live[b, 1]])
                count += 1
        for c in range(count):
            b, k, row, lands = needed[c], live[needed[c], 0], live[needed[c], 1], False
            fits = at + (block_rows[row + 1] - block_rows[row]) * widest * widest < len(tokens)
            step = 1 if fits else 0  # else it is written down and forgotten
            for start in range(block_rows[row], block_rows[row + 1], LANES):
                size = block_rows[row + 1] - start
                if start < end:
                    lands |= _place(centers, radii, start, size, view, m, n, depth, fronts, box)
                else:
                    lands |= _place(last_centers, last_radii, start - end, size, view, m, n, depth, fronts, box)
                for a in range(LANES):
                    z, near = depth[a] + (depth[a] - fronts[a]), fronts[a]
                    for i in range(box[a], box[LANES + a]):
                        for token in range(i * n + box[2 * LANES + a], i * n + box[3 * LANES + a]):
                            if z < zbuf[token]:
                                zbuf[token] = z
                            tokens[at], nearest[at] = token, near
                            at += step
            if fits:
                placed[known], ends[known], done[b] = b, at, True
                landed[k] |= lands
                known += 1
        fresh, total = fresh + count, total + count
        if fresh >= max(_AT_ONCE // 2, total // 8):  # it changes less and less
            window_maxima(zbuf, other, n, tables)
            fresh = 0
    return known


@njit(cache=True, error_model="numpy", nogil=True)
@no_type_check
def pool_front(centers, radii, block_rows, eye, limits, m, n, index, which, room, other, tables, zbuf, landed):
    """`live_blocks` of the groups `active[which]`, from near to far, and their z-buffer; how many there are, and how
    many are kept.

    `index`: blocks, their offsets and `active`; `room`: `live`, `front`, `rect`, `whole`, their order, and `kept`.
    """
    live, front, rect, whole, order, kept = room
    count = live_blocks(*index, which, m, n, *eye, *limits, live, front, rect, whole)
    nearest_first(front[:count], order[:count])
    known = _pool_zbuffer(
        centers, radii, block_rows, eye, limits, m, n, live, front, rect, order[:count], other, tables, zbuf, landed,
        kept,
    )  # fmt: skip
    return count, known


@njit(cache=True, error_model="numpy", nogil=True)
@no_type_check
def pool_visible(centers, radii, block_rows, eye, limits, m, n, room, counts, blocks, limit, tables, landed, shows):
    """Tokens that each group shows in front of everything else, and whether any patch of it landed `[k]`.

    `shows [k w]` gets a bit a token, in row order, 64 a word. `limit [m*n]` says how deep the nearest point of a
    patch may lie to be seen, `tables` its `window_maxima`; `room` is as `pool_front` left it, with its `counts`. Of
    blocks that were not placed there, those that can add no bit, because their tokens are covered by something nearer
    or all known of the group already, are skipped once it is known whether the group landed.
    """
    live, front, rect, whole, _, kept = room
    _show_placed(live, counts[1], kept, limit, shows)
    depth, fronts, box = np.empty(LANES, np.float32), np.empty(LANES, np.float32), np.empty(4 * LANES, np.int32)
    (end, last_centers, last_radii), view = _end(centers, radii), _view(eye, limits)
    asked, done = np.empty(_AT_ONCE, np.int32), kept[4]
    for begin in range(0, counts[0], _AT_ONCE):
        count = 0
        for b in range(begin, min(begin + _AT_ONCE, counts[0])):
            k, row = live[b, 0], live[b, 1]
            if done[b]:
                continue
            landed[k] |= whole[b]
            if not landed[k] or front[b] - blocks[row, 6] <= deepest(tables, rect, b, n):
                asked[count] = b
                count += 1
                _ask_for_block(centers, radii, block_rows[row])
        for c in range(count):
            b = asked[c]
            k, row = live[b, 0], live[b, 1]
            nearest = front[b] - blocks[row, 6]
            if landed[k] and (nearest > deepest(tables, rect, b, n) or _known(rect, b, n, shows, k)):
                continue
            for start in range(block_rows[row], block_rows[row + 1], LANES):
                size = block_rows[row + 1] - start
                if start < end:
                    landed[k] |= _place(centers, radii, start, size, view, m, n, depth, fronts, box)
                else:
                    landed[k] |= _place(last_centers, last_radii, start - end, size, view, m, n, depth, fronts, box)
                for a in range(LANES):
                    z = fronts[a]
                    for i in range(box[a], box[LANES + a]):
                        for token in range(i * n + box[2 * LANES + a], i * n + box[3 * LANES + a]):
                            shows[k, token >> 6] |= np.uint64(z <= limit[token]) << np.uint64(token & 63)


@njit(cache=True, error_model="numpy", nogil=True)
@no_type_check
def _show_placed(live, count, kept, limit, shows):
    """The bits of `pool_visible` of the `count` blocks that were kept when they were placed."""
    tokens, nearest, placed, ends, _ = kept
    start = 0
    for p in range(count):
        k = live[placed[p], 0]
        for at in range(start, ends[p]):
            token = tokens[at]
            shows[k, token >> 6] |= np.uint64(nearest[at] <= limit[token]) << np.uint64(token & 63)
        start = ends[p]


@njit(cache=True, error_model="numpy", nogil=True)
@no_type_check
def _known(rect, b, n, shows, k):
    """Whether every token of `rect[b]` is shown by group `k` already."""
    for row in range(rect[b, 0], rect[b, 1] + 1):
        at, end = row * n + rect[b, 2], row * n + rect[b, 3] + 1
        while at < end:
            word, shift = at >> 6, at & 63
            count = min(64 - shift, end - at)
            mask = (~np.uint64(0) >> np.uint64(64 - count)) << np.uint64(shift)
            if ~shows[k, word] & mask:
                return False
            at += count
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
def _points(depth, n, focal, principal, stride, points):
    """`points [3 64*w]`: those of the tokens at `depth [m*n]`, in the view's frame; nothing where there is none."""
    points[:] = 0
    for t in range(len(depth)):
        d = depth[t] if depth[t] < np.inf else np.float32(0)
        points[0, t] = ((t % n + 0.5) * stride - principal[0]) / focal[0] * d
        points[1, t] = ((t // n + 0.5) * stride - principal[1]) / focal[1] * d
        points[2, t] = d


@njit(cache=True, error_model="numpy", nogil=True, fastmath={"reassoc"})
@no_type_check
def _sum(bits, values):
    """The sum of those of 64 values whose bit is set."""
    total = 0.0
    for t in range(64):
        total += values[t] * np.float64((bits >> np.uint64(t)) & np.uint64(1))
    return total


@njit(cache=True, error_model="numpy", nogil=True)
@no_type_check
def witness(shows, depth, n, focal, principal, stride, viewmat, groups, places, lenses, theta, worth):
    """`worth [k]`: how well each group shows the middle of the tokens that it shows, 0 where it shows none.

    From 1/2 to 1, as `_landing_kernels.rate` has it of a cell: the middle is the mean of the tokens' points at
    `depth [m*n]`, seen by the cameras of `groups [k]`, with `lenses [g 3 3]` at `places [g 4 4]`.
    """
    count, words = shows.shape
    points, middle = np.empty((3, 64 * words)), np.empty(3)
    _points(depth, n, focal, principal, stride, points)
    for k in range(count):
        middle[:] = 0
        tokens = np.uint64(0)
        for q in range(words):
            bits = shows[k, q]
            if bits:
                tokens += _ones(bits)
                for axis in range(3):
                    middle[axis] += _sum(bits, points[axis, 64 * q : 64 * q + 64])
        worth[k] = 0.0
        if tokens:
            x, y, z = middle[0] / tokens, middle[1] / tokens, middle[2] / tokens
            place, V = places[groups[k]], viewmat
            dx = x - (V[0, 0] * place[0, 3] + V[0, 1] * place[1, 3] + V[0, 2] * place[2, 3] + V[0, 3])
            dy = y - (V[1, 0] * place[0, 3] + V[1, 1] * place[1, 3] + V[1, 2] * place[2, 3] + V[1, 3])
            dz = z - (V[2, 0] * place[0, 3] + V[2, 1] * place[1, 3] + V[2, 2] * place[2, 3] + V[2, 3])
            far, away = math.sqrt(x * x + y * y + z * z), math.sqrt(dx * dx + dy * dy + dz * dz)
            cx, cy, cz = y * dz - z * dy, z * dx - x * dz, x * dy - y * dx
            angle = math.atan2(math.sqrt(cx * cx + cy * cy + cz * cz), x * dx + y * dy + z * dz)
            worth[k] = 0.5 + 0.5 / ((1 + angle / theta) * max(1.0, away / lenses[groups[k], 0, 0] * focal[0] / far))


@njit(cache=True, error_model="numpy", nogil=True)
@no_type_check
def _shown_anew(shows, k, worth, chosen, num, held):
    """What group `k` adds to how well tokens are shown, and how many it shows that nobody does: `held [num w]` are the
    tokens that each of `chosen [num]` shows best, and behind them `held [-1]`, those that any shows."""
    new = np.uint64(0)
    for q in range(shows.shape[1]):
        new += _ones(shows[k, q] & ~held[-1, q])
    gain = worth[k] * new
    for p in range(num):
        better = worth[k] - worth[chosen[p]]
        if better > 0:
            tokens = np.uint64(0)
            for q in range(shows.shape[1]):
                tokens += _ones(shows[k, q] & held[p, q])
            gain += better * tokens
    return gain, new


@njit(cache=True, error_model="numpy", nogil=True)
@no_type_check
def _hold(shows, worth, chosen, num, held):
    """Give `chosen[num]` the tokens in `held` that it shows better than who holds them."""
    k = chosen[num]
    held[num] = shows[k]
    for p in range(num):
        for q in range(shows.shape[1]):
            if worth[k] > worth[chosen[p]]:
                held[p, q] &= ~shows[k, q]
            else:
                held[num, q] &= ~held[p, q]
    for q in range(shows.shape[1]):
        held[-1, q] |= shows[k, q]


@njit(cache=True, error_model="numpy", nogil=True)
@no_type_check
def cover(shows, worth, weight, order, limit, much, again, picked, missing, some):
    """The groups, at most `limit`, each the one that adds most times `weight`: the sum over tokens of `worth [k]` above
    that of the best of those before it.

    First those that add `much` or show a token that none before them shows; then from the start, once, those that
    add `again`. Ties go to the earlier in `order`. `shows [k w]` holds bits; `picked [k]`, `missing [k]`, the tokens a
    group would still add to those picked, and `some [k]`, whether it shows anything, are filled in.
    """
    count, words = shows.shape
    bound, chosen = np.full(count, np.inf), np.empty(min(limit, count), np.int64)
    held, ever = np.zeros((len(chosen) + 1, words), np.uint64), np.zeros(words, np.uint64)
    num, since, least, first = 0, 0, much, True  # picks in all, and before the start
    while num < len(chosen):
        best, most = -1, 0.0
        for o in range(count):
            k = order[o]
            if picked[k] or bound[k] <= most:
                continue
            gain, new = _shown_anew(shows, k, worth, chosen[since:], num - since, held)
            bound[k] = gain * weight[k]
            if bound[k] > most and (gain >= least or (new > 0 and first)):
                best, most = k, bound[k]
        if best < 0:
            if num == 0 or not first:
                break
            since, least, first = num, again, False
            held[:], bound[:] = 0, np.inf
            continue
        picked[best] = True
        chosen[num] = best
        _hold(shows, worth, chosen[since:], num - since, held)
        num += 1
    for p in range(num):
        for q in range(words):
            ever[q] |= shows[chosen[p], q]
    for k in range(count):
        gain = anything = np.uint64(0)
        for q in range(words):
            gain += _ones(shows[k, q] & ~ever[q])
            anything |= shows[k, q]
        missing[k], some[k] = gain, anything != 0
    return chosen[:num]


@njit(cache=True, error_model="numpy", nogil=True)
@no_type_check
def left_out(groups, picked, landed, some, missing, cells, decisions, gains):
    """Say in `decisions [g]` why each of `groups [k]` that is not `picked [k]` is not looked at, and in `gains [g]` how
    many cells it would have added: `missing [k]` tokens of so many `cells`."""
    for k in range(len(groups)):
        if not picked[k]:
            shown = _DUPLICATE if some[k] else _HIDDEN if landed[k] else _OUTSIDE
            decisions[groups[k]] = _BUDGET if missing[k] > 0 else shown
            gains[groups[k]] = missing[k] * cells
