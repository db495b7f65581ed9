"""Flow matching: closed forms of the schedule, what the two heads mean, and one loss for both."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mosaicmem.diffusion.flow import (
    FLOOR,
    Prediction,
    add_noise,
    draw_sigma,
    flow_loss,
    shift_sigma,
    sigmas,
    velocity_from_x0,
    x0_from,
)
from mosaicmem.errors import ConfigError


def test_the_few_step_list_of_wan():
    torch.testing.assert_close(1000 * sigmas(4, 5.0), torch.tensor([1000, 937.5, 833.333333, 625, 0]))
    five = [1000, 952.380952, 882.352941, 769.230769, 555.555556, 0]
    torch.testing.assert_close(1000 * sigmas(5, 5.0), torch.tensor(five))
    assert sigmas(4).tolist() == [1, 0.75, 0.5, 0.25, 0]
    assert float(sigmas(4, 5.0)[3]) > 0.6, "shifted once; twice would end near 0.9, and not at all at 0.25"


@given(st.floats(0.1, 20), st.floats(0.1, 20), st.floats(0, 1))
def test_shifts_keep_the_ends_compose_and_invert(a, b, value):
    sigma = torch.tensor([0.0, value, 1.0], dtype=torch.float64)
    shifted = shift_sigma(sigma, a)
    assert shifted[0] == 0 and shifted[2] == pytest.approx(1)
    torch.testing.assert_close(shift_sigma(shifted, b), shift_sigma(sigma, a * b))
    torch.testing.assert_close(shift_sigma(shifted, 1 / a), sigma)


def test_training_draws_what_the_schedule_shifts(rng):
    drawn = draw_sigma(20_000, rng, 3.0)
    assert float(drawn.min()) >= 0 and float(drawn.max()) <= 1
    assert float(drawn.median()) == pytest.approx(0.75, abs=0.01)  # s / (s + 1)
    assert float((drawn < 0.5).float().mean()) == pytest.approx(0.25, abs=0.01)  # 1 / (s + 1)
    again = draw_sigma(5, torch.Generator().manual_seed(1), 3.0)
    assert torch.equal(again, draw_sigma(5, torch.Generator().manual_seed(1), 3.0))


def test_both_heads_say_the_same_of_the_same_answer(rng):
    x0, noise = torch.randn(2, 3, 4, 5, generator=rng), torch.randn(2, 3, 4, 5, generator=rng)
    sigma = torch.tensor([0.3, 0.9])[:, None, None, None]
    x = add_noise(x0, noise, sigma)
    assert torch.equal(add_noise(x0, noise, torch.zeros(())), x0) and torch.equal(
        add_noise(x0, noise, torch.ones(())), noise
    )
    assert torch.equal(x0_from(x0, x, sigma, "x0"), x0)
    torch.testing.assert_close(x0_from(noise - x0, x, sigma, "velocity"), x0)
    torch.testing.assert_close(velocity_from_x0(x, x0, sigma), noise - x0)
    assert bool(velocity_from_x0(x, x0, torch.zeros(())).isfinite().all())


def test_one_loss_for_both_heads(rng):
    x0, noise, wrong = (torch.randn(2, 3, 4, 5, generator=rng) for _ in range(3))
    sigma = torch.tensor([0.3, 0.9])[:, None, None, None]
    x = add_noise(x0, noise, sigma)
    answers: dict[Prediction, torch.Tensor] = {"x0": x0, "velocity": noise - x0}
    for kind, right in answers.items():
        assert flow_loss(right, x0, noise, sigma, kind) == 0
        assert flow_loss(right + 1, x0, noise, sigma, kind) > 0.5
    as_x0 = flow_loss(wrong, x0, noise, sigma, "x0")
    as_velocity = flow_loss(velocity_from_x0(x, wrong, sigma), x0, noise, sigma, "velocity")
    torch.testing.assert_close(as_x0, as_velocity)
    # with hardly any noise the velocity of an x0 says nothing, and its loss is held
    least = torch.full((), FLOOR / 100)
    torch.testing.assert_close(flow_loss(wrong, x0, noise, least, "x0"), (wrong - x0).square().mean() / FLOOR**2)


def test_weights_of_channels_are_an_average(rng):
    x0, noise, wrong = (torch.randn(2, 3, 4, generator=rng) for _ in range(3))
    half = torch.full((), 0.5)
    weight = torch.tensor([3.0, 0.0, 0.0])[:, None]
    only = flow_loss(wrong[:, :1], x0[:, :1], noise[:, :1], half, "velocity")
    torch.testing.assert_close(flow_loss(wrong, x0, noise, half, "velocity", weight=weight), only)


def test_schedules_that_are_none_are_refused():
    with pytest.raises(ConfigError, match="steps = 0"):
        sigmas(0)
    for shift in (0.0, -1.0, float("nan")):
        with pytest.raises(ConfigError, match="shift"):
            sigmas(4, shift)
