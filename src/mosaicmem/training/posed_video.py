"""A folder of posed videos as clips, so that a network learns from recordings as it does from procedural worlds.

An entry is a folder with a video or a folder of images, a trajectory in any format that `io.trajectories` reads, and
perhaps `depth/` and `caption.txt`; or `NAME.mp4` with `NAME.json` (or another trajectory) beside it; or one of the
layouts of `worlds.RGBDFolder`. Frames are cut to their middle square. Depth, where there is none, is estimated on the
frames that need it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from mosaicmem._shapes import Tensor, UInt8
from mosaicmem.depth.estimator import DepthEstimator
from mosaicmem.errors import ConfigError, InputError
from mosaicmem.geometry.cameras import Cameras
from mosaicmem.io.files import read_image, read_text
from mosaicmem.io.trajectories import Trajectory, read_trajectory
from mosaicmem.io.trajectories.raw import natural_key
from mosaicmem.io.video import read_video
from mosaicmem.training.cache import STEP, Clip
from mosaicmem.worlds.rgbd import RGBDFolder

_VIDEOS, _IMAGES = (".mp4", ".mov", ".mkv", ".avi", ".webm"), (".png", ".jpg", ".jpeg")
_FOLDERS = ("image", "images", "rgb", "color", "colour", "frames")
_PATHS = (".json", ".npz", ".npy", ".txt", ".log", ".csv", ".pt")
_NOT_PATHS = ("caption.txt", "rgb.txt", "depth.txt")


@dataclass(frozen=True)
class PosedVideoConfig:
    """How recordings become clips.

    Attributes:
        size: Side of the square frames, pixels.
        every: Take every so many frames; a slow camera shows too little in a window of 17.
        longest: Frames of a clip, one more than a multiple of 16; longer recordings give several.
        metres_per_unit: Of the trajectory, where it does not say that it is metric; estimated depth is in metres.
        fov_degrees: Horizontal, of the whole frame, where the trajectory has no intrinsics.
    """

    size: int = 128
    every: int = 1
    longest: int = 161
    metres_per_unit: float | None = None
    fov_degrees: float | None = None

    def __post_init__(self) -> None:
        if self.size < 16 or self.size % 16 or self.every < 1 or self.longest < 17 or self.longest % 16 != 1:
            raise ConfigError(
                f"size = {self.size}, every = {self.every}, longest = {self.longest}: expected a multiple of 16, at "
                "least 1, and one more than a multiple of 16"
            )
        if self.metres_per_unit is not None and not 0 < self.metres_per_unit < float("inf"):
            raise ConfigError(f"metres_per_unit = {self.metres_per_unit}: expected more than 0")


@dataclass(frozen=True)
class _Recording:
    """Frames by number, their cameras at full size, and depth by number where there is any (pose units)."""

    frame: Callable[[int], UInt8[np.ndarray, "h w 3"]]
    cameras: Cameras
    depth: Callable[[int], Tensor] | None
    metric: bool | None


def entries(folder: Path) -> list[Path]:
    """Posed videos of a folder: its folders, and its videos that have a trajectory beside them.

    Raises:
        InputError: if there are none.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder of posed videos")
    found = [p for p in folder.iterdir() if p.is_dir() or (p.suffix.lower() in _VIDEOS and _beside(p))]
    found = [p for p in found if not p.name.startswith(".")]
    if not found:
        raise InputError(f"{folder}: no posed videos; expected folders, or NAME.mp4 with NAME.json beside it")
    return sorted(found, key=lambda p: natural_key(p.name))


def read_posed_video(
    path: Path, config: PosedVideoConfig | None = None, estimator: DepthEstimator | None = None
) -> list[Clip]:
    """The clips of one entry; `NAME`, or `NAME-0`, `NAME-1` ... if it is longer than `longest`.

    Raises:
        InputError: if frames and poses differ in number, the recording is too short, or its depth or the unit of its
            poses is unknown.
    """
    config = config or PosedVideoConfig()
    recording = _open(path, config)
    if recording.depth is None and estimator is None:
        raise InputError(f"{path}: has no depth/; give an estimator, such as the shipped one")
    unit = config.metres_per_unit
    if recording.depth is None and unit is None and not recording.metric:
        raise InputError(
            f"{path}: estimated depth is in metres, and the trajectory's unit is unknown; give metres_per_unit"
        )
    picked = list(range(0, len(recording.cameras), config.every))
    clips = []
    for start in range(0, len(picked) - 16, config.longest):
        part = picked[start : start + config.longest]
        part = part[: 1 + (len(part) - 1) // 16 * 16]
        if len(part) >= 17:
            clips.append(_clip(recording, part, config, estimator, _words(path)))
    if not clips:
        raise InputError(f"{path}: {len(picked)} frames after taking every {config.every}; expected at least 17")
    names = [path.stem] if len(clips) == 1 else [f"{path.stem}-{i}" for i in range(len(clips))]
    return [replace(clip, name=name) for clip, name in zip(clips, names, strict=True)]


def read_posed_videos(
    folder: Path, config: PosedVideoConfig | None = None, estimator: DepthEstimator | None = None
) -> Iterator[tuple[Path, list[Clip]]]:
    """Every entry of a folder with its clips, one entry at a time."""
    for path in entries(folder):
        yield path, read_posed_video(path, config, estimator)


def _clip(
    recording: _Recording, frames: list[int], config: PosedVideoConfig, estimator: DepthEstimator | None, caption: str
) -> Clip:  # fmt: skip
    size, whole = config.size, recording.cameras
    side = min(whole.width, whole.height)
    left, top = (whole.width - side) // 2, (whole.height - side) // 2
    Ks = whole.Ks.double().clone()
    Ks[:, :2, 2] -= torch.tensor([left, top], dtype=torch.float64)
    cameras = Cameras(whole.viewmats.double(), Ks, side, side).resized(size, size)[frames]
    if config.metres_per_unit is not None:
        cameras = cameras.scaled(config.metres_per_unit)
    rgb = torch.stack([_square(recording.frame(i), left, top, side, size) for i in frames])
    some = frames[::STEP]
    if recording.depth is not None:
        rows = ((torch.arange(size) + 0.5) * side / size).long()
        maps = [recording.depth(i)[top + rows[:, None], left + rows] for i in some]
        depth = torch.stack(maps) * (config.metres_per_unit or 1.0)
    else:
        assert estimator is not None
        seen = rgb[::STEP].float() / 127.5 - 1
        depth = torch.cat([
            estimator.estimate(seen[k : k + 1], cameras[[STEP * k]].to(dtype=torch.float32)).depth
            for k in range(len(some))
        ])  # fmt: skip
    return Clip("", rgb, depth.float(), cameras, caption, "", len(rgb))


def _square(frame: UInt8[np.ndarray, "h w 3"], left: int, top: int, side: int, size: int) -> UInt8[Tensor, "3 s s"]:
    cut = Image.fromarray(frame[top : top + side, left : left + side])
    method = Image.Resampling.BOX if side >= size else Image.Resampling.BILINEAR
    return torch.from_numpy(np.array(cut.resize((size, size), method))).permute(2, 0, 1)


def _open(path: Path, config: PosedVideoConfig) -> _Recording:
    if path.is_dir() and _has_depth(path):
        folder = RGBDFolder.open(path, intrinsics=_guessed(path, config))
        metric = True if folder.layout.kind != "generic" else None
        return _Recording(lambda i: folder.read_pixels(i).numpy(), folder.cameras, lambda i: folder.read(i)[1], metric)
    source, images = _frames(path)
    if images:
        count, first = len(images), read_image(images[0])
        frame: Callable[[int], np.ndarray] = lambda i: read_image(images[i])  # noqa: E731
    else:
        video = read_video(source)[0]
        count, first = len(video), video[0]
        frame = video.__getitem__
    trajectory = _trajectory(path)
    if len(trajectory) != count:
        raise InputError(f"{path}: {count} frames in {source.name} and {len(trajectory)} poses in {trajectory.source}")
    height, width = first.shape[:2]
    if trajectory.Ks is None and config.fov_degrees is None:
        raise InputError(f"{trajectory.source}: has no intrinsics; give fov_degrees")
    cameras = trajectory.cameras(width, height, config.fov_degrees, dtype=torch.float64)
    return _Recording(frame, cameras, None, trajectory.metric)


def _guessed(path: Path, config: PosedVideoConfig) -> tuple[float, float, float, float] | None:
    if config.fov_degrees is None:
        return None
    height, width = read_image(_frames(path)[1][0]).shape[:2]
    focal = float(width / 2 / np.tan(np.radians(config.fov_degrees) / 2))
    return focal, focal, width / 2, height / 2


def _has_depth(path: Path) -> bool:
    return (path / "depth").is_dir() or (path / "depth.txt").is_file() or any(path.glob("frame-*.depth.png"))


def _frames(path: Path) -> tuple[Path, list[Path]]:
    """The video, or the folder of images and what is in it."""
    if path.is_file():
        return path, []
    for folder in (path / name for name in _FOLDERS):
        if folder.is_dir():
            images = [p for p in folder.iterdir() if p.suffix.lower() in _IMAGES]
            if images:
                return folder, sorted(images, key=lambda p: natural_key(p.name))
    videos = sorted(p for p in path.iterdir() if p.suffix.lower() in _VIDEOS)
    if len(videos) != 1:
        raise InputError(f"{path}: {len(videos)} videos and no folder of images; expected one of either")
    return videos[0], []


def _trajectory(path: Path) -> Trajectory:
    candidates = _beside(path) if path.is_file() else sorted(
        p for p in path.iterdir() if p.suffix.lower() in _PATHS and p.name not in _NOT_PATHS
    )  # fmt: skip
    problems = []
    for candidate in candidates:
        try:
            return read_trajectory(candidate)
        except InputError as error:
            problems.append(str(error))
    raise InputError(f"{path}: no trajectory ({'; '.join(problems[:3]) or 'no file that could be one'})")


def _beside(video: Path) -> list[Path]:
    return sorted(p for p in video.parent.glob(f"{video.stem}.*") if p.suffix.lower() in _PATHS)


def _words(path: Path) -> str:
    file = path / "caption.txt"
    return read_text(file, 2**16).strip() if file.is_file() else ""
