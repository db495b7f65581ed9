"""A world as one PLY point cloud."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mosaicmem.io.exports.cloud import Cloud, cloud_of
from mosaicmem.io.exports.shots import Decode, Exported, ExportOptions, held, shots
from mosaicmem.io.ply import write_ply
from mosaicmem.memory.store import PatchStore


def export_ply(store: PatchStore, decode: Decode | None, path: Path, options: ExportOptions) -> Exported:
    """Write the cloud; without a decoder, points that have no colour.

    Raises:
        InputError: if the world holds nothing; OutputExistsError: if the file exists.
    """
    cloud = world_cloud(store, decode, options)
    _write_cloud(path, cloud, options, colors=decode is not None)
    return Exported(0, len(cloud))


def world_cloud(store: PatchStore, decode: Decode | None, options: ExportOptions) -> Cloud:
    """Points of everything that holds, thinned.

    Raises:
        InputError: if nothing does.
    """
    taken = enumerate(shots(held(store, options.at), decode))
    return Cloud.cat([cloud_of(shot, i, options) for i, shot in taken]).thinned(options.voxel_size)


def _write_cloud(path: Path, cloud: Cloud, options: ExportOptions, colors: bool) -> None:
    """Positions, colours, and for each point its patch, its frame and its confidence."""
    unit = {True: "m", False: "world units, not metres", None: "unknown"}[options.metric]
    write_ply(
        path,
        cloud.xyz.astype(np.float32),
        cloud.rgb if colors else None,
        properties={
            "patch": cloud.patch.astype(np.uint32),
            "frame": cloud.frame.astype(np.int32),
            "confidence": cloud.confidence.astype(np.float32),
        },
        comments=("mosaicmem", "axes opencv: x right, y down, z forward", f"units {unit}"),
        ascii=options.ascii,
        overwrite=options.overwrite,
    )
