"""Selecting a thing, said again slowly: growing by asking all patches about all others."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from mosaicmem._shapes import Bool, Float, Int, Tensor


def grow(
    seed: int, points: Float[Tensor, "q 3"], radii: Float[Tensor, "q"], normals: Float[Tensor, "q 3"], gap: float,
    fold: float,
) -> Bool[Tensor, "q"]:  # fmt: skip
    """What `selection.grow` returns: everything linked to the seed, ring by ring."""
    patches = _Patches(points, radii, normals, gap, fold)
    inside = torch.zeros(len(points), dtype=torch.bool)
    ring = torch.tensor([seed])
    while len(ring):
        inside[ring] = True
        asked = torch.zeros_like(inside)
        for part in ring.split(256):
            others = patches.around(part, ~inside & ~asked)
            asked[others[patches.links(part, others)[1].any(0)]] = True
        ring = asked.nonzero().squeeze(-1)
        if len(ring):
            pairs = [(part, *patches.links(part, patches.around(part, inside))) for part in ring.split(256)]
            ring = torch.cat([part[2 * linked.sum(1) > near.sum(1)] for part, near, linked in pairs])
    return inside


@dataclass(frozen=True)
class _Patches:
    """What growing looks at, float64."""

    points: Float[Tensor, "q 3"]
    radii: Float[Tensor, "q"]
    normals: Float[Tensor, "q 3"]
    gap: float
    fold: float

    def around(self, part: Int[Tensor, "k"], among: Bool[Tensor, "q"]) -> Int[Tensor, "o"]:
        """Those of `among` that could be neighbours of some of `part`."""
        margin = self.gap * (self.radii[part].max() + self.radii)[:, None]
        low, high = self.points[part].amin(0), self.points[part].amax(0)
        near = (self.points >= low - margin) & (self.points <= high + margin)
        return (near.all(-1) & among).nonzero().squeeze(-1)

    def links(self, i: Int[Tensor, "k"], j: Int[Tensor, "o"]) -> tuple[Bool[Tensor, "k o"], Bool[Tensor, "k o"]]:
        """Which pairs are neighbours, and which of these lie on one thing."""
        step = self.points[i][:, None] - self.points[j][None]
        size = self.radii[i][:, None] + self.radii[j][None]
        n_i, n_j = self.normals[i][:, None], self.normals[j][None]
        near = step.norm(dim=-1) <= self.gap * size
        over_i, over_j = (step * n_i).sum(-1), (step * n_j).sum(-1)
        flat = self.gap * math.sin(self.fold) * size
        smooth = (n_i * n_j).sum(-1) >= math.cos(self.fold)
        goes_on = smooth & (over_i.abs() <= flat) & (over_j.abs() <= flat)
        # a fold away from the viewer, crossed and not walked along: that would lead around corners
        along = (step * torch.linalg.cross(n_i.expand_as(step), n_j.expand_as(step))).sum(-1).abs()
        crossed = along <= 0.5 * step.norm(dim=-1)
        turns_away = ~smooth & crossed & (over_i - over_j > 0) & (over_i >= -0.2 * size) & (over_j <= 0.2 * size)
        return near, near & (goes_on | turns_away)
