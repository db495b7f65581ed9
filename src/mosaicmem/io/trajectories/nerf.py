"""JSON of the NeRF family: nerfstudio, camera paths, Blender scenes, instant-ngp paths. Cameras are OpenGL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mosaicmem.errors import InputError
from mosaicmem.io import files
from mosaicmem.io.trajectories import atoms
from mosaicmem.io.trajectories.raw import (
    Options,
    Raw,
    json_file,
    matrices,
    numbers,
    objects,
    require,
    scalar,
    whole,
)
from mosaicmem.io.trajectories.spec import Format, compact, frame_rate, names_of, need_pixels, need_size
from mosaicmem.io.trajectories.trajectory import Trajectory

APPLIED = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])  # y down becomes z up
NGP_SCALE, NGP_OFFSET = 0.33, 0.5


def read_nerfstudio(path: Path, options: Options) -> Raw:
    """`C = inv(A) M Fx` with `A` the `applied_transform`; intrinsics per file or per frame."""
    path = path / "transforms.json" if path.is_dir() else path
    what, data = str(path), json_file(path)
    frames = objects(require(data, "frames", what), f"{what}, frames")
    M = matrices([require(f, "transform_matrix", f"{what}, frame {i}") for i, f in enumerate(frames)], what)
    A = np.eye(4)
    if "applied_transform" in data and not options.keep_world:
        A = matrices([data["applied_transform"]], f"{what}, applied_transform")[0]
    scale = scalar(data, "applied_scale", what) if "applied_scale" in data else 1.0
    if not np.isfinite(A).all() or abs(np.linalg.det(A[:3, :3])) < 1e-9 or not scale > 0:
        raise InputError(f"{path}: applied_transform or applied_scale cannot be undone, expected a similarity")
    inverse = np.linalg.inv(A)
    up = inverse[:3, :3] @ np.array([0.0, 0.0, 1.0])
    model = data.get("camera_model", "OPENCV")
    if model not in ("OPENCV", "OPENCV_FISHEYE", "PINHOLE", "SIMPLE_PINHOLE"):
        raise InputError(f"{path}: camera_model {model!r}, expected a pinhole or OPENCV model; undistort it first")
    size, Ks = _intrinsics(data, frames, what)
    keys = ("k1", "k2", "k3", "k4") if model == "OPENCV_FISHEYE" else ("k1", "k2", "p1", "p2")
    distortion = np.stack([_field(data, frames, k, what, 0.0) for k in keys], -1)
    return Raw(
        atoms.change_world(atoms.opengl_c2w(M), inverse, 1 / scale),
        "c2w",
        Ks=Ks,
        size=size,
        names=_names(frames, "file_path"),
        distortion=distortion if distortion.any() else None,
        fisheye=model == "OPENCV_FISHEYE",
        world_up=(float(up[0]), float(up[1]), float(up[2])),
    )


def write_nerfstudio(
    trajectory: Trajectory,
    path: Path,
    overwrite: bool,
    more: Mapping[str, Any] | None = None,
    beside: Sequence[Mapping[str, Any]] | None = None,
) -> None:
    """World turned so that y down becomes z up, as nerfstudio's own tools do; `applied_transform` says so.

    Args:
        more: Further keys of the file, such as `ply_file_path`.
        beside: Further keys of each frame, such as `depth_file_path`.
    """
    width, height = need_size(trajectory, "nerfstudio")
    rows = atoms.K_rows(need_pixels(trajectory, "nerfstudio"))
    M = atoms.opengl_c2w(APPLIED @ trajectory.c2w.numpy())
    lens = ("k1", "k2", "k3", "k4") if trajectory.fisheye else ("k1", "k2", "p1", "p2")
    zeros = np.zeros((len(trajectory), 4))
    values = np.concatenate([rows, zeros if trajectory.distortion is None else trajectory.distortion.numpy()], 1)
    fields = [dict(zip(("fl_x", "fl_y", "cx", "cy", *lens), row, strict=True)) for row in values.tolist()]
    shared = bool((values == values[:1]).all())
    head: dict[str, Any] = {
        "camera_model": "OPENCV_FISHEYE" if trajectory.fisheye else "OPENCV",
        "w": width,
        "h": height,
        **(fields[0] if shared else {}),
        "applied_transform": APPLIED[:3].tolist(),
        **(more or {}),
    }
    names = names_of(trajectory, "images/{:05d}.png")
    frames = [
        {"file_path": name, **(beside[i] if beside else {}), **({} if shared else fields[i]), "transform_matrix": m}
        for i, (name, m) in enumerate(zip(names, M.tolist(), strict=True))
    ]
    _write_frames(path, head, "frames", frames, overwrite)


def read_blender(path: Path, options: Options) -> Raw:
    """NeRF synthetic: one horizontal angle for all, no size in the file, world z up."""
    what, data = str(path), json_file(path)
    frames = objects(require(data, "frames", what), f"{what}, frames")
    M = matrices([require(f, "transform_matrix", f"{what}, frame {i}") for i, f in enumerate(frames)], what)
    angle = scalar(data, "camera_angle_x", what)
    size = options.size or _optional_size(data, what)
    Ks = None
    if size is not None and 0 < angle < np.pi:
        f = atoms.focal_from_fov(angle, size[0])
        Ks = np.tile(np.array([[f, 0, size[0] / 2], [0, f, size[1] / 2], [0, 0, 1]]), (len(M), 1, 1))
    return Raw(
        atoms.opengl_c2w(M),
        "c2w",
        Ks=Ks,
        size=size,
        names=_names(frames, "file_path"),
        assumed=() if Ks is not None else (f"camera_angle_x {angle:.7g} rad is not used without size=(W, H)",),
        world_up=(0.0, 0.0, 1.0),
    )


def write_blender(trajectory: Trajectory, path: Path, overwrite: bool) -> None:
    """The world is kept; `w` and `h` are added, which readers of this format ignore."""
    width, height = need_size(trajectory, "blender")
    angle = atoms.fov_from_focal(float(need_pixels(trajectory, "blender")[0, 0, 0]), width)
    frames = [
        {"file_path": name, "rotation": 0.0, "transform_matrix": m}
        for name, m in zip(
            names_of(trajectory, "./train/r_{}"), atoms.opengl_c2w(trajectory.c2w.numpy()).tolist(), strict=True
        )
    ]
    _write_frames(path, {"camera_angle_x": angle, "w": width, "h": height}, "frames", frames, overwrite)


def read_ns_path(path: Path, options: Options) -> Raw:
    """A nerfstudio camera path; it lives in the trained world, which `dataparser` undoes."""
    what, data = str(path), json_file(path)
    entries = objects(require(data, "camera_path", what), f"{what}, camera_path")
    flat = [require(e, "camera_to_world", f"{what}, pose {i}") for i, e in enumerate(entries)]
    C = atoms.opengl_c2w(numbers(flat, (None, 16), what).reshape(-1, 4, 4))
    assumed: tuple[str, ...] = ("poses are in the trained world; give dataparser=dataparser_transforms.json",)
    if options.dataparser is not None:
        C, assumed = _undo_dataparser(C, Path(options.dataparser)), ()
    size = options.size
    if "render_width" in data and "render_height" in data:
        width, height = (whole(data[k], f"{what}, {k}") for k in ("render_width", "render_height"))
        size = (width, height)
    fov = np.array([scalar(e, "fov", f"{what}, pose {i}") for i, e in enumerate(entries)])
    Ks = None
    if size is not None and (fov > 0).all() and (fov < 180).all():
        f = size[1] / 2 / np.tan(np.deg2rad(fov) / 2)
        half = np.ones(len(f)) / 2
        Ks = atoms.K_matrix(f, f, half * size[0], half * size[1])
    fps = scalar(data, "fps", what) if "fps" in data else None
    return Raw(C, "c2w", Ks=Ks, size=size, fps=fps if fps and 0 < fps < 1e6 else None, assumed=assumed)


def write_ns_path(trajectory: Trajectory, path: Path, overwrite: bool) -> None:
    """Every pose as a frame of the path, no keyframes."""
    width, height = need_size(trajectory, "ns-path")
    Ks = need_pixels(trajectory, "ns-path")
    fps = frame_rate(trajectory)
    entries = [
        {
            "camera_to_world": C,
            "fov": float(np.rad2deg(atoms.fov_from_focal(float(f), height))),
            "aspect": width / height,
        }
        for C, f in zip(atoms.opengl_c2w(trajectory.c2w.numpy()).reshape(-1, 16).tolist(), Ks[:, 1, 1], strict=True)
    ]
    head = {
        "camera_type": "perspective",
        "render_height": height,
        "render_width": width,
        "fps": fps,
        "seconds": len(entries) / fps,
        "is_cycle": False,
        "keyframes": [],
    }
    _write_frames(path, head, "camera_path", entries, overwrite)


def read_ngp_path(path: Path, options: Options) -> Raw:
    """Control points of an instant-ngp path, in NeRF's world; they are not frames."""
    what = str(path)
    entries = objects(require(json_file(path), "path", what), f"{what}, path")
    q = numbers([require(e, "R", what) for e in entries], (None, 4), f"{what}, R")[:, [3, 0, 1, 2]]
    t = numbers([require(e, "T", what) for e in entries], (None, 3), f"{what}, T")
    cycled = atoms.compose(atoms.quat_to_rotation(q), (t - NGP_OFFSET) / NGP_SCALE)
    C = cycled.copy()
    C[:, :3] = cycled[:, [2, 0, 1]]
    return Raw(
        C,
        "c2w",
        quaternions=q,
        quaternion_order="xyzw",
        assumed=("one pose per control point of the spline", f"scale {NGP_SCALE} and offset {NGP_OFFSET} of the scene"),
    )


def _undo_dataparser(C: np.ndarray, path: Path) -> np.ndarray:
    data = json_file(path)
    T = matrices([require(data, "transform", str(path))], str(path))[0]
    scale = scalar(data, "scale", str(path))
    if not np.isfinite(T).all() or abs(np.linalg.det(T[:3, :3])) < 1e-9 or not scale > 0:
        raise InputError(f"{path}: the transform cannot be undone, expected a rigid transform and a scale above 0")
    return atoms.change_world(C, np.linalg.inv(T), 1 / scale)


def _intrinsics(
    data: dict[str, Any], frames: list[dict[str, Any]], what: str
) -> tuple[tuple[int, int] | None, np.ndarray | None]:
    sizes = {_optional_size({**data, **frame}, what) for frame in frames}
    if len(sizes) > 1:
        raise InputError(f"{what}: images of several sizes {sorted(map(str, sizes))[:3]}, expected one; resize them")
    size = sizes.pop()
    if "fl_x" in data or "fl_x" in frames[0]:
        fx = _field(data, frames, "fl_x", what)
        fy = fx if "fl_y" not in data and "fl_y" not in frames[0] else _field(data, frames, "fl_y", what)
    elif "camera_angle_x" in data and size is not None:
        fx = fy = np.full(len(frames), atoms.focal_from_fov(scalar(data, "camera_angle_x", what) or 1.0, size[0]))
    else:
        return size, None
    centre = (None, None) if size is None else (size[0] / 2, size[1] / 2)
    cx, cy = (_field(data, frames, k, what, d) for k, d in zip(("cx", "cy"), centre, strict=True))
    return size, atoms.K_matrix(fx, fy, cx, cy)


def _field(
    data: dict[str, Any], frames: list[dict[str, Any]], key: str, what: str, default: float | None = None
) -> np.ndarray:
    """A number per frame: from the frames (all or none of them) or from the file."""
    held = [frame[key] for frame in frames if key in frame]
    if held and len(held) != len(frames):
        raise InputError(f"{what}: {len(held)} of {len(frames)} frames have {key!r}, expected all or none")
    if held:
        return numbers(held, (len(frames),), f"{what}, {key}")
    if key not in data and default is not None:
        return np.full(len(frames), default)
    return np.full(len(frames), scalar(data, key, what))


def _optional_size(data: dict[str, Any], what: str) -> tuple[int, int] | None:
    if "w" not in data or "h" not in data:
        return None
    return whole(data["w"], f"{what}, w"), whole(data["h"], f"{what}, h")


def _names(frames: list[dict[str, Any]], key: str) -> tuple[str, ...] | None:
    names = tuple(f[key] for f in frames if isinstance(f.get(key), str))
    return names if len(names) == len(frames) else None


def _write_frames(path: Path, head: dict[str, Any], key: str, frames: list[Any], overwrite: bool) -> None:
    body = ",\n ".join(compact(frame) for frame in frames)
    files.write_text(path, compact(head)[:-1] + f', "{key}": [\n {body}]}}\n', overwrite=overwrite)


FORMATS = (
    Format(
        "nerfstudio", "nerfstudio transforms.json", read_nerfstudio, write_nerfstudio, "T", frozenset({"keep_world"})
    ),
    Format("ns-path", "nerfstudio camera path", read_ns_path, write_ns_path, "UPND", frozenset({"dataparser"})),
    Format("blender", "NeRF synthetic transforms_*.json", read_blender, write_blender, "TPZD"),
    Format("ngp-path", "instant-ngp camera path", read_ngp_path),
)
