"""Means over few worlds with honest error bars: percentile bootstrap, plain and paired.

One value per world (or video): frames of one world are not independent, so average them first (`per_group`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mosaicmem._shapes import Float, Int64, Tensor
from mosaicmem.errors import ConfigError


@dataclass(frozen=True)
class Interval:
    """A mean with its bootstrap interval.

    Attributes:
        mean: Mean over the values there are; NaN where there is none.
        low, high: Ends of the interval; NaN below two values.
        count: Values behind the mean.
        missing: Values that were NaN: not applicable or failed. They are never silently part of the mean.
    """

    mean: float
    low: float
    high: float
    count: int
    missing: int = 0

    @property
    def contains_zero(self) -> bool:
        """For a paired difference: tied. True too where there is no interval, since nothing was shown."""
        return not (self.low > 0 or self.high < 0)

    def __str__(self) -> str:
        text = f"{self.mean:.4g} [{self.low:.4g}, {self.high:.4g}] (n = {self.count}"
        return text + (f", {self.missing} missing)" if self.missing else ")")


def mean_interval(
    values: Float[Tensor, " n"] | Sequence[float],
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    generator: torch.Generator | None = None,
) -> Interval:
    """Mean of one value per world, with the percentile bootstrap over worlds (Efron 1979), float64.

    Args:
        values: NaN counts as missing.
        generator: Draws the resamples; the default is seeded with 0, so the same values give the same interval.

    Raises:
        ConfigError: if `confidence` is not between 0 and 1 or there are no resamples.
    """
    if not 0 < confidence < 1 or resamples < 1:
        raise ConfigError(f"confidence {confidence}, resamples {resamples}; expected 0 < confidence < 1, 1 or more")
    given = torch.as_tensor(values, dtype=torch.float64)
    known = given[~given.isnan()]
    n, missing = len(known), len(given) - len(known)
    if n < 2:
        return Interval(float(known.mean()) if n else math.nan, math.nan, math.nan, n, missing)
    generator = generator or torch.Generator().manual_seed(0)
    drawn = torch.randint(n, (resamples, n), generator=generator)
    ends = torch.tensor([(1 - confidence) / 2, (1 + confidence) / 2], dtype=torch.float64)
    low, high = torch.quantile(known[drawn].mean(1), ends).tolist()
    return Interval(float(known.mean()), low, high, n, missing)


def paired_interval(
    values: Float[Tensor, " n"] | Sequence[float],
    baseline: Float[Tensor, " n"] | Sequence[float],
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    generator: torch.Generator | None = None,
) -> Interval:
    """Mean of `values - baseline`, world by world: same worlds, paths and seeds on both sides.

    A pair with a NaN on either side is missing. Read `contains_zero` as "tied".

    Raises:
        ConfigError: if the two sides differ in number.
    """
    a, b = torch.as_tensor(values, dtype=torch.float64), torch.as_tensor(baseline, dtype=torch.float64)
    if a.shape != b.shape:
        raise ConfigError(f"{len(a)} values against {len(b)}; a paired difference needs the same worlds on both sides")
    return mean_interval(a - b, confidence=confidence, resamples=resamples, generator=generator)


def per_group(values: Float[Tensor, " n"], group: Int64[Tensor, " n"]) -> Float[Tensor, " g"]:
    """Mean of each group's values that are not NaN, groups in ascending order; NaN where a group has none."""
    _, index = group.unique(return_inverse=True)
    count = int(index.max()) + 1 if len(index) else 0
    known = ~values.isnan()
    total = values.new_zeros(count).index_add(0, index[known], values[known])
    number = values.new_zeros(count).index_add(0, index[known], torch.ones_like(values[known]))
    return total / number  # 0 / 0 is NaN
