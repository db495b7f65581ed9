"""Writes memories as version 0.2 did, for the tests of what still reads them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from mosaicmem.io.safetensors_memory import FORMAT, VERSION, _digest
from mosaicmem.memory.store import PatchStore


def save_old(store: PatchStore, path: Path, meta: Mapping[str, Any] | None = None) -> None:
    """A memory as `memory.safetensors`."""
    keyframes = list({id(group.keyframe): group.keyframe for group in store}.values())
    index = {id(keyframe): i for i, keyframe in enumerate(keyframes)}
    names = ("stride", "patch", "frame", "time", "origin")
    entries = [
        {"width": k.camera.width, "height": k.camera.height, **{name: getattr(k, name) for name in names}}
        for k in keyframes
    ]
    groups = [{"keyframe": index[id(g.keyframe)], "uid": g.uid, "masked": g.mask is not None} for g in store]
    header = {"format": FORMAT, "version": VERSION, "meta": dict(meta or {}), "keyframes": entries, "groups": groups}
    tensors = {f"groups.{j}.world_from_cam": g.world_from_cam for j, g in enumerate(store)}
    tensors |= {f"groups.{j}.mask": g.mask for j, g in enumerate(store) if g.mask is not None}
    for i, k in enumerate(keyframes):
        tensors |= {f"keyframes.{i}.{name}": getattr(k, name) for name in ("latents", "depth", "valid", "confidence")}
        tensors |= {f"keyframes.{i}.viewmat": k.camera.viewmats[0], f"keyframes.{i}.K": k.camera.Ks[0]}
    tensors = {name: value.clone().contiguous() for name, value in tensors.items()}
    text = json.dumps(header)
    save_file(tensors | {"sha256": _digest(text, tensors)}, path, metadata={"mosaicmem": text})
