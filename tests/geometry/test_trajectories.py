"""Camera paths, keyframes and windows, with the golden numbers of the circle of 32 cameras."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.helpers import circle32, random_cameras

from mosaicmem.errors import ConfigError, GeometryError
from mosaicmem.geometry import se3
from mosaicmem.geometry.cameras import Cameras, look_at
from mosaicmem.geometry.trajectories import (
    dolly,
    interpolate,
    look_around,
    move,
    orbit,
    resample,
    select_keyframes,
    select_keyframes_uniform,
    spline,
    there_and_back,
    windows,
)


def some_camera(seed: int = 0) -> Cameras:
    return random_cameras(1, torch.Generator().manual_seed(seed))


def angles(cameras: Cameras) -> torch.Tensor:
    R = cameras.viewmats[:, :3, :3]
    return se3.rotation_angle(R[:-1], R[1:])


# Goldens


def test_the_circle_is_where_it_should_be() -> None:
    cameras = circle32(torch.float64)
    a = 2 * math.pi * torch.arange(32, dtype=torch.float64) / 32
    eyes = torch.stack([5 * a.cos(), torch.ones_like(a), 5 * a.sin()], -1)
    torch.testing.assert_close(cameras.centers, eyes)
    expected = look_at(eyes, torch.zeros(1, 3).double(), torch.tensor([[0.0, 1, 0]]).double())
    torch.testing.assert_close(cameras.viewmats, expected)


def test_g01_l12_path_length() -> None:
    assert circle32().path_length() == pytest.approx(31 * 10 * math.sin(math.pi / 32), abs=1e-5)


def test_g03_l08_steps() -> None:
    cameras = circle32(torch.float64)
    steps = cameras.centers.diff(dim=0).norm(dim=-1)
    assert steps.tolist() == pytest.approx([0.980171] * 31, abs=1e-6)
    assert angles(cameras).tolist() == pytest.approx([0.196350] * 31, abs=1e-6)


@pytest.mark.parametrize(
    ("translation", "angle", "expected"),
    [
        (0.5, 0.1, list(range(32))),
        (0.5, 0.3, list(range(32))),
        (2.5, None, list(range(0, 31, 3))),
        (None, 0.3, list(range(0, 31, 2))),
        (None, None, [0]),
    ],
)
def test_g04_l10_keyframes(translation: float | None, angle: float | None, expected: list[int]) -> None:
    assert select_keyframes(circle32(), translation, angle) == expected


def test_l10_keyframes_measure_from_the_last_keyframe_and_equality_counts() -> None:
    walk = move(Cameras.from_fov(torch.eye(4)[None], 8, 8), (2.0, 0, 0), frames=9)
    assert select_keyframes(walk, translation=0.5, angle_radians=None) == [0, 2, 4, 6, 8]
    assert select_keyframes(walk, translation=0.5001, angle_radians=None) == [0, 3, 6]
    slow = move(Cameras.from_fov(torch.eye(4)[None], 8, 8), (0.1, 0, 0), frames=9)
    assert select_keyframes(slow, translation=0.5, angle_radians=None) == [0]


def test_l11_uniform_keyframes() -> None:
    assert select_keyframes_uniform(10, 3) == [0, 3, 6, 9]
    assert select_keyframes_uniform(0, 3) == select_keyframes(circle32()[:0]) == []
    for every in (0, -1):
        with pytest.raises(ConfigError, match=f"keyframes every {every} frames; expected at least 1"):
            select_keyframes_uniform(10, every)


@pytest.mark.parametrize("bad", [0, -1, math.nan])
def test_a_keyframe_threshold_must_be_positive(bad: float) -> None:
    with pytest.raises(ConfigError, match="expected a number above 0, or None for off"):
        select_keyframes(circle32(), translation=bad)
    with pytest.raises(ConfigError, match="angle_radians"):
        select_keyframes(circle32(), angle_radians=bad)


def test_g05_windows() -> None:
    assert len(windows(32, 16, 2)) == 3
    assert [(w[0], w[-1]) for w in windows(32, 16, 2)] == [(0, 15), (14, 29), (28, 31)]


@given(st.integers(0, 200), st.integers(1, 40), st.data())
def test_windows_hold_every_frame_and_each_adds_some(frames: int, size: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, size - 1))
    parts = windows(frames, size, overlap)
    assert {f for part in parts for f in part} == set(range(frames))
    for before, after in itertools.pairwise(parts):
        assert len(before) == size and len(set(before) & set(after)) == overlap
        assert after[-1] > before[-1]


def test_windows_must_move_on() -> None:
    with pytest.raises(ConfigError, match="window overlap 4 must be at least 0 and less than the window size 4"):
        windows(10, 4, 4)


def test_l09_a_window_of_a_path_is_a_slice() -> None:
    assert len(circle32()[30:46]) == 2


# Builders


def every_builder(start: Cameras, frames: int) -> dict[str, Cameras]:
    return {
        "orbit": orbit(start, (0.1, 0.2, 5.0), (0, -1, 0.1), degrees=77, frames=frames),
        "dolly": dolly(start, 2.5, frames=frames),
        "move": move(start, (1.0, -0.5, 0.2), frames=frames),
        "look_around": look_around(start, degrees=90, frames=frames),
    }


@pytest.mark.parametrize("frames", [1, 2, 17])
def test_l13_builders_start_at_the_start_and_have_the_frames_asked_for(frames: int) -> None:
    start = some_camera()
    for name, path in every_builder(start, frames).items():
        assert len(path) == frames, name
        assert torch.equal(path.viewmats[0], start.viewmats[0]), name
        assert torch.equal(path.Ks, start.Ks.repeat(frames, 1, 1)), name
        assert (path.width, path.height) == (start.width, start.height)


@given(st.integers(0, 10**6), st.floats(-350, 350))
def test_orbit_keeps_the_target_in_its_pixel_and_the_height_along_the_axis(seed: int, degrees: float) -> None:
    start = some_camera(seed)
    target, up = torch.tensor([0.3, 0.1, 6.0]).double(), torch.tensor([0.2, -3.0, 0.1]).double()
    path = orbit(start, target, up, degrees=degrees, frames=9)
    uv, z, _ = path.project(target.expand(9, 1, 3))
    torch.testing.assert_close(uv, uv[:1].expand_as(uv), atol=1e-8, rtol=0)
    torch.testing.assert_close(z, z[:1].expand_as(z))
    heights = path.centers @ up
    torch.testing.assert_close(heights, heights[:1].expand(9))
    assert angles(path).tolist() == pytest.approx([abs(math.radians(degrees)) / 8] * 8, abs=1e-9)


def test_orbit_turns_anticlockwise_seen_from_above_and_closes() -> None:
    eye, target, up = torch.tensor([[2.0, 0, 0], [0, 0, 0], [0, 0, 1]])[:, None]
    start = Cameras.from_fov(look_at(eye, target, up), 8, 8)
    quarter = orbit(start, (0, 0, 0), (0, 0, 1), degrees=90, frames=2)
    torch.testing.assert_close(quarter.centers[1], torch.tensor([0.0, 2, 0]), atol=1e-6, rtol=0)
    loop = orbit(start, (0, 0, 0), (0, 0, 1), frames=13)
    torch.testing.assert_close(loop.viewmats[-1], loop.viewmats[0], atol=1e-5, rtol=0)
    open_loop = orbit(start, (0, 0, 0), (0, 0, 1), frames=12, endpoint=False)
    torch.testing.assert_close(open_loop.viewmats, loop.viewmats[:-1])


def test_dolly_moves_along_the_view_only() -> None:
    start = some_camera(3)
    path = dolly(start, 3.0, frames=4)
    torch.testing.assert_close(path.centers, start.centers + torch.arange(4)[:, None] * start.forward)
    assert torch.equal(path.viewmats[:, :3, :3], start.viewmats[:, :3, :3].expand(4, 3, 3))
    back = dolly(start, -1.0, frames=2)
    torch.testing.assert_close(back.centers[1], (start.centers - start.forward)[0])


def test_move_is_in_camera_axes() -> None:
    start = some_camera(4)
    expected = start.centers + 0.5 * start.right - 2 * start.up + 0.1 * start.forward
    torch.testing.assert_close(move(start, (0.5, 2.0, 0.1), frames=3).centers[-1:], expected)


def test_look_around_turns_right_in_place() -> None:
    start = some_camera(5)
    path = look_around(start, degrees=90, frames=10)
    torch.testing.assert_close(path.centers, start.centers.expand(10, 3))
    torch.testing.assert_close(path.forward[-1], start.right[0])
    torch.testing.assert_close(path.up, start.up.expand(10, 3))
    torch.testing.assert_close(look_around(start, degrees=-90, frames=2).forward[1], -start.right[0])
    witness = look_around(Cameras.from_fov(torch.eye(4)[None], 8, 8), degrees=90, frames=2)
    torch.testing.assert_close(witness.forward[1], torch.tensor([1.0, 0, 0]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("frames", [1, 2, 16])
def test_there_and_back_is_exactly_symmetric(frames: int) -> None:
    for name, path in every_builder(some_camera(6), frames).items():
        both = there_and_back(path)
        last = 2 * (frames - 1)
        assert len(both) == last + 1
        for k in range(last + 1):
            assert torch.equal(both.viewmats[k], both.viewmats[last - k]), name
        assert torch.equal(both.viewmats[:frames], path.viewmats)


def test_paths_continue_each_other() -> None:
    walk = dolly(some_camera(7), 1.0, frames=5)
    path = Cameras.cat([walk, look_around(walk[-1], degrees=45, frames=3)[1:]])
    assert len(path) == 7 and torch.equal(path.viewmats[:5], walk.viewmats)


def test_builders_refuse_what_makes_no_path() -> None:
    start = some_camera()
    with pytest.raises(ConfigError, match="at least one frame, got 0"):
        dolly(start, 1.0, frames=0)
    with pytest.raises(GeometryError, match="starts at one camera, got 32; pick one"):
        look_around(circle32(), degrees=9, frames=2)
    with pytest.raises(GeometryError, match="axis `up` has no length"):
        orbit(start, (0, 0, 0), (0, 0, 0), frames=2)


# Splines and re-timing


@given(st.integers(0, 10**6), st.integers(2, 6), st.integers(1, 5))
def test_spline_passes_through_its_keys(seed: int, count: int, between: int) -> None:
    keys = random_cameras(count, torch.Generator().manual_seed(seed))
    path = spline(keys, frames=(count - 1) * between + 1)
    torch.testing.assert_close(path.viewmats[::between], keys.viewmats, atol=1e-9, rtol=0)
    torch.testing.assert_close(path.Ks[::between], keys.Ks)


@settings(max_examples=8)
@given(st.integers(0, 10**6))
def test_spline_has_continuous_velocity_at_its_keys(seed: int) -> None:
    keys = random_cameras(5, torch.Generator().manual_seed(seed))
    n = 2000  # frames a segment: the one-sided differences below are then within O(1/n) of the velocity
    c2w = spline(keys, frames=4 * n + 1).c2w
    for key in (n, 2 * n, 3 * n):
        before, after = (c2w[key] - c2w[key - 1]) * n, (c2w[key + 1] - c2w[key]) * n
        torch.testing.assert_close(before, after, atol=2e-2, rtol=0)
        # control: the straight path through the same keys has a kink there
    straight = resample(keys, frames=4 * n + 1).c2w
    kinks = [((straight[k] - straight[k - 1]) - (straight[k + 1] - straight[k])).abs().max() * n for k in (n, 2 * n)]
    assert max(float(kink) for kink in kinks) > 5e-2


def test_spline_through_even_keys_on_a_line_is_the_line() -> None:
    line = look_around(some_camera(8), degrees=60, frames=4)
    turn = spline(line, frames=13)
    torch.testing.assert_close(turn.viewmats, look_around(some_camera(8), degrees=60, frames=13).viewmats)
    walk = dolly(some_camera(8), 3.0, frames=4)
    torch.testing.assert_close(spline(walk, frames=7).centers, dolly(some_camera(8), 3.0, frames=7).centers)


def test_spline_of_a_full_turn_takes_the_short_way_between_keys() -> None:
    keys = circle32(torch.float64)[::4]
    path = spline(keys, frames=7 * 4 + 1)
    off = (path.centers - circle32(torch.float64)[:29].centers).norm(dim=-1)
    assert float(off[4:-4].max()) < 0.05, "between inner keys a cubic follows an arc of 45 degrees closely"
    assert float(off.max()) < 0.3, "the ends start straight"
    assert float(angles(path).max()) < 0.25


def test_interpolate_returns_cameras_bit_for_bit_and_halves_between() -> None:
    cameras = circle32()
    whole = interpolate(cameras, torch.tensor([0.0, 31.0, 7.0]))
    assert torch.equal(whole.viewmats, cameras[[0, 31, 7]].viewmats)
    half = interpolate(cameras, torch.tensor([3.5]))
    torch.testing.assert_close(half.centers[0], cameras.centers[3:5].mean(0), atol=1e-5, rtol=0)
    R = Cameras.cat([cameras[3], half, cameras[4]])
    torch.testing.assert_close(angles(R), torch.full((2,), math.pi / 32), atol=1e-5, rtol=0)
    assert len(interpolate(cameras[0], torch.zeros(3))) == 3
    for bad in (-0.1, 31.1, math.nan):
        with pytest.raises(GeometryError, match="positions must lie in a path of 32 cameras, 0 to 31"):
            interpolate(cameras, torch.tensor([bad]))


def test_resample_keeps_the_ends_and_by_distance_the_speed() -> None:
    start = some_camera(9)
    uneven = Cameras.cat([dolly(start, 1.0, frames=9), dolly(dolly(start, 1.0, frames=2)[-1], 3.0, frames=4)[1:]])
    assert torch.equal(resample(uneven, frames=12).viewmats, uneven.viewmats)
    even = resample(uneven, frames=21, by="distance")
    assert even.centers.diff(dim=0).norm(dim=-1).tolist() == pytest.approx([0.2] * 20)
    torch.testing.assert_close(even.viewmats[[0, -1]], uneven.viewmats[[0, -1]])
    assert not torch.allclose(resample(uneven, frames=21).centers, even.centers, atol=0.1)


def test_resample_by_distance_skips_a_pause() -> None:
    walk = dolly(some_camera(10), 1.0, frames=3)
    paused = walk[[0, 0, 0, 1, 1, 2, 2]]
    torch.testing.assert_close(resample(paused, frames=3, by="distance").centers, walk.centers)


def test_paths_that_cannot_be_retimed() -> None:
    with pytest.raises(GeometryError, match="empty path cannot be resampled"):
        resample(circle32()[:0], frames=3)
    with pytest.raises(GeometryError, match="does not move cannot be resampled by distance"):
        resample(look_around(some_camera(), degrees=9, frames=3), frames=3, by="distance")
    with pytest.raises(GeometryError, match="at least two key cameras, got 1"):
        spline(some_camera(), frames=3)
