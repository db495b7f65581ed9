"""Forgetting, said again slowly: before every step the worth of all that would be left is counted from nothing."""

from __future__ import annotations

import math
from collections.abc import Collection

from mosaicmem.memory.forgetting import ForgetConfig, store_bytes, units_of
from mosaicmem.memory.patches import Group, patch_points
from mosaicmem.memory.store import PatchStore

Place = tuple[object, ...]


def forget(
    store: PatchStore, budget_bytes: int, config: ForgetConfig | None = None, *, keep: Collection[int] = ()
) -> PatchStore:
    """What `forgetting.forget` returns, by trying every keyframe at every step."""
    config = config or ForgetConfig()
    if store_bytes(store) <= budget_bytes:
        return store
    limit = budget_bytes * (1 - config.slack)
    needed = {place for group in store for place in _shown(group, config, 0)}
    while store_bytes(store) > limit:
        free = [unit for unit in units_of(store, keep) if not unit.fixed]
        if not free:
            break
        groups = list(store)
        rests = [[group for g, group in enumerate(groups) if g not in unit.groups] for unit in free]
        before = worth(groups, needed, config)
        costs = [(before - worth(rest, needed, config)) / unit.bytes for unit, rest in zip(free, rests, strict=True)]
        best = min(range(len(free)), key=lambda u: (costs[u], free[u].rank))
        store = PatchStore.from_groups(rests[best])
    return store


def worth(groups: Collection[Group], needed: set[Place], config: ForgetConfig) -> float:
    """1/2 for every place of `needed` that some group serves, and for every direction of one."""
    served: set[Place] = set()
    for group in groups:
        for octave in range(config.octaves + 1):
            served |= _shown(group, config, octave)
    return sum(config.history / 2 if place[0] else 0.5 for place in served & needed)


def _shown(group: Group, config: ForgetConfig, octave: int) -> set[Place]:
    """Places of a group's patches, `octave` doublings larger than their own, without and with the direction."""
    out: set[Place] = set()
    points, radii, _ = patch_points(group)
    eye = group.world_from_cam[:3, 3].tolist()
    for point, radius in zip(points.tolist(), radii.tolist(), strict=True):
        level = math.ceil(math.log2(max(radius, 1e-9))) + octave
        side = 2 * config.voxel * 2.0**level
        away = [e - p for e, p in zip(eye, point, strict=True)]
        length = max(math.hypot(*away), 1e-12)
        direction = tuple(round(a / length / 0.8) for a in away)
        place = (group.until is not None, level, *(math.floor(p / side) for p in point))
        out |= {place, (*place, direction)}
    return out
