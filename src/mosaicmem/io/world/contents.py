"""Keyframes whose tensors stay in the file: read when they are used, kept while there is room."""

from __future__ import annotations

import sqlite3
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path

import torch

from mosaicmem._shapes import Tensor
from mosaicmem.errors import InputError
from mosaicmem.geometry.cameras import Cameras
from mosaicmem.io.world.rows import KeyframeRow, decode_geometry, decode_latents
from mosaicmem.io.world.schema import in_file, sql_errors
from mosaicmem.memory.patches import Keyframe

DEFAULT_CACHE_BYTES = 256 * 2**20

Parts = dict[str, Tensor]


@dataclass(eq=False)
class ContentReader:
    """Reads contents through one connection and keeps what was used last, up to `cache_bytes` in all.

    Geometry (depth, valid, confidence) and latents are kept apart: asking where memory is seen reads no latents.
    """

    db: sqlite3.Connection
    path: Path
    cache_bytes: int = DEFAULT_CACHE_BYTES
    held_bytes: int = 0
    lock: threading.RLock = field(default_factory=threading.RLock, repr=False)
    _kept: OrderedDict[tuple[int, bool], Parts] = field(default_factory=OrderedDict, repr=False)

    def read(self, row: KeyframeRow, name: str) -> Tensor:
        """One tensor of a keyframe.

        Raises:
            InputError: if the file is damaged there; StorageError: if it was closed.
        """
        key = (row.id, name == "latents")
        with self.lock:
            parts = self._kept.get(key)
            if parts is None:
                parts = self._latents(row) if key[1] else self._geometry(row)
                self.keep(key, parts)
            else:
                self._kept.move_to_end(key)
            return parts[name]

    def thumbnail(self, keyframe: int) -> tuple[int, bytes, bytes] | None:
        """Number, picture and checksum of a keyframe's thumbnail, unchecked, if it has one."""
        with self.lock, sql_errors(self.path):
            query = "SELECT keyframe, picture, digest FROM thumbnails WHERE keyframe = ?"
            return self.db.execute(query, (keyframe,)).fetchone()

    def keep(self, key: tuple[int, bool], parts: Parts) -> None:
        """Put what was read, or just written, at the front; what was used longest ago makes room."""
        with self.lock:
            self.held_bytes += _nbytes(parts) - _nbytes(self._kept.pop(key, {}))  # a number that is given again
            self._kept[key] = parts
            while self.held_bytes > self.cache_bytes and self._kept:
                self.held_bytes -= _nbytes(self._kept.popitem(last=False)[1])

    def clear(self) -> None:
        """Forget everything kept."""
        with self.lock:
            self._kept.clear()
            self.held_bytes = 0

    def _geometry(self, row: KeyframeRow) -> Parts:
        valid, depth, confidence = self._blobs(row, ("valid", "depth", "confidence"))
        with in_file(self.path):
            return decode_geometry(row, valid, depth, confidence)

    def _latents(self, row: KeyframeRow) -> Parts:
        (latents,) = self._blobs(row, ("latents",))
        with in_file(self.path):
            return decode_latents(row, latents)

    def _blobs(self, row: KeyframeRow, names: tuple[str, ...]) -> list[bytes]:
        sizes, allowed = ", ".join(f"length({name})" for name in names), row.sizes
        with sql_errors(self.path):
            found = self.db.execute(f"SELECT {sizes} FROM contents WHERE keyframe = ?", (row.id,)).fetchone()  # noqa: S608
            wanted = [(allowed[name], row.dtypes[2].itemsize if name == "confidence" else -1) for name in names]
            if found is None or any(size not in want for size, want in zip(found, wanted, strict=True)):
                with in_file(self.path):
                    raise InputError(f"keyframe {row.id} (frame {row.frame}): contents missing or of another size")
            query = f"SELECT {', '.join(names)} FROM contents WHERE keyframe = ?"  # noqa: S608
            blobs = self.db.execute(query, (row.id,)).fetchone()
        return [value if isinstance(value, bytes) else b"" for value in blobs]


@dataclass(frozen=True, eq=False)
class StoredContents:
    """The tensors of one keyframe of a file (`memory.patches.Contents`)."""

    reader: ContentReader = field(repr=False)
    row: KeyframeRow

    @property
    def channels(self) -> int:
        """Channels of the latents."""
        return self.row.channels

    @property
    def nbytes(self) -> int:
        """Bytes of all four tensors in memory."""
        h, w = self.row.cells
        sizes = self.row.sizes
        return h * w + sizes["depth"] + sizes["confidence"] + sizes["latents"]

    def read(self, name: str) -> Tensor:
        """`latents`, `depth`, `valid` or `confidence`."""
        return self.reader.read(self.row, name)


def stored_keyframe(reader: ContentReader, row: KeyframeRow, camera: Cameras) -> Keyframe:
    """The keyframe of a row."""
    return Keyframe.stored(
        StoredContents(reader, row), camera, row.stride, row.patch, frame=row.frame, time=row.time, origin=row.origin
    )


def stored_contents(keyframe: Keyframe) -> StoredContents | None:
    """Where a keyframe lies, if it lies in a file."""
    contents = keyframe.__dict__.get("contents")
    return contents if isinstance(contents, StoredContents) else None


def _nbytes(parts: Parts) -> int:
    return sum(t.numel() * t.element_size() for t in parts.values())


def camera_tensor(rows: list[KeyframeRow]) -> Tensor:
    """`[k 25]` float64: view matrix and intrinsics of each row."""
    return torch.frombuffer(bytearray(b"".join(row.camera for row in rows)), dtype=torch.float64).reshape(-1, 25)
