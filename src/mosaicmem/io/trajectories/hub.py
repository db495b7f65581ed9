"""Our own trajectory files: JSON for people, npz for size. Everything a `Trajectory` holds survives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mosaicmem.errors import FormatVersionError, InputError
from mosaicmem.io import files
from mosaicmem.io.arrays import Npz, write_npz
from mosaicmem.io.trajectories import atoms
from mosaicmem.io.trajectories.raw import Options, Raw, json_file, matrices, numbers, objects, require, scalar, whole
from mosaicmem.io.trajectories.spec import Format, compact
from mosaicmem.io.trajectories.trajectory import Trajectory

NAME, VERSION = "mosaicmem.trajectory", 1
_KEYS = {"format", "version", "axes", "width", "height", "metric", "frames", "nominal_time", "assumed", "lens"}


def read(path: Path, options: Options) -> Raw:
    """JSON or npz, by the first bytes of the file."""
    with files.require_file(path).open("rb") as file:
        zipped = file.read(2) == b"PK"
    return _read_npz(path) if zipped else _read_json(path)


def write(trajectory: Trajectory, path: Path, overwrite: bool) -> None:
    """npz where the name ends so, JSON otherwise."""
    (_write_npz if path.suffix == ".npz" else _write_json)(trajectory, path, overwrite)


def _check_version(path: Path, version: Any) -> None:
    if version != VERSION:
        raise FormatVersionError(
            f"{path}: trajectory version {version!r}, the newest known one is {VERSION}; update mosaicmem to read it"
        )


def _read_json(path: Path) -> Raw:
    what = str(path)
    data = json_file(path)
    if require(data, "format", what) != NAME:
        raise InputError(f"{path}: format {data['format']!r}, expected {NAME!r}")
    _check_version(path, data.get("version"))
    if data.get("axes", "opencv") != "opencv":
        raise InputError(f"{path}: axes {data['axes']!r}, expected 'opencv'")
    frames = objects(require(data, "frames", what), f"{what}, frames")
    n = len(frames)
    flat = numbers([require(f, "viewmat", f"{what}, frame {i}") for i, f in enumerate(frames)], (n, 16), what)
    names = tuple(f["name"] for f in frames if isinstance(f.get("name"), str))
    metric, assumed = data.get("metric"), data.get("assumed", [])
    lens = data.get("lens", "pinhole")
    if metric not in (True, False, None) or lens not in ("pinhole", "opencv", "fisheye"):
        raise InputError(f"{path}: metric {metric!r} and lens {lens!r}, expected true/false/null and a known lens")
    distortion = _all_or_none(frames, "distortion", what)
    Ks = _all_or_none(frames, "K", what)
    return Raw(
        flat.reshape(n, 4, 4),
        "w2c",
        Ks=None if Ks is None else atoms.K_from_rows(Ks),
        time=np.array([scalar(f, "t", f"{what}, frame {i}") for i, f in enumerate(frames)]),
        nominal_time=bool(data.get("nominal_time", False)),
        size=_size(data.get("width"), data.get("height"), what),
        names=names if len(names) == n else None,
        metric=metric if metric is None else bool(metric),
        assumed=tuple(str(a) for a in assumed) if isinstance(assumed, list) else (),
        distortion=distortion,
        fisheye=lens == "fisheye",
        extra={key: value for key, value in data.items() if key not in _KEYS},
    )


def _write_json(trajectory: Trajectory, path: Path, overwrite: bool) -> None:
    columns: dict[str, list[Any]] = {
        "t": trajectory.timestamps.tolist(),
        "viewmat": trajectory.viewmats.flatten(1).tolist(),
    }
    if trajectory.Ks is not None:
        columns["K"] = atoms.K_rows(trajectory.Ks.numpy()).tolist()
    if trajectory.names is not None:
        columns["name"] = list(trajectory.names)
    if trajectory.distortion is not None:
        columns["distortion"] = trajectory.distortion.tolist()
    head: dict[str, Any] = {
        **trajectory.extra,
        "format": NAME,
        "version": VERSION,
        "axes": "opencv",
        "width": trajectory.width,
        "height": trajectory.height,
        "metric": trajectory.metric,
    }
    if trajectory.nominal_time:
        head["nominal_time"] = True
    if trajectory.assumed:
        head["assumed"] = list(trajectory.assumed)
    if trajectory.fisheye or trajectory.distortion is not None:
        head["lens"] = "fisheye" if trajectory.fisheye else "opencv"
    frames = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    body = ",\n ".join(compact(frame) for frame in frames)
    files.write_text(path, compact(head)[:-1] + f', "frames": [\n {body}]}}\n', overwrite=overwrite)


def _read_npz(path: Path) -> Raw:
    what, data = str(path), Npz(path)
    if "version" in data:
        version = numbers(data["version"], (), f"{what}, version")
        _check_version(path, int(version) if version == VERSION else float(version))
    V = matrices(data["viewmats"], f"{what}, viewmats")
    n = len(V)
    metric = int(numbers(data["metric"], (), f"{what}, metric")) if "metric" in data else -1
    width, height = (whole(data[k], f"{what}, {k}", low=0) or None if k in data else None for k in ("width", "height"))
    names = data["names"] if "names" in data else np.array([])
    if names.dtype.kind not in "US" and names.size:
        raise InputError(f"{path}: names of type {names.dtype}, expected text")
    return Raw(
        V,
        "w2c",
        Ks=numbers(data["Ks"], (n, 3, 3), f"{what}, Ks") if "Ks" in data else None,
        time=numbers(data["timestamps"], (n,), f"{what}, timestamps") if "timestamps" in data else None,
        nominal_time="timestamps" not in data or ("nominal_time" in data and bool(data["nominal_time"].any())),
        size=_size(width, height, what),
        names=tuple(str(name) for name in names.ravel()) if names.size == n else None,
        metric={1: True, 0: False}.get(metric),
        assumed=tuple(str(a) for a in data["assumed"].ravel()) if "assumed" in data else (),
        distortion=numbers(data["distortion"], (n, 4), f"{what}, distortion") if "distortion" in data else None,
        fisheye="lens" in data and str(data["lens"]) == "fisheye",
    )


def _write_npz(trajectory: Trajectory, path: Path, overwrite: bool) -> None:
    if trajectory.extra:
        raise InputError(f"{path}: an npz cannot hold the extra keys {sorted(trajectory.extra)}; write .json instead")
    arrays: dict[str, np.ndarray] = {
        "viewmats": trajectory.viewmats.numpy(),
        "timestamps": trajectory.timestamps.numpy(),
        "width": np.array(trajectory.width or 0),
        "height": np.array(trajectory.height or 0),
        "metric": np.array(-1 if trajectory.metric is None else int(trajectory.metric), np.int8),
        "nominal_time": np.array(trajectory.nominal_time),
        "format": np.array(NAME),
        "version": np.array(VERSION),
        "lens": np.array("fisheye" if trajectory.fisheye else "opencv"),
    }
    if trajectory.Ks is not None:
        arrays["Ks"] = trajectory.Ks.numpy()
    if trajectory.names is not None:
        arrays["names"] = np.array(trajectory.names)
    if trajectory.assumed:
        arrays["assumed"] = np.array(trajectory.assumed)
    if trajectory.distortion is not None:
        arrays["distortion"] = trajectory.distortion.numpy()
    write_npz(path, arrays, overwrite=overwrite)


def _all_or_none(frames: list[dict[str, Any]], key: str, what: str) -> np.ndarray | None:
    held = [frame[key] for frame in frames if frame.get(key) is not None]
    if not held:
        return None
    if len(held) != len(frames):
        raise InputError(f"{what}: {len(held)} of {len(frames)} frames have {key!r}, expected all or none")
    return numbers(held, (len(frames), 4), f"{what}, {key}")


def _size(width: Any, height: Any, what: str) -> tuple[int, int] | None:
    if width is None or height is None:
        return None
    return whole(width, f"{what}, width"), whole(height, f"{what}, height")


FORMATS = (Format("mosaicmem", "our own JSON or npz", read, write),)
