"""What viewers are sent of memory itself: where its patches lie and how they look, and only what has changed."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from mosaicmem.live.walk import Walk
from mosaicmem.memory.patches import Group, Keyframe
from mosaicmem.memory.store import PatchStore

MOST = 200_000
"""Patches that a viewer is sent; of a larger memory every so many-th."""

Delta = tuple[dict[str, Any], list[tuple[str, bytes]]]


class PatchFeed:
    """Keeps what viewers know, and says what they do not know yet."""

    def __init__(self) -> None:
        self._known: dict[int, Group] = {}
        self._colours: weakref.WeakKeyDictionary[Keyframe, NDArray[np.uint8]] = weakref.WeakKeyDictionary()

    def news(self, walk: Walk, shown: Mapping[int, NDArray[np.uint8]] | None = None) -> Delta | None:
        """What has changed since the last call, or None; `shown` are frames of which patches may have been made."""
        store = walk.state.store
        now = {group.uid: group for group in store}
        gone = [uid for uid, group in self._known.items() if now.get(uid) is not group]
        new = [g for g, group in enumerate(store) if self._known.get(group.uid) is not group]
        self._known = now
        if not gone and not new:
            return None
        return self._delta(walk, new, {"reset": False, "removed": gone}, shown or {})

    def everything(self, walk: Walk) -> Delta:
        """All there is, for a viewer that knows nothing."""
        return self._delta(walk, list(range(len(walk.state.store))), {"reset": True, "removed": []}, {})

    def _delta(
        self, walk: Walk, groups: list[int], header: dict[str, Any], shown: Mapping[int, NDArray[np.uint8]]
    ) -> Delta:
        store = walk.state.store
        stride = max(1, -(-store.num_patches // MOST))
        listed, xyz, rgb, radii = [], [], [], []
        for g in groups:
            group = store.group(g)
            rows = slice(store.offsets[g], store.offsets[g + 1], stride)
            colours = self._colours_of(walk, group, shown)[store.patch_ids[rows].long().numpy()]
            xyz.append(store.centers[rows].numpy())
            radii.append(store.radii[rows].numpy())
            rgb.append(colours)
            key = group.keyframe
            pose = group.world_from_cam.flatten().tolist()
            about = {"uid": group.uid, "frame": key.frame, "time": key.time, "origin": key.origin}
            listed.append({**about, "pinned": group.pinned, "count": len(colours), "pose": pose})
        blobs = [
            ("xyz", np.concatenate([*xyz, np.zeros((0, 3), np.float32)]).astype("<f4").tobytes()),
            ("radius", np.concatenate([*radii, np.zeros(0, np.float32)]).astype("<f4").tobytes()),
            ("rgb", np.concatenate([*rgb, np.zeros((0, 3), np.uint8)]).astype(np.uint8).tobytes()),
        ]
        return {**header, "groups": listed, "total": store.num_patches, "keyframes": len(store)}, blobs

    def _colours_of(
        self, walk: Walk, group: Group, shown: Mapping[int, NDArray[np.uint8]]
    ) -> NDArray[np.uint8]:  # fmt: skip
        """`[m n 3]` mean colours of a keyframe's patches, row-major: from a frame, a thumbnail, or the latents."""
        key = group.keyframe
        found = self._colours.get(key)
        if found is None:
            picture = shown.get(key.frame)
            if picture is None:
                picture = walk.world.thumbnail(group.uid)
            if picture is None:
                decoded = walk.maker.models.vae.decode_image(key.latents[None].float())[0]
                picture = ((decoded.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).movedim(0, -1).numpy()
            m, n = key.tokens
            small = Image.fromarray(np.ascontiguousarray(picture)).resize((n, m), Image.Resampling.BOX)
            found = self._colours[key] = np.asarray(small).reshape(-1, 3)
        return found


def tokens(walk: Walk) -> dict[str, list[int]]:
    """Where each token of the view comes from, row-major: keyframe (uid, -1: imagined), its frame, and how much of
    the token memory shows (percent)."""
    mosaic, store = walk.mosaic, walk.state.store
    m, n = mosaic.grid.tokens
    p = mosaic.grid.patch
    owner = mosaic.owner[0].flatten()
    good = mosaic.good[0].double().reshape(m, p, n, p).mean((1, 3)).flatten()
    uids, frames, generated = _tables(store)
    at = owner.clamp(min=0)
    pick: Callable[[torch.Tensor], list[int]] = lambda table: torch.where(owner < 0, -1, table[at]).tolist()  # noqa: E731
    shares = (100 * good).round().long().tolist()
    return {"uid": pick(uids), "frame": pick(frames), "generated": pick(generated), "known": shares}


def _tables(store: PatchStore) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    if not len(store):
        none = torch.zeros(1, dtype=torch.int64)
        return none, none, none
    return store.numbers[:, 1], store.numbers[:, 0], store.numbers[:, 2]
