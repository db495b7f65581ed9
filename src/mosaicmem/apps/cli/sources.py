"""Cameras and recordings that a command line names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from tyro.conf import arg

from mosaicmem._shapes import Float, Tensor
from mosaicmem.apps.cli.memory_folder import MemoryMeta
from mosaicmem.apps.cli.options import parse_size
from mosaicmem.errors import ConfigError, InputError
from mosaicmem.geometry.cameras import DEFAULT_FOV_DEGREES, Cameras
from mosaicmem.geometry.trajectories import select_keyframes
from mosaicmem.io.arrays import read_npy
from mosaicmem.io.files import parse_frames, read_depth_png
from mosaicmem.io.trajectories import Trajectory, read_trajectory
from mosaicmem.models.vae import VAE
from mosaicmem.worlds.rgbd import RGBDFolder, files_size
from mosaicmem.worlds.rgbd_layouts import recognise


@dataclass(frozen=True)
class TrajectoryOptions:
    """What a trajectory file may not say about itself."""

    trajectory_format: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="(default: recognised)")] = None
    """Format of the trajectory file."""
    trajectory_size: Annotated[str | None, arg(metavar="WxH", help_behavior_hint="")] = None
    """Image size that the file's intrinsics belong to."""

    def read(self, path: Path) -> Trajectory:
        """The trajectory, read as told."""
        size = {} if self.trajectory_size is None else {"size": parse_size(self.trajectory_size)}
        return read_trajectory(path, format=self.trajectory_format, **size)


@dataclass(frozen=True)
class Poses:
    """Chosen poses of a trajectory as cameras of the wanted size; `intrinsics` says in words where these came from."""

    cameras: Cameras
    frames: list[int]
    intrinsics: str
    trajectory: Trajectory


def cameras_at(path: Path, frames: str, meta: MemoryMeta, options: TrajectoryOptions) -> Poses:
    """Cameras of a trajectory file for a memory: at its size, with its intrinsics where the file has none."""
    trajectory = options.read(path)
    chosen = parse_frames(frames, len(trajectory))
    picked = trajectory[chosen]
    if trajectory.Ks is not None:
        if trajectory.width is None:
            raise InputError(
                f"{path}: its intrinsics belong to an image whose size the file does not say; add --trajectory-size WxH"
            )
        cameras = picked.cameras(meta.width, meta.height, dtype=torch.float64)
        said = f"of the trajectory file, {describe_intrinsics(cameras)}"
    else:
        fx, fy, cx, cy = meta.intrinsics
        K = torch.tensor([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], dtype=torch.float64)
        cameras = Cameras(picked.viewmats, K.expand(len(picked), 3, 3).clone(), meta.width, meta.height)
        said = f"of the memory (the trajectory file has none), {describe_intrinsics(cameras)}"
    return Poses(cameras, chosen, said, trajectory)


def describe_intrinsics(cameras: Cameras) -> str:
    """`fx 131.25 fy 131.25 cx 79.88 cy 59.88 for 160x120` of the first camera."""
    K = cameras.Ks[0]
    values = zip(("fx", "fy", "cx", "cy"), (K[0, 0], K[1, 1], K[0, 2], K[1, 2]), strict=True)
    return " ".join(f"{name} {float(v):.2f}" for name, v in values) + f" for {cameras.width}x{cameras.height}"


def drawable(trajectory: Trajectory, frames: str) -> Cameras:
    """Cameras good enough for a map: with the file's own lens where it has one, else the 53 degree preset."""
    picked = trajectory[parse_frames(frames, len(trajectory))]
    if trajectory.Ks is not None and not trajectory.fisheye:
        size = (trajectory.width, trajectory.height)
        if trajectory.normalised:
            return picked.cameras(640, 360, dtype=torch.float64)
        if None not in size:
            return picked.cameras(dtype=torch.float64)
    return picked.cameras(640, 480, fov_degrees=DEFAULT_FOV_DEGREES, dtype=torch.float64)


def trajectory_statistics(trajectory: Trajectory) -> dict[str, object]:
    """Counts, lengths and extent of a trajectory; distances in its own unit."""
    cameras = drawable(trajectory, ":")
    steps = cameras.centers.diff(dim=0).norm(dim=-1)
    low, high = cameras.centers.amin(0).tolist(), cameras.centers.amax(0).tolist()
    return {
        "kind": "trajectory",
        "poses": len(trajectory),
        "duration_s": float(trajectory.timestamps[-1] - trajectory.timestamps[0]),
        "time_is_nominal": trajectory.nominal_time,
        "path_length": cameras.path_length(),
        "longest_step": float(steps.max()) if len(steps) else 0.0,
        "keyframes": len(select_keyframes(cameras)),
        "box_min": low,
        "box_max": high,
        "metric": trajectory.metric,
        "intrinsics": None if trajectory.Ks is None else describe_intrinsics(cameras),
        "assumed": list(trajectory.assumed),
    }


def path_cameras(
    path: Path, frames: str, options: TrajectoryOptions, width: int, height: int
) -> tuple[Cameras, str, bool | None]:
    """Cameras of a path for images of a size, where their lens came from, and whether the path is metric."""
    trajectory = options.read(path)
    picked = trajectory[parse_frames(frames, len(trajectory))]
    if trajectory.Ks is not None and trajectory.width is None:
        raise InputError(
            f"{path}: its intrinsics belong to an image whose size the file does not say; add --trajectory-size WxH"
        )
    cameras = picked.cameras(width, height, dtype=torch.float64)
    origin = (
        "of the trajectory file" if trajectory.Ks is not None else "a 53 degree preset (the trajectory file has none)"
    )
    return cameras, f"{origin}, {describe_intrinsics(cameras)}", trajectory.metric


def default_size(width: int, height: int, vae: VAE, longest: int | None) -> tuple[int, int]:
    """The size nearest to the own one that tokens of 8 pixels fit, reduced until no side exceeds `longest`."""
    unit = max(8, vae.stride)
    factor = 1.0 if longest is None else min(1.0, longest / max(width, height))
    return tuple(max(unit, round(side * factor / unit) * unit) for side in (width, height))  # pyright: ignore[reportReturnType]


def parse_intrinsics(text: str) -> tuple[float, float, float, float]:
    """`"525,525,320,240"` as fx, fy, cx, cy in pixels."""
    try:
        fx, fy, cx, cy = (float(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(
            f"--intrinsics {text!r}: expected FX,FY,CX,CY in pixels, for example 525,525,320,240"
        ) from None
    return fx, fy, cx, cy


@dataclass(frozen=True)
class Truth:
    """Real frames to compare with, by number."""

    recording: RGBDFolder

    def frame(self, index: int, width: int, height: int) -> NDArray[np.uint8]:
        """`[H W 3]` bytes."""
        return self.recording.read_pixels(index, width, height).numpy()


def open_recording(path: Path, frames: list[int]) -> Truth:
    """A recording that holds all of `frames`. Pictures alone are asked for, so it need not say its lens.

    Raises:
        InputError: if it is none, or ends earlier.
    """
    size = None if not path.is_dir() else files_size(recognise(path).colour[0])
    recording = RGBDFolder.open(path, intrinsics=size and (size[0], size[0], size[0] / 2, size[1] / 2))
    if max(frames) >= len(recording):
        raise InputError(
            f"{path}: has {len(recording)} frames, but frame {max(frames)} is asked for; choose fewer with --frames"
        )
    return Truth(recording)


def read_depth(path: Path, own_width: int, own_height: int, width: int, height: int) -> Float[Tensor, "H W"]:
    """Depth of an image of `own_width x own_height`, at the wanted size; 0 = unknown, never averaged.

    Raises:
        InputError: if the file is unreadable, of another size than its image, or holds no positive depth.
    """
    if path.suffix.lower() == ".npy":
        raw = read_npy(path)
        if raw.ndim != 2 or raw.dtype.kind not in "fiu":
            raise InputError(f"{path}: an array of {raw.dtype} {list(raw.shape)}; expected [H W] depths in world units")
        depth = raw.astype(np.float32)
    else:
        depth = read_depth_png(path)
    if depth.shape != (own_height, own_width):
        raise InputError(
            f"{path}: {depth.shape[1]}x{depth.shape[0]} pixels, its image {own_width}x{own_height}; expected the same"
        )
    depth = np.where(np.isfinite(depth) & (depth > 0), depth, 0).astype(np.float32)
    if not (depth > 0).any():
        raise InputError(f"{path}: no depth above 0 in it; expected z-depth, 0 only where unknown")
    rows = ((np.arange(height) + 0.5) * own_height / height).astype(np.int64)
    columns = ((np.arange(width) + 0.5) * own_width / width).astype(np.int64)
    return torch.from_numpy(depth[rows[:, None], columns])
