"""nerfstudio folders: `transforms.json`, the pictures it names, their depth, masks, and the sparse point cloud."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from mosaicmem.errors import InputError
from mosaicmem.io import files
from mosaicmem.io.imports.depth_files import read_depth
from mosaicmem.io.imports.scan import Points, Scan, existing_picture
from mosaicmem.io.ply import read_ply
from mosaicmem.io.trajectories import read_trajectory
from mosaicmem.io.trajectories.raw import json_file, matrices, scalar

_CLOUDS = ("sparse_pc.ply", "sparse_pcd.ply")
_ENDINGS = ("", ".png", ".jpg", ".jpeg")


def open_nerfstudio(path: Path, images: Path | None = None) -> Scan:
    """A `transforms.json` and what it names.

    Depth and points are in the units of the file's own poses; where `applied_transform` and `applied_scale` are
    undone, they are undone for these too. Depth is in millimetres (PNG) or those units (others), unless the file says
    `depth_unit_scale_factor`.

    Args:
        path: The file, or the folder that holds it.
        images: Folder that picture names are relative to, in place of the file's own.

    Raises:
        InputError: if the file is damaged, names something outside its folder, or pictures are not found.
    """
    file = path / "transforms.json" if path.is_dir() else path
    trajectory = read_trajectory(file, format="nerfstudio")
    data, root, what = json_file(file), file.parent, str(file)
    frames = data["frames"]
    if trajectory.names is None:
        raise InputError(f"{file}: frames without file_path; expected the picture of each frame")
    names, folder = trajectory.names, images or root
    scale = scalar(data, "applied_scale", what) if "applied_scale" in data else 1.0
    unit = scalar(data, "depth_unit_scale_factor", what) if "depth_unit_scale_factor" in data else None
    if unit is not None and not 0 < unit < 1e9:
        raise InputError(f"{file}: depth_unit_scale_factor {unit:g}, expected more than 0")
    _picture(folder, names[0])

    def depth(index: int) -> np.ndarray | None:
        named = _named(frames[index], "depth_file_path", f"{what}, frame {index}")
        return None if named is None else read_depth(files.safe_join(root, named), unit) / np.float32(scale)

    def mask(index: int) -> np.ndarray | None:
        named = _named(frames[index], "mask_path", f"{what}, frame {index}")
        return None if named is None else files.read_image(files.safe_join(root, named))[..., 0]

    cloud = _cloud(data, root, what, scale)
    return Scan(
        path,
        "nerfstudio",
        trajectory,
        lambda index: files.read_image(_picture(folder, names[index])),
        maps=depth if any("depth_file_path" in frame for frame in frames) else None,
        points=None if cloud is None else lambda index: Points(cloud, False),
        mask=mask if any("mask_path" in frame for frame in frames) else None,
    )


def _picture(folder: Path, name: str) -> Path:
    found = [files.safe_join(folder, name + ending) for ending in _ENDINGS]
    hint = "the file names it; put the pictures there, or give their folder with --images DIR"
    return existing_picture(next((path for path in found if path.is_file()), found[0]), hint)


def _named(frame: dict[str, Any], key: str, what: str) -> str | None:
    value = frame.get(key)
    if value is not None and not (isinstance(value, str) and 0 < len(value) < 4096):
        raise InputError(f"{what}: {key} = {value!r:.60}, expected the name of a file")
    return value


def _cloud(data: dict[str, Any], root: Path, what: str, scale: float) -> torch.Tensor | None:
    """Points of the file's world in ours: `x = inv(A) (p / scale)`."""
    named = _named(data, "ply_file_path", what)
    path = next((root / name for name in _CLOUDS if (root / name).is_file()), None)
    if named is not None:
        path = files.safe_join(root, named)
    if path is None:
        return None
    A = matrices([data["applied_transform"]], f"{what}, applied_transform")[0] if "applied_transform" in data else None
    points = read_ply(path).points / scale
    if not np.isfinite(points).all():
        raise InputError(f"{path}: a point that is not finite; expected numbers")
    if A is not None:
        inverse = np.linalg.inv(A)
        points = points @ inverse[:3, :3].T + inverse[:3, 3]
    return torch.from_numpy(points)
