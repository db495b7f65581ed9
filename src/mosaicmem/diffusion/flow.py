"""Flow matching: noise levels, what a network predicts, and the loss.

    x_sigma = (1 - sigma) x0 + sigma noise,   v = noise - x0,   x0 = x_sigma - sigma v,   t = 1000 sigma

sigma = 1 is noise and 0 is data, as in Wan. Noise levels broadcast: one number, one per entry, or one per latent.
"""

from __future__ import annotations

from typing import Literal

import torch

from mosaicmem._shapes import Float, Tensor
from mosaicmem.errors import ConfigError

Prediction = Literal["velocity", "x0"]
FLOOR = 0.1  # an x0 prediction says little about the velocity where there is hardly any noise


def shift_sigma(sigma: Float[Tensor, "*n"], shift: float) -> Float[Tensor, "*n"]:
    """`s sigma / (1 + (s - 1) sigma)`: more of the schedule at high noise for `shift` above 1; 0 and 1 stay."""
    if not shift > 0:
        raise ConfigError(f"shift = {shift}: expected more than 0")
    return shift * sigma / (1 + (shift - 1) * sigma)


def sigmas(steps: int, shift: float = 1.0) -> Float[Tensor, " k"]:
    """`steps + 1` noise levels from 1 to 0: evenly spaced, then shifted once.

    Four steps with shift 5 are 1, 0.9375, 0.8333, 0.625, 0: the list of Wan's few-step models.

    Raises:
        ConfigError: on fewer than one step.
    """
    if steps < 1:
        raise ConfigError(f"steps = {steps}: expected 1 or more")
    return shift_sigma(torch.linspace(1, 0, steps + 1, dtype=torch.float64), shift).float()


def draw_sigma(n: int, generator: torch.Generator, shift: float = 1.0) -> Float[Tensor, " n"]:
    """Noise levels for training: uniform, shifted."""
    return shift_sigma(torch.rand(n, generator=generator), shift)


def add_noise(x0: Float[Tensor, "*b"], noise: Float[Tensor, "*b"], sigma: Float[Tensor, "..."]) -> Float[Tensor, "*b"]:
    """`x_sigma`."""
    return (1 - sigma) * x0 + sigma * noise


def velocity_from_x0(
    x: Float[Tensor, "*b"], x0: Float[Tensor, "*b"], sigma: Float[Tensor, "..."], floor: float = 1e-4
) -> Float[Tensor, "*b"]:  # fmt: skip
    """The velocity that leads from `x_sigma` to `x0`."""
    return (x - x0) / sigma.clamp(min=floor)


def x0_from(
    prediction: Float[Tensor, "*b"], x: Float[Tensor, "*b"], sigma: Float[Tensor, "..."], kind: Prediction
) -> Float[Tensor, "*b"]:
    """The data that a network's output stands for."""
    return prediction if kind == "x0" else x - sigma * prediction


def flow_loss(
    prediction: Float[Tensor, "*b"],
    x0: Float[Tensor, "*b"],
    noise: Float[Tensor, "*b"],
    sigma: Float[Tensor, "..."],
    kind: Prediction,
    *,
    weight: Float[Tensor, "..."] | float = 1.0,
    floor: float = FLOOR,
) -> Float[Tensor, ""]:
    """Mean squared error of the velocity, whichever of the two the network predicts.

    For `x0` it is the error of x0 over `max(sigma, floor)^2`: at the same sigma both kinds then have the same loss for
    the same answer. `weight` broadcasts over the latents and has mean 1.
    """
    error = prediction - (x0 if kind == "x0" else noise - x0)
    if kind == "x0":
        error = error / sigma.clamp(min=floor)
    return (weight * error.square()).mean()
