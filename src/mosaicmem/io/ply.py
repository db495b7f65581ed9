"""PLY point clouds: written as binary little endian or ascii, read in all three encodings by property name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mosaicmem._shapes import Float
from mosaicmem.errors import InputError
from mosaicmem.io import files

MAX_BYTES = 2**31
MAX_HEADER = 64 * 1024
SH_C0 = 0.28209479177387814  # constant spherical harmonic, what `f_dc` multiplies
_TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2", "ushort": "u2",
    "uint16": "u2", "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4", "float": "f4", "float32": "f4",
    "double": "f8", "float64": "f8",
}  # fmt: skip
_NAMES = {
    "f4": "float",
    "f8": "double",
    "u1": "uchar",
    "i1": "char",
    "u2": "ushort",
    "i2": "short",
    "u4": "uint",
    "i4": "int",
}
_COLOURS = (("red", "green", "blue"), ("diffuse_red", "diffuse_green", "diffuse_blue"), ("r", "g", "b"))


@dataclass(frozen=True)
class PointCloud:
    """`n` points.

    Attributes:
        points: World positions.
        colors: uint8 RGB, or `None` where the file has none.
        properties: Every other scalar property, `[n]`, by name.
        comments: Comment lines of the header.
    """

    points: Float[np.ndarray, "n 3"]
    colors: np.ndarray | None = None
    properties: Mapping[str, np.ndarray] = field(default_factory=dict)
    comments: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.points)


@dataclass(frozen=True)
class _Element:
    name: str
    count: int
    properties: list[tuple[str, str, str]]  # name, type, type of the list's length or ""

    @property
    def fixed(self) -> bool:
        return not any(length for _, _, length in self.properties)


def write_ply(
    path: Path,
    points: Float[np.ndarray, "n 3"],
    colors: np.ndarray | None = None,
    *,
    properties: Mapping[str, np.ndarray] | None = None,
    comments: Sequence[str] = (),
    ascii: bool = False,
    overwrite: bool = False,
) -> None:
    """Write points as float32, then uint8 colour, then further properties in their own types, atomically.

    Raises:
        InputError: on shapes that do not agree, positions that are not finite, or a type PLY does not have.
    """
    n = len(points)
    columns: dict[str, np.ndarray] = {name: points[:, i].astype("<f4") for i, name in enumerate("xyz")}
    if points.shape != (n, 3) or not all(np.isfinite(c).all() for c in columns.values()):
        raise InputError(f"{path}: points of shape {points.shape}, expected n x 3 finite numbers in float32 range")
    if colors is not None:
        if colors.shape != (n, 3) or colors.dtype != np.uint8:
            raise InputError(f"{path}: colours {colors.shape} {colors.dtype}, expected {n} x 3 uint8")
        columns |= {name: colors[:, i] for i, name in enumerate(_COLOURS[0])}
    for name, values in (properties or {}).items():
        kind = values.dtype.str[1:]
        if values.shape != (n,) or kind not in _NAMES or not name.isidentifier() or name in columns:
            raise InputError(
                f"{path}: property {name!r} {values.shape} {values.dtype}, expected {n} numbers of a PLY type"
            )
        columns[name] = values
    kinds = {name: values.dtype.str[1:] for name, values in columns.items()}
    head = ["ply", f"format {'ascii' if ascii else 'binary_little_endian'} 1.0"]
    head += [f"comment {' '.join(text.split())}" for text in comments]
    head += [
        f"element vertex {n}",
        *(f"property {_NAMES[kind]} {name}" for name, kind in kinds.items()),
        "end_header\n",
    ]
    if ascii:
        values = [[repr(v) for v in _shortest(c)] for c in columns.values()]
        body = "".join(" ".join(row) + "\n" for row in zip(*values, strict=True)).encode()
    else:
        table = np.zeros(n, np.dtype([(name, "<" + kind) for name, kind in kinds.items()]))
        for name, column in columns.items():
            table[name] = column
        body = table.tobytes()
    with files.atomic_path(path, overwrite=overwrite) as temporary:
        temporary.write_bytes("\n".join(head).encode() + body)


def read_ply(path: Path) -> PointCloud:
    """Points, colour and further properties of the `vertex` element.

    Gaussian splats give their centres and the colour `0.5 + 0.2821 f_dc`.

    Raises:
        InputError: on anything that is no PLY, that ends too early, or that claims more than the file holds.
    """
    data = files.read_bytes(path, MAX_BYTES)
    encoding, elements, comments, start = _header(path, data)
    rest, table = memoryview(data)[start:], None
    if encoding == "ascii":
        table = _ascii_vertices(path, rest, elements, data[:start].count(b"\n") + 1)
    else:
        table = _binary_vertices(path, rest, elements, "<" if encoding == "binary_little_endian" else ">")
    missing = [axis for axis in "xyz" if axis not in table]
    if missing:
        raise InputError(f"{path}: vertices have {list(table)[:8]}, expected x, y and z")
    points = np.stack([table.pop(axis) for axis in "xyz"], 1).astype(np.float64)
    return PointCloud(points, _colors(table), table, comments)


def _shortest(column: np.ndarray) -> list[float | int]:
    """Numbers whose text is the shortest that reads back as the same float32 or integer."""
    if column.dtype.kind != "f" or column.dtype.itemsize == 8:
        return column.tolist()
    return [float(str(value)) for value in column]


def _header(path: Path, data: bytes) -> tuple[str, list[_Element], tuple[str, ...], int]:
    if not data.startswith(b"ply"):
        raise InputError(f"{path}: starts with {data[:8]!r}, expected 'ply'")
    end = data.find(b"end_header", 0, MAX_HEADER)
    stop = data.find(b"\n", end)
    if end < 0 or stop < 0:
        raise InputError(f"{path}: no end_header in the first {MAX_HEADER:,} bytes; expected a PLY header")
    encoding, elements, comments = "", [], []
    for number, text in enumerate(data[:end].decode("latin-1").splitlines()[1:], 2):
        words = text.split()
        match words:
            case ["format", ("ascii" | "binary_little_endian" | "binary_big_endian") as encoding, _]:
                pass
            case ["comment" | "obj_info", *said]:
                comments.append(" ".join(said))
            case ["element", name, count] if count.isdecimal() and len(count) < 12:
                elements.append(_Element(name, int(count), []))
            case ["property", "list", length, kind, name] if elements and {length, kind} <= set(_TYPES):
                elements[-1].properties.append((name, _TYPES[kind], _TYPES[length]))
            case ["property", kind, name] if elements and kind in _TYPES:
                elements[-1].properties.append((name, _TYPES[kind], ""))
            case []:
                pass
            case _:
                raise InputError(f"{path}, line {number}: {text[:60]!r}, expected a PLY header line")
    if not encoding or not any(e.name == "vertex" for e in elements):
        raise InputError(f"{path}: header names no encoding or no vertex element; expected both")
    for element in elements:
        names = [name for name, _, _ in element.properties]
        if len(set(names)) != len(names) or not names:
            raise InputError(f"{path}: element {element.name!r} has properties {names[:8]}, expected different ones")
    return encoding, elements, tuple(comments), stop + 1


def _binary_vertices(path: Path, body: memoryview, elements: list[_Element], order: str) -> dict[str, np.ndarray]:
    at = 0
    for element in elements:
        wanted = element.name == "vertex"
        if not element.fixed:
            if wanted:
                raise InputError(f"{path}: vertices with list properties, expected plain numbers")
            at = _skip_lists(path, body, at, element, order)
            continue
        row = np.dtype([(name, order + kind) for name, kind, _ in element.properties])
        size = element.count * row.itemsize
        if at + size > len(body):
            raise InputError(
                f"{path}: {element.count:,} x {element.name} need {size:,} bytes, {max(len(body) - at, 0):,} are left; "
                "is it truncated?"
            )
        if wanted:
            table = np.frombuffer(body[at : at + size], row)
            return {name: table[name].astype(kind) for name, kind, _ in element.properties}
        at += size
    raise InputError(f"{path}: no vertex element, expected one")


def _skip_lists(path: Path, body: memoryview, at: int, element: _Element, order: str) -> int:
    for _ in range(element.count):
        for _, kind, length in element.properties:
            size = np.dtype(kind).itemsize
            if length:
                head = np.dtype(order + length)
                if at + head.itemsize > len(body):
                    raise InputError(f"{path}: ends inside {element.name!r}; is it truncated?")
                size *= max(0, int(np.frombuffer(body[at : at + head.itemsize], head)[0]))
                at += head.itemsize
            at += size
        if at > len(body):
            raise InputError(f"{path}: ends inside {element.name!r}; is it truncated?")
    return at


def _ascii_vertices(path: Path, body: memoryview, elements: list[_Element], first_line: int) -> dict[str, np.ndarray]:
    lines = body.tobytes().decode("latin-1").splitlines()
    at = 0
    for element in elements:
        if element.count > len(lines) - at:
            raise InputError(f"{path}: {element.count:,} x {element.name}, {len(lines) - at:,} lines left; truncated?")
        if element.name != "vertex":
            at += element.count
            continue
        width = len(element.properties)
        rows = []
        for i, text in enumerate(lines[at : at + element.count], first_line + at):
            words = text.split()
            if len(words) != width:
                raise InputError(f"{path}, line {i}: {len(words)} numbers, expected {width}")
            try:
                rows.append([float(word) for word in words])
            except ValueError:
                raise InputError(f"{path}, line {i}: {text[:60]!r}, expected numbers") from None
        table = np.array(rows, dtype=np.float64).reshape(-1, width)
        return {name: _cast(path, table[:, i], kind) for i, (name, kind, _) in enumerate(element.properties)}
    raise InputError(f"{path}: no vertex element, expected one")


def _cast(path: Path, values: np.ndarray, kind: str) -> np.ndarray:
    if kind[0] == "f":
        with np.errstate(over="ignore"):
            return values.astype(kind)
    limits = np.iinfo(kind)
    if len(values) and not (np.isfinite(values).all() and values.min() >= limits.min and values.max() <= limits.max):
        raise InputError(f"{path}: a number outside the range of {_NAMES[kind]}, expected {limits.min} to {limits.max}")
    return values.astype(kind)


def _colors(table: dict[str, np.ndarray]) -> np.ndarray | None:
    for names in _COLOURS:
        if all(name in table for name in names):
            rgb = np.stack([table.pop(name) for name in names], 1)
            return rgb if rgb.dtype == np.uint8 else _unit_to_u8(rgb if rgb.dtype.kind == "f" else rgb / _full(rgb))
    names = ("f_dc_0", "f_dc_1", "f_dc_2")
    if all(name in table for name in names):
        return _unit_to_u8(0.5 + SH_C0 * np.stack([table[name] for name in names], 1))
    return None


def _full(rgb: np.ndarray) -> float:
    return float(np.iinfo(rgb.dtype).max)


def _unit_to_u8(rgb: np.ndarray) -> np.ndarray:
    return np.rint(np.nan_to_num(rgb.astype(np.float64)).clip(0, 1) * 255).astype(np.uint8)
