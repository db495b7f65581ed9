"""Recordings become clips: frames, cameras and depth still fit each other, and what is unknown is asked for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from tests.training.clips import WALL, make_clip, painted

from mosaicmem.depth.estimator import DepthEstimate, DepthInfo
from mosaicmem.errors import ConfigError, InputError
from mosaicmem.geometry.cameras import Cameras
from mosaicmem.io.trajectories import Trajectory, write_trajectory
from mosaicmem.io.video import write_video
from mosaicmem.training.cache import read_clip, write_clip
from mosaicmem.training.posed_video import PosedVideoConfig, entries, read_posed_video, read_posed_videos

WIDE = (64, 32)
CONFIG = PosedVideoConfig(size=16)


class Wall:
    """An estimator that knows the answer, and what it was shown."""

    def __init__(self):
        self.cameras: list[Cameras] = []

    def estimate(self, frames, cameras):
        self.cameras.append(cameras)
        depth = torch.full_like(frames[:, 0], WALL)
        return DepthEstimate(depth, torch.ones_like(depth), DepthInfo("wall", True, "model"))


def filmed(frames: int = 20) -> tuple[np.ndarray, Cameras]:
    """The wall through a 64x32 lens that is not at the middle, uint8 `[n 32 64 3]`."""
    poses = make_clip(frames=frames, size=32).cameras
    K = torch.tensor([[40.0, 0, 30], [0, 40, 18], [0, 0, 1]], dtype=torch.float64)
    cameras = Cameras(poses.viewmats, K.expand(frames, 3, 3).clone(), *WIDE)
    y, x = torch.meshgrid(torch.arange(32) + 0.5, torch.arange(64) + 0.5, indexing="ij")
    rays = torch.stack([(x - 30) / 40, (y - 18) / 40], -1)
    rgb = painted(cameras.centers[:, None, None, :2] + WALL * rays, 3, 0)
    return ((rgb + 1) * 127.5).round().byte().numpy(), cameras


def write_entry(folder, frames=20, *, depth=False, video=False, metric: bool | None = True, poses=None):
    rgb, cameras = filmed(frames)
    folder.mkdir(parents=True)
    if video:
        write_video(folder / "walk.mp4", rgb, crf=0)
    else:
        (folder / "images").mkdir()
        for i, frame in enumerate(rgb):
            Image.fromarray(frame).save(folder / "images" / f"{i}.png")  # 10.png sorts before 2.png as text
    if depth:
        (folder / "depth").mkdir()
        for i in range(frames):
            Image.fromarray(np.full((32, 64), 1000 * WALL, np.uint16)).save(folder / "depth" / f"{i}.png")
    write_trajectory(Trajectory.from_cameras(cameras[: poses or frames], metric=metric), folder / "path.json")
    (folder / "caption.txt").write_text("a wall.\n")
    return folder


def true_colours(clip) -> torch.Tensor:
    """What the wall looks like at the centres of the clip's pixels, by its own cameras and depth 3."""
    n, size = len(clip), clip.rgb.shape[-1]
    v = torch.arange(size, dtype=torch.float64) + 0.5
    uv = torch.stack(torch.meshgrid(v, v, indexing="xy"), -1).reshape(1, -1, 2).expand(n, -1, -1)
    points = clip.cameras.unproject(uv, torch.full(uv.shape[:2], WALL, dtype=torch.float64))
    return painted(points[..., :2], 3, 0).transpose(1, 2).reshape(n, 3, size, size).float()


@pytest.mark.parametrize(("depth", "video"), [(False, False), (True, False), (False, True)])
def test_cameras_fit_frames_after_cutting_and_resizing(tmp_path, video, depth):
    folder, estimator = write_entry(tmp_path / "a", depth=depth, video=video), Wall()
    (clip,) = read_posed_video(folder, CONFIG, estimator)
    assert clip.rgb.shape == (17, 3, 16, 16) and clip.depth.shape == (5, 16, 16)
    assert (clip.name, clip.caption, clip.event, clip.event_frame) == ("a", "a wall.", "", 17)
    assert torch.allclose(clip.depth, torch.full_like(clip.depth, WALL))
    error = (clip.frames(slice(None)) - true_colours(clip)).abs().mean()
    assert error < 0.03
    import dataclasses

    shifted = clip.cameras.Ks.clone()
    shifted[:, 0, 2] += 4  # control: cameras that forgot the cut
    wrong = dataclasses.replace(clip, cameras=Cameras(clip.cameras.viewmats, shifted, 16, 16))
    assert (clip.frames(slice(None)) - true_colours(wrong)).abs().mean() > 3 * error
    assert len(estimator.cameras) == (0 if depth else 5)
    assert all(torch.allclose(c.Ks[0].double(), clip.cameras.Ks[0]) for c in estimator.cameras)
    write_clip(tmp_path / "a.safetensors", clip)
    assert torch.equal(read_clip(tmp_path / "a.safetensors").rgb, clip.rgb)


def test_videos_beside_their_trajectory_are_found(tmp_path):
    rgb, cameras = filmed(17)
    for name in ("10", "9"):
        write_video(tmp_path / f"{name}.mp4", rgb)
        write_trajectory(Trajectory.from_cameras(cameras, metric=True), tmp_path / f"{name}.json")
    write_video(tmp_path / "alone.mp4", rgb)
    write_entry(tmp_path / "b")
    assert [p.name for p in entries(tmp_path)] == ["9.mp4", "10.mp4", "b"]
    found = {path.name: [c.name for c in clips] for path, clips in read_posed_videos(tmp_path, CONFIG, Wall())}
    assert found == {"9.mp4": ["9"], "10.mp4": ["10"], "b": ["b"]}


def test_long_recordings_give_several_clips_and_every_skips(tmp_path):
    folder = write_entry(tmp_path / "a", frames=56)
    from dataclasses import replace

    clips = read_posed_video(folder, replace(CONFIG, longest=17), Wall())
    assert [c.name for c in clips] == ["a-0", "a-1", "a-2"]
    whole = read_posed_video(folder, CONFIG, Wall())[0]
    assert len(whole) == 49
    assert torch.equal(torch.cat([c.rgb for c in clips])[:49], whole.rgb)
    (third,) = read_posed_video(folder, replace(CONFIG, every=3), Wall())
    assert torch.equal(third.rgb, read_posed_video(folder, CONFIG, Wall())[0].rgb[::3])


def test_units_are_asked_for_where_depth_is_estimated(tmp_path):
    from dataclasses import replace

    folder = write_entry(tmp_path / "a", metric=None)
    with pytest.raises(InputError, match="metres_per_unit"):
        read_posed_video(folder, CONFIG, Wall())
    (clip,) = read_posed_video(folder, replace(CONFIG, metres_per_unit=2.0), Wall())
    (same,) = read_posed_video(write_entry(tmp_path / "b"), CONFIG, Wall())
    assert torch.allclose(clip.cameras.centers, 2 * same.cameras.centers)
    with_depth = write_entry(tmp_path / "c", metric=None, depth=True)
    (scaled,) = read_posed_video(with_depth, replace(CONFIG, metres_per_unit=2.0))
    assert torch.allclose(scaled.depth, torch.full_like(scaled.depth, 2 * WALL))  # depth is in the unit of the poses


def test_what_does_not_fit_is_refused_by_name(tmp_path):
    with pytest.raises(InputError, match="estimator"):
        read_posed_video(write_entry(tmp_path / "a"), CONFIG)
    with pytest.raises(InputError, match="20 frames in images and 19 poses"):
        read_posed_video(write_entry(tmp_path / "b", poses=19), CONFIG, Wall())
    with pytest.raises(InputError, match="at least 17"):
        read_posed_video(write_entry(tmp_path / "c", frames=9), CONFIG, Wall())
    (write_entry(tmp_path / "d") / "path.json").unlink()
    with pytest.raises(InputError, match="no trajectory"):
        read_posed_video(tmp_path / "d", CONFIG, Wall())
    with pytest.raises(InputError, match="no such folder"):
        entries(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no posed videos"):
        entries(tmp_path / "empty")


@pytest.mark.parametrize("wrong", [{"size": 20}, {"every": 0}, {"longest": 20}, {"metres_per_unit": 0.0}])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ConfigError):
        PosedVideoConfig(**wrong)
