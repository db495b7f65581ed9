"""Retrieval against the truth: a ray-caster says what memory could show, and what it showed wrongly.

The oracle knows the scene. It casts the ray of every target cell, asks for every keyframe whether that very point is
in its picture and unobstructed, and follows each cell that was read back into its source to see what is really there.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mosaicmem._shapes import Bool, Float, Tensor
from mosaicmem.geometry import se3
from mosaicmem.geometry.projection import in_image, project, unproject
from mosaicmem.memory import Group, Mosaic, PatchStore, RetrievalConfig
from mosaicmem.worlds import Scene


@dataclass(frozen=True)
class OracleCounts:
    """Counts over cells; add them up over views and scenes, then ask for the shares.

    Attributes:
        cells: Target cells that see a surface.
        visible: Of these, cells whose point at least one keyframe truly shows.
        recalled: Of the visible, cells that were read back.
        good: Cells that were read back.
        wrong: Of the good, cells whose source shows a point farther than the tolerance from the true one.
    """

    cells: int = 0
    visible: int = 0
    recalled: int = 0
    good: int = 0
    wrong: int = 0

    def __add__(self, other: OracleCounts) -> OracleCounts:
        return OracleCounts(*(a + b for a, b in zip(self._values(), other._values(), strict=True)))

    def _values(self) -> tuple[int, ...]:
        return self.cells, self.visible, self.recalled, self.good, self.wrong

    @property
    def recall(self) -> float:
        """Share of the truly visible cells that were read back."""
        return self.recalled / max(1, self.visible)

    @property
    def wrong_share(self) -> float:
        """Share of the good cells that carry wrong content."""
        return self.wrong / max(1, self.good)


def true_points(scene: Scene, mosaic: Mosaic, view: int) -> tuple[Float[Tensor, "q 3"], Float[Tensor, " q"]]:
    """What each target cell's central ray meets: world points and z-depth (inf for the sky), float64."""
    camera = mosaic.cameras[view]
    uv = mosaic.grid.cell_centers(torch.float64).reshape(-1, 2)
    direction = unproject(uv, torch.ones(len(uv), dtype=torch.float64), camera.Ks[0]) @ camera.viewmats[0, :3, :3]
    depth = scene.distance(camera.centers.expand(len(uv), 3), direction)
    return camera.centers + depth.nan_to_num(posinf=0.0)[:, None] * direction, depth


def shown_by(
    scene: Scene,
    group: Group,
    points: Float[Tensor, "q 3"],
    depth: Float[Tensor, " q"],
    focal: float,
    rho_max: float,
) -> Bool[Tensor, " q"]:
    """Whether a keyframe's picture holds each world point, unobstructed and magnified by at most `rho_max`."""
    camera = group.keyframe.camera
    uv, z = project(se3.transform_points(camera.viewmats[0], points), camera.Ks[0])
    inside = (z > 0) & in_image(uv, camera.width, camera.height) & (focal * z / depth <= rho_max)
    seen = torch.zeros_like(inside)
    if bool(inside.any()):
        eye = camera.centers.expand(int(inside.sum()), 3)
        reach = scene.distance(eye, points[inside] - camera.centers)  # 1 = exactly at the point
        seen[inside] = (reach - 1).abs() < 1e-3
    return seen


def judge(
    scene: Scene,
    store: PatchStore,
    mosaic: Mosaic,
    config: RetrievalConfig | None = None,
    *,
    tolerance: float = 0.1,
    context: tuple[int, ...] = (),
) -> OracleCounts:
    """Compare every view of a mosaic with what the scene's truth allows.

    Args:
        tolerance: A cell is wrong if its source shows a point farther from the true one than this share of its depth.
        context: Positions of groups the retrieval was told to leave out.
    """
    config = config or RetrievalConfig()
    total = OracleCounts()
    for view in range(len(mosaic)):
        points, depth = true_points(scene, mosaic, view)
        surface = depth.isfinite()
        visible = torch.zeros_like(surface)
        for index, group in enumerate(store):
            if index not in context:
                focal = float(mosaic.cameras.Ks[view, 0, 0] / group.keyframe.camera.Ks[0, 0, 0])
                visible |= surface & shown_by(scene, group, points, depth, focal, config.rho_max)
        good = mosaic.good[view].reshape(-1)
        wrong = good & ~surface
        for index in set(mosaic.source[view][mosaic.good[view]].tolist()):
            chosen = mosaic.source[view].reshape(-1) == index
            camera = store.group(index).keyframe.camera
            uv = mosaic.source_uv[view].reshape(-1, 2)[chosen]
            ray = unproject(uv, torch.ones(len(uv), dtype=torch.float64), camera.Ks[0]) @ camera.viewmats[0, :3, :3]
            there = camera.centers + scene.distance(camera.centers.expand(len(uv), 3), ray)[:, None] * ray
            off = (there - points[chosen]).norm(dim=-1) > tolerance * depth[chosen]
            wrong[chosen] |= off | ~there.isfinite().all(-1)
        total += OracleCounts(
            int(surface.sum()), int(visible.sum()), int((visible & good).sum()), int(good.sum()), int(wrong.sum())
        )
    return total
