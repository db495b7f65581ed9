"""A world as a COLMAP model: `images/`, `masks/` where parts are missing, and `sparse/0` with points.

Every point has one track element, the picture that it comes from, and error 0. Latents, times and depth of cells
without a point are lost.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mosaicmem.io import files
from mosaicmem.io.exports.cloud import Cloud, cloud_of
from mosaicmem.io.exports.shots import Decode, Exported, ExportOptions, held, shots, trajectory_of
from mosaicmem.io.trajectories.colmap import SparsePoints, write_binary, write_text
from mosaicmem.memory.store import PatchStore


def export_colmap(store: PatchStore, decode: Decode, folder: Path, options: ExportOptions) -> Exported:
    """Write the model into a folder. Of a masked picture `masks/NAME.png` is black where nothing is to be looked at.

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
        clouds.append(cloud_of(shot, i, options))
    cloud = Cloud.cat(clouds).thinned(options.voxel_size)
    points = SparsePoints(cloud.xyz, cloud.rgb, cloud.uv, cloud.starts(len(groups)))
    write = write_text if options.ascii else write_binary
    write(trajectory, folder / "sparse" / "0", options.overwrite, points)
    return Exported(len(groups), len(cloud))
