"""A world as a COLMAP project: `images/`, `masks/` where parts are missing, `sparse/0` with points, and depth maps.

Every point has one track element, the picture that it comes from, and error 0. Latents and times are lost.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mosaicmem._shapes import Float
from mosaicmem.io import files
from mosaicmem.io.exports.cloud import Cloud, cloud_of
from mosaicmem.io.exports.shots import Decode, Exported, ExportOptions, held, shots, trajectory_of
from mosaicmem.io.trajectories.colmap import SparsePoints, write_binary, write_text
from mosaicmem.memory.store import PatchStore


def export_colmap(store: PatchStore, decode: Decode, folder: Path, options: ExportOptions) -> Exported:
    """Write the project into a folder.

    Of a masked picture `masks/NAME.png` is black where nothing is to be looked at. `stereo/depth_maps` holds the depth
    of every pixel, that of its cell, as COLMAP's own dense step leaves it.

    Raises:
        InputError: if the world holds nothing; OutputExistsError: if a file exists.
    """
    groups = held(store, options.at)
    trajectory = trajectory_of(groups, "{:05d}.png", options.metric)
    assert trajectory.names is not None
    clouds: list[Cloud] = []
    for i, shot in enumerate(shots(groups, decode)):
        name = trajectory.names[i]
        files.write_image(folder / "images" / name, shot.picture, overwrite=options.overwrite)
        if shot.group.mask is not None:
            # the whole name with .png behind it, as COLMAP looks for masks
            mask = shot.shown.astype(np.uint8) * np.uint8(255)
            files.write_image(folder / "masks" / f"{name}.png", mask, overwrite=options.overwrite)
        with files.atomic_path(
            folder / "stereo" / "depth_maps" / f"{name}.geometric.bin", overwrite=options.overwrite
        ) as temporary:
            temporary.write_bytes(depth_map(shot.depth))
        clouds.append(cloud_of(shot, i, options))
    cloud = Cloud.cat(clouds).thinned(options.voxel_size)
    points = SparsePoints(cloud.xyz, cloud.rgb, cloud.uv, cloud.starts(len(groups)))
    write = write_text if options.ascii else write_binary
    write(trajectory, folder / "sparse" / "0", options.overwrite, points)
    return Exported(len(groups), len(cloud))


def depth_map(depth: Float[np.ndarray, "H W"]) -> bytes:
    """A map as COLMAP writes it: width, height and channels in words, then float32 row after row."""
    height, width = depth.shape
    return f"{width}&{height}&1&".encode() + depth.astype("<f4").tobytes()
