"""The pyramid fill keeps what is known and is smooth elsewhere; the compositor shows memory and nothing else."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mosaicmem.geometry.cameras import Cameras
from mosaicmem.geometry.token_grid import TokenGrid
from mosaicmem.models.conditioning import MemoryTokens
from mosaicmem.models.generator import WindowRequest
from mosaicmem.models.synthetic import Compositor, push_pull

_SIZES = st.tuples(st.integers(1, 13), st.integers(1, 13))


@given(_SIZES, st.floats(0, 1), st.integers(0, 99))
def test_known_cells_keep_their_bits_and_the_fill_stays_in_their_range(size, share, seed):
    rng = torch.Generator().manual_seed(seed)
    values = torch.randn(2, 3, *size, generator=rng)
    known = torch.rand(2, *size, generator=rng) < share
    filled = push_pull(torch.where(known[:, None], values, torch.nan), known)  # what is unknown is never read
    assert filled.isfinite().all()
    for i in range(2):
        assert torch.equal(filled[i][:, known[i]], values[i][:, known[i]])
        if known[i].any():
            low, high = values[i][:, known[i]].amin(1), values[i][:, known[i]].amax(1)
            assert (filled[i] >= low[:, None, None] - 1e-5).all()
            assert (filled[i] <= high[:, None, None] + 1e-5).all()
        else:
            assert not filled[i].any()


@given(_SIZES, st.integers(0, 99))
def test_a_constant_is_filled_by_itself(size, seed):
    rng = torch.Generator().manual_seed(seed)
    known = torch.rand(1, *size, generator=rng) < 0.2
    known[0, 0, 0] = True
    torch.testing.assert_close(push_pull(torch.full((1, 2, *size), 0.7), known), torch.full((1, 2, *size), 0.7))


def test_the_fill_of_a_ramp_has_no_seam():
    """Across the border of a hole the filled picture steps by little more than the picture itself does."""
    ramp = torch.linspace(0, 1, 64)[None, None, None].expand(1, 1, 64, 64)
    known = torch.ones(1, 64, 64, dtype=torch.bool)
    known[:, 20:44, 20:44] = False
    filled = push_pull(ramp, known)
    steps = torch.cat([filled.diff(dim=2).flatten(), filled.diff(dim=3).flatten()]).abs()
    assert float(steps.max()) < 2 / 63  # a hole filled with one colour would step by 12 / 63
    assert float((filled - ramp).abs().max()) < 0.1


def test_a_few_scattered_cells_give_the_picture_back(rng):
    ramp = torch.linspace(0, 1, 64)[None, None, None].expand(1, 1, 64, 64)
    filled = push_pull(ramp, torch.rand(1, 64, 64, generator=rng) < 0.05)
    assert float((filled - ramp).abs().mean()) < 0.03


def _request(known: torch.Tensor, rng: torch.Generator) -> WindowRequest:
    l, h, w = known.shape
    empty = torch.zeros(0, dtype=torch.int64)
    tokens = MemoryTokens(
        torch.zeros(0, 12), torch.zeros(0, 3), empty, empty.reshape(0, 1).expand(0, 2), empty, empty.bool()
    )
    return WindowRequest(
        anchor=torch.randn(3, h, w, generator=rng),
        canvas=torch.randn(l, 3, h, w, generator=rng) * known[:, None],
        good=known,
        tokens=tokens,
        cameras=Cameras.from_fov(torch.eye(4)[None], w, h),
        noise=torch.randn(l, 3, h, w, generator=rng),
        grid=TokenGrid(w, h, 1, 2, 1),
    )


def test_the_compositor_shows_memory_fills_holes_and_holds_the_last_frame_where_it_knows_nothing(rng):
    known = torch.rand(3, 8, 12, generator=rng) < 0.5
    known[0], known[1] = True, False
    request = _request(known, rng)
    out = Compositor().generate(request)
    assert torch.equal(out[0], request.canvas[0])
    assert torch.equal(out[1], request.anchor)
    assert torch.equal(out[2][:, known[2]], request.canvas[2][:, known[2]])
    assert not torch.equal(out[2], request.canvas[2])


@pytest.mark.parametrize("use_memory", [True, False])
def test_the_compositor_uses_no_noise(rng, use_memory):
    request = _request(torch.rand(2, 8, 12, generator=rng) < 0.5, rng)
    first = Compositor(use_memory).generate(request)
    object.__setattr__(request, "noise", request.noise + 1)
    assert torch.equal(first, Compositor(use_memory).generate(request))
