"""Frechet distance between two sets of pictures under a random projection: `frechet-random`, not FID and not FVD.

A convolutional network whose weights were drawn once from a fixed seed and never trained. It tells sets apart whose
colours, edges and textures differ; it knows no objects, and its numbers compare with each other only, at equal seed,
picture size and N. The distance of two samples of one distribution is not 0 but the *floor* of small samples, which
stands beside every value (`frechet_report`).
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch.nn import functional as F

from mosaicmem._shapes import Bool, Float, Int64, Tensor
from mosaicmem.errors import ConfigError, GeometryError

LABEL = "frechet-random (not FID, not FVD)"
_WIDTHS = (3, 24, 32, 32)
FEATURES = 2 * _WIDTHS[-1]


class RandomFeatures:
    """The projection: three strided convolutions with leaky rectifiers; mean and spread of each last channel.

    Attributes:
        seed: What the weights were drawn from.
        identity: Name, seed and the first digits of the SHA-256 of the weights; belongs into every report.
    """

    def __init__(self, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.seed = seed
        self._weights = [
            torch.randn(out, into, 3, 3, generator=generator, dtype=torch.float64) * math.sqrt(2 / (9 * into))
            for into, out in pairwise(_WIDTHS)
        ]
        digest = hashlib.sha256(b"".join(w.float().numpy().tobytes() for w in self._weights)).hexdigest()
        self.identity = f"{LABEL}, seed {seed}, {digest[:12]}"

    def __call__(self, pictures: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n d"]:
        """`[n 64]` float64 features of pictures in [-1, 1], each computed alone of its batch.

        Raises:
            GeometryError: if the pictures are smaller than 16 pixels on a side.
        """
        if min(pictures.shape[-2:]) < 16:
            raise GeometryError(f"pictures are {pictures.shape[-1]}x{pictures.shape[-2]}; expected 16 pixels or more")
        parts = [self._block(part) for part in pictures.split(64)]
        return torch.cat(parts) if parts else torch.zeros(0, FEATURES, dtype=torch.float64)

    def _block(self, pictures: Tensor) -> Tensor:
        x = pictures.float()
        for weight in self._weights:
            x = F.leaky_relu(F.conv2d(x, weight.float(), stride=2, padding=1), 0.2)
        x = x.double()
        return torch.cat([x.mean((2, 3)), x.var((2, 3), correction=0).sqrt()], 1)


@dataclass(frozen=True)
class FrechetReport:
    """A distance and what must stand beside it.

    Attributes:
        value: Distance of the generated set from a real one, both of `count` samples.
        floor: Distance of two disjoint real sets of `count` samples each.
        count: Samples on each side.
        extractor: Identity of the features.
    """

    value: float
    floor: float
    count: int
    extractor: str


def frechet_distance(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"]) -> float:
    """`|mu1 - mu2|^2 + tr(S1 + S2) - 2 tr sqrt(S1 S2)` of two sets of features, float64, unbiased covariances.

    The eigenvalues of `S1 S2` are taken from the symmetric `S1^1/2 S2 S1^1/2`, which has the same ones, all real.

    Raises:
        ConfigError: if a set has fewer than two samples or a number is not finite.
    """
    a, b = a.double(), b.double()
    if min(len(a), len(b)) < 2 or not bool(a.isfinite().all() & b.isfinite().all()):
        raise ConfigError(f"Frechet distance of {len(a)} and {len(b)} samples; expected two or more finite ones each")
    cov_a, cov_b = torch.cov(a.T).reshape(a.shape[1], -1), torch.cov(b.T).reshape(b.shape[1], -1)
    values, vectors = torch.linalg.eigh(cov_a)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    shared = torch.linalg.eigvalsh(root @ cov_b @ root).clamp(min=0).sqrt().sum()
    apart = (a.mean(0) - b.mean(0)).square().sum()
    return max(0.0, float(apart + cov_a.trace() + cov_b.trace() - 2 * shared))


def frechet_report(
    generated: Float[Tensor, "n d"],
    real: Float[Tensor, "m d"],
    extractor: str,
    *,
    worlds: Int64[Tensor, " m"] | None = None,
    generator: torch.Generator | None = None,
) -> FrechetReport:
    """The distance of `generated` from `real`, with the floor at the same number of samples.

    The real set is shuffled and cut into two disjoint halves; the value is the mean distance to either, so that value
    and floor have equal N on all sides. N is what the smallest of the three sets allows.

    Args:
        worlds: World of each real sample; halves then share no world, as samples of one world are alike.
        generator: Shuffles and draws; the default is seeded with 0.

    Raises:
        ConfigError: if a set is left with fewer than two samples.
    """
    generator = generator or torch.Generator().manual_seed(0)
    groups = torch.arange(len(real)) if worlds is None else worlds.unique(return_inverse=True)[1]
    names = int(groups.max()) + 1 if len(groups) else 0
    in_first = torch.zeros(names, dtype=torch.bool)
    in_first[torch.randperm(names, generator=generator)[: names // 2]] = True
    chosen = in_first[groups]
    halves = [real[chosen], real[~chosen]]
    count = min(len(generated), *(len(half) for half in halves))
    if count < 2:
        raise ConfigError(
            f"{len(generated)} generated samples and halves of {len(halves[0])} and {len(halves[1])} real ones; "
            "expected two or more each"
        )
    halves = [half[torch.randperm(len(half), generator=generator)[:count]] for half in halves]
    ours = generated[torch.randperm(len(generated), generator=generator)[:count]]
    value = (frechet_distance(ours, halves[0]) + frechet_distance(ours, halves[1])) / 2
    return FrechetReport(value, frechet_distance(*halves), count, extractor)


def crops_over(
    mask: Bool[Tensor, "n H W"], size: int = 32, stride: int = 16, min_share: float = 0.5
) -> Int64[Tensor, "k 3"]:
    """(frame, top, left) of every `size` x `size` crop of a regular grid of which more than `min_share` is in the mask.

    With the mask of pixels that were never seen, these crops hold what a generator had to invent.
    """
    if not 1 <= size <= min(mask.shape[1:]) or stride < 1:
        raise ConfigError(
            f"crops of {size} at steps of {stride} in {mask.shape[2]}x{mask.shape[1]} frames; they must fit"
        )
    share = F.avg_pool2d(mask[:, None].double(), size, stride)[:, 0]
    return (share > min_share).nonzero() * torch.tensor([1, stride, stride])


def take_crops(
    frames: Float[Tensor, "n 3 H W"], places: Int64[Tensor, "k 3"], size: int = 32
) -> Float[Tensor, "k 3 s s"]:
    """The crops at `places`: take them from generated and true frames at the same ones."""
    parts = [frames[i, :, top : top + size, left : left + size] for i, top, left in places.tolist()]
    return torch.stack(parts) if parts else frames.new_zeros(0, 3, size, size)
