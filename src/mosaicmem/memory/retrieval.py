"""Retrieval: which remembered cells a view sees, and from which keyframe each should be read.

For each view: groups that meet the frustum are thinned to a pool on one point per patch; the pool's cells land in
the view with their true footprints and a z-buffer (R2, R3); groups are picked greedily by the cells they newly cover
(R4); each picked group is read back along the view's rays (R5); and every token gets an owner (R6). Numbers in
brackets are the steps of the method page.

Several views of one call are a window. Views with the very same camera get the same answer. The first and the last of
the others, and some between them (`key_step`), are key views: each is answered as if it were alone. A view between two
key views looks at the groups that add at least a hundredth to one of these, and reads those that add three quarters of
that to it; if they show less of it than of either key view, by two hundredths, it is answered as if alone. So it is
where no more groups than `pool` meet its frustum, since all of these are looked at.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Literal

import torch

from mosaicmem.errors import GeometryError, refuse
from mosaicmem.geometry.cameras import Cameras
from mosaicmem.geometry.token_grid import TokenGrid
from mosaicmem.memory.mosaic import Mosaic
from mosaicmem.memory.store import PatchStore
from mosaicmem.memory.views import Call

EDGE = 1
"""`edge` for a generator that invents: it is told of all places where a moving thing was seen, and sorts them out."""
POOL = 16
"""`pool` where none is given."""
WIDE = 32
"""`pool` for a generator that invents: more of the places where a moving thing was seen; its views are small."""


@dataclass(frozen=True)
class RetrievalConfig:
    """How memory is asked.

    Attributes:
        max_sources: Groups that one view may read from (n_max).
        pool: Groups that are looked at cell by cell, at most; of more in sight, those are chosen that add most. None:
            `POOL`, or `WIDE` for a rollout whose generator invents, and no fewer than max_sources.
        max_tokens: Tokens a view may be given, or None for all that are covered; the best served stay.
        gain_min: A group must add this share of the view to be picked: cells newly shown, or shown better.
        near: Points nearer than this share of the memory's scale are not shown.
        tau: Relative depth within which two surfaces count as one (z-buffer, agreement of taps).
        tau_surface: Relative depth within which the surface read must agree with the view's ray.
        rho_max: Cells magnified beyond this along an axis are not shown.
        min_weight: Share of bilinear weight that must lie on agreeing taps.
        min_cells: Share of a token's cells that must be good for it to be covered.
        refine_steps: Newton steps from the z-buffered depth to the surface along the view's ray, at most.
        view_angle: Degrees between two viewing directions of a surface at which the second is half as good a witness.
        look_past: Cells, in the view, within which a source sees two depths of a ray along one line: if it shows the
            farther one and stands nearer to the view, it looked past the other, and is not hidden by it. Footprints are
            generous at the edges of what stands in front; who looked from nearer by knows better.
        edge: Cells, in the view, within which a source that looked past something observed must show it too, where the
            other shows it: both saw its edge. One that shows it nowhere there saw another time, and what moves stays
            wherever it was seen. None: nobody is asked, but by a rollout whose generator invents (`EDGE`): depth that
            is spread between points, or otherwise off, would hide a frame from its own camera.
        half_life: Seconds after which a group counts half in the ranking, or None. Never removes a group.
        generated: What a generated group counts in the ranking where an observed one counts 1: a guess about a place
            gives way to a look at it. Never removes a group.
        prefer: Whom exact ties favour: the `older` memory (guards against drift) or the `newer`.
        key_step: How far the views of a call may move on from a key view, as a share of the image's longer side, and
            still share its look through the whole memory; 0 for views one by one.
    """

    max_sources: int = 8
    pool: int | None = None
    max_tokens: int | None = None
    gain_min: float = 0.001
    near: float = 0.01
    tau: float = 0.10
    tau_surface: float = 0.03
    rho_max: float = 4.0
    min_weight: float = 0.5
    min_cells: float = 0.5
    refine_steps: int = 3
    view_angle: float = 2.0
    look_past: float = 0.5
    edge: int | None = None
    half_life: float | None = None
    generated: float = 0.25
    prefer: Literal["older", "newer"] = "older"
    key_step: float = 0.35

    def __post_init__(self) -> None:
        refuse(
            (self.max_sources < 1, f"max_sources = {self.max_sources}: expected at least 1"),
            (
                self.pool is not None and self.pool < self.max_sources,
                f"pool = {self.pool}: expected at least max_sources, {self.max_sources}, or none",
            ),
            (self.max_tokens is not None and self.max_tokens < 1, f"max_tokens = {self.max_tokens}: at least 1"),
            (not 0 <= self.gain_min < 1, f"gain_min = {self.gain_min}: expected 0 to 1"),
            (self.near < 0, f"near = {self.near}: expected at least 0"),
            (self.tau <= 0, f"tau = {self.tau}: expected more than 0"),
            (self.tau_surface <= 0, f"tau_surface = {self.tau_surface}: expected more than 0"),
            (self.rho_max < 1, f"rho_max = {self.rho_max}: expected at least 1"),
            (not 0 < self.min_weight <= 1, f"min_weight = {self.min_weight}: expected above 0, up to 1"),
            (not 0 < self.min_cells <= 1, f"min_cells = {self.min_cells}: expected above 0, up to 1"),
            (self.refine_steps < 0, f"refine_steps = {self.refine_steps}: expected at least 0"),
            (self.view_angle <= 0, f"view_angle = {self.view_angle}: expected more than 0 degrees"),
            (self.look_past < 0, f"look_past = {self.look_past}: expected at least 0 cells"),
            (self.edge is not None and self.edge < 0, f"edge = {self.edge}: expected at least 0 cells, or none"),
            (self.half_life is not None and self.half_life <= 0, f"half_life = {self.half_life}: above 0, or none"),
            (not 0 < self.generated <= 1, f"generated = {self.generated}: expected above 0, up to 1"),
            (self.key_step < 0, f"key_step = {self.key_step}: expected at least 0"),
        )

    @property
    def looked_at(self) -> int:
        """Groups that are looked at cell by cell, at most."""
        return max(POOL, self.max_sources) if self.pool is None else self.pool

    def inventing(self) -> RetrievalConfig:
        """As a generator that invents asks: `edge` and `pool` as is good for it, where they are not given."""
        edge = EDGE if self.edge is None else self.edge
        return replace(self, edge=edge, pool=max(WIDE, self.max_sources) if self.pool is None else self.pool)


_USUAL = RetrievalConfig()  # to check its fields takes longer than to look at a group


def retrieve(
    store: PatchStore,
    cameras: Cameras,
    grid: TokenGrid,
    config: RetrievalConfig | None = None,
    *,
    at: float | None = None,
    now: float | None = None,
    context: Collection[int] = (),
) -> Mosaic:
    """What `store` shows in each of `cameras`.

    Args:
        store: The memory.
        cameras: One view each, at the grid's image size. What views that follow each other closely show is looked for
            together, see above.
        grid: Token grid of the views; stride and patch must be the memory's.
        at: The time in seconds whose world is asked for: groups remembered by then that held then. Default: the
            present, which is every group that nothing newer has superseded.
        now: Time in seconds against which `half_life` measures age; default: `at`, or the newest keyframe's.
        context: uids of groups to leave out, because the model sees those frames anyway.

    Raises:
        GeometryError: if cameras, grid and memory disagree about image size, stride or patch.
    """
    config = config or _USUAL
    if (cameras.width, cameras.height) != (grid.width, grid.height):
        raise GeometryError(
            f"cameras have {cameras.width}x{cameras.height} pixels, the token grid {grid.width}x{grid.height}; "
            "use cameras.resized()"
        )
    if len(store):
        first = store.group(0).keyframe
        if (first.stride, first.patch) != (grid.stride, grid.patch):
            raise GeometryError(
                f"memory has stride {first.stride} and patch {first.patch}, "
                f"the token grid {grid.stride} and {grid.patch}"
            )
    call = Call(store, cameras.to(dtype=torch.float64, device="cpu"), grid, config)
    call.leave_out(at, context)
    call.fade(at if now is None else now)
    call.fill()
    return call.mosaic()
