"""Samplers: from noise to data in a few steps.

A sampler knows no network. It is given `denoise(x, sigma) -> x0`, the start and a list of noise levels that falls to 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch

from mosaicmem._shapes import Float, Tensor
from mosaicmem.errors import ConfigError

Denoise = Callable[[Tensor, Tensor], Tensor]
SamplerName = Literal["euler", "multistep"]


def sample(
    denoise: Denoise,
    noise: Float[Tensor, "*b"],
    levels: Float[Tensor, " k"],
    method: SamplerName = "multistep",
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Float[Tensor, "*b"]:
    """Follow the flow from `noise` at `levels[0]` down to `levels[-1]`.

    Args:
        denoise: Estimate of x0 from `x_sigma` and sigma (a scalar tensor).
        noise: Start; standard normal where `levels[0]` is 1.
        levels: Falling noise levels; the last may be 0, and then the result is the last estimate of x0.
        method: `euler` is first order. `multistep` is second order at the same number of evaluations: it extrapolates
            x0 in `log((1 - sigma) / sigma)` from the estimate before (DPM-Solver++ 2M, arXiv:2211.01095, for flows).
        progress: Called with (steps done, steps in all).

    Raises:
        ConfigError: if the levels do not fall.
    """
    if len(levels) < 2 or not bool((levels.diff() < 0).all()) or float(levels[-1]) < 0:
        raise ConfigError(f"noise levels {levels.tolist()} do not fall towards 0")
    if method not in ("euler", "multistep"):
        raise ConfigError(f"sampler {method!r}; expected euler or multistep")
    x = noise
    before: Tensor | None = None
    for i in range(len(levels) - 1):
        here, there = levels[i], levels[i + 1]
        x0 = denoise(x, here)
        best = x0
        if method == "multistep" and before is not None and float(there) > 0:
            best = x0 + _extrapolation(levels[i - 1], here, there) * (x0 - before)
        # exact for an x0 that does not change on the way
        x = best + (there / here) * (x - best)
        before = x0
        if progress:
            progress(i + 1, len(levels) - 1)
    return x


def _extrapolation(earlier: Tensor, here: Tensor, there: Tensor) -> Tensor:
    """How far x0 is carried on beyond its last change: `h / (2 h_before)`, h in log((1 - sigma) / sigma)."""

    def log_ratio(sigma: Tensor) -> Tensor:
        sigma = sigma.double().clamp(1e-6, 1 - 1e-3)
        return torch.log((1 - sigma) / sigma)

    step, last = log_ratio(there) - log_ratio(here), log_ratio(here) - log_ratio(earlier)
    return (0.5 * step / last).to(here.dtype)
