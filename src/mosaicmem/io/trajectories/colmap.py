"""COLMAP sparse models, text and binary: cameras and images. Points are written where there are some, never needed."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mosaicmem._shapes import Float, UInt8
from mosaicmem.errors import InputError
from mosaicmem.io import files
from mosaicmem.io.trajectories import atoms
from mosaicmem.io.trajectories.raw import MAX_BYTES, Options, Raw, parse_row
from mosaicmem.io.trajectories.spec import Format, line, names_of, need_pixels, need_size
from mosaicmem.io.trajectories.trajectory import Trajectory

MODELS = ("SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "OPENCV_FISHEYE")
_PARAMS = (3, 4, 4, 5, 8, 8)
BINARY_MAX = 2**30  # images.bin carries every 2D point
_TRACK = np.dtype(
    [("id", "<u8"), ("xyz", "<f8", 3), ("rgb", "u1", 3), ("error", "<f8"), ("length", "<u8"), ("image", "<u4"),
     ("index", "<u4")]
)  # fmt: skip
"""A point of `points3D.bin` that one image sees."""


@dataclass(frozen=True)
class _Camera:
    width: int
    height: int
    K: tuple[float, float, float, float]
    distortion: tuple[float, float, float, float]
    fisheye: bool


@dataclass(frozen=True)
class _Image:
    id: int
    q: tuple[float, ...]
    t: tuple[float, ...]
    camera: int
    name: str


@dataclass(frozen=True)
class SparsePoints:
    """`n` points, each seen by the one image that it comes from, with error 0.

    Attributes:
        xyz: World positions.
        rgb: Colours.
        uv: Where the image shows them, pixels.
        starts: `[images + 1]`: what image `i` sees are rows `starts[i]` to `starts[i + 1]`.
    """

    xyz: Float[np.ndarray, "n 3"]
    rgb: UInt8[np.ndarray, "n 3"]
    uv: Float[np.ndarray, "n 2"]
    starts: Sequence[int]

    @staticmethod
    def none(images: int) -> SparsePoints:
        """No points at all."""
        return SparsePoints(np.zeros((0, 3)), np.zeros((0, 3), np.uint8), np.zeros((0, 2)), [0] * (images + 1))

    def rows(self, image: int) -> slice:
        """Rows that an image sees."""
        return slice(self.starts[image], self.starts[image + 1])


def find_model(path: Path, suffix: str) -> Path:
    """The folder with `cameras` and `images` of this suffix: `path`, its `sparse/0`, or that of a file in it."""
    root = path if path.is_dir() else path.parent
    for folder in (root, root / "sparse/0", root / "sparse", root / "0"):
        if (folder / f"cameras{suffix}").is_file() and (folder / f"images{suffix}").is_file():
            return folder
    raise InputError(f"{path}: no cameras{suffix} and images{suffix} here or in sparse/0, expected a COLMAP model")


def read_text(path: Path, options: Options) -> Raw:
    """`cameras.txt` and `images.txt`."""
    folder = find_model(path, ".txt")
    cameras, images = {}, []
    for number, text in _content(folder / "cameras.txt"):
        words, what = text.split(), f"{folder / 'cameras.txt'}, line {number}"
        if len(words) < 5:
            raise InputError(f"{what}: {len(words)} columns, expected id, model, width, height and parameters")
        if words[1] not in MODELS:
            raise InputError(f"{what}: camera model {words[1]!r}, expected one of {', '.join(MODELS)}; undistort first")
        identity, width, height = _integers([words[0], *words[2:4]], what)
        cameras[identity] = _camera(MODELS.index(words[1]), width, height, parse_row(words[4:], what), what)
    lines = [t for t in files.read_text(folder / "images.txt", MAX_BYTES).splitlines() if not t.startswith("#")]
    while lines and not lines[0].strip():
        lines.pop(0)
    for text in lines[::2]:  # every second line lists 2D points and may be blank
        if not text.strip():
            continue
        words, what = text.split(maxsplit=9), f"{folder / 'images.txt'}, image {len(images) + 1}"
        if len(words) != 10:
            raise InputError(f"{what}: {len(words)} columns, expected id, qwxyz, t, camera, name")
        row = parse_row(words[1:8], what)
        identity, camera = _integers([words[0], words[8]], what)
        images.append(_Image(identity, tuple(row[:4]), tuple(row[4:]), camera, words[9].strip()))
    return _raw(folder, cameras, images)


def read_binary(path: Path, options: Options) -> Raw:
    """`cameras.bin` and `images.bin`; `rigs.bin` and `frames.bin` of newer versions are not needed."""
    folder = find_model(path, ".bin")
    cameras = dict(_binary_cameras(folder / "cameras.bin"))
    return _raw(folder, cameras, list(_binary_images(folder / "images.bin")))


def write_text(trajectory: Trajectory, path: Path, overwrite: bool, points: SparsePoints | None = None) -> None:
    """The three text files."""
    cameras, of_image = _cameras_of(trajectory)
    names, points = _safe_names(trajectory), points or SparsePoints.none(len(trajectory))
    files.refuse_existing(path, overwrite)
    rows = (f"{i} {MODELS[model]} {w} {h} {line(np.array(p))}\n" for i, (model, w, h, p) in enumerate(cameras, 1))
    _write(path / "cameras.txt", (row.encode() for row in rows), overwrite)

    def images() -> Iterator[bytes]:
        for i, (pose, name) in enumerate(zip(_poses(trajectory), names, strict=True)):
            seen = points.rows(i)
            sight = " ".join(f"{u!r} {v!r} {k}" for k, (u, v) in enumerate(points.uv[seen].tolist(), seen.start + 1))
            yield f"{i + 1} {line(pose)} {of_image[i]} {name}\n{sight}\n".encode()

    def tracks() -> Iterator[bytes]:
        for i in range(len(trajectory)):
            seen = points.rows(i)
            table = zip(points.xyz[seen].tolist(), points.rgb[seen].tolist(), strict=True)
            for k, ((x, y, z), (r, g, b)) in enumerate(table):
                yield f"{seen.start + k + 1} {x!r} {y!r} {z!r} {r} {g} {b} 0 {i + 1} {k}\n".encode()

    _write(path / "images.txt", images(), overwrite)
    _write(path / "points3D.txt", tracks(), overwrite)


def write_binary(trajectory: Trajectory, path: Path, overwrite: bool, points: SparsePoints | None = None) -> None:
    """The three binary files; `rigs.bin` and `frames.bin` are left out."""
    cameras, of_image = _cameras_of(trajectory)
    names, points = _safe_names(trajectory), points or SparsePoints.none(len(trajectory))
    files.refuse_existing(path, overwrite)
    parts = [struct.pack("<Q", len(cameras))]
    for i, (model, w, h, params) in enumerate(cameras, 1):
        parts.append(struct.pack(f"<IiQQ{len(params)}d", i, model, w, h, *params))
    _write(path / "cameras.bin", parts, overwrite)

    def images() -> Iterator[bytes]:
        yield struct.pack("<Q", len(trajectory))
        for i, (pose, name) in enumerate(zip(_poses(trajectory), names, strict=True)):
            seen = points.rows(i)
            sight = np.zeros(seen.stop - seen.start, [("uv", "<f8", 2), ("point", "<i8")])
            sight["uv"], sight["point"] = points.uv[seen], np.arange(seen.start, seen.stop) + 1
            head = struct.pack("<I7dI", i + 1, *pose, of_image[i]) + name.encode() + b"\0"
            yield head + struct.pack("<Q", len(sight)) + sight.tobytes()

    def tracks() -> Iterator[bytes]:
        yield struct.pack("<Q", len(points.xyz))
        for i in range(len(trajectory)):
            seen = points.rows(i)
            table = np.zeros(seen.stop - seen.start, _TRACK)
            table["id"], table["length"], table["image"] = np.arange(seen.start, seen.stop) + 1, 1, i + 1
            table["xyz"], table["rgb"], table["index"] = points.xyz[seen], points.rgb[seen], np.arange(len(table))
            yield table.tobytes()

    _write(path / "images.bin", images(), overwrite)
    _write(path / "points3D.bin", tracks(), overwrite)


def _raw(folder: Path, cameras: dict[int, _Camera], images: list[_Image]) -> Raw:
    if not images:
        raise InputError(f"{folder}: the model has no images, expected at least one; did the reconstruction fail?")
    images = sorted(images, key=lambda image: image.id)
    missing = [image.name for image in images if image.camera not in cameras]
    if missing:
        raise InputError(
            f"{folder}: image {missing[0]!r} names a camera that does not exist, expected {sorted(cameras)}"
        )
    used = [cameras[image.camera] for image in images]
    sizes = {(c.width, c.height) for c in used}
    if len(sizes) > 1 or len({c.fisheye for c in used}) > 1:
        raise InputError(f"{folder}: cameras of {len(sizes)} sizes or kinds, expected one; undistort to one size first")
    q, t = np.array([i.q for i in images]), np.array([i.t for i in images])
    distortion = np.array([c.distortion for c in used])
    return Raw(
        atoms.compose(atoms.quat_to_rotation(q), t),
        "w2c",
        quaternions=q,
        quaternion_order="wxyz",
        Ks=atoms.K_from_rows(np.array([c.K for c in used])),
        size=sizes.pop(),
        names=tuple(i.name for i in images),
        distortion=distortion if distortion.any() else None,
        fisheye=used[0].fisheye,
    )


def _camera(model: int, width: int, height: int, p: list[float], what: str) -> _Camera:
    if len(p) != _PARAMS[model]:
        raise InputError(f"{what}: {len(p)} parameters for {MODELS[model]}, expected {_PARAMS[model]}")
    if not (0 < width < 2**20 and 0 < height < 2**20):
        raise InputError(f"{what}: image size {width}x{height}, expected pixels")
    K = (p[0], p[0], p[1], p[2]) if model in (0, 2, 3) else (p[0], p[1], p[2], p[3])
    k = {2: p[3:4], 3: p[3:5], 4: p[4:8], 5: p[4:8]}.get(model, [])
    k1, k2, k3, k4 = [*k, 0.0, 0.0, 0.0, 0.0][:4]
    return _Camera(width, height, K, (k1, k2, k3, k4), model == 5)


class _Cursor:
    """Reads a binary file in order and says where it ends too early."""

    def __init__(self, path: Path) -> None:
        self.path, self.data, self.at = path, files.read_bytes(path, BINARY_MAX), 0

    def take(self, layout: str) -> tuple[float, ...]:
        size = struct.calcsize(layout)
        self.skip(size)
        return struct.unpack_from(layout, self.data, self.at - size)

    def skip(self, size: int) -> None:
        if self.at + size > len(self.data):
            raise InputError(f"{self.path}: ends at byte {len(self.data):,}, expected more; was it copied completely?")
        self.at += size

    def count(self, smallest: int) -> int:
        (n,) = self.take("<Q")
        if n * smallest > len(self.data) - self.at:
            raise InputError(f"{self.path}: claims {n:,} records, expected at most {len(self.data):,} bytes of them")
        return int(n)

    def text(self) -> str:
        end = self.data.find(b"\0", self.at)
        if end < 0:
            raise InputError(f"{self.path}: an image name that does not end, expected a NUL byte")
        name, self.at = self.data[self.at : end], end + 1
        try:
            return name.decode()
        except UnicodeDecodeError:
            raise InputError(f"{self.path}: an image name that is no UTF-8, expected text") from None


def _binary_cameras(path: Path) -> Iterator[tuple[int, _Camera]]:
    cursor = _Cursor(path)
    for _ in range(cursor.count(48)):
        identity, model, width, height = (int(v) for v in cursor.take("<IiQQ"))
        if not 0 <= model < len(MODELS):
            raise InputError(f"{path}: camera model number {model}, expected one of {', '.join(MODELS)}")
        yield identity, _camera(model, width, height, list(cursor.take(f"<{_PARAMS[model]}d")), str(path))


def _binary_images(path: Path) -> Iterator[_Image]:
    cursor = _Cursor(path)
    for _ in range(cursor.count(73)):
        values = cursor.take("<I7dI")
        name = cursor.text()
        cursor.skip(24 * cursor.count(24))
        yield _Image(int(values[0]), values[1:5], values[5:8], int(values[8]), name)


def _cameras_of(trajectory: Trajectory) -> tuple[list[tuple[int, int, int, tuple[float, ...]]], list[int]]:
    """The different cameras as (model, width, height, parameters), and the number (from 1) each pose uses."""
    width, height = need_size(trajectory, "COLMAP")
    rows = atoms.K_rows(need_pixels(trajectory, "COLMAP"))
    model = 1
    if trajectory.distortion is not None:
        rows, model = np.concatenate([rows, trajectory.distortion.numpy()], 1), 4
    if trajectory.fisheye:
        rows, model = np.pad(rows, ((0, 0), (0, 8 - rows.shape[1]))), 5
    number: dict[tuple[float, ...], int] = {}
    of_image = [number.setdefault(tuple(row), len(number) + 1) for row in rows.tolist()]
    return [(model, width, height, params) for params in number], of_image


def _poses(trajectory: Trajectory) -> np.ndarray:
    V = trajectory.viewmats.numpy()
    return np.concatenate([atoms.rotation_to_quat(V[:, :3, :3]), V[:, :3, 3]], 1)


def _safe_names(trajectory: Trajectory) -> tuple[str, ...]:
    names = names_of(trajectory, "{:05d}.png")
    if len(set(names)) != len(names):
        raise InputError(f"{trajectory.source}: two poses share an image name, which COLMAP cannot hold; rename them")
    bad = [n for n in names if not n.strip() or n != n.strip() or any(c in n for c in "\0\r\n")]
    if bad:
        raise InputError(f"{trajectory.source}: image name {bad[0]!r}, expected text without line breaks or NUL")
    return names


def _content(path: Path) -> list[tuple[int, str]]:
    lines = files.read_text(path, MAX_BYTES).splitlines()
    return [(i, t) for i, t in enumerate(lines, 1) if t.strip() and not t.lstrip().startswith("#")]


def _integers(words: list[str], what: str) -> list[int]:
    try:
        return [int(word) for word in words]
    except ValueError:
        raise InputError(f"{what}: found {words}, expected whole numbers") from None


def _write(path: Path, parts: Iterable[bytes], overwrite: bool) -> None:
    with files.atomic_path(path, overwrite=overwrite) as temporary, temporary.open("wb") as file:
        file.writelines(parts)


FORMATS = (
    Format("colmap-txt", "COLMAP text model", read_text, write_text, "T"),
    Format("colmap-bin", "COLMAP binary model", read_binary, write_binary, "T"),
)
