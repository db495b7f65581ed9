"""The bytes on the wire: JSON text, and binary messages of a JSON header with pictures and numbers behind it.

A binary message is 4 bytes (the header's length, little-endian), the header, and the blobs that its `blobs` lists in
order, as `[name, bytes]`.
"""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mosaicmem.errors import ConfigError
from mosaicmem.live.session import Receipt, Status

MAX_MESSAGE = 16 * 2**10
QUALITY = 90


def text(kind: str, **fields: Any) -> str:
    """A text message."""
    return json.dumps({"type": kind, **fields}, allow_nan=False, separators=(",", ":"))


def binary(kind: str, header: Mapping[str, Any], blobs: Sequence[tuple[str, bytes]]) -> bytes:
    """A binary message."""
    listed = [[name, len(blob)] for name, blob in blobs]
    head = text(kind, **header, blobs=listed).encode()
    return b"".join([struct.pack("<I", len(head)), head, *(blob for _, blob in blobs)])


def parts(message: bytes) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Header and blobs of a binary message, as the page reads them."""
    (length,) = struct.unpack_from("<I", message)
    header = json.loads(message[4 : 4 + length])
    at, blobs = 4 + length, dict[str, bytes]()
    for name, size in header["blobs"]:
        blobs[name] = message[at : at + size]
        at += size
    return header, blobs


def receipt(found: Receipt) -> str:
    """What became of a command."""
    stages = {name: round(seconds, 5) for name, seconds in found.stages.items()}
    fields = {"seq": found.seq, "id": found.tag, "state": found.state, "said": found.said}
    return text("receipt", **fields, waited=round(found.waited, 5), stages=stages)


def status(found: Status, more: Mapping[str, Any]) -> str:
    """How the session is doing."""
    fields = {"waiting": found.waiting, "paused": found.paused, "applied": found.applied}
    return text("status", **fields, replaying=found.replaying, **more)


def picture(frame: NDArray[np.uint8]) -> bytes:
    """`[H W 3]` bytes as JPEG."""
    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(frame)).save(out, "JPEG", quality=QUALITY, subsampling=0)
    return out.getvalue()


def request(message: str) -> dict[str, Any]:
    """A message of the page.

    Raises:
        ConfigError: if it is no object with an id that is a small number.
    """
    try:
        raw = json.loads(message)
    except (ValueError, RecursionError):
        raise ConfigError("not valid JSON") from None
    if not isinstance(raw, dict):
        raise ConfigError("expected a JSON object")
    number = raw.get("id", 0)
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < 2**53:
        raise ConfigError("id: expected a whole number")
    return raw
