"""Depth of one picture in the files that programs leave: 16-bit PNG, EXR, npy, PFM, and COLMAP's own maps.

Values come as they are in the file times a unit; 0, negative, infinite and NaN mean unknown and become 0.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mosaicmem.errors import InputError
from mosaicmem.io import files
from mosaicmem.io.arrays import read_npy
from mosaicmem.io.exr import read_exr

MAX_BYTES = 2**30
_MILLIMETRE = 1e-3


def read_depth(path: Path, unit: float | None = None) -> NDArray[np.float32]:
    """z-depth `[H W]` of a file, in world units.

    Args:
        path: The file.
        unit: World units that 1 in the file stands for; by default a thousandth for a 16-bit PNG, and 1 for others.

    Raises:
        InputError: on a file that is missing, damaged, too large, or of another kind; the message names it.
    """
    match path.suffix.lower():
        case ".png":
            depth, unit = files.read_depth_png(path, 1.0), _MILLIMETRE if unit is None else unit
        case ".exr":
            depth = read_exr(path)
        case ".npy":
            depth = read_npy(path)
        case ".pfm":
            depth = read_pfm(path)
        case ".bin":
            depth = read_colmap_map(path)
        case other:
            raise InputError(f"{path}: depth as {other or 'a file without suffix'} is not read; png, exr, npy, pfm are")
    depth = known(depth, str(path))
    return depth if unit is None else known(depth * np.float64(unit), str(path))


def known(depth: NDArray[np.generic], what: str) -> NDArray[np.float32]:
    """`depth` as float32 `[H W]` in which 0 is all that is unknown."""
    if depth.ndim == 3 and 1 in (depth.shape[0], depth.shape[2]):
        depth = depth.reshape(depth.shape[1:] if depth.shape[0] == 1 else depth.shape[:2])
    if depth.ndim != 2 or depth.dtype.kind not in "fiu" or not depth.size or depth.size > files.MAX_PIXELS:
        raise InputError(f"{what}: depth of shape {depth.shape} and type {depth.dtype}, expected [H W] numbers")
    with np.errstate(all="ignore"):
        out = depth.astype(np.float32)
        return np.where(np.isfinite(out) & (out > 0), out, np.float32(0))


def read_colmap_map(path: Path) -> NDArray[np.float32]:
    """A depth map of COLMAP's stereo folder: `width&height&channels&`, then float32 row by row."""
    data = files.read_bytes(path, MAX_BYTES)
    words = data[:64].split(b"&", 3)
    if len(words) != 4 or not all(word.isdigit() and len(word) < 8 for word in words[:3]):
        raise InputError(f"{path}: starts with {data[:16]!r}, expected 'width&height&1&', a COLMAP depth map")
    width, height, channels = (int(word) for word in words[:3])
    start = sum(len(word) + 1 for word in words[:3])
    return _table(path, data, start, (width, height), channels, "<f4")


def read_pfm(path: Path) -> NDArray[np.float32]:
    """A grey PFM: rows from the bottom up; a negative scale means little endian."""
    data = files.read_bytes(path, MAX_BYTES)
    words = data[:128].split(maxsplit=4)
    try:
        kind, width, height, scale = words[0], int(words[1]), int(words[2]), float(words[3])
        start = data.index(words[3], data.index(words[2], data.index(words[1], 2) + len(words[1])) + len(words[2]))
        start += len(words[3]) + 1
    except (ValueError, IndexError):
        raise InputError(f"{path}: starts with {data[:16]!r}, expected 'Pf', width, height and scale") from None
    if kind != b"Pf" or not scale or not math.isfinite(scale):
        raise InputError(f"{path}: a {kind!r} picture of scale {scale}, expected 'Pf', grey, with a scale")
    return _table(path, data, start, (width, height), 1, "<f4" if scale < 0 else ">f4")[::-1]


def _table(path: Path, data: bytes, start: int, size: tuple[int, int], channels: int, kind: str) -> NDArray[np.float32]:
    width, height = size
    held = len(data) - start
    if channels != 1 or min(size) < 1 or 4 * width * height != held:
        raise InputError(
            f"{path}: claims {width}x{height} pixels of {channels} channels but holds {held:,} bytes, expected one "
            f"channel and {4 * width * height:,}; is it truncated?"
        )
    return np.frombuffer(data, kind, offset=start).reshape(height, width).astype(np.float32)
