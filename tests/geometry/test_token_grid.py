"""`TokenGrid`: frames, latents, tokens and pixels."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.helpers import circle32

from mosaicmem.errors import ConfigError
from mosaicmem.geometry.cameras import Cameras
from mosaicmem.geometry.token_grid import TokenGrid

WAN = TokenGrid(832, 480, stride=16, patch=2, temporal=4)


def test_w2_a_window_of_81_frames_is_21_latents() -> None:
    frames = WAN.frames_of_latents(81)
    assert WAN.num_latents(81) == 21 and WAN.num_frames(21) == 81
    assert frames[0].tolist() == [0, 0, 0, 0]
    for l in range(1, 21):
        assert frames[l].tolist() == [4 * l - 3, 4 * l - 2, 4 * l - 1, 4 * l]


def test_w2_cameras_of_latents() -> None:
    viewmats = torch.eye(4).repeat(81, 1, 1)
    viewmats[:, 0, 3] = torch.arange(81)
    cameras = Cameras.from_fov(viewmats, 832, 480)
    assert WAN.reference_cameras(cameras).viewmats[:, 0, 3].tolist() == list(range(0, 81, 4))
    subframes, Ks = WAN.subframe_viewmats(cameras)
    assert subframes.shape == (21, 4, 4, 4) and Ks.shape == (21, 4, 3, 3)
    assert subframes[7, :, 0, 3].tolist() == [25, 26, 27, 28]


@given(st.integers(1, 200), st.integers(1, 8))
def test_every_frame_is_behind_exactly_one_latent(num_frames: int, temporal: int) -> None:
    grid = TokenGrid(16, 16, temporal=temporal)
    frames = grid.frames_of_latents(num_frames)
    assert len(frames) == grid.num_latents(num_frames)
    assert sorted({f for row in frames.tolist() for f in set(row)}) == list(range(num_frames))
    owners = [f for row in frames.tolist() for f in sorted(set(row))]
    assert owners == sorted(set(owners))
    if (num_frames - 1) % temporal == 0:
        assert grid.num_frames(len(frames)) == num_frames


def test_a_partial_group_repeats_its_last_frame() -> None:
    assert WAN.frames_of_latents(7)[-1].tolist() == [5, 6, 6, 6]
    assert len(WAN.reference_cameras(circle32()[:7])) == 3


def test_g10_sizes_of_a_256_square() -> None:
    grid = TokenGrid(256, 256, stride=8, patch=2)
    assert grid.cells == (32, 32) and grid.tokens == (16, 16) and grid.tokens_per_latent == 256
    assert grid.num_latents(16) == 1 + -(-15 // 4)
    assert WAN.tokens == (15, 26) and WAN.tokens_per_latent == 390


def test_coordinates_are_integers_exactly_at_centres() -> None:
    h, w = WAN.cells
    xy = WAN.pixels_to_cells(WAN.cell_centers())
    assert xy.shape == (h, w, 2)
    assert torch.equal(xy[..., 0], torch.arange(w).float().expand(h, w))
    assert torch.equal(xy[..., 1], torch.arange(h).float()[:, None].expand(h, w))
    token_xy = WAN.pixels_to_tokens(WAN.token_centers())
    assert token_xy[3, 5].tolist() == [5, 3]


def test_g22_token_positions_are_fractional() -> None:
    grid = TokenGrid(64, 64, stride=4, patch=2)
    moved = grid.pixels_to_tokens(grid.token_centers() + torch.tensor([5.0, 0]))
    torch.testing.assert_close(moved[0, 0], torch.tensor([0.625, 0]))


def test_a_token_is_the_mean_of_its_cells() -> None:
    cells = WAN.cell_centers().reshape(15, 2, 26, 2, 2)
    torch.testing.assert_close(cells.mean((1, 3)), WAN.token_centers())


@pytest.mark.parametrize(
    ("size", "nearest"), [((1280, 720), "1280x704"), ((830, 470), "832x480"), ((5, 64), "32x64"), ((64, 0), "64x32")]
)
def test_errors_name_the_nearest_size(size: tuple[int, int], nearest: str) -> None:
    with pytest.raises(ConfigError) as caught:
        TokenGrid(*size, stride=16, patch=2)
    assert str(caught.value) == (
        f"image size {size[0]}x{size[1]} is not a multiple of the token size 32 px "
        f"(VAE stride 16 x patch 2); the nearest that is: {nearest}"
    )
    TokenGrid(*(int(x) for x in nearest.split("x")), stride=16, patch=2)


def test_other_impossible_grids_and_windows() -> None:
    with pytest.raises(ConfigError, match="strides must be at least 1"):
        TokenGrid(64, 64, stride=0)
    with pytest.raises(ConfigError, match="at least one frame, got 0"):
        WAN.num_latents(0)
    with pytest.raises(ConfigError, match="at least one latent, got 0"):
        WAN.num_frames(0)
