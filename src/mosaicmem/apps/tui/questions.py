"""What the interface asks of a walk, on the session's thread: a look back, a thing in the view, an edit tried out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch

from mosaicmem.apps.tui.drawing import Picture
from mosaicmem.errors import ConfigError, InputError
from mosaicmem.generation.rollout import to_u8
from mosaicmem.geometry.cameras import Cameras
from mosaicmem.live.commands import Choice, Edit, Verb
from mosaicmem.live.edits import edited, selection
from mosaicmem.live.reasons import WORDS, chosen, why
from mosaicmem.live.steps import hatched, remembered
from mosaicmem.live.walk import Walk
from mosaicmem.memory.mosaic import Mosaic
from mosaicmem.memory.retrieval import retrieve
from mosaicmem.memory.store import PatchStore

VERBS: dict[str, tuple[str, str]] = {
    "erase": ("", "forget it"),
    "move": ("0.5 0 0", "X Y Z, world units"),
    "duplicate": ("0.5 0 0", "X Y Z, world units"),
    "rotate": ("90", "degrees about the vertical"),
    "scale": ("1.5", "factor"),
    "splice": ("", "NAME of another world, and perhaps X Y Z"),
}
"""What an edit may be, an example of its numbers, and what they are."""


MARK = (255, 0, 255)
"""Colour of what an edit would act on."""


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


def parse_edit(text: str, choice: Choice | None) -> Edit:
    """An edit in words, such as `move 0.5 0 0`, of what is chosen.

    Raises:
        ConfigError: if it is none; the message says what is expected.
    """
    verb, *rest = text.split()[:8] or [""]
    if verb not in VERBS:
        raise ConfigError(f"{verb!r:.20}: expected one of {', '.join(VERBS)}")
    if verb == "splice":
        if not rest:
            raise ConfigError("splice NAME: which world?")
        return Edit("splice", other=rest[0], by=_point(rest[1:]) if rest[1:] else None)
    if choice is None:
        raise ConfigError("nothing is chosen; mark frames in the list, or click a thing in the view")
    numbers = [_number(word) for word in rest]
    wanted = {"erase": 0, "move": 3, "duplicate": 3}.get(verb, 1)
    if len(numbers) != wanted:
        raise ConfigError(f"{verb} {VERBS[verb][1] if wanted else ''}: expected {wanted} numbers")
    what = cast(Verb, verb)
    if wanted == 3:
        return Edit(what, choice, by=_point(rest))
    if wanted == 0:
        return Edit(what, choice)
    return Edit(what, choice, degrees=numbers[0]) if verb == "rotate" else Edit(what, choice, factor=numbers[0])


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
    return float(retrieve(walk.state.store, camera, walk.state.grid, walk.maker.config.retrieval).coverage[0])


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
    if edit.choice is not None:
        rows = selection(edit.choice)(store)
        before = replace(before, picture=_marked(before.picture, store.centers[rows], camera))
    return Preview(int(count), store.num_patches, after.num_patches, before, _remembered(walk, after, camera))


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
    config = walk.maker.config.retrieval
    mosaic = retrieve(store, camera, walk.state.grid, config)
    ((frame, good),) = remembered(walk.maker.models.vae, store, mosaic, config)
    picture = hatched(to_u8(frame[None].to(torch.float32))[0], good)
    return Remembered(picture, float(mosaic.coverage[0]), tuple(_reasons(mosaic, store)))


def _reasons(mosaic: Mosaic, store: PatchStore) -> list[str]:
    frames = [store.group(int(g)).keyframe.frame for g in mosaic.picked[0]]
    lines = ["from frames " + ", ".join(map(str, frames[:12])) + (" ..." if len(frames) > 12 else "")] if frames else []
    counts = {reason: count for reason, count in mosaic.reasons(0).items() if count}
    return [*lines, *(f"{count} {WORDS[reason]}" for reason, count in counts.items())]


def _point(words: list[str]) -> tuple[float, float, float]:
    numbers = [_number(word) for word in words]
    if len(numbers) != 3:
        raise ConfigError("expected X Y Z, three numbers in world units")
    return numbers[0], numbers[1], numbers[2]


def _number(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        raise ConfigError(f"{word!r:.20}: expected a number") from None
