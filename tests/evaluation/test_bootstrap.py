"""Intervals over worlds: coverage, pairing, and what is missing."""

import math

import pytest
import torch

from mosaicmem.errors import ConfigError
from mosaicmem.evaluation.bootstrap import mean_interval, paired_interval, per_group


def test_the_interval_holds_the_true_mean_as_often_as_it_says(rng):
    samples = torch.randn(300, 30, generator=rng, dtype=torch.float64) + 2
    intervals = [mean_interval(row, confidence=0.9, resamples=400, generator=rng) for row in samples]
    held = sum(found.low <= 2 <= found.high for found in intervals) / 300
    assert 0.82 < held < 0.95  # 0.9, less what a percentile interval of 30 values loses


def test_pairing_finds_a_difference_that_the_spread_of_worlds_hides(rng):
    worlds = 10 * torch.randn(20, generator=rng, dtype=torch.float64)
    better = worlds + 0.5 + 0.1 * torch.randn(20, generator=rng, dtype=torch.float64)
    assert not paired_interval(better, worlds).contains_zero
    a, b = mean_interval(better), mean_interval(worlds)
    assert a.low < b.high  # unpaired intervals overlap
    assert b.low < a.high
    assert paired_interval(worlds, worlds + 0.1 * torch.randn(20, generator=rng, dtype=torch.float64)).contains_zero


def test_missing_values_are_counted_and_never_averaged():
    found = mean_interval([1.0, math.nan, 3.0])
    assert (found.mean, found.count, found.missing) == (2.0, 2, 1)
    assert "1 missing" in str(found)
    assert paired_interval([1.0, math.nan, 3.0], [0.0, 0.0, math.nan]).count == 1
    one = mean_interval([1.0])
    assert math.isnan(one.low)
    assert one.contains_zero
    assert mean_interval([]).count == 0


def test_the_same_values_give_the_same_interval_and_constants_a_point():
    values = torch.arange(9.0)
    assert mean_interval(values) == mean_interval(values)
    assert mean_interval(values) != mean_interval(values, generator=torch.Generator().manual_seed(1))
    flat = mean_interval([3.0] * 5)
    assert (flat.low, flat.high) == (3, 3)


def test_frames_are_averaged_per_world_first():
    values = torch.tensor([1.0, 3.0, 5.0, math.nan, math.nan])
    means = per_group(values, torch.tensor([7, 7, 2, 2, 9]))
    assert means[:2].tolist() == [5, 2]
    assert means[2].isnan()


def test_contradictions_are_refused():
    with pytest.raises(ConfigError, match="confidence"):
        mean_interval([1.0, 2.0], confidence=1.5)
    with pytest.raises(ConfigError, match="same worlds"):
        paired_interval([1.0], [1.0, 2.0])
