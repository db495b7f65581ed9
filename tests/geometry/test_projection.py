"""The pinhole camera: pixel centres, projection and its inverse, fields of view."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.helpers import random_cameras

from mosaicmem.errors import GeometryError
from mosaicmem.geometry.projection import (
    fov_to_focal,
    in_image,
    invert_intrinsics,
    pixel_centers,
    project,
    unproject,
)

K = torch.tensor([[200.0, 0, 20], [0, 150, 10], [0, 0, 1]])


def test_pixel_centres_are_at_a_half() -> None:
    uv = pixel_centers(3, 2)
    assert uv.shape == (2, 3, 2)
    assert uv[0, 0].tolist() == [0.5, 0.5] and uv[1, 2].tolist() == [2.5, 1.5]
    assert pixel_centers(2, 1, stride=16)[0, 1].tolist() == [24, 8]


def test_intrinsics_inverse_is_the_inverse() -> None:
    torch.testing.assert_close(invert_intrinsics(K), torch.linalg.inv(K))
    assert invert_intrinsics(K.expand(2, 5, 3, 3)).shape == (2, 5, 3, 3)


@given(st.integers(0, 10**6))
def test_projection_undoes_unprojection(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    cameras = random_cameras(3, rng)
    uv = 100 * torch.randn(3, 7, 2, generator=rng, dtype=torch.float64)
    depth = 0.1 + 10 * torch.rand(3, 7, generator=rng, dtype=torch.float64)
    again, z = project(unproject(uv, depth, cameras.Ks), cameras.Ks)
    torch.testing.assert_close(again, uv, atol=1e-9, rtol=0)
    torch.testing.assert_close(z, depth)
    world, z_world, _ = cameras.project(cameras.unproject(uv, depth))
    torch.testing.assert_close(world, uv, atol=1e-8, rtol=0)
    torch.testing.assert_close(z_world, depth)


def test_depth_is_along_the_axis_not_along_the_ray() -> None:
    corner = unproject(torch.tensor([[0.0, 0]]), torch.tensor([4.0]), K)[0]
    assert float(corner[2]) == 4 and float(corner.norm()) > 4


def test_nothing_is_clamped_behind_the_camera() -> None:
    uv, z = project(torch.tensor([[1.0, 0, -2], [1.0, 0, 0]]), K)
    assert z.tolist() == [-2, 0]
    assert uv[0, 0] == -200 / 2 + 20
    assert not bool(uv[1].isfinite().all())


def test_the_image_is_half_open() -> None:
    edge = torch.tensor([[0.0, 0], [6.4, 4.8], [7.999, 0], [8, 0], [0, 6], [-1e-6, 0], [math.nan, 0]])
    assert in_image(edge, 8, 6).tolist() == [True, True, True, False, False, False, False]


def test_gradients_of_projection_and_unprojection() -> None:
    points = torch.tensor([[0.3, -0.2, 2.0], [1.0, 1.0, -3.0]], dtype=torch.float64, requires_grad=True)
    Kd = K.double().requires_grad_()
    assert torch.autograd.gradcheck(project, (points, Kd))
    uv = torch.tensor([[3.0, 4.0]], dtype=torch.float64, requires_grad=True)
    depth = torch.tensor([2.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(unproject, (uv, depth, Kd))


def test_focal_length_of_a_field_of_view() -> None:
    assert fov_to_focal(90, 640) == pytest.approx(320)
    assert fov_to_focal(2 * math.degrees(math.atan(0.5)), 64) == pytest.approx(64)


@pytest.mark.parametrize("fov", [0, -10, 180, math.nan])
def test_an_impossible_field_of_view_is_refused(fov: float) -> None:
    with pytest.raises(GeometryError, match="a pinhole camera needs one above 0 and below 180"):
        fov_to_focal(fov, 64)
