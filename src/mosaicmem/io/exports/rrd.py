"""A world as a rerun recording: cameras, pictures, depth and points, along the times at which they were seen.

Entities: `world` (x right, y down, z forward), `world/camera` (where it stands), `world/camera/image` (pinhole,
picture, depth), `world/memory/NUMBER` (the points of one picture, which stay from then on). Timelines: `time` (s) and
`frame`. A frame that edits have cut up has `world/camera_2` and so on for its further parts. Latents are lost, and the
recording is for looking at: nothing reads it back.
"""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mosaicmem._shapes import UInt8
from mosaicmem.errors import MissingExtraError
from mosaicmem.io import files
from mosaicmem.io.exports.cloud import cloud_of
from mosaicmem.io.exports.shots import Decode, Exported, ExportOptions, Shot, held, shots
from mosaicmem.memory.store import PatchStore


def export_rrd(store: PatchStore, decode: Decode, path: Path, options: ExportOptions) -> Exported:
    """Write the recording.

    Raises:
        MissingExtraError: if rerun is not installed.
        InputError: if the world holds nothing; OutputExistsError: if the file exists.
    """
    try:
        import rerun as rr
    except ImportError as error:
        raise MissingExtraError("rerun-sdk", "rerun", "a rerun recording") from error
    groups = held(store, options.at)
    files.refuse_existing(path, options.overwrite)
    order = sorted(range(len(groups)), key=lambda i: groups[i].age_key)
    points, cameras = 0, Counter[tuple[int, float]]()
    with files.atomic_path(path, overwrite=options.overwrite) as temporary:
        recording = rr.RecordingStream("mosaicmem", send_properties=False)
        recording.set_log_time_enabled(False)
        recording.set_log_tick_enabled(False)
        recording.save(temporary)
        recording.log("world", rr.ViewCoordinates.RDF, static=True)
        for i, shot in enumerate(shots((groups[i] for i in order), decode)):
            cloud = cloud_of(shot, i, options).thinned(options.voxel_size)
            key = shot.group.keyframe
            cameras[key.frame, key.time] += 1
            part = cameras[key.frame, key.time]
            _log(rr, recording, shot, "world/camera" if part == 1 else f"world/camera_{part}")
            recording.log(f"world/memory/{i:05d}", rr.Points3D(cloud.xyz.astype(np.float32), colors=cloud.rgb))
            points += len(cloud)
        recording.flush()
        recording.disconnect()
    return Exported(len(groups), points)


def png(picture: UInt8[np.ndarray, "H W 3"], fast: bool = False) -> bytes:
    """A picture as PNG; `fast` takes a third of the time and a little more room."""
    out = io.BytesIO()
    Image.fromarray(picture).save(out, "PNG", compress_level=1 if fast else 6)
    return out.getvalue()


def _log(rr: Any, recording: Any, shot: Shot, camera: str) -> None:
    """Where a picture was seen, and what its camera, its pixels and their depth are."""
    key, seen = shot.group.keyframe, shot.camera
    recording.set_time("frame", sequence=key.frame)
    recording.set_time("time", duration=key.time)
    placed, size = seen.c2w[0].numpy(), [seen.width, seen.height]
    lens = rr.Pinhole(image_from_camera=seen.Ks[0].numpy(), resolution=size, camera_xyz=rr.ViewCoordinates.RDF)
    recording.log(camera, rr.Transform3D(translation=placed[:3, 3], mat3x3=placed[:3, :3]))
    recording.log(f"{camera}/image", lens)
    recording.log(f"{camera}/image", rr.EncodedImage(contents=png(shot.picture), media_type="image/png"))
    recording.log(f"{camera}/image", rr.DepthImage(shot.depth.astype(np.float32), meter=1.0))
