"""Which format a file is, by its content."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mosaicmem.errors import InputError
from mosaicmem.io import files
from mosaicmem.io.arrays import Npz, read_npy
from mosaicmem.io.trajectories.actions import guess_dialect
from mosaicmem.io.trajectories.raw import json_file

_HEAD = 64 * 1024


@dataclass(frozen=True)
class Candidate:
    """A format a file may be in.

    Attributes:
        format: Name in `FORMATS`.
        confidence: In [0, 1]; above 0.5 it is read without asking.
        reason: What in the file says so.
    """

    format: str
    confidence: float
    reason: str


def detect(path: Path | str) -> list[Candidate]:
    """Formats the file or folder may be in, likeliest first; empty if none fits.

    Raises:
        InputError: if it does not exist, is empty, or is something known that holds no trajectory.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: no such file or folder; check the path")
    if path.is_dir():
        found = _folder(path)
    else:
        found = _file(path)
    return sorted(found, key=lambda c: -c.confidence)


def _folder(path: Path) -> list[Candidate]:
    def has(*names: str) -> bool:
        return all((path / name).is_file() for name in names)

    found = []
    for inner in ("", "sparse/0/", "sparse/", "0/"):
        binary = has(f"{inner}cameras.bin", f"{inner}images.bin")
        text = has(f"{inner}cameras.txt", f"{inner}images.txt")
        if binary:
            found.append(Candidate("colmap-bin", 0.95, f"{inner}cameras.bin and images.bin"))
        if text:
            found.append(Candidate("colmap-txt", 0.4 if binary else 0.95, f"{inner}cameras.txt and images.txt"))
        if binary or text:
            break
    if any(path.glob("pose/*.npz")) and any(path.glob("intrinsics/*.npz")):
        found.append(Candidate("vipe", 0.95, "pose/*.npz and intrinsics/*.npz"))
    if has("poses.npy", "intrinsics.npy"):
        found.append(Candidate("lingbot", 0.95, "poses.npy and intrinsics.npy"))
    if has("w2c.txt", "intrinsics.txt"):
        found.append(Candidate("spatia", 0.95, "w2c.txt and intrinsics.txt"))
    if next(path.glob("*.pose.txt"), None) is not None:
        found.append(Candidate("mat4", 0.9, "*.pose.txt files"))
    if has("transforms.json"):
        found += _file(path / "transforms.json")
    return found


def _file(path: Path) -> list[Candidate]:
    with files.require_file(path).open("rb") as file:
        head = file.read(_HEAD)
    if not head.strip():
        raise InputError(f"{path}: empty, expected a trajectory; was it written completely?")
    other = {
        b"ply\n": "a point cloud",
        b"ply\r": "a point cloud",
        b"\x76\x2f\x31\x01": "an EXR image",
        b"RRF": "a rerun recording",
    }
    for magic, what in other.items():
        if head.startswith(magic):
            raise InputError(f"{path}: {what}, expected a trajectory")
    if head.startswith(b"\x93NUMPY"):
        return _npy(path)
    if head.startswith(b"PK"):
        return _npz(path)
    if b"\0" in head:
        if path.name in ("cameras.bin", "images.bin"):
            return [Candidate("colmap-bin", 0.9, f"named {path.name}")]
        return []
    try:
        text = head.decode("utf-8-sig", errors="ignore")
    except UnicodeDecodeError:
        return []
    if text.lstrip()[:1] in ("{", "["):
        return _json(path)
    return _text(text, path, complete=len(head) < _HEAD)


def _npy(path: Path) -> list[Candidate]:
    shape = read_npy(path).shape
    if len(shape) == 2 and shape[1] == 17:
        return [Candidate("llff", 0.95, "rows of 17 numbers")]
    if len(shape) == 2 and shape[1] == 5:
        return [Candidate("worldmem", 0.4, "rows of 5 numbers")]
    if len(shape) == 3 and shape[1:] in ((4, 4), (3, 4)):
        if path.name == "poses.npy" and (path.parent / "intrinsics.npy").is_file():
            return [Candidate("lingbot", 0.9, "poses.npy beside intrinsics.npy"), Candidate("npy", 0.4, "matrices")]
        return [Candidate("npy", 0.6, "bare matrices; the direction is not stated")]
    return []


def _npz(path: Path) -> list[Candidate]:
    keys = set(Npz(path))
    tests = (
        ("mosaicmem", {"viewmats"}),
        ("lyra", {"w2c", "image_height"}),
        ("gen3c", {"w2c"}),
        ("gen3c", {"w2cs_all"}),
        ("mg35", {"extrinsics_c2w"}),
        ("mg35", {"extrinsics"}),
        ("sana-wm", {"c2w", "fps"}),
        ("vipe", {"data", "inds"}),
        ("pytorch3d", {"R", "T"}),
    )
    for name, needed in tests:
        if needed <= keys:
            return [Candidate(name, 0.9, f"npz with {' and '.join(sorted(needed))}")]
    return [Candidate("npy", 0.4, f"npz with {', '.join(sorted(keys)[:4])}")]


def _json(path: Path) -> list[Candidate]:
    data = json_file(path)
    if isinstance(data, list):
        first = data[0] if data and isinstance(data[0], dict) else {}
        if {"rotation", "position"} <= set(first):
            return [Candidate("3dgs", 0.95, "list with rotation and position")]
        row = data[0] if data and isinstance(data[0], list) else ()
        return [Candidate("worldmem", 0.4, "rows of 5 numbers")] if len(row) == 5 else []
    if not isinstance(data, dict):
        return []
    if isinstance(data.get("patches"), list) and "next_id" in data:
        raise InputError(f"{path}: a memory file of the predecessor, expected a trajectory; import it as a memory")
    return _json_object(data)


def _json_object(data: dict[str, Any]) -> list[Candidate]:
    frame, pose, point, entry = (_first(data.get(k)) for k in ("frames", "poses", "path", "data"))
    if str(data.get("format", "")).startswith("mosaicmem."):
        return [Candidate("mosaicmem", 1.0, f"format {data['format']!r}")]
    if "world_to_camera" in pose:
        return [Candidate("predecessor", 0.95, "poses[].world_to_camera")]
    if "camera_path" in data:
        return [Candidate("ns-path", 0.95, "camera_path")]
    if "transform_matrix" in frame:
        if "camera_angle_x" in data and "fl_x" not in data and "fl_x" not in frame:
            return [Candidate("blender", 0.9, "camera_angle_x and no fl_x"), Candidate("nerfstudio", 0.3, "frames")]
        return [Candidate("nerfstudio", 0.95, "frames[].transform_matrix")]
    if "R" in point:
        return [Candidate("ngp-path", 0.95, "path[].R")]
    if isinstance(data.get("extrinsic"), list):
        return [Candidate("worldstereo", 0.9, "a list 'extrinsic'")]
    if "actor_pos" in entry:
        return [Candidate("mind", 0.95, "data[].actor_pos")]
    if "action_seq" in data:
        return [Candidate("actions", 0.9, "action_seq; which DreamX it is has to be declared")]
    inner = next(iter(data.values()), None)
    if isinstance(inner, dict) and "extrinsic" in inner:
        return [Candidate("worldplay", 0.9, "numbered entries with 'extrinsic'")]
    if isinstance(inner, dict) and any(re.fullmatch(r"cam\d+", key) for key in inner):
        return [Candidate("recam", 0.95, "frames of cameras")]
    return []


def _first(value: Any) -> dict[str, Any]:
    return value[0] if isinstance(value, list) and value and isinstance(value[0], dict) else {}


def _text(text: str, path: Path, *, complete: bool) -> list[Candidate]:
    raw = text.splitlines() if complete else text.splitlines()[:-1]
    commented = any(line.lstrip().startswith("#") for line in raw)
    lines = [line.split("#", 1)[0].strip() for line in raw]
    lines = [line for line in lines if line]
    if path.name in ("cameras.txt", "images.txt") and commented:
        return [Candidate("colmap-txt", 0.8, f"named {path.name}")]
    if guess_dialect(text) is not None:
        return [Candidate("actions", 0.9, f"{guess_dialect(text)} tokens")]
    rows = [line.split() for line in lines[:50]]
    numeric = [len(row) if _numeric(row) else 0 for row in rows]
    body = numeric[1:] if numeric and numeric[0] == 0 else numeric
    if (body and set(body) <= {19}) or (body and set(body) <= {18}):
        return [Candidate("re10k", 0.95, f"{body[0]} columns")]
    if numeric and set(numeric) == {8}:
        return [Candidate("tum", 0.9, "8 columns")]
    if numeric and set(numeric) == {12}:
        return [Candidate("kitti", 0.6, "12 columns")]
    if len(numeric) >= 5 and numeric[:5] == [3, 4, 4, 4, 4]:
        return [Candidate("redwood", 0.95, "blocks of three integers and 4 rows")]
    commas = [line.split(",") for line in lines[:50]]
    if commas and all(_numeric(row) and len(row) >= 8 for row in commas):
        return [Candidate("euroc", 0.9 if commented else 0.6, "at least 8 columns with commas")]
    if commas and all(_numeric(row) and len(row) == 5 for row in commas):
        return [Candidate("worldmem", 0.4, "rows of 5 numbers")]
    return []


def _numeric(words: list[str]) -> bool:
    try:
        for word in words:
            if word.strip():
                float(word)
    except ValueError:
        return False
    return True
