"""The kernel between cells: its twin, what it must give for a linear autoencoder, and what it is for on pictures."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from mosaicmem.errors import GeometryError
from mosaicmem.models.checkpoint import load_vae
from mosaicmem.models.presets import shipped
from mosaicmem.ops import reference
from mosaicmem.ops.latent_kernel import fit_kernel, read_between
from mosaicmem.ops.warped_latent import gather_cells
from mosaicmem.worlds.episodes import make_episode

F64 = torch.float64
STRIDE = 4


def problem(seed: int, *, s: int = 2, c: int = 3, h: int = 4, w: int = 6, q: tuple[int, ...] = (11,), steps: int = 3):
    """Latents, what is valid, and queries in, between, at the edge of and outside cells; some at whole pixels."""
    gen = torch.Generator().manual_seed(seed)
    latents = torch.randn(s, c, h, w, generator=gen, dtype=F64)
    valid = torch.rand(s, h, w, generator=gen) < 0.9
    source = torch.randint(-1, s, q, generator=gen)
    cells = torch.rand(*q, 2, generator=gen, dtype=F64) * torch.tensor([w + 1.0, h + 1.0]) - 1
    whole = torch.rand(*q, 2, generator=gen)
    cells = torch.where(whole < 0.2, cells.round(), cells)
    cells = torch.where((whole > 0.2) & (whole < 0.4), (cells * steps).round() / steps, cells)
    kernel = torch.randn(steps + 1, steps + 1, 4 * c, c, generator=gen, dtype=F64)
    return latents, valid, source, cells, kernel


@given(st.integers(0, 10_000), st.sampled_from([(), (5,), (2, 3), (0,)]), st.integers(1, 4))
def test_against_the_twin_with_gradients(seed, q, steps):
    latents, valid, source, cells, kernel = problem(seed, q=q, steps=steps)
    latents.requires_grad_()
    fast, known = read_between(latents, valid, source, cells, kernel)
    assert fast.shape == (*q, 3) and known.shape == q
    if q == (0,):
        return
    slow, slow_known = reference.read_between(latents, valid, source.reshape(-1), cells.reshape(-1, 2), kernel)
    assert torch.equal(known.reshape(-1), slow_known)
    assert (fast.reshape(-1, 3) - slow).abs().max() < 1e-12
    cotangent = torch.randn(slow.shape, generator=torch.Generator().manual_seed(1), dtype=F64)
    ours = torch.autograd.grad((fast.reshape(-1, 3) * cotangent).sum() + 0 * latents.sum(), latents)[0]
    twin = torch.autograd.grad((slow * cotangent).sum() + 0 * latents.sum(), latents)[0]
    assert (ours - twin).abs().max() < 1e-12


def test_many_queries_are_some_known_and_some_not():
    """Control of the above: its cases do occur, and a wrong kernel or place is seen."""
    latents, valid, source, cells, kernel = problem(0, q=(300,))
    values, known = read_between(latents, valid, source, cells, kernel)
    slow, _ = reference.read_between(latents, valid, source, cells, kernel)
    assert 0.1 < float(known.double().mean()) < 0.7
    assert bool((values[~known] == 0).all()) and bool((values[known] != 0).any(-1).all())
    for other in (
        read_between(latents, valid, source, cells, kernel.flip(0))[0],
        read_between(latents, valid, source, cells, kernel.transpose(0, 1))[0],
        read_between(latents, valid, source, cells + 1e-3, kernel)[0],
    ):
        assert float((other - slow).abs().max()) > 1e-3


def test_the_last_centres_are_read_and_nothing_beyond():
    latents, _, _, _, kernel = problem(1, s=1)
    valid = torch.ones(1, 4, 6, dtype=torch.bool)
    nan, far = float("nan"), 1e30
    places = [(5, 3), (5, 0.5), (0, 3), (0, 0), (5.01, 3), (5, 3.01), (-0.01, 1), (1, -0.01), (nan, 1), (1, nan),
              (far, 1), (-far, 1), (1, float("inf"))]  # fmt: skip
    cells = torch.tensor(places, dtype=F64)
    values, known = read_between(latents, valid, torch.zeros(len(cells)).long(), cells, kernel)
    assert known.tolist() == [True] * 4 + [False] * 9
    assert bool(values.isfinite().all()) and not values[4:].any()
    corner = latents[0, :, 2:, 4:].permute(1, 2, 0).flatten()  # four cells row by row
    torch.testing.assert_close(values[0], corner @ kernel[-1, -1])
    torch.testing.assert_close(values[3], latents[0, :, :2, :2].permute(1, 2, 0).flatten() @ kernel[0, 0])
    for column in range(6):  # every one of the four cells counts, and source -1 never
        valid[0, 2:, column] = False
    assert read_between(latents, valid, torch.zeros(13).long(), cells, kernel)[1].tolist() == (
        [False, True, False, True] + [False] * 9
    )
    assert not read_between(latents, valid, torch.full((13,), -1), cells, kernel)[1].any()


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_what_is_not_valid_is_never_read(poison):
    latents, valid, source, cells, kernel = problem(3, q=(200,))
    clean, known = read_between(latents, valid, source, cells, kernel)
    spoilt = torch.where(valid[:, None], latents, poison).requires_grad_()
    values, again = read_between(spoilt, valid, source, cells, kernel)
    assert torch.equal(values, clean) and torch.equal(known, again) and bool(known.any())
    gradient = torch.autograd.grad(values.sum(), spoilt)[0]
    assert bool(gradient.isfinite().all()) and not gradient.movedim(1, -1)[~valid].any()
    seen = torch.where(valid[:, None], poison, latents)
    assert not read_between(seen, valid, source, cells, kernel)[0].isfinite().all(), "control: what is valid is read"


def test_gradients_flow_to_latents_alone_and_half_precision_stays():
    latents, valid, source, cells, kernel = problem(4, q=(20,))
    leaves = [latents.requires_grad_(), cells.requires_grad_()]
    values, _ = read_between(latents, valid, source, cells, kernel)
    gradients = torch.autograd.grad(values.sum(), leaves, allow_unused=True)
    assert gradients[0].abs().max() > 0 and gradients[1] is None
    half = read_between(latents.detach().bfloat16(), valid, source, cells.detach(), kernel)[0]
    assert half.dtype == torch.bfloat16 and (half.double() - values).abs().max() < 0.1 * values.abs().max()


# A linear autoencoder: cells are pixels, so what lies between them is known.


def encode(frames: torch.Tensor) -> torch.Tensor:
    """Blocks of 4x4 pixels through an invertible matrix: 48 channels that mix every pixel of a cell."""
    gen = torch.Generator().manual_seed(7)
    mix = torch.linalg.qr(torch.randn(48, 48, generator=gen))[0]
    return torch.einsum("ab,nbhw->nahw", mix, F.pixel_unshuffle(frames, STRIDE))


def noise_pictures(n: int = 12, side: int = 48) -> torch.Tensor:
    return torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def kernel() -> torch.Tensor:
    return fit_kernel(encode, noise_pictures(), STRIDE, ridge=1e-6)


def shifted(picture: torch.Tensor, y: int, x: int, cells: tuple[int, int]) -> torch.Tensor:
    return encode(picture[..., y : y + STRIDE * cells[0], x : x + STRIDE * cells[1]])


@pytest.mark.parametrize(("y", "x"), [(0, 0), (1, 0), (0, 3), (2, 2), (3, 1), (4, 0), (0, 4), (4, 4)])
def test_at_whole_pixels_a_linear_autoencoder_is_read_exactly(kernel, y, x):
    """Of a picture that was not fitted, every inner cell; at 0 the cell itself, at 4 pixels its neighbour."""
    picture = torch.randn(2, 3, 32, 40, generator=torch.Generator().manual_seed(9))
    latents = encode(picture)
    rows, columns = torch.meshgrid(torch.arange(7), torch.arange(9), indexing="ij")
    cells = torch.stack([columns + x / STRIDE, rows + y / STRIDE], -1).expand(2, 7, 9, 2)
    source = torch.arange(2)[:, None, None].expand(2, 7, 9)
    values, known = read_between(latents, torch.ones(2, 8, 10, dtype=torch.bool), source, cells, kernel)
    expected = shifted(picture, y, x, (7, 9))
    assert bool(known.all())
    assert (values.permute(0, 3, 1, 2) - expected).abs().max() < 1e-3
    if (y, x) in ((0, 0), (4, 4)):
        neighbour = latents[:, :, y // 4 : 7 + y // 4, x // 4 : 9 + x // 4]
        assert (values.permute(0, 3, 1, 2) - neighbour).abs().max() < 1e-3
    elif y % 4 or x % 4:
        bilinear, _ = gather_cells(
            latents, torch.ones(2, 8, 10), torch.ones(2, 8, 10, dtype=torch.bool), source, cells, torch.ones(2, 7, 9)
        )
        assert float((bilinear.permute(0, 3, 1, 2) - expected).square().mean()) > 0.1, "control: bilinear does not"


def test_between_whole_pixels_kernels_are_mixed(kernel):
    picture = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(9))
    latents, valid = encode(picture), torch.ones(1, 8, 8, dtype=torch.bool)
    read = lambda y, x: read_between(  # noqa: E731
        latents, valid, torch.zeros(1).long(), torch.tensor([[2 + x / 4, 3 + y / 4]]), kernel
    )[0][0]
    mixed = 0.75 * (0.5 * read(1, 2) + 0.5 * read(1, 3)) + 0.25 * (0.5 * read(2, 2) + 0.5 * read(2, 3))
    torch.testing.assert_close(read(1.25, 2.5), mixed, rtol=0, atol=1e-5)
    # a linear picture is read exactly there too: half a pixel on is the mean of two pixels
    ramp = torch.arange(32.0).expand(1, 3, 32, 32) / 16 - 1
    sloped = read_between(encode(ramp), valid, torch.zeros(1).long(), torch.tensor([[2 + 1.5 / 4, 3.0]]), kernel)[0][0]
    expected = (shifted(ramp, 0, 1, (7, 7)) + shifted(ramp, 0, 2, (7, 7)))[0, :, 3, 2] / 2
    assert (sloped - expected).abs().max() < 1e-3


def test_a_smooth_picture_and_another_ridge_are_no_trouble():
    """Pictures that leave most of the 48 channels silent: the ridge decides there, and content is still read."""
    coarse = torch.randn(20, 3, 5, 5, generator=torch.Generator().manual_seed(3))
    frames = F.interpolate(coarse, (48, 48), mode="bicubic", align_corners=True)
    kernel = fit_kernel(encode, frames[:16], STRIDE)
    latents, valid = encode(frames[16:]), torch.ones(4, 12, 12, dtype=torch.bool)
    rows, columns = torch.meshgrid(torch.arange(1, 10), torch.arange(1, 10), indexing="ij")
    cells = torch.stack([columns + 0.5, rows + 0.25], -1).expand(4, 9, 9, 2)
    source = torch.arange(4)[:, None, None].expand(4, 9, 9)
    values, _ = read_between(latents, valid, source, cells, kernel)
    expected = shifted(frames[16:], 1, 2, (11, 11))[..., 1:10, 1:10].permute(0, 2, 3, 1)
    assert float((values - expected).square().mean().sqrt()) < 0.01 * float(expected.square().mean().sqrt())


def test_frames_that_are_too_small_are_refused():
    for size in ((16, 48), (48, 16), (46, 48), (48, 46)):
        with pytest.raises(
            GeometryError, match=f"frames of {size[1]}x{size[0]} pixels; expected multiples of 4 from 20"
        ):
            fit_kernel(encode, torch.zeros(2, 3, *size), STRIDE)
    assert fit_kernel(encode, noise_pictures(30, 20), STRIDE).shape == (5, 5, 192, 48)


def test_on_held_out_worlds_the_shipped_kernel_reads_half_a_cell_off_far_better_than_bilinear():
    """What it is for: latent error of the picture shifted by 4 pixels of 8, in dB below bilinear's."""
    vae = load_vae(shipped("vae"))
    kernel = vae.kernel
    assert kernel is not None
    frames = make_episode(900_010, size=128).film(slice(0, 1)).rgb
    latents = vae.encode_image(frames[..., :120, :120])
    valid, ones = torch.ones(1, 15, 15, dtype=torch.bool), torch.ones(1, 15, 15)
    rows, columns = torch.meshgrid(torch.arange(1.0, 13), torch.arange(1.0, 13), indexing="ij")
    source = torch.zeros(12, 12).long()
    for y, x in ((4, 4), (0, 4), (4, 0)):
        cells = torch.stack([columns + x / 8, rows + y / 8], -1)
        wanted = vae.encode_image(frames[..., y : y + 120, x : x + 120])[0, :, 1:13, 1:13].permute(1, 2, 0)
        sharp, known = read_between(latents, valid, source, cells, kernel)
        plain, _ = gather_cells(latents, ones, valid, source, cells, torch.ones(12, 12))
        assert bool(known.all())
        gain = 10 * ((plain - wanted).square().mean() / (sharp - wanted).square().mean()).log10()
        assert float(gain) > 5, (y, x, float(gain))
