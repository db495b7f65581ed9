"""Eq. 2 in closed form, and the choice of source patches against its twin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.ops.cases import rigid

from mosaicmem.errors import GeometryError
from mosaicmem.geometry import se3
from mosaicmem.geometry.projection import in_image
from mosaicmem.geometry.token_grid import TokenGrid
from mosaicmem.geometry.warps import warp_pixels
from mosaicmem.ops import reference
from mosaicmem.ops.warped_rope import (
    WarpedPatches,
    land,
    lower_median,
    mean_source,
    patch_depth,
    select_patches,
    take_patches,
)

F64 = torch.float64
GRID = TokenGrid(320, 224, stride=16, patch=2)
M, N = GRID.tokens
NEAR = 0.04
K = torch.tensor([[300.0, 0, 160], [0, 300, 112], [0, 0, 1]], dtype=F64)
EYE = torch.eye(4, dtype=F64)


def moved(x: float = 0.0, y: float = 0.0, z: float = 0.0) -> torch.Tensor:
    """Target from source, for a target camera whose centre lies at (x, y, z) in the source camera."""
    return se3.translation(-torch.tensor([x, y, z], dtype=F64))


def yawed(angle: float) -> torch.Tensor:
    R = se3.axis_angle(torch.tensor([0.0, 1, 0], dtype=F64), torch.tensor(angle, dtype=F64))
    return se3.make_transform(R, torch.zeros(3, dtype=F64))


def land_centers(depth: float | torch.Tensor, tgt_from_src: torch.Tensor):
    uv = GRID.token_centers(F64).flatten(0, 1)
    depth = torch.as_tensor(depth, dtype=F64).expand(M * N)
    return uv, land(uv, depth, K_src=K, K_tgt=K, tgt_from_src=tgt_from_src, grid=GRID, z_near=NEAR)


@dataclass(frozen=True)
class View:
    """What retrieval hands over for a plane at `depth` in one source, seen from one target."""

    patches: WarpedPatches
    served: torch.Tensor


def see_plane(depth: float, tgt_from_src: torch.Tensor, **options) -> View:
    """Select patches where a fronto-parallel plane of the source is seen by a target that has only moved."""
    h, w = GRID.cells
    z = torch.full((h * w,), depth + float(tgt_from_src[2, 3]), dtype=F64)
    uv, z_src = warp_pixels(
        GRID.cell_centers(F64).flatten(0, 1), z, K_src=K, K_tgt=K, tgt_from_src=se3.invert_rigid(tgt_from_src)
    )
    uv, z_src = uv.view(1, h, w, 2), z_src.view(1, h, w)
    served = in_image(uv, GRID.width, GRID.height)
    covered = served.view(1, M, 2, N, 2).any(4).any(2)
    patches = select_patches(
        torch.where(covered, 0, -1), served, uv, z_src, torch.full((1, M, N), depth, dtype=F64),
        K_src=K[None], K_tgt=K[None], tgt_from_src=tgt_from_src[None, None],
        grid=GRID, source_grid=GRID, z_near=NEAR, **options,
    )  # fmt: skip
    return View(patches, served)


# Closed forms of the landing.


@given(st.floats(0.1, 100.0))
def test_G1_the_same_camera_lands_on_its_own_tokens(depth):
    uv, landing = land_centers(depth, EYE)
    assert (landing.uv - uv).abs().max() < 1e-9
    assert (landing.tokens - landing.tokens.round()).abs().max() < 1e-9
    assert bool(landing.valid.all())


@given(st.floats(0.1, 100.0), st.floats(0.1, 100.0), st.floats(-0.4, 0.4))
def test_G2_a_pure_rotation_does_not_see_depth(near, far, angle):
    (_, a), (_, b) = land_centers(near, yawed(angle)), land_centers(far, yawed(angle))
    in_front = a.z / near > 0.1
    assert (a.uv - b.uv)[in_front].abs().max() < 1e-9


def test_G2_yaw_at_4_and_at_17_gives_identical_records():
    a, b = (land_centers(d, yawed(0.1))[1] for d in (4.0, 17.0))
    assert (a.tokens - b.tokens).abs().max() < 1e-9
    assert torch.equal(a.valid, b.valid)


@given(st.floats(-2, 2), st.floats(0.5, 50))
def test_G3_moving_the_camera_right_moves_the_image_left_by_f_b_over_D(b, depth):
    uv, landing = land_centers(depth, moved(x=b))
    expected = uv - torch.tensor([300 * b / depth, 0], dtype=F64)
    assert (landing.uv - expected).abs().max() < 1e-9


def test_G3_32_pixels_are_exactly_one_token_and_uncover_exactly_one_column():
    patches = see_plane(4.0, moved(x=32 * 4 / 300)).patches
    assert torch.equal(patches.kept[0], (torch.arange(N) < N - 1).expand(M, N))
    kept = patches.kept
    target = torch.cartesian_prod(torch.arange(M), torch.arange(N)).view(1, M, N, 2)
    assert torch.equal(patches.patch[kept], target[kept] + torch.tensor([0, 1]))
    assert (patches.positions[kept][:, 1:] - target[kept]).abs().max() < 1e-9
    assert (patches.positions[kept][:, 0] == 0).all()


@pytest.mark.parametrize("pixels", [10.0, 37.5])
def test_fractions_of_a_token_are_kept(pixels):
    """10 px move a token by 0.3125; memory moved by +0.5 at depth 4 moves it by +37.5 px."""
    _, landing = land_centers(4.0, moved(x=pixels * 4 / 300))
    own = GRID.pixels_to_tokens(GRID.token_centers(F64)).flatten(0, 1)
    assert (landing.tokens - own - torch.tensor([-pixels / 32, 0])).abs().max() < 1e-9
    edited = se3.translation(torch.tensor([0.5, 0, 0], dtype=F64))  # world points X -> G X
    uv, landing = land_centers(4.0, EYE @ edited)
    assert (landing.uv - uv - torch.tensor([37.5, 0])).abs().max() < 1e-9


def test_G4_what_is_behind_or_outside_is_invalid_and_nothing_is_clamped():
    uv = torch.tensor([[160.0, 112], [160, 112], [160, 112], [5, 112], [319.9, 223.9]], dtype=F64)
    depth = torch.tensor([2.0, 2.03, 2.05, 4, 4], dtype=F64)
    landing = land(uv, depth, K_src=K, K_tgt=K, tgt_from_src=moved(z=2.0), grid=GRID, z_near=NEAR)
    assert landing.valid.tolist() == [False, False, True, False, False]
    assert landing.uv[3, 0] < 0  # it says where the point would be
    assert landing.uv[4, 0] > GRID.width
    behind = land(uv[:1], depth[:1], K_src=K, K_tgt=K, tgt_from_src=moved(z=3.0), grid=GRID, z_near=NEAR)
    assert float(behind.z) == -1.0
    assert not bool(behind.valid)  # although it projects into the middle of the image
    assert bool(in_image(behind.uv, GRID.width, GRID.height))


@pytest.mark.parametrize("depth", [0.0, -1.0, float("nan"), float("inf")])
def test_unknown_depth_lands_nowhere(depth):
    assert not bool(land_centers(depth, moved(x=0.1))[1].valid.any())


@given(st.integers(0, 10_000), st.integers(1, 3), st.sampled_from([torch.float32, F64]))
def test_landing_against_the_twin(seed, b, dtype):
    gen = torch.Generator().manual_seed(seed)
    uv = torch.rand(b, 5, 2, generator=gen, dtype=F64) * 300
    depth = torch.rand(b, 5, generator=gen, dtype=F64) * 5 + 0.5
    T = rigid(gen, b, offset=0.5)
    Ks = K.repeat(b, 1, 1)
    landing = land(
        *(x.to(dtype) for x in (uv, depth)), K_src=Ks.to(dtype), K_tgt=Ks.to(dtype), tgt_from_src=T.to(dtype),
        grid=GRID, z_near=NEAR,
    )  # fmt: skip
    for i in range(b):
        for j in range(5):
            u, v, z = reference.land(uv[i, j], float(depth[i, j]), Ks[i], Ks[i], T[i])
            assert abs(float(landing.z[i, j]) - z) < (1e-9 if dtype == F64 else 1e-4)
            if z > 0.5:
                bound = 1e-9 if dtype == F64 else 2e-2
                expected = torch.tensor([u, v], dtype=F64)
                assert float((landing.uv[i, j] - expected).abs().max()) < bound
                assert float((landing.tokens[i, j] - (expected / 32 - 0.5)).abs().max()) < bound


@given(st.integers(0, 10_000))
def test_G6_back_from_the_landing_is_the_source_centre(seed):
    gen = torch.Generator().manual_seed(seed)
    T = se3.make_transform(
        se3.axis_angle(torch.randn(3, generator=gen, dtype=F64), torch.tensor(0.2, dtype=F64)),
        torch.rand(3, generator=gen, dtype=F64) - 0.5,
    )
    uv, there = land_centers(3 + torch.rand(M * N, generator=gen, dtype=F64), T)
    back = land(there.uv, there.z, K_src=K, K_tgt=K, tgt_from_src=se3.invert_rigid(T), grid=GRID, z_near=NEAR)
    assert (back.uv - uv).abs().max() < 1e-9


# The choice of patches.


def test_G1_the_same_camera_re_addresses_every_token_to_itself():
    patches = see_plane(4.0, EYE).patches
    target = torch.cartesian_prod(torch.arange(M), torch.arange(N)).view(1, M, N, 2)
    assert bool(patches.kept.all())
    assert torch.equal(patches.patch, target)
    assert (patches.positions[..., 1:] - target).abs().max() < 1e-9


def test_a_world_7_3_times_as_large_gives_identical_records():
    T = moved(x=0.3, y=-0.1, z=0.2)
    small, large = (
        see_plane(4.0, T).patches,
        see_plane(4.0 * 7.3, moved(x=0.3 * 7.3, y=-0.1 * 7.3, z=0.2 * 7.3)).patches,
    )
    assert torch.equal(small.kept, large.kept)
    assert torch.equal(small.patch[small.kept], large.patch[large.kept])
    assert (small.positions - large.positions)[small.kept].abs().max() < 1e-9


def test_a_patch_appears_once_although_a_magnified_surface_proposes_it_often():
    """Two units nearer, a patch covers four tokens; the one read nearest to its centre keeps it."""
    view = see_plane(4.0, moved(z=2.0))
    kept = view.patches.kept
    emitted = view.patches.patch[kept]
    inside = land_centers(4.0, moved(z=2.0))[1].valid.view(M, N).nonzero()
    assert bool(view.served.all())
    assert len(emitted) == len(inside) < M * N // 2
    assert torch.equal(emitted.unique(dim=0), inside)


def test_tokens_that_read_memory_otherwise_leave_their_patch_to_those_that_do():
    everyone = see_plane(4.0, moved(z=2.0)).patches
    board = (torch.arange(M)[:, None] + torch.arange(N)) % 2 == 0
    some = see_plane(4.0, moved(z=2.0), wanted=board[None]).patches
    assert not bool((some.kept & ~board).any())
    # Patches whose keeper did not want them moved to a neighbour that did.
    assert bool((some.kept & ~everyone.kept).any())


def random_views(seed: int) -> tuple[tuple[torch.Tensor, ...], dict[str, Any]]:
    """Two sources, two targets, and read-back that a careless retrieval might have made: holes, ties, edges."""
    gen = torch.Generator().manual_seed(seed)
    grid, source = TokenGrid(64, 48, stride=8, patch=2), TokenGrid(80, 64, stride=8, patch=2)
    (m, n), (h, w), s, l = grid.tokens, grid.cells, 2, 2
    owner = torch.randint(-1, s, (l, m, n), generator=gen)
    served = torch.rand(l, h, w, generator=gen) < 0.6
    # Few places, so that several tokens propose one patch; some of them outside.
    places = torch.randint(-1, 4, (l, m, 1, n, 1, 1), generator=gen) * torch.tensor([19.0, 16.0], dtype=F64) + 9
    uv = (places + 7 * torch.rand(l, m, 2, n, 2, 2, generator=gen, dtype=F64)).view(l, h, w, 2)
    depth = torch.randint(1, 4, (l, h, w), generator=gen).double() + 1.5
    token_depth = torch.randint(0, 6, (s, *source.tokens), generator=gen).double()
    K_s, K_t = K.repeat(s, 1, 1), K.repeat(l, 1, 1)
    K_s[:, :2, 2] = torch.tensor([40.0, 32.0], dtype=F64)
    K_t[:, :2, 2] = torch.tensor([32.0, 24.0], dtype=F64)
    K_s[:, [0, 1], [0, 1]], K_t[:, [0, 1], [0, 1]] = 70.0, 60.0
    T = se3.make_transform(
        se3.axis_angle(torch.randn(l, s, 3, generator=gen, dtype=F64), torch.full((l, s), 0.1, dtype=F64)),
        torch.randn(l, s, 3, generator=gen, dtype=F64) * 0.4,
    )
    cameras = {"K_src": K_s, "K_tgt": K_t, "tgt_from_src": T}
    return (owner, served, uv, depth, token_depth), cameras | {"grid": grid, "source_grid": source, "z_near": 0.5}


@given(st.integers(0, 100_000))
def test_patches_against_the_twin(seed):
    tensors, options = random_views(seed)
    fast = select_patches(*tensors, **options)
    slow = reference.select_patches(*tensors, **options)
    assert {tuple(x) for x in fast.kept.nonzero().tolist()} == set(slow)
    for token, (group, row, column, y, x) in slow.items():
        assert (int(fast.group[token]), *fast.patch[token].tolist()) == (group, row, column)
        assert (fast.positions[token] - torch.tensor([token[0], y, x], dtype=F64)).abs().max() < 1e-9


def test_the_random_views_do_hold_holes_rivals_and_landings_outside():
    owned = kept = rivals = 0
    for seed in range(20):
        tensors, options = random_views(seed)
        first = select_patches(*tensors, **options).kept
        second = select_patches(*tensors, **options, wanted=~first).kept
        owned, kept, rivals = (
            a + int(b.sum()) for a, b in zip((owned, kept, rivals), (tensors[0] >= 0, first, second), strict=True)
        )
    assert rivals > 20  # lost their patch to a nearer token only
    assert 100 < kept < owned - rivals - 20  # and some land nowhere


def test_ties_go_to_the_first_token_in_row_major_order():
    owner = torch.zeros(1, M, N, dtype=torch.long)
    served = torch.ones(1, *GRID.cells, dtype=torch.bool)
    uv = torch.full((1, *GRID.cells, 2), 100.0, dtype=F64)
    patches = select_patches(
        owner, served, uv, torch.full((1, *GRID.cells), 4.0, dtype=F64), torch.zeros(1, M, N, dtype=F64),
        K_src=K[None], K_tgt=K[None], tgt_from_src=EYE[None, None], grid=GRID, source_grid=GRID, z_near=NEAR,
    )  # fmt: skip
    assert patches.kept.nonzero().tolist() == [[0, 0, 0]]
    assert patches.patch[0, 0, 0].tolist() == [3, 3]


def test_mean_and_lower_median_over_served_cells_only():
    served = torch.tensor([[[True, True, False, False], [True, True, False, True]]])
    values = torch.tensor([[[4.0, 1, torch.nan, 0], [3, 2, 0, 9]]], dtype=F64)
    assert lower_median(values, served, 2).tolist() == [[[2.0, 9.0]]]
    uv = torch.stack([values, -values], -1)
    assert mean_source(uv, served, 2).tolist() == [[[[2.5, -2.5], [9.0, -9.0]]]]
    none = torch.zeros_like(served)
    assert bool(lower_median(values, none, 2).isnan().all() & mean_source(uv, none, 2).isnan().all())


def test_a_patch_keeps_its_own_depth_only_where_it_is_what_the_token_saw():
    own = torch.tensor([4.0, 4.9, 3.1, 0.0, torch.nan, torch.inf, -4.0], dtype=F64)
    assert patch_depth(own, torch.full((7,), 4.0, dtype=F64)).tolist() == [4, 4, 4, 4, 4, 4, 4]
    agreeing = torch.tensor([3.3, 4.7], dtype=F64)
    assert torch.equal(patch_depth(agreeing, torch.full((2,), 4.0, dtype=F64)), agreeing)


def test_taken_patches_are_the_stored_blocks():
    latents = torch.arange(2 * 3 * 4 * 6).view(2, 3, 4, 6).float()
    taken = take_patches(latents, torch.tensor([1, 0]), torch.tensor([[1, 2], [0, 1]]), 2)
    assert torch.equal(taken[0], latents[1, :, 2:4, 4:6])
    assert torch.equal(taken[1], latents[0, :, 0:2, 2:4])
    assert take_patches(latents, torch.zeros(0, dtype=torch.long), torch.zeros(0, 2, dtype=torch.long), 2).shape[0] == 0


def test_no_covered_token_gives_no_patch():
    tensors, options = random_views(1)
    assert not bool(select_patches(torch.full_like(tensors[0], -1), *tensors[1:], **options).kept.any())
    assert not bool(select_patches(tensors[0], torch.zeros_like(tensors[1]), *tensors[2:], **options).kept.any())


def test_tensors_that_do_not_fit_their_grids_are_refused():
    tensors, options = random_views(1)
    with pytest.raises(GeometryError, match="token_depth is"):
        select_patches(*tensors, **(options | {"source_grid": options["grid"]}))
    with pytest.raises(GeometryError, match="names source 1, but there are 1"):
        options = options | {"K_src": options["K_src"][:1], "tgt_from_src": options["tgt_from_src"][:, :1]}
        select_patches(tensors[0], tensors[1], tensors[2], tensors[3], tensors[4][:1], **options)
