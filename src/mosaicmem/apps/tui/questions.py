"""What the interface asks of a walk, on the session's thread: a look back, a thing in the view, an edit tried out."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from mosaicmem.apps.tui.drawing import Picture
from mosaicmem.apps.tui.words import Point, Standing
from mosaicmem.errors import InputError
from mosaicmem.generation.rollout import to_u8
from mosaicmem.geometry.cameras import Cameras
from mosaicmem.io.exports.shots import camera_now
from mosaicmem.live.commands import Choice, Edit
from mosaicmem.live.edits import edited, selection
from mosaicmem.live.reasons import WORDS, chosen, why
from mosaicmem.live.steps import hatched, remembered
from mosaicmem.live.walk import Walk
from mosaicmem.memory.mosaic import Mosaic
from mosaicmem.memory.retrieval import retrieve
from mosaicmem.memory.store import PatchStore

MARK = (255, 0, 255)
"""Colour of what an edit would act on."""
MOST_MARKS = 250


@dataclass(frozen=True)
class Remembered:
    """What memory shows of a view: `[H W 3]` hatched in its holes, the share of the view, and reasons in words."""

    picture: Picture
    share: float
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Preview:
    """What an edit would do: patches it acts on, how many there are and would be, the view before and after."""

    count: int
    total: int
    total_after: int
    before: Remembered
    after: Remembered


def standing(walk: Walk) -> Standing:
    """How one stands, for edits in words; the door is in the middle of the view, at the height of the eye, and whoever
    stands in it looks this way."""
    up = torch.nn.functional.normalize(walk.up.double(), dim=0)
    c2w = walk.state.camera.c2w[0].double()
    ahead = c2w[:3, 2] - up * (c2w[:3, 2] @ up)
    if float(ahead.norm()) < 1e-6:  # straight up or down: the way the top of the picture points
        ahead = -c2w[:3, 1]
    ahead = torch.nn.functional.normalize(ahead, dim=0)
    right = torch.linalg.cross(ahead, up)
    point, door = why(walk, 0.5, 0.5)["point"], None
    if point is not None:
        at = torch.tensor(point, dtype=torch.float64)
        door = _triple(at + up * ((c2w[:3, 3] - at) @ up))
    return Standing(_triple(right), _triple(up), _triple(ahead), door)


def shown_by(walk: Walk, choice: Choice) -> Remembered:
    """What the chosen frames alone show, where the newest of them was seen from.

    Raises:
        InputError: if nothing is chosen.
    """
    store, here = walk.state.store, walk.state.camera
    rows = selection(choice)(store)
    held = [group for g, group in enumerate(store) if bool(rows[store.offsets[g] : store.offsets[g + 1]].any())]
    if not held:
        raise InputError("nothing is remembered of that")
    seen, _ = camera_now(max(held, key=lambda group: group.age_key))
    camera = Cameras.from_c2w(seen.c2w.double(), here.Ks, here.width, here.height)
    return _remembered(walk, PatchStore.from_groups(held), camera)


def look_back(walk: Walk, frame: int) -> Remembered:
    """What memory shows now of the view of a frame of this walk.

    Raises:
        InputError: if the frame is not of this walk.
    """
    if frame not in walk.poses:
        raise InputError(f"frame {frame} is not of this walk")
    here = walk.state.camera
    camera = Cameras.from_c2w(walk.poses[frame][None].double(), here.Ks, here.width, here.height)
    return _remembered(walk, walk.state.store, camera)


def share_now(walk: Walk, frame: int) -> float:
    """The share of the view of a frame that memory shows now; nothing for frames of elsewhere."""
    if frame not in walk.poses:
        return 0.0
    here = walk.state.camera
    camera = Cameras.from_c2w(walk.poses[frame][None].double(), here.Ks, here.width, here.height)
    return float(retrieve(walk.state.store, camera, walk.state.grid, walk.maker.retrieval).coverage[0])


def thing_at(walk: Walk, u: float, v: float) -> tuple[Choice, str]:
    """The thing that memory shows at a place of the view, shares of its width and height, and what serves it.

    Raises:
        InputError: if memory shows nothing there.
    """
    found = why(walk, u, v)
    if found["point"] is None:
        raise InputError("memory shows nothing there: it is imagined; walk on and look at it again")
    x, y, z = found["point"]
    owner = found["owner"]
    return Choice("thing", point=(x, y, z)), f"shown from frame {owner['frame']} ({owner['origin']})"


def preview(walk: Walk, edit: Edit) -> Preview:
    """An edit tried out; nothing is changed.

    Raises:
        MosaicMemError: if it cannot be done; the message says why.
    """
    store = walk.state.store
    after, _, _ = edited(edit, store, walk.up, walk.others)
    count = after.num_patches - store.num_patches if edit.choice is None else chosen(walk, edit.choice)["count"]
    camera = walk.state.camera
    before = _remembered(walk, store, camera)
    marked = store.centers[:0].double()
    if edit.choice is not None:
        marked = store.centers[selection(edit.choice)(store)].double()
        marked = marked[:: max(1, len(marked) // MOST_MARKS)]  # what is marked is still to be seen
    elif edit.door is not None and edit.facing is not None:
        marked = _door_frame(edit.door, edit.facing, walk.up, store.scale)
    before = replace(before, picture=_marked(before.picture, marked, camera))
    return Preview(int(count), store.num_patches, after.num_patches, before, _remembered(walk, after, camera))


def _door_frame(door: Point, facing: Point, up: torch.Tensor, scale: float) -> torch.Tensor:
    """`[n 3]` points along the frame of a door that is a quarter of the world's scale wide."""
    up = torch.nn.functional.normalize(up.double(), dim=0)
    beside = torch.nn.functional.normalize(torch.linalg.cross(torch.tensor(facing, dtype=torch.float64), up), dim=0)
    along = torch.linspace(-1, 1, 41, dtype=torch.float64)[:, None] * 0.15 * scale
    sides = [0.12 * scale * sign * beside + along * up for sign in (-1, 1)]
    ends = [0.15 * scale * sign * up + 0.8 * along * beside for sign in (-1, 1)]
    return torch.tensor(door, dtype=torch.float64) + torch.cat([*sides, *ends])


def _triple(vector: torch.Tensor) -> Point:
    x, y, z = (round(float(v), 6) for v in vector)
    return x, y, z


def _marked(picture: Picture, points: torch.Tensor, camera: Cameras) -> Picture:
    """The picture with a dot where each of the points lies, whatever is in front of it."""
    height, width, _ = picture.shape
    uv, z, _ = camera.project(points.double()[None])
    seen = (z[0] > 0) & (uv[0] >= 0).all(-1) & (uv[0, :, 0] < width) & (uv[0, :, 1] < height)
    x, y = uv[0, seen].long().numpy().T
    out, size = picture.copy(), max(1, width // 48)
    for dy in range(size):
        for dx in range(size):
            out[np.minimum(y + dy, height - 1), np.minimum(x + dx, width - 1)] = MARK
    return out


def _remembered(walk: Walk, store: PatchStore, camera: Cameras) -> Remembered:
    config = walk.maker.retrieval
    mosaic = retrieve(store, camera, walk.state.grid, config)
    ((frame, good),) = remembered(walk.maker.models.vae, store, mosaic, config)
    picture = hatched(to_u8(frame[None].to(torch.float32))[0], good)
    return Remembered(picture, float(mosaic.coverage[0]), tuple(_reasons(mosaic, store)))


def _reasons(mosaic: Mosaic, store: PatchStore) -> list[str]:
    frames = [store.group(int(g)).keyframe.frame for g in mosaic.picked[0]]
    lines = ["from frames " + ", ".join(map(str, frames[:12])) + (" ..." if len(frames) > 12 else "")] if frames else []
    counts = {reason: count for reason, count in mosaic.reasons(0).items() if count}
    return [*lines, *(f"{count} {WORDS[reason]}" for reason, count in counts.items())]
