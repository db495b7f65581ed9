"""Random token sequences with cameras, and the stock attention that PRoPE is held against."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mosaicmem.geometry import se3
from mosaicmem.ops.prope import Layout, TokenCameras, make_cameras, prope_attention
from mosaicmem.ops.rope import rope_cos_sin

SIZE = (640, 352)
LAYOUTS: tuple[Layout, ...] = ("fused", "split", "branch")


def rigid(gen: torch.Generator, *shape: int, offset: float = 1.0) -> Tensor:
    """Random rigid transforms `[*shape 4 4]`, translations of norm `offset`."""
    axis, t = torch.randn(2, *shape, 3, generator=gen, dtype=torch.float64)
    angle = torch.rand(shape, generator=gen, dtype=torch.float64) * 3
    return se3.make_transform(se3.axis_angle(axis, angle), offset * torch.nn.functional.normalize(t, dim=-1))


def intrinsics(gen: torch.Generator, *shape: int, size: tuple[int, int] = SIZE) -> Tensor:
    K = torch.eye(3, dtype=torch.float64).repeat(*shape, 1, 1)
    f = size[0] * (0.7 + 0.6 * torch.rand(shape, generator=gen, dtype=torch.float64))
    K[..., 0, 0], K[..., 1, 1] = f, 1.02 * f
    K[..., 0, 2], K[..., 1, 2] = 0.48 * size[0], 0.53 * size[1]
    return K


@dataclass(frozen=True)
class Case:
    """One attention problem: features, positions, and the raw cameras behind the tokens."""

    q: Tensor
    k: Tensor
    v: Tensor
    pos: Tensor
    viewmats: Tensor
    Ks: Tensor
    row: Tensor
    size: tuple[int, int] = SIZE

    @staticmethod
    def random(
        seed: int = 0, *, b: int = 2, heads: int = 2, d: int = 32, S: int = 4, rows: int = 3, per_row: int = 5
    ) -> Case:
        gen = torch.Generator().manual_seed(seed)
        L = rows * per_row
        q, k, v = torch.randn(3, b, heads, L, d, generator=gen, dtype=torch.float64)
        row = torch.arange(rows).repeat_interleave(per_row).expand(b, L).contiguous()
        # Fractions in y and x, as Warped RoPE makes them.
        pos = torch.rand(b, L, 3, generator=gen, dtype=torch.float64) * 9 - 2
        pos = torch.cat([row[..., None].double(), pos[..., 1:]], dim=-1)
        return Case(q, k, v, pos, rigid(gen, b, rows, S), intrinsics(gen, b, rows, S), row)

    def to(self, dtype: torch.dtype) -> Case:
        """Features and positions in another precision; cameras stay in float64 until `P` is cast."""
        return replace(self, q=self.q.to(dtype), k=self.k.to(dtype), v=self.v.to(dtype))

    def gauged(self, world_from_new: Tensor) -> Case:
        """The world's origin and axes changed: `T <- T G`."""
        return replace(self, viewmats=self.viewmats @ world_from_new)

    def cameras(self, dtype: torch.dtype = torch.float64, **options) -> TokenCameras:
        return make_cameras(self.viewmats, self.Ks, self.size, row=self.row, dtype=dtype, **options)

    def rope(self, layout: Layout, dtype: torch.dtype = torch.float64):
        d = self.q.shape[-1]
        return rope_cos_sin(self.pos.to(dtype), d // 2 if layout == "split" else d)

    def attend(
        self,
        layout: Layout,
        *,
        cameras: TokenCameras | str | None = "own",
        key_mask: Tensor | None = None,
        out: Callable[[Tensor], Tensor] = lambda x: x,
        **options,
    ) -> Tensor:
        """`prope_attention` of the case; branch's second stream joins through `out`."""
        wide = torch.float64 if self.q.dtype == torch.float64 else torch.float32
        cam = self.cameras(wide, **options) if isinstance(cameras, str) else cameras
        rope = self.rope(layout, wide)
        return prope_attention(
            self.q, self.k, self.v, cam, cam, rope, rope,
            layout=layout, key_mask=key_mask, to_out_prope=out if layout == "branch" else None,
        )  # fmt: skip


def identity_cameras(case: Case, S: int = 4) -> TokenCameras:
    eye = torch.eye(4, dtype=torch.float64).repeat(len(case.q), case.viewmats.shape[1], S, 1, 1)
    return TokenCameras(eye, eye, eye, case.row)


def stock_rope(x: Tensor, pos: Tensor) -> Tensor:
    """Wan's rotation as published: complex exponentials of the three bands, in float64."""
    d = x.shape[-1]
    side = 2 * (d // 6)
    angles = []
    for axis, band in enumerate([d - 2 * side, side, side]):
        omega = 1.0 / 10000 ** (torch.arange(0, band, 2, dtype=torch.float64) / max(band, 1))
        angles.append(torch.einsum("bl,n->bln", pos[..., axis].double(), omega))
    turn = torch.polar(torch.ones(()).double(), torch.cat(angles, -1))[:, None]
    return torch.view_as_real(torch.view_as_complex(x.double().contiguous().unflatten(-1, (-1, 2))) * turn).flatten(-2)


def stock_attention(case: Case) -> Tensor:
    """Rotated queries and keys, plain values: the backbone's own attention, written with matrix products."""
    q, k = stock_rope(case.q, case.pos), stock_rope(case.k, case.pos)
    return (q @ k.mT / case.q.shape[-1] ** 0.5).softmax(-1) @ case.v.double()


def error(a: Tensor, b: Tensor) -> float:
    """Largest difference relative to the largest entry of `b`."""
    a, b = a.detach().double(), b.detach().double()
    return float((a - b).abs().max() / b.abs().max())
