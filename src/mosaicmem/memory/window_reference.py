"""The views of one call again, slow and obvious: `retrieve_reference` of each, and which groups it may look at.

`retrieve_window_reference` is the definition, `mosaicmem.memory.windows` and `views` are the fast way to the same
answer. It projects points with cameras where those multiply numbers.
"""

from __future__ import annotations

import itertools
import math

import torch

from mosaicmem.geometry import se3
from mosaicmem.geometry.cameras import Cameras
from mosaicmem.geometry.projection import project, unproject
from mosaicmem.geometry.token_grid import TokenGrid
from mosaicmem.memory.reference import ReferenceView, retrieve_reference
from mosaicmem.memory.retrieval import RetrievalConfig
from mosaicmem.memory.store import PatchStore

MUCH, LESS = 0.01, 0.02
"""Shares of a view: what a group adds to a key view to be looked at beside it, and by how much less is too little."""


def retrieve_window_reference(
    store: PatchStore,
    views: Cameras,
    grid: TokenGrid,
    config: RetrievalConfig | None = None,
    now: float | None = None,
    at: float | None = None,
) -> list[ReferenceView]:
    """Every view of a window."""
    config = config or RetrievalConfig()
    views = views.to(dtype=torch.float64)
    cells = grid.cells[0] * grid.cells[1]
    same = [next(j for j in range(len(views)) if same_camera(views[j], views[i])) for i in range(len(views))]
    firsts = [i for i in range(len(views)) if same[i] == i]
    keys = key_views(views[firsts], store.scale, config.key_step)
    answers = {firsts[o]: retrieve_reference(store, views[firsts[o]], grid, config, now, at) for o in keys}
    for first, last in itertools.pairwise(keys):
        ends = [answers[firsts[o]] for o in (first, last)]
        much = [[g for g, gain in zip(x.picked, x.gains, strict=True) if gain >= MUCH * cells] for x in ends]
        for o in range(first + 1, last):
            view = views[firsts[o]]
            answer = retrieve_reference(store, view, grid, config, now, at, among=much[0] + much[1])
            if answer.shown < min(x.shown for x in ends) - LESS * cells:
                answer = retrieve_reference(store, view, grid, config, now, at)
            answers[firsts[o]] = answer
    return [answers[i] for i in same]


def same_camera(a: Cameras, b: Cameras) -> bool:
    return bool((a.viewmats == b.viewmats).all()) and bool((a.Ks == b.Ks).all())


def key_views(views: Cameras, unit: float, step: float) -> list[int]:
    """Positions of views that are answered as if alone, the first and the last among them: from each to the farthest
    such that all between are within `step`."""
    keys, last = [0] if len(views) else [], len(views) - 1
    while keys and keys[-1] < last:
        far = [o for o in range(keys[-1] + 1, last + 1) if apart(views[keys[-1]], views[o], unit) > step]
        keys.append(max(keys[-1] + 1, min([*far, last + 1]) - 1))
    return keys


def apart(a: Cameras, b: Cameras, unit: float) -> float:
    """How far what `a` sees at depth `unit` in its corners and its middle moves on to `b`, at most, as a share of the
    image's longer side."""
    w, h = float(a.width), float(a.height)
    pixels = torch.tensor([[0, 0], [w, 0], [0, h], [w, h], [w / 2, h / 2]], dtype=torch.float64)
    points = unproject(pixels, torch.full((5,), unit, dtype=torch.float64), a.Ks[0])
    uv, z = project(se3.transform_points(b.viewmats[0], se3.transform_points(a.c2w[0], points)), b.Ks[0])
    return float((uv - pixels).norm(dim=-1).max()) / max(w, h) if bool((z > 0).all()) else math.inf
