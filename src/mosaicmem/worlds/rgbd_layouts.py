"""Layouts of RGB-D folders: which files belong to a frame, when it was taken, where from, and how depth is counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from mosaicmem._shapes import Float, Tensor
from mosaicmem.errors import InputError
from mosaicmem.geometry import se3
from mosaicmem.io import files
from mosaicmem.io.trajectories import Trajectory, read_trajectory

MAX_GAP_SECONDS = 0.03  # between colour, depth and pose that are called simultaneous
_IMAGES = (".jpg", ".jpeg", ".png")
_FOLDERS = ("image", "images", "rgb", "color", "colour")
_NOMINAL_FPS = 30.0
_SHAPE_TOLERANCE = 0.02
_HALF_PIXEL = 0.5  # Redwood and TUM centre the first pixel at (0, 0), we at (0.5, 0.5)

# fx, fy, cx, cy as published, of 640x480 images
_VGA = (640, 480)
_REDWOOD = (525.0, 525.0, 319.5 + _HALF_PIXEL, 239.5 + _HALF_PIXEL)
_TUM = {
    "freiburg1": (517.3, 516.5, 318.6 + _HALF_PIXEL, 255.3 + _HALF_PIXEL),
    "freiburg2": (520.9, 521.0, 325.1 + _HALF_PIXEL, 249.7 + _HALF_PIXEL),
    "freiburg3": (535.4, 539.2, 320.1 + _HALF_PIXEL, 247.6 + _HALF_PIXEL),
}
_TUM_DEFAULT = (525.0, 525.0, 319.5 + _HALF_PIXEL, 239.5 + _HALF_PIXEL)
_REPLICA = (600.0, 600.0, 599.5 + _HALF_PIXEL, 339.5 + _HALF_PIXEL)
_REPLICA_SIZE = (1200, 680)
_REPLICA_UNITS = 6553.5
_SEVEN_SCENES = (585.0, 585.0, 320.0, 240.0)  # published as the middle of the image: already ours


@dataclass(frozen=True)
class Layout:
    """`n` frames of a folder: files, seconds, float64 camera-from-world poses, depth units a metre, intrinsics.

    `published` is the size of the images that intrinsics belong to which no file of the folder says; None: a file does.
    """

    kind: str
    colour: tuple[Path, ...]
    depth: tuple[Path, ...]
    times: tuple[float, ...]
    viewmats: Float[Tensor, "n 4 4"]
    depth_units: float
    intrinsics: tuple[float, float, float, float] | None
    published: tuple[int, int] | None = None


def recognise(root: Path) -> Layout:
    """Read the layout of a folder.

    Raises:
        InputError: if no layout fits; the message says what each would need.
    """
    if (root / "rgb.txt").is_file() and (root / "depth.txt").is_file():
        return _tum(root)
    if any(root.glob("frame-*.color.png")):
        return _seven_scenes(root)
    if (root / "traj.txt").is_file() and (root / "results").is_dir():
        return _replica(root)
    folder = next((root / name for name in _FOLDERS if (root / name).is_dir()), None)
    if folder is not None and (root / "depth").is_dir():
        return _folders(root, folder)
    raise InputError(
        f"{root}: no RGB-D recording found; expected image/ (or images/, rgb/) and depth/ beside a trajectory file, or "
        "rgb.txt, depth.txt and groundtruth.txt (TUM), or frame-000000.color.png and its siblings (7-Scenes), or "
        "results/ and traj.txt (Replica)"
    )


def _folders(root: Path, folder: Path) -> Layout:
    colour, depth = _numbered(root, folder, _IMAGES), _numbered(root, root / "depth", (".png", ".npy"))
    log = root / "trajectory.log"
    redwood = log.is_file()
    trajectory = read_trajectory(log, format="redwood") if redwood else _only_trajectory(root)
    if not len(colour) == len(depth) == len(trajectory):
        raise InputError(
            f"{root}: {len(colour)} images in {folder.name}/, {len(depth)} in depth/ and {len(trajectory)} poses in "
            f"{trajectory.source}; expected one of each per frame. Remove what has no partner"
        )
    if not redwood:
        trajectory = _in_order_of(colour, trajectory)
    if trajectory.nominal_time:
        times = tuple(i / _NOMINAL_FPS for i in range(len(colour)))
    else:
        times = tuple(trajectory.timestamps.tolist())
    if redwood:
        return Layout("redwood", colour, depth, times, trajectory.viewmats, 1000.0, _REDWOOD, _VGA)
    intrinsics = _common_intrinsics(trajectory, colour[0])
    return Layout("generic", colour, depth, times, trajectory.viewmats, 1000.0, intrinsics)


def _only_trajectory(root: Path) -> Trajectory:
    """The one file in the folder that reads as a trajectory."""
    candidates = sorted(
        p for p in root.iterdir() if p.is_file() and p.suffix in (".txt", ".json", ".npz", ".log", ".csv")
    )
    problems = []
    for path in candidates:
        try:
            return read_trajectory(path)
        except InputError as error:
            problems.append(str(error))
    found = "; ".join(problems[:3]) or "there is no .txt, .json, .npz, .log or .csv file"
    raise InputError(f"{root}: no trajectory file beside the images ({found}); add one, for example trajectory.log")


def _in_order_of(colour: Sequence[Path], trajectory: Trajectory) -> Trajectory:
    """The poses in the order of the images, where the file names these; else as they are, one for each image."""
    stems = [Path(name).stem for name in trajectory.names or ()]
    wanted = [path.stem for path in colour]
    if len(set(stems)) != len(stems) or set(stems) != set(wanted):
        return trajectory
    row = {stem: i for i, stem in enumerate(stems)}
    return trajectory[[row[stem] for stem in wanted]]


def _common_intrinsics(trajectory: Trajectory, image: Path) -> tuple[float, float, float, float] | None:
    """Of all poses, in pixels of the images; a file may say them for another size, or for a picture of size 1."""
    if trajectory.fisheye or (trajectory.distortion is not None and bool(trajectory.distortion.any())):
        raise InputError(
            f"{trajectory.source}: a lens with distortion; expected pinhole images. 'mosaicmem world import' "
            "straightens those of a COLMAP or nerfstudio folder"
        )
    if trajectory.Ks is None:
        return None
    K = trajectory.Ks[0]
    if bool((trajectory.Ks - K).abs().max() > 1e-6):
        raise InputError(f"{trajectory.source}: intrinsics change along the recording; expected one camera")
    height, width = files.read_image(image).shape[:2]
    own_width, own_height = trajectory.width or width, trajectory.height or height
    if not trajectory.normalised and abs(own_width * height / (own_height * width) - 1) > _SHAPE_TOLERANCE:
        raise InputError(
            f"{trajectory.source}: intrinsics of {own_width}x{own_height} images, but {image} has {width}x{height} "
            "pixels; expected the same shape"
        )
    x, y = width / own_width, height / own_height
    return x * float(K[0, 0]), y * float(K[1, 1]), x * float(K[0, 2]), y * float(K[1, 2])


def _tum(root: Path) -> Layout:
    colour, depth = _listing(root, "rgb.txt"), _listing(root, "depth.txt")
    poses = read_trajectory(files.require_file(root / "groundtruth.txt"), format="tum")
    when = poses.timestamps.numpy()
    keep = []
    depth_times = np.array([t for t, _ in depth])
    for time, path in colour:
        near_depth, near_pose = _nearest(depth_times, time), _nearest(when, time)
        if abs(depth_times[near_depth] - time) < MAX_GAP_SECONDS and abs(when[near_pose] - time) < MAX_GAP_SECONDS:
            keep.append((time, path, depth[near_depth][1], near_pose))
    if not keep:
        raise InputError(
            f"{root}: no colour frame has a depth frame and a pose within {MAX_GAP_SECONDS} s; expected rgb.txt, "
            "depth.txt and groundtruth.txt of one recording"
        )
    times, images, depths, index = zip(*keep, strict=True)
    intrinsics = next((K for name, K in _TUM.items() if name in root.resolve().name), _TUM_DEFAULT)
    viewmats = poses.viewmats[list(index)]
    return Layout("tum", images, depths, times, viewmats, 5000.0, intrinsics, _VGA)


def _listing(root: Path, name: str) -> list[tuple[float, Path]]:
    """Lines `seconds relative/path` of a TUM list, in order of time."""
    rows = []
    for number, line in enumerate(files.read_text(root / name).splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        parts = line.split()
        try:
            time = float(parts[0])
        except ValueError:
            time = float("nan")
        if len(parts) != 2 or not np.isfinite(time):
            raise InputError(f"{root / name}, line {number}: found {line[:60]!r}, expected 'seconds path'")
        rows.append((time, files.require_file(_inside(root, parts[1]))))
    if not rows:
        raise InputError(f"{root / name}: lists no file; expected lines 'seconds path'")
    return sorted(rows)


def _nearest(times: np.ndarray, time: float) -> int:
    return int(np.abs(times - time).argmin())


def _seven_scenes(root: Path) -> Layout:
    colour, depth, poses, times = [], [], [], []
    for path in sorted(root.glob("frame-*.color.png")):
        stem = path.name.removesuffix(".color.png")
        pose = _matrix(files.require_file(_inside(root, f"{stem}.pose.txt")))
        number = stem.removeprefix("frame-")
        if not number.isdecimal():
            raise InputError(f"{path}: expected a name like frame-000000.color.png")
        if not np.isfinite(pose).all():
            continue  # the tracker was lost: the frame has no camera
        colour.append(_inside(root, path.name))
        depth.append(files.require_file(_inside(root, f"{stem}.depth.png")))
        times.append(int(number) / _NOMINAL_FPS)
        poses.append(pose)
    if not poses:
        raise InputError(f"{root}: no frame has a finite pose; expected 4x4 numbers in frame-*.pose.txt")
    c2w = torch.from_numpy(np.stack(poses))
    names = [f"{path.name.removesuffix('.color.png')}.pose.txt in {root}" for path in colour]
    c2w = _rotated(c2w, names)
    viewmats = se3.invert_rigid(c2w)
    return Layout("seven_scenes", tuple(colour), tuple(depth), tuple(times), viewmats, 1000.0, _SEVEN_SCENES, _VGA)


def _replica(root: Path) -> Layout:
    """Replica as NICE-SLAM rendered it: `results/frame000000.jpg`, `depth000000.png`, a 4x4 matrix a line."""
    results = root / "results"
    colour = _numbered(root, results, _IMAGES, "frame")
    depth = _numbered(root, results, (".png",), "depth")
    lines = [line for line in files.read_text(root / "traj.txt").splitlines() if line.strip()]
    if not len(colour) == len(depth) == len(lines):
        raise InputError(
            f"{root}: {len(colour)} images and {len(depth)} depth images in results/, {len(lines)} poses in traj.txt; "
            "expected one of each per frame"
        )
    names = [f"{root / 'traj.txt'}, pose {i}" for i in range(len(lines))]
    c2w = torch.from_numpy(np.stack([_numbers(line, name) for line, name in zip(lines, names, strict=True)]))
    K, units, published = _replica_camera(root)
    times = tuple(i / _NOMINAL_FPS for i in range(len(colour)))
    return Layout("replica", colour, depth, times, se3.invert_rigid(_rotated(c2w, names)), units, K, published)


def _replica_camera(root: Path) -> tuple[tuple[float, float, float, float], float, tuple[int, int] | None]:
    """Intrinsics and depth units a metre of `cam_params.json`, beside the scene or in it; else the published ones."""
    path = next((p for p in (root / "cam_params.json", root.resolve().parent / "cam_params.json") if p.is_file()), None)
    if path is None:
        return _REPLICA, _REPLICA_UNITS, _REPLICA_SIZE
    data = files.read_json(path)
    camera = data.get("camera") if isinstance(data, dict) else None
    if not isinstance(camera, dict):
        raise InputError(f"{path}: expected an object 'camera' with fx, fy, cx, cy and scale")
    fx, fy, cx, cy, scale = (files.finite(camera.get(k), f"{path}, {k}") for k in ("fx", "fy", "cx", "cy", "scale"))
    if scale <= 0:
        raise InputError(f"{path}: scale {scale:g}, expected depth units a metre, more than 0")
    return (fx, fy, cx + _HALF_PIXEL, cy + _HALF_PIXEL), scale, None


def _numbers(text: str, what: str) -> np.ndarray:
    try:
        values = [float(word) for word in text.split()]
    except ValueError:
        values = []
    if len(values) != 16 or not np.isfinite(values).all():
        raise InputError(f"{what}: expected 16 numbers (a 4x4 camera-to-world matrix), found {len(values)}")
    return np.array(values, dtype=np.float64).reshape(4, 4)


def _rotated(c2w: Float[Tensor, "n 4 4"], names: Sequence[str]) -> Float[Tensor, "n 4 4"]:
    """Camera-to-world matrices whose rotations are exactly ones.

    They are written with few digits, so that a rotation is off by up to 1e-3: the nearest one stands for it.
    """
    error = (c2w[:, :3, :3] @ c2w[:, :3, :3].mT - torch.eye(3, dtype=c2w.dtype)).abs().amax((1, 2))
    if float(error.max()) > 1e-2:
        worst = int(error.argmax())
        raise InputError(
            f"{names[worst]}: holds no rotation (|R R^T - 1| = {float(error[worst]):.2g}); expected a camera-to-world "
            "matrix"
        )
    return se3.make_transform(se3.nearest_rotation(c2w[:, :3, :3]), c2w[:, :3, 3])


def _matrix(path: Path) -> np.ndarray:
    try:
        values = [float(word) for word in files.read_text(path, 2**16).split()]
    except ValueError:
        values = []
    if len(values) != 16:
        raise InputError(f"{path}: expected 16 numbers (a 4x4 camera-to-world matrix), found {len(values)}")
    return np.array(values, dtype=np.float64).reshape(4, 4)


def _numbered(root: Path, folder: Path, suffixes: tuple[str, ...], start: str = "") -> tuple[Path, ...]:
    """Files of a folder in the order of the numbers in their names, so that 10 follows 9."""
    found = [p for p in folder.iterdir() if p.suffix.lower() in suffixes and p.name.startswith(start)]
    if not found:
        raise InputError(f"{folder}: holds no file {start}*{', '.join(suffixes)}; expected one per frame")
    return tuple(_inside(root, str(p.relative_to(root))) for p in sorted(found, key=lambda p: _number(p.stem)))


def _number(stem: str) -> tuple[int, str]:
    digits = "".join(c for c in stem if c.isdecimal() and c.isascii())
    return (int(digits) if 0 < len(digits) < 18 else 0, stem)


def _inside(root: Path, relative: str) -> Path:
    """A path in the folder; links out of it are refused like `..`."""
    return root / files.safe_join(root, relative).relative_to(root.resolve())
