"""Memories of version 0.2: plain safetensors with a JSON header. They are read and no longer written; see `world`.

Tensors are `keyframes.I.{latents,depth,valid,confidence,viewmat,K}` and `groups.J.{world_from_cam,mask}`; everything
else stands in the header, the safetensors metadata entry `mosaicmem`:

    {"format": "mosaicmem.memory", "version": 1, "meta": {...},
     "keyframes": [{"width", "height", "stride", "patch", "frame", "time", "origin"}, ...],
     "groups": [{"keyframe": I, "uid", "masked"}, ...]}

The tensor `sha256` is the digest of the header and all other tensors, so a damaged file is never taken for a memory.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load

from mosaicmem._shapes import Tensor, UInt8
from mosaicmem.errors import FormatVersionError, GeometryError, InputError
from mosaicmem.geometry.cameras import Cameras
from mosaicmem.io.files import MAX_JSON_DEPTH, finite, read_bytes
from mosaicmem.memory.patches import Group, Keyframe
from mosaicmem.memory.store import PatchStore

FORMAT, VERSION = "mosaicmem.memory", 1
MAX_BYTES = 64 * 2**30

_HEADER, _DIGEST = "mosaicmem", "sha256"
_HEADER_KEYS = {"format", "version", "meta", "keyframes", "groups"}
_KEYFRAME_KEYS = {"width", "height", "stride", "patch", "frame", "time", "origin"}
_GROUP_KEYS = {"keyframe", "uid", "masked"}
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_MAX_SIDE = 2**16


def read_safetensors_memory(path: Path | str, max_bytes: int = MAX_BYTES) -> tuple[PatchStore, dict[str, Any]]:
    """Read a memory and its description; every field is checked before it is used.

    Raises:
        FormatVersionError: if the file comes from another version of the format.
        InputError: if it is no memory file, is damaged, larger than `max_bytes`, or a field is impossible.
    """
    path = Path(path)
    data = read_bytes(path, max_bytes)
    try:
        tensors = load(data)
        metadata = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__") or {}
        text = metadata.get(_HEADER)
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, RecursionError) as error:
        raise InputError(f"{path}: not a readable memory file ({error}); was it written completely?") from error
    if not isinstance(text, str):
        raise InputError(f"{path}: a safetensors file without a {_HEADER!r} header; expected a saved memory")
    header = _header(path, text)
    digest = tensors.pop(_DIGEST, torch.empty(0))
    if not torch.equal(digest, _digest(text, tensors)):
        raise InputError(f"{path}: checksum does not match; the file was changed or damaged after it was written")
    return _store(path, header, tensors), header["meta"]


def _digest(header: str, tensors: Mapping[str, Tensor]) -> UInt8[Tensor, "32"]:
    digest = hashlib.sha256(header.encode())
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(f"\0{name}\0{value.dtype}\0{list(value.shape)}\0".encode())
        digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return torch.tensor(list(digest.digest()), dtype=torch.uint8)


def _header(path: Path, text: str) -> dict[str, Any]:
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: the header is no valid JSON ({error})") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise InputError(f'{path}: the header is not that of a memory; expected "format": "{FORMAT}"')
    version = header.get("version")
    if version != VERSION or isinstance(version, bool):
        raise FormatVersionError(f"{path}: format version {version!r:.40}; this mosaicmem reads version {VERSION}")
    _require_keys(path, "header", header, _HEADER_KEYS)
    if not isinstance(header["meta"], dict) or _depth(header["meta"]) > MAX_JSON_DEPTH:
        raise InputError(f"{path}: meta is no JSON object, or nested deeper than {MAX_JSON_DEPTH} levels")
    for name, keys in (("keyframes", _KEYFRAME_KEYS), ("groups", _GROUP_KEYS)):
        if not isinstance(header[name], list):
            raise InputError(f"{path}: {name} is {type(header[name]).__name__}, expected a list")
        for i, entry in enumerate(header[name]):
            _require_keys(path, f"{name}[{i}]", entry, keys)
    return header


def _store(path: Path, header: dict[str, Any], tensors: dict[str, Tensor]) -> PatchStore:
    left = dict(tensors)
    keyframes = [_keyframe(path, i, entry, left) for i, entry in enumerate(header["keyframes"])]
    groups = [_group(path, j, entry, keyframes, left) for j, entry in enumerate(header["groups"])]
    if left:
        raise InputError(f"{path}: holds {len(left)} tensors that nothing refers to, first {min(left)!r}")
    try:
        return PatchStore.from_groups(groups)
    except GeometryError as error:
        raise InputError(f"{path}: groups contradict each other: {error}") from error


def _keyframe(path: Path, i: int, entry: dict[str, Any], tensors: dict[str, Tensor]) -> Keyframe:
    where = f"{path}: keyframes[{i}]"
    width, height, stride, patch = (
        _integer(where, name, entry[name], 1, _MAX_SIDE) for name in ("width", "height", "stride", "patch")
    )
    frame = _integer(where, "frame", entry["frame"], -(2**53), 2**53)
    time = finite(entry["time"], f"{where}.time")
    if entry["origin"] not in ("observed", "generated"):
        raise InputError(f"{where}.origin = {entry['origin']!r:.40}; expected 'observed' or 'generated'")
    cells = (height // stride, width // stride)

    def take(name: str, shape: tuple[int | None, ...], dtypes: tuple[torch.dtype, ...]) -> Tensor:
        return _take(path, f"keyframes.{i}.{name}", tensors, shape, dtypes)

    latents = take("latents", (None, *cells), _FLOATS)
    depth, confidence = take("depth", cells, _FLOATS), take("confidence", cells, _FLOATS)
    valid = take("valid", cells, (torch.bool,))
    viewmat, K = take("viewmat", (4, 4), _FLOATS), take("K", (3, 3), _FLOATS)
    try:
        camera = Cameras(viewmat[None], K[None], width, height)
        return Keyframe(
            latents, depth, valid, confidence, camera, stride, patch, frame=frame, time=time, origin=entry["origin"]
        )
    except GeometryError as error:
        raise InputError(f"{where}: {error}") from error


def _group(path: Path, j: int, entry: dict[str, Any], keyframes: list[Keyframe], tensors: dict[str, Tensor]) -> Group:
    where = f"{path}: groups[{j}]"
    keyframe = keyframes[_integer(where, "keyframe", entry["keyframe"], 0, len(keyframes) - 1)]
    uid = _integer(where, "uid", entry["uid"], 0, 2**53)
    if not isinstance(entry["masked"], bool):
        raise InputError(f"{where}.masked = {entry['masked']!r:.40}; expected true or false")
    A = _take(path, f"groups.{j}.world_from_cam", tensors, (4, 4), (torch.float32, torch.float64))
    if A[3].tolist() != [0, 0, 0, 1] or float(torch.det(A[:3, :3].double())) <= 0:
        raise InputError(f"{where}.world_from_cam is no rigid transform or similarity")
    mask = _take(path, f"groups.{j}.mask", tensors, keyframe.tokens, (torch.bool,)) if entry["masked"] else None
    return Group(keyframe, A, mask, uid)


def _take(
    path: Path, name: str, tensors: dict[str, Tensor], shape: tuple[int | None, ...], dtypes: tuple[torch.dtype, ...]
) -> Tensor:
    """Remove a tensor from `tensors`, checked; `None` in `shape` is any length from 1."""
    if name not in tensors:
        raise InputError(f"{path}: tensor {name!r} is missing")
    value = tensors.pop(name)
    fits = len(value.shape) == len(shape) and all(
        want == got or (want is None and got > 0) for want, got in zip(shape, value.shape, strict=False)
    )
    if value.dtype not in dtypes or not fits:
        expected = "x".join("n" if want is None else str(want) for want in shape)
        kind = "bool" if torch.bool in dtypes else "float"
        raise InputError(f"{path}: {name} is {value.dtype} {list(value.shape)}; expected {kind} {expected}")
    if value.is_floating_point() and not bool(value.isfinite().all()):
        raise InputError(f"{path}: {name} contains NaN or infinity")
    return value


def _require_keys(path: Path, where: str, entry: Any, keys: set[str]) -> None:
    if not isinstance(entry, dict):
        raise InputError(f"{path}: {where} is {type(entry).__name__}, expected an object")
    wrong = sorted(entry.keys() ^ keys)
    if wrong:
        kind = "unknown" if wrong[0] in entry else "missing"
        raise InputError(f"{path}: {where}: field {wrong[0]!r} is {kind}; expected {', '.join(sorted(keys))}")


def _integer(where: str, name: str, value: Any, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InputError(f"{where}.{name} = {value!r:.40}; expected a whole number from {low} to {high}")
    return value


def _depth(value: Any) -> int:
    """Nesting of a JSON value, without recursion."""
    deepest, layer = 0, [value]
    while layer and deepest <= MAX_JSON_DEPTH:
        layer = [
            child
            for item in layer
            if isinstance(item, (dict, list))
            for child in (item.values() if isinstance(item, dict) else item)
        ]
        deepest += 1
    return deepest
