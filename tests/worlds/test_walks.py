"""Walks: in free space, closed, smooth, forward through every doorway."""

import math

import pytest
import torch

from mosaicmem.errors import GeometryError
from mosaicmem.geometry.se3 import rotation_angle
from mosaicmem.worlds import make_scene

KINDS = ["there_and_back", "look_around", "loop"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(4))
def test_walks_stay_free_close_and_turn_smoothly(kind, seed):
    scene = make_scene(seed, rooms=1 + seed % 3)
    cameras = scene.walk(seed, 160, kind, width=32, height=24)
    assert len(cameras) == 160
    assert scene.is_free(cameras.centers.double(), 0.2).all()
    assert torch.allclose(cameras.viewmats[0], cameras.viewmats[-1], atol=1e-4)
    turn = rotation_angle(cameras.viewmats[1:, :3, :3], cameras.viewmats[:-1, :3, :3])
    step = cameras.centers.diff(dim=0).norm(dim=-1)
    assert turn.max() < math.radians(14) and step.max() < 0.25
    assert (cameras.up[:, 1] < -0.9).all()  # upright


@pytest.mark.parametrize("seed", range(4))
def test_there_and_back_visits_every_room_and_walks_forward(seed):
    scene = make_scene(seed, rooms=3)
    cameras = scene.walk(seed, 200)
    x = cameras.centers[:, 0].double()
    for lo, hi in zip(scene.room_lo[:, 0], scene.room_hi[:, 0]):
        assert ((x > lo) & (x < hi)).any()
    step = cameras.centers.diff(dim=0)
    moving = step.norm(dim=-1) > 0.02
    ahead = (torch.nn.functional.normalize(step, dim=-1) * cameras.forward[:-1]).sum(-1)
    assert ahead[moving].min() > 0.7


def test_look_around_sees_all_sides_from_one_spot():
    cameras = make_scene(1).walk(0, 36, "look_around")
    assert cameras.centers.std(0).max() < 1e-6
    yaw = torch.atan2(cameras.forward[:, 0], cameras.forward[:, 2])
    assert (yaw.cos().min() < -0.9) and (yaw.cos().max() > 0.9) and (yaw.sin().min() < -0.9)


def test_the_seed_chooses_the_walk():
    scene = make_scene(0)
    same = [scene.walk(3, 8, "loop").viewmats for _ in range(2)]
    assert torch.equal(*same)
    assert not torch.allclose(same[0], scene.walk(4, 8, "loop").viewmats)


@pytest.mark.parametrize("seed", range(3))
def test_random_cameras_are_free_and_have_a_view(seed):
    scene = make_scene(seed, rooms=2)
    cameras = scene.random_cameras(24, torch.Generator().manual_seed(seed), 16, 12)
    assert scene.is_free(cameras.centers.double(), 0.3).all()
    assert (scene.cast(cameras.centers, cameras.forward).t > 1.4).all()
    assert torch.allclose(cameras.fov_degrees[:, 0], torch.tensor(70.0))
    other = scene.random_cameras(24, torch.Generator().manual_seed(seed + 9), 16, 12)
    assert not torch.equal(cameras.viewmats, other.viewmats)


def test_impossible_walks_are_explained():
    scene = make_scene(0)
    with pytest.raises(GeometryError, match="at least 2"):
        scene.walk(0, 1)
