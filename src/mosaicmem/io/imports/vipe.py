"""ViPE result folders: a video, its poses and intrinsics, and a zip of depth as half-float EXR.

What belongs together is joined on frame numbers (`inds`), never by row.
"""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np

from mosaicmem.errors import InputError
from mosaicmem.io import files
from mosaicmem.io.exr import decode_exr
from mosaicmem.io.imports.depth_files import known
from mosaicmem.io.imports.frame_reader import FrameReader
from mosaicmem.io.imports.scan import Scan
from mosaicmem.io.trajectories import read_trajectory

_SLACK = 2**20  # bytes of an EXR beyond its pixels
_PIXEL_BYTES = 16


def open_vipe(path: Path, clip: str | None = None) -> Scan:
    """One clip of a result folder.

    Args:
        path: The folder with `rgb`, `pose`, `intrinsics` and `depth`.
        clip: Which one, where there are several.

    Raises:
        InputError: if a part is missing or damaged, or the lens is no pinhole.
    """
    stem = clip or _only_clip(path)
    video = FrameReader(files.require_file(path / "rgb" / f"{stem}.mp4"))
    trajectory = read_trajectory(path, format="vipe", clip=stem, fps=video.fps, size=video.size)
    if trajectory.Ks is None:
        raise InputError(f"{path / 'intrinsics' / stem}.npz: no such file; a world needs the intrinsics of every frame")
    numbers = [round(float(t) * video.fps) for t in trajectory.timestamps]
    depth = _DepthZip(path / "depth" / f"{stem}.zip", video.size)

    def picture(index: int) -> np.ndarray:
        return video.read(numbers[index])

    return Scan(
        path, "vipe", trajectory, picture, maps=(lambda index: depth.read(numbers[index])) if depth.members else None
    )


def _only_clip(path: Path) -> str:
    found = sorted(p.stem for p in path.glob("pose/*.npz"))
    if not found:
        raise InputError(f"{path}: no pose/*.npz in it; expected a ViPE folder with rgb, pose, intrinsics and depth")
    if len(found) != 1:
        raise InputError(f"{path}: holds clips {found[:6]}; name one of them with --clip")
    return found[0]


class _DepthZip:
    """Depth by frame number, unpacked one at a time within bounds that the size of the video gives."""

    def __init__(self, path: Path, size: tuple[int, int]) -> None:
        self.path, self.size = path, size
        self.members: dict[int, zipfile.ZipInfo] = {}
        if not path.is_file():
            return
        try:
            with zipfile.ZipFile(path) as archive:
                for info in archive.infolist():
                    stem, dot, suffix = Path(info.filename).name.rpartition(".")
                    if dot and suffix.lower() == "exr" and stem.isdecimal() and len(stem) < 12:
                        self.members[int(stem)] = info
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise InputError(f"{path}: not a readable zip ({error}); expected EXR pictures 00000.exr, ...") from error
        if not self.members:
            raise InputError(f"{path}: holds no 00000.exr, 00001.exr, ...; expected one for every frame")

    def read(self, number: int) -> np.ndarray | None:
        """z-depth of a frame, or None if the zip has none for it."""
        member = self.members.get(number)
        if member is None:
            return None
        what, pixels = f"{self.path}: {member.filename}", self.size[0] * self.size[1]
        if member.file_size > _PIXEL_BYTES * pixels + _SLACK:
            raise InputError(f"{what}: unpacks to {member.file_size:,} bytes for {pixels:,} pixels; refused")
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(member) as stream:
                data = stream.read(member.file_size)
        except (zipfile.BadZipFile, zlib.error, OSError, RuntimeError, ValueError, EOFError) as error:
            raise InputError(f"{what}: damaged ({error}); copy the file again") from error
        return known(decode_exr(data, what, "Z", max_pixels=pixels), what)
