"""Trajectory errors against closed forms, invariances, and one published number."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.helpers import random_rotations, shared_data

from mosaicmem.errors import ConfigError, GeometryError
from mosaicmem.evaluation.camera_metrics import camera_errors, umeyama
from mosaicmem.geometry import se3
from mosaicmem.io.trajectories import read_trajectory

ALIGNMENTS = ("first+lsq", "first+selfmax", "se3", "sim3")


def walk(seed: int, n: int = 12) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    steps = torch.randn(n, 3, generator=rng, dtype=torch.float64)
    return se3.make_transform(random_rotations(n, rng), steps.cumsum(0))


def rigid(seed: int) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    return se3.make_transform(random_rotations(1, rng)[0], torch.randn(3, generator=rng, dtype=torch.float64))


@pytest.mark.parametrize("alignment", ALIGNMENTS)
@given(seed=st.integers(0, 99))
def test_the_same_walk_in_another_world_frame_has_no_error(alignment, seed):
    found = camera_errors(rigid(seed + 1) @ walk(seed), walk(seed), alignment=alignment).compute()
    for key in ("rotation_mean_degrees", "translation_sum", "cammc", "ate", "relative_1_translation"):
        assert found[key] == pytest.approx(0, abs=1e-6), key


@pytest.mark.parametrize("alignment", ALIGNMENTS)
def test_only_se3_sees_another_unit(alignment):
    gen = walk(3)
    gen[:, :3, 3] *= 3
    error = camera_errors(gen, walk(3), alignment=alignment).compute()["translation_sum"]
    assert (error > 1) if alignment == "se3" else error == pytest.approx(0, abs=1e-9)


@given(seed=st.integers(0, 99), degrees=st.floats(1e-5, 180))
def test_one_frame_turned_by_an_angle_gives_the_angle_and_its_cammc(seed, degrees):
    rng = torch.Generator().manual_seed(seed)
    gen = walk(seed)
    angle = torch.tensor(math.radians(degrees), dtype=torch.float64)
    gen[5, :3, :3] = gen[5, :3, :3] @ se3.axis_angle(torch.randn(3, generator=rng, dtype=torch.float64), angle)
    found = camera_errors(gen, walk(seed))
    assert float(found.rotation_degrees[5]) == pytest.approx(degrees, abs=1e-6)
    assert found.compute()["rotation_sum_radians"] == pytest.approx(math.radians(degrees), abs=1e-6)
    assert float(found.cammc[5]) == pytest.approx(2 * 2**0.5 * math.sin(math.radians(degrees) / 2), abs=1e-7)
    assert found.compute()["cammc"] == pytest.approx(float(found.cammc[5]), abs=1e-7)


def test_lsq_and_selfmax_by_hand():
    def line(*x: float) -> torch.Tensor:
        poses = torch.eye(4, dtype=torch.float64).repeat(len(x), 1, 1)
        poses[:, 0, 3] = torch.tensor(x, dtype=torch.float64)
        return poses

    found = camera_errors(line(0, 1, 4), line(0, 1, 2), alignment="first+selfmax")
    assert found.translation.tolist() == pytest.approx([0, 0.25, 0])
    c = (1 + 8) / (1 + 16)
    found = camera_errors(line(0, 1, 4), line(0, 1, 2), alignment="first+lsq")
    assert found.scale == pytest.approx(c)
    assert found.translation.tolist() == pytest.approx([0, (1 - c) / 2, (4 * c - 2) / 2])
    backwards = camera_errors(line(0, -1, -2), line(0, 1, 2))
    frozen = camera_errors(line(0, 0, 0), line(0, 1, 2))
    assert backwards.translation.tolist() == frozen.translation.tolist() == [0, 0.5, 1]
    assert camera_errors(line(0, 1, 2), line(0, 2, 4), alignment="se3").rotation_degrees.isnan().all()


def test_a_tripled_frame_upsets_selfmax_more_than_lsq():
    n = 81
    poses = torch.eye(4, dtype=torch.float64).repeat(n, 1, 1)
    poses[:, 2, 3] = torch.linspace(0, 4, n, dtype=torch.float64)
    gen = poses.clone()
    gen[n - 1, :3, 3] *= 3
    sums = {
        a: camera_errors(gen, poses, alignment=a).compute()["translation_sum"] for a in ("first+selfmax", "first+lsq")
    }
    assert sums["first+selfmax"] > 3 * sums["first+lsq"]


def test_a_pure_rotation_has_no_translation_error():
    poses = se3.make_transform(walk(2)[:, :3, :3], torch.zeros(12, 3, dtype=torch.float64))
    noisy = poses.clone()
    noisy[:, :3, 3] = 1e-3 * walk(4)[:, :3, 3]
    for alignment in ("first+lsq", "first+selfmax"):
        found = camera_errors(noisy, poses, alignment=alignment, scene_scale=3.0).compute()
        assert math.isnan(found["translation_mean"])
        assert math.isnan(found["cammc"])
        assert found["rotation_mean_degrees"] == pytest.approx(0, abs=1e-6)
    small = walk(2)
    small[:, :3, 3] *= 1e-3
    assert camera_errors(small, small, scene_scale=1e-3).compute()["translation_mean"] == pytest.approx(0, abs=1e-9)


def test_failures_are_counted_and_left_out_of_everything_else():
    gen = walk(6)
    gen[4] = math.nan
    failed = torch.arange(12) == 4
    found = camera_errors(gen, walk(6), failed=failed, deltas=(1,))
    values = found.compute()
    assert values["failures"] == 1
    assert values["rotation_mean_degrees"] == pytest.approx(0, abs=1e-6)
    assert values["rotation_mean_degrees_failures_180"] == pytest.approx(15)
    assert found.relative[0].pairs == 9
    nothing = camera_errors(gen, walk(6), failed=torch.ones(12, dtype=torch.bool)).compute()
    assert nothing["rotation_mean_degrees_failures_180"] == 180
    assert math.isnan(nothing["rotation_mean_degrees"])
    first = camera_errors(gen.roll(-4, 0), walk(6).roll(-4, 0), failed=torch.arange(12) == 0).compute()
    assert first["translation_sum"] == pytest.approx(0, abs=1e-9)


def test_a_constant_drift_does_not_accumulate_in_relative_errors():
    n, turn = 30, math.radians(0.5)
    axis = torch.tensor([0, 1.0, 0], dtype=torch.float64)
    R = se3.axis_angle(axis.expand(n, 3), turn * torch.arange(n, dtype=torch.float64))
    gen = se3.make_transform(R, torch.zeros(n, 3, dtype=torch.float64))
    found = camera_errors(gen, torch.eye(4, dtype=torch.float64).repeat(n, 1, 1)).compute()
    assert found["relative_1_rotation_degrees"] == pytest.approx(0.5)
    assert found["relative_10_rotation_degrees"] == pytest.approx(5)
    assert found["rotation_mean_degrees"] == pytest.approx(0.5 * (n - 1) / 2)


@given(seed=st.integers(0, 50), s=st.floats(0.1, 10))
def test_umeyama_recovers_a_similarity_and_never_mirrors(seed, s):
    points, move = walk(seed)[:, :3, 3], rigid(seed)
    R, t, scale, unique = umeyama(points, s * points @ move[:3, :3].T + move[:3, 3], with_scale=True)
    torch.testing.assert_close(R, move[:3, :3])
    torch.testing.assert_close(t, move[:3, 3])
    assert scale == pytest.approx(s)
    assert unique
    R, *_ = umeyama(points, points * torch.tensor([-1.0, 1, 1], dtype=torch.float64), with_scale=False)
    assert float(torch.det(R)) == pytest.approx(1)


def test_poses_that_are_none_are_refused():
    mirrored = walk(0)
    mirrored[3, :3, 0] *= -1
    with pytest.raises(GeometryError, match="generated pose 3 is mirrored"):
        camera_errors(mirrored, walk(0))
    with pytest.raises(GeometryError, match="requested pose 2 holds no rotation"):
        camera_errors(walk(0), walk(0) * torch.where(torch.arange(12) == 2, 2.0, 1.0)[:, None, None])
    with pytest.raises(GeometryError, match="finite"):
        camera_errors(walk(0) * math.nan, walk(0))
    with pytest.raises(ConfigError, match="deltas"):
        camera_errors(walk(0), walk(0), deltas=(1, 0))


def test_tum_freiburg1_xyz_ate():
    folder = shared_data("tum")
    truth = read_trajectory(folder / "freiburg1_xyz-groundtruth.txt", format="tum")
    slam = read_trajectory(folder / "freiburg1_xyz-rgbdslam.txt", format="tum")
    gap = (slam.timestamps[:, None] - truth.timestamps[None]).abs()
    near, row = gap.min(1)
    pairs = near <= 0.01
    assert int(pairs.sum()) == 785
    gen, gt = se3.invert_rigid(slam.viewmats[pairs]), se3.invert_rigid(truth.viewmats[row[pairs]])
    assert camera_errors(gen, gt, alignment="se3").ate == pytest.approx(0.01347, abs=5e-6)
    assert camera_errors(gen, gt, alignment="sim3").ate < camera_errors(gen, gt, alignment="se3").ate
