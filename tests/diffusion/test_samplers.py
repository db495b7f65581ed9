"""Samplers: exact where x0 stands still, and of the order they claim on a flow with a known solution."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from mosaicmem.diffusion.flow import add_noise, sigmas
from mosaicmem.diffusion.samplers import SamplerName, sample
from mosaicmem.errors import ConfigError

METHODS: tuple[SamplerName, ...] = ("euler", "multistep")
MEAN, SPREAD = 0.7, 0.4


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_an_x0_that_stands_still_is_reached_exactly(method, steps, rng):
    x0, noise = torch.randn(3, 4, generator=rng), torch.randn(3, 4, generator=rng)
    whole = sample(lambda *_: x0, noise, sigmas(steps, 3.0), method)
    assert torch.equal(whole, x0)
    levels = 0.2 + 0.8 * sigmas(steps, 3.0)
    part = sample(lambda *_: x0, noise, levels, method)
    torch.testing.assert_close(part, add_noise(x0, noise, levels[-1]), rtol=0, atol=1e-5)


def denoise(x: Tensor, sigma: Tensor) -> Tensor:
    """E[x0 | x] of normally distributed data, for which the flow has a solution."""
    a = 1 - sigma
    return MEAN + a * SPREAD**2 / (a**2 * SPREAD**2 + sigma**2) * (x - a * MEAN)


def solution(noise: Tensor, sigma: Tensor) -> Tensor:
    a = 1 - sigma
    return a * MEAN + (a**2 * SPREAD**2 + sigma**2).sqrt() * noise


def error(method: SamplerName, steps: int, last: float) -> float:
    noise = torch.randn(100, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    levels = last + (1 - last) * sigmas(steps).double()
    return float((sample(denoise, noise, levels, method) - solution(noise, levels[-1])).abs().max())


@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("multistep", 2)])
def test_the_order_of_a_sampler(method, order):
    errors = [error(method, steps, 0.05) for steps in (16, 32, 64, 128)]
    orders = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert all(abs(measured - order) < 0.2 for measured in orders[1:]), orders
    assert error("multistep", 64, 0.0) < error("euler", 64, 0.0) / 5, "and the last step to 0 does not spoil it"


def test_a_sampler_tells_how_far_it_is_and_asks_once_a_step(rng):
    asked, told = [], []

    def known(x: Tensor, sigma: Tensor) -> Tensor:
        asked.append(float(sigma))
        return x * 0

    levels = sigmas(3)
    sample(known, torch.randn(2, generator=rng), levels, progress=lambda *at: told.append(at))
    assert asked == levels[:-1].tolist()
    assert told == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("levels", [[1.0], [0.0, 1.0], [1.0, 0.5, 0.5, 0.0], [1.0, 0.5, -0.1], [1.0, float("nan")]])
def test_levels_that_do_not_fall_are_refused(levels):
    with pytest.raises(ConfigError, match="do not fall towards 0"):
        sample(denoise, torch.zeros(2), torch.tensor(levels))
