"""PSNR, SSIM and revisit scores against closed forms, slow twins and the rules of merging."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mosaicmem.errors import GeometryError
from mosaicmem.evaluation.metrics import PSNR_CAP, MeanState, psnr, psnr_state, ssim, ssim_state
from mosaicmem.evaluation.revisit import RevisitScore, copy_last, covisible, revisit_pairs, revisit_score
from mosaicmem.geometry.cameras import Cameras


def _pair(rng: torch.Generator, n: int = 2, size: tuple[int, int] = (14, 17)) -> tuple[torch.Tensor, torch.Tensor]:
    truth = torch.rand(n, 3, *size, generator=rng, dtype=torch.float64)
    return truth + 0.2 * torch.randn(n, 3, *size, generator=rng, dtype=torch.float64), truth


def test_a_uniform_offset_of_a_tenth_is_20_db(rng):
    _, truth = _pair(rng)
    torch.testing.assert_close(psnr(truth + 0.1, truth, data_range=1), torch.full((2,), 20.0, dtype=torch.float64))
    torch.testing.assert_close(psnr(2 * truth + 0.2, 2 * truth), torch.full((2,), 20.0, dtype=torch.float64))


def test_identical_frames_reach_the_cap_and_are_counted(rng):
    _, truth = _pair(rng)
    state = psnr_state(truth, truth)
    assert (state.compute(), state.count, state.capped) == (PSNR_CAP, 2, 2)
    torch.testing.assert_close(ssim(truth, truth), torch.ones(2, dtype=torch.float64))


def test_psnr_averages_frames_not_errors(rng):
    _, truth = _pair(rng)
    frames = truth + torch.tensor([0.1, 0.01], dtype=torch.float64)[:, None, None, None]
    assert psnr_state(frames, truth, data_range=1).compute() == pytest.approx((20 + 40) / 2)


def test_masked_psnr_reads_nothing_outside_the_mask(rng):
    frames, truth = _pair(rng)
    mask = torch.rand(2, 14, 17, generator=rng) < 0.4
    expected = [10 * math.log10(1 / (frames[i] - truth[i])[:, mask[i]].square().mean().item()) for i in range(2)]
    frames = torch.where(mask[:, None], frames, torch.nan)
    assert psnr(frames, truth, mask, data_range=1).tolist() == pytest.approx(expected)
    empty = psnr_state(frames, truth, mask & (torch.arange(2) == 0)[:, None, None], data_range=1)
    assert (empty.count, empty.skipped) == (1, 1)
    assert empty.compute() == pytest.approx(expected[0])


def test_ssim_of_flat_frames_is_the_luminance_term(rng):
    a, b = 0.3, 0.7
    flat = torch.full((1, 3, 12, 12), a, dtype=torch.float64)
    other = torch.full((1, 3, 12, 12), b, dtype=torch.float64)
    c1 = 0.01**2
    assert float(ssim(flat, other, data_range=1)) == pytest.approx((2 * a * b + c1) / (a * a + b * b + c1))


def test_ssim_equals_its_slow_twin(rng):
    frames, truth = _pair(rng, n=1)
    weight = [[math.exp(-((i - 5) ** 2 + (j - 5) ** 2) / (2 * 1.5**2)) for j in range(11)] for i in range(11)]
    kernel = torch.tensor(weight, dtype=torch.float64)
    kernel /= kernel.sum()
    values = []
    for c in range(3):
        for y in range(14 - 10):
            for x in range(17 - 10):
                a, b = frames[0, c, y : y + 11, x : x + 11], truth[0, c, y : y + 11, x : x + 11]
                ma, mb = (kernel * a).sum(), (kernel * b).sum()
                va, vb = (kernel * (a - ma) ** 2).sum(), (kernel * (b - mb) ** 2).sum()
                cov = (kernel * (a - ma) * (b - mb)).sum()
                c1, c2 = 0.01**2, 0.03**2
                values.append((2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2)))
    assert float(ssim(frames, truth, data_range=1)) == pytest.approx(float(torch.stack(values).mean()), abs=1e-12)


def test_ssim_is_symmetric_scale_free_and_needs_room(rng):
    frames, truth = _pair(rng)
    torch.testing.assert_close(ssim(frames, truth, 1), ssim(truth, frames, 1))
    torch.testing.assert_close(ssim(2 * frames, 2 * truth, 2), ssim(frames, truth, 1))
    assert float(ssim(frames, truth, 1).max()) < 0.99
    with pytest.raises(GeometryError, match="11x11"):
        ssim(torch.zeros(1, 3, 10, 20), torch.zeros(1, 3, 10, 20))


def test_masked_ssim_fills_from_the_truth_and_skips_small_masks(rng):
    frames, truth = _pair(rng)
    mask = torch.zeros(2, 14, 17, dtype=torch.bool)
    mask[0, :, :9] = True  # more than a fifth of frame 0, nothing of frame 1
    filled = frames.clone()
    filled[:, :, :, 9:] = truth[:, :, :, 9:]
    state = ssim_state(torch.where(mask[:, None], frames, torch.nan), truth, mask, 1)
    assert (state.count, state.skipped) == (1, 1)
    assert state.compute() == pytest.approx(float(ssim(filled[:1], truth[:1], 1)))


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.integers(0, 99))
def test_merging_batches_is_scoring_them_together(sizes, seed):
    rng = torch.Generator().manual_seed(seed)
    frames, truth = _pair(rng, sum(sizes), (11, 11))
    mask = torch.rand(sum(sizes), 11, 11, generator=rng) < 0.5
    merged, start = RevisitScore(), 0
    for size in sizes:
        part = slice(start, start + size)
        merged, start = merged.merge(revisit_score(frames[part], truth[part], mask[part])), start + size
    assert merged.compute() == pytest.approx(revisit_score(frames, truth, mask).compute(), abs=1e-9)


def test_the_mean_of_nothing_is_nan():
    assert math.isnan(MeanState().compute())


def test_revisit_score_without_a_mask_counts_everything(rng):
    frames, truth = _pair(rng)
    score = revisit_score(frames, truth, data_range=1).compute()
    assert score["share"] == 1
    assert score["psnr"] == pytest.approx(psnr_state(frames, truth, data_range=1).compute())
    assert torch.equal(copy_last(truth[0], 3)[2], truth[0])


def _wall(depth: float) -> torch.Tensor:
    return torch.full((16, 24), depth, dtype=torch.float64)


def test_covisible_pixels_of_a_wall_after_a_sideways_step():
    eye = torch.eye(4, dtype=torch.float64)[None]
    camera = Cameras.from_fov(eye, 24, 16)
    step = eye.clone()
    step[0, 0, 3] = -4.0 * 6 / 24  # f b / D = 24 * 1 / 4: six pixels to the left
    moved = Cameras.from_fov(step, 24, 16)
    mask = covisible(_wall(4.0), camera, _wall(4.0), moved)
    assert mask[:, 6:].all()
    assert not mask[:, :6].any()


def test_covisible_needs_agreeing_known_depth_in_front():
    camera = Cameras.from_fov(torch.eye(4, dtype=torch.float64)[None], 24, 16)
    assert covisible(_wall(4.0), camera, _wall(4.1), camera).all()
    assert not covisible(_wall(4.0), camera, _wall(3.0), camera).any()  # hidden behind something nearer
    assert not covisible(_wall(0.0), camera, _wall(4.0), camera).any()
    assert not covisible(_wall(4.0), camera, _wall(0.0), camera).any()
    behind = torch.diag(torch.tensor([-1.0, 1, -1, 1], dtype=torch.float64))[None]
    assert not covisible(_wall(4.0), camera, _wall(4.0), Cameras.from_fov(behind, 24, 16)).any()


def test_a_there_and_back_path_is_paired_with_itself():
    viewmats = torch.eye(4, dtype=torch.float64).repeat(9, 1, 1)
    viewmats[:, 0, 3] = torch.tensor([0, 1, 2, 3, 4, 3, 2, 1, 0], dtype=torch.float64)
    cameras = Cameras.from_fov(viewmats, 8, 8)
    assert revisit_pairs(cameras, 1, 0.01) == [(3, 5), (2, 6), (1, 7), (0, 8)]
    assert revisit_pairs(cameras, 5, 0.01) == [(1, 7), (0, 8)]
    assert revisit_pairs(cameras, 9, 0.01) == []
    viewmats[8, :2, :2] = torch.tensor([[0, -1], [1, 0]], dtype=torch.float64)
    assert (0, 8) not in revisit_pairs(Cameras.from_fov(viewmats, 8, 8), 1, 10.0)
