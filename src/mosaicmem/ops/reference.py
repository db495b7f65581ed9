"""Every operator again: slow, obvious, one element at a time. Tests hold the fast ones against these.

Cameras and positions become dense matrices over the channels of a head, attention is written out query by query, warps
point by point. Inverses come from a general solver, not from closed forms. Nothing is shared with the fast code.
"""

from __future__ import annotations

import math

import torch

from mosaicmem._shapes import Bool, Float, Int64, Tensor
from mosaicmem.geometry.token_grid import TokenGrid
from mosaicmem.ops.prope import Layout
from mosaicmem.ops.warped_latent import TAU
from mosaicmem.ops.warped_rope import TAU_C

Matrix = Float[Tensor, "d d"]


# Rotary positions and cameras, as matrices over the channels of a head.


def rope_matrix(position: Float[Tensor, "3"], head_dim: int, theta: float = 1e4) -> Matrix:
    """Rotation of a head at one (t, y, x) position: 2x2 rotations along the diagonal."""
    side = 2 * (head_dim // 6)
    out = torch.zeros(head_dim, head_dim, dtype=torch.float64)
    first = 0
    for axis, band in enumerate([head_dim - 2 * side, side, side]):
        for n in range(band // 2):
            angle = float(position[axis]) * theta ** (-2 * n / band)
            i = first + 2 * n
            out[i, i], out[i, i + 1] = math.cos(angle), -math.sin(angle)
            out[i + 1, i], out[i + 1, i + 1] = math.sin(angle), math.cos(angle)
        first += band
    return out


def camera_matrix(M: Float[Tensor, "S 4 4"], width: int, layout: Layout) -> Float[Tensor, "width width"]:
    """`C(M)` over `width` channels."""
    S = len(M)
    rows = []
    for c in range(width):
        row = [torch.zeros((), dtype=M.dtype)] * width
        for j in range(4):
            if layout == "fused":  # runs of 8 channels: 4 rotary pairs, the matrix acts on the pairs
                row[c // 8 * 8 + 2 * j + c % 2] = M[(c // 8) % S, c % 8 // 2, j]
            else:
                row[c // 4 * 4 + j] = M[(c // 4) % S, c % 4, j]
        rows.append(torch.stack(row))
    return torch.stack(rows)


def projection(
    viewmat: Float[Tensor, "4 4"],
    K: Float[Tensor, "3 3"] | None,
    size: tuple[int, int],
    ref: Float[Tensor, "4 4"] | None = None,
    scale: float = 1.0,
) -> Float[Tensor, "4 4"]:
    """`P` of one camera: recentre, scale, normalise the intrinsics, compose."""
    T = viewmat.double()
    if ref is not None:
        T = T @ torch.linalg.inv(ref.double())
    T = T.clone()
    T[:3, 3] = T[:3, 3] / scale
    if K is None:
        return T
    W, H = size
    khat = torch.zeros(4, 4, dtype=torch.float64)
    khat[0, 0], khat[0, 2] = K[0, 0] / W, K[0, 2] / W - 0.5
    khat[1, 1], khat[1, 2] = K[1, 1] / H, K[1, 2] / H - 0.5
    khat[2, 2] = khat[3, 3] = 1
    return khat @ T


# Attention.


def attention(
    q: Float[Tensor, "Lq d"], k: Float[Tensor, "Lk d"], v: Float[Tensor, "Lk d"], exists: Bool[Tensor, "Lk"]
) -> Float[Tensor, "Lq d"]:
    """Softmax attention of one head, query by query; keys that do not exist are never looked at."""
    out = []
    keys = [j for j in range(len(k)) if bool(exists[j])]
    for i in range(len(q)):
        if not keys:
            out.append(torch.zeros_like(q[i]))
            continue
        logits = torch.stack([q[i] @ k[j] / math.sqrt(q.shape[1]) for j in keys])
        weights = (logits - logits.max()).exp()
        weights = weights / weights.sum()
        out.append(sum((weights[a] * v[j] for a, j in enumerate(keys)), torch.zeros_like(q[i])))
    return torch.stack(out)


def prope_attention(
    q: Float[Tensor, "b heads Lq d"],
    k: Float[Tensor, "b heads Lk d"],
    v: Float[Tensor, "b heads Lk d"],
    P_q: Float[Tensor, "b Lq S 4 4"],
    P_k: Float[Tensor, "b Lk S 4 4"],
    pos_q: Float[Tensor, "b Lq 3"],
    pos_k: Float[Tensor, "b Lk 3"],
    layout: Layout,
    key_mask: Bool[Tensor, "b Lk"] | None = None,
    W_prope: Float[Tensor, "D D"] | None = None,
    theta: float = 1e4,
) -> Float[Tensor, "b heads Lq d"]:
    """PRoPE attention with a dense matrix per token: `P` of each token in, no inverse or row table.

    `W_prope` is the weight of branch's output map, `y = W x` on all heads' channels together.
    """
    d = q.shape[-1]
    out = []
    for b in range(len(q)):
        exists = torch.ones(k.shape[2], dtype=torch.bool) if key_mask is None else key_mask[b]
        main, second = [], []
        for h in range(q.shape[1]):
            streams = []
            for camera, rotary in _streams(layout):
                D_q = [
                    _token_matrix(P, p, d, camera, rotary, layout, theta) for P, p in zip(P_q[b], pos_q[b], strict=True)
                ]
                D_k = [
                    _token_matrix(P, p, d, camera, rotary, layout, theta) for P, p in zip(P_k[b], pos_k[b], strict=True)
                ]
                q_ = torch.stack([qi @ D for (D, _, _), qi in zip(D_q, q[b, h], strict=True)])
                k_ = torch.stack([D @ kj for (_, D, _), kj in zip(D_k, k[b, h], strict=True)])
                v_ = torch.stack([_value_matrix(D, layout) @ vj for D, vj in zip(D_k, v[b, h], strict=True)])
                o = attention(q_, k_, v_, exists)
                back = [torch.linalg.inv(_value_matrix(D, layout)) for D in D_q]
                streams.append(torch.stack([D @ oi for D, oi in zip(back, o, strict=True)]))
            main.append(streams[0])
            second.append(streams[-1])
        result = torch.stack(main)
        if layout == "branch":
            assert W_prope is not None
            joined = torch.stack(second).transpose(0, 1).flatten(1) @ W_prope.T
            result = result + joined.unflatten(1, (-1, d)).transpose(0, 1)
        out.append(result)
    return torch.stack(out)


def _streams(layout: Layout) -> list[tuple[bool, bool]]:
    """(camera, rotary) of each attention stream."""
    return [(False, True), (True, False)] if layout == "branch" else [(True, True)]


def _token_matrix(
    P: Tensor, position: Tensor, d: int, camera: bool, rotary: bool, layout: Layout, theta: float
) -> tuple[Tensor, Tensor, Tensor]:
    """A token's matrices `(q^T -> q'^T from the right, k -> k', v -> v')`."""
    eye = torch.eye(d, dtype=torch.float64)
    if layout == "split":
        half = d // 2
        R = rope_matrix(position, half, theta)
        left = torch.block_diag(camera_matrix(P.mT, half, layout), R)
        right = torch.block_diag(camera_matrix(torch.linalg.inv(P), half, layout), R)
        return left.T, right, right
    R = rope_matrix(position, d, theta) if rotary else eye
    C = camera_matrix(P.mT, d, layout) if camera else eye
    C_inv = camera_matrix(torch.linalg.inv(P), d, layout) if camera else eye
    return (C @ R).T, C_inv @ R, C_inv


def _value_matrix(matrices: tuple[Tensor, Tensor, Tensor], layout: Layout) -> Tensor:
    return matrices[1] if layout == "split" else matrices[2]


# Warps.


def land(
    uv: Float[Tensor, "2"],
    depth: float,
    K_src: Float[Tensor, "3 3"],
    K_tgt: Float[Tensor, "3 3"],
    tgt_from_src: Float[Tensor, "4 4"],
) -> tuple[float, float, float]:
    """Eq. 2 for one point: `(u', v', z')`."""
    ray = torch.linalg.solve(K_src.double(), torch.cat([uv.double(), torch.ones(1, dtype=torch.float64)]))
    X = tgt_from_src.double() @ torch.cat([depth * ray, torch.ones(1, dtype=torch.float64)])
    x = K_tgt.double() @ X[:3]
    z = float(X[2])
    return (float(x[0]) / z, float(x[1]) / z, z) if z != 0 else (math.nan, math.nan, z)


def select_patches(
    owner: Int64[Tensor, "l m n"],
    served: Bool[Tensor, "l h w"],
    source_uv: Float[Tensor, "l h w 2"],
    source_depth: Float[Tensor, "l h w"],
    token_depth: Float[Tensor, "s ms ns"],
    *,
    K_src: Float[Tensor, "s 3 3"],
    K_tgt: Float[Tensor, "l 3 3"],
    tgt_from_src: Float[Tensor, "l s 4 4"],
    grid: TokenGrid,
    source_grid: TokenGrid,
    z_near: float,
    tau_c: float = TAU_C,
) -> dict[tuple[int, int, int], tuple[int, int, int, float, float]]:
    """Warped RoPE, token by token: `(l, i, j) -> (group, row, column, y, x)` of what is emitted."""
    p, s_src, s_tgt = grid.patch, source_grid.token_stride, grid.token_stride
    best: dict[tuple[int, int, int, int], tuple[float, tuple[int, int, int], tuple[int, int, int, float, float]]] = {}
    for l, i, j in [tuple(x) for x in (owner >= 0).nonzero().tolist()]:
        g = int(owner[l, i, j])
        cells = [(p * i + a, p * j + b) for a in range(p) for b in range(p) if served[l, p * i + a, p * j + b]]
        if not cells:
            continue
        gu = sum(float(source_uv[l, r, c, 0]) for r, c in cells) / len(cells)
        gv = sum(float(source_uv[l, r, c, 1]) for r, c in cells) / len(cells)
        row, column = math.floor(gv / s_src), math.floor(gu / s_src)
        if not (0 <= row < source_grid.tokens[0] and 0 <= column < source_grid.tokens[1]):
            continue
        depths = sorted(float(source_depth[l, r, c]) for r, c in cells)
        z_vis, own = depths[(len(depths) - 1) // 2], float(token_depth[g, row, column])
        known = math.isfinite(own) and own > 0
        z_p = own if known and abs(own / z_vis - 1) <= tau_c else z_vis
        center = torch.tensor([(column + 0.5) * s_src, (row + 0.5) * s_src], dtype=torch.float64)
        u, v, z = land(center, z_p, K_src[g], K_tgt[l], tgt_from_src[l, g])
        if not (z > z_near and 0 <= u < grid.width and 0 <= v < grid.height):
            continue
        distance = (gu - float(center[0])) ** 2 + (gv - float(center[1])) ** 2
        proposal = (distance, (l, i, j), (g, row, column, v / s_tgt - 0.5, u / s_tgt - 0.5))
        key = (l, g, row, column)
        if key not in best or proposal[:2] < best[key][:2]:
            best[key] = proposal
    return {token: emitted for _, token, emitted in best.values()}


def gather_cells(
    latents: Float[Tensor, "s c h w"],
    depth: Float[Tensor, "s h w"],
    valid: Bool[Tensor, "s h w"],
    source: Int64[Tensor, "q"],
    source_cells: Float[Tensor, "q 2"],
    source_z: Float[Tensor, "q"],
    tau: float = TAU,
    slope: Float[Tensor, "s h w 2"] | None = None,
) -> tuple[Float[Tensor, "q c"], Float[Tensor, "q"]]:
    """Warped Latent, one query and one tap at a time."""
    _, c, h, w = latents.shape
    values, weights = [], []
    for s, (x, y), z in zip(source.tolist(), source_cells.tolist(), source_z.tolist(), strict=True):
        total, weight = torch.zeros(c, dtype=latents.dtype), 0.0
        for column in (math.floor(x), math.floor(x) + 1):
            for row in (math.floor(y), math.floor(y) + 1):
                if s < 0 or not (0 <= row < h and 0 <= column < w) or not valid[s, row, column]:
                    continue
                expected = float(depth[s, row, column])
                if slope is not None:
                    inverse = 1 / expected
                    inverse += float(slope[s, row, column, 0]) * (x - column)
                    inverse += float(slope[s, row, column, 1]) * (y - row)
                    expected = 1 / inverse
                if not (z > 0 and abs(expected - z) <= tau * z):
                    continue
                b = (1 - abs(x - column)) * (1 - abs(y - row))
                if b > 0:
                    total, weight = total + b * latents[s, :, row, column], weight + b
        values.append(total / weight if weight > 0 else total)
        weights.append(weight)
    return torch.stack(values), torch.tensor(weights, dtype=latents.dtype)


def repeat_nearest_good(values: Float[Tensor, "l h w c"], good: Bool[Tensor, "l h w"], patch: int) -> Tensor:
    """Fill each unserved cell from the nearest good cell of its token, the first in row-major order."""
    out = values.clone()
    for l, r, c in (~good).nonzero().tolist():
        first_r, first_c = r // patch * patch, c // patch * patch
        best = None
        for a in range(first_r, first_r + patch):
            for b in range(first_c, first_c + patch):
                distance = (a - r) ** 2 + (b - c) ** 2
                if good[l, a, b] and (best is None or distance < best[0]):
                    best = (distance, a, b)
        if best is not None:
            out[l, r, c] = values[l, best[1], best[2]]
    return out


def read_between(
    latents: Float[Tensor, "s c h w"],
    valid: Bool[Tensor, "s h w"],
    source: Int64[Tensor, "q"],
    cells: Float[Tensor, "q 2"],
    kernel: Float[Tensor, "k k t c"],
) -> tuple[Float[Tensor, "q c"], Bool[Tensor, "q"]]:
    """Kernel of an autoencoder, one query and one of the four cells around it at a time."""
    _, c, h, w = latents.shape
    steps = len(kernel) - 1
    values, known = [], []
    for s, (x, y) in zip(source.tolist(), cells.tolist(), strict=True):
        value, whole, left, top = torch.zeros(c, dtype=latents.dtype), False, 0, 0
        if s >= 0 and 0 <= x <= w - 1 and 0 <= y <= h - 1:
            left, top = min(math.floor(x), w - 2), min(math.floor(y), h - 2)
            whole = all(bool(valid[s, top + a, left + b]) for a in (0, 1) for b in (0, 1))
        if whole:
            for n in range(len(kernel)):  # whole pixels down and across; only the nearest two of each count
                for m in range(len(kernel)):
                    share = max(0, 1 - abs((y - top) * steps - n)) * max(0, 1 - abs((x - left) * steps - m))
                    if share == 0:
                        continue
                    for tap, (a, b) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
                        weight = kernel[n, m, tap * c : (tap + 1) * c].to(latents.dtype)
                        value = value + share * (latents[s, :, top + a, left + b] @ weight)
        values.append(value)
        known.append(whole)
    return torch.stack(values), torch.tensor(known)
