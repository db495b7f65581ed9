"""Scale alignment: exact on exact data, steady under outliers, honest when it cannot say."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mosaicmem.depth import AlignmentConfig, align_scale, bowl_depth
from mosaicmem.depth.alignment import _comparable, _median

SHAPE = (40, 48)


def stored_depth(seed: int = 0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return 1 + 6 * torch.rand(SHAPE, generator=g, dtype=torch.float64)


def spoiled(factor: float, share: float, noise: float, seed: int = 0, outlier: float = 2.5):
    """New depth that needs `factor`, with noise and a share of outliers that all lie on one side."""
    stored, g = stored_depth(seed), torch.Generator().manual_seed(seed + 1)
    new = stored / factor * (1 + noise * torch.randn(SHAPE, generator=g, dtype=torch.float64))
    wild = torch.rand(SHAPE, generator=g) < share
    return torch.where(wild, new * outlier, new), stored


@pytest.mark.parametrize("factor", [1.1, 0.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_exact_data_gives_the_exact_scale(factor, dtype):
    stored = bowl_depth(48, 40, dtype)
    found = align_scale(stored / factor, stored)
    assert found.scale == pytest.approx(factor, rel=1e-6) and found.source == "median"
    assert found.inliers == 1 and found.mad < 1e-6
    assert torch.allclose(found.apply(stored / factor), stored, rtol=2e-6)


@given(st.floats(0.02, 50), st.floats(0.05, 20))
def test_the_scale_follows_a_change_of_units(factor, unit):
    stored = stored_depth()
    base = align_scale(stored / factor, stored).scale
    assert align_scale(unit * stored / factor, stored).scale == pytest.approx(base / unit, rel=1e-9)


@pytest.mark.parametrize("share", [0.2, 0.3])
@pytest.mark.parametrize("outlier", [2.5, 0.3])
@pytest.mark.parametrize("seed", range(3))
def test_outliers_and_noise_cost_less_than_one_percent(share, outlier, seed):
    new, stored = spoiled(1.1, share, 0.05, seed, outlier)
    found = align_scale(new, stored)
    assert found.scale == pytest.approx(1.1, rel=0.01)
    assert found.inliers == pytest.approx(1 - share, abs=0.05)
    assert found.mad == pytest.approx(0.05 * 0.6745, rel=0.15)


def test_a_plain_mean_or_median_would_not_pass_that_test():
    new, stored = spoiled(1.1, 0.3, 0.05)
    ratio = stored / new
    assert abs(float(ratio.mean()) / 1.1 - 1) > 0.05
    assert abs(float(ratio.median()) / 1.1 - 1) > 0.01


def test_a_majority_of_outliers_is_not_survived():
    new, stored = spoiled(1.1, 0.7, 0.05)
    assert abs(align_scale(new, stored).scale / 1.1 - 1) > 0.2


@pytest.mark.parametrize("previous", [None, 1.3])
def test_without_overlap_the_previous_scale_is_carried(previous):
    new = stored_depth()
    nothing = torch.zeros(SHAPE, dtype=torch.float64)
    for stored in (nothing, torch.full_like(nothing, math.nan), -new):
        found = align_scale(new, stored, previous=previous)
        assert (found.source, found.scale, found.inliers) == ("carried", previous or 1.0, 0)
        assert math.isnan(found.mad)
    few = nothing.clone()
    few[0, :15] = new[0, :15]
    assert align_scale(new, few, previous=previous).source == "carried"
    tenth = nothing.clone()
    tenth[:4] = new[:4]
    assert align_scale(new, tenth).source == "median"
    assert align_scale(new, tenth * (new != new[0, 0])).source == "carried"  # one cell short of a tenth


def test_ratios_that_agree_on_nothing_are_refused():
    g = torch.Generator().manual_seed(3)
    new = torch.exp(8 * torch.rand(SHAPE, generator=g, dtype=torch.float64))
    assert align_scale(new, stored_depth(), previous=0.9).source == "carried"


def test_a_jump_is_clamped_unless_the_back_end_is_relative():
    stored = stored_depth()
    up, down = align_scale(stored / 3, stored, previous=1.0), align_scale(stored * 3, stored, previous=2.0)
    assert (up.scale, down.scale) == (1.25, 1.6) and up.clamped and down.clamped
    assert align_scale(stored / 3, stored, previous=1.0, relative=True).scale == pytest.approx(3)
    near = align_scale(stored / 1.2, stored, previous=1.0)
    assert near.scale == pytest.approx(1.2) and not near.clamped


def test_low_confidence_does_not_vote():
    stored = stored_depth()
    confidence = torch.linspace(0, 1, stored.numel(), dtype=torch.float64).view(SHAPE)
    new = torch.where(confidence < 0.09, stored * 1.15, stored)
    trusted = align_scale(new, stored, confidence=confidence)
    assert trusted.mad == 0 and trusted.inliers == pytest.approx(0.9, abs=0.01)
    strict = AlignmentConfig(inlier=0.1)
    assert align_scale(new, stored, config=strict).inliers < align_scale(new, stored).inliers


def test_a_shift_of_inverse_depth_is_fitted_where_a_scale_cannot():
    stored = stored_depth()
    new = 1 / ((1 / stored - 0.06) / 0.8)  # 1 / stored = 0.8 / new + 0.06
    found = align_scale(new, stored)
    assert found.source == "affine" and found.inverse is not None
    assert found.inverse == pytest.approx((0.8, 0.06), rel=1e-6)
    assert found.mad < 1e-6 and found.inliers == 1
    assert torch.allclose(found.apply(new), stored, rtol=1e-6)
    assert float(found.apply(torch.zeros(1, dtype=torch.float64))) == 0
    assert align_scale(new, stored, config=AlignmentConfig(try_affine_above=9.0)).source == "median"


def test_an_affine_fit_that_turns_depth_negative_is_dropped():
    stored = stored_depth()
    new = 1 / ((1 / stored + 0.12) / 0.8)  # 1 / stored = 0.8 / new - 0.12
    assert align_scale(new, stored).source == "affine"
    new[0, 0] = 1e6  # there the fit says -0.12
    assert align_scale(new, stored).source != "affine"


@pytest.mark.parametrize("seed", [5, 15, 89])  # of three thousand a hundred come to this
def test_an_affine_fit_that_nothing_agrees_with_is_dropped(seed):
    """Depth of nothing in particular, against points near and far: the fit comes to lie between them, and near none."""
    g = torch.Generator().manual_seed(seed)
    a, b = (2 * torch.rand(2, generator=g)).tolist()
    new, near = ((x * torch.randn(SHAPE, generator=g, dtype=torch.float64)).exp() for x in (a, b))
    is_near = torch.rand(SHAPE, generator=g) < torch.rand(1, generator=g)
    stored = torch.where(is_near, 0.1 * near + 0.3 * torch.rand(1, generator=g), 5.0)
    found = align_scale(new, stored, config=AlignmentConfig(confidence_quantile=0.0, min_share=0.0))
    assert found.source == "median" and math.isfinite(found.scale) and found.inliers > 0


@pytest.mark.parametrize("count", [1, 2, 4999, 5000])
def test_a_median_is_the_middle_or_between_the_two_in_the_middle(count):
    values = torch.randperm(9000, generator=torch.Generator().manual_seed(count))[:count].double() ** 2
    assert _median(values) == np.median(values.numpy())


def test_the_lowest_tenth_of_confidence_is_left_out_and_no_more():
    confidence = torch.randperm(20, generator=torch.Generator().manual_seed(0)).double().view(4, 5)
    kept = _comparable(torch.ones(4, 5), torch.ones(4, 5), confidence, AlignmentConfig())
    assert torch.equal(kept, confidence >= 1), "a tenth of the 19 steps from the lowest to the highest, rounded down"
