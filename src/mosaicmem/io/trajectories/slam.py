"""Text of SLAM tools: TUM, KITTI, EuRoC, Redwood logs and folders of 4x4 matrices."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mosaicmem.errors import InputError
from mosaicmem.io import files
from mosaicmem.io.trajectories import atoms
from mosaicmem.io.trajectories.findings import Finding
from mosaicmem.io.trajectories.raw import (
    Options,
    Raw,
    matrices,
    natural_key,
    numbers,
    parse_row,
    rows_of_numbers,
    table,
)
from mosaicmem.io.trajectories.spec import Format, line, need_pixels
from mosaicmem.io.trajectories.trajectory import Trajectory

AMBIGUOUS = Finding(
    "C5",
    "W",
    "nothing in the file says whether these matrices are world-from-camera or camera-from-world",
    "read as c2w; declare it with matrix='c2w' or 'w2c'",
)


def read_tum(path: Path, options: Options) -> Raw:
    """`time tx ty tz qx qy qz qw`: position and orientation of the camera in the world."""
    rows = table(path, 8, "timestamp tx ty tz qx qy qz qw")
    q = rows[:, [7, 4, 5, 6]]
    C = atoms.compose(atoms.quat_to_rotation(q), rows[:, 1:4])
    return Raw(C, "c2w", quaternions=q, quaternion_order="xyzw", time=rows[:, 0])


def write_tum(trajectory: Trajectory, path: Path, overwrite: bool) -> None:
    """Single spaces and no trailing one, which evo insists on."""
    C = trajectory.c2w.numpy()
    q = atoms.rotation_to_quat(C[:, :3, :3])[:, [1, 2, 3, 0]]
    rows = np.concatenate([trajectory.timestamps.numpy()[:, None], C[:, :3, 3], q], 1)
    files.write_text(path, "".join(line(row) + "\n" for row in rows), overwrite=overwrite)


def read_kitti(path: Path, options: Options) -> Raw:
    """Twelve numbers a line, C as 3x4; times from a `times.txt` beside it."""
    rows = table(path, 12, "a 3x4 matrix")
    times, time = path.parent / "times.txt", None
    if times.is_file() and times != path:
        time = table(times, 1, "seconds")[:, 0]
        if len(time) != len(rows):
            raise InputError(f"{times}: {len(time)} times, expected {len(rows)}, one per pose of {path.name}")
    kind = options.matrix or "c2w"
    notes = () if options.matrix else (AMBIGUOUS,)
    return Raw(
        matrices(rows.reshape(-1, 3, 4), str(path)),
        kind,
        time=time,
        assumed=() if options.matrix else ("matrices are world-from-camera",),
        notes=notes,
    )


def write_kitti(trajectory: Trajectory, path: Path, overwrite: bool) -> None:
    """The poses, and `times.txt` beside them unless time is nominal."""
    times = path.parent / "times.txt"
    if not trajectory.nominal_time:
        files.refuse_existing(times, overwrite)
    text = "".join(line(C[:3].ravel()) + "\n" for C in trajectory.c2w.numpy())
    files.write_text(path, text, overwrite=overwrite)
    if not trajectory.nominal_time:
        files.write_text(times, "".join(f"{t!r}\n" for t in trajectory.timestamps.tolist()), overwrite=overwrite)


def read_euroc(path: Path, options: Options) -> Raw:
    """`ns, p, q wxyz, ...`: poses of the IMU body, of the camera only with `body_from_cam`."""
    rows = rows_of_numbers(path, separator=",")
    for number, row in rows:
        if len(row) < 8:
            raise InputError(f"{path}, line {number}: {len(row)} columns, expected at least 8 (ns, p, q wxyz)")
    values = np.array([row[:8] for _, row in rows], dtype=np.float64)
    C = atoms.compose(atoms.quat_to_rotation(values[:, 4:]), values[:, 1:4])
    assumed: tuple[str, ...] = ("the poses are of the body, not of a camera; give body_from_cam",)
    if options.body_from_cam is not None:
        C = C @ numbers(np.asarray(options.body_from_cam, dtype=np.float64), (4, 4), "body_from_cam")
        assumed = ()
    return Raw(
        C, "c2w", quaternions=values[:, 4:], quaternion_order="wxyz", time=values[:, 0], time_unit=1e-9, assumed=assumed
    )


def write_euroc(trajectory: Trajectory, path: Path, overwrite: bool) -> None:
    """Camera poses in the layout of body poses; velocities and biases are left out."""
    C = trajectory.c2w.numpy()
    q = atoms.rotation_to_quat(C[:, :3, :3])
    out = ["#timestamp [ns],p_x,p_y,p_z,q_w,q_x,q_y,q_z\n"]
    for t, row in zip(trajectory.timestamps.tolist(), np.concatenate([C[:, :3, 3], q], 1), strict=True):
        out.append(",".join([str(round(t * 1e9)), *(repr(float(v)) for v in row)]) + "\n")
    files.write_text(path, "".join(out), overwrite=overwrite)


def read_redwood(path: Path, options: Options) -> Raw:
    """Per pose a line of three integers and four rows of C."""
    rows = rows_of_numbers(path)
    if len(rows) % 5:
        raise InputError(f"{path}: {len(rows)} lines, expected 5 per pose (three integers, then 4 rows); truncated?")
    for i, (number, row) in enumerate(rows):
        expected = 4 if i % 5 else 3
        if len(row) != expected:
            raise InputError(f"{path}, line {number}: {len(row)} numbers, expected {expected}")
    return Raw(
        numbers([row for i, (_, row) in enumerate(rows) if i % 5], (None, 4), str(path)).reshape(-1, 4, 4), "c2w"
    )


def write_redwood(trajectory: Trajectory, path: Path, overwrite: bool) -> None:
    """`i i i+1`, then C."""
    out = []
    for i, C in enumerate(trajectory.c2w.numpy()):
        out += [f"{i} {i} {i + 1}\n", *(line(row) + "\n" for row in C)]
    files.write_text(path, "".join(out), overwrite=overwrite)


def read_mat4(path: Path, options: Options) -> Raw:
    """A folder of 4x4 text files in number order; poses that are not finite were not tracked and are dropped."""
    if not path.is_dir():
        raise InputError(f"{path}: expected a folder of 4x4 text files such as frame-000000.pose.txt")
    found = sorted((p for p in path.glob("*.pose.txt")), key=lambda p: natural_key(p.name))
    found = found or sorted((p for p in path.glob("*.txt") if p.stem.isdigit()), key=lambda p: natural_key(p.name))
    kept, names = [], []
    for file in found:
        words = files.read_text(file, 65536).split()
        pose = numbers(parse_row(words, str(file)), (16,), str(file)).reshape(4, 4)
        if np.isfinite(pose).all():
            kept.append(pose)
            names.append(file.name.removesuffix(".txt").removesuffix(".pose"))
    if not kept:
        raise InputError(f"{path}: {len(found)} pose files and none tracked, expected at least one")
    side = next(
        (p for p in (path / "intrinsic_color.txt", path.parent / "intrinsic/intrinsic_color.txt") if p.is_file()), None
    )
    Ks = None
    if side is not None:
        K = numbers(parse_row(files.read_text(side, 65536).split(), str(side)), (16,), str(side)).reshape(4, 4)[:3, :3]
        Ks = np.tile(K, (len(kept), 1, 1))
    dropped = len(found) - len(kept)
    notes = (
        (Finding("M1", "I", f"{dropped} of {len(found)} frames were not tracked and are left out"),) if dropped else ()
    )
    return Raw(np.stack(kept), "c2w", Ks=Ks, names=tuple(names), notes=notes)


def write_mat4(trajectory: Trajectory, path: Path, overwrite: bool) -> None:
    """`frame-NNNNNN.pose.txt`, and `intrinsic_color.txt` where there are intrinsics."""
    files.refuse_existing(path, overwrite)
    for i, C in enumerate(trajectory.c2w.numpy()):
        text = "".join(line(row) + "\n" for row in C)
        files.write_text(path / f"frame-{i:06d}.pose.txt", text, overwrite=overwrite)
    if trajectory.Ks is not None:
        K = np.eye(4)
        K[:3, :3] = need_pixels(trajectory, "mat4")[0]
        files.write_text(path / "intrinsic_color.txt", "".join(line(r) + "\n" for r in K), overwrite=overwrite)


FORMATS = (
    Format("tum", "TUM RGB-D text", read_tum, write_tum, "KSN"),
    Format("kitti", "KITTI odometry", read_kitti, write_kitti, "KSN", frozenset({"matrix"})),
    Format("euroc", "EuRoC csv", read_euroc, write_euroc, "KSN", frozenset({"body_from_cam"})),
    Format("redwood", "Redwood or Open3D .log", read_redwood, write_redwood, "KSTN"),
    Format("mat4", "folder of 4x4 text files", read_mat4, write_mat4, "STNZD"),
)
