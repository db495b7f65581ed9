"""From rows to a `PatchStore`: where every patch lies, without reading what it holds."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from itertools import groupby

import torch

from mosaicmem._shapes import Float, Tensor
from mosaicmem.errors import GeometryError, InputError
from mosaicmem.geometry.cameras import Cameras
from mosaicmem.io.world.contents import ContentReader, camera_tensor, stored_keyframe
from mosaicmem.io.world.rows import GroupRow, KeyframeRow, decode_group, decode_keyframe, decode_mask, from_bytes
from mosaicmem.io.world.schema import COLUMNS
from mosaicmem.memory.patches import Group, Keyframe, place_patches
from mosaicmem.memory.store import PatchStore

_CHUNK_PATCHES = 2**18

Placed = list[tuple[Group, GroupRow]]


def read_current(db: sqlite3.Connection) -> tuple[list[GroupRow], dict[int, KeyframeRow]]:
    """The groups of the checked-out branch, by uid, and the keyframes that they place, by id.

    Raises:
        InputError: if a row is damaged or missing.
    """
    columns = ", ".join(f"g.{name}" for name in COLUMNS["groups"].split(", "))
    query = f"SELECT c.uid, {columns} FROM current c LEFT JOIN groups g ON g.id = c.placed ORDER BY c.uid"  # noqa: S608
    groups: list[GroupRow] = []
    for uid, *row in db.execute(query):
        group = decode_group(tuple(row))
        if group.uid != uid:
            raise InputError(f"group {group.id} has uid {group.uid}, and stands for {uid!r:.20}")
        groups.append(group)
    query = (
        f"SELECT {COLUMNS['keyframes']} FROM keyframes "  # noqa: S608
        "WHERE id IN (SELECT g.keyframe FROM current c JOIN groups g ON g.id = c.placed)"
    )
    keyframes = {row[0]: decode_keyframe(row) for row in db.execute(query)}
    for group in groups:
        if group.keyframe not in keyframes:
            raise InputError(f"keyframe {group.keyframe}, which group {group.id} places, is missing")
    return groups, keyframes


def build_store(
    groups: list[GroupRow], rows: dict[int, KeyframeRow], reader: ContentReader, known: dict[int, Group]
) -> tuple[PatchStore, dict[int, Group]]:
    """The store of some groups, and its groups by row id. `known` groups are used again, with their keyframes.

    Raises:
        InputError: if a camera, a placement or a mask is impossible, or the groups contradict each other.
    """
    placements = _placements(groups)
    keyframes = {row_id_of(group): group.keyframe for group in known.values()}
    keyframes |= _keyframes([row for row in rows.values() if row.id not in keyframes], reader)
    placed: dict[int, Group] = {}
    for k, row in enumerate(groups):
        group = known.get(row.id)
        if group is None:
            mask = decode_mask(row, rows[row.keyframe].tokens)
            group = Group(keyframes[row.keyframe], placements[k], mask, row.uid, row.pinned, row.until)
        placed[row.id] = group
    return _indexed(list(placed.values()), groups, rows, placements), placed


def row_id_of(group: Group) -> int:
    """Row of `keyframes` that a group from a file places."""
    return group.keyframe.__dict__["contents"].row.id


def _placements(groups: list[GroupRow]) -> Tensor:
    A = torch.frombuffer(bytearray(b"".join(g.world_from_cam for g in groups) or bytes(128)), dtype=torch.float64)
    A = A.reshape(-1, 4, 4)[: len(groups)]
    if (bad := no_placement(A)) is not None:
        raise InputError(f"group {groups[bad].id}: placed by no rigid transform or similarity")
    return A


def no_placement(places: Float[Tensor, "g 4 4"]) -> int | None:
    """The first of some `world_from_cam` that cannot place a group, or None if all can."""
    last = torch.tensor([0.0, 0, 0, 1], dtype=torch.float64)
    fine = places.flatten(1).isfinite().all(-1) & (places[:, 3] == last).all(-1)
    fine &= torch.linalg.det(places[:, :3, :3].nan_to_num(0.0, 0.0, 0.0)) > 0
    return None if bool(fine.all()) else int((~fine).nonzero()[0])


def _keyframes(rows: Sequence[KeyframeRow], reader: ContentReader) -> dict[int, Keyframe]:
    """Cameras are checked all at once: one at a time costs more than all the rest of opening a file."""
    found: dict[int, Keyframe] = {}
    ordered = sorted(rows, key=lambda row: (row.width, row.height))
    for (width, height), same in groupby(ordered, key=lambda row: (row.width, row.height)):
        part = list(same)
        numbers = camera_tensor(part)
        try:
            cameras = Cameras(numbers[:, :16].reshape(-1, 4, 4), numbers[:, 16:].reshape(-1, 3, 3), width, height)
        except GeometryError as error:
            raise InputError(f"keyframes of {width}x{height}: {error}") from error
        found |= {row.id: stored_keyframe(reader, row, cameras[i]) for i, row in enumerate(part)}
    return found


def _indexed(
    groups: list[Group], group_rows: list[GroupRow], rows: dict[int, KeyframeRow], placements: Tensor
) -> PatchStore:
    """A store of `groups`, whose patches are placed many groups at a time."""
    points: list[Tensor] = [torch.empty(0, 3)]
    radii: list[Tensor] = [torch.empty(0)]
    patch_ids: list[Tensor] = [torch.empty(0, dtype=torch.int64)]
    offsets = torch.zeros(len(groups) + 1, dtype=torch.int64)
    start = 0
    for stop in _runs(group_rows, rows):
        part = [rows[row.keyframe] for row in group_rows[start:stop]]
        depths = _depths(part).double()
        for k, group in enumerate(groups[start:stop]):
            if group.mask is not None:
                depths[k] *= group.mask.flatten()
        Ks = camera_tensor(part)[:, 16:].reshape(-1, 3, 3)
        xyz, radius = place_patches(depths, groups[start].keyframe, Ks, placements[start:stop])
        there = depths != 0
        points.append(xyz[there])
        radii.append(radius[there])
        patch_ids.append(there.nonzero()[:, 1])
        offsets[start + 1 : stop + 1] = there.sum(1)
        start = stop
    try:
        return PatchStore.from_columns(
            groups, torch.cat(points), torch.cat(radii), torch.cat(patch_ids), offsets.cumsum(0).tolist()
        )
    except GeometryError as error:
        raise InputError(f"groups contradict each other: {error}") from error


def _depths(rows: list[KeyframeRow]) -> Tensor:
    """`[k q]` patch depths of keyframes that share a grid and a dtype.

    Raises:
        InputError: if one is negative or not finite.
    """
    depths = from_bytes(b"".join(row.depths for row in rows), rows[0].dtypes[1], (len(rows), -1))
    fine = (depths.isfinite() & (depths >= 0)).all(-1)
    if not bool(fine.all()):
        raise InputError(f"keyframe {rows[int((~fine).nonzero()[0])].id}: patch depths below 0 or not finite")
    return depths


def _runs(groups: list[GroupRow], rows: dict[int, KeyframeRow]) -> list[int]:
    """Ends of runs of groups whose keyframes share grid and dtype, none too long for memory."""
    ends: list[int] = []
    count, before = 0, None
    for k, group in enumerate(groups):
        row = rows[group.keyframe]
        alike = (row.width, row.height, row.stride, row.patch, row.dtypes[1])
        patches = row.tokens[0] * row.tokens[1]
        if before is not None and (alike != before or count + patches > _CHUNK_PATCHES):
            ends.append(k)
            count = 0
        count += patches
        before = alike
    return [*ends, len(groups)] if groups else []
