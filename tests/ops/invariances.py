"""What each layout is invariant to, as numbers. `docs/operators.md` states them; `test_prope_laws.py` compares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from tests.ops.cases import LAYOUTS, Case, error, identity_cameras, rigid, stock_attention

from mosaicmem.ops import prope
from mosaicmem.ops._sdpa import masked_attention
from mosaicmem.ops.prope import Layout, TokenCameras


def _gauge(layout: Layout, dtype: torch.dtype = torch.float64, offset: float = 10.0) -> float:
    case = Case.random(1, d=64).to(dtype)
    G = rigid(torch.Generator().manual_seed(5), offset=offset)
    return error(case.gauged(G).attend(layout), case.attend(layout))


def _common_cameras(layout: Layout) -> float:
    case = Case.random(2)
    shared = replace(case, viewmats=case.viewmats[:, :1].expand_as(case.viewmats), Ks=case.Ks[:, :1].expand_as(case.Ks))
    return error(shared.attend(layout), case.attend(layout, cameras=identity_cameras(case)))


def _identity_is_stock(layout: Layout) -> float:
    case = Case.random(3)
    zero = torch.zeros(64, 64, dtype=torch.float64)
    stock = case.attend("fused", cameras=None)
    assert error(stock, stock_attention(case)) < 1e-12
    return error(case.attend(layout, cameras=identity_cameras(case), out=lambda x: x @ zero), stock)


def _shift(layout: Layout, by: tuple[float, float, float]) -> float:
    case = Case.random(4)
    return error(replace(case, pos=case.pos + torch.tensor(by).double()).attend(layout), case.attend(layout))


def _permutation(layout: Layout) -> float:
    case = Case.random(5)
    order = torch.randperm(case.q.shape[2], generator=torch.Generator().manual_seed(0))
    moved = replace(
        case,
        q=case.q[:, :, order],
        k=case.k[:, :, order],
        v=case.v[:, :, order],
        pos=case.pos[:, order],
        row=case.row[:, order],
    )
    return error(moved.attend(layout), case.attend(layout)[:, :, order])


def _one_subframe(layout: Layout) -> float:
    """The smallest change over sub-frames k when only camera k of the first row moves."""
    case = Case.random(6)
    G = rigid(torch.Generator().manual_seed(1))
    changes = []
    for k in range(4):
        viewmats = case.viewmats.clone()
        viewmats[:, 0, k] = viewmats[:, 0, k] @ G
        changes.append(error(replace(case, viewmats=viewmats).attend(layout), case.attend(layout)))
    return min(changes)


def _resize(layout: Layout) -> float:
    case = Case.random(7)
    larger = case.Ks * torch.tensor([2.0, 2.0, 1.0], dtype=torch.float64)[:, None]
    size = (2 * case.size[0], 2 * case.size[1])
    return error(replace(case, Ks=larger, size=size).attend(layout), case.attend(layout))


def _crop(layout: Layout) -> float:
    case = Case.random(7)
    return error(replace(case, size=(480, 352)).attend(layout), case.attend(layout))


def _swap_sides(layout: Layout) -> float:
    case = Case.random(8)
    return error(replace(case, size=case.size[::-1]).attend(layout), case.attend(layout))


def _scale_translations(layout: Layout) -> float:
    case = Case.random(9)
    viewmats = case.viewmats.clone()
    viewmats[..., :3, 3] *= 3
    return error(replace(case, viewmats=viewmats).attend(layout), case.attend(layout))


def camera_stream(
    case: Case, layout: Layout, cameras: TokenCameras, *, decode: bool = True, values: bool = True
) -> torch.Tensor:
    """The stream that carries cameras, optionally without its output transform or with cameras kept out of V."""
    rope = case.rope(layout)
    q = prope.encode_queries(case.q, rope, cameras, layout)[-1]
    k = prope.encode_keys(case.k, rope, cameras, layout)[-1]
    v = prope.encode_values(case.v, rope, cameras if values else None, layout)[-1]
    o = masked_attention(q, k, v)
    return prope.decode_output(o, rope, cameras if values else None, layout) if decode else o


def _no_output_transform(layout: Layout) -> float:
    case = Case.random(1)
    moved = case.gauged(rigid(torch.Generator().manual_seed(5)))
    return error(
        camera_stream(moved, layout, moved.cameras(), decode=False),
        camera_stream(case, layout, case.cameras(), decode=False),
    )


def _queries_and_keys_only(layout: Layout) -> float:
    case = Case.random(1)
    moved = case.gauged(rigid(torch.Generator().manual_seed(5)))
    return error(
        camera_stream(moved, layout, moved.cameras(), values=False),
        camera_stream(case, layout, case.cameras(), values=False),
    )


LAWS: dict[str, Callable[[Layout], float]] = {
    "P1 gauge, every P -> P G": _gauge,
    "P1 gauge in float32, offset 10": lambda layout: _gauge(layout, torch.float32),
    "P1 gauge in float32, offset 100": lambda layout: _gauge(layout, torch.float32, 100.0),
    "P2 one camera tuple on all tokens, against P = I": _common_cameras,
    "P2 P = I (branch: fresh), against stock attention": _identity_is_stock,
    "P3 common shift in time": lambda layout: _shift(layout, (3.0, 0.0, 0.0)),
    "P3 common shift in space, fractional": lambda layout: _shift(layout, (0.0, 1.5, -2.25)),
    "A2 permutation of the tokens": _permutation,
    "P4 only sub-frame k changes, least over k": _one_subframe,
    "P4 W and H swapped": _swap_sides,
    "image resized, intrinsics with it": _resize,
    "image cropped": _crop,
    "translations times 3": _scale_translations,
    "P5 gauge without the output transform": _no_output_transform,
    "gauge with cameras on q and k only": _queries_and_keys_only,
}

if __name__ == "__main__":
    for name, law in LAWS.items():
        print(f"| {name} | " + " | ".join(f"{law(layout):.1e}" for layout in LAYOUTS) + " |")
