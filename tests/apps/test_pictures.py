"""Pictures say what they claim: holes are striped, maps keep places, curves keep values; scores heed the mask."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mosaicmem.apps.cli.pictures import (
    BLUE,
    Chart,
    Panel,
    Series,
    block,
    charts,
    enlarge,
    moments,
    nice_step,
    row,
    stripes,
    ticks,
)
from mosaicmem.apps.cli.scores import score
from mosaicmem.apps.cli.topdown import Ground, Points, draw_map, time_color
from mosaicmem.apps.cli.views import View, to_float, to_u8
from mosaicmem.geometry.cameras import Cameras, look_at
from mosaicmem.geometry.token_grid import TokenGrid
from mosaicmem.memory.retrieval import retrieve
from mosaicmem.memory.store import PatchStore
from mosaicmem.models.synthetic import PixelShuffleVAE


def test_only_covered_pixels_are_scored():
    """Right where covered and wrong elsewhere scores as right; the other way round it does not."""
    camera = Cameras.from_fov(torch.eye(4)[None], 32, 32)
    mosaic = retrieve(PatchStore.empty(), camera, TokenGrid(32, 32, 1, 8, 1))
    truth = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    frame, good = truth.clone(), torch.zeros(32, 32, dtype=torch.bool)
    good[:, :16] = True
    frame[:, :, 16:] *= -1
    right = score(0, View(frame, good, mosaic), truth, PixelShuffleVAE())
    assert (right.psnr, right.ssim) == (60.0, pytest.approx(1.0))
    wrong = score(0, View(frame, ~good, mosaic), truth, PixelShuffleVAE())
    assert wrong.psnr is not None
    assert wrong.psnr < 10
    nothing = score(0, View(frame, torch.zeros_like(good), mosaic), truth, PixelShuffleVAE())
    assert (nothing.psnr, nothing.ssim) == (None, None)


def test_bytes_survive_the_way_in_and_out():
    every = torch.arange(256, dtype=torch.uint8).reshape(16, 16, 1).expand(16, 16, 3).contiguous().numpy()
    assert np.array_equal(to_u8(to_float(every)), every)


def test_holes_are_striped_and_the_rest_is_left_alone():
    image = np.full((10, 12, 3), 200, np.uint8)
    holes = np.zeros((10, 12), np.bool_)
    holes[2:5, 3:9] = True
    for height, factor in [(10, 1), (25, 3)]:
        shown = enlarge(Panel("x", image, holes), height)
        assert shown.shape == (10 * factor, 12 * factor, 3)
        mask = np.kron(holes, np.ones((factor, factor), np.bool_))
        assert (shown[~mask] == 200).all()
        assert np.array_equal(shown[mask], stripes(12 * factor, 10 * factor)[mask])
        assert len(np.unique(shown[mask], axis=0)) == 2


def test_rows_fit_the_video_coder():
    for width, height in [(7, 5), (8, 8)]:
        shown = row([Panel("a", np.zeros((height, width, 3), np.uint8))] * 2, "caption", 20)
        assert shown.shape[0] % 2 == shown.shape[1] % 2 == 0


@pytest.mark.parametrize("size", [15, 16, 17])
def test_a_block_keeps_every_panel_in_its_place_and_fits_the_video_coder(size):
    shades = [[10, 60], [110, 160]]
    panels = [[Panel("t", np.full((size, size, 3), shade, np.uint8)) for shade in line] for line in shades]
    picture = block(panels, "caption", size)
    assert picture.shape[0] % 2 == picture.shape[1] % 2 == 0
    places = {}
    for shade in (10, 60, 110, 160):
        y, x = np.nonzero((picture == shade).all(-1))
        assert len(y) >= size * size, "whole"
        places[shade] = (float(np.median(y)), float(np.median(x)))
    assert places[10][0] == places[60][0] < places[110][0] == places[160][0]
    assert places[10][1] == places[110][1] < places[60][1] == places[160][1]


def test_moments_hold_the_ends_and_no_more_than_asked():
    assert moments(1, 6) == [0]
    assert moments(3, 6) == [0, 1, 2]
    assert moments(100, 5) == [0, 25, 50, 74, 99]


def test_ticks_are_round_and_inside():
    assert nice_step(100) == 20
    assert ticks(0, 1, 5) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    for low, high in [(-3.3, 7.1), (0.001, 0.0042), (1e5, 3e5)]:
        found = ticks(low, high)
        assert 2 <= len(found) <= 7
        assert low <= found[0] <= found[-1] <= high


def test_a_curve_is_drawn_at_its_height():
    def rows_of(value):
        plot = Chart("", [Series("", [value] * 5, BLUE)], 0, 100, "")
        picture = charts([plot], [0, 1, 2, 3, 4], "", "").astype(int)
        return np.nonzero((np.abs(picture - np.array(BLUE)).sum(-1) < 60).any(1))[0].mean()

    low, middle, high = rows_of(10.0), rows_of(50.0), rows_of(90.0)
    assert high < middle < low
    assert low - middle == pytest.approx(middle - high, abs=1.5)


def test_the_map_is_level_and_seen_from_above():
    """World up -y (OpenCV): the map's axes are +x to the right and +z forward, whatever the camera's pitch."""
    eye, up = torch.zeros(1, 3, dtype=torch.float64), torch.tensor([[0.0, -1, 0]], dtype=torch.float64)
    target = torch.tensor([[0.0, 0.4, 1.0]], dtype=torch.float64)
    camera = Cameras.from_fov(look_at(eye, target, up), 64, 48)
    level = Cameras.from_fov(look_at(eye, torch.tensor([[0.0, 0, 1]], dtype=torch.float64), up), 64, 48)
    for cameras in (camera, level):
        ground = Ground.of(cameras)
        assert ground.right == pytest.approx([1, 0, 0], abs=1e-9)
    assert Ground.of(level).flat(np.array([[2.0, 5.0, 3.0]])) == pytest.approx(np.array([[2.0, 3.0]]))
    assert Ground.of(level).height(np.array([[2.0, 5.0, 3.0]])) == pytest.approx([-5.0])


def test_patches_lie_on_the_right_side_and_ceilings_are_left_out():
    viewmats = torch.eye(4, dtype=torch.float64).repeat(2, 1, 1)
    viewmats[1, 2, 3] = -1.0
    cameras = Cameras.from_fov(viewmats, 64, 48)
    red, green = [255, 0, 0], [0, 255, 0]
    xyz = np.array([[2.0, 1.0, 2.0], [-2.0, 1.0, 2.0], [0.0, -1.0, 2.0]])
    points = Points(xyz, np.array([red, green, [255, 0, 255]], np.uint8), np.full(3, 0.2))
    picture = draw_map(cameras, points, "map", "m").astype(int)

    def columns(color):
        return np.nonzero((np.abs(picture - np.array(color)).sum(-1) < 10).any(0))[0]

    assert columns(red).mean() > picture.shape[1] / 2 > columns(green).mean()
    assert len(columns([255, 0, 255])) == 0
    assert time_color(0.0) != time_color(1.0)
