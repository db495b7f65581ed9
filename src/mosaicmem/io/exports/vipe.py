"""A world as a ViPE result folder: one clip named `video` with its poses, intrinsics, and depth as half-float EXR.

The frames of the clip are the pictures, one after another; inside a masked one depth is unknown, so that nothing comes
of it. Times, latents, colour beyond H.264 and depth beyond eleven bits are lost.
"""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path

import numpy as np

from mosaicmem._shapes import Float
from mosaicmem.io import files
from mosaicmem.io.exports.shots import Decode, Exported, ExportOptions, held, shots, trajectory_of
from mosaicmem.io.trajectories import write_trajectory
from mosaicmem.io.video import write_video
from mosaicmem.memory.store import PatchStore

FPS = 24.0
_HALF_MAX = 65504.0


def export_vipe(store: PatchStore, decode: Decode, folder: Path, options: ExportOptions) -> Exported:
    """Write `rgb/video.mp4`, `pose/`, `intrinsics/` and `depth/video.zip` into a folder.

    Raises:
        InputError: if the world holds nothing; OutputExistsError: if a file exists.
    """
    groups = held(store, options.at)
    trajectory = trajectory_of(groups, "{:05d}", options.metric)
    write_trajectory(trajectory, folder, format="vipe", overwrite=options.overwrite)
    pictures, packed = [], io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for i, shot in enumerate(shots(groups, decode)):
            pictures.append(shot.picture)
            archive.writestr(zipfile.ZipInfo(f"{i:05d}.exr"), depth_exr(shot.depth), zipfile.ZIP_DEFLATED)
    write_video(folder / "rgb" / "video.mp4", np.stack(pictures), FPS, overwrite=options.overwrite)
    with files.atomic_path(folder / "depth" / "video.zip", overwrite=options.overwrite) as temporary:
        temporary.write_bytes(packed.getvalue())
    return Exported(len(groups), 0)


def depth_exr(depth: Float[np.ndarray, "H W"]) -> bytes:
    """An OpenEXR picture of one channel `Z` in half floats, uncompressed; too far for them is unknown, 0."""
    height, width = depth.shape
    rows = np.where(depth <= _HALF_MAX, depth, 0).astype("<f2")

    def attribute(name: str, kind: str, value: bytes) -> bytes:
        return name.encode() + b"\0" + kind.encode() + b"\0" + struct.pack("<I", len(value)) + value

    window = struct.pack("<4i", 0, 0, width - 1, height - 1)
    head = struct.pack("<II", 20000630, 2) + b"".join(
        [
            attribute("channels", "chlist", b"Z\0" + struct.pack("<iIii", 1, 0, 1, 1) + b"\0"),
            attribute("compression", "compression", b"\0"),
            attribute("dataWindow", "box2i", window),
            attribute("displayWindow", "box2i", window),
            attribute("lineOrder", "lineOrder", b"\0"),
            attribute("pixelAspectRatio", "float", struct.pack("<f", 1)),
            attribute("screenWindowCenter", "v2f", struct.pack("<2f", 0, 0)),
            attribute("screenWindowWidth", "float", struct.pack("<f", 1)),
            b"\0",
        ]
    )
    line = 8 + 2 * width
    start = len(head) + 8 * height
    offsets = struct.pack(f"<{height}Q", *(start + line * y for y in range(height)))
    return head + offsets + b"".join(struct.pack("<iI", y, 2 * width) + rows[y].tobytes() for y in range(height))
