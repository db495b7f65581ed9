"""What a reader hands over before anything is checked, and the small parsers all readers share."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mosaicmem._shapes import Float
from mosaicmem.errors import InputError
from mosaicmem.io import files
from mosaicmem.io.trajectories.findings import Finding

Array = np.ndarray
MAX_BYTES = 64 * 2**20  # a day of poses at 30 per second is 40 MiB of text
DEFAULT_FPS = 16.0


@dataclass(frozen=True)
class Options:
    """What a caller may declare because a file cannot say it. Each format names those it listens to.

    Attributes:
        size: (width, height) of the image the intrinsics belong to.
        fps: Frames per second, where the file has no time.
        sort: Put poses in order of time.
        matrix: Whether bare matrices are world-from-camera or camera-from-world.
        upright: Turn the predecessor's y-up cameras upright (A3).
        keep_world: Leave a nerfstudio file in its own world, z up.
        body_from_cam: 4x4 sensor extrinsics of a EuRoC body trajectory.
        dataparser: `dataparser_transforms.json` of the nerfstudio run a camera path was made in.
        dialect: Of an action string.
        frames: Clip length for action strings whose numbers are shares of the clip.
        expand: One pose per latent becomes one per frame.
        clip: Which clip of a folder or file that holds several.
    """

    size: tuple[int, int] | None = None
    fps: float | None = None
    sort: bool = False
    matrix: Literal["c2w", "w2c"] | None = None
    upright: bool = False
    keep_world: bool = False
    body_from_cam: Any = None
    dataparser: Path | str | None = None
    dialect: str | None = None
    frames: int | None = None
    expand: bool = False
    clip: str | None = None

    @staticmethod
    def parse(values: dict[str, Any], allowed: frozenset[str], format: str) -> Options:
        """Checked options.

        Raises:
            InputError: on an option this format does not know, or a value of the wrong kind.
        """
        known = {"size", "fps", "sort"} | allowed
        for name in values:
            if name not in known or name not in {f.name for f in fields(Options)}:
                raise InputError(f"format {format!r} has no option {name!r}; it knows {', '.join(sorted(known))}")
        options = Options(**values)
        if options.matrix not in (None, "c2w", "w2c"):
            raise InputError(f"matrix={options.matrix!r}, expected 'c2w' or 'w2c'")
        if options.size is not None and (len(options.size) != 2 or min(options.size) < 1):
            raise InputError(f"size={options.size!r}, expected (width, height) in pixels")
        if options.fps is not None and not 0 < options.fps < 1e6:
            raise InputError(f"fps={options.fps!r}, expected a positive number")
        return options


@dataclass(frozen=True)
class Raw:
    """A file's numbers after the axis atoms and before inversion or any check.

    Attributes:
        matrices: float64, good or bad, in `kind`'s direction with OpenCV camera axes.
        kind: Direction of `matrices`.
        quaternions: wxyz as written, not normalised, where the file holds quaternions.
        quaternion_order: The order of the file.
        Ks: Intrinsics in pixels, or of a 1x1 image where `normalised`.
        time: Numbers as written; `time_unit` seconds each (`None` = frame index).
        world_up: The world's up direction where the format declares one.
        notes: What the reader itself noticed.
    """

    matrices: Float[Array, "n 4 4"]
    kind: Literal["c2w", "w2c"]
    quaternions: Float[Array, "n 4"] | None = None
    quaternion_order: str = ""
    Ks: Float[Array, "n 3 3"] | None = None
    normalised: bool = False
    time: Float[Array, " n"] | None = None
    time_unit: float | None = 1.0
    nominal_time: bool = False
    fps: float | None = None
    size: tuple[int, int] | None = None
    names: tuple[str, ...] | None = None
    metric: bool | None = None
    distortion: Float[Array, "n 4"] | None = None
    fisheye: bool = False
    assumed: tuple[str, ...] = ()
    world_up: tuple[float, float, float] | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    notes: tuple[Finding, ...] = ()

    def sized(self, size: tuple[int, int] | None) -> Raw:
        """Declare the image size: normalised intrinsics become pixels, others are taken as they are."""
        if size is None:
            return self
        if self.normalised and self.Ks is not None:
            return replace(self, Ks=np.array([size[0], size[1], 1.0])[:, None] * self.Ks, normalised=False, size=size)
        return replace(self, size=size)

    def reordered(self, order: Array) -> Raw:
        """Poses in another order."""

        def pick(values: Array | None) -> Array | None:
            return None if values is None else values[order]

        return replace(
            self,
            matrices=self.matrices[order],
            quaternions=pick(self.quaternions),
            Ks=pick(self.Ks),
            time=pick(self.time),
            distortion=pick(self.distortion),
            names=None if self.names is None else tuple(self.names[i] for i in order.tolist()),
        )


def numbers(value: Any, shape: tuple[int | None, ...], what: str) -> Float[Array, "..."]:
    """`value` as a float64 array of `shape` (`None` = any length); strings, booleans and ragged lists are refused.

    Raises:
        InputError: naming `what`, the found shape and the expected one.
    """
    expected = " x ".join("n" if s is None else str(s) for s in shape) or "one number"
    try:
        if not isinstance(value, np.ndarray) and not _only_numbers(value):
            raise InputError(f"{what}: found {_brief(value)}, expected {expected} numbers")
        array = np.asarray(value)
        if array.dtype.kind not in "iuf":
            raise InputError(f"{what}: found {_brief(value)}, expected {expected} numbers")
        with np.errstate(all="ignore"):
            array = array.astype(np.float64)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise InputError(f"{what}: {error}; expected {expected} numbers") from error
    fits = array.ndim == len(shape) and all(s is None or s == a for s, a in zip(shape, array.shape, strict=True))
    if not fits:
        raise InputError(f"{what}: found {' x '.join(map(str, array.shape)) or 'one number'}, expected {expected}")
    return array


def matrices(value: Any, what: str) -> Float[Array, "n 4 4"]:
    """A stack of 4x4 or 3x4 matrices; the missing last row is added."""
    array = numbers(value, (None, None, 4), what)
    if array.shape[1] == 3:
        array = np.concatenate([array, np.tile([[[0.0, 0, 0, 1]]], (len(array), 1, 1))], 1)
    if array.shape[1] != 4:
        raise InputError(f"{what}: found {array.shape[1]} x 4 matrices, expected 4 x 4 or 3 x 4")
    return array


def stack(rows: Sequence[Any], shape: tuple[int, ...], what: str) -> Float[Array, "..."]:
    """One array from a list of equal parts, naming the part that differs."""
    if not rows:
        raise InputError(f"{what}: holds no poses, expected at least one; was it written completely?")
    return np.stack([numbers(row, shape, f"{what}, pose {i}") for i, row in enumerate(rows)])


def require(mapping: Any, key: str, what: str) -> Any:
    """`mapping[key]`, or an error that lists the keys that are there."""
    if not isinstance(mapping, dict):
        raise InputError(f"{what}: found {_brief(mapping)}, expected an object with {key!r}")
    if key not in mapping:
        raise InputError(f"{what}: has {sorted(mapping)[:8]}, expected a key {key!r}")
    return mapping[key]


def scalar(mapping: dict[str, Any], key: str, what: str) -> float:
    """A number under `key`."""
    return float(numbers(require(mapping, key, what), (), f"{what}, {key}"))


def whole(value: Any, what: str, low: int = 1, high: int = 2**20) -> int:
    """A whole number within bounds."""
    number = float(numbers(value, (), what))
    if not (low <= number <= high and number == int(number)):
        raise InputError(f"{what}: found {value!r}, expected a whole number from {low} to {high}")
    return int(number)


def objects(value: Any, what: str) -> list[dict[str, Any]]:
    """A list of JSON objects that is not empty."""
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise InputError(f"{what}: found {_brief(value)}, expected a list of objects")
    if not value:
        raise InputError(f"{what}: an empty list, expected at least one pose; was it written completely?")
    return value


def rows_of_numbers(path: Path, *, separator: str | None = None) -> list[tuple[int, list[float]]]:
    """(line number, numbers) of every line that is neither blank nor a `#` comment."""
    rows = []
    for number, line in enumerate(files.read_text(path, MAX_BYTES).splitlines(), 1):
        line = line.split("#", 1)[0].strip()
        if line:
            rows.append((number, parse_row(line.split(separator), f"{path}, line {number}")))
    if not rows:
        raise InputError(f"{path}: holds no poses, expected at least one line of numbers; was it written completely?")
    return rows


def parse_row(words: Sequence[str], what: str) -> list[float]:
    """Floats of the words of one line (`nan` and `inf` are read, so that the linter can name the frame)."""
    try:
        return [float(word) for word in words if word.strip()]
    except ValueError:
        raise InputError(f"{what}: found {_brief(' '.join(words))}, expected numbers only") from None


def table(path: Path, columns: int, what: str) -> Float[Array, "n c"]:
    """A text table with exactly `columns` numbers per line."""
    rows = rows_of_numbers(path)
    for line, row in rows:
        if len(row) != columns:
            raise InputError(f"{path}, line {line}: {len(row)} columns, expected {columns} ({what})")
    return np.array([row for _, row in rows], dtype=np.float64)


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sort key under which `frame2` comes before `frame10`."""
    parts = re.findall(r"\d{1,18}|\D+|\d+", name)
    return [(0, int(p), "") if p.isascii() and p.isdigit() and len(p) <= 18 else (1, 0, p) for p in parts]


def json_file(path: Path) -> Any:
    """JSON in which NaN is allowed, because Python writes it and the linter should name the frame."""
    return files.read_json(path, MAX_BYTES, constants=True)


def _only_numbers(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(_only_numbers(item) for item in value)
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _brief(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"a list of {len(value)}"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
