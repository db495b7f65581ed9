"""`memory.json` of the Rust crate this library follows: patches with tiles of latents, made keyframes again.

A patch there is a tile of latent cells with one pose, one depth a cell, and a centre of its own. Patches of one pose
become one keyframe. Where a centre is not where the tile's own depth puts it, somebody edited the memory: such a patch
is moved by the difference, so that the edit shows at last. A flip or a scaling cannot be told from moves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mosaicmem.errors import GeometryError, InputError
from mosaicmem.geometry import se3
from mosaicmem.geometry.cameras import Cameras
from mosaicmem.io import files
from mosaicmem.io.trajectories import atoms
from mosaicmem.io.trajectories.raw import numbers, objects, require, scalar, whole
from mosaicmem.memory.patches import Group, Keyframe
from mosaicmem.memory.store import PatchStore

MOVED = 1e-3  # of its depth: a centre farther off than this was edited
MAX_CELLS = 2**24  # of one keyframe
_ON_GRID = 1e-3  # cells
_POSE = ("tx", "ty", "tz", "qw", "qx", "qy", "qz")
_LENS = ("fx", "fy", "cx", "cy", "width", "height")
_DEFAULT_LENS = (1.0, 1.0, 0.0, 0.0, 1.0, 1.0)  # the crate's, which no picture has
_LARGEST = 2**20


@dataclass(frozen=True)
class CrateMemory:
    """What a file holds.

    Attributes:
        store: Its patches.
        stride, channels: Pixels a latent cell, and channels of it.
        patches: How many patches the file lists.
        moved: How many were edited, and are placed where the edit put them.
        merged: How many were there twice, equal in every number.
        skipped: What was left out and why.
        notes: What had to be assumed.
    """

    store: PatchStore
    stride: int
    channels: int
    patches: int
    moved: int
    merged: int
    skipped: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Tile:
    """A patch: where it lies in its frame (cells), what it holds, and by how much it was moved (world)."""

    frame: tuple[Any, ...]
    row: int
    column: int
    stride: float
    latent: np.ndarray  # [h w c]
    depth: np.ndarray  # [h w], 0 unknown
    shift: np.ndarray  # [3]
    reach: float  # depth of its middle

    def same(self, other: _Tile) -> bool:
        pairs = ((self.latent, other.latent), (self.depth, other.depth), (self.shift, other.shift))
        return all(a.shape == b.shape and np.array_equal(a, b) for a, b in pairs)


@dataclass
class _Frame:
    """Tiles of one pose that do not lie on each other, by place."""

    tiles: dict[tuple[int, int], _Tile] = field(default_factory=dict)

    @property
    def first(self) -> _Tile:
        return next(iter(self.tiles.values()))


def is_crate_memory(path: Path) -> bool:
    """Whether a file begins like such a memory: a large one is recognised without being read."""
    if path.suffix.lower() != ".json" or not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(4096)
    return b'"patches"' in head


def read_crate_memory(
    path: Path, *, size: tuple[int, int] | None = None, skip_bad: bool = False, upright: bool = False
) -> CrateMemory:
    """Read a `memory.json`.

    Args:
        path: The file.
        size: `(width, height)` of the pictures, for old files without intrinsics: `fx = fy = W`, centre W/2, H/2.
        skip_bad: Leave out and count patches that cannot be used, in place of an error.
        upright: Its own camera builder puts y up, so that its pictures are half a turn about the view axis; this turns
            cameras and tiles back. No point moves.

    Raises:
        InputError: if the file is no such memory, or a patch cannot be used; the message names patch and field.
    """
    data, what = files.read_json(path), str(path)
    entries = objects(require(data, "patches", what), f"{what}, patches")
    notes = [] if isinstance(data.get("config"), dict) else ["config is missing; ours is used"]
    tiles, skipped = list[_Tile](), list[str]()
    for number, entry in enumerate(entries):
        try:
            tiles.append(_tile(entry, f"{what}, patch {entry.get('id', number)!s:.20}", size))
        except InputError as error:
            if not skip_bad:
                raise InputError(f"{error}. Leave such patches out with --skip-bad") from error
            skipped.append(str(error))
    if not tiles:
        raise InputError(f"{path}: no patch of {len(entries):,} can be used; the first: {skipped[0]}")
    if any(tile.frame[-1] for tile in tiles):
        notes.append("intrinsics fx = fy = W and a centred principal point, as the crate has them")
    stride, channels = _common(tiles, what)
    frames, merged = _frames(tiles)
    store, moved = _store(frames, stride, upright)
    return CrateMemory(store, stride, channels, len(entries), moved, merged, tuple(skipped), tuple(notes))


def _tile(entry: dict[str, Any], what: str, size: tuple[int, int] | None) -> _Tile:
    h, w = (whole(require(entry, f"latent_{name}", what), f"{what}, latent_{name}") for name in ("height", "width"))
    flat = numbers(require(entry, "latent", what), (None,), f"{what}, latent")
    shape = numbers(entry.get("latent_shape", [0, 0, 0]), (3,), f"{what}, latent_shape")
    channels = int(shape[0]) or len(flat) // (h * w)  # an older file does not say
    if len(flat) != h * w * channels or not channels:
        raise InputError(f"{what}: latent has {len(flat)} numbers, expected {h} x {w} x {channels or 'channels'}")
    if not np.isfinite(flat).all():
        raise InputError(f"{what}: latent is not finite; expected numbers")
    x, y, width, height = numbers(require(entry, "source_rect", what), (4,), f"{what}, source_rect").tolist()
    cell = width / w
    if not (cell > 0 and np.isfinite([x, y, width, height]).all()) or abs(height / h - cell) > 1e-3 * cell:
        raise InputError(f"{what}: source_rect {width:g}x{height:g} for {w}x{h} cells, expected square cells")
    column, row = x / cell, y / cell
    if min(row, column) < -_ON_GRID or max(abs(v - round(v)) for v in (row, column)) > _ON_GRID:
        raise InputError(
            f"{what}: source_rect begins at {x:g}, {y:g}, which is no multiple of its cells of {cell:g} px"
        )
    lens, assumed = _lens(entry, what, size)
    pose = require(entry, "source_pose", what)
    motion = require(pose, "world_to_camera", f"{what}, source_pose")
    V = tuple(scalar(motion, name, f"{what}, source_pose") for name in _POSE)
    middle = scalar(entry, "source_depth", what)
    depth = _depths(entry, h, w, middle, what)
    _check_coordinates(entry, x, y, cell, h, w, what)
    time = scalar(entry, "source_timestamp", what) if "source_timestamp" in entry else 0.0
    index = whole(entry.get("source_frame", 0), f"{what}, source_frame", 0, 2**40)
    if not np.isfinite([*V, *lens, middle, time]).all() or not middle > 0 or not any(V[3:]):
        raise InputError(f"{what}: pose, intrinsics, depth and time have to be finite, depth above 0, a rotation not 0")
    center = numbers(require(entry, "center", what), (3,), f"{what}, center")
    shift = center - _lift(V, lens, (x + width / 2, y + height / 2), middle)
    if not np.isfinite(shift).all():
        raise InputError(f"{what}: center is not finite; expected three numbers")
    if float(np.linalg.norm(shift)) <= MOVED * middle:
        shift = np.zeros(3)
    frame = (time, V, lens, index, assumed)
    return _Tile(frame, round(row), round(column), cell, flat.reshape(h, w, channels), depth, shift, middle)


def _lens(entry: dict[str, Any], what: str, size: tuple[int, int] | None) -> tuple[tuple[float, ...], bool]:
    held = entry.get("source_intrinsics")
    lens = _DEFAULT_LENS if held is None else tuple(scalar(held, k, f"{what}, source_intrinsics") for k in _LENS)
    if lens == _DEFAULT_LENS:
        if size is None:
            raise InputError(f"{what}: no source_intrinsics; give the size of its pictures with --size WxH")
        return (float(size[0]), float(size[0]), size[0] / 2, size[1] / 2, float(size[0]), float(size[1])), True
    if not (min(lens[0], lens[1]) > 0 and all(1 <= v <= _LARGEST and v == int(v) for v in lens[4:])):
        raise InputError(f"{what}: source_intrinsics {lens}, expected positive focal lengths and a size in pixels")
    return lens, False


def _depths(entry: dict[str, Any], h: int, w: int, middle: float, what: str) -> np.ndarray:
    tile = entry.get("depth_tile")
    if tile is None:
        return np.full((h, w), middle)
    if not isinstance(tile, list) or len(tile) != h * w:
        found = len(tile) if isinstance(tile, list) else type(tile).__name__
        raise InputError(f"{what}: depth_tile has {found}, expected {h * w} numbers")
    depth = numbers([0.0 if value is None else value for value in tile], (h * w,), f"{what}, depth_tile")
    return np.where(np.isfinite(depth) & (depth > 0), depth, 0.0).reshape(h, w)


def _check_coordinates(entry: dict[str, Any], x: float, y: float, cell: float, h: int, w: int, what: str) -> None:
    """The listed pixels of tokens are the centres of the tile's cells; an older file lists none."""
    listed = entry.get("token_coords") or []
    if not listed:
        return
    found = numbers(listed, (None, 2), f"{what}, token_coords")
    if len(found) != h * w:
        raise InputError(f"{what}: token_coords has {len(found)}, expected {h * w} pairs")
    row, column = np.divmod(np.arange(h * w), w)
    expected = np.stack([x + (column + 0.5) * cell, y + (row + 0.5) * cell], -1)
    if not (np.abs(found - expected) <= 0.01 * cell).all():
        raise InputError(f"{what}: token_coords are not the centres of the cells of source_rect; expected those")


def _lift(V: Sequence[float], lens: Sequence[float], uv: tuple[float, float], depth: float) -> np.ndarray:
    """World point of a pixel at a z-depth."""
    fx, fy, cx, cy = lens[:4]
    local = np.array([(uv[0] - cx) / fx * depth, (uv[1] - cy) / fy * depth, depth])
    C = atoms.invert(_viewmat(V))[0]
    return C[:3, :3] @ local + C[:3, 3]


def _viewmat(V: Sequence[float]) -> np.ndarray:
    values = np.array([V])
    return atoms.compose(atoms.quat_to_rotation(values[:, 3:]), values[:, :3])


def _common(tiles: list[_Tile], what: str) -> tuple[int, int]:
    """Pixels a cell and channels, which all patches must share."""
    strides, channels = {round(t.stride, 3) for t in tiles}, {t.latent.shape[2] for t in tiles}
    if len(strides) > 1 or len(channels) > 1 or min(strides) != int(min(strides)):
        raise InputError(
            f"{what}: cells of {sorted(strides)[:4]} px with {sorted(channels)[:4]} channels, expected one whole "
            "number of pixels and one of channels; one memory belongs to one autoencoder"
        )
    stride = int(strides.pop())
    for tile in tiles:
        width, height = int(tile.frame[2][4]), int(tile.frame[2][5])
        h, w = tile.depth.shape
        if width % stride or height % stride or width * height > MAX_CELLS * stride**2:
            raise InputError(f"{what}: pictures of {width}x{height} px, expected multiples of its cells of {stride} px")
        if (tile.row + h) * stride > height or (tile.column + w) * stride > width:
            raise InputError(f"{what}: a patch lies outside its picture of {width}x{height} px")
    return stride, channels.pop()


def _frames(tiles: list[_Tile]) -> tuple[list[_Frame], int]:
    """Tiles put together by pose, and how many were dropped because they were there twice.

    Windows overlap, so one pose may come twice with other contents: `source_frame`, which counts within a window, keeps
    them apart, and so does a place that is taken.
    """
    layers: dict[tuple[Any, ...], list[_Frame]] = {}
    of_pose: dict[tuple[Any, ...], list[_Frame]] = {}
    merged = 0
    for tile in tiles:
        at = (tile.row, tile.column)
        known = layers.setdefault(tile.frame, [])
        twins = of_pose.setdefault(tile.frame[:3], [])
        if any(at in frame.tiles and frame.tiles[at].same(tile) for frame in twins):
            merged += 1
            continue
        free = next((frame for frame in known if at not in frame.tiles), None)
        if free is None:
            free = _Frame()
            known.append(free)
            twins.append(free)
        free.tiles[at] = tile
    return [frame for some in layers.values() for frame in some], merged


def _patch_size(frames: list[_Frame], stride: int) -> int:
    """Cells along a side of a patch: the tiles' own size where all are square and on its grid, else one."""
    sides = {side for frame in frames for tile in frame.tiles.values() for side in tile.depth.shape}
    p = sides.pop()
    if sides:
        return 1
    for frame in frames:
        cells = [int(v) // stride for v in frame.first.frame[2][4:]]
        if any(v % p for v in cells) or any(v % p for at in frame.tiles for v in at):
            return 1
    return p


def _store(frames: list[_Frame], stride: int, upright: bool) -> tuple[PatchStore, int]:
    store, moved, patch = PatchStore.empty(), 0, _patch_size(frames, stride)
    ordered = sorted(frames, key=lambda frame: frame.first.frame[0])
    for index, frame in enumerate(ordered):
        keyframe = _keyframe(frame, index, stride, patch, upright)
        for shift, mask in _moves(frame, keyframe, upright):
            world_from_cam = se3.translation(torch.from_numpy(shift)) @ keyframe.camera.c2w[0].double()
            uid = store.group(len(store) - 1).uid + 1 if len(store) else 0
            store = store.insert_group(Group(keyframe, world_from_cam, mask, uid))
        moved += sum(bool(tile.shift.any()) for tile in frame.tiles.values())
    return store, moved


def _keyframe(frame: _Frame, index: int, stride: int, patch: int, upright: bool) -> Keyframe:
    time, V, lens = frame.first.frame[:3]
    fx, fy, cx, cy, width, height = lens
    h, w = int(height) // stride, int(width) // stride
    latents = torch.zeros(frame.first.latent.shape[2], h, w)
    depth = torch.zeros(h, w)
    for (row, column), tile in frame.tiles.items():
        here = (slice(row, row + tile.depth.shape[0]), slice(column, column + tile.depth.shape[1]))
        latents[:, here[0], here[1]] = torch.from_numpy(tile.latent).permute(2, 0, 1).float()
        depth[here] = torch.from_numpy(tile.depth).float()
    view = _viewmat(V)
    if upright:
        view, cx, cy = atoms.left_up_w2c(view), width - cx, height - cy
        latents, depth = latents.flip(1, 2), depth.flip(0, 1)
    K = torch.from_numpy(atoms.K_from_rows(np.array([[fx, fy, cx, cy]])))
    try:
        camera = Cameras(torch.from_numpy(view), K, int(width), int(height))
        return Keyframe(latents, depth, depth > 0, torch.ones(h, w), camera, stride, patch, index, time, "generated")
    except GeometryError as error:
        raise InputError(f"frame at {time:g} s: {error}") from error


def _moves(frame: _Frame, keyframe: Keyframe, upright: bool) -> Iterator[tuple[np.ndarray, torch.Tensor | None]]:
    """Shifts that patches of a frame have in common, each with the patches that share it."""
    m, n = keyframe.tokens
    clusters: list[tuple[_Tile, torch.Tensor]] = []
    p = keyframe.patch
    for (row, column), tile in frame.tiles.items():
        near = (c for c in clusters if np.linalg.norm(c[0].shift - tile.shift) <= MOVED * tile.reach)
        mask = next(near, (tile, None))[1]
        if mask is None:
            mask = torch.zeros(m, n, dtype=torch.bool)
            clusters.append((tile, mask))
        h, w = tile.depth.shape
        mask[row // p : (row + h) // p, column // p : (column + w) // p] = True
    for tile, mask in clusters:
        mask = mask.flip(0, 1) if upright else mask
        yield tile.shift, None if bool(mask.all()) else mask
