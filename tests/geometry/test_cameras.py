"""`Cameras` and `look_at`: what is accepted, what is refused and in which words, and what indexing means."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import TypeCheckError
from tests.helpers import circle32, random_cameras, random_rotations

from mosaicmem.errors import GeometryError
from mosaicmem.geometry import se3
from mosaicmem.geometry.cameras import Cameras, _problem, look_at

WITNESS_V = torch.tensor([[[0.0, 0, -1, 3], [0, 1, 0, -2], [1, 0, 0, -1], [0, 0, 0, 1]]], dtype=torch.float64)
WITNESS_C = torch.tensor([[[0.0, 0, 1, 1], [0, 1, 0, 2], [-1, 0, 0, 3], [0, 0, 0, 1]]], dtype=torch.float64)


def identity(n: int = 1, width: int = 64, height: int = 48) -> Cameras:
    return Cameras.from_fov(torch.eye(4).repeat(n, 1, 1), width, height)


def test_the_witness_camera_of_the_conventions() -> None:
    cameras = Cameras.from_fov(WITNESS_V, 64, 64)
    torch.testing.assert_close(cameras.c2w, WITNESS_C, atol=0, rtol=0)
    assert cameras.centers.tolist() == [[1, 2, 3]]
    assert cameras.forward.tolist() == [[1, 0, 0]]
    assert cameras.right.tolist() == [[0, 0, -1]]
    assert cameras.up.tolist() == [[0, -1, 0]]
    points = torch.tensor([[[5.0, 2, 3], [5, 2, 2], [5, 3, 3], [0, 2, 3]]], dtype=torch.float64)
    uv, z, visible = cameras.project(points)
    torch.testing.assert_close(uv[0, :3], torch.tensor([[32.0, 32], [48, 32], [32, 48]], dtype=torch.float64))
    assert z[0].tolist() == [4, 4, 4, -1]
    assert visible[0].tolist() == [True, True, True, False]


def test_l06_constructors_say_what_they_take() -> None:
    K = Cameras.from_fov(WITNESS_V, 64, 64).Ks
    center_and_rotation = se3.make_transform(WITNESS_C[:, :3, :3], WITNESS_C[:, :3, 3])
    torch.testing.assert_close(Cameras.from_c2w(center_and_rotation, K, 64, 64).viewmats, WITNESS_V)


def test_g09_l05_default_field_of_view_is_that_of_f_equal_to_width() -> None:
    cameras = identity(1, 64, 64)
    assert float(cameras.Ks[0, 0, 0]) == pytest.approx(64)
    assert cameras.fov_degrees[0].tolist() == pytest.approx([53.130102, 53.130102], abs=1e-5)
    wide = Cameras.from_fov(torch.eye(4)[None], 64, 48, fov_degrees=90, axis="y")
    assert float(wide.Ks[0, 1, 1]) == pytest.approx(24) and float(wide.fov_degrees[0, 1]) == pytest.approx(90)


def test_g23_projection_matrix() -> None:
    K = torch.tensor([[[200.0, 0, 20], [0, 150, 10], [0, 0, 1]]])
    cameras = Cameras(se3.translation(torch.tensor([[1.0, 2, 3]])), K, 40, 20)
    expected = [[200, 0, 20, 260], [0, 150, 10, 330], [0, 0, 1, 3]]
    assert (cameras.Ks @ cameras.viewmats[:, :3])[0].tolist() == expected


def test_g24_relative_transform_is_free_of_the_world(rng: torch.Generator) -> None:
    yaw = se3.axis_angle(torch.tensor([[0.0, 1, 0]]), torch.tensor([math.pi / 2]))
    pair = Cameras.from_fov(
        torch.cat([torch.eye(4)[None], se3.make_transform(yaw, torch.zeros(1, 3))]).double(), 64, 64
    )
    expected = torch.tensor([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]], dtype=torch.float64)
    torch.testing.assert_close(pair.relative_to(0)[1, :3, :3], expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(pair.relative_to(1)[1], torch.eye(4, dtype=torch.float64))
    moved = pair.recentred(se3.make_transform(random_rotations(1, rng)[0], torch.tensor([1.0, -2, 3]).double()))
    torch.testing.assert_close(moved.relative_to(0), pair.relative_to(0), atol=1e-6, rtol=0)


@given(st.integers(0, 10**6))
def test_recentring_puts_the_first_camera_at_the_origin_and_keeps_pictures(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    cameras = random_cameras(4, rng)
    points = torch.randn(4, 6, 3, generator=rng, dtype=torch.float64) + torch.tensor([0, 0, 8.0]).double()
    recentred = cameras.recentred()
    torch.testing.assert_close(recentred.viewmats[0], torch.eye(4, dtype=torch.float64))
    new_world = se3.transform_points(cameras.viewmats[:1], points)
    for a, b in zip(cameras.project(points), recentred.project(new_world), strict=True):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-9)


def test_scaling_the_world_scales_depths_only(rng: torch.Generator) -> None:
    cameras = random_cameras(3, rng)
    points = torch.randn(3, 5, 3, generator=rng, dtype=torch.float64) + torch.tensor([0, 0, 8.0]).double()
    uv, z, _ = cameras.project(points)
    uv_scaled, z_scaled, _ = cameras.scaled(7.3).project(7.3 * points)
    torch.testing.assert_close(uv_scaled, uv)
    torch.testing.assert_close(z_scaled, 7.3 * z)


def test_resizing_scales_pixels_exactly(rng: torch.Generator) -> None:
    cameras = random_cameras(3, rng, width=48, height=32)
    points = torch.randn(3, 5, 3, generator=rng, dtype=torch.float64) + torch.tensor([0, 0, 8.0]).double()
    scale = torch.tensor([96 / 48, 16 / 32], dtype=torch.float64)
    torch.testing.assert_close(cameras.resized(96, 16).project(points)[0], cameras.project(points)[0] * scale)
    torch.testing.assert_close(cameras.resized(96, 16).fov_degrees, cameras.fov_degrees)


def test_path_length_of_a_straight_walk() -> None:
    t = torch.zeros(5, 3)
    t[:, 0] = torch.arange(5) * 0.5
    assert Cameras.from_fov(se3.translation(-t), 64, 64).path_length() == pytest.approx(2.0)
    assert identity(1).path_length() == 0


# Indexing


@pytest.mark.parametrize("index", [3, np.int64(3), torch.tensor(3), -29, np.int32(-29)])
def test_an_integer_gives_a_sequence_of_one(index: object) -> None:
    cameras = circle32()
    one = cameras[index]  # pyright: ignore[reportArgumentType]
    assert len(one) == 1
    assert torch.equal(one.viewmats[0], cameras.viewmats[3])


@pytest.mark.parametrize(
    "index",
    [slice(1, 6, 2), [1, 3, 5], (1, 3, 5), range(1, 6, 2), np.array([1, 3, 5]), torch.tensor([1, 3, -27])],
)
def test_slices_and_indices_select_like_a_list(index: object) -> None:
    cameras = circle32()
    chosen = cameras[index]  # pyright: ignore[reportArgumentType]
    assert torch.equal(chosen.viewmats, torch.stack([cameras.viewmats[i] for i in (1, 3, 5)]))
    assert len(chosen.Ks) == 3


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
def test_a_mask_selects_its_true_entries(kind: type) -> None:
    mask = [False] * 32
    mask[4] = mask[31] = True
    cameras = circle32()
    assert torch.equal(cameras[kind(mask)].viewmats, cameras.viewmats[[4, 31]])


def test_empty_selections_are_empty() -> None:
    assert len(circle32()[[]]) == len(circle32()[5:5]) == len(circle32()[[False] * 32]) == 0


@pytest.mark.parametrize("index", [32, -33, [0, 32], torch.tensor([-33]), True, [True, False], 1.5, [[1, 2]]])
def test_an_index_that_does_not_exist_is_an_index_error(index: object) -> None:
    with pytest.raises((IndexError, TypeError)):
        circle32()[index]  # pyright: ignore[reportArgumentType]


def test_iteration_visits_every_camera_once() -> None:
    cameras = circle32()[:5]
    assert torch.equal(Cameras.cat(list(cameras)).viewmats, cameras.viewmats)


# look_at


@given(st.integers(0, 10**6))
def test_look_at_puts_the_target_in_the_centre_and_up_upwards(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    eye, target, up = torch.randn(3, 1, 3, generator=rng, dtype=torch.float64)
    cameras = Cameras.from_fov(look_at(eye, target, up), 64, 64)
    uv, z, _ = cameras.project(target[None])
    torch.testing.assert_close(uv[0, 0], torch.tensor([32.0, 32], dtype=torch.float64))
    torch.testing.assert_close(z[0, 0], (target - eye).norm())
    torch.testing.assert_close(cameras.centers, eye)
    raised = cameras.project((target + 1e-3 * up)[None])[0]
    assert float(raised[0, 0, 1]) < 32


def test_l07_pictures_are_upright() -> None:
    camera = Cameras.from_fov(look_at(*torch.tensor([[[0.0, 1, 5]], [[0, 1, 0]], [[0, 1, 0]]])), 64, 64)
    uv, _, _ = camera.project(torch.tensor([[[0.0, 2, 0], [1, 1, 0]]]))
    assert float(uv[0, 0, 1]) < 32, "what is above the target belongs in the upper half"
    assert float(uv[0, 1, 0]) > 32, "seen from +z with y up, +x is to the right"


@pytest.mark.parametrize("target", [[0.0, 1, 0], [0.0, -1, 0], [0.0, 1, 1e-9]])
def test_look_at_the_poles_is_still_a_camera(target: list[float]) -> None:
    for dtype in (torch.float32, torch.float64):
        eye, up = torch.zeros(1, 3, dtype=dtype), torch.tensor([[0.0, 1, 0]], dtype=dtype)
        cameras = Cameras.from_fov(look_at(eye, torch.tensor([target], dtype=dtype), up), 8, 8)
        assert float(cameras.forward[0, 1]) == pytest.approx(target[1])


def test_look_at_behind_is_a_half_turn_not_a_flip() -> None:
    eye, up = torch.zeros(1, 3), torch.tensor([[0.0, -1, 0]])
    ahead = look_at(eye, torch.tensor([[0.0, 0, 1]]), up)
    behind = look_at(eye, torch.tensor([[0.0, 0, -1]]), up)
    torch.testing.assert_close(ahead, torch.eye(4)[None])
    torch.testing.assert_close(behind, torch.diag(torch.tensor([-1.0, 1, -1, 1]))[None])


def test_look_at_broadcasts_one_target_over_many_eyes() -> None:
    eyes = torch.tensor([[1.0, 0, 0], [0, 0, 2]])
    assert look_at(eyes, torch.zeros(3), torch.tensor([0.0, 1, 0])).shape == (2, 4, 4)


# Errors, word for word


def bad_viewmat(row: int, column: int, value: float) -> Cameras:
    viewmats = torch.eye(4).repeat(2, 1, 1)
    viewmats[1, row, column] = value
    return Cameras.from_fov(viewmats, 64, 64)


def bad_K(row: int, column: int, value: float) -> Cameras:
    Ks = identity(2).Ks.clone()
    Ks[1, row, column] = value
    return Cameras(torch.eye(4).repeat(2, 1, 1), Ks, 64, 64)


ERRORS = {
    "image size 0x64 is empty; expected at least 1x1 pixels": lambda: identity().resized(0, 64),
    "view matrices or intrinsics contain NaN or infinity": lambda: bad_viewmat(0, 3, math.nan),
    "view matrix 1 holds no rotation: |R R^T - 1| = 3, expected below 1e-3; is there a scale in it, or is it "
    "transposed?": lambda: bad_viewmat(0, 0, 2),
    "view matrix 1 is mirrored (determinant -1): it comes from a left-handed source": lambda: bad_viewmat(1, 1, -1),
    "the last row of a view matrix is not 0 0 0 1; is the matrix transposed?": lambda: bad_viewmat(3, 0, 2),
    "a focal length is not positive; expected fx > 0 and fy > 0, in pixels": lambda: bad_K(1, 1, 0),
    "intrinsics are not of the form [[fx, 0, cx], [0, fy, cy], [0, 0, 1]]; skew is not supported": lambda: bad_K(
        0, 1, 0.5
    ),
    "scale factor -1 is no change of unit; expected a finite number above 0": lambda: identity().scaled(-1),
    "cameras of one sequence must share an image size, got [(32, 32), (64, 48)]; use .resized()": lambda: Cameras.cat(
        [identity(), identity(1, 32, 32)]
    ),
    "Cameras.cat got no cameras; expected at least one sequence": lambda: Cameras.cat([]),
    "field of view 180 degrees; a pinhole camera needs one above 0 and below 180": lambda: Cameras.from_fov(
        torch.eye(4)[None], 8, 8, 180
    ),
    "look_at: eye and target coincide, so there is no direction to look in": lambda: look_at(
        torch.ones(1, 3), torch.ones(1, 3), torch.ones(1, 3)
    ),
}


@pytest.mark.parametrize("message", ERRORS)
def test_l01_impossible_cameras_are_refused_in_these_words(message: str) -> None:
    with pytest.raises(GeometryError) as caught:
        ERRORS[message]()
    assert str(caught.value) == message


@pytest.mark.parametrize(("row", "column"), [(0, 3), (3, 3), (2, 1)])
@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_no_number_that_is_not_finite_gets_in(row: int, column: int, value: float) -> None:
    with pytest.raises(GeometryError):
        bad_viewmat(row, column, value)


def test_rotations_rounded_to_float32_and_half_are_accepted(rng: torch.Generator) -> None:
    R = random_rotations(50, rng).half().float()
    Cameras.from_fov(se3.make_transform(R, torch.zeros(50, 3)), 64, 64)


def test_shapes_are_checked_at_the_door_of_every_test_run() -> None:
    with pytest.raises(TypeCheckError):
        Cameras(torch.eye(4), identity().Ks, 64, 64)


def test_shapes_are_refused_without_the_checker_too() -> None:
    one, K = torch.eye(4), identity().Ks
    assert _problem(one, K, 8, 8) == "viewmats [4, 4] and Ks [1, 3, 3]; expected [n, 4, 4] and [n, 3, 3]"
    assert _problem(one.repeat(2, 1, 1), K, 8, 8) == "2 view matrices but 1 intrinsics; expected one K per camera"
