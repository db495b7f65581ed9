"""The backward gather: `grid_sample` where nothing disagrees, nothing at all where everything does."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from mosaicmem.ops import reference
from mosaicmem.ops.warped_latent import W_MIN, cells_to_tokens, gather_cells, repeat_nearest_good

F64 = torch.float64


def problem(seed: int, *, s: int = 2, c: int = 3, h: int = 5, w: int = 7, q: tuple[int, ...] = (11,)):
    gen = torch.Generator().manual_seed(seed)
    latents = torch.randn(s, c, h, w, generator=gen, dtype=F64)
    depth = 1 + 0.3 * torch.rand(s, h, w, generator=gen, dtype=F64)
    valid = torch.rand(s, h, w, generator=gen) < 0.8
    source = torch.randint(-1, s, q, generator=gen)
    cells = torch.rand(*q, 2, generator=gen, dtype=F64) * torch.tensor([w + 2.0, h + 2.0]) - 1.5
    z = 0.9 + 0.5 * torch.rand(q, generator=gen, dtype=F64)
    return latents, depth, valid, source, cells, z


@given(st.integers(0, 10_000), st.sampled_from([(), (4,), (2, 3)]), st.floats(0.01, 0.5), st.booleans())
def test_against_the_twin_with_gradients(seed, q, tau, sloped):
    latents, depth, valid, source, cells, z = problem(seed, q=q)
    slope = torch.randn(2, 5, 7, 2, generator=torch.Generator().manual_seed(seed), dtype=F64) * 0.1 if sloped else None
    latents.requires_grad_()
    fast, weight = gather_cells(latents, depth, valid, source, cells, z, tau, slope=slope)
    slow, slow_weight = reference.gather_cells(
        latents, depth, valid, source.reshape(-1), cells.reshape(-1, 2), z.reshape(-1), tau, slope
    )
    assert fast.shape == (*q, 3)
    assert (weight.reshape(-1) - slow_weight).abs().max() < 1e-12
    assert (fast.reshape(-1, 3) - slow).abs().max() < 1e-12
    cotangent = torch.randn(slow.shape, generator=torch.Generator().manual_seed(1), dtype=F64)
    ours = torch.autograd.grad(fast, latents, cotangent.view(fast.shape))[0]
    twin = torch.autograd.grad((slow * cotangent).sum() + 0 * latents.sum(), latents)[0]
    assert (ours - twin).abs().max() < 1e-12


@pytest.mark.parametrize("dtype, bound", [(F64, 1e-12), (torch.float32, 1e-5)])
def test_without_disagreement_it_is_grid_sample(dtype, bound):
    """At `2 u / W - 1`, zeros outside, including places that lie half or wholly outside."""
    latents, depth, _, _, cells, z = problem(0, s=1, q=(60,))
    latents, cells = latents.to(dtype).requires_grad_(), cells.to(dtype)
    valid = torch.ones_like(depth, dtype=torch.bool)
    values, weight = gather_cells(latents, depth, valid, torch.zeros(60).long(), cells, z.to(dtype), float("inf"))
    normalised = (2 * cells + 1) / torch.tensor([7, 5]) - 1
    stock = F.grid_sample(latents, normalised[None, None], "bilinear", "zeros", align_corners=False)[0, :, 0].T
    assert bool((weight == 0).any() & (weight < 0.99).any())
    assert (values * weight[:, None] - stock).abs().max() < bound
    cotangent = torch.randn(60, 3, generator=torch.Generator().manual_seed(1), dtype=F64).to(dtype)
    ours = torch.autograd.grad(values * weight[:, None], latents, cotangent)[0]
    assert (ours - torch.autograd.grad(stock, latents, cotangent)[0]).abs().max() < bound


@pytest.mark.parametrize("dtype", [F64, torch.float32, torch.bfloat16])
def test_G1_the_same_camera_reads_the_source_itself(dtype):
    latents, depth, valid, *_ = problem(1, s=1)
    cells = torch.stack(torch.meshgrid(torch.arange(7.0), torch.arange(5.0), indexing="xy"), -1).double()
    values, weight = gather_cells(latents.to(dtype), depth, valid, torch.zeros(5, 7).long(), cells, depth[0])
    assert values.dtype == dtype
    assert torch.equal(weight, valid[0].double())
    assert torch.equal(values, torch.where(valid[0, ..., None], latents.to(dtype)[0].permute(1, 2, 0), 0))


def test_G3_a_plane_that_moved_by_two_cells_reads_two_cells_aside():
    latents, _, _, *_ = problem(2, s=1)
    depth, valid = torch.full((1, 5, 7), 4.0).double(), torch.ones(1, 5, 7).bool()
    x, y = torch.meshgrid(torch.arange(7.0), torch.arange(5.0), indexing="xy")
    cells = torch.stack([x + 2, y], -1).double()
    values, weight = gather_cells(
        latents, depth, valid, torch.zeros(5, 7).long(), cells, torch.full((5, 7), 4.0).double()
    )
    assert torch.equal(weight >= W_MIN, (torch.arange(7) < 5).expand(5, 7))
    assert torch.equal(values[:, :5], latents[0].permute(1, 2, 0)[:, 2:])
    assert (values[:, 5:] == 0).all()


def test_content_in_front_is_not_stretched_into_what_it_uncovers():
    """A wall at depth 2 over columns 0-2, background at 8; asked for background at the edge."""
    depth = torch.full((1, 4, 6), 8.0).double()
    depth[..., :3] = 2
    latents = torch.where(depth[:, None] == 2, 1.0, -1.0)
    valid, source = torch.ones_like(depth, dtype=torch.bool), torch.zeros(4).long()
    cells = torch.tensor([[2.8, 1], [2.5, 1], [2.2, 1], [1.5, 1]], dtype=F64)
    z = torch.full((4,), 8.0).double()
    values, weight = gather_cells(latents, depth, valid, source, cells, z)
    assert (weight - torch.tensor([0.8, 0.5, 0.2, 0.0], dtype=F64)).abs().max() < 1e-12
    assert values[:, 0].tolist() == [-1, -1, -1, 0]  # pure background, never a mixture
    blind, _ = gather_cells(latents, depth, valid, source, cells, z, float("inf"))
    assert blind[1, 0] == 0  # the control: half wall, half background
    assert blind[3, 0] == 1


def test_a_steep_surface_needs_its_slope():
    x = torch.arange(6.0).double()
    depth = (1 / (0.5 - 0.08 * x)).expand(1, 4, 6).contiguous()  # a plane at a glancing angle
    slope = torch.zeros(1, 4, 6, 2).double()
    slope[..., 0] = -0.08
    latents = 1 / depth[:, None]
    valid, source = torch.ones_like(depth, dtype=torch.bool), torch.zeros(3).long()
    cells = torch.tensor([[0.5, 1.5], [1.25, 0], [3.5, 2]]).double()
    z = 1 / (0.5 - 0.08 * cells[:, 0])
    _, plain = gather_cells(latents, depth, valid, source, cells, z, 0.02)
    assert (plain == 0).all()
    values, weight = gather_cells(latents, depth, valid, source, cells, z, 0.02, slope=slope)
    assert (weight - 1).abs().max() < 1e-12
    assert (values[:, 0] - 1 / z).abs().max() < 1e-12
    assert (gather_cells(latents, depth, valid, source, cells, z + 1, 0.02, slope=slope)[1] == 0).all()


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_what_does_not_count_is_never_read(poison):
    latents, depth, valid, source, cells, z = problem(3, q=(80,))
    clean, weight = gather_cells(latents, depth, valid, source, cells, z)
    spoilt = torch.where(valid[:, None], latents, poison).requires_grad_()
    values, _ = gather_cells(spoilt, torch.where(valid, depth, poison), valid, source, cells, z)
    assert torch.equal(values, clean)
    assert bool((weight > 0).any() & ((weight > 0) & (weight < 0.9)).any())
    gradient = torch.autograd.grad(values.sum(), spoilt)[0]
    assert bool(gradient.isfinite().all())
    assert (gradient.movedim(1, -1)[~valid] == 0).all()


def test_gradients_flow_to_latents_and_to_nothing_else():
    latents, depth, valid, source, cells, z = problem(4)
    leaves = [x.requires_grad_() for x in (latents, depth, cells, z)]
    values, weight = gather_cells(latents, depth, valid, source, cells, z)
    assert not weight.requires_grad
    gradients = torch.autograd.grad(values.sum(), leaves, allow_unused=True)
    assert gradients[0].abs().max() > 0
    assert gradients[1:] == (None, None, None)
    assert torch.autograd.gradcheck(lambda x: gather_cells(x, depth, valid, source, cells, z)[0], latents)


def test_a_world_7_3_times_as_large_reads_the_same():
    latents, depth, valid, source, cells, z = problem(6, q=(40,))
    values, weight = gather_cells(latents, depth, valid, source, cells, z)
    large, large_weight = gather_cells(latents, 7.3 * depth, valid, source, cells, 7.3 * z)
    assert torch.equal(values, large)
    assert torch.equal(weight, large_weight)
    assert bool((weight == 0).any() & (weight > 0).any())


def test_nonsense_queries_read_nothing():
    latents, depth, valid, *_ = problem(5)
    source = torch.tensor([-1, 0, 0, 1])
    cells = torch.tensor([[1.0, 1], [torch.nan, 1], [1e30, 1], [1, 1]]).double()
    z = torch.tensor([1.0, 1, 1, -1]).double()
    values, weight = gather_cells(latents, depth, torch.ones_like(valid), source, cells, z)
    assert (weight == 0).all()
    assert (values == 0).all()


@given(st.integers(0, 10_000), st.sampled_from([1, 2, 3]))
def test_unserved_cells_repeat_the_nearest_good_one_of_their_token(seed, patch):
    gen = torch.Generator().manual_seed(seed)
    values = torch.randn(2, 2 * patch, 3 * patch, 4, generator=gen, dtype=F64)
    good = torch.rand(2, 2 * patch, 3 * patch, generator=gen) < 0.4
    filled = repeat_nearest_good(values, good, patch)
    assert torch.equal(filled, reference.repeat_nearest_good(values, good, patch))
    assert torch.equal(filled[good], values[good])


def test_blocks_are_cut_as_a_patch_embedding_reads_them():
    cells = torch.randn(2, 4, 6, 3, generator=torch.Generator().manual_seed(0), dtype=F64)
    weight = torch.randn(5, 3, 2, 2, generator=torch.Generator().manual_seed(1), dtype=F64)
    stock = F.conv2d(cells.permute(0, 3, 1, 2), weight, stride=2)
    ours = cells_to_tokens(cells, 2).flatten(3) @ weight.flatten(1).T
    assert (ours.permute(0, 3, 1, 2) - stock).abs().max() < 1e-12
