"""Rigid transforms, angles that hold at both ends, quaternions and slerp."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.helpers import random_rotations

from mosaicmem.geometry import se3

AXIS = torch.tensor([0.3, -0.5, 0.8], dtype=torch.float64)


def turn(angle: float, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return se3.axis_angle(AXIS, torch.tensor(angle, dtype=torch.float64)).to(dtype)


def arccos_angle(R_a: torch.Tensor, R_b: torch.Tensor) -> torch.Tensor:
    """The textbook formula, which float32 breaks at both ends."""
    return (((R_a * R_b).sum() - 1) / 2).clamp(-1, 1).acos()


def test_a_product_of_transforms_cancels_the_inner_name(rng: torch.Generator) -> None:
    R, t = random_rotations(2, rng), torch.randn(2, 3, generator=rng, dtype=torch.float64)
    b_from_a, c_from_b = se3.make_transform(R, t)
    points = torch.randn(5, 3, generator=rng, dtype=torch.float64)
    stepwise = se3.transform_points(c_from_b, se3.transform_points(b_from_a, points))
    torch.testing.assert_close(se3.transform_points(c_from_b @ b_from_a, points), stepwise)
    assert not torch.allclose(se3.transform_points(b_from_a @ c_from_b, points), stepwise)


def test_the_closed_form_inverse_is_the_inverse(rng: torch.Generator) -> None:
    T = se3.make_transform(random_rotations(20, rng), torch.randn(20, 3, generator=rng, dtype=torch.float64))
    torch.testing.assert_close(se3.invert_rigid(T), torch.linalg.inv(T), atol=1e-13, rtol=0)


def test_translation_moves_points() -> None:
    moved = se3.transform_points(se3.translation(torch.tensor([1.0, 2, 3])), torch.zeros(1, 3))
    assert moved.tolist() == [[1, 2, 3]]


@pytest.mark.parametrize("angle", [0.0, 1e-6, 1e-4, 0.01, 0.5, math.pi / 2, 2.0, 3.0, math.pi - 1e-2, math.pi - 1e-4])
def test_angle_is_accurate_in_float32_from_0_to_pi(angle: float, rng: torch.Generator) -> None:
    base = random_rotations(1, rng)[0]
    measured = se3.rotation_angle(base.float(), (base @ turn(angle)).float())
    # an entry of a float32 rotation is only known to 6e-8
    assert abs(float(measured) - angle) < 6e-7


def test_angle_at_pi_and_for_equal_rotations() -> None:
    assert float(se3.rotation_angle(torch.eye(3), torch.eye(3))) == 0
    assert float(se3.rotation_angle(torch.eye(3), torch.diag(torch.tensor([1.0, -1, -1])))) == pytest.approx(math.pi)


@pytest.mark.parametrize("angle", [1e-4, math.pi - 1e-4])
def test_the_arccos_formula_fails_where_ours_holds(angle: float, rng: torch.Generator) -> None:
    bases = random_rotations(50, rng)
    wrong = [float(arccos_angle(base.float(), (base @ turn(angle)).float())) for base in bases]
    assert max(abs(a - angle) for a in wrong) > 5e-5


@given(st.floats(0, math.pi - 1e-3), st.integers(0, 10**6))
def test_angle_is_symmetric_and_independent_of_the_frame(angle: float, seed: int) -> None:
    base = random_rotations(2, torch.Generator().manual_seed(seed))
    a, b = base[0], base[0] @ turn(angle)
    for left, right in ((a, b), (b, a), (base[1] @ a, base[1] @ b), (a @ base[1], b @ base[1])):
        assert float(se3.rotation_angle(left, right)) == pytest.approx(angle, abs=1e-9)


def test_angle_has_finite_gradients_everywhere() -> None:
    for angle in (0.0, 0.5, 2.0, math.pi - 1e-3):
        R = turn(angle).requires_grad_()
        se3.rotation_angle(torch.eye(3, dtype=torch.float64), R).backward()
        assert R.grad is not None and bool(R.grad.isfinite().all())


def test_rotation_about_an_axis_is_right_handed() -> None:
    z, x = torch.tensor([0.0, 0, 1]), torch.tensor([1.0, 0, 0])
    R = se3.axis_angle(2 * z, torch.tensor(math.pi / 2))
    torch.testing.assert_close(R @ x, torch.tensor([0.0, 1, 0]), atol=1e-7, rtol=0)


@given(st.integers(0, 10**6))
def test_quaternions_and_rotations_are_the_same_thing(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    R = random_rotations(8, rng)
    q = se3.rotation_to_quat(R)
    assert bool((q[:, 0] >= 0).all())
    torch.testing.assert_close(q.norm(dim=-1), torch.ones(8, dtype=torch.float64))
    torch.testing.assert_close(se3.quat_to_rotation(q), R, atol=1e-12, rtol=0)
    torch.testing.assert_close(se3.quat_to_rotation(-3 * q), R, atol=1e-12, rtol=0)


@pytest.mark.parametrize("axis", [[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0], [1.0, 1, 0], [-1.0, 2, 3]])
@pytest.mark.parametrize("angle", [math.pi, math.pi - 1e-5, 0.0, 1e-5])
def test_quaternions_hold_at_half_turns_in_float32(axis: list[float], angle: float) -> None:
    R = se3.axis_angle(torch.tensor(axis, dtype=torch.float64), torch.tensor(angle, dtype=torch.float64)).float()
    torch.testing.assert_close(se3.quat_to_rotation(se3.rotation_to_quat(R)), R, atol=1e-6, rtol=0)


def test_witness_quaternion() -> None:
    s = 0.5**0.5
    yawed = torch.tensor([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]])
    torch.testing.assert_close(se3.rotation_to_quat(yawed), torch.tensor([s, 0, s, 0]))


@given(st.floats(0, 1), st.floats(1e-7, math.pi - 1e-2), st.booleans())
def test_slerp_turns_at_constant_speed_the_short_way(t: float, angle: float, flip: bool) -> None:
    q0 = se3.rotation_to_quat(turn(0.4))
    q1 = se3.rotation_to_quat(turn(0.4) @ turn(angle)) * (-1 if flip else 1)
    R = se3.quat_to_rotation(se3.slerp(q0, q1, torch.tensor(t, dtype=torch.float64)))
    torch.testing.assert_close(R, turn(0.4 + t * angle), atol=1e-9, rtol=0)


def test_nearest_rotation_undoes_noise_and_mirrors_and_keeps_rotations(rng: torch.Generator) -> None:
    R = random_rotations(10, rng)
    torch.testing.assert_close(se3.nearest_rotation(R), R)
    torch.testing.assert_close(se3.nearest_rotation(3.7 * R), R)
    noisy = R + 0.3 * torch.randn(10, 3, 3, generator=rng, dtype=torch.float64)
    found = se3.nearest_rotation(noisy)
    torch.testing.assert_close(torch.det(found), torch.ones(10, dtype=torch.float64))
    others = random_rotations(500, rng)
    best = (found - noisy).flatten(1).norm(dim=-1)
    assert bool((best <= (others[:, None] - noisy).flatten(2).norm(dim=-1).amin(0) + 1e-12).all())
    mirrored = se3.nearest_rotation(-R)
    torch.testing.assert_close(torch.det(mirrored), torch.ones(10, dtype=torch.float64))
