"""Keyframes and groups as rows, and back. Whatever comes from a file is checked before it is used."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mosaicmem._shapes import Bool, Float, Tensor, UInt8
from mosaicmem.errors import InputError
from mosaicmem.io.files import LARGEST, MAX_JSON_DEPTH
from mosaicmem.io.world.schema import MAX_BLOB_BYTES, MAX_TEXT_BYTES, Row, row_digest
from mosaicmem.memory.patches import Group, Keyframe, Origin, patch_depths

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_MAX_SIDE, _MAX_CHANNELS = 2**16, 2**16


@dataclass(frozen=True)
class KeyframeRow:
    """A row of `keyframes`, its numbers checked, its blobs of the declared sizes."""

    id: int
    frame: int
    time: float
    origin: Origin
    model: str | None
    seed: int | None
    width: int
    height: int
    stride: int
    patch: int
    channels: int
    dtypes: tuple[torch.dtype, torch.dtype, torch.dtype]
    """Of latents, depth and confidence."""
    camera: bytes
    depths: bytes
    geometry: bytes
    latents: bytes
    digest: bytes

    @property
    def cells(self) -> tuple[int, int]:
        """`(h, w)` latent cells."""
        return self.height // self.stride, self.width // self.stride

    @property
    def tokens(self) -> tuple[int, int]:
        """`(m, n)` patches."""
        return self.cells[0] // self.patch, self.cells[1] // self.patch

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of each blob of its row of `contents`."""
        count = math.prod(self.cells)
        latents, depth, confidence = (dtype.itemsize for dtype in self.dtypes)
        return {
            "valid": -(-count // 8),
            "depth": count * depth,
            "confidence": count * confidence,
            "latents": self.channels * count * latents,
        }


@dataclass(frozen=True)
class GroupRow:
    """A row of `groups`, checked alone; whether its mask fits is seen when it meets its keyframe."""

    id: int
    uid: int
    keyframe: int
    world_from_cam: bytes
    mask: bytes | None
    pinned: bool
    until: float | None
    digest: bytes


def encode_keyframe(keyframe: Keyframe, row_id: int, model: str | None, seed: int | None) -> tuple[Row, Row]:
    """Its rows of `keyframes` and `contents`."""
    if len(model or "") > 4096:
        raise InputError("the name of a model has at most 4096 characters")
    dtypes = [_dtype_name(t) for t in (keyframe.latents, keyframe.depth, keyframe.confidence)]
    valid = np.packbits(keyframe.valid.detach().cpu().numpy()).tobytes()
    depth, confidence, latents = (to_bytes(t) for t in (keyframe.depth, keyframe.confidence, keyframe.latents))
    size = keyframe.confidence.element_size()
    if confidence == confidence[:size] * keyframe.confidence.numel():  # most often 1 everywhere
        confidence = confidence[:size]
    camera = torch.cat([keyframe.camera.viewmats.flatten(), keyframe.camera.Ks.flatten()]).double()
    values: Row = (
        keyframe.frame,
        stored_number(keyframe.time),
        keyframe.origin,
        model,
        seed,
        keyframe.camera.width,
        keyframe.camera.height,
        keyframe.stride,
        keyframe.patch,
        keyframe.channels,
        " ".join(dtypes),
        to_bytes(camera),
        to_bytes(patch_depths(keyframe)),
        row_digest(valid, depth, confidence),
        row_digest(latents),
    )
    return (row_id, *values, row_digest(*values)), (row_id, valid, depth, confidence, latents)


def decode_keyframe(row: Row) -> KeyframeRow:
    """A row of `keyframes` (`COLUMNS["keyframes"]`), checked.

    Raises:
        InputError: saying which field is impossible.
    """
    where = f"keyframe {row[0]!r:.20}"
    row_id, frame = whole(row[0], f"{where}: id", 0, 2**62), whole(row[1], f"{where}: frame", -(2**53), 2**53)
    if row[-1] != row_digest(*row[1:-1]):
        raise InputError(f"{where}: its row does not match its checksum")
    if row[3] not in ("observed", "generated"):
        raise InputError(f"{where}: origin {row[3]!r:.40}; expected 'observed' or 'generated'")
    width, height, stride, patch = (
        whole(value, f"{where}: {name}", 1, _MAX_SIDE)
        for name, value in zip(("width", "height", "stride", "patch"), row[6:10], strict=True)
    )
    names = row[11].split(" ") if isinstance(row[11], str) else []
    if len(names) != 3 or not set(names) <= set(DTYPES):
        raise InputError(f"{where}: dtypes {row[11]!r:.60}; expected three of {', '.join(DTYPES)}")
    origin: Origin = "observed" if row[3] == "observed" else "generated"
    found = KeyframeRow(
        row_id,
        frame,
        number(row[2], f"{where}: time"),
        origin,
        None if row[4] is None else text(row[4], f"{where}: model"),
        None if row[5] is None else whole(row[5], f"{where}: seed", -(2**63), 2**63 - 1),
        width,
        height,
        stride,
        patch,
        whole(row[10], f"{where}: channels", 1, _MAX_CHANNELS),
        (DTYPES[names[0]], DTYPES[names[1]], DTYPES[names[2]]),
        *(blob(value, f"{where}: {name}") for name, value in zip(_BLOBS, row[12:], strict=True)),
    )
    h, w = found.cells
    if not h or not w or h % patch or w % patch:
        raise InputError(f"{where}: {height}x{width} pixels are no grid of {patch} x {stride} px tokens")
    if max(found.sizes.values()) > MAX_BLOB_BYTES:
        raise InputError(f"{where}: claims {max(found.sizes.values()):,} bytes; at most {MAX_BLOB_BYTES:,} fit a row")
    if len(found.camera) != 25 * 8 or len(found.depths) != math.prod(found.tokens) * found.dtypes[1].itemsize:
        raise InputError(f"{where}: its camera or its patch depths have the wrong size")
    return found


_BLOBS = ("camera", "depths", "geometry", "latents", "digest")


def decode_geometry(row: KeyframeRow, valid: bytes, depth: bytes, confidence: bytes) -> dict[str, Tensor]:
    """`valid`, `depth` and `confidence` of a keyframe, from blobs of the right sizes.

    Raises:
        InputError: if they do not match their checksum, or a valid cell has no depth.
    """
    if row_digest(valid, depth, confidence) != row.geometry:
        raise InputError(f"keyframe {row.id} (frame {row.frame}): its depth does not match its checksum")
    count = math.prod(row.cells)
    bits = np.unpackbits(np.frombuffer(valid, np.uint8), count=count).astype(np.bool_)
    if len(confidence) < row.sizes["confidence"]:
        confidence = confidence * count
    found = {
        "valid": torch.from_numpy(bits).reshape(row.cells),
        "depth": from_bytes(depth, row.dtypes[1], row.cells),
        "confidence": from_bytes(confidence, row.dtypes[2], row.cells),
    }
    readable = found["depth"][found["valid"]]
    if not bool((readable.isfinite() & (readable > 0)).all()) or not bool(found["confidence"].isfinite().all()):
        raise InputError(f"keyframe {row.id} (frame {row.frame}): a valid cell without depth, or an unknown confidence")
    return found


def decode_latents(row: KeyframeRow, latents: bytes) -> dict[str, Tensor]:
    """`latents` of a keyframe, from a blob of the right size.

    Raises:
        InputError: if it does not match its checksum or is not finite.
    """
    if row_digest(latents) != row.latents:
        raise InputError(f"keyframe {row.id} (frame {row.frame}): its latents do not match their checksum")
    found = from_bytes(latents, row.dtypes[0], (row.channels, *row.cells))
    if not bool(found.isfinite().all()):
        raise InputError(f"keyframe {row.id} (frame {row.frame}): its latents contain NaN or infinity")
    return {"latents": found}


def encode_group(group: Group, row_id: int, keyframe_id: int) -> Row:
    """Its row of `groups`."""
    mask = None if group.mask is None else np.packbits(group.mask.detach().cpu().numpy()).tobytes()
    until = None if group.until is None else stored_number(group.until)
    values: Row = (
        row_id,
        group.uid,
        keyframe_id,
        to_bytes(group.world_from_cam.double()),
        mask,
        int(group.pinned),
        until,
    )
    return (*values, row_digest(*values))


def decode_group(row: Row) -> GroupRow:
    """A row of `groups` (`COLUMNS["groups"]`), checked.

    Raises:
        InputError: saying which field is impossible.
    """
    where = f"group {row[0]!r:.20}"
    if row[-1] != row_digest(*row[:-1]):
        raise InputError(f"{where}: its row does not match its checksum")
    found = GroupRow(
        whole(row[0], f"{where}: id", 0, 2**62),
        whole(row[1], f"{where}: uid", 0, 2**53),
        whole(row[2], f"{where}: keyframe", 0, 2**62),
        blob(row[3], f"{where}: world_from_cam"),
        None if row[4] is None else blob(row[4], f"{where}: mask"),
        bool(whole(row[5], f"{where}: pinned", 0, 1)),
        None if row[6] is None else number(row[6], f"{where}: until"),
        blob(row[7], f"{where}: digest"),
    )
    if len(found.world_from_cam) != 16 * 8:
        raise InputError(f"{where}: world_from_cam has {len(found.world_from_cam)} bytes; expected 128")
    return found


def decode_mask(row: GroupRow, tokens: tuple[int, int]) -> Bool[Tensor, "m n"] | None:
    """The mask of a group over the token grid of its keyframe.

    Raises:
        InputError: if it has another size.
    """
    if row.mask is None:
        return None
    count = math.prod(tokens)
    if len(row.mask) != -(-count // 8):
        raise InputError(f"group {row.id}: its mask has {len(row.mask)} bytes, expected {-(-count // 8)}")
    return torch.from_numpy(np.unpackbits(np.frombuffer(row.mask, np.uint8), count=count).astype(np.bool_)).reshape(
        tokens
    )


def encode_json(value: Mapping[str, Any], what: str) -> str:
    """JSON that gives the same value back.

    Raises:
        InputError: if it holds what JSON cannot, or is too long.
    """
    try:
        out = json.dumps(value, allow_nan=False)
        unchanged = json.loads(out) == value
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{what} cannot be described in JSON ({error}); nothing was written") from error
    if not unchanged:
        raise InputError(f"{what} holds tuples or keys that are no text; JSON would change them")
    if len(out.encode()) > MAX_TEXT_BYTES:
        raise InputError(f"{what} takes more than {MAX_TEXT_BYTES:,} bytes of JSON")
    return out


def decode_json(value: object, what: str) -> Any:
    """The value of a JSON column, bounded in size and nesting.

    Raises:
        InputError: if it is none.
    """
    source = text(value, what, MAX_TEXT_BYTES)
    if source.count("[") + source.count("{") > MAX_JSON_DEPTH and _nesting(source) > MAX_JSON_DEPTH:
        raise InputError(f"{what}: nested deeper than {MAX_JSON_DEPTH} levels")
    try:
        return json.loads(source)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{what}: no valid JSON ({error})") from error


def to_bytes(value: Tensor) -> bytes:
    """The bytes of a tensor, row by row, little-endian."""
    return value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def from_bytes(data: bytes, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    """The tensor of some bytes; they must be as many as the shape says."""
    return torch.frombuffer(bytearray(data), dtype=dtype).reshape(shape)


def whole(value: object, what: str, low: int, high: int) -> int:
    """`value`, if it is a whole number from `low` to `high`."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InputError(f"{what} = {value!r:.40}; expected a whole number from {low} to {high}")
    return value


def number(value: object, what: str) -> float:
    """`value`, if it is a finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= LARGEST:
        raise InputError(f"{what} = {value!r:.40}; expected a finite number")
    return float(value)


def stored_number(value: float) -> float:
    """`value` as SQLite gives it back: it keeps no sign of zero, and checksums are of what can be read."""
    return float(value) + 0.0


def text(value: object, what: str, limit: int = 4096) -> str:
    """`value`, if it is a text of at most `limit` characters."""
    if not isinstance(value, str) or len(value) > limit:
        raise InputError(f"{what} = {value!r:.40}; expected text of at most {limit:,} characters")
    return value


def blob(value: object, what: str) -> bytes:
    """`value`, if it is bytes."""
    if not isinstance(value, bytes):
        raise InputError(f"{what} is {type(value).__name__}; expected bytes")
    return value


def _dtype_name(value: Float[Tensor, "..."] | UInt8[Tensor, "..."]) -> str:
    if value.dtype not in _NAMES:
        raise InputError(f"a keyframe of {value.dtype}; expected {', '.join(DTYPES)}")
    return _NAMES[value.dtype]


def _nesting(source: str) -> int:
    """Deepest nesting of a JSON text; brackets inside strings count too, which only makes the bound stricter."""
    depth = deepest = 0
    for character in source:
        depth += (character in "[{") - (character in "]}")
        deepest = max(deepest, depth)
    return deepest
