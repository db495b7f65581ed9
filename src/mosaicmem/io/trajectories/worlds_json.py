"""JSON of video world models: HY-WorldPlay, WorldStereo, ReCamMaster, Gaussian Splatting, MIND, WorldMem."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mosaicmem.errors import InputError
from mosaicmem.io import files
from mosaicmem.io.trajectories import atoms
from mosaicmem.io.trajectories.findings import Finding
from mosaicmem.io.trajectories.raw import (
    Options,
    Raw,
    json_file,
    matrices,
    natural_key,
    numbers,
    objects,
    parse_row,
    require,
    scalar,
    whole,
)
from mosaicmem.io.trajectories.spec import Format, compact, line, names_of, need_pixels, need_size
from mosaicmem.io.trajectories.trajectory import Trajectory

_EXTRINSIC = Finding(
    "C5",
    "W",
    "the key 'extrinsic' means world-from-camera in HY-WorldPlay and camera-from-world in WorldStereo",
    "read as this format defines it; declare it with matrix='c2w' or 'w2c'",
)
LATENT_STRIDE = 4


def read_worldplay(path: Path, options: Options) -> Raw:
    """`{"0": {"extrinsic": C, "K": ..}, ..}`, one pose per latent; keys sort as numbers."""
    what, data = str(path), json_file(path)
    if not isinstance(data, dict) or not data or not all(k.isascii() and k.isdigit() and len(k) < 10 for k in data):
        raise InputError(f"{path}: expected an object with the keys '0', '1', ...")
    entries = [data[key] for key in sorted(data, key=int)]
    C = matrices([require(e, "extrinsic", f"{what}, pose {i}") for i, e in enumerate(entries)], what)
    Ks = numbers([require(e, "K", f"{what}, pose {i}") for i, e in enumerate(entries)], (None, 3, 3), f"{what}, K")
    frames = np.arange(len(C), dtype=np.float64) * LATENT_STRIDE
    if options.expand:
        if not np.isfinite(C).all():
            raise InputError(f"{path}: poses that are not finite cannot be expanded; check the file first")
        C = atoms.expand_latents(C, LATENT_STRIDE)
        Ks, frames = Ks[np.arange(len(C)) // LATENT_STRIDE], np.arange(len(C), dtype=np.float64)
    return Raw(
        C,
        options.matrix or "c2w",
        Ks=Ks,
        time=frames,
        time_unit=None,
        assumed=() if options.expand else ("one pose per latent of 4 frames",),
        notes=() if options.matrix else (_EXTRINSIC,),
    )


def write_worldplay(trajectory: Trajectory, path: Path, overwrite: bool) -> None:
    """One entry a pose; the caller decides that poses are those of latents."""
    Ks = need_pixels(trajectory, "worldplay").tolist()
    entries = zip(trajectory.c2w.tolist(), Ks, strict=True)
    data = {str(i): {"extrinsic": C, "K": K} for i, (C, K) in enumerate(entries)}
    files.write_text(path, compact(data) + "\n", overwrite=overwrite)


def read_worldstereo(path: Path, options: Options) -> Raw:
    """`{"extrinsic": [V..], "intrinsic": [K..]}`: lists, which is what separates it from HY-WorldPlay."""
    what, data = str(path), json_file(path)
    V = matrices(require(data, "extrinsic", what), f"{what}, extrinsic")
    Ks = numbers(data["intrinsic"], (len(V), 3, 3), f"{what}, intrinsic") if "intrinsic" in data else None
    return Raw(V, options.matrix or "w2c", Ks=Ks, notes=() if options.matrix else (_EXTRINSIC,))


def write_worldstereo(trajectory: Trajectory, path: Path, overwrite: bool) -> None:
    """V and K as lists."""
    Ks = need_pixels(trajectory, "worldstereo").tolist()
    data = {"motion_list": [], "extrinsic": trajectory.viewmats.tolist(), "intrinsic": Ks}
    files.write_text(path, compact(data) + "\n", overwrite=overwrite)


def read_recam(path: Path, options: Options) -> Raw:
    """`frameI.camNN` = four bracketed rows, translation in the last: transposed, Unreal, centimetres."""
    what, data = str(path), json_file(path)
    if not isinstance(data, dict) or not data:
        raise InputError(f"{path}: expected an object with the keys 'frame0', 'frame1', ...")
    keys = sorted(data, key=natural_key)
    cameras = sorted(require_dict(data[keys[0]], what), key=natural_key)
    clip = options.clip or (cameras[0] if len(cameras) == 1 else None)
    if clip not in cameras:
        raise InputError(f"{path}: holds cameras {cameras[:6]}, expected one or clip= one of them")
    rows = []
    for key in keys:
        text = require(data[key], clip, f"{what}, {key}")
        if not isinstance(text, str):
            raise InputError(f"{path}, {key}: found {type(text).__name__}, expected text of four bracketed rows")
        words = text.replace("[", " ").replace("]", " ").split()
        rows.append(numbers(parse_row(words, f"{what}, {key}"), (16,), f"{what}, {key}").reshape(4, 4).T)
    return Raw(atoms.unreal_c2w(np.stack(rows)), "c2w", names=tuple(keys), metric=True)


def write_recam(trajectory: Trajectory, path: Path, overwrite: bool) -> None:
    """One camera, `cam01`."""
    names = names_of(trajectory, "frame{}")
    if len(set(names)) != len(names) or list(names) != sorted(names, key=natural_key):
        names = tuple(f"frame{i}" for i in range(len(trajectory)))
    data = {
        name: {"cam01": " ".join(f"[{line(row)}]" for row in C.T) + " "}
        for name, C in zip(names, atoms.to_unreal_c2w(trajectory.c2w.numpy()), strict=True)
    }
    files.write_text(path, compact(data) + "\n", overwrite=overwrite)


def read_3dgs(path: Path, options: Options) -> Raw:
    """`cameras.json` of Gaussian Splatting: `position` and `rotation` are those of C, whatever its code calls them."""
    what = str(path)
    entries = objects(json_file(path), what)
    R = numbers([require(e, "rotation", what) for e in entries], (None, 3, 3), f"{what}, rotation")
    t = numbers([require(e, "position", what) for e in entries], (None, 3), f"{what}, position")
    sizes = {
        (whole(require(e, "width", what), f"{what}, width"), whole(require(e, "height", what), f"{what}, height"))
        for e in entries
    }
    if len(sizes) > 1:
        raise InputError(f"{path}: images of {len(sizes)} sizes, expected one; resize them")
    size = sizes.pop()
    fx, fy = (np.array([scalar(e, k, what) for e in entries]) for k in ("fx", "fy"))
    half = np.full(len(entries), 0.5)
    names = tuple(e["img_name"] for e in entries if isinstance(e.get("img_name"), str))
    Ks = atoms.K_matrix(fx, fy, half * size[0], half * size[1])
    return Raw(atoms.compose(R, t), "c2w", Ks=Ks, size=size, names=names if len(names) == len(entries) else None)


def write_3dgs(trajectory: Trajectory, path: Path, overwrite: bool) -> None:
    """The principal point is taken to be the centre by every reader."""
    width, height = need_size(trajectory, "3dgs")
    rows = atoms.K_rows(need_pixels(trajectory, "3dgs")).tolist()
    names = names_of(trajectory, "{:05d}")
    data = [
        {
            "id": i, "img_name": names[i], "width": width, "height": height,
            "position": C[:3, 3].tolist(), "rotation": C[:3, :3].tolist(), "fx": rows[i][0], "fy": rows[i][1],
        }
        for i, C in enumerate(trajectory.c2w.numpy())
    ]  # fmt: skip
    files.write_text(path, compact(data) + "\n", overwrite=overwrite)


def read_mind(path: Path, options: Options) -> Raw:
    """MIND `action.json`: Unreal rotator and centimetres; the camera's own fields where there are any."""
    what = str(path)
    entries = objects(require(json_file(path), "data", what), f"{what}, data")
    who = "camera" if all("camera_pos" in e for e in entries) else "actor"
    c = np.array([_xyz(require(e, f"{who}_pos", what), what) for e in entries])
    rpy = np.array([_xyz(require(e, f"{who}_rpy", what), what) for e in entries])
    C = atoms.unreal_c2w(atoms.compose(atoms.unreal_rotator(rpy), c))
    index = np.array([scalar(e, "time", what) for e in entries])
    assumed = (
        "an Unreal rotator in degrees and centimetres",
        *(("the actor is the camera",) if who == "actor" else ()),
    )
    return Raw(C, "c2w", time=index, time_unit=None, metric=True, assumed=assumed)


def read_worldmem(path: Path, options: Options) -> Raw:
    """Rows (x, y, z, pitch, yaw) in degrees, as text, npy or JSON list."""
    if path.suffix == ".npy":
        from mosaicmem.io.arrays import read_npy

        rows = read_npy(path)
    elif path.suffix == ".json":
        rows = json_file(path)
    else:
        text = files.read_text(path, 2**26).replace(",", " ")
        rows = [parse_row(t.split(), str(path)) for t in text.splitlines() if t.strip() and not t.startswith("#")]
    poses = numbers(rows, (None, 5), str(path))
    return Raw(atoms.pitch_yaw_c2w(poses), "c2w", assumed=("(x, y, z, pitch, yaw) in degrees, axes of Minecraft",))


def require_dict(value: Any, what: str) -> dict[str, Any]:
    """`value`, if it is a JSON object that is not empty."""
    if not isinstance(value, dict) or not value:
        raise InputError(f"{what}: found {type(value).__name__}, expected an object that is not empty")
    return value


def _xyz(value: Any, what: str) -> list[float]:
    return [scalar(require_dict(value, what), axis, what) for axis in "xyz"]


FORMATS = (
    Format(
        "worldplay", "HY-WorldPlay JSON, a pose per latent", read_worldplay, write_worldplay, "STPND",
        frozenset({"matrix", "expand"}),
    ),
    Format("worldstereo", "WorldStereo JSON", read_worldstereo, write_worldstereo, "STND", frozenset({"matrix"})),
    Format("recam", "ReCamMaster extrinsics", read_recam, write_recam, "KST", frozenset({"clip"})),
    Format("3dgs", "Gaussian Splatting cameras.json", read_3dgs, write_3dgs, "TPD"),
    Format("mind", "MIND action.json", read_mind),
    Format("worldmem", "WorldMem (x, y, z, pitch, yaw) rows", read_worldmem),
)  # fmt: skip
