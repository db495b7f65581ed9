"""The Frechet distance against closed forms, its floor, and the choice of crops."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mosaicmem.errors import ConfigError, GeometryError
from mosaicmem.evaluation.frechet import (
    FEATURES,
    LABEL,
    RandomFeatures,
    crops_over,
    frechet_distance,
    frechet_report,
    take_crops,
)


def exactly(mean: torch.Tensor, cov: torch.Tensor, n: int, rng: torch.Generator) -> torch.Tensor:
    """`n` samples whose mean and unbiased covariance are the given ones to rounding."""
    x = torch.randn(n, len(mean), generator=rng, dtype=torch.float64)
    x = x - x.mean(0)
    x = x @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(x.T))).T
    return x @ torch.linalg.cholesky(cov).T + mean


def test_diagonal_gaussians_match_the_closed_form(rng):
    mean_a, mean_b = torch.tensor([1.0, 2, 3]).double(), torch.tensor([0.0, 2, 5]).double()
    std_a, std_b = torch.tensor([1.0, 0.5, 2]).double(), torch.tensor([2.0, 0.5, 1]).double()
    a = exactly(mean_a, std_a.square().diag(), 50, rng)
    b = exactly(mean_b, std_b.square().diag(), 70, rng)
    expected = (mean_a - mean_b).square().sum() + (std_a - std_b).square().sum()
    assert frechet_distance(a, b) == pytest.approx(float(expected))


@given(seed=st.integers(0, 99))
def test_it_equals_the_formula_with_the_unsymmetric_product(seed):
    rng = torch.Generator().manual_seed(seed)
    a, b = torch.randn(40, 5, generator=rng).double(), torch.randn(30, 5, generator=rng).double() * 2 + 1
    s1, s2 = torch.cov(a.T), torch.cov(b.T)
    root = torch.linalg.eigvals(s1 @ s2).real.clamp(min=0).sqrt().sum()
    expected = (a.mean(0) - b.mean(0)).square().sum() + (s1 + s2).trace() - 2 * root
    assert frechet_distance(a, b) == pytest.approx(float(expected))
    assert frechet_distance(b, a) == pytest.approx(float(expected))


def test_a_set_against_itself_is_nothing_in_any_order_and_with_too_few_samples(rng):
    for n in (10, 200):  # fewer samples than dimensions leave the covariance singular
        x = torch.randn(n, 64, generator=rng).double() @ torch.randn(64, 64, generator=rng).double()
        shuffled = x[torch.randperm(n, generator=rng)]
        assert frechet_distance(x, shuffled) < 1e-6 * float(torch.cov(x.T).trace())
    assert frechet_distance(x, shuffled) < 1e-8 * float(torch.cov(x.T).trace())


def test_the_floor_falls_with_the_number_of_samples_and_stands_beside_the_value(rng):
    real = torch.randn(4000, 32, generator=rng).double()
    same, other = torch.randn(2000, 32, generator=rng).double(), torch.randn(2000, 32, generator=rng).double() + 0.5
    few, many = frechet_report(same[:100], real, "x"), frechet_report(same, real, "x")
    assert (few.count, many.count) == (100, 2000)
    assert few.floor > 5 * many.floor
    assert few.value == pytest.approx(few.floor, rel=0.3)
    assert frechet_report(other, real, "x").value == pytest.approx(32 * 0.25, rel=0.1)
    assert frechet_report(same, real, "x") == many


def test_halves_share_no_world():
    worlds = torch.arange(8).repeat_interleave(20)
    rng = torch.Generator().manual_seed(0)
    real = 10.0 * torch.randn(8, 3, generator=rng).double()[worlds] + torch.randn(160, 3, generator=rng).double()
    apart = frechet_report(real, real, "x", worlds=worlds)
    mixed = frechet_report(real, real, "x")
    assert apart.count == 80
    assert apart.floor > 5 * mixed.floor  # samples of one world are alike: mixing them hides the spread of worlds


def test_features_are_fixed_by_their_seed_and_tell_textures_apart(rng):
    pictures = torch.rand(70, 3, 32, 32, generator=rng) * 2 - 1
    features = RandomFeatures()(pictures)
    assert features.shape == (70, FEATURES)
    assert features.dtype == torch.float64
    torch.testing.assert_close(RandomFeatures()(pictures[65:]), features[65:])
    assert RandomFeatures().identity == RandomFeatures(0).identity != RandomFeatures(1).identity
    assert RandomFeatures().identity.startswith(LABEL)
    smooth = torch.nn.functional.avg_pool2d(pictures, 3, 1, 1)
    found = frechet_report(RandomFeatures()(smooth[:35]), features, "x")
    assert found.value > 5 * found.floor


def test_only_crops_that_are_mostly_in_the_mask_are_taken():
    mask = torch.zeros(2, 64, 96, dtype=torch.bool)
    mask[1, :, 40:] = True
    places = crops_over(mask, size=32, stride=16)
    assert {tuple(row) for row in places.tolist()} == {(1, y, x) for y in (0, 16, 32) for x in (32, 48, 64)}
    share = take_crops(mask[:, None].expand(-1, 3, -1, -1).float(), places).mean((1, 2, 3))
    assert float(share.min()) > 0.5
    frames = torch.arange(2 * 3 * 64 * 96.0).view(2, 3, 64, 96)
    torch.testing.assert_close(take_crops(frames, places)[0], frames[1, :, 0:32, 32:64])
    exact = torch.zeros(1, 32, 32, dtype=torch.bool)
    exact[:, :16] = True
    assert len(crops_over(exact)) == 0  # half is not more than half
    assert take_crops(frames, crops_over(exact)).shape == (0, 3, 32, 32)


def test_what_makes_no_distance_is_refused(rng):
    x = torch.randn(5, 3, generator=rng)
    with pytest.raises(ConfigError, match="two or more"):
        frechet_distance(x[:1], x)
    with pytest.raises(ConfigError, match="two or more"):
        frechet_report(x, x[:3], "x")
    with pytest.raises(ConfigError, match="fit"):
        crops_over(torch.ones(1, 16, 16, dtype=torch.bool))
    with pytest.raises(GeometryError, match="16 pixels"):
        RandomFeatures()(torch.zeros(1, 3, 8, 8))
