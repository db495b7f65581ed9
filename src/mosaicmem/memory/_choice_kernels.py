"""Compiled loops of retrieval on the CPU, who shows what; each has its slow twin in `mosaicmem.memory.reference`."""

from __future__ import annotations

from typing import no_type_check

import numpy as np
from numba import njit

from mosaicmem.memory.mosaic import Reason

_KEPT, _DUPLICATE, _BUDGET = map(int, (Reason.kept, Reason.duplicate, Reason.budget))


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
    best_shown, nothing = np.zeros(size, np.float32), np.float32(0)
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
                gain += max(quality[k, q] - best_shown[q], nothing)
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
            gain += max(quality[k, q] - best_shown[q], nothing)
            shown += quality[k, q]
        left[k], total[k] = gain, shown
    return chosen[:num]


@njit(cache=True, error_model="numpy", nogil=True)
@no_type_check
def explain(pool, picked, gained, left, total, gain_min, decisions, gains):
    """Say in `decisions [g]` why each group of the `pool [k]` was picked or not, if it shows anything, and in
    `gains [g]` what it added or would still add. The others are as `greedy_cover` has them."""
    for k in range(len(pool)):
        g = pool[k]
        gains[g] = gained[k] if picked[k] else left[k]
        if picked[k]:
            decisions[g] = _KEPT
        elif left[k] >= gain_min and left[k] > 0:
            decisions[g] = _BUDGET
        elif total[k] > 0:
            decisions[g] = _DUPLICATE


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


@njit(cache=True, error_model="numpy", inline="always", nogil=True)
@no_type_check
def _beside(zmin, other, i, j, edge, limit):
    """Whether two groups `[h w]` both show something down to depth `limit` within `edge` cells of a cell."""
    h, w = zmin.shape
    for a in range(max(i - edge, 0), min(i + edge + 1, h)):
        for b in range(max(j - edge, 0), min(j + edge + 1, w)):
            if (zmin[a, b] <= limit) & (other[a, b] <= limit):
                return True
    return False


@njit(cache=True, error_model="numpy", nogil=True)
@no_type_check
def hide(zmin, depth, tau, center, moved, observed, focal, principal, stride, slack, edge, quality):
    """Set the `quality` of each group `[k h w]` to 0 where it is hidden.

    What lies behind another group's surface is hidden, unless its own camera, at `center [k 3]` in the view's frame,
    looked past that (`_past`) from nearer by than those who show it; groups that were `moved [k]` since, by an edit,
    are not where their camera saw them. Who looked past what an `observed [k]` group shows must show it in a
    cell that this group shows it in, at most `edge` cells away.
    """
    count, h, w = zmin.shape
    bound, infinite = np.float32(1 + tau), np.float32(np.inf)
    front, rival, placed = np.empty(w, np.float32), np.empty(w), np.empty(w, np.float32)
    seen, who = np.empty(w, np.float32), np.zeros(w, np.int64)  # nearest of what was observed, and by whom
    away = (center * center).sum(1)
    for i in range(h):
        front[:] = infinite
        for k in range(count):
            for j in range(w):
                front[j] = zmin[k, i, j] if zmin[k, i, j] < front[j] else front[j]
        behind = np.int32(0)
        for k in range(count):
            for j in range(w):
                behind += np.int32((zmin[k, i, j] > bound * front[j]) & (zmin[k, i, j] < infinite))
        if behind == 0:  # as in most rows; the others ask who stands nearest and what was moved
            continue
        rival[:], placed[:], seen[:] = np.inf, infinite, infinite
        for k in range(count):
            if observed[k]:
                for j in range(w):
                    if zmin[k, i, j] < seen[j]:
                        seen[j], who[j] = zmin[k, i, j], k
            for j in range(w):
                near = (zmin[k, i, j] <= bound * front[j]) & (away[k] < rival[j])
                rival[j] = away[k] if near else rival[j]
            if moved[k]:
                for j in range(w):
                    placed[j] = min(placed[j], zmin[k, i, j])
        y = ((i + 0.5) * stride - principal[1]) / focal[1]
        for k in range(count):
            for j in range(w):
                z = zmin[k, i, j]
                if z <= bound * front[j] or z == infinite:
                    continue
                x, c = ((j + 0.5) * stride - principal[0]) / focal[0], (center[k, 0], center[k, 1], center[k, 2])
                knows = (not moved[k]) and away[k] < rival[j] and z <= bound * placed[j]
                knows = knows and (z <= bound * seen[j] or _beside(zmin[k], zmin[who[j]], i, j, edge, bound * seen[j]))
                if not (knows and _past(x, y, front[j], depth[k, i, j], c[0], c[1], c[2], slack)):
                    quality[k, i, j] = 0


@njit(cache=True, error_model="numpy", nogil=True)
@no_type_check
def _drop_hidden(
    i, refined, block, zmin, picks, tau, away, center, moved, observed, focal, principal, stride, slack, edge, work
):
    """Set `refined [k w]`, of row `i`, to infinity behind the nearest of it and of `block [pool h w]`, as `hide` does.

    `work [4 w]` is scratch.
    """
    count, w = refined.shape
    front, rival, placed, seen = work[0], work[1], work[2], work[3]
    front[:] = np.inf
    for k in range(len(block)):
        for j in range(w):
            front[j] = block[k, i, j] if block[k, i, j] < front[j] else front[j]
    for k in range(count):
        for j in range(w):
            front[j] = refined[k, j] if refined[k, j] < front[j] else front[j]
    behind = 0
    for k in range(count):
        for j in range(w):
            behind += (refined[k, j] > (1 + tau) * front[j]) & (refined[k, j] < np.inf)
    if behind == 0:
        return
    rival[:], placed[:], seen[:], who = np.inf, np.inf, np.inf, np.zeros(w, np.int64)
    for p in range(len(block)):
        for j in range(w):
            near = (block[p, i, j] <= (1 + tau) * front[j]) & (away[p] < rival[j])
            rival[j] = away[p] if near else rival[j]
            placed[j] = block[p, i, j] if moved[p] & (block[p, i, j] < placed[j]) else placed[j]
            if observed[p] & (block[p, i, j] < seen[j]):
                seen[j], who[j] = block[p, i, j], p
    for k in range(count):
        p = picks[k]
        for j in range(w):
            near = (refined[k, j] <= (1 + tau) * front[j]) & (away[p] < rival[j])
            rival[j] = away[p] if near else rival[j]
            placed[j] = refined[k, j] if moved[p] & (refined[k, j] < placed[j]) else placed[j]
            if observed[p] & (refined[k, j] < seen[j]):
                seen[j], who[j] = refined[k, j], p
    y = ((i + 0.5) * stride - principal[1]) / focal[1]
    for k in range(count):
        p, cx, cy, cz = picks[k], center[picks[k], 0], center[picks[k], 1], center[picks[k], 2]
        for j in range(w):
            z = refined[k, j]
            if z <= (1 + tau) * front[j] or z == np.inf:
                continue
            x = ((j + 0.5) * stride - principal[0]) / focal[0]
            knows = (not moved[p]) and away[p] < rival[j] and z <= (1 + tau) * placed[j]
            limit = np.float32((1 + tau) * seen[j])
            knows = knows and (z <= limit or _beside(zmin[p], zmin[who[j]], i, j, edge, limit))
            if not (knows and _past(x, y, front[j], z, cx, cy, cz, slack)):
                refined[k, j] = np.inf


@njit(cache=True, error_model="numpy", nogil=True)
@no_type_check
def _vote(refined, quality, weight, columns, able):
    """Add to `columns [w]` what a group's cells of one row count, 1D: how well it shows each, if it is read there; and
    to `able [w]` how many groups are."""
    infinite = np.inf
    for j in range(len(refined)):
        value, read = weight * (2 * np.float64(quality[j]) - 1), refined[j] < infinite
        columns[j] += value if read else 0.0
        able[j] += np.int32(read)


@njit(cache=True, error_model="numpy", nogil=True)
@no_type_check
def _rank(columns, patch, votes, best):
    """`votes [k n]`: the sums of `columns [k w]` over each token; `best [n]`: who has most, the earlier on ties."""
    best[:] = 0
    for k in range(len(columns)):
        for tj in range(len(best)):
            total = 0.0
            for j in range(tj * patch, (tj + 1) * patch):
                total += columns[k, j]
            votes[k, tj] = total
            if total > votes[best[tj], tj]:
                best[tj] = k


@njit(cache=True, error_model="numpy", nogil=True)
@no_type_check
def _next(votes, tj, k):
    """Who comes after `k` by their votes for token `tj`, ties in order; there must be one."""
    after = -1
    for o in range(len(votes)):
        later = votes[o, tj] < votes[k, tj] or (votes[o, tj] == votes[k, tj] and o > k)
        if later and (after < 0 or votes[o, tj] > votes[after, tj]):
            after = o
    return after


@njit(cache=True, error_model="numpy", nogil=True)
@no_type_check
def _serve(refined, uv, source_z, groups, patch, min_cells, top, first, able, votes, best, owner, source, covered,
           out_uv, out_z, out_depth):  # fmt: skip
    """The last of `assign_owners`: of the tokens whose first row is `top` of `refined`, with `able [patch w]` groups
    for each cell."""
    _, rows, w = refined.shape
    deep, place, behind = refined.reshape(-1), uv.reshape(-1), source_z.reshape(-1)
    to, to_place, to_behind, to_deep = source.reshape(-1), out_uv.reshape(-1), out_z.reshape(-1), out_depth.reshape(-1)
    ti, one = (first + top) // patch, np.uint64(1)  # without a sign: an index that may count from the end is slow
    for tj in range(len(best)):
        served = 0
        for a in range(patch):
            for j in range(tj * patch, (tj + 1) * patch):
                k, cell = best[tj], (top + a) * w + j
                out = np.uint64(first * w + cell)
                if able[a, j] == 0:
                    to[out], to_behind[out], to_deep[out] = -1, 0.0, 0.0
                    to_place[out + out], to_place[out + out + one] = 0.0, 0.0
                    continue
                at = np.uint64(k * rows * w + cell)
                while not deep[at] < np.inf:
                    k = _next(votes, tj, k)
                    at = np.uint64(k * rows * w + cell)
                to[out], to_behind[out], to_deep[out] = groups[k], behind[at], deep[at]
                to_place[out + out], to_place[out + out + one] = place[at + at], place[at + at + one]
                served += 1
        covered[ti, tj] = served >= min_cells
        owner[ti, tj] = groups[best[tj]] if served >= min_cells else -1


@njit(cache=True, error_model="numpy", nogil=True)
@no_type_check
def assign_owners(
    refined,
    block,
    zmin,
    quality,
    picks,
    groups,
    weight,
    tau,
    center,
    moved,
    observed,
    focal,
    principal,
    stride,
    slack,
    edge,
    patch,
    min_cells,
    first,
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

    `refined [k rows w]` depth, infinity where not good, `uv` and `source_z` are of rows from `first` on, the first of
    a token; of the pool's `quality`, `zmin` and `block [pool h w]`, what stands in the way unshown, `picks [k]` are the
    rows of those `k`. A cell is served only by groups within `tau` of the nearest refined depth there, or of the
    nearest block, or that looked past it (`refined` is infinite elsewhere).
    `owner [m n]` and `source [h w]` get `groups [k]` or -1, `out_*` what the chosen group's reading says or 0.
    """
    count, rows, w = refined.shape
    n, work = w // patch, np.empty((4, w))
    columns, votes, best = np.empty((count, w)), np.empty((count, n)), np.empty(n, np.int64)
    able = np.empty((patch, w), np.int32)
    away = (center * center).sum(1)
    for top in range(0, rows, patch):
        columns[:], able[:] = 0, 0
        for a in range(top, top + patch):
            i = first + a
            _drop_hidden(
                i,
                refined[:, a],
                block,
                zmin,
                picks,
                tau,
                away,
                center,
                moved,
                observed,
                focal,
                principal,
                stride,
                slack,
                edge,
                work,
            )
            for k in range(count):
                _vote(refined[k, a], quality[picks[k], i], weight[k], columns[k], able[a - top])
        _rank(columns, patch, votes, best)
        _serve(refined, uv, source_z, groups, patch, min_cells, top, first, able, votes, best, owner, source, covered,
               out_uv, out_z, out_depth)  # fmt: skip
