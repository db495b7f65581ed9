"""The operators stay on the device of what they are given: on one that is not the CPU they give the same numbers.

Where there is no GPU, `tests.elsewhere` stands in for one. `meta` tensors, which have shapes and no values, go through
those operators that look at no value.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.elsewhere import PLACES, Elsewhere, MixedDevicesError, back, somewhere, there
from tests.ops.test_warped_rope import EYE, GRID, NEAR, K, M, N, moved

from mosaicmem.geometry.warps import backward_gather, bilinear_taps, forward_splat, inverse_depth_slopes, inverse_grid
from mosaicmem.ops.attention import KeyValues, attend, place
from mosaicmem.ops.latent_kernel import read_between
from mosaicmem.ops.prope import make_cameras
from mosaicmem.ops.warped_latent import cells_to_tokens, gather_cells, repeat_nearest_good
from mosaicmem.ops.warped_rope import land, lower_median, mean_source, patch_depth, select_patches, take_patches

F64 = torch.float64
G = torch.Generator().manual_seed(0)
H, W = GRID.cells


def rand(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=G, dtype=F64)


def given(**arguments: Any) -> dict[str, Any]:
    return arguments


DEPTH, VALID, GOOD = 2 + rand(2, 12, 16), rand(2, 12, 16) > 0.2, rand(1, H, W) > 0.3
CELLS, SOURCE = rand(2, 9, 2) * 11, torch.randint(-1, 2, (2, 9), generator=G)
UV = rand(1, H, W, 2) * torch.tensor([320.0, 224.0], dtype=F64)
OWNER, STEP = torch.randint(-1, 2, (1, M, N), generator=G), torch.stack([EYE, moved(x=0.1)])[None]
LENSES = {"K_src": K, "K_tgt": K}
HEADS = [rand(1, 2, 6, 16).float() for _ in range(3)]


def choose(**x: Any) -> tuple[torch.Tensor, ...]:
    patches = select_patches(**x, grid=GRID, source_grid=GRID, z_near=NEAR)
    return patches.kept, patches.group, patches.patch, patches.positions, patches.z


def turn(layout: Any, q: Any, k: Any, v: Any, positions: Any, viewmats: Any, Ks: Any, mask: Any) -> torch.Tensor:
    """Attention with cameras and padding; a batch of one, two cameras of three tokens each."""
    cameras = make_cameras(viewmats, Ks, (320, 224), viewmats[:, 0, 0], 2.0)
    cameras = cameras.at(torch.arange(6, device=q.device)[None] // 3)
    at = place(positions, 16, cameras=cameras, mask=mask, layout=layout)
    join = {"to_out_prope": torch.neg} if layout == "branch" else {}
    return attend(q, at, [(KeyValues(k, v), at)], layout=layout, **join)


ATTENTION = given(
    q=HEADS[0], k=HEADS[1], v=HEADS[2], positions=rand(1, 6, 3).float(), mask=torch.arange(6)[None] < 5,
    viewmats=STEP[:, :, None], Ks=K.expand(1, 2, 1, 3, 3).clone(),
)  # fmt: skip
OPERATORS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "land": (land, given(uv=UV.reshape(-1, 2), depth=rand(H * W), **LENSES, tgt_from_src=EYE, grid=GRID, z_near=NEAR)),
    "mean_source": (mean_source, given(source_uv=UV, served=GOOD, patch=2)),
    "lower_median": (lower_median, given(values=UV[..., 0], served=GOOD, patch=2)),
    "patch_depth": (patch_depth, given(own=DEPTH[0], visible=DEPTH[1])),
    "select_patches": (
        choose,
        given(
            owner=OWNER, served=GOOD, source_uv=UV, source_depth=2 + rand(1, H, W), token_depth=2 + rand(2, M, N),
            K_src=K.repeat(2, 1, 1), K_tgt=K[None], tgt_from_src=STEP, wanted=rand(1, M, N) > 0.2,
        ),
    ),
    "take_patches": (
        take_patches, given(latents=rand(2, 3, 12, 16), group=SOURCE[0].abs(), patch=SOURCE.abs().T, size=2)
    ),
    "gather_cells": (
        gather_cells,
        given(
            latents=rand(2, 3, 12, 16), depth=DEPTH, valid=VALID, source=SOURCE, source_cells=CELLS,
            source_z=2 + rand(2, 9), slope=0.1 * rand(2, 12, 16, 2),
        ),
    ),
    "repeat_nearest_good": (repeat_nearest_good, given(values=UV, good=GOOD, patch=2)),
    "cells_to_tokens": (cells_to_tokens, given(cells=UV, patch=2)),
    "read_between": (
        read_between,
        given(latents=rand(2, 3, 12, 16), valid=VALID, source=SOURCE, cells=CELLS, kernel=rand(5, 5, 12, 3)),
    ),
    "inverse_depth_slopes": (inverse_depth_slopes, given(depth=DEPTH[0], valid=VALID[0])),
    "bilinear_taps": (bilinear_taps, given(xy=CELLS, width=16, height=12)),
    "backward_gather": (
        backward_gather, given(values=rand(3, 12, 16), xy=CELLS[0], depth_src=DEPTH[0], depth=2 + rand(9)),
    ),
    "forward_splat": (
        lambda **x: (lambda s: (s.values, s.depth, s.source))(forward_splat(**x)),
        given(values=rand(3, 12, 16), depth=DEPTH[0], **LENSES, tgt_from_src=moved(x=0.1)),
    ),
    "forward_splat, nothing lands": (
        lambda **x: forward_splat(**x).source,
        given(values=rand(3, 12, 16), depth=0 * DEPTH[0], **LENSES, tgt_from_src=EYE),
    ),
    "inverse_grid": (inverse_grid, given(depth_tgt=DEPTH[0], **LENSES, src_from_tgt=moved(z=0.1))),
    **{f"attend, {layout}": (turn, given(layout=layout, **ATTENTION)) for layout in ("fused", "split", "branch")},
}  # fmt: skip
BLIND = ("mean_source", "lower_median", "patch_depth", "land", "take_patches", "gather_cells", "repeat_nearest_good",
         "cells_to_tokens", "bilinear_taps", "inverse_depth_slopes", "inverse_grid")  # fmt: skip
"""Operators that look at no value, so that tensors without any go through."""


def carried(arguments: dict[str, Any], move: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, Any]:
    return {name: move(x) if isinstance(x, torch.Tensor) else x for name, x in arguments.items()}


def parts(x: Any) -> list[torch.Tensor]:
    if isinstance(x, torch.Tensor):
        return [x]
    return list(x) if isinstance(x, tuple) else [y for y in vars(x).values() if isinstance(y, torch.Tensor)]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", OPERATORS)
def test_an_operator_stays_where_its_tensors_are_and_says_the_same_there(name: str, place: str) -> None:
    run, arguments = OPERATORS[name]
    with torch.no_grad():
        here = parts(run(**arguments))
        with somewhere(place) as at:
            found = parts(run(**carried(arguments, lambda x: x.to(at))))
            assert all(x.device.type == at.type for x in found)
            away = [x.cpu() for x in found]
    assert len(here) == len(away) > 0
    for a, b in zip(here, away, strict=True):
        # where the CPU takes another way than a GPU, numbers may differ in the last bits
        torch.testing.assert_close(a, b, equal_nan=True, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", BLIND)
def test_an_operator_that_looks_at_no_value_needs_none(name: str) -> None:
    run, arguments = OPERATORS[name]
    here = parts(run(**arguments))
    for a, b in zip(here, parts(run(**carried(arguments, lambda x: x.to("meta")))), strict=True):
        assert b.is_meta and (a.shape, a.dtype) == (b.shape, b.dtype)


def test_the_other_device_notices_a_tensor_made_on_the_cpu() -> None:
    """Negative control: each way to leave the device fails, and what is allowed on a GPU does not."""
    x = there(torch.ones(3))
    with Elsewhere():
        assert back(x + torch.arange(3, device=x.device)).tolist() == [1, 2, 3]
        assert back(x * torch.tensor(2.0)).tolist() == [2, 2, 2]
        assert float(x.sum()) == 3 and x.cpu().tolist() == [1, 1, 1] and x.device.type == "meta"
        for wrong in (
            lambda: x + torch.arange(3),
            lambda: torch.ones(3)[x.long()],
            lambda: torch.stack([x, torch.ones(3)]),
        ):
            with pytest.raises(MixedDevicesError, match="mixes devices"):
                wrong()
        with pytest.raises(TypeError, match="another device"):
            x.numpy()
        with pytest.raises(AssertionError, match="made on cpu"):
            back(torch.ones(3))
