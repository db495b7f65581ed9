"""Warps: the laws G1-G6, exact values, z-buffer order, and agreement with the slow twins."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.helpers import random_cameras, random_rotations

from mosaicmem.geometry import reference, se3
from mosaicmem.geometry.cameras import Cameras
from mosaicmem.geometry.projection import in_image, pixel_centers
from mosaicmem.geometry.trajectories import dolly, look_around, move
from mosaicmem.geometry.warps import (
    backward_gather,
    bilinear_taps,
    forward_splat,
    inverse_grid,
    nearest_points,
    warp_pixels,
    z_buffer,
)


def between(cameras: Cameras, src: int = 0, tgt: int = 1) -> dict[str, Any]:
    return {
        "K_src": cameras.Ks[src],
        "K_tgt": cameras.Ks[tgt],
        "tgt_from_src": cameras.viewmats[tgt] @ se3.invert_rigid(cameras.viewmats[src]),
    }


def at_origin(width: int = 48, height: int = 32, f: float = 300.0) -> Cameras:
    K = torch.tensor([[[f, 0, width / 2], [0, f, height / 2], [0, 0, 1]]], dtype=torch.float64)
    return Cameras(torch.eye(4, dtype=torch.float64)[None], K, width, height)


def pixels(cameras: Cameras) -> torch.Tensor:
    return pixel_centers(cameras.width, cameras.height, dtype=torch.float64).flatten(0, 1)


def random_depth(rng: torch.Generator, *shape: int) -> torch.Tensor:
    return 2 + 6 * torch.rand(*shape, generator=rng, dtype=torch.float64)


# Laws


@given(st.integers(0, 10**6))
def test_g1_the_same_camera_sees_every_pixel_where_it_is(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    cameras = random_cameras(1, rng)
    uv, depth = pixels(cameras), random_depth(rng, 48 * 32)
    landed, z = warp_pixels(uv, depth, **between(cameras, 0, 0))
    torch.testing.assert_close(landed, uv, atol=1e-9, rtol=0)
    torch.testing.assert_close(z, depth, atol=1e-12, rtol=1e-12)


def test_g1_splatting_into_the_same_camera_is_the_identity(rng: torch.Generator) -> None:
    cameras = random_cameras(1, rng)
    picture, depth = torch.rand(3, 32, 48, generator=rng), random_depth(rng, 32, 48)
    splat = forward_splat(picture, depth, **between(cameras, 0, 0))
    assert bool(splat.covered.all())
    assert torch.equal(splat.values, picture)
    assert torch.equal(splat.source.flatten(), torch.arange(48 * 32))
    torch.testing.assert_close(splat.depth, depth)


@given(st.integers(0, 10**6))
def test_g2_under_pure_rotation_depth_does_not_matter(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    cameras = random_cameras(1, rng)
    R = random_rotations(1, rng)
    turned = Cameras.cat(
        [cameras, Cameras(se3.make_transform(R, torch.zeros(1, 3).double()) @ cameras.viewmats, cameras.Ks, 48, 32)]
    )
    uv = pixels(cameras)
    near, z = warp_pixels(uv, torch.full((48 * 32,), 0.5).double(), **between(turned))
    far, _ = warp_pixels(uv, torch.full((48 * 32,), 700.0).double(), **between(turned))
    clear = z.abs() > 0.02  # elsewhere the ray is parallel to the image plane
    torch.testing.assert_close(near[clear], far[clear], atol=1e-8, rtol=1e-10)


@pytest.mark.parametrize(("pixels_moved", "depth"), [(32.0, 4.0), (10.0, 4.0), (37.5, 4.0), (3.2, 17.0)])
def test_g3_a_step_to_the_right_moves_a_plane_to_the_left(pixels_moved: float, depth: float) -> None:
    start = at_origin(640, 352)
    path = move(start, (pixels_moved * depth / 300, 0, 0), frames=2)
    uv = pixels(start)
    landed, z = warp_pixels(uv, torch.full((len(uv),), depth).double(), **between(path))
    torch.testing.assert_close(landed, uv - torch.tensor([pixels_moved, 0], dtype=torch.float64), atol=1e-9, rtol=0)
    torch.testing.assert_close(z, torch.full((len(uv),), depth).double())


def test_g3_one_token_uncovers_exactly_one_column_of_tokens() -> None:
    # a grid of tokens is an image whose pixels are the tokens: f = 300 px = 300 / 32 tokens
    start = at_origin(20, 11, f=300 / 32)
    path = move(start, (32 * 4 / 300, 0, 0), frames=2)
    source = torch.arange(220.0).reshape(1, 11, 20).double()
    splat = forward_splat(source, torch.full((11, 20), 4.0).double(), **between(path), tolerance=1e-9)
    assert splat.covered[:, :19].all() and not splat.covered[:, 19].any()
    assert torch.equal(splat.values[0, :, :19], source[0, :, 1:])


def test_g21_exact_landings_by_depth() -> None:
    K = torch.tensor([[100.0, 0, 32], [0, 100, 32], [0, 0, 1]])
    depth = torch.tensor([5.0, 5.5, 6.5])
    uv = torch.tensor([[10.0, 20]]).repeat(3, 1)
    landed, _ = warp_pixels(uv, depth, K_src=K, K_tgt=K, tgt_from_src=se3.translation(torch.tensor([0.25, 0, 0])))
    torch.testing.assert_close(landed[:, 0] - 10, torch.tensor([5, 4.545455, 3.846154]), atol=1e-4, rtol=0)
    torch.testing.assert_close(landed[:, 1], uv[:, 1])


def test_yaw_lands_alike_at_every_depth() -> None:
    path = look_around(at_origin(640, 352), degrees=math.degrees(0.1), frames=2)
    uv = pixels(path)
    at = [warp_pixels(uv, torch.full((len(uv),), d).double(), **between(path))[0] for d in (4.0, 17.0)]
    torch.testing.assert_close(at[0], at[1], atol=1e-9, rtol=0)
    centre = warp_pixels(torch.tensor([[320.0, 176]]).double(), torch.ones(1).double(), **between(path))[0]
    assert float(centre[0, 0]) == pytest.approx(320 - 300 * math.tan(0.1)), "turning right moves the picture left"


def test_g4_nothing_is_clamped_into_view() -> None:
    path = dolly(at_origin(), 5.0, frames=2)
    landed, z = warp_pixels(
        torch.tensor([[1.0, 1], [24, 16]]).double(), torch.tensor([4.0, 5.5]).double(), **between(path)
    )
    assert z.tolist() == pytest.approx([-1, 0.5])
    assert not bool(in_image(landed[:1], 48, 32)) or float(z[0]) < 0
    splat = forward_splat(torch.ones(1, 32, 48).double(), torch.full((32, 48), 4.0).double(), **between(path))
    assert not splat.covered.any() and not splat.depth.any() and not splat.values.any()
    sideways = move(at_origin(), (100.0, 0, 0), frames=2)
    assert not forward_splat(
        torch.ones(1, 32, 48).double(), torch.full((32, 48), 4.0).double(), **between(sideways)
    ).covered.any()


@given(st.integers(0, 10**6), st.floats(0.01, 100))
def test_g5_the_world_frame_and_its_unit_do_not_matter(seed: int, unit: float) -> None:
    rng = torch.Generator().manual_seed(seed)
    cameras = random_cameras(2, rng)
    gauge = se3.make_transform(random_rotations(1, rng)[0], torch.randn(3, generator=rng, dtype=torch.float64))
    uv, depth = pixels(cameras), random_depth(rng, 48 * 32)
    landed, z = warp_pixels(uv, depth, **between(cameras))
    moved, z_moved = warp_pixels(uv, unit * depth, **between(cameras.recentred(gauge).scaled(unit)))
    near = z > 0.1
    torch.testing.assert_close(moved[near], landed[near], atol=1e-8, rtol=1e-10)
    torch.testing.assert_close(z_moved, unit * z, atol=1e-9 * unit, rtol=1e-10)


def test_g5_control_scaling_only_the_cameras_changes_the_landing(rng: torch.Generator) -> None:
    cameras = random_cameras(2, rng)
    uv, depth = pixels(cameras), random_depth(rng, 48 * 32)
    landed, _ = warp_pixels(uv, depth, **between(cameras))
    wrong, _ = warp_pixels(uv, depth, **between(cameras.scaled(1.1)))
    assert float((wrong - landed).abs().max()) > 0.1


@given(st.integers(0, 10**6))
def test_g6_there_and_back_is_the_identity(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    cameras = random_cameras(2, rng)
    uv, depth = pixels(cameras), random_depth(rng, 48 * 32)
    there, z = warp_pixels(uv, depth, **between(cameras, 0, 1))
    back, z_back = warp_pixels(there, z, **between(cameras, 1, 0))
    near = z.abs() > 0.1
    torch.testing.assert_close(back[near], uv[near], atol=1e-9, rtol=0)
    torch.testing.assert_close(z_back[near], depth[near], atol=1e-9, rtol=0)


# Order of the z-buffer


def test_z_buffer_keeps_the_nearest_and_leaves_holes_infinite() -> None:
    found = z_buffer(torch.tensor([2, 0, 2, 2]), torch.tensor([5.0, 1, 3, 4]), 4)
    assert found.tolist() == [1, math.inf, 3, math.inf]


@pytest.mark.parametrize(
    ("tolerance", "expected"),
    [(0.0, 1), (0.1, 2)],
    ids=["nearest surface first", "within the tolerance the best landing"],
)
def test_ties_are_broken_in_order(tolerance: float, expected: int) -> None:
    cell = torch.zeros(5, dtype=torch.int64)
    depth = torch.tensor([9.0, 4.0, 4.1, 4.1, 4.2])
    distance = torch.tensor([0.0, 0.3, 0.1, 0.1, 0.1])
    assert nearest_points(cell, depth, distance, 1, tolerance=tolerance).tolist() == [expected]


def test_among_equal_landings_the_smaller_depth_then_the_lower_index_wins() -> None:
    cell = torch.tensor([0, 0, 0, 1, 1])
    depth = torch.tensor([4.2, 4.1, 4.1, 4.0, 4.0])
    distance = torch.tensor([0.1, 0.1, 0.1, 0.2, 0.2])
    assert nearest_points(cell, depth, distance, 3, tolerance=0.1).tolist() == [1, 3, -1]


@given(st.integers(0, 10**6))
def test_the_order_of_points_decides_only_exact_ties(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    n = 200
    cell = torch.randint(0, 20, (n,), generator=rng)
    depth, distance = (torch.rand(n, generator=rng) + 1 for _ in range(2))
    order = torch.randperm(n, generator=rng)
    found = nearest_points(cell, depth, distance, 20, tolerance=0.2)
    shuffled = nearest_points(cell[order], depth[order], distance[order], 20, tolerance=0.2)
    hit = found >= 0
    assert torch.equal(hit, shuffled >= 0)
    assert torch.equal(order[shuffled[hit]], found[hit])


def test_g30_a_near_wall_hides_what_is_behind_it() -> None:
    start = at_origin(16, 16, f=16)
    cameras = Cameras.cat([start, dolly(start, -1.0, frames=2)[-1]])
    depth = torch.full((16, 16), 10.0).double()
    depth[:, ::2] = 2.0  # seen from further back, wall and object land in the same pixels
    splat = forward_splat(depth[None], depth, **between(cameras))
    seen = splat.values[0][splat.covered]
    both = warp_pixels(pixels(start), depth.flatten(), **between(cameras))[0].floor()
    walls = {tuple(uv) for uv, d in zip(both.tolist(), depth.flatten().tolist(), strict=True) if d == 2}
    for row in range(16):
        for col in range(16):
            if (float(col), float(row)) in walls:
                assert float(splat.values[0, row, col]) == 2
    assert 2 in seen and 10 in seen


def test_what_is_nearer_than_the_near_plane_is_not_drawn() -> None:
    depth = torch.full((32, 48), 4.0).double()
    depth[3, 5] = 7.0
    splat = forward_splat(depth[None], depth, **between(at_origin(), 0, 0), near=4.0)
    assert splat.covered.nonzero().tolist() == [[3, 5]]


def test_unknown_depth_draws_nothing(rng: torch.Generator) -> None:
    cameras = random_cameras(1, rng)
    depth = random_depth(rng, 32, 48)
    for k, bad in enumerate((0.0, -1.0, math.nan, math.inf)):
        depth[0, k] = bad
    splat = forward_splat(torch.ones(1, 32, 48), depth, **between(cameras, 0, 0))
    assert splat.covered[0, :4].tolist() == [False] * 4 and int(splat.covered.sum()) == 48 * 32 - 4
    assert bool(splat.depth.isfinite().all())


# Twins


@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.05, 0.3]))
def test_forward_splat_equals_its_slow_twin(seed: int, tolerance: float) -> None:
    rng = torch.Generator().manual_seed(seed)
    cameras = random_cameras(2, rng, width=12, height=8)
    depth = random_depth(rng, 8, 12)
    depth[torch.rand(8, 12, generator=rng) < 0.1] = 0
    arguments = {**between(cameras), "size": (14, 9), "tolerance": tolerance}
    splat = forward_splat(depth[None], depth, **arguments)
    expected = reference.forward_splat_source(depth, **arguments)
    assert torch.equal(splat.source, expected)
    assert torch.equal(splat.values[0][splat.covered], depth.flatten()[expected[splat.covered]])


@given(st.integers(0, 10**6))
def test_warp_equals_its_slow_twin(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    cameras = random_cameras(2, rng)
    uv, depth = 40 * torch.rand(6, 2, generator=rng, dtype=torch.float64), random_depth(rng, 6)
    landed, z = warp_pixels(uv, depth, **between(cameras))
    for k in range(6):
        K_src, K_tgt, tgt_from_src = (m.tolist() for m in between(cameras).values())
        expected = reference.warp_pixel(float(uv[k, 0]), float(uv[k, 1]), float(depth[k]), K_src, K_tgt, tgt_from_src)
        assert [*landed[k].tolist(), float(z[k])] == pytest.approx(expected, rel=1e-9)


@given(st.integers(0, 10**6))
def test_gather_equals_its_slow_twin(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    values, depth = torch.rand(2, 5, 7, generator=rng, dtype=torch.float64), random_depth(rng, 5, 7)
    depth[torch.rand(5, 7, generator=rng) < 0.2] = 0
    xy = torch.rand(40, 2, generator=rng, dtype=torch.float64) * torch.tensor([9.0, 7]).double() - 1.5
    expected_depth = random_depth(rng, 40)
    read, good = backward_gather(values, xy, depth_src=depth, depth=expected_depth, tolerance=0.5)
    for k in range(40):
        slow = reference.gather_one(
            values, *xy[k].tolist(), depth_src=depth, depth=float(expected_depth[k]), tolerance=0.5
        )
        assert bool(good[k]) == (slow is not None)
        assert read[:, k].tolist() == pytest.approx(slow or [0, 0])


# The way back


@given(st.integers(0, 10**6))
def test_inverse_grid_undoes_the_warp(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    cameras = random_cameras(2, rng)
    depth = random_depth(rng, 32, 48)
    step = between(cameras)
    uv, z = inverse_grid(depth, K_src=step["K_tgt"], K_tgt=step["K_src"], src_from_tgt=step["tgt_from_src"])
    back, z_back = warp_pixels(uv.flatten(0, 1), z.flatten(), **between(cameras, 1, 0))
    near = z.flatten().abs() > 0.1
    torch.testing.assert_close(back[near], pixels(cameras)[near], atol=1e-8, rtol=0)
    torch.testing.assert_close(z_back[near], depth.flatten()[near])


@given(st.integers(0, 10**6))
def test_taps_are_those_of_grid_sample(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    h, w = 5, 7
    values = torch.rand(3, h, w, generator=rng, dtype=torch.float64)
    xy = torch.rand(60, 2, generator=rng, dtype=torch.float64) * torch.tensor([w + 4.0, h + 4.0]).double() - 2.5
    index, weight = bilinear_taps(xy, w, h)
    ours = (values.flatten(1)[:, index] * weight).sum(-1)
    grid = (2 * (xy + 0.5) / torch.tensor([w, h]).double() - 1)[None, None]
    theirs = torch.nn.functional.grid_sample(values[None], grid, "bilinear", "zeros", align_corners=False)
    torch.testing.assert_close(ours, theirs[0, :, 0], atol=1e-12, rtol=0)


def test_taps_at_places_that_are_no_numbers_weigh_nothing() -> None:
    index, weight = bilinear_taps(torch.tensor([[math.nan, 1.0], [math.inf, 0.0]]), 4, 4)
    assert index.sum() == 0 and weight.sum() == 0


def test_a_gather_does_not_mix_surfaces_across_an_edge() -> None:
    depth = torch.tensor([[2.0, 10.0]])
    values = torch.tensor([[[1.0, -1.0]]])
    xy, expected = torch.tensor([[0.4, 0.0], [0.6, 0.0], [0.4, 0.0]]), torch.tensor([2.0, 10.0, 5.0])
    read, good = backward_gather(values, xy, depth_src=depth, depth=expected)
    assert good.tolist() == [True, True, False]
    assert read[0].tolist() == [1, -1, 0]
    blind, _ = backward_gather(values, xy, depth_src=depth, depth=expected, tolerance=100)
    assert blind[0, 0] == pytest.approx(0.2), "without the test of depths the edge is smeared"


def test_an_unknown_tap_never_counts_however_wide_the_tolerance() -> None:
    values, depth = torch.tensor([[[1.0, -1.0]]]), torch.tensor([[2.0, 0.0]])
    read, good = backward_gather(
        values, torch.tensor([[0.4, 0.0]]), depth_src=depth, depth=torch.tensor([2.0]), tolerance=100
    )
    assert good.tolist() == [True] and read.tolist() == [[1]]


# Gradients


def test_gradients_of_the_warp(rng: torch.Generator) -> None:
    cameras = random_cameras(2, rng)
    step = between(cameras)
    uv = (30 * torch.rand(3, 2, generator=rng, dtype=torch.float64)).requires_grad_()
    depth = random_depth(rng, 3).requires_grad_()
    transform = step["tgt_from_src"].clone().requires_grad_()

    def warp(uv: torch.Tensor, depth: torch.Tensor, transform: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return warp_pixels(uv, depth, K_src=step["K_src"], K_tgt=step["K_tgt"], tgt_from_src=transform)

    assert torch.autograd.gradcheck(warp, (uv, depth, transform))


def test_gradients_of_the_gather(rng: torch.Generator) -> None:
    values = torch.rand(2, 4, 4, generator=rng, dtype=torch.float64, requires_grad=True)
    xy = (0.3 + 2 * torch.rand(5, 2, generator=rng, dtype=torch.float64)).requires_grad_()
    flat = torch.full((4, 4), 3.0).double()

    def read(values: torch.Tensor, xy: torch.Tensor) -> torch.Tensor:
        return backward_gather(values, xy, depth_src=flat, depth=torch.full((5,), 3.0).double())[0]

    assert torch.autograd.gradcheck(read, (values, xy))


def test_gradients_of_the_splat_reach_the_pixels_that_are_seen(rng: torch.Generator) -> None:
    cameras = random_cameras(2, rng, width=12, height=8)
    picture = torch.rand(3, 8, 12, generator=rng, dtype=torch.float64, requires_grad=True)
    depth = random_depth(rng, 8, 12).requires_grad_()
    splat = forward_splat(picture, depth, **between(cameras))
    (splat.values.sum() + splat.depth.sum()).backward()
    seen = torch.zeros(96).index_add_(0, splat.source[splat.covered], torch.ones(int(splat.covered.sum())))
    assert picture.grad is not None and depth.grad is not None
    assert torch.equal(picture.grad.flatten(1)[0].float(), seen)
    assert torch.equal(depth.grad.flatten() != 0, seen > 0)
