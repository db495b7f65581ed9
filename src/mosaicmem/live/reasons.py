"""Why a place of the view looks as it does: which keyframe serves it, which others could, and what kept them out."""

from __future__ import annotations

from typing import Any

import torch

from mosaicmem.errors import InputError
from mosaicmem.live.commands import Choice
from mosaicmem.live.edits import selection
from mosaicmem.live.walk import Walk
from mosaicmem.memory.mosaic import Reason
from mosaicmem.memory.patches import Group

WORDS = {
    Reason.kept: "chosen",
    Reason.context: "left out: the model sees this frame anyway",
    Reason.invalid: "nothing of it has a known depth",
    Reason.outside: "no patch of it lands in this view",
    Reason.hidden: "hidden: what lands lies behind something nearer",
    Reason.coarse: "too coarse: it would be magnified too much",
    Reason.duplicate: "duplicate: those chosen show it already",
    Reason.budget: "over budget: enough keyframes were chosen before it",
    Reason.superseded: "stale: something newer showed otherwise",
    Reason.behind: "seen from behind: what its back looks like nobody knows",
}
ELSEWHERE = "chosen for other places; here another shows the surface nearer or better"
MISSED = "chosen for other places; its patches nearby leave this very spot out"
MOST = 24
"""Candidates that an answer lists."""
MOST_POINTS = 2000


def why(walk: Walk, u: float, v: float) -> dict[str, Any]:
    """What serves the cell at `(u, v)`, shares of the picture's width and height, and what else has patches there.

    Raises:
        InputError: if the place is not in the picture.
    """
    if not (0 <= u < 1 and 0 <= v < 1):
        raise InputError(f"({u:g}, {v:g}) is not in the picture; expected 0 up to, not including, 1")
    mosaic, store, grid = walk.mosaic, walk.state.store, walk.state.grid
    (h, w), (m, n) = grid.cells, grid.tokens
    row, column, i, j = int(v * h), int(u * w), int(v * m), int(u * n)
    found: dict[str, Any] = {"cell": [row, column], "token": [i, j], "counts": _counts(walk)}
    owner = int(mosaic.source[0, row, column])
    found["owner"] = None if owner < 0 else about(walk, store.group(owner))
    found["point"] = None
    if owner >= 0:
        at = torch.tensor([[[column + 0.5, row + 0.5]]], dtype=torch.float64) * grid.stride
        depth = mosaic.depth[0, row, column].reshape(1, 1)
        found["point"] = [round(x, 5) for x in mosaic.cameras.unproject(at, depth)[0, 0].tolist()]
        found["depth"] = round(float(depth), 4)
    found["others"] = _candidates(walk, i, j, owner)
    return found


def why_group(walk: Walk, uid: int) -> dict[str, Any]:
    """What became of one keyframe in this view.

    Raises:
        InputError: if it is not in memory.
    """
    for g, group in enumerate(walk.state.store):
        if group.uid == uid:
            return {"owner": _with_reason(walk, g), "counts": _counts(walk), "others": [], "point": None}
    raise InputError(f"keyframe {uid} is not in memory any more")


def chosen(walk: Walk, choice: Choice) -> dict[str, Any]:
    """What an edit of a choice would act on: how many patches, where they are, and some of them."""
    store = walk.state.store
    rows = selection(choice)(store)
    points = store.centers[rows]
    found: dict[str, Any] = {"choice": choice.given, "count": len(points), "points": [], "middle": None}
    if len(points):
        low, high = points.amin(0), points.amax(0)
        some = points[:: -(-len(points) // MOST_POINTS)]
        found["middle"] = ((low + high) / 2).tolist()
        found["size"] = (high - low).tolist()
        found["points"] = [round(x, 4) for x in some.flatten().tolist()]
    return found


def about(walk: Walk, group: Group) -> dict[str, Any]:
    """A keyframe in numbers and words."""
    key = group.keyframe
    return {
        "uid": group.uid,
        "frame": key.frame,
        "time": round(key.time, 3),
        "origin": key.origin,
        "age": walk.frame - key.frame,
        "pinned": group.pinned,
    }


def _with_reason(walk: Walk, g: int) -> dict[str, Any]:
    reason = Reason(int(walk.mosaic.decisions[0, g]))
    gain = round(float(walk.mosaic.gains[0, g]), 2)
    return {**about(walk, walk.state.store.group(g)), "reason": reason.name, "words": WORDS[reason], "gain": gain}


def _candidates(walk: Walk, i: int, j: int, owner: int) -> list[dict[str, Any]]:
    """Keyframes other than the owner with a patch that lands in a token or within half a token of it."""
    mosaic, store, grid = walk.mosaic, walk.state.store, walk.state.grid
    if not store.num_patches:
        return []
    uv, z, _ = mosaic.cameras.project(store.centers.double()[None])
    size = grid.token_stride
    at = uv[0] / size - torch.tensor([j + 0.5, i + 0.5], dtype=torch.float64)
    near = (z[0] > 0) & (at.abs() <= 1.0).all(-1)
    rows = near.nonzero().squeeze(-1)
    offsets = torch.tensor(store.offsets)
    groups = torch.unique(torch.searchsorted(offsets, rows, right=True) - 1).tolist()
    found = [_with_reason(walk, g) for g in groups if g != owner]
    for other in found:
        if other["reason"] == "kept":
            other["words"] = ELSEWHERE if owner >= 0 else MISSED
    found.sort(key=lambda other: (other["reason"] != "kept", -other["gain"], -other["frame"]))
    return found[:MOST]


def _counts(walk: Walk) -> dict[str, int]:
    return {reason.name: count for reason, count in walk.mosaic.reasons(0).items() if count}
