"""npy and npz whose headers are checked before anything is allocated. Nothing is ever unpickled."""

from __future__ import annotations

import io
import math
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mosaicmem.errors import InputError
from mosaicmem.io import files

MAX_EXPANSION = 4  # an npz may unpack to this many times its own size ...
FREE_BYTES = 16 * 2**20  # ... or to this much, since poses that stand still compress well


def read_npy(path: Path) -> NDArray[np.generic]:
    """The array of an npy file.

    Raises:
        InputError: if the header is damaged, asks for objects, or claims more data than the file holds.
    """
    size = files.require_file(path).stat().st_size
    with path.open("rb") as file:
        return _read_array(file, size, str(path))


class Npz:
    """Arrays of an npz by name, each unpacked when asked for, within the limits above."""

    def __init__(self, path: Path) -> None:
        self._path = files.require_file(path)
        self._size = path.stat().st_size
        try:
            with zipfile.ZipFile(path) as archive:
                self._members = {i.filename.removesuffix(".npy"): i for i in archive.infolist()}
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, EOFError) as error:
            raise InputError(f"{path}: not a readable npz ({error}); expected a zip of npy arrays") from error
        if not self._members:
            raise InputError(f"{path}: an empty archive, expected arrays; was it written completely?")

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, name: object) -> bool:
        return name in self._members

    def __getitem__(self, name: str) -> NDArray[np.generic]:
        if name not in self._members:
            raise InputError(f"{self._path}: holds {sorted(self._members)[:8]}, expected an array {name!r}")
        member = self._members[name]
        allowed = max(FREE_BYTES, MAX_EXPANSION * self._size)
        if member.file_size > allowed:
            raise InputError(
                f"{self._path}: {name!r} unpacks to {member.file_size:,} bytes from a file of {self._size:,}, expected "
                f"at most {allowed:,}; refused as a zip bomb"
            )
        try:
            with zipfile.ZipFile(self._path) as archive, archive.open(member) as stream:
                data = stream.read(member.file_size)
        except (zipfile.BadZipFile, zlib.error, OSError, RuntimeError, ValueError, EOFError) as error:
            raise InputError(f"{self._path}: {name!r} is damaged ({error}); copy the file again") from error
        except Exception as error:  # lzma and friends have error classes of their own
            raise InputError(f"{self._path}: {name!r} cannot be unpacked ({error})") from error
        return _read_array(io.BytesIO(data), len(data), f"{self._path}: {name!r}")


def write_npy(path: Path, array: NDArray[np.generic], *, overwrite: bool = False) -> None:
    """Write an npy file atomically."""
    with files.atomic_path(path, overwrite=overwrite) as temporary, temporary.open("wb") as file:
        np.save(file, array, allow_pickle=False)


def write_npz(path: Path, arrays: Mapping[str, NDArray[np.generic]], *, overwrite: bool = False) -> None:
    """Write an uncompressed npz atomically."""
    with files.atomic_path(path, overwrite=overwrite) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **dict(arrays))


def _read_array(stream: io.BufferedIOBase, size: int, what: str) -> NDArray[np.generic]:
    try:
        version = np.lib.format.read_magic(stream)
        if version == (1, 0):
            header = np.lib.format.read_array_header_1_0(stream)
        else:
            header = np.lib.format.read_array_header_2_0(stream)
    except (ValueError, EOFError, SyntaxError, TypeError, OverflowError, MemoryError, RecursionError) as error:
        raise InputError(f"{what}: not an npy array ({error})") from error
    except (tokenize.TokenError, UnicodeError, IndexError, KeyError, AttributeError) as error:
        raise InputError(f"{what}: the npy header is damaged ({error})") from error
    shape, fortran, dtype = header
    if dtype.hasobject:
        raise InputError(f"{what}: holds Python objects, expected numbers; refused because reading them runs code")
    claimed = math.prod(shape) * dtype.itemsize
    held = size - stream.tell()
    if min(shape, default=0) < 0 or claimed > held or len(shape) > 8:
        raise InputError(f"{what}: claims shape {shape} ({claimed:,} bytes) but holds {held:,} bytes; is it truncated?")
    data = stream.read(claimed)
    if len(data) < claimed or not dtype.itemsize:
        raise InputError(f"{what}: {len(data):,} bytes of data, expected {claimed:,}; is it truncated?")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")
