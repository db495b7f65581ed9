"""PRoPE: projective positional encoding with one to four cameras a token.

Each token carries `P = Khat T`, normalised intrinsics times camera-from-world. Attention sees queries through `P^T`,
keys and values through `P^-1` and returns through `P`, so that only relative cameras `P_i P_j^-1` enter:

    o_i = D_i sum_j softmax_j( (D_i^T q_i) . (D_j^-1 k_j) / sqrt(d) ) D_j^-1 v_j

The layouts differ in which channels cameras (C) and rotary positions (R) act on:

| | fused | split | branch |
|---|---|---|---|
| q' | C(P_i^T) R_i q | [C(P_i^T) q ; R_i q] (halves) | main R_i q, second C(P_i^T) q |
| k' | C(P_j^-1) R_j k | [C(P_j^-1) k ; R_j k] | main R_j k, second C(P_j^-1) k |
| v' | C(P_j^-1) v | [C(P_j^-1) v ; R_j v] | main v, second C(P_j^-1) v |
| output | C(P_i) o | [C(P_i) o ; R_i^-1 o] | main o, second C(P_i) o |

With `S` sub-frame cameras a token, split and branch give camera `f mod S` to the `f`-th run of 4 channels; fused gives
camera `(c // 8) mod S` to channel `c`, whose matrix acts on whole rotary pairs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from typing import Literal

import torch

from mosaicmem._shapes import Bool, Float, Int64, Tensor
from mosaicmem.errors import ConfigError, GeometryError
from mosaicmem.geometry.projection import invert_intrinsics
from mosaicmem.geometry.se3 import invert_rigid
from mosaicmem.ops._sdpa import masked_attention
from mosaicmem.ops.rope import apply_rope

Layout = Literal["fused", "split", "branch"]
Rope = tuple[Tensor, Tensor]

_SHORT_RUN = 4  # tokens; below, one product per run costs more than gathering a matrix per token


@dataclass(frozen=True)
class TokenCameras:
    """Projective cameras of a token sequence.

    Attributes:
        P: `[b F S 4 4]` normalised projection, image units from (recentred, scaled) world.
        PT: `[b F S 4 4]` its transpose.
        Pinv: `[b F S 4 4]` its inverse.
        row: `[b L]` camera row, in `0 .. F - 1`, of each token; usually its latent.
    """

    P: Float[Tensor, "b F S 4 4"]
    PT: Float[Tensor, "b F S 4 4"]
    Pinv: Float[Tensor, "b F S 4 4"]
    row: Int64[Tensor, "b L"]

    def at(self, row: Int64[Tensor, "b L"]) -> TokenCameras:
        """The same cameras behind other tokens.

        Raises:
            GeometryError: if a row does not exist.
        """
        rows = self.P.shape[1]
        if row.numel() and not bool(((row >= 0) & (row < rows)).all()):
            raise GeometryError(f"camera rows {int(row.min())}..{int(row.max())} asked for, but there are {rows} rows")
        return TokenCameras(self.P, self.PT, self.Pinv, row)

    def tokens(self, index: slice) -> TokenCameras:
        """The cameras of a run of tokens."""
        return replace(self, row=self.row[:, index])

    def to(self, device: torch.device | str) -> TokenCameras:
        return TokenCameras(self.P.to(device), self.PT.to(device), self.Pinv.to(device), self.row.to(device))

    @staticmethod
    def cat(first: TokenCameras, second: TokenCameras) -> TokenCameras:
        """Cameras of the concatenated sequence; both must be in one gauge."""
        row = torch.cat([first.row, second.row + first.P.shape[1]], dim=1)
        both = [
            torch.cat([getattr(first, name), getattr(second, name).to(first.P)], dim=1) for name in ("P", "PT", "Pinv")
        ]
        return TokenCameras(both[0], both[1], both[2], row)

    @cached_property
    def runs(self) -> tuple[tuple[tuple[int, int, int], ...], ...]:
        """For each batch entry the runs `(row, start, stop)` of neighbouring tokens that share a camera row."""
        out = []
        for rows in self.row.tolist():
            runs, start = [], 0
            for row, members in groupby(rows):
                stop = start + sum(1 for _ in members)
                runs.append((row, start, stop))
                start = stop
            out.append(tuple(runs))
        return tuple(out)


def normalized_intrinsics(Ks: Float[Tensor, "*b 3 3"], size: tuple[int, int]) -> Float[Tensor, "*b 3 3"]:
    """Intrinsics in units of the full image side, origin at the image centre: `fx/W, fy/H, cx/W - 1/2, cy/H - 1/2`.

    Args:
        Ks: Intrinsics, pixels.
        size: Image (width, height), pixels.
    """
    side = torch.tensor([*size, 1], dtype=Ks.dtype, device=Ks.device)[:, None]
    return Ks / side - torch.tensor([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]], dtype=Ks.dtype, device=Ks.device)


def make_cameras(
    viewmats: Float[Tensor, "b F S 4 4"],
    Ks: Float[Tensor, "b F S 3 3"] | None,
    size: tuple[int, int],
    ref: Float[Tensor, "b 4 4"] | None = None,
    scale: Float[Tensor, "b"] | float = 1.0,
    *,
    row: Int64[Tensor, "b L"] | None = None,
    dtype: torch.dtype = torch.float32,
) -> TokenCameras:
    """Projections and their closed-form inverses: recentre, scale, normalise, compose, invert, and cast last.

    Args:
        viewmats: Rigid camera-from-world transforms of each camera row and sub-frame.
        Ks: Intrinsics, pixels. None leaves them out: `P = T`, a rigid encoding.
        size: Image (width, height), pixels.
        ref: View matrix of the reference camera; cameras are expressed in its frame, `T <- T T_ref^-1`. P and its
            inverse cancel the absolute offset only in exact arithmetic, so keep windows recentred.
        scale: World units of one unit of translation, `t <- t / scale`; one constant a sequence.
        row: Camera row of each token; by default every row is one token.
        dtype: Of the result; all arithmetic is float64.

    Raises:
        GeometryError: on non-finite numbers, a view matrix that is not rigid, a focal length or a scale that is not
            positive.
    """
    T = viewmats.double()
    if ref is not None:
        T = T @ invert_rigid(ref.double())[:, None, None]
    unit = torch.as_tensor(scale, dtype=T.dtype, device=T.device).expand(len(T))
    _require_cameras(T, Ks, size, unit)
    T = torch.cat([T[..., :3], torch.cat([T[..., :3, 3:] / unit[:, None, None, None, None], T[..., 3:, 3:]], -2)], -1)
    P, Pinv = T, invert_rigid(T)
    if Ks is not None:
        khat = normalized_intrinsics(Ks.double(), size)
        P, Pinv = _lift(khat) @ P, Pinv @ _lift(invert_intrinsics(khat))
    P, Pinv = P.to(dtype), Pinv.to(dtype)
    cameras = TokenCameras(P, P.mT.contiguous(), Pinv, torch.arange(P.shape[1], device=P.device).repeat(len(P), 1))
    return cameras if row is None else cameras.at(row)


def encode_queries(
    q: Float[Tensor, "b heads L d"], rope: Rope, cameras: TokenCameras | None, layout: Layout
) -> tuple[Tensor, ...]:
    """Queries of each attention stream: one for fused and split, (main, second) for branch; see the table above."""
    return _encode(q, rope, cameras, None if cameras is None else cameras.PT, layout)


def encode_keys(
    k: Float[Tensor, "b heads L d"], rope: Rope, cameras: TokenCameras | None, layout: Layout
) -> tuple[Tensor, ...]:
    """Keys of each attention stream."""
    return _encode(k, rope, cameras, None if cameras is None else cameras.Pinv, layout)


def encode_values(
    v: Float[Tensor, "b heads L d"], rope: Rope, cameras: TokenCameras | None, layout: Layout
) -> tuple[Tensor, ...]:
    """Values of each attention stream; only split rotates them."""
    M = None if cameras is None else cameras.Pinv
    if layout == "split":
        return _encode(v, rope, cameras, M, layout)
    mapped = camera_map(v, cameras, M, layout)
    return (v, mapped) if layout == "branch" else (mapped,)


def decode_output(
    o: Float[Tensor, "b heads L d"], rope: Rope, cameras: TokenCameras | None, layout: Layout
) -> Float[Tensor, "b heads L d"]:
    """Bring the output of the stream that carries cameras back through the query's camera."""
    M = None if cameras is None else cameras.P
    if layout != "split":
        return camera_map(o, cameras, M, layout)
    half = o.shape[-1] // 2
    return torch.cat(
        [camera_map(o[..., :half], cameras, M, layout), apply_rope(o[..., half:], *rope, inverse=True)], -1
    )


def prope_streams(
    q: Float[Tensor, "b heads Lq d"],
    k: Float[Tensor, "b heads Lk d"],
    v: Float[Tensor, "b heads Lk d"],
    cam_q: TokenCameras | None,
    cam_k: TokenCameras | None,
    rope_q: Rope,
    rope_k: Rope,
    *,
    layout: Layout,
    key_mask: Bool[Tensor, "b Lk"] | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Attention output `[b heads Lq d]` of the (main, second) stream; fused and split have no second.

    A block in branch layout whose second stream has its own way out computes `W_o main + W_prope second`.
    Arguments as in `prope_attention`.
    """
    require_layout(layout, q.shape[-1], 1 if cam_q is None else cam_q.P.shape[2])
    qs = encode_queries(q, rope_q, cam_q, layout)
    ks = encode_keys(k, rope_k, cam_k, layout)
    vs = encode_values(v, rope_k, cam_k, layout)
    out = [masked_attention(*stream, key_mask) for stream in zip(qs, ks, vs, strict=True)]
    out[-1] = decode_output(out[-1], rope_q, cam_q, layout)
    return out[0], out[1] if len(out) == 2 else None


def prope_attention(
    q: Float[Tensor, "b heads Lq d"],
    k: Float[Tensor, "b heads Lk d"],
    v: Float[Tensor, "b heads Lk d"],
    cam_q: TokenCameras | None,
    cam_k: TokenCameras | None,
    rope_q: Rope,
    rope_k: Rope,
    *,
    layout: Layout = "fused",
    key_mask: Bool[Tensor, "b Lk"] | None = None,
    to_out_prope: Callable[[Tensor], Tensor] | None = None,
) -> Float[Tensor, "b heads Lq d"]:
    """Attention in which tokens meet through their relative cameras and positions.

    Args:
        q, k, v: After QK-norm, before any rotation.
        cam_q, cam_k: Cameras of queries and keys in one gauge; None leaves the camera maps out, like `P = I`.
        rope_q, rope_k: `rope_cos_sin(pos, d)`; `d / 2` channels wide for split.
        layout: Which channels carry cameras, see the module.
        key_mask: False where a key is padding.
        to_out_prope: Branch only: linear map `[b L heads*d] -> [b L heads*d]`, zero at the start of training, through
            which the second stream joins the first before the shared output projection.

    Raises:
        ConfigError: if `d` does not fit the layout, or `to_out_prope` is missing for branch or given for another.
    """
    if (to_out_prope is None) == (layout == "branch"):
        raise ConfigError(f"to_out_prope goes with layout 'branch' and with no other; layout is {layout!r}")
    main, second = prope_streams(q, k, v, cam_q, cam_k, rope_q, rope_k, layout=layout, key_mask=key_mask)
    if second is None or to_out_prope is None:
        return main
    joined = to_out_prope(second.transpose(1, 2).flatten(-2))
    return main + joined.unflatten(-1, second.shape[1::2]).transpose(1, 2)


def camera_map(
    x: Float[Tensor, "b heads L c"], cameras: TokenCameras | None, M: Tensor | None, layout: Layout
) -> Float[Tensor, "b heads L c"]:
    """`C(M)`: multiply the channel vectors of each token by the matrices `M [b F S 4 4]` of its camera row.

    Channels are viewed as (group, S, 4, members): 2 members, a rotary pair, for fused and 1 otherwise. On a CPU every
    run of tokens with one camera is a single product with its block-diagonal matrix, which beats both a gather of
    matrices per token and broadcast multiplication several times over, for all its zeros. On a GPU a
    gather of matrices takes 0.4 of the time of multiplications and additions of whole tensors, which take 0.4 of that
    time once a compiler makes one pass of them.
    """
    if cameras is None or M is None:
        return x
    members = 2 if layout == "fused" else 1
    wide = torch.promote_types(x.dtype, M.dtype)
    y, M = x.to(wide), M.to(wide)
    batch, heads, length, _ = x.shape
    compiling = torch.compiler.is_compiling()
    by_runs = x.device.type == "cpu" and length and not compiling
    if by_runs and sum(map(len, cameras.runs)) * _SHORT_RUN <= batch * length:
        return _map_runs(y.transpose(1, 2), _block_diagonal(M.mT, members), cameras).transpose(1, 2).to(x.dtype)
    m = torch.take_along_dim(M, cameras.row[:, :, None, None, None], 1)
    y = y.reshape(batch, heads, length, -1, M.shape[2], 4, members)
    mapped = _multiply_out(m, y) if compiling else torch.einsum("blsij,bhlgsjr->bhlgsir", m, y)
    return mapped.reshape(x.shape).to(x.dtype)


def require_layout(layout: Layout, head_dim: int, subframes: int) -> None:
    """Refuse a head size that the layout cannot fill with `subframes` cameras.

    Raises:
        ConfigError: with the multiple that is needed.
    """
    need = {"fused": 8 * subframes, "split": 8 * subframes, "branch": 4 * subframes}
    if layout not in need:
        raise ConfigError(f"unknown PRoPE layout {layout!r}; known: {', '.join(need)}")
    if head_dim % need[layout]:
        raise ConfigError(
            f"PRoPE layout {layout!r} with {subframes} cameras a token needs head_dim to be a multiple of "
            f"{need[layout]}, got {head_dim}"
        )


def _encode(
    x: Tensor, rope: Rope, cameras: TokenCameras | None, M: Tensor | None, layout: Layout
) -> tuple[Tensor, ...]:
    if layout == "fused":
        return (camera_map(apply_rope(x, *rope), cameras, M, layout),)
    if layout == "branch":
        return apply_rope(x, *rope), camera_map(x, cameras, M, layout)
    half = x.shape[-1] // 2
    return (torch.cat([camera_map(x[..., :half], cameras, M, layout), apply_rope(x[..., half:], *rope)], -1),)


def _multiply_out(m: Float[Tensor, "b L S 4 4"], y: Float[Tensor, "b h L g S 4 r"]) -> Float[Tensor, "b h L g S 4 r"]:
    """`m y` term by term."""
    m, parts = m[:, None, :, None, ..., None], y.unbind(-2)
    rows = [functools.reduce(torch.add, [m[..., i, j, :] * parts[j] for j in range(4)]) for i in range(4)]
    return torch.stack(rows, -2)


def _map_runs(tokens: Tensor, blocks: Tensor, cameras: TokenCameras) -> Float[Tensor, "b L heads width"]:
    """One product per run of tokens with one camera; where all entries have the same runs, for all of them at once.

    Runs are cut by `split`, whose gradient is one concatenation; that of a slice fills the whole tensor for every run.
    """
    batch, _, heads, width = tokens.shape
    side = blocks.shape[-1]
    if len(set(cameras.runs)) == 1:
        runs = cameras.runs[0]
        parts = tokens.split([stop - start for _, start, stop in runs], dim=1)
        mapped = [
            torch.bmm(part.reshape(batch, -1, side), blocks[:, row]).view(batch, -1, heads, width)
            for part, (row, _, _) in zip(parts, runs, strict=True)
        ]
        return torch.cat(mapped, 1)
    runs = [(b, row, stop - start) for b, entry in enumerate(cameras.runs) for row, start, stop in entry]
    parts = tokens.flatten(0, 1).split([count for _, _, count in runs])
    mapped = [
        (part.reshape(-1, side) @ blocks[b, row]).view(count, heads, width)
        for part, (b, row, count) in zip(parts, runs, strict=True)
    ]
    return torch.cat(mapped).view(tokens.shape)


def _block_diagonal(M: Tensor, members: int) -> Tensor:
    """`[b F 4 S members, 4 S members]` with `M_k (x) I_members` as its `k`-th block."""
    eye_s = torch.eye(M.shape[2], dtype=M.dtype, device=M.device)
    eye_r = torch.eye(members, dtype=M.dtype, device=M.device)
    blocks = torch.einsum("bfsij,st,rq->bfsirtjq", M, eye_s, eye_r)
    side = 4 * members * M.shape[2]
    return blocks.reshape(*M.shape[:2], side, side)


def _lift(k: Tensor) -> Tensor:
    """3x3 to 4x4, `blockdiag(k, 1)`."""
    out = torch.zeros(*k.shape[:-2], 4, 4, dtype=k.dtype, device=k.device)
    out[..., :3, :3], out[..., 3, 3] = k, 1
    return out


def _require_cameras(T: Tensor, Ks: Tensor | None, size: tuple[int, int], unit: Tensor) -> None:
    if min(size) < 1:
        raise GeometryError(f"image size {size[0]}x{size[1]} is empty; expected at least 1x1 pixels")
    if not bool(T.isfinite().all()) or (Ks is not None and not bool(Ks.isfinite().all())):
        raise GeometryError("view matrices or intrinsics contain NaN or infinity")
    if not bool((unit > 0).all()):
        raise GeometryError(f"translation scale must be positive, got {unit.tolist()}")
    R = T[..., :3, :3]
    if T.numel() and float((R @ R.mT - torch.eye(3, dtype=T.dtype, device=T.device)).abs().max()) > 1e-3:
        raise GeometryError("a view matrix holds no rotation: |R R^T - 1| > 1e-3, and its closed-form inverse is wrong")
    if Ks is not None and Ks.numel() and float(Ks.diagonal(dim1=-2, dim2=-1)[..., :2].min()) <= 0:
        raise GeometryError("a focal length is not positive; expected fx > 0 and fy > 0, in pixels")
