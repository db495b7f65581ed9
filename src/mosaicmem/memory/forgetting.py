"""Forgetting: under a budget of bytes, memory loses first what it can spare.

A *place* is a voxel about as large as a patch's own footprint, so that what was looked at closely has finer places than
what was seen from afar, and every patch needs the place that it shows. A patch serves its own place and the larger ones
around it, up to two octaves: a close view stands in for a distant one, never the other way round. A place is worth 1/2
for being served at all and 1/2 more for each direction it was seen from and still is (as retrieval values a cell).

Content is freed only when the last patch of a keyframe goes, so keyframes are what is forgotten: again and again the
one whose loss would cost least per byte. Losses only grow while others go, which makes this a heap with one pass over
the patches. `forgetting_reference.py` says the same by trying everything.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaicmem.errors import GeometryError, refuse
from mosaicmem.memory.patches import Group
from mosaicmem.memory.store import PatchStore

Array = NDArray[Any]


@dataclass(frozen=True)
class ForgetConfig:
    """What counts as one place, and how far forgetting goes.

    Attributes:
        voxel: Side of a place, in footprints of the patches that show it.
        octaves: A patch serves places up to so many times twice as large as its own.
        history: What a place that only superseded groups show is worth, relative to the present.
        slack: Once over the budget, memory shrinks to this share below it. What it costs to rebuild the store is then
            spread over many inserts; 0 stops as soon as the budget is met.
    """

    voxel: float = 1.0
    octaves: int = 2
    history: float = 0.25
    slack: float = 0.1

    def __post_init__(self) -> None:
        refuse(
            (self.voxel <= 0, f"voxel = {self.voxel}: expected more than 0"),
            (not 0 <= self.octaves <= 8, f"octaves = {self.octaves}: expected 0 to 8"),
            (not 0 <= self.history <= 1, f"history = {self.history}: expected 0 to 1"),
            (not 0 <= self.slack < 1, f"slack = {self.slack}: expected 0 up to, not including, 1"),
        )


def store_bytes(store: PatchStore) -> int:
    """Bytes that a store holds on to: latents, depth, confidence and validity of every keyframe, once however many
    groups share it and however few of its patches are kept, and the groups' masks."""
    keyframes = {id(group.keyframe): group.keyframe for group in store}
    return sum(keyframe.nbytes for keyframe in keyframes.values()) + sum(map(_mask_bytes, store))


def forget(
    store: PatchStore, budget_bytes: int, config: ForgetConfig | None = None, *, keep: Collection[int] = ()
) -> PatchStore:
    """The store within a budget: keyframes go, those first whose loss costs least coverage per byte.

    Of near-duplicates the sharper stays (smaller footprint), then the observed before the generated, the more
    confident, the older. A keyframe that alone shows some place goes only when every other one shows a place alone
    too. A store within its budget comes back as it is. Costs one pass over all patches when over the budget, that is,
    with `slack` s, `1 / s` times the new patches per insert on average; else one look at each group.

    Args:
        budget_bytes: Largest `store_bytes` of the result. What is pinned or in `keep` stays even beyond it.
        keep: uids of groups that must stay, besides pinned ones.

    Raises:
        GeometryError: on a negative budget.
    """
    config = config or ForgetConfig()
    _check(budget_bytes)
    if store_bytes(store) <= budget_bytes:
        return store
    units = units_of(store, keep)
    cover = _Cover(store, units, config)
    size, limit = sum(unit.bytes for unit in units), budget_bytes * (1 - config.slack)
    gone: set[int] = set()
    heap = [(cover.loss[u] / unit.bytes, unit.rank, u) for u, unit in enumerate(units) if not unit.fixed]
    heapq.heapify(heap)
    while heap and size > limit:
        cost, rank, u = heapq.heappop(heap)
        now = cover.loss[u] / units[u].bytes
        if now > cost:  # others have gone since it was pushed
            heapq.heappush(heap, (now, rank, u))
            continue
        cover.drop(u)
        gone.update(units[u].groups)
        size -= units[u].bytes
    return PatchStore.from_groups([group for g, group in enumerate(store) if g not in gone])


def forget_oldest(
    store: PatchStore, budget_bytes: int, config: ForgetConfig | None = None, *, keep: Collection[int] = ()
) -> PatchStore:
    """The rule to compare with: the oldest keyframes go, whatever they show. Budget, slack and pins as in `forget`."""
    config = config or ForgetConfig()
    _check(budget_bytes)
    size = store_bytes(store)
    if size <= budget_bytes:
        return store
    gone: set[int] = set()
    for unit in sorted(units_of(store, keep), key=lambda unit: unit.age):
        if size <= budget_bytes * (1 - config.slack):
            break
        if not unit.fixed:
            gone.update(unit.groups)
            size -= unit.bytes
    return PatchStore.from_groups([group for g, group in enumerate(store) if g not in gone])


@dataclass(frozen=True)
class Unit:
    """A keyframe's content with all groups that show it: what can be freed.

    Attributes:
        groups: Their positions in the store.
        bytes: What is freed with it.
        fixed: Whether it must stay.
        rank: Orders units of equal cost: the smallest goes first.
        age: Orders units from old to new.
    """

    groups: tuple[int, ...]
    bytes: int
    fixed: bool
    rank: tuple[float, ...]
    age: tuple[float, int, int]


def units_of(store: PatchStore, keep: Collection[int] = ()) -> list[Unit]:
    """What a store can be freed of, in the order of first appearance."""
    members: dict[int, list[int]] = {}
    for g, group in enumerate(store):
        members.setdefault(id(group.keyframe), []).append(g)
    radii, offsets = store.radii.numpy(), store.offsets
    units = []
    for positions in members.values():
        groups = [store.group(g) for g in positions]
        rows = [radii[offsets[g] : offsets[g + 1]] for g in positions]
        footprint = float(np.median(np.concatenate(rows))) if sum(map(len, rows)) else 0.0
        first = groups[0]
        time, frame, uid = min(group.age_key for group in groups)
        confidence = float(first.keyframe.confidence.double().mean())
        rank = (-footprint, float(first.keyframe.origin == "observed"), confidence, -time, -float(frame), -float(uid))
        size = first.keyframe.nbytes + sum(map(_mask_bytes, groups))
        fixed = any(group.pinned or group.uid in keep for group in groups)
        units.append(Unit(tuple(positions), size, fixed, rank, (time, frame, uid)))
    return units


def places(
    points: Array, radii: Array, eye: Array, config: ForgetConfig, *, octave: int = 0, past: Array | bool = False
) -> tuple[Array, Array]:
    """Names of the places of patches, and of the places with the direction they are seen from.

    Args:
        points, radii: `[q 3]`, `[q]` of the patches, world units.
        eye: `[3]` or `[q 3]` where they are seen from.
        octave: How many times twice as large the place is as the patch's own.
        past: Whether the patches are superseded; the past and the present serve each other nowhere.

    Returns:
        two `[q]` int64 names; those that collide do so once in 2^60 pairs or beyond 2^14 places from the origin.
    """
    level = np.ceil(np.log2(np.maximum(radii.astype(np.float64), 1e-9))).astype(np.int64) + octave
    side = 2 * config.voxel * 2.0**level
    voxel = np.floor(points.astype(np.float64) / side[:, None]).astype(np.int64)
    away = np.asarray(eye, np.float64) - points
    away /= np.maximum(np.linalg.norm(away, axis=-1, keepdims=True), 1e-12)
    direction = (np.rint(away / 0.8).astype(np.int64) + 1) @ np.array([9, 3, 1])  # 26 of about 45 degrees
    name = (level & 63) << 51
    for axis in range(3):
        name |= (voxel[:, axis] & 0x7FFF) << (6 + 15 * axis)
    name |= np.asarray(past, np.int64) << 57
    return name, name | (direction + 1)


class _Cover:
    """Which units serve which places, and what each would take along: `loss [units]`."""

    def __init__(self, store: PatchStore, units: list[Unit], config: ForgetConfig) -> None:
        unit_of = np.empty(len(store), np.int64)
        for u, unit in enumerate(units):
            unit_of[list(unit.groups)] = u
        counts = np.diff(store.offsets)
        owner = np.repeat(unit_of, counts)
        eyes = np.array([group.world_from_cam[:3, 3].tolist() for group in store]).reshape(-1, 3)
        past = np.repeat(np.array([group.until is not None for group in store], np.bool_), counts)
        centers, radii, eye = store.centers.numpy(), store.radii.numpy(), np.repeat(eyes, counts, axis=0)
        names: list[Array] = []
        for octave in range(config.octaves + 1):
            names += places(centers, radii, eye, config, octave=octave, past=past)
        self.names = np.unique(np.concatenate(names[:2]))  # only what some patch needs
        served = np.concatenate(names)
        at = np.searchsorted(self.names, served)
        at[at == len(self.names)] = 0
        known = self.names[at] == served if len(self.names) else np.zeros(0, np.bool_)
        pairs = np.unique(np.tile(owner, len(names))[known] * max(1, len(self.names)) + at[known])
        unit, self.place = pairs // max(1, len(self.names)), pairs % max(1, len(self.names))
        self.start = np.searchsorted(unit, np.arange(len(units) + 1))
        self.worth = np.where(self.names >> 57 & 1, config.history, 1.0) / 2
        # a place served by one unit alone has that unit's number as the sum of its servers
        self.servers = np.bincount(self.place, minlength=len(self.names))
        self.sum = np.bincount(self.place, unit, minlength=len(self.names)).astype(np.int64)
        self.loss = np.zeros(len(units))
        self._charge(np.flatnonzero(self.servers == 1))

    def drop(self, unit: int) -> None:
        """Take a unit away: places that one other serves now weigh on it alone."""
        mine = self.place[self.start[unit] : self.start[unit + 1]]
        self.servers[mine] -= 1
        self.sum[mine] -= unit
        self._charge(mine[self.servers[mine] == 1])

    def _charge(self, alone: Array) -> None:
        np.add.at(self.loss, self.sum[alone], self.worth[alone])


def _mask_bytes(group: Group) -> int:
    return 0 if group.mask is None else group.mask.numel() * group.mask.element_size()


def _check(budget_bytes: int) -> None:
    if budget_bytes < 0:
        raise GeometryError(f"a budget of {budget_bytes} bytes: expected at least 0")
