"""Trajectory JSON of the Rust crate this library follows."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mosaicmem.io import files
from mosaicmem.io.trajectories import atoms
from mosaicmem.io.trajectories.raw import Options, Raw, json_file, objects, require, scalar
from mosaicmem.io.trajectories.spec import Format, compact
from mosaicmem.io.trajectories.trajectory import Trajectory

_KEYS = ("tx", "ty", "tz", "qw", "qx", "qy", "qz")


def read(path: Path, options: Options) -> Raw:
    """`world_to_camera` is V; `tx ty tz` its translation, not the position. `size` implies fx = fy = W."""
    what = str(path)
    poses = objects(require(json_file(path), "poses", what), f"{what}, poses")
    rows = np.array(
        [[scalar(require(p, "world_to_camera", f"{what}, pose {i}"), k, f"{what}, pose {i}") for k in _KEYS]
         for i, p in enumerate(poses)]
    )  # fmt: skip
    V = atoms.compose(atoms.quat_to_rotation(rows[:, 3:]), rows[:, :3])
    Ks, assumed = None, ()
    if options.size is not None:
        w, h = options.size
        Ks = np.tile(np.array([[w, 0, w / 2], [0, w, h / 2], [0, 0, 1.0]]), (len(V), 1, 1))
        assumed = ("fx = fy = W and a centred principal point, as the predecessor does",)
    return Raw(
        atoms.left_up_w2c(V) if options.upright else V,
        "w2c",
        quaternions=rows[:, 3:],
        quaternion_order="xyzw",
        Ks=Ks,
        time=np.array([scalar(p, "timestamp", f"{what}, pose {i}") for i, p in enumerate(poses)]),
        world_up=(0.0, 1.0, 0.0),
        assumed=assumed,
    )


def write(trajectory: Trajectory, path: Path, overwrite: bool) -> None:
    """Poses and time, in float32."""
    V = trajectory.viewmats.numpy()
    q = atoms.rotation_to_quat(V[:, :3, :3])
    rows = np.concatenate([V[:, :3, 3], q], 1).astype(np.float32).astype(np.float64).tolist()
    poses = [
        {"timestamp": t, "world_to_camera": dict(zip(_KEYS, row, strict=True))}
        for t, row in zip(trajectory.timestamps.tolist(), rows, strict=True)
    ]
    files.write_text(path, compact({"poses": poses}) + "\n", overwrite=overwrite)


FORMATS = (Format("predecessor", "trajectory JSON of the Rust crate", read, write, "KSNF", frozenset({"upright"})),)
