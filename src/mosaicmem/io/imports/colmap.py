"""COLMAP reconstructions: a sparse model, its pictures, and depth maps of the stereo folder where there are some."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from mosaicmem.errors import InputError
from mosaicmem.io import files
from mosaicmem.io.imports.depth_files import known, read_colmap_map
from mosaicmem.io.imports.scan import Points, Scan, existing_picture
from mosaicmem.io.trajectories import read_trajectory
from mosaicmem.io.trajectories.colmap import BINARY_MAX, find_model
from mosaicmem.io.trajectories.raw import natural_key

_POINT = struct.Struct("<Q3d3Bd")
_MAPS = ("geometric", "photometric")  # COLMAP's own preference


@dataclass(frozen=True)
class _Cloud:
    """World positions `[p 3]`, and for each image number the rows that its pictures see."""

    xyz: np.ndarray
    seen: dict[int, np.ndarray]


def open_colmap(path: Path, images: Path | None = None) -> Scan:
    """A sparse model, text or binary, with its pictures.

    Args:
        path: The project, its dense workspace, or the model's folder.
        images: Where the pictures lie; looked for as `images/` beside the model if left out.

    Raises:
        InputError: if the model is damaged or pictures are not found.
    """
    suffix = ".bin" if _has(path, ".bin") else ".txt"
    model = find_model(path, suffix)
    trajectory = read_trajectory(model, format=f"colmap-{suffix[1:]}")
    names = trajectory.names or ()
    numbers = _image_numbers(model / f"images{suffix}")
    if len(numbers) != len(trajectory):
        raise InputError(f"{model}: two images share a number; expected each to have its own")
    # numbers follow the order of matching, names that of the walk
    order = sorted(range(len(names)), key=lambda i: natural_key(names[i]))
    trajectory, numbers = trajectory[order], [numbers[i] for i in order]
    names = trajectory.names or ()
    folder = _pictures(model, path, images, names[0])
    maps, masks = _stereo(model, path, names[0]), folder.parent / "masks"
    cloud = _read_points(model, suffix)

    def picture(index: int) -> np.ndarray:
        hint = "name the folder of the model's pictures with --images DIR"
        return files.read_image(existing_picture(files.safe_join(folder, names[index]), hint))

    def depth(index: int) -> np.ndarray | None:
        assert maps is not None
        for kind in _MAPS:
            file = files.safe_join(maps, f"{names[index]}.{kind}.bin")
            if file.is_file():
                return known(read_colmap_map(file), str(file))
        return None

    def mask(index: int) -> np.ndarray | None:
        file = files.safe_join(masks, f"{names[index]}.png")  # COLMAP's own rule: the whole name, and .png
        return files.read_image(file)[..., 0] if file.is_file() else None

    def points(index: int) -> Points:
        tracked = bool(cloud.seen)
        rows = cloud.seen.get(numbers[index], np.zeros(0, np.int64)) if tracked else np.arange(len(cloud.xyz))
        return Points(torch.from_numpy(cloud.xyz[rows]), tracked)

    return Scan(
        path,
        "colmap",
        trajectory,
        picture,
        maps=depth if maps is not None else None,
        points=points if len(cloud.xyz) else None,
        mask=mask if masks.is_dir() else None,
    )


def _has(path: Path, suffix: str) -> bool:
    try:
        find_model(path, suffix)
    except InputError:
        return False
    return True


def _pictures(model: Path, path: Path, images: Path | None, first: str) -> Path:
    tried = [images] if images is not None else [p / "images" for p in (path, model, *model.resolve().parents[:3])]
    for folder in tried:
        if folder.is_dir() and files.safe_join(folder, first).is_file():
            return folder
    shown = ", ".join(str(folder) for folder in tried[:3])
    raise InputError(
        f"{model}: its picture {first!r} is not in {shown}; name the folder of the model's pictures with --images DIR"
    )


def _stereo(model: Path, path: Path, first: str) -> Path | None:
    for root in (path, model, *model.resolve().parents[:2]):
        maps = root / "stereo/depth_maps"
        if any((maps / f"{first}.{kind}.bin").is_file() for kind in _MAPS):
            return maps
    return None


def _image_numbers(path: Path) -> list[int]:
    """The model's numbers of its images, smallest first: the order of the trajectory, and what tracks refer to."""
    if path.suffix == ".txt":
        lines = [text for text in files.read_text(path, BINARY_MAX).splitlines() if not text.startswith("#")]
        while lines and not lines[0].strip():
            lines.pop(0)
        return sorted({int(text.split(maxsplit=1)[0]) for text in lines[::2] if text.strip()})
    data, at, found = files.read_bytes(path, BINARY_MAX), 8, set[int]()
    for _ in range(struct.unpack_from("<Q", data)[0]):  # the trajectory's reader has found the file to be whole
        found.add(struct.unpack_from("<I", data, at)[0])
        at = data.index(b"\0", at + 64) + 1
        at += 8 + 24 * struct.unpack_from("<Q", data, at)[0]
    return sorted(found)


def _read_points(model: Path, suffix: str) -> _Cloud:
    path = model / f"points3D{suffix}"
    if not path.is_file():
        return _Cloud(np.zeros((0, 3)), {})
    xyz, images, rows = _text_points(path) if suffix == ".txt" else _binary_points(path)
    cloud = np.array(xyz, np.float64).reshape(-1, 3)
    if not np.isfinite(cloud).all():
        raise InputError(f"{path}: a point that is not finite; expected numbers")
    order = np.argsort(np.array(images, np.int64), kind="stable")
    sorted_images, sorted_rows = np.array(images, np.int64)[order], np.array(rows, np.int64)[order]
    numbers, starts = np.unique(sorted_images, return_index=True)
    seen = {int(n): np.unique(part) for n, part in zip(numbers, np.split(sorted_rows, starts[1:]), strict=False)}
    return _Cloud(cloud, seen)


def _text_points(path: Path) -> tuple[list[list[float]], list[int], list[int]]:
    xyz, images, rows = list[list[float]](), list[int](), list[int]()
    for number, text in enumerate(files.read_text(path, BINARY_MAX).splitlines(), 1):
        words = text.split()
        if not words or words[0].startswith("#"):
            continue
        try:
            if len(words) < 8 or len(words) % 2:
                raise ValueError
            point, track = [float(word) for word in words[1:4]], [int(word) for word in words[8::2]]
        except ValueError:
            raise InputError(
                f"{path}, line {number}: {text[:60]!r}, expected id, x y z, r g b, error and pairs of a track"
            ) from None
        rows += [len(xyz)] * len(track)
        images += track
        xyz.append(point)
    return xyz, images, rows


def _binary_points(path: Path) -> tuple[list[tuple[float, ...]], list[int], list[int]]:
    data = files.read_bytes(path, BINARY_MAX)
    xyz, images, rows = list[tuple[float, ...]](), list[int](), list[int]()
    try:
        (count,), at = struct.unpack_from("<Q", data), 8
        for row in range(count):
            xyz.append(_POINT.unpack_from(data, at)[1:4])
            at += _POINT.size
            (length,) = struct.unpack_from("<Q", data, at)
            if at + 8 + 8 * length > len(data):
                raise struct.error
            track = np.frombuffer(data, "<u4", 2 * length, at + 8)[::2].tolist()
            images += track
            rows += [row] * length
            at += 8 + 8 * length
    except struct.error:
        raise InputError(
            f"{path}: ends at byte {len(data):,}, expected more points; was it copied completely?"
        ) from None
    return xyz, images, rows
