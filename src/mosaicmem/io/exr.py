"""OpenEXR depth pictures: one part of scan lines, uncompressed or with RLE, ZIPS or ZIP, and nothing else.

Sources: the OpenEXR file layout document; predictor and interleaving as in its `ImfZip`. Whatever the file claims,
nothing is allocated beyond the picture that was asked for.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mosaicmem.errors import InputError
from mosaicmem.io import files

MAGIC = b"\x76\x2f\x31\x01"
MAX_BYTES = 2**30
_LINES = {0: 1, 1: 1, 2: 1, 3: 16}  # compression -> scan lines of a block
_NAMES = ("none", "RLE", "ZIPS", "ZIP", "PIZ", "PXR24", "B44", "B44A", "DWAA", "DWAB")
_TYPES = ("<u4", "<f2", "<f4")  # of a channel: UINT, HALF, FLOAT
_NOT_FLAT = 0x200 | 0x800 | 0x1000  # tiles, deep data, several parts
_MAX_CHANNELS = 64


@dataclass(frozen=True)
class _Header:
    channels: list[tuple[str, np.dtype]]  # in the order of the file
    compression: int
    width: int
    height: int
    top: int
    start: int  # where the table of offsets begins

    @property
    def line_bytes(self) -> int:
        return self.width * sum(kind.itemsize for _, kind in self.channels)


def read_exr(path: Path, channel: str | None = None) -> NDArray[np.float32]:
    """One channel `[H W]` of an EXR file, see `decode_exr`."""
    return decode_exr(files.read_bytes(path, MAX_BYTES), str(path), channel)


def decode_exr(
    data: bytes, what: str, channel: str | None = None, max_pixels: int = files.MAX_PIXELS
) -> NDArray[np.float32]:
    """One channel `[H W]` of an EXR file's bytes.

    Args:
        data: The whole file.
        what: Its name, for messages.
        channel: Name of the channel; by default `Z`, or the only one, or the first of several.

    Raises:
        InputError: on anything that is no such picture, is damaged, or is stored in a way that is not read here.
    """
    header = _header(data, what)
    if header.width * header.height > max_pixels:
        raise InputError(f"{what}: claims {header.width}x{header.height} pixels, expected at most {max_pixels:,}")
    names = [name for name, _ in header.channels]
    wanted = channel if channel is not None else "Z" if "Z" in names else names[0]
    if wanted not in names:
        raise InputError(f"{what}: has the channels {', '.join(names)}, expected {wanted!r}")
    before = sum(kind.itemsize for name, kind in header.channels[: names.index(wanted)]) * header.width
    kind = header.channels[names.index(wanted)][1]
    rows = _LINES[header.compression]
    count = -(-header.height // rows)
    if header.start + 8 * count > len(data):
        raise InputError(f"{what}: ends inside its table of {count:,} blocks; was it copied completely?")
    out, seen = np.zeros((header.height, header.width), np.float32), np.zeros(header.height, bool)
    for offset in struct.unpack_from(f"<{count}Q", data, header.start):
        first, block = _block(data, what, header, offset)
        for i in range(min(rows, header.height - first)):
            at = i * header.line_bytes + before
            out[first + i] = np.frombuffer(block, kind, header.width, at).astype(np.float32)
            seen[first + i] = True
    if not seen.all():
        missing = int((~seen).sum())
        raise InputError(f"{what}: {missing} of {header.height} lines are missing; was it written completely?")
    return out


def _block(data: bytes, what: str, header: _Header, offset: int) -> tuple[int, bytes]:
    """First line of a block, counted from the top of the picture, and its lines unpacked."""
    if offset + 8 > len(data):
        raise InputError(f"{what}: a block starts beyond its end; was it copied completely?")
    y, size = struct.unpack_from("<iI", data, offset)
    first, rows = y - header.top, _LINES[header.compression]
    if not 0 <= first < header.height or first % rows:
        raise InputError(f"{what}: a block of line {y}, which the picture does not have; the file is damaged")
    packed = data[offset + 8 : offset + 8 + size]
    expected = min(rows, header.height - first) * header.line_bytes
    if len(packed) < size or size > expected:
        raise InputError(f"{what}: a block of {size:,} bytes, expected at most {expected:,}; the file is damaged")
    if size == expected:  # what does not shrink is stored as it is
        return first, packed
    raw = _run_lengths(packed, expected) if header.compression == 1 else _inflate(packed, expected)
    if header.compression == 0 or len(raw) != expected:
        raise InputError(f"{what}: a block unpacks to {len(raw):,} bytes, expected {expected:,}; the file is damaged")
    return first, _restored(raw)


def _inflate(packed: bytes, expected: int) -> bytes:
    """At most one byte more than expected, so that a bomb stays small."""
    try:
        return zlib.decompressobj().decompress(packed, expected + 1)
    except zlib.error:
        return b""


def _run_lengths(packed: bytes, expected: int) -> bytes:
    out, at = bytearray(), 0
    while at + 1 < len(packed) and len(out) <= expected:
        count = packed[at] - 256 if packed[at] > 127 else packed[at]
        if count < 0:
            out += packed[at + 1 : at + 1 - count]
            at += 1 - count
        else:
            out += packed[at + 1 : at + 2] * (count + 1)
            at += 2
    return bytes(out)


def _restored(raw: bytes) -> bytes:
    """Undo the predictor (differences from the byte before, offset by 128) and put the two halves together again."""
    values = np.frombuffer(raw, np.uint8).astype(np.int64)
    values[1:] -= 128
    whole = np.cumsum(values).astype(np.uint8)
    half = (len(whole) + 1) // 2
    out = np.empty_like(whole)
    out[0::2], out[1::2] = whole[:half], whole[half:]
    return out.tobytes()


def _header(data: bytes, what: str) -> _Header:
    if data[:4] != MAGIC:
        raise InputError(f"{what}: starts with {data[:4]!r}, expected an OpenEXR picture")
    if len(data) < 8 or struct.unpack_from("<I", data, 4)[0] & _NOT_FLAT:
        raise InputError(f"{what}: tiled, deep or of several parts; expected one picture of scan lines. Convert it")
    found, at = dict[str, bytes](), 8
    while at < len(data) and data[at]:
        name, at = _text(data, at, what)
        _, at = _text(data, at, what)
        if at + 4 > len(data):
            raise InputError(f"{what}: ends inside its header; was it copied completely?")
        size = struct.unpack_from("<I", data, at)[0]
        if at + 4 + size > len(data) or len(found) > 256:
            raise InputError(f"{what}: attribute {name!r} claims {size:,} bytes, which the file does not hold")
        found[name] = data[at + 4 : at + 4 + size]
        at += 4 + size
    for name, size in (("channels", 1), ("compression", 1), ("dataWindow", 16)):
        if len(found.get(name, b"")) < size:
            raise InputError(f"{what}: header has no {name}; expected an OpenEXR picture")
    left, top, right, bottom = struct.unpack("<4i", found["dataWindow"][:16])
    if not (left <= right and top <= bottom):
        raise InputError(f"{what}: a picture of {right - left + 1}x{bottom - top + 1} pixels, expected at least one")
    compression = found["compression"][0]
    if compression not in _LINES:
        name = _NAMES[compression] if compression < len(_NAMES) else str(compression)
        raise InputError(f"{what}: compression {name} is not read; write it with ZIP, ZIPS, RLE or none")
    channels = _channels(found["channels"], what)
    return _Header(channels, compression, right - left + 1, bottom - top + 1, top, at + 1)


def _channels(data: bytes, what: str) -> list[tuple[str, np.dtype]]:
    out, at = list[tuple[str, np.dtype]](), 0
    while at < len(data) and data[at] and len(out) < _MAX_CHANNELS:
        name, at = _text(data, at, what)
        if at + 16 > len(data):
            raise InputError(f"{what}: channel {name!r} ends too early; the file is damaged")
        kind, _, across, down = struct.unpack_from("<iIii", data, at)
        if not 0 <= kind < len(_TYPES) or (across, down) != (1, 1):
            raise InputError(f"{what}: channel {name!r} is of type {kind}, every {across}x{down} pixels; expected all")
        out.append((name, np.dtype(_TYPES[kind])))
        at += 16
    if not out:
        raise InputError(f"{what}: has no channels, expected one")
    return out


def _text(data: bytes, at: int, what: str) -> tuple[str, int]:
    end = data.find(b"\0", at, at + 256)
    if end < 0:
        raise InputError(f"{what}: a name in the header that does not end; the file is damaged")
    return data[at:end].decode("latin-1"), end + 1
