"""Pose by alignment: known motions come back, and what shows another place is said to."""

import math

import pytest
import torch
from torch.nn import functional as F

from mosaicmem.errors import ConfigError, GeometryError
from mosaicmem.evaluation.camera_metrics import camera_errors
from mosaicmem.evaluation.photometric import reference_pyramid
from mosaicmem.evaluation.pose import PoseConfig, estimate_pose, estimate_poses, pose_floor
from mosaicmem.geometry import se3
from mosaicmem.geometry.cameras import Cameras
from mosaicmem.geometry.projection import pixel_centers, project
from mosaicmem.worlds import make_scene
from mosaicmem.worlds.film import film

SIZE = 128


def cases(n: int = 3, worlds: int = 4):
    """Requested cameras, their exact renderings, and frames filmed up to 6 degrees and 0.3 m beside them."""
    rng = torch.Generator().manual_seed(5)
    out = []
    for seed in range(worlds):
        scene = make_scene(seed, walls="vivid" if seed % 2 else "pale", texture="mixed" if seed % 2 else "smooth")
        cameras = scene.random_cameras(n, rng, SIZE, SIZE).to(dtype=torch.float64)
        angle = math.radians(6) * torch.rand(n, generator=rng, dtype=torch.float64)
        step = F.normalize(torch.randn(n, 3, generator=rng, dtype=torch.float64), dim=-1)
        step *= 0.3 * torch.rand(n, 1, generator=rng, dtype=torch.float64)
        moved = se3.make_transform(se3.axis_angle(torch.randn(n, 3, generator=rng, dtype=torch.float64), angle), step)
        truth = film(scene, cameras)
        frames = film(scene, Cameras(moved @ cameras.viewmats, cameras.Ks, SIZE, SIZE)).rgb
        out.append((frames, truth.rgb, truth.depth, cameras, moved))
    return tuple(torch.cat(part) if i != 3 else Cameras.cat(part) for i, part in enumerate(zip(*out)))


@pytest.fixture(scope="module")
def known():
    return cases()


def errors(found, cameras, moved):
    left = found.viewmats @ se3.invert_rigid(moved @ cameras.viewmats)
    eye = torch.eye(3, dtype=torch.float64).expand(len(left), 3, 3)
    judged = ~found.failed & ~found.unobservable
    return torch.rad2deg(se3.rotation_angle(left[:, :3, :3], eye))[judged], left[judged, :3, 3].norm(dim=-1)


def test_known_motions_come_back(known):
    frames, rgb, depth, cameras, moved = known
    found = estimate_poses(frames, rgb, depth, cameras)
    degrees, metres = errors(found, cameras, moved)
    assert len(degrees) >= 10
    assert float(degrees.median()) < 0.15
    assert float(metres.median()) < 0.02
    true_degrees = torch.rad2deg(se3.rotation_angle(moved[:, :3, :3], torch.eye(3).double().expand(12, 3, 3)))
    assert float((found.rotation_degrees - true_degrees).nan_to_num().abs().median()) < 0.15
    assert float(true_degrees.median()) > 2  # the requested pose is no answer
    torch.testing.assert_close(
        found.scene_units * torch.stack([z[z > 0].median() for z in depth]), found.metres, equal_nan=True
    )


def test_blur_noise_and_another_exposure_are_borne(known):
    frames, rgb, depth, cameras, moved = known
    rng = torch.Generator().manual_seed(0)
    x = torch.arange(-5, 6.0)
    kernel = torch.exp(-(x**2) / (2 * 1.5**2))
    kernel = (kernel / kernel.sum()).expand(3, 1, 1, -1)
    soft = F.conv2d(F.pad(frames, (5, 5, 5, 5), mode="replicate"), kernel, groups=3)
    soft = F.conv2d(soft, kernel.transpose(2, 3), groups=3)
    soft = 0.8 * soft + 0.1 + 0.05 * torch.randn(soft.shape, generator=rng)
    found = estimate_poses(soft, rgb, depth, cameras)
    degrees, metres = errors(found, cameras, moved)
    assert len(degrees) >= 9
    assert float(degrees.median()) < 0.4
    assert float(metres.median()) < 0.03
    gains = torch.tensor([e.gain for e in found.each])
    assert float(gains.median()) == pytest.approx(1 / 0.8, rel=0.1)


def test_black_grey_noise_and_foreign_frames_fail_and_are_counted(known):
    frames, rgb, depth, cameras, _ = known
    rng = torch.Generator().manual_seed(1)
    wrong = torch.stack(
        [
            torch.full_like(frames[0], -1),
            rgb[1].mean((1, 2), keepdim=True).expand_as(rgb[1]),
            torch.rand(frames[2].shape, generator=rng) * 2 - 1,
            frames[9],
            rgb[8].flip(-1),
        ]
    )
    found = estimate_poses(wrong, rgb[:5], depth[:5], cameras[range(5)])
    assert (found.failed | found.unobservable).all()
    assert found.rotation_degrees.isnan().all()
    assert found.compute()["failures"] + found.compute()["unobservable"] == 5
    assert found.compute()["failures"] >= 3
    assert found.compute()["rotation_mean_degrees_failures_180"] == 180
    torch.testing.assert_close(found.viewmats, cameras.viewmats[:5])
    both = camera_errors(se3.invert_rigid(found.viewmats), cameras[range(5)].c2w, failed=found.failed)
    assert both.compute()["failures"] == found.compute()["failures"]


def test_whether_a_view_is_observable_is_asked_of_the_truth_alone(known):
    _, rgb, depth, cameras, _ = known
    blank = torch.zeros_like(rgb[:1]) + 0.3
    for frame in (rgb[0], blank[0], -rgb[0]):
        assert not estimate_pose(frame, blank[0], depth[0], cameras[0]).observable
        assert not estimate_pose(frame, rgb[0], torch.zeros_like(depth[0]), cameras[0]).observable
        assert estimate_pose(frame, rgb[3], depth[3], cameras[3]).observable
    score = estimate_poses(rgb[:1], blank, depth[:1], cameras[0])
    assert score.compute()["failures"] == 0
    assert score.compute()["unobservable"] == 1


def test_the_true_frame_stands_where_it_was_asked_for(known):
    _, rgb, depth, cameras, _ = known
    found = estimate_pose(rgb[3], rgb[3], depth[3], cameras[3])
    assert found.converged
    assert found.rotation_degrees < 1e-6
    assert found.metres < 1e-7
    assert found.correlation == pytest.approx(1)
    assert found.gain == pytest.approx(1)


def test_parallax_of_two_depths_is_a_sideways_step():
    rng = torch.Generator().manual_seed(3)
    wide = F.interpolate(torch.rand(1, 3, 24, 30, generator=rng), size=(SIZE, 160), mode="bicubic")[0].clamp(0, 1)
    camera = Cameras.from_fov(torch.eye(4, dtype=torch.float64)[None], SIZE, SIZE)
    depth = torch.full((SIZE, SIZE), 2.0)
    depth[SIZE // 2 :] = 4.0
    frame = wide[:, :, 2:130].clone()  # the far half moves by 2 pixels, the near half by 4
    frame[:, : SIZE // 2] = wide[:, : SIZE // 2, 4:132]
    found = estimate_pose(frame, wide[:, :, :SIZE], depth, camera)
    assert found.converged
    step = 4 * 2.0 / float(camera.Ks[0, 0, 0])  # disparity times depth over focal length
    expected = torch.tensor([-step, 0, 0], dtype=torch.float64)  # points move left: the camera went right
    torch.testing.assert_close(found.gen_from_ref[:3, 3], expected, atol=0.002, rtol=0)
    assert found.rotation_degrees < 0.05
    wall = estimate_pose(wide[:, :, 2:130], wide[:, :, :SIZE], torch.full_like(depth, 1e4), camera)
    assert not wall.observable  # so far away, a step of a metre does not show


def test_the_floor_is_small_and_repeats():
    scene = make_scene(3, walls="vivid", texture="mixed")
    cameras = scene.random_cameras(4, torch.Generator().manual_seed(2), SIZE, SIZE)
    floors = [pose_floor(scene, cameras, torch.Generator().manual_seed(7), max_degrees=3.0).compute() for _ in "ab"]
    assert floors[0] == floors[1]
    assert floors[0]["rotation_median_degrees"] < 0.1
    assert floors[0]["metres_median"] < 0.01
    assert floors[0]["failures"] == 0


def test_what_cannot_be_aligned_is_refused(known):
    _, rgb, depth, cameras, _ = known
    with pytest.raises(GeometryError, match="one frame"):
        estimate_pose(rgb[0], rgb[0], depth[0], cameras[range(2)])
    with pytest.raises(GeometryError, match="NaN"):
        estimate_pose(rgb[0] * math.nan, rgb[0], depth[0], cameras[0])
    with pytest.raises(GeometryError, match="pyramid"):
        estimate_pose(rgb[0], rgb[0], depth[0], cameras[0], PoseConfig(levels=6))
    with pytest.raises(ConfigError, match="levels"):
        PoseConfig(levels=0)


def test_derivatives_of_a_slanted_colour_ramp_are_those_of_moved_points():
    camera = Cameras.from_fov(torch.eye(4, dtype=torch.float64)[None], 32, 24)
    slope = torch.tensor([[0.01, 0.0], [0.0, 0.02], [0.015, -0.01]], dtype=torch.float64)
    uv = pixel_centers(32, 24, dtype=torch.float64)
    rgb = torch.einsum("hwk,ck->chw", uv, slope)
    depth = 2 + uv[..., 0] / 32
    level = reference_pyramid(rgb, depth, camera, 1, 0.0)[0]
    points = torch.from_numpy(level.points)
    torch.testing.assert_close(project(points, camera.Ks[0])[0] @ slope.T, torch.from_numpy(level.values))
    h = 1e-6
    for axis in range(6):
        twist = torch.zeros(6, dtype=torch.float64)
        twist[axis] = h
        moved = points + twist[:3] + torch.linalg.cross(twist[3:].expand_as(points), points)
        change = (project(moved, camera.Ks[0])[0] - project(points, camera.Ks[0])[0]) @ slope.T / h
        torch.testing.assert_close(torch.from_numpy(level.jacobian[..., axis]), change, rtol=1e-4, atol=1e-6)
