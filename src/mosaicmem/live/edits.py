"""Edits of a live world: what a command selects and does, and the difference that undo needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from mosaicmem._shapes import Float, Tensor
from mosaicmem.errors import ConfigError, InputError
from mosaicmem.geometry import se3
from mosaicmem.geometry.cameras import Cameras
from mosaicmem.io.exports.shots import camera_now
from mosaicmem.live.commands import Choice, Edit
from mosaicmem.live.steps import upright
from mosaicmem.memory import editing
from mosaicmem.memory.patches import Group, patch_points
from mosaicmem.memory.selection import Selection, box, in_frames, sphere, surface
from mosaicmem.memory.store import PatchStore

Others = Mapping[str, Callable[[], PatchStore]]
"""Worlds that may be spliced in, by name."""


ALIKE = 0.8
"""Cosine between the ups of two worlds from which on they count as one."""


@dataclass(frozen=True)
class Difference:
    """What an edit did, by uid: the groups it took away and those it put in their place; and as which operation."""

    before: dict[int, Group]
    after: dict[int, Group]
    operation: int | None = None
    kind: str = ""

    @staticmethod
    def between(before: PatchStore, after: PatchStore) -> Difference:
        """An edit leaves untouched groups as they are, so that identity says what changed."""
        old, new = ({g.uid: g for g in store} for store in (before, after))
        changed = [uid for uid in old.keys() | new.keys() if old.get(uid) is not new.get(uid)]
        pick = lambda groups: {uid: groups[uid] for uid in sorted(changed) if uid in groups}  # noqa: E731
        return Difference(pick(old), pick(new))

    @property
    def reverse(self) -> Difference:
        """The way back."""
        return Difference(self.after, self.before)

    def applied(self, store: PatchStore) -> PatchStore:
        """The store with this done to it, whatever else has come since. New groups get new uids."""
        top = 1 + max((group.uid for group in store), default=-1)
        known = {group.uid for group in store}
        put: dict[int, Group] = {}
        for uid, group in self.after.items():
            free = uid in self.before or uid not in known
            put[uid if free else top] = group if free else replace(group, uid=top)
            top += not free
        gone = self.before.keys() | put.keys()
        rows = {group.uid: (group, _columns(store, g)) for g, group in enumerate(store) if group.uid not in gone}
        rows |= {uid: (group, patch_points(group)) for uid, group in put.items()}
        return _store([rows[uid] for uid in sorted(rows)])


def selection(choice: Choice) -> Selection:
    """The patches that a choice stands for."""
    if choice.kind == "box":
        low, high = _vector(choice.low), _vector(choice.high)
        return box(torch.minimum(low, high), torch.maximum(low, high))
    if choice.kind == "sphere":
        return sphere(_vector(choice.point), choice.radius or 0.0)
    if choice.kind == "frames":
        return in_frames(choice.first or 0, choice.last or 0)
    return surface(_vector(choice.point), reach=choice.radius)


def edited(
    command: Edit, store: PatchStore, up: Float[Tensor, "3"], others: Others
) -> tuple[PatchStore, dict[str, Any], str]:
    """The store after an edit, what to write into the log, and the same in words.

    Raises:
        InputError: if nothing is selected; ConfigError: if there is no such other world; GeometryError: if the other
            world belongs to another latent space.
    """
    if command.verb == "splice":
        return _spliced(command, store, up, others)
    assert command.choice is not None
    rows = selection(command.choice)(store)
    count = int(rows.sum())
    if not count:
        raise InputError("nothing is selected there; expected a place where something is remembered")
    chosen = Selection(lambda _: rows)
    points = store.centers[rows].double()
    middle = (points.amin(0) + points.amax(0)) / 2
    arguments = {**command.choice.given}
    if command.verb == "erase":
        after = editing.erase(store, chosen)
    elif command.verb == "rotate":
        after = editing.rotate(store, chosen, -up.double(), command.degrees or 0.0, middle)
        arguments["degrees"] = command.degrees
    elif command.verb == "scale":
        after = editing.scale(store, chosen, command.factor or 1.0, middle)
        arguments["factor"] = command.factor
    else:
        by = _vector(command.by)
        shift = se3.translation(by)
        after = editing.move(store, chosen, by) if command.verb == "move" else editing.duplicate(store, chosen, shift)
        arguments["by"] = by.tolist()
    return after, arguments, f"{command.verb}: {count:,} patches"


def _spliced(
    command: Edit, store: PatchStore, up: Float[Tensor, "3"], others: Others
) -> tuple[PatchStore, dict[str, Any], str]:
    if command.other is None or command.other not in others:
        known = ", ".join(others) or "none; name them with --other when you start"
        raise ConfigError(f"no world {str(command.other)!r:.80} to splice in; there are {known}")
    other = others[command.other]()
    layout = command.layout or "horizontal"
    if layout == "doorway":
        doors = doorway(_vector(command.door), _vector(command.facing), up), _door_of(other, command.other_frame, up)
        where = editing.doorway_transform(*doors, ratio=command.factor or 1.0)
    else:
        offset = store.scale if command.offset is None else command.offset
        where = editing.layout_transform(store.centers, other.centers, layout, offset)
    if command.by is not None:
        where = se3.translation(_vector(command.by)) @ where
    place = {"horizontal": "beside", "vertical": "above", "doorway": "at the doorway"}[layout]
    said = f"splice {command.other}: {other.num_patches:,} patches {place}"
    arguments = {"other": command.other, "layout": layout, "a_from_b": where.tolist()}
    return editing.splice(store, other, where), arguments, said


def doorway(place: Float[Tensor, "3"], facing: Float[Tensor, "3"], up: Float[Tensor, "3"]) -> Float[Tensor, "4 4"]:
    """World from door, as `editing.doorway_transform` wants it: upright, looking level along `facing`.

    Raises:
        ConfigError: if `facing` is straight up or down.
    """
    up = torch.nn.functional.normalize(up.double(), dim=0)
    ahead = facing.double() - up * (facing.double() @ up)
    if float(ahead.norm()) <= 1e-6 * float(facing.norm()):
        raise ConfigError("facing: expected a direction that is not straight up or down")
    ahead = torch.nn.functional.normalize(ahead, dim=0)
    return se3.make_transform(torch.stack([torch.linalg.cross(-up, ahead), -up, ahead], -1), place.double())


def _door_of(store: PatchStore, frame: int | None, up: Float[Tensor, "3"]) -> Float[Tensor, "4 4"]:
    """Where a frame of a world was seen from, looking as it did; without a number its first one."""
    groups = [group for group in store if frame is None or group.keyframe.frame == frame]
    if not groups:
        known = sorted({group.keyframe.frame for group in store})
        raise ConfigError(
            f"the other world has no frame {frame}; it has {known[0]} to {known[-1]}, {len(known)} in all"
        )
    seen, _ = camera_now(min(groups, key=lambda group: group.age_key))
    cameras = Cameras.cat([camera_now(group)[0] for group in store])
    # worlds with one idea of up keep it, so that floors stay level whatever a guess from few cameras is worth
    own = upright(cameras)
    return doorway(seen.centers[0], seen.forward[0], up if float(own @ up.double()) > ALIKE else own)


def _vector(point: tuple[float, ...] | None) -> Float[Tensor, "3"]:
    return torch.tensor(point or (0.0, 0.0, 0.0), dtype=torch.float64)


def _columns(store: PatchStore, g: int) -> tuple[Tensor, Tensor, Tensor]:
    rows = slice(store.offsets[g], store.offsets[g + 1])
    return store.centers[rows], store.radii[rows], store.patch_ids[rows]


def _store(parts: list[tuple[Group, tuple[Tensor, Tensor, Tensor]]]) -> PatchStore:
    if not parts:
        return PatchStore.empty()
    offsets = [0]
    for _, (points, _, _) in parts:
        offsets.append(offsets[-1] + len(points))
    columns = [torch.cat([part[1][i] for part in parts]) for i in range(3)]
    return PatchStore.from_columns([group for group, _ in parts], columns[0], columns[1], columns[2], offsets)
