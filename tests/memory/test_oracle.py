"""Retrieval against ray casting, on 100 procedural scenes with exact depth."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from mosaicmem.evaluation.oracle import OracleCounts, judge
from mosaicmem.evaluation.oracle_scenes import oracle_case
from mosaicmem.geometry.token_grid import TokenGrid
from mosaicmem.memory import Mosaic, RetrievalConfig, retrieve

GRID = TokenGrid(320, 256, stride=8, patch=2)


def run(seeds: range, config: RetrievalConfig | None = None) -> OracleCounts:
    total = OracleCounts()
    for seed in seeds:
        case = oracle_case(seed, GRID, keyframes=8, views=1)
        total += judge(case.scene, case.store, retrieve(case.store, case.views, GRID, config))
    return total


@pytest.mark.slow
def test_R5_what_memory_could_show_is_read_back_and_little_of_it_is_wrong() -> None:
    counts = run(range(100))
    assert counts.visible > 0.7 * counts.cells, "the cases must be ones in which memory has something to say"
    assert counts.recall >= 0.97, counts
    assert counts.wrong_share <= 0.015, counts


def test_the_oracle_notices_wrong_content_and_missing_cells() -> None:
    """Negative controls: a mosaic read from shifted places is wrong, one with fewer cells recalls less."""
    case = oracle_case(3, GRID, keyframes=8, views=1)
    mosaic = retrieve(case.store, case.views, GRID)
    honest = judge(case.scene, case.store, mosaic)
    shifted = dataclasses.replace(mosaic, source_uv=mosaic.source_uv + torch.tensor([60.0, 0.0]))
    assert judge(case.scene, case.store, shifted).wrong_share > 0.2 > honest.wrong_share
    half = mosaic.good.clone()
    half[..., ::2] = False
    halved: Mosaic = dataclasses.replace(mosaic, good=half)
    assert 0.4 < judge(case.scene, case.store, halved).recall < 0.6


def test_a_memory_that_ignores_occlusion_is_caught() -> None:
    """Negative control: the nearest keyframe's picture of each point, taken without asking what stands before it."""
    case = oracle_case(3, GRID, keyframes=8, views=1)
    mosaic = retrieve(case.store, case.views, GRID)
    honest = judge(case.scene, case.store, mosaic)
    farthest = dataclasses.replace(mosaic, source_uv=mosaic.source_uv.flip(2))
    assert judge(case.scene, case.store, farthest).wrong_share > 10 * honest.wrong_share
