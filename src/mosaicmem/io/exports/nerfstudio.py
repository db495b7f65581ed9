"""A world as a nerfstudio scene: `transforms.json`, pictures, depth as 16-bit PNG, and the points to start from.

The world is turned until z points up, as nerfstudio's own tools do (`applied_transform`), and the points with it.
Latents and times are lost.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from mosaicmem.io import files
from mosaicmem.io.exports.cloud import Cloud, cloud_of
from mosaicmem.io.exports.shots import Decode, Exported, ExportOptions, camera_now, held, shots, trajectory_of
from mosaicmem.io.ply import write_ply
from mosaicmem.io.trajectories.nerf import APPLIED, write_nerfstudio
from mosaicmem.memory.patches import Group
from mosaicmem.memory.store import PatchStore

MILLIMETRE = 0.001
"""World units to a step of a depth picture, unless the world is too large or too small for it."""
STEPS = 65534  # of 16 bits, less 0 and 65535, which both mean unknown


def export_nerfstudio(store: PatchStore, decode: Decode, folder: Path, options: ExportOptions) -> Exported:
    """Write the scene into a folder.

    A pixel's depth is that of its cell, 0 where it is unknown. Pictures of which a part is missing make masks for all,
    black where nothing is to be looked at, since nerfstudio wants one for every picture or for none.

    Raises:
        InputError: if the world holds nothing; OutputExistsError: if a file exists.
    """
    groups = held(store, options.at)
    masked, step = any(group.mask is not None for group in groups), depth_step(groups)
    trajectory = trajectory_of(groups, "images/{:05d}.png", options.metric)
    assert trajectory.names is not None
    beside: list[dict[str, Any]] = []
    clouds: list[Cloud] = []
    for i, shot in enumerate(shots(groups, decode)):
        depth = f"depth/{i:05d}.png"
        files.write_image(folder / trajectory.names[i], shot.picture, overwrite=options.overwrite)
        files.write_depth_png(folder / depth, shot.depth, 1 / step, overwrite=options.overwrite)
        beside.append({"depth_file_path": depth})
        if masked:
            beside[i]["mask_path"] = f"masks/{i:05d}.png"
            mask = shot.shown.astype(np.uint8) * np.uint8(255)
            files.write_image(folder / beside[i]["mask_path"], mask, overwrite=options.overwrite)
        clouds.append(cloud_of(shot, i, options))
    cloud = Cloud.cat(clouds).thinned(options.voxel_size)
    turned = (cloud.xyz @ APPLIED[:3, :3].T).astype(np.float32)
    write_ply(folder / "sparse_pc.ply", turned, cloud.rgb, ascii=options.ascii, overwrite=options.overwrite)
    more = {"depth_unit_scale_factor": step, "ply_file_path": "sparse_pc.ply"}
    write_nerfstudio(trajectory, folder / "transforms.json", options.overwrite, more, beside)
    said = "" if step == MILLIMETRE else f"; train with --depth-unit-scale-factor {step:g}"
    return Exported(len(groups), len(cloud), (f"depth in steps of {step:g} world units{said}",))


def depth_step(groups: Iterable[Group]) -> float:
    """World units to a step of depth pictures, a power of ten.

    Millimetres wherever they hold the farthest depth and resolve the nearest to a hundredth; otherwise the finest step
    that holds the farthest.
    """
    near, far = math.inf, 0.0
    for group in groups:
        depth = group.keyframe.depth[group.valid].double() * camera_now(group)[1]
        if len(depth):
            near, far = min(near, float(depth.min())), max(far, float(depth.max()))
    if not far or (far <= STEPS * MILLIMETRE and near >= 100 * MILLIMETRE):
        return MILLIMETRE
    return float(f"1e{math.ceil(math.log10(far / STEPS))}")
