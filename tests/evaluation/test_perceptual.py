"""The Gabor distance orders degradations as an eye would, and obeys the rules of a mean over frames."""

import pytest
import torch
from torch.nn import functional as F

from mosaicmem.errors import GeometryError
from mosaicmem.evaluation.perceptual import _filters, perceptual, perceptual_state
from mosaicmem.worlds import make_scene
from mosaicmem.worlds.film import film


@pytest.fixture(scope="module")
def truth() -> torch.Tensor:
    frames = []
    for seed in (1, 2):
        scene = make_scene(seed, walls="vivid", texture="mixed")
        frames.append(film(scene, scene.random_cameras(2, torch.Generator().manual_seed(seed), 96, 96)).rgb)
    return torch.cat(frames)


def blurred(frames: torch.Tensor, sigma: float) -> torch.Tensor:
    reach = max(1, round(4 * sigma))
    x = torch.arange(-reach, reach + 1.0)
    kernel = torch.exp(-(x**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).expand(3, 1, 1, -1)
    out = F.conv2d(F.pad(frames, (reach,) * 4, mode="replicate"), kernel, groups=3)
    return F.conv2d(out, kernel.transpose(2, 3), groups=3)


def shifted(frames: torch.Tensor, pixels: int) -> torch.Tensor:
    return F.pad(frames, (0, pixels, 0, 0), mode="replicate")[..., pixels:]


def test_equal_frames_have_no_distance_and_others_do(truth):
    assert float(perceptual(truth, truth).max()) < 1e-6
    other = perceptual(truth.roll(1, 0), truth)
    assert float(other.min()) > 0.2
    assert float(other.max()) <= 1


@pytest.mark.parametrize(
    "worse",
    [
        lambda x, k: blurred(x, 0.4 * 2**k),
        lambda x, k: shifted(x, 2**k),
        lambda x, k: x + 0.03 * 2**k * torch.randn(x.shape, generator=torch.Generator().manual_seed(0)),
        lambda x, k: x + 0.05 * 2**k,
    ],
    ids=["blur", "shift", "noise", "brightness"],
)
def test_more_of_it_costs_more(truth, worse):
    costs = torch.stack([perceptual(worse(truth, k), truth) for k in range(4)])
    assert (costs.diff(dim=0) > 0).all()


def test_a_shift_costs_less_than_a_blur_of_equal_squared_error(truth):
    moved = shifted(truth, 1)
    for frame, goal in zip(moved, truth):
        low, high, soft = 0.1, 10.0, goal[None]
        for _ in range(16):
            sigma = (low + high) / 2
            soft = blurred(goal[None], sigma)
            if F.mse_loss(soft[0], goal) < F.mse_loss(frame, goal):
                low = sigma
            else:
                high = sigma
        assert F.mse_loss(soft[0], goal) == pytest.approx(float(F.mse_loss(frame, goal)), rel=0.02)
        assert 2 * float(perceptual(frame[None], goal[None])) < float(perceptual(soft, goal[None]))


def test_lost_colour_and_lost_texture_show_where_light_and_mean_stay(truth):
    grey = truth.mean(1, keepdim=True).expand_as(truth)
    assert float(perceptual(grey, truth).min()) > 0.05
    coarse = F.interpolate(F.avg_pool2d(truth, 8), scale_factor=8, mode="bilinear")
    assert float(perceptual(coarse, truth).min()) > 0.05


def test_the_batch_its_order_and_the_range_do_not_matter(truth):
    frames = blurred(truth, 1.0)
    values = perceptual(frames, truth)
    order = torch.tensor([2, 0, 3, 1])
    assert torch.equal(perceptual(frames[order], truth[order]), values[order])
    assert torch.equal(perceptual(frames[1:2], truth[1:2]), values[1:2])
    torch.testing.assert_close(perceptual(truth, frames), values)
    torch.testing.assert_close(perceptual(frames / 2 + 0.5, truth / 2 + 0.5, 1.0), values, atol=1e-4, rtol=1e-3)


def test_the_mask_hides_what_is_outside_and_small_masks_are_skipped(truth):
    mask = torch.zeros(4, 96, 96, dtype=torch.bool)
    mask[:3, :, :48] = True
    frames = blurred(truth, 2.0)
    state = perceptual_state(torch.where(mask[:, None], frames, torch.nan), truth, mask)
    assert (state.count, state.skipped) == (3, 1)
    filled = torch.where(mask[:, None], frames, truth)[:3]
    assert state.compute() == pytest.approx(float(perceptual(filled, truth[:3]).mean()), abs=1e-6)
    assert state.compute() < perceptual_state(frames[:3], truth[:3]).compute()
    halves = perceptual_state(frames[:1], truth[:1]).merge(perceptual_state(frames[1:], truth[1:]))
    assert halves.compute() == pytest.approx(perceptual_state(frames, truth).compute())


def test_filters_see_no_constant_and_answer_their_own_orientation():
    filters = _filters()[:, 0].double()
    assert float(filters.sum((1, 2)).abs().max()) < 1e-6
    x = torch.arange(-4.0, 5, dtype=torch.float64)
    wave = torch.cos(2 * torch.pi / 4 * x).expand(9, 9)  # vertical stripes
    answer = torch.hypot((filters[:4] * wave).sum((1, 2)), (filters[4:] * wave).sum((1, 2)))
    assert int(answer.argmax()) == 0
    assert float(answer[0]) == pytest.approx(1, abs=0.05)
    assert float(answer[2]) < 0.05


def test_small_frames_are_refused():
    with pytest.raises(GeometryError, match="64 pixels"):
        perceptual(torch.zeros(1, 3, 63, 80), torch.zeros(1, 3, 63, 80))
